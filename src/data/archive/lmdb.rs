//! LMDB files, read only: every key with the place of its value.
//!
//! Read here and not through LMDB's own library, because that trusts each page of a file: one flipped bit can end the
//! process. The format is small: pages of nodes, a tree of them, two copies of its root (LMDB 0.9, `mdb.c`).

use super::super::{Error, Result};

const MAGIC: u32 = 0xBEEF_C0DE;
const HEADER: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
const META: u16 = 8;

/// LMDB's own limit.
const DEEPEST: usize = 32;

/// A key and the bytes of its value in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: std::ops::Range<usize>,
}

/// All entries of the main database, in order of key.
pub fn entries(file: &[u8], name: &str) -> Result<Vec<Entry>> {
    let tree = Tree { file, name, page: page_size(file, name)? };
    let root = tree.root()?;
    let mut found = vec![];
    if root != u64::MAX {
        tree.walk(root, 0, &mut 0, &mut found)?;
    }
    Ok(found)
}

struct Tree<'a> {
    file: &'a [u8],
    name: &'a str,
    page: usize,
}

fn damaged(name: &str, offset: usize, what: &str) -> Error {
    let problem = format!("not a whole LMDB file: {what} at byte {offset}");
    Error::new(name, problem, "fetch the file again")
}

fn word<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    word(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    word(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    word(file, at).map(u64::from_le_bytes)
}

/// The first meta page gives it, in the free list's unused field.
fn page_size(file: &[u8], name: &str) -> Result<usize> {
    if u32_at(file, HEADER) != Some(MAGIC) || u32_at(file, HEADER + 4).map(|v| v & 0xff) != Some(1) {
        return Err(damaged(name, HEADER, "no mark of LMDB"));
    }
    let size = u32_at(file, HEADER + 24).unwrap_or(0) as usize;
    match size.is_power_of_two() && (512..=65_536).contains(&size) {
        true => Ok(size),
        false => Err(damaged(name, HEADER + 24, &format!("a page size of {size}"))),
    }
}

impl Tree<'_> {
    /// Root page of the newer of the two meta pages.
    fn root(&self) -> Result<u64> {
        let meta = |page: usize| {
            let at = page * self.page + HEADER;
            let is = u16_at(self.file, at - HEADER + 10)? & META != 0 && u32_at(self.file, at)? == MAGIC;
            Some((u64_at(self.file, at + 128)?, u64_at(self.file, at + 72 + 40)?)).filter(|_| is)
        };
        let newest = [meta(0), meta(1)].into_iter().flatten().max_by_key(|(transaction, _)| *transaction);
        newest.map(|(_, root)| root).ok_or_else(|| damaged(self.name, 0, "no meta page"))
    }

    fn walk(&self, page: u64, depth: usize, visited: &mut usize, found: &mut Vec<Entry>) -> Result<()> {
        let start = usize::try_from(page).ok().and_then(|p| p.checked_mul(self.page)).unwrap_or(usize::MAX);
        let wrong = |what: &str| damaged(self.name, start, what);
        let bytes = start.checked_add(self.page).and_then(|end| self.file.get(start..end));
        let bytes = bytes.ok_or_else(|| wrong("a page outside the file"))?;
        let flags = u16_at(bytes, 10).unwrap_or(0);
        let keys = (u16_at(bytes, 12).unwrap_or(0) as usize).saturating_sub(HEADER) / 2;
        if depth > DEEPEST || flags & (BRANCH | LEAF) == 0 || keys > self.page / 2 {
            return Err(wrong("a page that is none of a tree"));
        }
        // A tree visits each page once.
        *visited += 1;
        if *visited > self.file.len() / self.page {
            return Err(wrong("a circle of pages"));
        }
        for k in 0..keys {
            let node =
                u16_at(bytes, HEADER + 2 * k).map(usize::from).ok_or_else(|| wrong("a node outside its page"))?;
            let field = |i: usize| u16_at(bytes, node + 2 * i).ok_or_else(|| wrong("a node outside its page"));
            let (low, high, flags_or_high, length) = (field(0)?, field(1)?, field(2)?, field(3)? as usize);
            let size = u64::from(low) | u64::from(high) << 16;
            if flags & BRANCH != 0 {
                self.walk(size | u64::from(flags_or_high) << 32, depth + 1, visited, found)?;
                continue;
            }
            let key = bytes.get(node + 8..node + 8 + length).ok_or_else(|| wrong("a key outside its page"))?;
            let at = match flags_or_high {
                0 => start + node + 8 + length,
                1 => {
                    self.overflow(u64_at(bytes, node + 8 + length).ok_or_else(|| wrong("a value outside its page"))?)?
                }
                _ => return Err(wrong("a node of several values")),
            };
            let end = at.checked_add(size as usize).filter(|end| *end <= self.file.len());
            let end = end.ok_or_else(|| wrong("a value outside the file"))?;
            let key = std::str::from_utf8(key).map_err(|_| wrong("a key that is no text"))?;
            if found.last().is_some_and(|last| last.key.as_str() >= key) {
                return Err(wrong("keys out of order"));
            }
            found.push(Entry { key: key.into(), value: at..end });
        }
        Ok(())
    }

    /// Where the value on an overflow page begins.
    fn overflow(&self, page: u64) -> Result<usize> {
        let start = usize::try_from(page).ok().and_then(|p| p.checked_mul(self.page));
        let start = start.filter(|s| s.saturating_add(HEADER) <= self.file.len()).unwrap_or(usize::MAX);
        match start != usize::MAX && u16_at(self.file, start + 10).is_some_and(|flags| flags & OVERFLOW != 0) {
            true => Ok(start + HEADER),
            false => Err(damaged(self.name, start, "no overflow page")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::Stream;

    #[test]
    fn a_real_file_and_its_ruins() {
        let Some(root) = super::super::tests::real("bigearthnet_v2/lmdb") else { return };
        let whole = std::fs::read(format!("{root}/data.mdb")).unwrap();
        let found = entries(&whole, "data.mdb").unwrap();
        let keys: Vec<(&str, usize)> = found.iter().map(|e| (e.key.as_str(), e.value.len())).collect();
        // As LMDB's own library lists them (python3 -m pip install lmdb).
        assert_eq!(
            keys,
            [
                ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48", 115_344),
                ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43", 160_832)
            ]
        );
        for length in [0, 1, 15, 16, 100, 4096, 8192, 12_288, whole.len() / 2] {
            let _ = entries(&whole[..length], "data.mdb").err().map(|e| e.to_string());
        }
        assert!(entries(&whole[..8192], "data.mdb").is_err());
        // Flipped bits in the pages that are not values never end the process.
        let mut stream = Stream::new(1, &[]);
        for _ in 0..20_000 {
            let mut ruin = whole[..16_384.min(whole.len())].to_vec();
            for _ in 0..1 + stream.below(4) {
                let at = stream.below(ruin.len());
                ruin[at] = stream.bits() as u8;
            }
            ruin.resize(whole.len(), 0);
            if let Ok(found) = entries(&ruin, "data.mdb") {
                assert!(found.iter().all(|e| e.value.end <= ruin.len()));
            }
        }
    }
}
