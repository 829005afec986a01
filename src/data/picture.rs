//! Pictures for people: tiles as colours, and labelled sheets of them as PNG.

use std::io;
use std::path::Path;

use super::export::write_atomic;
use super::{Error, Result, Sensor};

/// An image of 8-bit colours.
#[derive(Debug, Clone, PartialEq)]
pub struct Rgb {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue; row by row.
    pub pixels: Vec<u8>,
}

/// How values become brightness; taken from one tile, it shows others (a reconstruction) in the same light.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    sensor: Sensor,
    /// Value shown black and value shown white, for red, green, blue.
    range: [(f32, f32); 3],
}

impl Stretch {
    /// The 2nd and 98th percentiles of a tile [C, px, px] in decibels or digital numbers. Sentinel-2 keeps its true colours
    /// (one range for all three); Sentinel-1's three channels are stretched apart.
    pub fn of(sensor: Sensor, pixels: &[f32]) -> Self {
        let percentiles = |mut values: Vec<f32>| {
            values.retain(|x| x.is_finite());
            values.sort_unstable_by(f32::total_cmp);
            let at = |share: f32| values.get(((values.len() as f32 - 1.0) * share) as usize).copied().unwrap_or(0.0);
            // A flat tile must not divide by nothing.
            (at(0.02), at(0.98).max(at(0.02) + 1e-3))
        };
        let [red, green, blue] = channels(sensor, pixels);
        let range = match sensor {
            Sensor::S1 => [red, green, blue].map(percentiles),
            Sensor::S2 => [percentiles([red, green, blue].concat()); 3],
        };
        Self { sensor, range }
    }

    /// Paints a tile [C, px, px]: Sentinel-2 as B04, B03, B02; Sentinel-1 as VV, their mean, VH in decibels.
    pub fn paint(&self, pixels: &[f32], px: usize) -> Rgb {
        let channels = channels(self.sensor, pixels);
        let shade = |i: usize, c: usize| {
            let (black, white) = self.range[c];
            (255.0 * (channels[c][i] - black) / (white - black)) as u8
        };
        Rgb { width: px, height: px, pixels: (0..px * px).flat_map(|i| [0, 1, 2].map(|c| shade(i, c))).collect() }
    }
}

/// Values shown as red, green and blue.
fn channels(sensor: Sensor, pixels: &[f32]) -> [Vec<f32>; 3] {
    let plane = pixels.len() / sensor.channels();
    let band = |c: usize| pixels[c * plane..(c + 1) * plane].to_vec();
    match sensor {
        Sensor::S1 => [band(0), band(0).iter().zip(band(1)).map(|(vv, vh)| (vv + vh) / 2.0).collect(), band(1)],
        Sensor::S2 => [band(2), band(1), band(0)],
    }
}

/// A tile in colours, stretched to its own range.
pub fn picture(sensor: Sensor, pixels: &[f32], px: usize) -> Rgb {
    Stretch::of(sensor, pixels).paint(pixels, px)
}

/// Side of a scene's picture in pixels, about.
const SCENE: usize = 480;
/// What is not there.
const ABSENT: [u8; 3] = [120; 3];
const CROSS: [u8; 3] = [230, 30, 30];

/// A scene of `shape` (rows, columns) patches in one light, thinned to a size that is looked at; dropped ones are crossed out.
/// Each patch has its place, its pixels [C, px, px] (NaN where missing; none at all is grey) and whether it is dropped.
pub fn mosaic(sensor: Sensor, shape: (usize, usize), px: usize, patches: &[((usize, usize), &[f32], bool)]) -> Rgb {
    let step = (shape.0.max(shape.1) * px).div_ceil(SCENE).max(1);
    let side = px.div_ceil(step);
    let mut sheet = Rgb::filled(shape.1 * side, shape.0 * side, ABSENT);
    let thin = |pixels: &[f32]| -> Vec<f32> {
        let at = move |k: usize| (k / side * step).min(px - 1) * px + (k % side * step).min(px - 1);
        pixels.chunks_exact(px * px).flat_map(|band| (0..side * side).map(move |k| band[at(k)])).collect()
    };
    let small: Vec<Vec<f32>> = patches.iter().map(|(_, pixels, _)| thin(pixels)).collect();
    // One stretch for the whole scene: band by band, all patches together.
    let band =
        |c: usize| small.iter().flat_map(move |p| p.chunks_exact(side * side).nth(c).into_iter().flatten().copied());
    let all: Vec<f32> = (0..sensor.channels()).flat_map(band).collect();
    let stretch = Stretch::of(sensor, &all);
    for (((row, col), _, dropped), pixels) in patches.iter().zip(&small) {
        let corner = (col * side, row * side);
        if !pixels.is_empty() {
            let mut tile = stretch.paint(pixels, side);
            let seen = |i: usize| pixels.chunks_exact(side * side).all(|band| band[i].is_finite());
            (0..side * side).filter(|i| !seen(*i)).for_each(|i| tile.set(i % side, i / side, ABSENT));
            sheet.paste(&tile, corner, 1);
        }
        if *dropped {
            for (i, thick) in (0..side).flat_map(|i| (0..2).map(move |t| (i, t))) {
                sheet.set(corner.0 + (i + thick).min(side - 1), corner.1 + i, CROSS);
                sheet.set(corner.0 + (side - 1 - i + thick).min(side - 1), corner.1 + i, CROSS);
            }
        }
    }
    sheet
}

/// Classes as colours that stay apart; [`super::NO_CLASS`] is black.
pub fn classes(mask: &[u8], px: usize) -> Rgb {
    const COLOURS: [[u8; 3]; 8] = [
        [40, 90, 200],
        [20, 100, 40],
        [150, 210, 90],
        [240, 200, 70],
        [210, 50, 50],
        [190, 170, 140],
        [80, 190, 190],
        [140, 120, 50],
    ];
    let colour = |class: &u8| if *class == super::NO_CLASS { [0; 3] } else { COLOURS[*class as usize % COLOURS.len()] };
    Rgb { width: px, height: px, pixels: mask.iter().flat_map(colour).collect() }
}

impl Rgb {
    fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, pixels: colour.repeat(width * height) }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            self.pixels[3 * (y * self.width + x)..][..3].copy_from_slice(&colour);
        }
    }

    /// Pastes `image`, every pixel as a square of `scale`.
    fn paste(&mut self, image: &Rgb, (left, top): (usize, usize), scale: usize) {
        for (y, x) in (0..image.height * scale).flat_map(|y| (0..image.width * scale).map(move |x| (y, x))) {
            let at = 3 * (y / scale * image.width + x / scale);
            self.set(left + x, top + y, [image.pixels[at], image.pixels[at + 1], image.pixels[at + 2]]);
        }
    }

    fn text(&mut self, text: &str, (left, top): (usize, usize)) {
        for (index, letter) in text.chars().enumerate() {
            let rows = glyph(letter);
            for (bit, dy, dx) in (0..15).flat_map(|bit| (0..SIZE * SIZE).map(move |d| (bit, d / SIZE, d % SIZE))) {
                if rows >> (14 - bit) & 1 == 1 {
                    self.set(left + (index * 4 + bit % 3) * SIZE + dx, top + bit / 3 * SIZE + dy, INK);
                }
            }
        }
    }

    /// Writes a PNG.
    pub fn save(&self, path: &Path) -> Result<()> {
        if self.pixels.len() != 3 * self.width * self.height || self.pixels.is_empty() {
            return Err(Error::new(path.display(), "a picture without pixels", "this is a bug, report it"));
        }
        write_atomic(path, |file| {
            let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            encoder
                .write_header()
                .and_then(|mut writer| writer.write_image_data(&self.pixels))
                .map_err(io::Error::other)
        })
    }
}

const PAPER: [u8; 3] = [255; 3];
const INK: [u8; 3] = [30; 3];
/// Pixels of the picture along one dot of a letter.
const SIZE: usize = 2;
/// Height of a line of text with its margin.
const LINE: usize = 5 * SIZE + 6;
const GAP: usize = 4;

/// A table of pictures with a title over each column and beside each row.
pub struct Sheet {
    columns: Vec<String>,
    rows: Vec<(String, Vec<Rgb>)>,
    tile: usize,
}

impl Sheet {
    /// A sheet whose small pictures are enlarged by whole factors to at least `tile` pixels.
    pub fn new(columns: &[&str], tile: usize) -> Self {
        Self { columns: columns.iter().map(|c| c.to_string()).collect(), rows: vec![], tile }
    }

    /// Adds a row; its title may be empty.
    pub fn row(&mut self, title: &str, pictures: Vec<Rgb>) -> &mut Self {
        self.rows.push((title.into(), pictures));
        self
    }

    /// The whole sheet as one picture.
    pub fn render(&self) -> Rgb {
        let scale = |p: &Rgb| self.tile.div_ceil(p.width.max(1)).max(1);
        let pictures = || self.rows.iter().flat_map(|(_, pictures)| pictures);
        let side = |of: fn(&Rgb) -> usize| pictures().map(|p| of(p) * scale(p)).max().unwrap_or(0) + GAP;
        let wide = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|t| (t.chars().count() * 4 + 2) * SIZE).max().unwrap_or(0)
        };
        let (cell_w, cell_h) = (side(|p| p.width).max(wide(&mut self.columns.iter())), side(|p| p.height));
        let titled = self.rows.iter().any(|(title, _)| !title.is_empty());
        let (left, top) = (if titled { wide(&mut self.rows.iter().map(|(t, _)| t)) } else { 0 } + GAP, LINE);
        let count = self.rows.iter().map(|(_, p)| p.len()).max().unwrap_or(0).max(self.columns.len());
        let mut sheet = Rgb::filled(left + count * cell_w, top + self.rows.len() * cell_h, PAPER);
        for (c, title) in self.columns.iter().enumerate() {
            sheet.text(title, (left + c * cell_w, 3));
        }
        for (r, (title, pictures)) in self.rows.iter().enumerate() {
            sheet.text(title, (GAP, top + r * cell_h + cell_h / 2 - LINE / 2));
            for (c, picture) in pictures.iter().enumerate() {
                sheet.paste(picture, (left + c * cell_w, top + r * cell_h), scale(picture));
            }
        }
        sheet
    }

    /// Writes the sheet as PNG.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.render().save(path)
    }
}

/// Letters of 3 x 5 dots, five rows of three bits; small letters look like capitals.
fn glyph(letter: char) -> u16 {
    match letter.to_ascii_uppercase() {
        'A' => 0b010_101_111_101_101,
        'B' => 0b110_101_110_101_110,
        'C' => 0b011_100_100_100_011,
        'D' => 0b110_101_101_101_110,
        'E' => 0b111_100_110_100_111,
        'F' => 0b111_100_110_100_100,
        'G' => 0b011_100_101_101_011,
        'H' => 0b101_101_111_101_101,
        'I' => 0b111_010_010_010_111,
        'J' => 0b001_001_001_101_010,
        'K' => 0b101_101_110_101_101,
        'L' => 0b100_100_100_100_111,
        'M' => 0b101_111_111_101_101,
        'N' => 0b110_101_101_101_101,
        'O' => 0b010_101_101_101_010,
        'P' => 0b110_101_110_100_100,
        'Q' => 0b010_101_101_111_011,
        'R' => 0b110_101_110_101_101,
        'S' => 0b011_100_010_001_110,
        'T' => 0b111_010_010_010_010,
        'U' => 0b101_101_101_101_111,
        'V' => 0b101_101_101_101_010,
        'W' => 0b101_101_111_111_101,
        'X' => 0b101_101_010_101_101,
        'Y' => 0b101_101_010_010_010,
        'Z' => 0b111_001_010_100_111,
        '0' => 0b111_101_101_101_111,
        '1' => 0b010_110_010_010_111,
        '2' => 0b110_001_010_100_111,
        '3' => 0b110_001_010_001_110,
        '4' => 0b101_101_111_001_001,
        '5' => 0b111_100_110_001_110,
        '6' => 0b011_100_110_101_010,
        '7' => 0b111_001_010_010_010,
        '8' => 0b010_101_010_101_010,
        '9' => 0b010_101_011_001_110,
        '-' => 0b000_000_111_000_000,
        '_' => 0b000_000_000_000_111,
        '.' => 0b000_000_000_000_010,
        ',' => 0b000_000_000_010_100,
        ':' => 0b000_010_000_010_000,
        '/' => 0b001_001_010_100_100,
        '%' => 0b101_001_010_100_101,
        '+' => 0b000_010_111_010_000,
        '=' => 0b000_111_000_111_000,
        '>' => 0b100_010_001_010_100,
        '<' => 0b001_010_100_010_001,
        '(' => 0b010_100_100_100_010,
        ')' => 0b010_001_001_001_010,
        ' ' => 0,
        _ => 0b111_111_111_111_111,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_colour_is_red_green_blue_in_one_range() {
        // Two pixels: dark, and one bright in B04 alone.
        let mut tile = vec![100.0; 10 * 4];
        tile[2 * 4 + 3] = 3000.0;
        tile[3] = f32::NAN;
        let rgb = Stretch { sensor: Sensor::S2, range: [(100.0, 3000.0); 3] }.paint(&tile, 2);
        assert_eq!(&rgb.pixels[..3], [0, 0, 0]);
        assert_eq!(&rgb.pixels[9..], [255, 0, 0]);
        // A flat tile is painted, not divided by zero.
        assert_eq!(picture(Sensor::S1, &[-10.0; 8], 2).pixels.len(), 12);
    }

    #[test]
    fn sheets_are_read_back_from_png() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sheet.png");
        let mut sheet = Sheet::new(&["one", "two"], 8);
        sheet.row("row", vec![Rgb::filled(4, 4, [200, 0, 0]), Rgb::filled(8, 8, [0, 0, 200])]);
        sheet.save(&path).unwrap();
        let mut reader =
            png::Decoder::new(io::BufReader::new(std::fs::File::open(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let want = sheet.render();
        assert_eq!((info.width as usize, info.height as usize), (want.width, want.height));
        assert_eq!(pixels, want.pixels);
        let count = |colour: [u8; 3]| pixels.chunks_exact(3).filter(|p| *p == colour).count();
        assert_eq!((count([200, 0, 0]), count([0, 0, 200])), (64, 64));
        assert!(count(INK) > 40);
    }
}
