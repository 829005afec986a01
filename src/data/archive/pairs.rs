//! Archives whose tiles are patches already: GeoTIFFs of every layout, class folders, the procedural archive, a store.

use std::collections::BTreeMap;

use super::super::{Error, ImageSource, OpenOptions, PairSource, Report, Result, Sensor, open_images, open_with};
use super::cut::{S1_MISSING, S1_NOT_POSITIVE, S2_MISSING};
use super::{About, ArchiveOptions, Band, Reader, Scene};

enum Source {
    Pairs(Box<dyn PairSource>),
    Images(Box<dyn ImageSource>),
}

/// A source of tiles as an archive of scenes of one patch.
pub struct Ready {
    about: About,
    source: Source,
    dtype: BTreeMap<Sensor, String>,
}

impl Ready {
    /// Opens pairs if there are any, else the images of one sensor.
    pub fn open(spec: &str, plain: &OpenOptions, options: &ArchiveOptions) -> Result<Self> {
        if options.only.is_some() {
            return Err(Error::new(spec, "has no cells to choose by a sample", "leave out --sample"));
        }
        let source = match open_with(spec, plain) {
            Ok(pairs) => Source::Pairs(pairs),
            // Pairs that cannot be read are not an archive of one sensor.
            #[cfg(feature = "gdal")]
            Err(why) if super::super::geotiff::find::has_pairs(std::path::Path::new(spec)) => return Err(why),
            Err(why) => match [Sensor::S2, Sensor::S1].into_iter().find_map(|s| open_images(spec, s, plain).ok()) {
                Some(images) => Source::Images(images),
                None => return Err(why),
            },
        };
        let (report, sensors) = match &source {
            Source::Pairs(pairs) => (pairs.describe(), vec![Sensor::S1, Sensor::S2]),
            Source::Images(images) => (images.describe(), vec![images.sensor()]),
        };
        let Report { name, tile_px, classes, dropped, notes, dtype, skipped, .. } = report.clone();
        let format = if spec.starts_with("synth:") { "procedural" } else { "GeoTIFF" };
        let is_patch = |reason: &String| [S1_MISSING, S1_NOT_POSITIVE, S2_MISSING].contains(&reason.as_str());
        let (patches, left_out) = dropped.into_iter().partition(|(reason, _)| is_patch(reason));
        let about = About {
            format: format.into(),
            name,
            sensors,
            tile_px,
            patches_per_scene: 1,
            classes,
            dropped: patches,
            left_out,
            notes,
            skipped,
        };
        Ok(Self { about, source, dtype })
    }
}

impl Reader for Ready {
    fn about(&self) -> &About {
        &self.about
    }
    fn len(&self) -> usize {
        match &self.source {
            Source::Pairs(pairs) => pairs.len(),
            Source::Images(images) => images.len(),
        }
    }
    fn id(&self, index: usize) -> String {
        format!("tile {index}")
    }
    fn group(&self, index: usize) -> usize {
        match &self.source {
            Source::Pairs(pairs) => pairs.group(index),
            Source::Images(_) => index,
        }
    }
    fn scene(&self, index: usize) -> Result<Scene> {
        let (id, geo, label, mask, sensors) = match &self.source {
            Source::Pairs(pairs) => {
                let p = pairs.pair(index)?;
                (p.id, p.geo, p.label, p.mask, vec![(Sensor::S1, p.s1), (Sensor::S2, p.s2)])
            }
            Source::Images(images) => {
                let i = images.image(index)?;
                (i.id, i.geo, i.label, None, vec![(images.sensor(), i.pixels)])
            }
        };
        let px = self.about.tile_px;
        let bands = sensors.iter().flat_map(|(sensor, pixels)| {
            sensor.bands().iter().zip(pixels.chunks_exact(px * px)).map(|(name, values)| Band {
                name: name.to_string(),
                dtype: self.dtype.get(sensor).cloned().unwrap_or_else(|| "float32".into()),
                values: values.to_vec(),
                width: px,
                height: px,
                geo: geo.clone(),
                from: format!("{}: {id}", self.about.name),
            })
        });
        let bands = bands.collect();
        Ok(Scene { id, bands, labels: label.into_iter().collect(), mask, ..Scene::default() })
    }
}
