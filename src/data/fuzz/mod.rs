//! What the fuzz targets run and the tests replay: any bytes, each reader, and what it promises whatever they are.
//!
//! No panic; an end; one line of error that names the file; no more memory than four times the files and the pixels that
//! their headers were believed (ARCHITECTURE.md, "Ruined files").

mod stage;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rayon::{ThreadPool, ThreadPoolBuilder};
use safetensors::SafeTensors;
use serde_json::Value;

use super::archive::cut::cut;
use super::archive::{ArchiveOptions, BoaOffset, Reader, big_earth_net, decode, geo_bench, major_tom, open, unpacked};
use super::store::write::{Job, Watch};
use super::store::{Store, shard_name};
use super::synth::Synth;
use super::synth::layouts::some_cells;
use super::{Error, Geo, OnError, PairSource, Result, S1_BANDS, S2_BANDS, geotiff, meter};
use stage::Stage;

/// Side of a tile: the least there is.
const PX: usize = 8;
/// What a reader may take beside: a coordinate system that PROJ has not met yet takes 1 MiB, buffers of files much less.
const BESIDE: usize = 2 << 20;

/// A target's name, and what it does with any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("big_earth_net", big_earth_net),
    ("geo_bench", geo_bench),
    ("geotiff", geotiff),
    ("lmdb", lmdb),
    ("major_tom", major_tom),
    ("pairs", pairs),
    ("store", store),
    ("unpacked", unpacked),
];

type Opened = Result<Option<Box<dyn Reader>>>;

/// Runs `work` in a pool that is this thread itself: nothing is started for a run, and all memory is counted.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread_local!(static POOL: ThreadPool =
        ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().expect("the thread's only pool"));
    POOL.with(|pool| pool.install(work))
}

/// A thread's archive, of radar alone and whole.
struct Bench {
    stages: [Stage; 2],
}

impl Bench {
    fn new(name: &str, fill: fn(&Path)) -> Self {
        let whole = Stage::new(name, |root| alone(|| fill(root)));
        Self { stages: [whole.without("S2"), whole] }
    }
}

fn boxed<R: Reader + 'static>(found: Result<Option<R>>) -> Opened {
    Ok(found?.map(|reader| Box::new(reader) as Box<dyn Reader>))
}

/// An error is one line, and says which file.
fn told(error: &Error, place: &str) {
    let message = error.to_string();
    assert!(message.contains(place) && !message.contains('\n'), "no place in: {message}");
}

/// Decodes and cuts the first scenes.
fn read(reader: &dyn Reader, place: &str) {
    let about = reader.about();
    assert!(!reader.is_empty() && (1..=4096).contains(&about.tile_px), "{about}");
    for index in 0..reader.len().min(2) {
        match reader.scene(index).and_then(|scene| cut(&scene, about.tile_px, false)) {
            Ok(cut) => assert_eq!(cut.patches.len(), cut.shape.0 * cut.shape.1),
            Err(e) => told(&e, place),
        }
    }
}

/// Edits the archive by `input`, whose first byte chooses the options, and hands it to `work`.
fn staged(bench: &mut Bench, input: &[u8], work: impl Fn(&Path, &ArchiveOptions) -> Result<()> + Sync + Send) {
    let (first, edits) = input.split_first().unwrap_or((&0, &[]));
    let boa_offset = [BoaOffset::Auto, BoaOffset::Keep, BoaOffset::Subtract][*first as usize % 3];
    let on_error = if *first & 32 == 0 { OnError::Stop } else { OnError::Skip };
    let options = ArchiveOptions { tile_px: (*first < 128).then_some(PX), boa_offset, only: None, on_error };
    let folder = bench.stages[(*first & 64 != 0) as usize].edit(edits);
    let (root, size) = (folder.root(), folder.size());
    let (took, believed) = meter::measure(|| {
        if let Err(e) = alone(|| work(&root, &options)) {
            told(&e, &root.display().to_string());
        }
    });
    assert!(took <= 4 * (size + believed) + BESIDE, "{took} bytes for files of {size} and {believed} of pixels");
}

/// A target: an archive that `fill` writes, opened by `find`.
macro_rules! target {
    ($(#[$about:meta])* $name:ident, $fill:expr, $find:expr) => {
        $(#[$about])*
        pub fn $name(input: &[u8]) {
            thread_local!(static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) });
            BENCH.with_borrow_mut(|bench| {
                let bench = bench.get_or_insert_with(|| {
                    let mut bench = Bench::new(stringify!($name), $fill);
                    // What GDAL and PROJ load once is nobody's memory; and as they are, both are read to the end.
                    for stage in &mut bench.stages {
                        let folder = stage.edit(&[]);
                        let options = ArchiveOptions { tile_px: Some(PX), ..Default::default() };
                        let found = alone(|| $find(&folder.root(), &options));
                        let reader = found.expect("whole").expect("found");
                        (0..reader.len()).for_each(|i| drop(reader.scene(i).expect("whole")));
                    }
                    bench
                });
                staged(bench, input, |root, options| {
                    let place = root.display().to_string();
                    $find(root, options)?.iter().for_each(|reader| read(&**reader, &place));
                    Ok(())
                });
            });
        }
    };
}

target!(
    /// Major TOM in Parquet.
    major_tom,
    |root| Synth::new(2, 8, PX).write_major_tom(root, &some_cells(2), |_| {}).expect("written"),
    |root: &Path, options: &ArchiveOptions| boxed(major_tom::MajorTom::find(root, options))
);

target!(
    /// Major TOM as loose GeoTIFFs.
    unpacked,
    write_unpacked,
    |root: &Path, options: &ArchiveOptions| boxed(unpacked::Unpacked::find(root, options))
);

target!(
    /// BigEarthNet in folders.
    big_earth_net,
    |root| Synth::new(2, 8, PX).write_big_earth_net(root, |_| {}).expect("written"),
    |root: &Path, options: &ArchiveOptions| boxed(big_earth_net::BigEarthNet::find(root, options))
);

target!(
    /// GEO-Bench in HDF5 and JSON.
    geo_bench,
    |root| Synth::new(2, 8, PX).write_geo_bench(root, |_| {}).expect("written"),
    |root: &Path, options: &ArchiveOptions| boxed(geo_bench::GeoBench::find(root, options))
);

target!(
    /// Folders of GeoTIFF pairs with class maps and labels, through the door that tells archives apart.
    pairs,
    |root| geotiff::export::export(&Synth::new(2, 8, PX), root, |_| {}).expect("written"),
    |root: &Path, options: &ArchiveOptions| open(&root.display().to_string(), options).map(Some)
);

/// One cell as Major TOM's downloader leaves it, radar of 7.5 m and all optical bands of 10 m.
pub fn write_unpacked(root: &Path) {
    let cell = root.join("{}/0U/0U_7R");
    let place = |step: f64, px: usize| Geo::new([5e5, step, 0.0, 1e6, 0.0, -step], "EPSG:32631", px, px);
    let write = |source: &str, product: &str, band: &str, tiff: Vec<u8>| {
        let folder = PathBuf::from(cell.display().to_string().replace("{}", source)).join(product);
        std::fs::create_dir_all(&folder).expect("a writable folder");
        std::fs::write(folder.join(format!("{band}.tif")), tiff).expect("written");
    };
    for band in S1_BANDS {
        // Three quarters of 10 m.
        let fine = PX * 4 / 3 + 1;
        let values: Vec<f32> = (0..fine * fine).map(|i| 0.01 + i as f32 * 1e-4).collect();
        let tiff =
            geotiff::write::geotiff_bytes(fine, &values, &place(10.0 * PX as f64 / fine as f64, fine), Some(0.0));
        write("S1RTC", "S1A_IW_GRDH_1SDV_20220706T050000_rtc", &band.to_lowercase(), tiff.expect("written"));
    }
    for band in S2_BANDS {
        let values: Vec<u16> = (0..PX * PX).map(|i| 1000 + i as u16).collect();
        let tiff = geotiff::write::geotiff_bytes(PX, &values, &place(10.0, PX), None);
        write("S2L2A", "S2A_MSIL2A_20220706T100000_N0509_R007_T31NAA", band, tiff.expect("written"));
    }
}

/// Any bytes as a GeoTIFF in memory.
pub fn geotiff(input: &[u8]) {
    thread_local!(static READY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if !READY.replace(true) {
        let geo = Geo::new([5e5, 10.0, 0.0, 1e6, 0.0, -10.0], "EPSG:32631", PX, PX);
        let whole = geotiff::write::geotiff_bytes(PX, &[1u16; PX * PX], &geo, None).expect("written");
        decode::bytes(whole, "B02", true, "whole").expect("whole");
    }
    let (took, believed) = meter::measure(|| match decode::bytes(input.to_vec(), "B02", true, "part: row group 3") {
        Ok(band) => assert_eq!(band.values.len(), band.width * band.height),
        Err(e) => told(&e, "part: row group 3"),
    });
    assert!(took <= 4 * (input.len() + believed) + BESIDE, "{took} bytes for {} and {believed}", input.len());
}

/// Any bytes as BigEarthNet's file of LMDB.
pub fn lmdb(input: &[u8]) {
    thread_local!(static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) });
    BENCH.with_borrow_mut(|bench| {
        let bench = bench.get_or_insert_with(|| {
            Bench::new("lmdb", |root| std::fs::write(root.join("data.mdb"), "").expect("a writable folder"))
        });
        // The one file whole, whatever its length.
        let mut edits = vec![0, 0, 0];
        edits.extend((input.len().min(65_535) as u16).to_le_bytes());
        edits.extend_from_slice(input);
        staged(bench, &edits, |root, options| {
            let found = big_earth_net::BigEarthNet::find(root, options)?;
            found.iter().for_each(|reader| read(reader, &root.display().to_string()));
            Ok(())
        });
    });
}

struct Quiet;
impl Watch for Quiet {
    fn scene(&self, _: usize, _: usize) {}
    fn skipped(&self, _: &Error) {}
}

/// A patch store: its index, its statistics and a shard, whose checksums are made right again if the first byte is odd.
pub fn store(input: &[u8]) {
    thread_local!(static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) });
    BENCH.with_borrow_mut(|bench| {
        let bench = bench.get_or_insert_with(|| {
            Bench::new("store", |root| {
                let options = ArchiveOptions { tile_px: Some(PX), ..Default::default() };
                let reader = open("synth:3", &options).expect("procedural");
                let job = Job { reader: &*reader, options: &options, out: root, share: (0, 1) };
                job.run(&Quiet).expect("written");
            })
        });
        let mend = input.first().is_some_and(|first| first % 2 == 1);
        staged(bench, input, |root, _| {
            if mend {
                // What is no shard any more stays as it is.
                let _ = mend_shard(&root.join(shard_name(0)));
            }
            let store = Store::open(root)?;
            store.statistics()?;
            for record in store.records()? {
                assert!(record.bands.len() <= 64 * 1024);
            }
            for number in 0..store.shards().min(2) {
                assert!(store.shard(number)?.dropped().count() < 1 << 20);
            }
            let store = store.pairs()?;
            for index in 0..PairSource::len(&store).min(4) {
                let _ = (store.group(index), PairSource::label(&store, index));
                let pair = store.pair(index)?;
                assert_eq!(pair.s2.len(), 5 * pair.s1.len());
            }
            Ok(())
        });
    });
}

/// Makes a shard's checksums those of what it holds, so that what they guard is tried too.
fn mend_shard(path: &Path) -> Option<()> {
    let bytes = std::fs::read(path).ok()?;
    let (header, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
    let (head, data) = bytes.split_at(header + 8);
    let (mut head, mut data) = (serde_json::from_slice::<Value>(&head[8..]).ok()?, data.to_vec());
    let place = |name: &str| metadata.info(name).map(|info| info.data_offsets.0..info.data_offsets.1);
    let sums = place("crc32c")?;
    let patches = sums.len() / 4;
    for i in 0..patches {
        let images = ["mask", "s1", "s2_10m", "s2_20m"].into_iter().filter_map(place);
        let sum = images.fold(0, |crc, at| {
            let size = at.len() / patches;
            crc32c::crc32c_append(crc, &data[at.start + i * size..][..size])
        });
        data[sums.start + 4 * i..][..4].copy_from_slice(&sum.to_le_bytes());
    }
    let mut record: Value = serde_json::from_str(head["__metadata__"]["csmoe"].as_str()?).ok()?;
    for (name, sum) in record["checksums"].as_object_mut()? {
        place(name).into_iter().for_each(|at| *sum = crc32c::crc32c(&data[at]).into());
    }
    head["__metadata__"]["csmoe"] = record.to_string().into();
    let head = head.to_string();
    let whole = [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &data].concat();
    std::fs::write(path, whole).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_breaks_no_promise() {
        for (name, run) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let inputs = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            let mut count = 0;
            for input in inputs {
                let path = input.unwrap().path();
                let began = std::time::Instant::now();
                run(&std::fs::read(&path).unwrap());
                assert!(began.elapsed().as_secs() < 10, "{}: {:?}", path.display(), began.elapsed());
                count += 1;
            }
            assert!(count > 10, "{name}: {count} inputs");
        }
    }

    /// Every file of every archive cut short, absent, changed for another or for nonsense.
    #[test]
    fn each_file_may_be_spoilt() {
        for (_, run) in TARGETS {
            for file in 0..16 {
                for first in [0, 1, 64, 192] {
                    run(&[first]);
                    run(&[first, 2, file, 0, 0]);
                    run(&[first, 2, file, 200, 0]);
                    run(&[first, 3, file]);
                    run(&[first, 4, file, file + 1]);
                    run(&[first, 4, file, file + 3]);
                    run(&[&[first, 0, file, 8, 0][..], b"nonsense"].concat());
                    run(&[&[first, 5, file, 9][..], b"S2/b.tif."].concat());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "bytes for files of")]
    fn too_much_memory_is_noticed() {
        let mut bench = Bench::new("greedy", |root| std::fs::write(root.join("a"), "a").unwrap());
        staged(&mut bench, &[], |_, _| {
            std::hint::black_box(vec![1u8; 3 * BESIDE]);
            Ok(())
        });
    }
}
