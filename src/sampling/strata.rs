//! Cells with their descriptors, grouped into strata: one for each pair of climate u and thematic class v.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, ensure};

use super::distance::{Points, unit_vector};
use super::table::{Coordinates, Table};

/// The descriptors of every row of an annotated table: 24 bytes a row.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    pub lat: Vec<f64>,
    pub lon: Vec<f64>,
    pub climate: Vec<i32>,
    pub thematic: Vec<i32>,
}

/// The rows of one pair of classes, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stratum {
    pub u: i32,
    pub v: i32,
    pub rows: Vec<u32>,
}

impl Cells {
    /// Reads an annotated table; every row needs coordinates and both classes.
    pub fn read(table: &Table) -> Result<Cells> {
        let coordinates = Coordinates::find(table)?;
        let mut wanted = coordinates.columns();
        let classes = ["climate", "thematic"];
        for name in classes {
            wanted.push(table.require(name).context("not annotated: run `csmoe annotate` first")?);
        }
        let mut cells = Cells::default();
        table.read(&wanted, &mut |batch| {
            for row in 0..batch.rows {
                let (lat, lon) = coordinates.at(table, &batch, row)?;
                let class = |k: usize| {
                    let column = &batch.columns[batch.columns.len() - 2 + k];
                    let value = column.number(row).filter(|c| c.fract() == 0.0 && c.abs() < 2_147_483_648.0);
                    value.map(|c| c as i32).with_context(|| {
                        let place = table.place(batch.first_row + row, classes[k]);
                        format!(
                            "{place}: `{}`: expected a whole class number; annotate the table again",
                            column.text(row)
                        )
                    })
                };
                let (u, v) = (class(0)?, class(1)?);
                cells.push(lat, lon, u, v);
            }
            Ok(())
        })?;
        ensure!(!cells.is_empty(), "{}: no rows: nothing to sample", table.path.display());
        ensure!(cells.len() < u32::MAX as usize, "{}: more than 4,294,967,294 rows", table.path.display());
        Ok(cells)
    }

    /// Appends a cell.
    pub fn push(&mut self, lat: f64, lon: f64, u: i32, v: i32) {
        self.lat.push(lat);
        self.lon.push(lon);
        self.climate.push(u);
        self.thematic.push(v);
    }

    /// How many cells.
    pub fn len(&self) -> usize {
        self.lat.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lat.is_empty()
    }

    /// The unit vectors of some rows.
    pub fn vectors(&self, rows: &[u32]) -> Vec<[f64; 3]> {
        rows.iter().map(|&r| unit_vector(self.lat[r as usize], self.lon[r as usize])).collect()
    }

    /// The ranked points of some rows.
    pub fn points(&self, rows: &[u32]) -> Points {
        Points::new(&self.vectors(rows))
    }

    /// All strata, by u and then v.
    pub fn strata(&self) -> Vec<Stratum> {
        group(&self.climate, &self.thematic, 0..self.len() as u32)
    }

    /// The strata of some rows.
    pub fn strata_of(&self, rows: &[u32]) -> Vec<Stratum> {
        group(&self.climate, &self.thematic, rows.iter().copied())
    }

    /// Drops, in each stratum, cells that stand at the same place as an earlier one. Returns how many.
    pub fn drop_duplicates(&self, strata: &mut [Stratum]) -> usize {
        let mut dropped = 0;
        for stratum in strata {
            let mut seen = HashSet::new();
            let before = stratum.rows.len();
            stratum.rows.retain(|&r| seen.insert((self.lat[r as usize].to_bits(), self.lon[r as usize].to_bits())));
            dropped += before - stratum.rows.len();
        }
        dropped
    }

    /// Two rows of a stratum at the same place, if there are any: their nearest-neighbour distance has no logarithm.
    pub fn duplicate(&self, stratum: &Stratum) -> Option<(u32, u32)> {
        let mut seen = std::collections::HashMap::new();
        stratum.rows.iter().find_map(|&r| {
            let earlier = seen.insert((self.lat[r as usize].to_bits(), self.lon[r as usize].to_bits()), r);
            earlier.map(|e| (e, r))
        })
    }
}

/// Names of the climates and of the thematic classes of an annotated table; none where it has no names.
pub fn class_names(table: &Table) -> Result<[BTreeMap<i32, String>; 2]> {
    let mut names = [BTreeMap::new(), BTreeMap::new()];
    for (names, column) in names.iter_mut().zip(["climate", "thematic"]) {
        let (id, Some(name)) = (table.require(column)?, table.find(&format!("{column}_name"))) else { continue };
        table.read(&[id, name], &mut |batch| {
            for row in 0..batch.rows {
                if let Some(id) = batch.columns[0].number(row) {
                    names.entry(id as i32).or_insert_with(|| batch.columns[1].text(row));
                }
            }
            Ok(())
        })?;
    }
    Ok(names)
}

fn group(climate: &[i32], thematic: &[i32], rows: impl Iterator<Item = u32>) -> Vec<Stratum> {
    let mut strata = BTreeMap::<(i32, i32), Vec<u32>>::new();
    for row in rows {
        strata.entry((climate[row as usize], thematic[row as usize])).or_default().push(row);
    }
    strata.into_iter().map(|((u, v), rows)| Stratum { u, v, rows }).collect()
}
