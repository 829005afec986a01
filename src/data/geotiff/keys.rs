//! A TIFF's own words about its coordinate system. PROJ takes 0.3 ms to understand them, ten times as long as a small tile
//! takes to decode, and the tiles of an archive say the same over and over: what was understood once is kept.

use std::cell::RefCell;
use std::collections::HashMap;

/// GeoKeyDirectory, GeoDoubleParams and GeoAsciiParams.
const TAGS: std::ops::RangeInclusive<u64> = 34_735..=34_737;
/// More than there are zones of UTM; a thread forgets all when it knows so many.
const KNOWN: usize = 256;

/// The coordinate system that [`of`] a file's bytes means, from an equal file's or from `understand`.
pub fn known(keys: Option<Vec<u8>>, understand: impl FnOnce() -> String) -> String {
    thread_local!(static SYSTEMS: RefCell<HashMap<Vec<u8>, String>> = RefCell::default());
    let Some(keys) = keys else { return understand() };
    if let Some(crs) = SYSTEMS.with_borrow(|systems| systems.get(&keys).cloned()) {
        return crs;
    }
    let crs = understand();
    SYSTEMS.with_borrow_mut(|systems| {
        if systems.len() >= KNOWN {
            systems.clear();
        }
        systems.insert(keys, crs.clone());
    });
    crs
}

/// A whole number in the file's order of bytes.
fn number(file: &[u8], at: u64, bytes: usize) -> Option<u64> {
    let place = file.get(usize::try_from(at).ok()?..)?.get(..bytes)?;
    let digit = |n: u64, byte: &u8| n << 8 | u64::from(*byte);
    match file.get(..2)? {
        b"II" => Some(place.iter().rev().fold(0, digit)),
        b"MM" => Some(place.iter().fold(0, digit)),
        _ => None,
    }
}

/// Where the entries of the first directory are, and how wide an offset is in them.
fn directory(file: &[u8]) -> Option<(Vec<u64>, u64)> {
    // Widths of an offset, of the number of entries, and of an entry.
    let (word, count, entry) = match number(file, 2, 2)? {
        42 => (4, 2, 12),
        43 => (8, 8, 20),
        _ => return None,
    };
    let first = number(file, word, word as usize)?;
    let entries = (0..number(file, first, count)?.min(1000)).map(|i| first.checked_add(count as u64 + i * entry));
    Some((entries.collect::<Option<_>>()?, word))
}

/// Bands that a file promises, for each of which GDAL makes room before anything can be asked.
pub fn bands(file: &[u8]) -> Option<u64> {
    const SAMPLES_PER_PIXEL: u64 = 277;
    let (entries, word) = directory(file)?;
    let at = entries.into_iter().find(|at| number(file, *at, 2) == Some(SAMPLES_PER_PIXEL))?;
    match number(file, at + 2, 2)? {
        1 => number(file, at + 4 + word, 1),
        3 => number(file, at + 4 + word, 2),
        4 => number(file, at + 4 + word, 4),
        _ => Some(u64::MAX),
    }
}

/// The bytes of all three tags in the first directory; None where there are none or something is unusual.
pub fn of(file: &[u8]) -> Option<Vec<u8>> {
    let (entries, word) = directory(file)?;
    let mut found = vec![file[0]];
    for at in entries {
        let tag = number(file, at, 2)?;
        if !TAGS.contains(&tag) {
            continue;
        }
        let size = match number(file, at + 2, 2)? {
            2 => 1,
            3 => 2,
            12 => 8,
            _ => return None,
        };
        let length = number(file, at + 4, word as usize)?.checked_mul(size)?;
        let value = at + 4 + word;
        let start = if length <= word { value } else { number(file, value, word as usize)? };
        let start = usize::try_from(start).ok()?;
        found.extend_from_slice(&tag.to_le_bytes());
        found.extend_from_slice(file.get(start..start.checked_add(usize::try_from(length).ok()?)?)?);
    }
    Some(found).filter(|found| found.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::super::write::geotiff_bytes;
    use super::*;
    use crate::data::Geo;

    fn tiff(crs: &str) -> Vec<u8> {
        let geo = Geo::new([5e5, 10.0, 0.0, 1e6, 0.0, -10.0], crs, 8, 8);
        geotiff_bytes(8, &[1u8; 64], &geo, None).unwrap()
    }

    #[test]
    fn bands_are_counted_before_the_file_is_opened() {
        let mut file = tiff("EPSG:32631");
        assert_eq!(bands(&file), Some(1));
        let place = file.windows(8).position(|w| w == [0x15, 1, 3, 0, 1, 0, 0, 0]).unwrap();
        file[place + 8..][..2].copy_from_slice(&60_000u16.to_le_bytes());
        assert_eq!(bands(&file), Some(60_000));
        let message = crate::data::archive::decode::bytes(file, "B02", true, "part").unwrap_err().to_string();
        assert!(message.contains("60000 bands"), "{message}");
    }

    #[test]
    fn equal_keys_are_understood_once() {
        let (a, b) = (tiff("EPSG:32631"), tiff("EPSG:32632"));
        assert!(of(&a).is_some() && of(&a) == of(&tiff("EPSG:32631")) && of(&a) != of(&b));
        assert_eq!(known(of(&a), || "one".into()), "one");
        assert_eq!(known(of(&a), || panic!("known")), "one");
        assert_eq!(known(of(&b), || "other".into()), "other");
        assert!((0..a.len()).filter(|length| of(&a[..*length]).is_none()).count() > 8);
        assert!([&b"MM\0*"[..], b"II*\0\xff\xff\xff\xff", b""].iter().all(|file| of(file).is_none()));
    }
}
