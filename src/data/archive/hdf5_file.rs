//! HDF5 files, read only: the datasets of the root group.
//!
//! Read here and not through HDF5's own library, because that trusts a file: flipped bits can smash its stack. This much of
//! the format is what h5py writes unless told otherwise: groups as symbol tables, datasets stored compactly, in one piece or
//! in chunks, shuffled and deflated (HDF5 File Format Specification 3.0). The rest is an error that says so.

use std::io::Read;

use flate2::read::ZlibDecoder;

/// What is wrong, and at which byte.
pub type Result<T> = std::result::Result<T, String>;

const MARK: &[u8] = b"\x89HDF\r\n\x1a\n";
/// The address of what is not there.
const NOWHERE: u64 = u64::MAX;
/// Deeper trees hold more than a file can.
const DEEPEST: usize = 16;
/// Deflate's greatest ratio.
const EXPANSION: usize = 1032;

/// A file in memory.
#[derive(Clone, Copy)]
pub struct File<'a>(&'a [u8]);

/// Numbers in rows and columns, not decoded yet.
pub struct Dataset<'a> {
    file: File<'a>,
    /// Sizes of its dimensions.
    pub shape: Vec<usize>,
    /// Their type as NumPy calls it.
    pub dtype: &'static str,
    big_endian: bool,
    layout: Layout<'a>,
    filters: Vec<u16>,
}

enum Layout<'a> {
    Whole(&'a [u8]),
    Chunks { tree: u64, sides: Vec<usize> },
}

/// A message of an object's header: its type and its bytes.
type Message<'a> = (u16, &'a [u8]);

fn size(dtype: &str) -> usize {
    match dtype {
        "uint8" | "int8" => 1,
        "uint16" | "int16" => 2,
        "uint32" | "int32" | "float32" => 4,
        _ => 8,
    }
}

/// Reads on from a place.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let found = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        self.at = self.at.saturating_add(length);
        found.ok_or_else(|| format!("{length} bytes expected before byte {} are not there", self.at))
    }
    fn number(&mut self, length: usize) -> Result<u64> {
        Ok(self.take(length)?.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }
    fn size(&mut self, length: usize) -> Result<usize> {
        usize::try_from(self.number(length)?).map_err(|e| e.to_string())
    }
    fn rest(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }
}

impl<'a> File<'a> {
    /// A file that says of itself that it is HDF5.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        match bytes.starts_with(MARK) {
            true => Ok(Self(bytes)),
            false => Err("no mark of HDF5 at byte 0".into()),
        }
    }

    fn at(self, address: u64) -> Result<Cursor<'a>> {
        let at = usize::try_from(address).ok().filter(|at| *at < self.0.len());
        Ok(Cursor { bytes: self.0, at: at.ok_or_else(|| format!("an address outside the file, {address}"))? })
    }

    /// A place that begins with a signature.
    fn signed(self, address: u64, mark: &[u8]) -> Result<Cursor<'a>> {
        let mut cursor = self.at(address)?;
        match cursor.take(mark.len())? == mark {
            true => Ok(cursor),
            false => Err(format!("no {} at byte {address}", String::from_utf8_lossy(mark))),
        }
    }

    /// The root group's header.
    fn root(self) -> Result<u64> {
        let mut cursor = self.at(8)?;
        let version = cursor.number(1)?;
        let (widths, base, root) = match version {
            0 => (13, 24, 64),
            1 => (13, 28, 68),
            2 | 3 => (9, 12, 36),
            _ => return Err(format!("version {version} of HDF5, at most 3 is read")),
        };
        if self.at(widths)?.take(2)? != [8, 8] || self.at(base)?.number(8)? != 0 {
            return Err(format!("addresses of another width or base at byte {widths}"));
        }
        let end = self.at(base + 16)?.number(8)?;
        if end > self.0.len() as u64 {
            return Err(format!("{} bytes of {end}, cut short", self.0.len()));
        }
        self.at(root)?.number(8)
    }

    /// Name and header address of every member of the root group, by name.
    pub fn members(self) -> Result<Vec<(String, u64)>> {
        let root = self.root()?;
        let messages = self.messages(root)?;
        let Some((_, table)) = messages.iter().find(|(kind, _)| *kind == 0x11) else {
            return Err("a root group that is no symbol table (written with libver=latest?): h5repack it".into());
        };
        let mut table = Cursor { bytes: table, at: 0 };
        let (tree, heap) = (table.number(8)?, table.number(8)?);
        let mut heap = self.signed(heap, b"HEAP")?;
        heap.take(4)?;
        let (length, _, names) = (heap.size(8)?, heap.number(8)?, heap.number(8)?);
        let names = self.at(names)?.take(length)?;
        let mut found = vec![];
        self.walk(tree, 0, 8, DEEPEST, &mut 0, &mut |_, child| {
            let mut node = self.signed(child, b"SNOD")?;
            node.take(2)?;
            for _ in 0..node.number(2)? {
                if found.len() > self.0.len() / 40 {
                    return Err(format!("more members than the file has room for, at byte {child}"));
                }
                let (name, header) = (node.size(8)?, node.number(8)?);
                node.take(24)?;
                let name = names.get(name..).and_then(|rest| rest.split(|byte| *byte == 0).next());
                let name = name.ok_or_else(|| format!("a name outside the heap, entry at byte {}", node.at - 40))?;
                found.push((String::from_utf8_lossy(name).into_owned(), header));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Hands key and address of every leaf of a version 1 B-tree to `each`.
    fn walk(
        self,
        node: u64,
        kind: u64,
        key: usize,
        depth: usize,
        visited: &mut usize,
        each: &mut dyn FnMut(&'a [u8], u64) -> Result<()>,
    ) -> Result<()> {
        let mut cursor = self.signed(node, b"TREE")?;
        let (found, level, entries) = (cursor.number(1)?, cursor.number(1)?, cursor.size(2)?);
        // A tree visits each node once, and an entry takes more than eight bytes.
        *visited += 1 + entries;
        if found != kind || depth == 0 || *visited > self.0.len() / 8 {
            return Err(format!("a node of another tree, or of a circle, at byte {node}"));
        }
        cursor.take(16)?;
        for _ in 0..entries {
            let (key_bytes, child) = (cursor.take(key)?, cursor.number(8)?);
            match level {
                0 => each(key_bytes, child)?,
                _ => self.walk(child, kind, key, depth - 1, visited, each)?,
            }
        }
        Ok(())
    }

    /// Every message of an object's header.
    fn messages(self, address: u64) -> Result<Vec<Message<'a>>> {
        let mut start = self.at(address)?;
        let second = start.bytes[start.at..].starts_with(b"OHDR");
        let (mut block, extra) = if second {
            start.take(5)?;
            let flags = start.number(1)?;
            start.take(if flags & 0x20 != 0 { 16 } else { 0 } + if flags & 0x10 != 0 { 4 } else { 0 })?;
            let length = start.size(1 << (flags & 3))?;
            (start.take(length)?, if flags & 4 != 0 { 2 } else { 0 })
        } else {
            if start.number(1)? != 1 {
                return Err(format!("no header of an object at byte {address}"));
            }
            start.take(7)?;
            let length = start.size(4)?;
            start.take(4)?;
            (start.take(length)?, 0)
        };
        let (mut found, mut more) = (vec![], vec![]);
        // Blocks follow one another; so many belong to no object.
        for _ in 0..64 {
            let mut cursor = Cursor { bytes: block, at: 0 };
            let head = if second { 4 + extra } else { 8 };
            while cursor.rest() >= head {
                let (kind, length) = if second {
                    (cursor.number(1)? as u16, cursor.size(2)?)
                } else {
                    (cursor.number(2)? as u16, cursor.size(2)?)
                };
                let flags = cursor.number(1)?;
                cursor.take(head - if second { 4 } else { 5 })?;
                let bytes = cursor.take(length)?;
                match kind {
                    0 => {}
                    0x10 => more.push(Cursor { bytes, at: 0 }),
                    _ if flags & 2 != 0 && [1, 3, 8, 0xb].contains(&kind) => {
                        return Err(format!("a message kept elsewhere, in the header at byte {address}"));
                    }
                    _ => found.push((kind, bytes)),
                }
            }
            let Some(mut next) = more.pop() else { return Ok(found) };
            let (place, length) = (next.number(8)?, next.size(8)?);
            block = self.at(place)?.take(length)?;
            if second {
                let body = block.strip_prefix(b"OCHK").and_then(|rest| rest.len().checked_sub(4).map(|n| &rest[..n]));
                block = body.ok_or_else(|| format!("no OCHK at byte {place}"))?;
            }
        }
        Err(format!("a header without end at byte {address}"))
    }

    /// What the header at `address` says of a dataset.
    pub fn dataset(self, address: u64) -> Result<Dataset<'a>> {
        let messages = self.messages(address)?;
        let one = |kind: u16, what: &str| {
            let found = messages.iter().find(|(found, _)| *found == kind);
            found.map(|(_, bytes)| Cursor { bytes, at: 0 }).ok_or_else(|| format!("no {what} at byte {address}"))
        };
        let mut space = one(1, "shape")?;
        let (version, sides) = (space.number(1)?, space.number(1)?);
        space.take(if version == 1 { 6 } else { 2 })?;
        let shape = (0..sides).map(|_| space.size(8)).collect::<Result<Vec<_>>>()?;
        let (dtype, big_endian) = number_type(one(3, "type of numbers")?)?;
        let room = shape.iter().try_fold(size(dtype), |n, side| n.checked_mul(*side));
        let room = room.ok_or_else(|| format!("the shape {shape:?} at byte {address}"))?;
        let filters = match one(0xb, "filter") {
            Ok(cursor) => filters(cursor)?,
            Err(_) => vec![],
        };
        let mut layout = one(8, "layout")?;
        let (version, class) = (layout.number(1)?, layout.number(1)?);
        let layout = match (version, class) {
            (3 | 4, 0) => {
                let length = layout.size(2)?;
                Layout::Whole(layout.take(length)?)
            }
            (3 | 4, 1) => {
                let place = layout.number(8)?;
                let whole = if place == NOWHERE { &[][..] } else { self.at(place)?.take(layout.size(8)?)? };
                Layout::Whole(whole)
            }
            (3, 2) => {
                let (sides, tree) = (layout.number(1)?, layout.number(8)?);
                let sides = (1..sides).map(|_| layout.size(4)).collect::<Result<Vec<_>>>()?;
                Layout::Chunks { tree, sides }
            }
            _ => return Err(format!("data laid out in a way not read here ({version}, {class}): h5repack it")),
        };
        // Believed as far as the file can bear it.
        let held = match &layout {
            Layout::Whole(bytes) => bytes.len(),
            Layout::Chunks { .. } if filters.contains(&1) => self.0.len().saturating_mul(EXPANSION),
            Layout::Chunks { .. } => self.0.len(),
        };
        if room > held {
            return Err(format!("{shape:?} numbers of type {dtype}, more than its {held} bytes"));
        }
        Ok(Dataset { file: self, shape, dtype, big_endian, layout, filters })
    }
}

/// A type of numbers that fill their bytes.
fn number_type(mut cursor: Cursor) -> Result<(&'static str, bool)> {
    let (class, bits, size) = (cursor.number(1)? & 15, cursor.number(3)?, cursor.number(4)?);
    let (offset, precision) = (cursor.number(2)?, cursor.number(2)?);
    let full = offset == 0 && precision == 8 * size;
    let signed = bits & 8 != 0;
    let name = match (class, size, signed) {
        (0, 1, false) => "uint8",
        (0, 2, false) => "uint16",
        (0, 4, false) => "uint32",
        (0, 1, true) => "int8",
        (0, 2, true) => "int16",
        (0, 4, true) => "int32",
        (0, 8, true) => "int64",
        (1, 4, _) if cursor.take(4)? == [23, 8, 0, 23] => "float32",
        (1, 8, _) if cursor.take(4)? == [52, 11, 0, 52] => "float64",
        _ => "",
    };
    match full && !name.is_empty() && bits & 0x40 == 0 {
        true => Ok((name, bits & 1 != 0)),
        false => Err(format!("numbers of a type that no sample has (class {class}, {size} bytes)")),
    }
}

/// The filters' numbers, in the order of writing.
fn filters(mut cursor: Cursor) -> Result<Vec<u16>> {
    let (version, count) = (cursor.number(1)?, cursor.number(1)?);
    cursor.take(if version == 1 { 6 } else { 0 })?;
    let mut found = vec![];
    for _ in 0..count {
        let id = cursor.number(2)? as u16;
        let name = if version == 1 || id >= 256 { cursor.size(2)? } else { 0 };
        cursor.take(2)?;
        let values = cursor.size(2)?;
        let pad = if version == 1 { 4 * (values % 2) } else { 0 };
        cursor.take(name + 4 * values + pad)?;
        match id {
            1 | 2 => found.push(id),
            _ => return Err(format!("data through filter {id}, only deflate and shuffle are read: h5repack it")),
        }
    }
    Ok(found)
}

impl Dataset<'_> {
    /// All numbers, row by row.
    pub fn read(&self) -> Result<Vec<f32>> {
        let step = size(self.dtype);
        let count: usize = self.shape.iter().product();
        #[cfg(any(test, fuzzing))]
        crate::data::meter::believe(count * step);
        match &self.layout {
            Layout::Whole(bytes) => Ok(self.numbers(bytes).take(count).collect()),
            Layout::Chunks { tree, sides } => {
                let [height, width] = self.shape[..] else {
                    return Err(format!("chunks of the shape {:?}, rows and columns expected", self.shape));
                };
                let [tall, wide] = sides[..] else { return Err(format!("chunks of the shape {sides:?}")) };
                let room = tall.checked_mul(wide).and_then(|n| n.checked_mul(step)).filter(|room| *room > 0);
                let room = room.ok_or_else(|| format!("chunks of the shape {sides:?}"))?;
                let mut all = vec![f32::NAN; count];
                if *tree == NOWHERE {
                    return Ok(all);
                }
                self.file.walk(*tree, 1, 32, DEEPEST, &mut 0, &mut |key, child| {
                    let (mut sizes, mut place) = (Cursor { bytes: key, at: 0 }, Cursor { bytes: key, at: 8 });
                    let (stored, mask) = (sizes.size(4)?, sizes.number(4)?);
                    let (top, left) = (place.size(8)?, place.size(8)?);
                    let chunk = self.unfilter(self.file.at(child)?.take(stored)?, room, mask)?;
                    if chunk.len() != room {
                        return Err(format!("a chunk of {} bytes at byte {child}, {room} expected", chunk.len()));
                    }
                    for (row, line) in chunk.chunks_exact(wide * step).enumerate() {
                        let row = top.saturating_add(row);
                        if row < height && left < width {
                            let out = &mut all[row * width + left..(row + 1) * width];
                            out.iter_mut().zip(self.numbers(line)).for_each(|(x, n)| *x = n);
                        }
                    }
                    Ok(())
                })?;
                Ok(all)
            }
        }
    }

    /// A chunk as it was before it was filtered; `mask` tells the filters left out.
    fn unfilter(&self, stored: &[u8], room: usize, mask: u64) -> Result<Vec<u8>> {
        let mut bytes = stored.to_vec();
        for (number, filter) in self.filters.iter().enumerate().rev() {
            if mask >> number.min(63) & 1 != 0 {
                continue;
            }
            if *filter == 2 {
                // Bytes of one significance lie together.
                let (step, old) = (size(self.dtype), bytes.clone());
                let count = old.len() / step;
                for (at, byte) in old[..count * step].iter().enumerate() {
                    bytes[at % count * step + at / count] = *byte;
                }
                continue;
            }
            if room > bytes.len().saturating_mul(EXPANSION) {
                return Err(format!("a chunk of {} bytes for {room}", bytes.len()));
            }
            #[cfg(any(test, fuzzing))]
            crate::data::meter::believe(room);
            let mut plain = vec![];
            let one_more = room as u64 + 1;
            ZlibDecoder::new(&bytes[..]).take(one_more).read_to_end(&mut plain).map_err(|e| format!("a chunk: {e}"))?;
            bytes = plain;
        }
        Ok(bytes)
    }

    fn numbers<'b>(&self, bytes: &'b [u8]) -> Box<dyn Iterator<Item = f32> + 'b> {
        fn of<'b, const N: usize>(
            bytes: &'b [u8],
            big: bool,
            number: fn([u8; N]) -> f32,
        ) -> Box<dyn Iterator<Item = f32> + 'b> {
            Box::new(bytes.as_chunks::<N>().0.iter().map(move |b| {
                let mut b = *b;
                if big {
                    b.reverse();
                }
                number(b)
            }))
        }
        let big = self.big_endian;
        match self.dtype {
            "uint8" => of(bytes, big, |b| u8::from_le_bytes(b).into()),
            "uint16" => of(bytes, big, |b| u16::from_le_bytes(b).into()),
            "uint32" => of(bytes, big, |b| u32::from_le_bytes(b) as f32),
            "int8" => of(bytes, big, |b| i8::from_le_bytes(b).into()),
            "int16" => of(bytes, big, |b| i16::from_le_bytes(b).into()),
            "int32" => of(bytes, big, |b| i32::from_le_bytes(b) as f32),
            "int64" => of(bytes, big, |b| i64::from_le_bytes(b) as f32),
            "float32" => of(bytes, big, f32::from_le_bytes),
            _ => of(bytes, big, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

#[cfg(all(test, feature = "hdf5"))]
mod tests {
    use super::*;
    use hdf5_metno::{File as Written, H5Type};

    fn write<T: H5Type + Copy>(file: &Written, name: &str, chunks: Option<bool>, values: &[T]) {
        let made = file.new_dataset::<T>();
        let made = match chunks {
            Some(true) => made.chunk((4, 3)).shuffle().deflate(4),
            Some(false) => made.chunk((4, 3)),
            None => made,
        };
        made.shape((10, 7)).create(name).unwrap().write_raw(values).unwrap();
    }

    #[test]
    fn what_the_library_writes_is_read_and_its_ruins_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.h5");
        let file = Written::create(&path).unwrap();
        let numbers = |i: usize| (i as f64 - 20.0) * 3.0;
        // More members than a node of the group's tree takes.
        for (name, chunks) in [("plain", None), ("chunks", Some(false)), ("deflated", Some(true))] {
            write(&file, &format!("{name} u1"), chunks, &(0..70).map(|i| i as u8).collect::<Vec<_>>());
            write(&file, &format!("{name} u2"), chunks, &(0..70).map(|i| i as u16 * 900).collect::<Vec<_>>());
            write(&file, &format!("{name} i2"), chunks, &(0..70).map(|i| numbers(i) as i16).collect::<Vec<_>>());
            write(&file, &format!("{name} i4"), chunks, &(0..70).map(|i| numbers(i) as i32).collect::<Vec<_>>());
            write(&file, &format!("{name} f4"), chunks, &(0..70).map(|i| numbers(i) as f32).collect::<Vec<_>>());
            write(&file, &format!("{name} f8"), chunks, &(0..70).map(numbers).collect::<Vec<_>>());
        }
        let names = file.member_names().unwrap();
        let want: Vec<Vec<f32>> = names.iter().map(|n| file.dataset(n).unwrap().read_raw().unwrap()).collect();
        file.close().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let read = |bytes: &[u8]| -> Result<Vec<(String, Vec<f32>)>> {
            let file = File::new(bytes)?;
            let one = |(name, at): (String, u64)| Ok((name, file.dataset(at)?.read()?));
            file.members()?.into_iter().map(one).collect()
        };
        let found = read(&whole).unwrap();
        assert_eq!(found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
        assert!(found.iter().map(|(_, values)| values).eq(&want));
        assert!((0..whole.len()).step_by(97).all(|length| read(&whole[..length]).is_err()));
        let mut stream = crate::data::random::Stream::new(7, &[]);
        let failed = (0..4000).filter(|_| {
            let mut ruin = whole.clone();
            (0..20).for_each(|_| ruin[stream.below(whole.len())] = stream.bits() as u8);
            read(&ruin).is_err()
        });
        assert!(failed.count() > 400);
    }
}
