//! Parquet files whose pages are held against the file before room is made for them. The library believes what the header
//! of a page says, and a flipped bit there would ask for gigabytes.

mod headers;

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

use headers::{Doubt, check, schema};

/// A file that [`open`] gives its reader.
pub struct Pages {
    file: File,
    length: u64,
    /// Most bytes that one of a page stands for; 0 while the footer is read.
    expansion: Arc<AtomicU64>,
}

/// Opens a Parquet file: its columns lie inside it, and its pages hold what their headers say.
pub fn open(file: File) -> Result<SerializedFileReader<Pages>> {
    caught(|| checked(file))?
}

fn checked(file: File) -> Result<SerializedFileReader<Pages>> {
    let length = file.metadata()?.len();
    schema(&footer(&file, length)?).map_err(|_| wrong("its footer says what cannot be".into()))?;
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

/// The file's account of itself, before its length and `PAR1` at the end.
fn footer(mut file: &File, length: u64) -> Result<Vec<u8>> {
    let mut end = [0; 8];
    file.seek(SeekFrom::Start(length.checked_sub(8).ok_or_else(|| wrong("a file of less than 8 bytes".into()))?))?;
    file.read_exact(&mut end)?;
    let size = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    let start = (length - 8).checked_sub(size.into()).filter(|_| end[4..] == *b"PAR1");
    file.seek(SeekFrom::Start(start.ok_or_else(|| wrong("no footer at the file's end".into()))?))?;
    let mut footer = vec![0; size as usize];
    file.read_exact(&mut footer)?;
    Ok(footer)
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
        let expansion = self.expansion.load(Ordering::Relaxed);
        let rest = self.length.saturating_sub(start) as usize;
        // A page's statistics can make its header long.
        for most in [8 << 10, 64 << 10].map(|most: usize| most.min(rest)) {
            let mut file = self.file.try_clone()?;
            file.seek(SeekFrom::Start(start))?;
            let mut reader = BufReader::with_capacity(most, file);
            match if expansion == 0 { Ok(()) } else { check(reader.fill_buf()?, expansion) } {
                Ok(()) => return Ok(Rest(reader)),
                Err(Doubt::Short) if reader.buffer().len() == most => {}
                Err(_) => break,
            }
        }
        Err(wrong(format!("the page at byte {start} promises more than it holds")))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        if start.saturating_add(length as u64) > self.length {
            return Err(wrong(format!("{length} bytes from byte {start} lie outside the file")));
        }
        self.file.get_bytes(start, length)
    }
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        assert_eq!(caught(|| 3).unwrap(), 3);
        let message = caught(|| [0; 3][std::hint::black_box(3)]).unwrap_err().to_string();
        assert!(message.contains("cannot make out"), "{message}");
    }
}
