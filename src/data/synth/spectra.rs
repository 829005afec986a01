//! What surfaces look like: end members with an optical spectrum and a radar backscatter, and the climates that mix them.
//!
//! A pixel is a mixture of end members; both sensors see the same mixture, which is why one can be predicted from the other.

use crate::data::S2_BANDS;

/// Land cover, in label order.
pub const CLASSES: [&str; 8] = ["water", "forest", "grassland", "cropland", "built-up", "bare", "wetland", "shrubland"];
/// Label of each class, for matching.
pub const WATER: u8 = 0;
pub const FOREST: u8 = 1;
pub const GRASSLAND: u8 = 2;
pub const CROPLAND: u8 = 3;
pub const BUILT_UP: u8 = 4;
pub const BARE: u8 = 5;
pub const WETLAND: u8 = 6;

/// A pure surface.
pub struct EndMember {
    /// Reflectance x 10,000 in the order of [`S2_BANDS`].
    pub s2: [f32; S2_BANDS.len()],
    /// VV and VH backscatter in decibels.
    pub s1: [f32; 2],
}

/// Number of end members.
pub const MEMBERS: usize = 10;
/// Indices into [`END_MEMBERS`].
pub const LEAF: usize = 0;
pub const CANOPY: usize = 1;
pub const NEEDLE: usize = 2;
pub const STRAW: usize = 3;
pub const SOIL: usize = 4;
pub const SAND: usize = 5;
pub const CLEAR: usize = 6;
pub const TURBID: usize = 7;
pub const STONE: usize = 8;
pub const ROOF: usize = 9;

const fn member(s2: [f32; 10], s1: [f32; 2]) -> EndMember {
    EndMember { s2, s1 }
}

/// Typical values of Sentinel-2 surface reflectance and Sentinel-1 gamma nought.
pub const END_MEMBERS: [EndMember; MEMBERS] = [
    member([260.0, 560.0, 320.0, 3900.0, 950.0, 2850.0, 3600.0, 1850.0, 850.0, 4000.0], [-10.5, -16.5]),
    member([190.0, 400.0, 240.0, 3200.0, 680.0, 2250.0, 2900.0, 1350.0, 600.0, 3250.0], [-7.5, -13.0]),
    member([160.0, 290.0, 200.0, 2100.0, 470.0, 1500.0, 1900.0, 850.0, 400.0, 2150.0], [-8.5, -14.0]),
    member([680.0, 1020.0, 1350.0, 2700.0, 1750.0, 2150.0, 2400.0, 3200.0, 2300.0, 2850.0], [-13.0, -20.5]),
    member([780.0, 1100.0, 1500.0, 2350.0, 1750.0, 2000.0, 2150.0, 3000.0, 2550.0, 2450.0], [-11.5, -21.0]),
    member([1500.0, 2150.0, 2850.0, 3800.0, 3200.0, 3400.0, 3600.0, 4700.0, 4150.0, 3900.0], [-16.5, -25.5]),
    member([420.0, 360.0, 220.0, 90.0, 180.0, 120.0, 110.0, 55.0, 40.0, 75.0], [-19.5, -27.5]),
    member([680.0, 920.0, 850.0, 330.0, 800.0, 430.0, 400.0, 130.0, 90.0, 280.0], [-17.5, -26.0]),
    member([820.0, 930.0, 1020.0, 1350.0, 1120.0, 1220.0, 1290.0, 1550.0, 1450.0, 1400.0], [-14.5, -22.5]),
    member([1650.0, 1850.0, 2050.0, 2450.0, 2200.0, 2300.0, 2400.0, 2550.0, 2350.0, 2500.0], [0.5, -8.0]),
];

/// Spectrum and backscatter of snow, which covers open ground in cold climates.
pub const SNOW: EndMember =
    member([7400.0, 7500.0, 7300.0, 7000.0, 7400.0, 7300.0, 7200.0, 900.0, 700.0, 6900.0], [-13.5, -20.0]);

/// How a climate changes surfaces; every field but the latitude is a share of 1.
pub struct Climate {
    /// Name, for people.
    pub name: &'static str,
    /// Degrees north of its scenes.
    pub latitude: f32,
    /// Vegetation that is green rather than dry.
    pub green: f32,
    /// Trees that are conifers.
    pub needle: f32,
    /// Open ground that is bright sand rather than soil.
    pub sand: f32,
    /// Sediment in water.
    pub turbid: f32,
    /// Open ground that lies under snow.
    pub snow: f32,
}

/// Five climates from the equator to the pole.
pub const CLIMATES: [Climate; 5] = [
    Climate { name: "tropical", latitude: 4.0, green: 0.97, needle: 0.0, sand: 0.1, turbid: 0.75, snow: 0.0 },
    Climate { name: "arid", latitude: 25.0, green: 0.3, needle: 0.25, sand: 0.85, turbid: 0.4, snow: 0.0 },
    Climate { name: "temperate", latitude: 46.0, green: 0.85, needle: 0.3, sand: 0.15, turbid: 0.3, snow: 0.0 },
    Climate { name: "continental", latitude: 56.0, green: 0.65, needle: 0.6, sand: 0.05, turbid: 0.2, snow: 0.05 },
    Climate { name: "polar", latitude: 67.0, green: 0.45, needle: 0.95, sand: 0.0, turbid: 0.05, snow: 0.35 },
];
