//! Writing results so that nothing half-written ever stands under a final name.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Writes a file through `fill`: temporary file beside it, fsync, rename, fsync of the folder. A failure leaves the old file.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>) -> Result<()> {
    replace(path, |part| {
        let write = || -> io::Result<()> {
            let mut file = BufWriter::new(File::create(part)?);
            fill(&mut file)?;
            file.flush()
        };
        write().map_err(|e| unwritable(path, e))
    })
}

/// The same for writers that want a path: `fill` makes the file it is given.
pub fn replace(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| Error::new(path.display(), "not a file name", "name a file to write"))?;
    fs::create_dir_all(folder).map_err(|e| unwritable(path, e))?;
    let part = Part(folder.join(format!(".{}.{}.part", name.to_string_lossy(), std::process::id())));
    fill(&part.0)?;
    let publish = || -> io::Result<()> {
        File::open(&part.0)?.sync_all()?;
        fs::rename(&part.0, path)?;
        // Makes the new name itself durable; folders cannot be opened everywhere.
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    };
    publish().map_err(|e| unwritable(path, e))
}

/// A temporary file that goes away unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn unwritable(path: &Path, e: io::Error) -> Error {
    Error::new(path.display(), format!("cannot be written: {e}"), "check the folder's free space and rights")
}

/// Writes [rows, columns] numbers as NumPy's `.npy`, version 1.0, little-endian float32.
pub fn npy(path: &Path, values: &[f32], columns: usize) -> Result<()> {
    let rows = values.len() / columns.max(1);
    if rows * columns != values.len() {
        return Err(Error::new(
            path.display(),
            format!("{} values in rows of {columns}", values.len()),
            "this is a bug, report it",
        ));
    }
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64, after a line break.
    let padding = 63 - (header.len() + 10) % 64;
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    write_atomic(path, |file| {
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        values.iter().try_for_each(|x| file.write_all(&x.to_le_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.bin");
        write_atomic(&path, |f| f.write_all(b"old")).unwrap();
        let full = write_atomic(&path, |f| {
            f.write_all(b"half of the new")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        let message = full.unwrap_err().to_string();
        assert!(message.contains("weights.bin") && message.contains("free space"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_atomic(&path, |f| f.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn npy_is_laid_out_as_numpy_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        for columns in [1, 3, 192] {
            let path = dir.path().join("e.npy");
            let values: Vec<f32> = (0..columns * 2).map(|i| i as f32 * 0.5).collect();
            npy(&path, &values, columns).unwrap();
            let bytes = fs::read(&path).unwrap();
            let length = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
            assert_eq!((10 + length) % 64, 0);
            let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
            assert!(header.contains(&format!("(2, {columns})")) && header.ends_with('\n'));
            let data: Vec<f32> =
                bytes[10 + length..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            assert_eq!(data, values);
        }
        assert!(npy(&dir.path().join("bad.npy"), &[1.0; 5], 2).is_err());
    }
}
