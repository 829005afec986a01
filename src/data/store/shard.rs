//! One shard: a safetensors file that any reader of the format opens.
//!
//! Pixels: `s1` [N, 2, px, px], `s2_10m` [N, 4, px, px], `s2_20m` [N, 6, px / 2, px / 2], each u16 or f32, whatever gives back
//! the same numbers in fewer bytes. Beside them ids, places, classes, checksums, and where the dropped patches were. The
//! metadata's `csmoe` holds a [`Record`].

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use bytemuck::pod_collect_to_vec;
use crc32c::crc32c_append;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};

use super::super::export::write_atomic;
use super::super::geo::Geo;
use super::super::stats::Moments;
use super::super::{Error, Result, Sensor};
use super::Plan;
use super::encode::{Tensor, pixels, restore};

/// Groups of bands of one resolution, in the model's order.
pub const GROUPS: [(&str, Sensor, std::ops::Range<usize>); 3] =
    [("s1", Sensor::S1, 0..2), ("s2_10m", Sensor::S2, 0..4), ("s2_20m", Sensor::S2, 4..10)];
const NO_CRS: u16 = u16::MAX;

/// A shard's account of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Index of its first scene.
    pub first_scene: usize,
    /// Scenes that were to be cut.
    pub scenes: usize,
    /// Band names of every tensor of pixels.
    pub bands: BTreeMap<String, Vec<String>>,
    /// Reasons of the dropped patches, by number in `dropped_reason`.
    pub reasons: Vec<String>,
    /// Scenes that were not read, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// What was done to how many scenes.
    pub notes: BTreeMap<String, usize>,
    /// Coordinate systems, by number in `crs`.
    pub crs: Vec<String>,
    /// Count, mean and squared deviations of every band, S1's first.
    pub moments: Vec<Moments>,
    /// CRC-32C of every tensor that is not pixels.
    pub checksums: BTreeMap<String, u32>,
}

/// One patch to be written.
pub struct Entry {
    pub id: String,
    pub group: usize,
    pub at: (usize, usize),
    pub s1: Vec<f32>,
    pub s2: Vec<f32>,
    pub geo: Option<Geo>,
    pub labels: Vec<u32>,
    pub mask: Option<Vec<u8>>,
}

/// One patch that was dropped.
pub struct Dropped {
    /// Index of the scene in the archive.
    pub scene: usize,
    pub at: (usize, usize),
    pub reason: String,
}

/// Writes a shard; a failure leaves nothing under its name.
pub fn write(path: &Path, plan: &Plan, mut record: Record, entries: &[Entry], dropped: &[Dropped]) -> Result<()> {
    let (n, px) = (entries.len(), plan.tile_px);
    let mut images = BTreeMap::<String, Tensor>::new();
    for (name, sensor, range) in GROUPS.iter().filter(|(_, sensor, _)| plan.sensors.contains(sensor)) {
        let views: Vec<&[f32]> = entries
            .iter()
            .map(|e| if *sensor == Sensor::S1 { &e.s1 } else { &e.s2 })
            .map(|whole| &whole[range.start * px * px..range.end * px * px])
            .collect();
        images.insert(name.to_string(), pixels(&views, range.len(), px));
        record.bands.insert(name.to_string(), sensor.bands()[range.clone()].iter().map(|b| b.to_string()).collect());
    }
    if n > 0 && entries.iter().all(|e| e.mask.is_some()) {
        let masks: Vec<u8> = entries.iter().flat_map(|e| e.mask.iter().flatten().copied()).collect();
        images.insert("mask".into(), Tensor::of(Dtype::U8, &[n, px, px], &masks));
    }
    let crc: Vec<u32> =
        (0..n).map(|i| images.values().fold(0, |crc, t| crc32c_append(crc, slice(&t.bytes, n, i)))).collect();

    let mut about = BTreeMap::<String, Tensor>::new();
    let mut add = |name: &str, tensor: Tensor| drop(about.insert(name.into(), tensor));
    add("crc32c", Tensor::of(Dtype::U32, &[n], &crc));
    let ids: Vec<u8> = entries.iter().flat_map(|e| e.id.bytes()).collect();
    let mut end = 0;
    let ends: Vec<u32> = entries
        .iter()
        .map(|e| {
            end += e.id.len() as u32;
            end
        })
        .collect();
    add("ids", Tensor::of(Dtype::U8, &[ids.len()], &ids));
    add("id_ends", Tensor::of(Dtype::U32, &[n], &ends));
    add("scene", Tensor::of(Dtype::U32, &[n], &entries.iter().map(|e| e.group as u32).collect::<Vec<_>>()));
    let place = |at: (usize, usize)| [at.0 as u16, at.1 as u16];
    add("at", Tensor::of(Dtype::U16, &[n, 2], &entries.iter().map(|e| place(e.at)).collect::<Vec<_>>()));
    let transforms: Vec<[f64; 6]> = entries.iter().map(|e| e.geo.as_ref().map_or([0.0; 6], |g| g.transform)).collect();
    add("transform", Tensor::of(Dtype::F64, &[n, 6], &transforms));
    let number = |name: &str, list: &mut Vec<String>| -> u16 {
        let found = list.iter().position(|known| known == name).unwrap_or_else(|| {
            list.push(name.into());
            list.len() - 1
        });
        found as u16
    };
    let crs: Vec<u16> =
        entries.iter().map(|e| e.geo.as_ref().map_or(NO_CRS, |g| number(&g.crs, &mut record.crs))).collect();
    add("crs", Tensor::of(Dtype::U16, &[n], &crs));
    let classes = plan.classes.len();
    if classes > 0 {
        let mut hot = vec![0u8; n * classes];
        for (row, entry) in hot.chunks_exact_mut(classes).zip(entries) {
            entry.labels.iter().filter(|l| (**l as usize) < classes).for_each(|l| row[*l as usize] = 1);
        }
        add("labels", Tensor::of(Dtype::U8, &[n, classes], &hot));
    }
    let m = dropped.len();
    add("dropped_scene", Tensor::of(Dtype::U32, &[m], &dropped.iter().map(|d| d.scene as u32).collect::<Vec<_>>()));
    add("dropped_at", Tensor::of(Dtype::U16, &[m, 2], &dropped.iter().map(|d| place(d.at)).collect::<Vec<_>>()));
    let reasons: Vec<u16> = dropped.iter().map(|d| number(&d.reason, &mut record.reasons)).collect();
    add("dropped_reason", Tensor::of(Dtype::U16, &[m], &reasons));
    record.checksums = about.iter().map(|(name, t)| (name.clone(), crc32c::crc32c(&t.bytes))).collect();

    let bug = |e: String| Error::new(path.display(), e, "this is a bug, report it");
    let text = serde_json::to_string(&record).map_err(|e| bug(e.to_string()))?;
    let tensors = images.iter().chain(&about).map(|(name, t)| {
        TensorView::new(t.dtype, t.shape.clone(), &t.bytes).map(|view| (name, view)).map_err(|e| bug(e.to_string()))
    });
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    // One key: a map of several would be written in a random order.
    let bytes = serialize(tensors, Some(HashMap::from([("csmoe".into(), text)]))).map_err(|e| bug(e.to_string()))?;
    write_atomic(path, |file| file.write_all(&bytes))
}

/// Part `i` of `n` equal ones.
fn slice(bytes: &[u8], n: usize, i: usize) -> &[u8] {
    let size = bytes.len() / n.max(1);
    &bytes[i * size..(i + 1) * size]
}

/// Where a tensor of pixels lies in the file.
#[derive(Debug, Clone)]
struct Pixels {
    at: std::ops::Range<usize>,
    dtype: Dtype,
    side: usize,
    channels: usize,
}

/// A shard mapped into memory.
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    record: Record,
    px: usize,
    patches: usize,
    /// By name, in order.
    images: BTreeMap<String, Pixels>,
    crc: Vec<u32>,
    ids: Vec<u8>,
    ends: Vec<u32>,
    scene: Vec<u32>,
    at: Vec<[u16; 2]>,
    transform: Vec<[f64; 6]>,
    crs: Vec<u16>,
    labels: Vec<u8>,
    dropped: Vec<(u32, [u16; 2], u16)>,
}

impl Shard {
    /// Maps a shard, checks its header against the plan and everything but the pixels against its checksums.
    pub fn open(path: &Path, plan: &Plan) -> Result<Self> {
        let wrong =
            |problem: String| Error::new(path.display(), problem, "delete the shard and run csmoe patches again");
        let file = File::open(path).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
        // SAFETY: shards are renamed into place whole and never changed after.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| wrong(format!("cannot be mapped: {e}")))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| wrong(format!("not safetensors: {e}")))?;
        let base = header + 8;
        if base + metadata.data_len() != map.len() {
            return Err(wrong(format!("{} bytes, its header promises {}", map.len(), base + metadata.data_len())));
        }
        let record = metadata.metadata().as_ref().and_then(|m| m.get("csmoe"));
        let record = record.ok_or_else(|| wrong("no account of itself in its header".into()))?;
        let record: Record = serde_json::from_str(record).map_err(|e| wrong(format!("its account is damaged: {e}")))?;
        let find = Find { metadata: &metadata, map: &map, base, record: &record, path };
        let n = find.info("crc32c", Dtype::U32)?.0.first().copied().unwrap_or(0);
        let px = plan.tile_px;
        let mut images = BTreeMap::new();
        for (name, sensor, range) in GROUPS.iter().filter(|(_, sensor, _)| plan.sensors.contains(sensor)) {
            let info = metadata.info(name).ok_or_else(|| wrong(format!("no tensor {name}")))?;
            let side = info.shape.last().copied().unwrap_or(0);
            let fits = matches!(info.dtype, Dtype::U16 | Dtype::F32) && (side == px || 2 * side == px);
            if !fits
                || info.shape != [n, range.len(), side, side]
                || sensor.bands()[range.clone()] != record.bands.get(*name).map_or(&[][..], Vec::as_slice)[..]
            {
                return Err(wrong(format!("{name} is {:?} {:?}", info.dtype, info.shape)));
            }
            let at = base + info.data_offsets.0..base + info.data_offsets.1;
            images.insert(name.to_string(), Pixels { at, dtype: info.dtype, side, channels: range.len() });
        }
        if let Some(info) = metadata.info("mask") {
            if info.shape != [n, px, px] || info.dtype != Dtype::U8 {
                return Err(wrong(format!("mask is {:?} {:?}", info.dtype, info.shape)));
            }
            let at = base + info.data_offsets.0..base + info.data_offsets.1;
            images.insert("mask".into(), Pixels { at, dtype: Dtype::U8, side: px, channels: 1 });
        }
        let classes = plan.classes.len();
        let ids = find.values::<u8>("ids", Dtype::U8, None)?;
        let ends: Vec<u32> = find.values("id_ends", Dtype::U32, Some(n))?;
        if !ends.is_sorted() || ends.last().is_some_and(|e| *e as usize > ids.len()) {
            return Err(wrong("its ids are damaged".into()));
        }
        let scenes: Vec<u32> = find.values("dropped_scene", Dtype::U32, None)?;
        let places: Vec<[u16; 2]> = find.values("dropped_at", Dtype::U16, Some(scenes.len()))?;
        let reasons: Vec<u16> = find.values("dropped_reason", Dtype::U16, Some(scenes.len()))?;
        let crs: Vec<u16> = find.values("crs", Dtype::U16, Some(n))?;
        let known = |i: u16, list: &[String]| (i as usize) < list.len();
        if reasons.iter().any(|r| !known(*r, &record.reasons))
            || crs.iter().any(|c| *c != NO_CRS && !known(*c, &record.crs))
        {
            return Err(wrong("its lists of names are damaged".into()));
        }
        Ok(Self {
            px,
            patches: n,
            crc: find.values("crc32c", Dtype::U32, Some(n))?,
            scene: find.values("scene", Dtype::U32, Some(n))?,
            at: find.values("at", Dtype::U16, Some(n))?,
            transform: find.values("transform", Dtype::F64, Some(n))?,
            labels: if classes > 0 { find.values::<u8>("labels", Dtype::U8, Some(n * classes))? } else { vec![] },
            dropped: scenes.into_iter().zip(places).zip(reasons).map(|((s, p), r)| (s, p, r)).collect(),
            path: path.into(),
            ids,
            ends,
            crs,
            images,
            record,
            map,
        })
    }

    /// Number of patches.
    pub fn len(&self) -> usize {
        self.patches
    }
    /// Whether every patch was dropped.
    pub fn is_empty(&self) -> bool {
        self.patches == 0
    }
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Its account of itself.
    pub fn record(&self) -> &Record {
        &self.record
    }
    /// Type of the numbers of a tensor of pixels.
    pub fn dtype(&self, group: &str) -> Option<Dtype> {
        self.images.get(group).map(|p| p.dtype)
    }
    /// Dropped patches: scene, row and column, reason.
    pub fn dropped(&self) -> impl Iterator<Item = (usize, (usize, usize), &str)> {
        self.dropped.iter().map(|(scene, at, reason)| {
            (*scene as usize, (at[0] as usize, at[1] as usize), self.record.reasons[*reason as usize].as_str())
        })
    }
    /// A patch's name.
    pub fn id(&self, i: usize) -> String {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        String::from_utf8_lossy(&self.ids[start as usize..self.ends[i] as usize]).into_owned()
    }
    /// The scene it was cut from.
    pub fn group(&self, i: usize) -> usize {
        self.scene[i] as usize
    }
    /// Its row and column there.
    pub fn at(&self, i: usize) -> (usize, usize) {
        (self.at[i][0] as usize, self.at[i][1] as usize)
    }
    /// Its classes.
    pub fn labels(&self, i: usize) -> impl Iterator<Item = u32> {
        let classes = self.labels.len() / self.patches.max(1);
        (0..classes as u32).filter(move |c| self.labels[i * classes + *c as usize] != 0)
    }
    /// Its class, if it has exactly one.
    pub fn label(&self, i: usize) -> Option<u32> {
        let mut all = self.labels(i);
        all.next().filter(|_| all.next().is_none())
    }
    /// Where it lies.
    pub fn geo(&self, i: usize) -> Option<Geo> {
        let crs = self.record.crs.get(self.crs[i] as usize)?;
        Some(Geo::new(self.transform[i], crs.clone(), self.px, self.px))
    }
    /// Class of each of its pixels.
    pub fn mask(&self, i: usize) -> Option<Vec<u8>> {
        self.images.get("mask").map(|p| slice(&self.map[p.at.clone()], self.patches, i).to_vec())
    }

    /// Patch `i` in decibels and digital numbers, checked.
    pub fn fill(&self, i: usize, s1: Option<&mut [f32]>, s2: Option<&mut [f32]>) -> Result<()> {
        let parts = || self.images.iter().map(|(name, p)| (name, p, slice(&self.map[p.at.clone()], self.patches, i)));
        if parts().fold(0, |crc, (_, _, bytes)| crc32c_append(crc, bytes)) != self.crc[i] {
            let offset = parts().next().map_or(0, |(_, p, bytes)| p.at.start + i * bytes.len());
            let problem = format!("patch {i} ({}, from byte {offset}) is damaged: wrong checksum", self.id(i));
            return Err(Error::new(self.path.display(), problem, "delete the shard and run csmoe patches again"));
        }
        let mut out = [s1, s2];
        for (name, p, bytes) in parts() {
            let Some((_, sensor, range)) = GROUPS.iter().find(|(group, ..)| group == name) else { continue };
            if let Some(out) = &mut out[(*sensor == Sensor::S2) as usize] {
                let plane = self.px * self.px;
                restore(bytes, p.dtype, p.side, self.px, &mut out[range.start * plane..][..p.channels * plane]);
            }
        }
        Ok(())
    }
}

/// Tensors beside the pixels.
struct Find<'a> {
    metadata: &'a Metadata,
    map: &'a [u8],
    base: usize,
    record: &'a Record,
    path: &'a Path,
}

impl Find<'_> {
    fn info(&self, name: &str, dtype: Dtype) -> Result<(&[usize], &[u8])> {
        let wrong =
            |problem: String| Error::new(self.path.display(), problem, "delete the shard and run csmoe patches again");
        let info = self.metadata.info(name).ok_or_else(|| wrong(format!("no tensor {name}")))?;
        let (start, end) = (self.base + info.data_offsets.0, self.base + info.data_offsets.1);
        let bytes = &self.map[start..end];
        if info.dtype != dtype || self.record.checksums.get(name) != Some(&crc32c::crc32c(bytes)) {
            return Err(wrong(format!("{name} (bytes {start}..{end}) is damaged: wrong checksum")));
        }
        Ok((&info.shape, bytes))
    }

    /// All values of a tensor as rows of `T`; `rows` of them, if said.
    fn values<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype, rows: Option<usize>) -> Result<Vec<T>> {
        let (_, bytes) = self.info(name, dtype)?;
        if rows.is_some_and(|n| n * size_of::<T>() != bytes.len()) || bytes.len() % size_of::<T>() != 0 {
            let problem = format!("{name} has {} bytes for {rows:?} patches", bytes.len());
            return Err(Error::new(self.path.display(), problem, "delete the shard and run csmoe patches again"));
        }
        Ok(pod_collect_to_vec(bytes))
    }
}
