//! Any pairs as a folder of GeoTIFFs.

use std::path::Path;

use rayon::prelude::*;

use super::super::export::write_atomic;
use super::super::{PairSource, Result, S1_BANDS, S2_BANDS};
use super::write::geotiff;

/// Writes `S1/`, `S2/`, `MASK/` (where there are class maps) and `labels.csv` (where there are classes), the last when all
/// images stand. `done` hears of every pair written. Read back, the folder gives the same pairs.
pub fn export(source: &dyn PairSource, folder: &Path, done: impl Fn(usize) + Sync) -> Result<()> {
    let px = source.tile_px();
    let classes = &source.describe().classes;
    let write = |index: usize| -> Result<String> {
        let pair = source.pair(index)?;
        let geo = pair.geo.as_ref();
        let file = |kind: &str| folder.join(kind).join(format!("{}.tif", pair.id));
        geotiff(&file("S1"), &S1_BANDS, px, &pair.s1, geo)?;
        if pair.s2.iter().all(|x| f32::from(*x as u16) == *x) {
            let numbers: Vec<u16> = pair.s2.iter().map(|x| *x as u16).collect();
            geotiff(&file("S2"), &S2_BANDS, px, &numbers, geo)?;
        } else {
            geotiff(&file("S2"), &S2_BANDS, px, &pair.s2, geo)?;
        }
        if let Some(mask) = &pair.mask {
            geotiff(&file("MASK"), &["class"], px, mask, geo)?;
        }
        done(index);
        let line = |label: u32| format!("{},{label},{}\n", pair.id, classes.get(label as usize).map_or("", |c| c));
        Ok(pair.label.map_or_else(String::new, line))
    };
    let lines = (0..source.len()).into_par_iter().map(write).collect::<Result<Vec<_>>>()?;
    if lines.iter().all(String::is_empty) {
        return Ok(());
    }
    write_atomic(&folder.join("labels.csv"), |csv| {
        csv.write_all(b"id,label,class\n")?;
        lines.iter().try_for_each(|line| csv.write_all(line.as_bytes()))
    })
}
