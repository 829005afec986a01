use super::*;

fn columns() -> (Vec<Field>, Vec<Column>) {
    let fields = vec![
        Field::new("grid_cell", Kind::Text),
        Field::new("grid_row_u", Kind::Int),
        Field::new("centre_lat", Kind::Float),
        Field::new("centre_lon", Kind::Float),
        Field::new("geometry", Kind::Geometry),
    ];
    let columns = vec![
        Column::Text(vec![Some("1U_2R".into()), None, Some("a \"quoted\", one".into())]),
        Column::Int(vec![Some(1), Some(-7), None]),
        Column::Float(vec![Some(0.1), Some(-89.25), Some(1e-7)]),
        Column::Float(vec![Some(3.5), Some(179.999), Some(-180.0)]),
        Column::Geometry(vec![Some((0.1, 3.5)), Some((-89.25, 179.999)), None]),
    ];
    (fields, columns)
}

fn read_all(path: &Path, names: &[&str]) -> Vec<Column> {
    let table = Table::open(path).unwrap();
    let wanted: Vec<usize> = names.iter().map(|n| table.require(n).unwrap()).collect();
    let mut found = Vec::new();
    table
        .read(&wanted, &mut |batch| {
            found.extend(batch.columns);
            Ok(())
        })
        .unwrap();
    found
}

fn write(path: &Path) -> Vec<Column> {
    let (fields, columns) = columns();
    let mut writer = Writer::create(path, fields).unwrap();
    writer.write(&columns).unwrap();
    writer.finish().unwrap();
    columns
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cells.parquet");
    let columns = write(&path);
    assert_eq!(read_all(&path, &["grid_cell", "grid_row_u", "centre_lat", "centre_lon", "geometry"]), columns);
}

#[test]
fn csv_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cells.csv");
    let columns = write(&path);
    assert_eq!(read_all(&path, &["grid_cell", "grid_row_u", "centre_lat", "centre_lon"]), columns[..4]);
}

#[test]
fn geojson_is_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cells.geojson");
    write(&path);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["features"].as_array().unwrap().len(), 3);
    assert_eq!(json["features"][1]["geometry"]["coordinates"], serde_json::json!([179.999, -89.25]));
    assert_eq!(json["features"][0]["properties"]["grid_cell"], "1U_2R");
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.csv", "a.geojson", "a.parquet"] {
        if let Ok(mut writer) = Writer::create(&folder.path().join(name), columns().0) {
            writer.write(&columns().1).unwrap();
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn bad_tables_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let error = |path: &Path| -> String {
        let run = || -> Result<()> {
            let table = Table::open(path)?;
            let coordinates = Coordinates::find(&table)?;
            table.read(&coordinates.columns(), &mut |batch| {
                (0..batch.rows).try_for_each(|row| coordinates.at(&table, &batch, row).map(drop))
            })
        };
        format!("{:#}", run().unwrap_err())
    };
    for (name, text, parts) in [
        ("a.csv", "centre_lat,centre_lon\n1,2\n91,0\n", ["a.csv: row 1", "centre_lat", "91"]),
        ("b.csv", "centre_lat,centre_lon\n1,NaN\n", ["b.csv: row 0", "centre_lon", "NaN"]),
        ("c.csv", "centre_lat,centre_lon\n1,x\n", ["c.csv: row 0", "centre_lon", "`x`"]),
        ("d.csv", "centre_lat,centre_lon\n1,\n", ["d.csv: row 0", "centre_lon", "expected a number"]),
        ("e.csv", "centre_lat,centre_lon\n1,2\n3\n", ["e.csv: row 1", "2 columns", "line of CSV"]),
        ("f.csv", "grid_cell\n0U_0R\n", ["f.csv", "no coordinates", "centre_lat"]),
        ("g.txt", "", ["g.txt", "`txt`", ".parquet or .csv"]),
        ("h.parquet", "PAR1 not really", ["h.parquet", "Parquet", ""]),
    ] {
        let message = error(&at(name, text.as_bytes()));
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    }
    #[cfg(feature = "parquet")]
    {
        write(&folder.path().join("whole.parquet"));
        let bytes = std::fs::read(folder.path().join("whole.parquet")).unwrap();
        let message = error(&at("cut.parquet", &bytes[..bytes.len() / 2]));
        assert!(message.contains("cut.parquet"), "{message}");
    }
}
