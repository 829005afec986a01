//! A file that appears whole or not at all: written beside its place, then renamed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file under way. Dropped unfinished, it leaves nothing behind.
pub struct Replace {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Replace {
    /// Opens a temporary file in the target's folder.
    pub fn create(target: &Path) -> Result<Replace> {
        let name = target.file_name().with_context(|| format!("{}: not a file name", target.display()))?;
        let temporary = target.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
        let file = File::create(&temporary).with_context(|| format!("{}: cannot be written here", target.display()))?;
        Ok(Replace { target: target.to_path_buf(), temporary, file: Some(BufWriter::with_capacity(1 << 20, file)) })
    }

    /// Makes it durable and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        self.commit().with_context(|| format!("{}: cannot be written", self.target.display()))
    }

    fn commit(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&self.temporary, &self.target)?;
        }
        Ok(())
    }

    /// Writes a whole file at once.
    pub fn write_all(target: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = Replace::create(target)?;
        file.write(bytes).map(drop).with_context(|| format!("{}: cannot be written", target.display()))?;
        file.finish()
    }
}

impl Write for Replace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("already finished"))?;
        file.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

impl Drop for Replace {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
