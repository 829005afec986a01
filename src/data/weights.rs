//! How often each pair is drawn beside the others, from a table of the user's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::table::Table;
use super::{Error, PairSource};

/// A CSV or Parquet table with a column `weight` and one that says whose it is: `id` (a patch) or `grid_cell` or `scene` (all
/// patches cut from it that have no row of their own), or `label` (each pair of a class, by name or number).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    pub file: PathBuf,
    /// Of the pairs' weights when the run began: a resumed one must find the same.
    #[serde(default)]
    pub crc32c: Option<u32>,
}

impl Weights {
    /// A weight for each pair of `source`.
    ///
    /// # Errors
    /// A weight that is none, a name twice or unknown, a pair without weight: names file and row. Other weights than when
    /// the run began.
    pub fn read(&self, source: &dyn PairSource) -> Result<Arc<[f64]>> {
        let rows = Rows::read(&self.file)?;
        let weights = if rows.by_label { rows.of_classes(source) } else { rows.of_pairs(source) }?;
        if self.crc32c.is_some_and(|known| known != checksum(&weights)) {
            bail!(
                "{}: not the weights the run began with; bring those back, or start another run",
                self.file.display()
            );
        }
        Ok(weights.into())
    }

    /// The same with the checksum of what the table says now.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn sealed(self, source: &dyn PairSource) -> Result<Self> {
        let crc32c = Some(checksum(&self.read(source)?));
        Ok(Weights { crc32c, ..self })
    }
}

fn checksum(weights: &[f64]) -> u32 {
    weights.iter().fold(0, |crc, w| crc32c::crc32c_append(crc, &w.to_le_bytes()))
}

/// What the table says, by name.
struct Rows<'a> {
    path: &'a Path,
    table: Table,
    key: &'static str,
    by_label: bool,
    /// Row and weight.
    of: HashMap<String, (usize, f64)>,
}

impl<'a> Rows<'a> {
    fn read(path: &'a Path) -> Result<Self> {
        let table = Table::open(path)?;
        let found = ["id", "grid_cell", "scene", "label"].into_iter().find(|name| table.find(name).is_some());
        let Some(key) = found else {
            let names = table.fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
            bail!("{}: no column `id`, `grid_cell`, `scene` or `label`: it has {names}", path.display());
        };
        let columns = [table.require(key)?, table.require("weight")?];
        let mut of = HashMap::new();
        table.read(&columns, &mut |batch| {
            for row in 0..batch.rows {
                let (name, number) = (batch.columns[0].text(row), batch.first_row + row);
                let weight = batch.columns[1].number(row).filter(|w| *w >= 0.0 && w.is_finite());
                let Some(weight) = weight else {
                    let problem = format!("{:?} is not a weight", batch.columns[1].text(row));
                    let remedy = "give a number of 0 or more; 0 leaves it out";
                    return Err(Error::new(table.place(number, "weight"), problem, remedy).into());
                };
                if let Some((first, _)) = of.insert(name.clone(), (number, weight)) {
                    let problem = format!("{name:?} has a weight in row {first} already");
                    return Err(Error::new(table.place(number, key), problem, "keep one of them").into());
                }
            }
            Ok(())
        })?;
        ensure!(!of.is_empty(), "{}: no rows: give every pair a weight", path.display());
        Ok(Self { path, key, by_label: key == "label", table, of })
    }

    /// A pair's own row, else its scene's.
    fn of_pairs(&self, source: &dyn PairSource) -> Result<Vec<f64>> {
        let mut used = vec![];
        let mut weights = Vec::with_capacity(source.len());
        for index in 0..source.len() {
            let id = source.id(index)?;
            let found = self.of.get(&id).or_else(|| self.of.get(scene(&id)?));
            let Some((row, weight)) = found else {
                let problem = format!("no weight for {id:?} of {}", source.describe().name);
                return Err(Error::new(self.path.display(), problem, "add a row; 0 leaves it out").into());
            };
            used.push(*row);
            weights.push(*weight);
        }
        self.all_used(used, &format!("no patch or scene of {}", source.describe().name))?;
        Ok(weights)
    }

    fn of_classes(&self, source: &dyn PairSource) -> Result<Vec<f64>> {
        let (classes, archive) = (&source.describe().classes, &source.describe().name);
        let mut used = vec![];
        let mut of_class = vec![None; classes.len()];
        for (label, (row, weight)) in &self.of {
            let number = label.parse().ok().filter(|n| *n < classes.len());
            let Some(class) = classes.iter().position(|c| c == label).or(number) else { continue };
            used.push(*row);
            if of_class[class].replace(*weight).is_some() {
                let problem = format!("{label:?} has a weight in another row already");
                return Err(Error::new(self.table.place(*row, self.key), problem, "keep one of them").into());
            }
        }
        self.all_used(used, &format!("no class of {archive}, which has {}", classes.join(", ")))?;
        let one = |index: usize| {
            let label = source.label(index).map(|l| l as usize);
            let weight = label.and_then(|l| *of_class.get(l)?);
            weight.ok_or_else(|| {
                let problem = match label.and_then(|l| classes.get(l)) {
                    Some(class) => format!("no weight for {class:?}, a class of {archive}"),
                    None => format!("pair {index} of {archive} is not of one class"),
                };
                let remedy = "add a row; or weigh by id";
                Error::new(self.path.display(), problem, remedy).into()
            })
        };
        (0..source.len()).map(one).collect()
    }

    /// Error at the first row that names nothing.
    fn all_used(&self, mut used: Vec<usize>, what: &str) -> Result<()> {
        used.sort_unstable();
        let unknown = self.of.iter().filter(|(_, (row, _))| used.binary_search(row).is_err());
        match unknown.min_by_key(|(_, (row, _))| row) {
            Some((name, (row, _))) => {
                let remedy = "correct it or drop the row";
                Err(Error::new(self.table.place(*row, self.key), format!("{name:?} is {what}"), remedy).into())
            }
            None => Ok(()),
        }
    }
}

/// The scene in a patch's id: what stands before its row and column there.
fn scene(id: &str) -> Option<&str> {
    let mut parts = id.rsplitn(3, '_');
    let (col, row, scene) = (parts.next()?, parts.next()?, parts.next()?);
    [row, col].iter().all(|n| n.parse::<u32>().is_ok()).then_some(scene)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Pair, Report, Result, synth::Synth};

    /// Two scenes of three patches, of three classes.
    struct Archive(Synth, Report);
    impl Archive {
        fn new() -> Self {
            let synth = Synth::new(6, 1, 8);
            let classes = ["water", "forest", "2"].map(String::from).into();
            let report = Report { classes, ..synth.describe().clone() };
            Archive(synth, report)
        }
    }
    impl PairSource for Archive {
        fn len(&self) -> usize {
            6
        }
        fn tile_px(&self) -> usize {
            8
        }
        fn describe(&self) -> &Report {
            &self.1
        }
        fn pair(&self, index: usize) -> Result<Pair> {
            let (id, label) = (format!("{}U_7R_{}_1", index / 3, index % 3), Some(index as u32 % 3));
            Ok(Pair { id, label, ..self.0.pair(index)? })
        }
    }

    fn read(text: &str) -> anyhow::Result<Vec<f64>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.csv");
        std::fs::write(&file, text).unwrap();
        Weights { file, crc32c: None }.read(&Archive::new()).map(|w| w.to_vec())
    }

    #[test]
    fn patches_scenes_and_classes_have_weights() {
        assert_eq!(read("grid_cell,weight\n1U_7R,2\n0U_7R,0\n").unwrap(), [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]);
        // A patch's own row goes before its scene's.
        assert_eq!(read("id,weight\n0U_7R,1\n1U_7R,3\n1U_7R_2_1,0.5\n").unwrap(), [1.0, 1.0, 1.0, 3.0, 3.0, 0.5]);
        let of_classes = [0.25, 1e3, 7.0, 0.25, 1e3, 7.0];
        assert_eq!(read("label,weight\nforest,1000\n2,7\nwater,0.25\n").unwrap(), of_classes);
        assert_eq!(read("weight,label\n1000,1\n7,2\n0.25,0\n").unwrap(), of_classes);
        let twice = read("label,weight\nforest,1\n1,1\nwater,1\n2,1\n").unwrap_err().to_string();
        assert!(twice.contains("in another row already"), "{twice}");
    }

    #[test]
    #[cfg(feature = "parquet")]
    fn parquet_says_the_same() {
        use crate::data::table::{Column, Field, Kind, Writer};
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.parquet");
        let mut table =
            Writer::create(&file, vec![Field::new("label", Kind::Int), Field::new("weight", Kind::Float)]).unwrap();
        table
            .write(&[Column::Int(vec![Some(1), Some(0), Some(2)]), Column::Float(vec![Some(0.5), Some(0.0), None])])
            .unwrap();
        table.finish().unwrap();
        let weights = Weights { file, crc32c: None };
        let message = weights.read(&Archive::new()).unwrap_err().to_string();
        assert!(message.contains("w.parquet: row 2, column `weight`"), "{message}");
    }

    #[test]
    fn other_weights_than_at_the_start_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.csv");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("scene,weight\n0U_7R,1\n1U_7R,2\n");
        let sealed = Weights { file: file.clone(), crc32c: None }.sealed(&Archive::new()).unwrap();
        write("scene,weight\n1U_7R,2.0\n0U_7R,1\n");
        assert!(sealed.read(&Archive::new()).is_ok());
        write("scene,weight\n1U_7R,2\n0U_7R,1.5\n");
        let message = sealed.read(&Archive::new()).unwrap_err().to_string();
        assert!(message.contains("not the weights the run began with"), "{message}");
    }
}
