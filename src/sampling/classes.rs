//! What the values of a class raster mean: built-in tables, or a TOML or CSV file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

/// Koeppen-Geiger classes as Beck et al. (2018) number them.
const KOEPPEN: [&str; 30] = [
    "Af", "Am", "Aw", "BWh", "BWk", "BSh", "BSk", "Csa", "Csb", "Csc", "Cwa", "Cwb", "Cwc", "Cfa", "Cfb", "Cfc", "Dsa",
    "Dsb", "Dsc", "Dsd", "Dwa", "Dwb", "Dwc", "Dwd", "Dfa", "Dfb", "Dfc", "Dfd", "ET", "EF",
];

/// ESA WorldCover (Zanaga et al. 2021).
const WORLDCOVER: [(i32, &str); 11] = [
    (10, "tree cover"),
    (20, "shrubland"),
    (30, "grassland"),
    (40, "cropland"),
    (50, "built-up"),
    (60, "bare"),
    (70, "snow and ice"),
    (80, "water"),
    (90, "wetland"),
    (95, "mangroves"),
    (100, "moss and lichen"),
];

/// Names of class values, and the values that stand for no data.
#[derive(Clone, Debug)]
pub struct ClassTable {
    /// Where it comes from, for messages.
    pub source: String,
    /// None: every value is a class, named by its number.
    names: Option<BTreeMap<i32, Arc<str>>>,
    nodata: BTreeSet<i32>,
}

impl ClassTable {
    /// `koeppen`, `worldcover`, `any`, or the path of a `.toml` or `.csv` file.
    pub fn load(spec: &str) -> Result<ClassTable> {
        let built_in = |names: BTreeMap<i32, Arc<str>>| ClassTable {
            source: spec.to_string(),
            names: Some(names),
            nodata: BTreeSet::from([0]),
        };
        match spec {
            "koeppen" | "koppen" => Ok(built_in((1..).zip(KOEPPEN.map(Arc::from)).collect())),
            "worldcover" => Ok(built_in(WORLDCOVER.into_iter().map(|(id, name)| (id, name.into())).collect())),
            "any" => Ok(ClassTable { source: spec.to_string(), names: None, nodata: BTreeSet::new() }),
            path => ClassTable::read(Path::new(path)),
        }
    }

    fn read(path: &Path) -> Result<ClassTable> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "class table `{shown}`: expected koeppen, worldcover, any, or a .toml or .csv file that can be read"
            )
        })?;
        let (names, nodata) = match super::table::extension(path).as_str() {
            "toml" => from_toml(&text).with_context(|| shown.to_string())?,
            "csv" => (from_csv(&text).with_context(|| shown.to_string())?, BTreeSet::new()),
            other => bail!("{shown}: class tables are .toml or .csv, not `{other}`"),
        };
        ensure!(!names.is_empty(), "{shown}: no classes in it");
        Ok(ClassTable { source: shown.to_string(), names: Some(names), nodata })
    }

    /// Whether a value stands for no data.
    pub fn is_nodata(&self, value: i32) -> bool {
        self.nodata.contains(&value)
    }

    /// Whether a value is a class.
    pub fn has(&self, value: i32) -> bool {
        self.names.as_ref().is_none_or(|n| n.contains_key(&value))
    }

    /// The name of a class; its number where it has none.
    pub fn name(&self, value: i32) -> Arc<str> {
        let known = self.names.as_ref().and_then(|n| n.get(&value).cloned());
        known.unwrap_or_else(|| value.to_string().into())
    }

    /// The values, for messages.
    pub fn values(&self) -> String {
        let names = self.names.iter().flat_map(BTreeMap::keys);
        names.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

type Names = BTreeMap<i32, Arc<str>>;

/// `nodata = [0]` and `[classes]` with lines `1 = "Af"`.
fn from_toml(text: &str) -> Result<(Names, BTreeSet<i32>)> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        nodata: BTreeSet<i32>,
        classes: BTreeMap<String, String>,
    }
    let file: File =
        toml::from_str(text).context("expected `nodata = [...]` and a table [classes] of lines `1 = \"name\"`")?;
    let id = |key: &str| key.parse::<i32>().with_context(|| format!("[classes], key `{key}`: expected a whole number"));
    let names = file.classes.iter().map(|(k, v)| Ok((id(k)?, v.as_str().into()))).collect::<Result<_>>()?;
    Ok((names, file.nodata))
}

/// Lines `value,name`, with or without a header.
fn from_csv(text: &str) -> Result<Names> {
    let mut names = Names::new();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    for (row, record) in reader.records().enumerate() {
        let record = record?;
        let (id, name) = (record.get(0).unwrap_or_default().trim(), record.get(1).unwrap_or_default().trim());
        match id.parse() {
            Ok(id) => {
                ensure!(names.insert(id, name.into()).is_none(), "row {row}: class {id} stands there twice");
            }
            Err(_) if row == 0 => {}
            Err(_) => bail!("row {row}, column `value`: `{id}`: expected a whole number"),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_tables() {
        let koeppen = ClassTable::load("koeppen").unwrap();
        assert_eq!((&*koeppen.name(1), &*koeppen.name(30), &*koeppen.name(8)), ("Af", "EF", "Csa"));
        assert!(koeppen.is_nodata(0) && !koeppen.has(31) && !koeppen.has(0));
        let cover = ClassTable::load("worldcover").unwrap();
        assert!(cover.has(95) && !cover.has(96));
        let any = ClassTable::load("any").unwrap();
        assert!(any.has(-5) && &*any.name(-5) == "-5" && !any.is_nodata(0));
    }

    #[test]
    fn files() {
        let folder = tempfile::tempdir().unwrap();
        let load = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            ClassTable::load(path.to_str().unwrap())
        };
        let toml = load("a.toml", "nodata = [255]\n[classes]\n1 = \"wood\"\n2 = \"field\"\n").unwrap();
        assert!(toml.is_nodata(255) && &*toml.name(2) == "field");
        let csv = load("a.csv", "value,name\n7,\"sand, dry\"\n8,rock\n").unwrap();
        assert_eq!(&*csv.name(7), "sand, dry");
        for (name, text, why) in [
            ("b.toml", "[classes]\nx = \"a\"\n", "`x`"),
            ("c.toml", "[clases]\n1 = \"a\"\n", "clases"),
            ("b.csv", "1,a\nx,b\n", "row 1"),
            ("c.csv", "1,a\n1,b\n", "twice"),
            ("d.csv", "value,name\n", "no classes"),
            ("a.txt", "", "`txt`"),
        ] {
            let message = format!("{:#}", load(name, text).unwrap_err());
            assert!(message.contains(why) && message.contains(name), "{message}");
        }
        assert!(format!("{:#}", ClassTable::load("nowhere").unwrap_err()).contains("koeppen"));
    }
}
