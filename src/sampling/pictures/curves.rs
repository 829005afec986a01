//! The fitness over the generations: a thin line for each stratum, a bold one for their mean.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use plotters::prelude::*;

use super::{GREY, drawing, picture};

/// The best fitness of every stratum after some generations.
#[derive(Clone, Debug)]
pub struct Curves {
    /// The fitness by name.
    pub fitness: String,
    /// (generation, fitness), from generation 0; all of one length.
    pub strata: Vec<Vec<(usize, f64)>>,
}

const LINE: RGBColor = RGBColor(150, 180, 215);
const MEAN: RGBColor = RGBColor(160, 26, 100);

impl Curves {
    /// Those of a sample, from its manifest; strata that were kept whole have none.
    ///
    /// # Errors
    /// A manifest that is absent or not a sample's, or in which no stratum was bred.
    pub fn read(manifest: &Path) -> Result<Curves> {
        let shown = manifest.display();
        let text = std::fs::read_to_string(manifest).with_context(|| format!("{shown}: cannot be read"))?;
        let json: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{shown}: not JSON"))?;
        let foreign = || format!("{shown}: not the manifest of a sample");
        let fitness = json["parameters"]["fitness"].as_str().with_context(foreign)?.to_string();
        let curve = |s: &serde_json::Value| serde_json::from_value(s["curve"].clone()).with_context(foreign);
        let all = json["strata"].as_array().with_context(foreign)?.iter().map(curve);
        let mut strata = all.collect::<Result<Vec<Vec<(usize, f64)>>>>()?;
        strata.retain(|c| c.len() > 1);
        let points = strata.first().map_or(0, Vec::len);
        ensure!(points > 0, "{shown}: no stratum went through the genetic algorithm: no fitness to draw");
        ensure!(strata.iter().all(|c| c.len() == points), "{shown}: fitness curves of different lengths");
        Ok(Curves { fitness, strata })
    }
}

/// Generations on a scale of powers of two, 0 half a step before 1.
fn place(generation: usize) -> f64 {
    if generation == 0 { -1.0 } else { (generation as f64).log2() }
}

/// Draws gains in fitness over generations.
///
/// # Errors
/// A file that cannot be written.
pub fn fitness_curves(path: &Path, curves: &Curves) -> Result<()> {
    let gains = |c: &Vec<(usize, f64)>| c.iter().map(|&(g, f)| (place(g), f - c[0].1)).collect::<Vec<_>>();
    let all: Vec<Vec<(f64, f64)>> = curves.strata.iter().map(gains).collect();
    let top = all.iter().flatten().map(|p| p.1).fold(1e-6, f64::max) * 1.05;
    let mean = |i: usize| (all[0][i].0, all.iter().map(|c| c[i].1).sum::<f64>() / all.len() as f64);
    let mean: Vec<(f64, f64)> = (0..all[0].len()).map(mean).collect();
    let last = all[0][all[0].len() - 1].0;
    let title = format!("{}: gain over the random start, {} strata and their mean", curves.fitness, all.len());
    picture(path, (900, 560), |canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .margin(20)
            .x_label_area_size(50)
            .y_label_area_size(70)
            .caption(title, ("sans-serif", 20))
            .build_cartesian_2d(-1.0..last, 0.0..top)
            .map_err(drawing)?;
        // A label at every power of two.
        let label = |x: &f64| if *x < -0.5 { "0".to_string() } else { format!("{:.0}", x.exp2()) };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.2))
            .x_labels(last as usize + 2)
            .x_label_formatter(&label)
            .x_desc("generations")
            .y_desc("gain in fitness")
            .label_style(("sans-serif", 14))
            .draw()
            .map_err(drawing)?;
        let thin = all.iter().map(|c| PathElement::new(c.clone(), LINE.mix(0.6).stroke_width(1)));
        chart.draw_series(thin).map_err(drawing)?;
        chart.draw_series([PathElement::new(mean, MEAN.stroke_width(3))]).map_err(drawing)?;
        Ok(())
    })
}
