//! Parquet files whose pages are held against the file before room is made for them. The library believes what the header
//! of a page says, and a flipped bit there would ask for gigabytes.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};

/// A file that [`open`] gives its reader.
pub struct Pages {
    file: File,
    length: u64,
    /// Most bytes that one of a page stands for; 0 while the footer is read, which is checked by the library.
    expansion: Arc<AtomicU64>,
}

/// Opens a Parquet file: its columns lie inside it, and its pages hold what their headers say.
pub fn open(file: File) -> Result<SerializedFileReader<Pages>> {
    caught(|| checked(file))?
}

fn checked(file: File) -> Result<SerializedFileReader<Pages>> {
    let length = file.metadata()?.len();
    let expansion = Arc::new(AtomicU64::new(0));
    let reader = SerializedFileReader::new(Pages { file, length, expansion: expansion.clone() })?;
    for (number, group) in reader.metadata().row_groups().iter().enumerate() {
        for column in group.columns() {
            if !inside(column, length) || group.num_rows() < 0 {
                let name = column.column_descr().name();
                return Err(wrong(format!("row group {number}, column {name} lies outside the file")));
            }
            expansion.fetch_max(most(column.compression()), Ordering::Relaxed);
        }
    }
    Ok(reader)
}

/// Runs calls of the library, which panics at values cut short, and says so in an error; nothing is printed.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    done.map_err(|_| wrong("values that the library cannot make out".into()))
}

fn wrong(problem: String) -> ParquetError {
    ParquetError::General(problem)
}

fn inside(column: &ColumnChunkMetaData, length: u64) -> bool {
    let size = u64::try_from(column.compressed_size()).unwrap_or(u64::MAX);
    let fits = |start: i64| u64::try_from(start).is_ok_and(|start| start.saturating_add(size) <= length);
    fits(column.dictionary_page_offset().unwrap_or(column.data_page_offset()))
        && u64::try_from(column.data_page_offset()).is_ok_and(|start| start <= length)
}

/// Most bytes that one compressed byte can stand for.
fn most(codec: Compression) -> u64 {
    match codec {
        Compression::UNCOMPRESSED => 1,
        // Three bytes repeat 64.
        Compression::SNAPPY => 22,
        Compression::LZ4 | Compression::LZ4_RAW => 256,
        Compression::GZIP(_) => 1032,
        // ZSTD repeats 128 KiB by four bytes; no other reaches that.
        _ => 32_768,
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.length
    }
}

/// A file from somewhere on, whose end is an error: the library passes over lists by reading, and at the end would pass
/// over two thousand million items that are not there.
pub struct Rest(BufReader<File>);

impl Read for Rest {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(to)? {
            0 if !to.is_empty() => Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }
}

impl ChunkReader for Pages {
    type T = Rest;

    /// Asked for where a page's header begins.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        let (mut reader, expansion) = (BufReader::new(file), self.expansion.load(Ordering::Relaxed));
        match expansion == 0 || check(reader.fill_buf()?, expansion).is_some() {
            true => Ok(Rest(reader)),
            false => Err(wrong(format!("the page at byte {start} promises more than it holds"))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        if start.saturating_add(length as u64) > self.length {
            return Err(wrong(format!("{length} bytes from byte {start} lie outside the file")));
        }
        self.file.get_bytes(start, length)
    }
}

/// Whole numbers of Thrift's compact form.
fn number(head: &mut &[u8]) -> Option<i64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (byte, rest) = head.split_first()?;
        *head = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
}

/// Reads a page's header as far as its sizes; None where they cannot be.
fn check(mut head: &[u8], expansion: u64) -> Option<()> {
    const NUMBER: u8 = 5;
    const STRUCT: u8 = 12;
    // The next field's number and type.
    fn field(head: &mut &[u8], last: i64) -> Option<(i64, u8)> {
        let (byte, rest) = head.split_first()?;
        *head = rest;
        let id = if byte >> 4 == 0 { number(head)? } else { last + i64::from(byte >> 4) };
        Some((id, byte & 15))
    }
    // Kind of page, bytes, bytes in the file, checksum.
    let (mut sizes, mut id) = ([0i64; 4], 0);
    loop {
        let (next, kind) = field(&mut head, id)?;
        id = next;
        match (id, kind) {
            (1..=4, NUMBER) => sizes[id as usize - 1] = number(&mut head)?,
            // A page of an index, which is passed over.
            (6, STRUCT) => return Some(()),
            (5 | 7 | 8, STRUCT) => break,
            _ => return None,
        }
    }
    let [_, bytes, stored, _] = sizes.map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    if bytes > stored.saturating_mul(expansion) {
        return None;
    }
    // Values, and in a page of data their encoding.
    let (mut values, mut encoding, mut last) = (0, 0, 0);
    let place = if id == 8 { 4 } else { 2 };
    while last < place {
        let (next, kind) = field(&mut head, last)?;
        if kind != NUMBER {
            return None;
        }
        last = next;
        match last {
            1 => values = u64::try_from(number(&mut head)?).ok()?,
            _ if last == place => encoding = number(&mut head)?,
            _ => drop(number(&mut head)?),
        }
    }
    // A dictionary's values take four bytes or more. The two delta encodings of texts begin with a count that the library
    // believes; nobody writes them unasked.
    let fits = id != 7 || values.saturating_mul(4) <= bytes;
    #[cfg(any(test, fuzzing))]
    super::meter::believe(bytes as usize);
    (fits && ![6, 7].contains(&encoding)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::{caught, check};

    /// A page's header as far as it is read: kind, bytes, bytes in the file; then a struct of numbers.
    fn header(sizes: [u8; 3], kind: u8, numbers: &[u8]) -> Vec<u8> {
        let field = |n: &u8| [0x15, 2 * n];
        let gap = (kind - 3) << 4 | 12;
        [
            &sizes.iter().flat_map(field).collect::<Vec<u8>>()[..],
            &[gap],
            &numbers.iter().flat_map(field).collect::<Vec<_>>(),
        ]
        .concat()
    }

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        assert_eq!(caught(|| 3).unwrap(), 3);
        let message = caught(|| [0; 3][std::hint::black_box(3)]).unwrap_err().to_string();
        assert!(message.contains("cannot make out"), "{message}");
    }

    #[test]
    fn headers_are_believed_as_far_as_they_can_be_true() {
        // Page of data, 20 bytes of 10, 5 values, plain.
        assert!(check(&header([0, 20, 10], 5, &[5, 0]), 22).is_some());
        assert!(check(&header([0, 20, 10], 5, &[5, 0]), 1).is_none());
        assert!(check(&header([0, 20, 10], 8, &[5, 0, 5, 0]), 22).is_some());
        // A dictionary of as many values as fit, and of one more.
        assert!(check(&header([2, 20, 10], 7, &[5, 0]), 22).is_some());
        assert!(check(&header([2, 20, 10], 7, &[6, 0]), 22).is_none());
        // Delta encodings of texts.
        assert!(check(&header([0, 20, 10], 5, &[5, 6]), 22).is_none());
        assert!(check(&header([3, 20, 10], 8, &[5, 0, 5, 7]), 22).is_none());
        // Negative, cut short, no header.
        assert!(check(&[0x15, 0, 0x15, 1, 0x15, 2, 0x2c, 0x15, 2, 0x15, 0], 22).is_none());
        assert!(check(&header([0, 20, 10], 5, &[5, 0])[..9], 22).is_none());
        assert!(check(b"PAR1", 22).is_none() && check(&[0x15, 0xff, 0xff], 22).is_none());
    }
}
