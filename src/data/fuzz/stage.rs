//! A small whole archive in a folder, and edits of its files read from a fuzzer's bytes.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// An archive's files as they are when nothing is wrong.
pub struct Stage {
    base: PathBuf,
    /// Counts the runs: each has a folder of its own name, as readers keep files open by their path.
    run: usize,
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// A run's folder; put in order again when dropped.
pub struct Folder<'a> {
    stage: &'a mut Stage,
    touched: Vec<PathBuf>,
}

fn walk(dir: &Path, root: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true => walk(&path, root, files),
            false => files.push((path.strip_prefix(root).expect("below").into(), fs::read(&path).expect("a file"))),
        }
    }
}

/// Takes bytes from the front, fewer where there are no more.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }
    fn byte(&mut self) -> usize {
        self.take(1).first().map_or(0, |b| *b as usize)
    }
    fn word(&mut self) -> usize {
        self.byte() | self.byte() << 8
    }
}

impl Stage {
    /// `fill` writes the archive.
    pub fn new(name: &str, fill: impl FnOnce(&Path)) -> Self {
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
        let base = memory.join(format!("csmoe-{name}-{}-{thread}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let (run, root) = (0, base.join("0"));
        fs::create_dir_all(&root).expect("a writable folder");
        fill(&root);
        let mut files = vec![];
        walk(&root, &root, &mut files);
        Self { base, run, files }
    }

    /// The same without the files in whose path `mark` is: fewer of them are faster.
    pub fn without(&self, mark: &str) -> Self {
        let (base, run) = (self.base.with_extension("part"), 0);
        let root = base.join("0");
        let files = self.files.iter().filter(|(path, _)| !path.to_string_lossy().contains(mark)).cloned();
        let files: Vec<(PathBuf, Vec<u8>)> = files.collect();
        let _ = fs::remove_dir_all(&base);
        for (path, bytes) in &files {
            let full = root.join(path);
            fs::create_dir_all(full.parent().unwrap_or(&root)).expect("a writable folder");
            fs::write(full, bytes).expect("a writable folder");
        }
        Self { base, run, files }
    }

    /// The archive after the edits that `input` spells: an operation, a file, and what that operation takes.
    pub fn edit(&mut self, input: &[u8]) -> Folder<'_> {
        let old = self.base.join(self.run.to_string());
        self.run += 1;
        fs::rename(old, self.base.join(self.run.to_string())).expect("a writable folder");
        let mut folder = Folder { stage: self, touched: vec![] };
        let mut input = Input(input);
        while !input.0.is_empty() && folder.touched.len() < 8 {
            let operation = input.byte();
            let number = input.byte() % folder.stage.files.len();
            let path = folder.stage.files[number].0.clone();
            let now = || fs::read(folder.root().join(&path)).unwrap_or_default();
            let bytes = match operation % 6 {
                // The whole file.
                0 => {
                    let length = input.word();
                    Some(input.take(length).to_vec())
                }
                // Some bytes of it.
                1 => {
                    let (mut bytes, at, length) = (now(), input.word(), input.byte());
                    let new = input.take(length);
                    if let Some(place) = bytes.get_mut(at..).filter(|rest| rest.len() >= new.len()) {
                        place[..new.len()].copy_from_slice(new);
                    }
                    Some(bytes)
                }
                // Cut short.
                2 => {
                    let (mut bytes, length) = (now(), input.word());
                    bytes.truncate(length);
                    Some(bytes)
                }
                // Not there.
                3 => None,
                // Another of the archive's files under its name.
                4 => {
                    let other = input.byte() % folder.stage.files.len();
                    Some(folder.stage.files[other].1.clone())
                }
                // The same file once more, under a name of the input's.
                _ => {
                    let length = input.byte();
                    let name = String::from_utf8_lossy(input.take(length)).into_owned();
                    let (name, bytes) = (PathBuf::from(name), now());
                    if !name.as_os_str().is_empty()
                        && name.components().all(|part| matches!(part, Component::Normal(_)))
                    {
                        folder.write(&name, Some(bytes));
                    }
                    continue;
                }
            };
            folder.write(&path, bytes);
        }
        folder
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

impl Folder<'_> {
    pub fn root(&self) -> PathBuf {
        self.stage.base.join(self.stage.run.to_string())
    }

    /// Writes or removes a file; a name that cannot be one is passed over.
    fn write(&mut self, path: &Path, bytes: Option<Vec<u8>>) {
        let full = self.root().join(path);
        let _ = match bytes {
            Some(bytes) => {
                let _ = full.parent().map(fs::create_dir_all);
                fs::write(full, bytes)
            }
            None => fs::remove_file(full),
        };
        self.touched.push(path.into());
    }

    /// Bytes of all its files.
    pub fn size(&self) -> usize {
        let length = |path: &PathBuf| fs::metadata(self.root().join(path)).map_or(0, |m| m.len() as usize);
        let rest = self.stage.files.iter().filter(|(path, _)| !self.touched.contains(path));
        let touched: std::collections::BTreeSet<&PathBuf> = self.touched.iter().collect();
        rest.map(|(_, bytes)| bytes.len()).sum::<usize>() + touched.into_iter().map(length).sum::<usize>()
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        let root = self.root();
        for path in &self.touched {
            let full = root.join(path);
            match self.stage.files.iter().find(|(known, _)| known == path) {
                Some((_, bytes)) => {
                    let _ = fs::create_dir_all(full.parent().unwrap_or(&root));
                    let _ = fs::write(full, bytes);
                }
                None => {
                    let _ = fs::remove_file(&full);
                    // Folders made for it, from the innermost; a name too long leaves some of them.
                    for dir in full.ancestors().skip(1).take_while(|dir| *dir != root) {
                        let _ = fs::remove_dir(dir);
                    }
                }
            }
        }
    }
}
