//! Writing results so that nothing half-written ever stands under a final name.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// A file under way, written beside its place and renamed when it is whole. Dropped unfinished, it leaves nothing.
pub struct Replace {
    part: Part,
    file: BufWriter<File>,
}

impl Replace {
    /// Opens a temporary file in the target's folder, which is made where it is missing.
    pub fn create(target: &Path) -> Result<Replace> {
        let part = Part::new(target)?;
        let file = File::create(&part.path).map_err(|e| unwritable(target, e))?;
        Ok(Replace { part, file: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Makes it durable and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| unwritable(&self.part.target, e))?;
        self.part.publish()
    }

    /// Writes a whole file at once.
    pub fn write_all(target: &Path, bytes: &[u8]) -> Result<()> {
        write_atomic(target, |file| file.write_all(bytes))
    }
}

impl Write for Replace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a file through `fill`: temporary file beside it, fsync, rename, fsync of the folder. A failure leaves the old file.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>) -> Result<()> {
    let mut file = Replace::create(path)?;
    fill(&mut file).map_err(|e| unwritable(path, e))?;
    file.finish()
}

/// The same for writers that want a path: `fill` makes the file it is given.
pub fn replace(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = Part::new(path)?;
    fill(&part.path)?;
    part.publish()
}

/// A temporary file that goes away unless it was renamed.
struct Part {
    target: PathBuf,
    path: PathBuf,
}

impl Part {
    /// `.NAME.PROCESS.part` beside the target. What a process that is no more left under such a name goes away now.
    fn new(target: &Path) -> Result<Part> {
        let name = target.file_name();
        let name = name.ok_or_else(|| Error::new(target.display(), "not a file name", "name a file to write"))?;
        // A device or a pipe would be replaced by the file.
        if fs::metadata(target).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
            return Err(Error::new(target.display(), "not a regular file", "name a file to write"));
        }
        let folder = folder_of(target);
        fs::create_dir_all(folder).map_err(|e| unwritable(target, e))?;
        let prefix = format!(".{}.", name.to_string_lossy());
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let found = entry.file_name();
            let process = found.to_str().and_then(|f| f.strip_prefix(&prefix)?.strip_suffix(".part")?.parse().ok());
            if process.is_some_and(is_gone) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let path = folder.join(format!("{prefix}{}.part", std::process::id()));
        Ok(Part { target: target.to_path_buf(), path })
    }

    fn publish(self) -> Result<()> {
        let publish = || -> io::Result<()> {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, &self.target)?;
            // Makes the new name itself durable; folders cannot be opened everywhere.
            if cfg!(unix) { File::open(folder_of(&self.target))?.sync_all() } else { Ok(()) }
        };
        publish().map_err(|e| unwritable(&self.target, e))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether no process has this number any more, where that can be seen.
fn is_gone(process: u32) -> bool {
    Path::new("/proc/self").exists() && !Path::new("/proc").join(process.to_string()).exists()
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

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the name is a string that ends with 0.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let message = write_atomic(&path, |f| f.write_all(b"new")).unwrap_err().to_string();
        assert!(message.contains("pipe") && message.contains("not a regular file"), "{message}");
        assert!(!fs::metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_a_killed_process_left_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cells.csv");
        // No process has the greatest number; process 1 is always there.
        let left = [".cells.csv.4294967295.part", ".cells.csv.1.part", ".other.csv.4294967295.part", "notes.part"];
        left.iter().for_each(|name| fs::write(dir.path().join(name), b"half").unwrap());
        write_atomic(&path, |f| f.write_all(b"whole")).unwrap();
        let there = left.map(|name| dir.path().join(name).exists());
        assert_eq!(there, [!Path::new("/proc/self").exists(), true, true, true]);
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
