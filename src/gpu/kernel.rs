//! The kernels: WGSL files compiled into the program, with small text features that keep each file valid
//! WGSL as it lies.
//!
//! - `//@include NAME` pastes `kernels/include/NAME.wgsl`, whose own includes are pasted too.
//! - Lines between `//@repeat COUNT` and `//@end` are written for index 0 and repeated for 0..COUNT: a name's
//!   suffix `_0` becomes `_i` and the literal `0u` becomes `iu`. `COUNT` is a number or a name the caller sets
//!   (`ROWS`, `COLUMNS`), so that one file gives every register block; `const ROWS`, `const COLUMNS` and
//!   `alias Columns` follow it. `//@together N HEAD` among them puts every N copies into `HEAD { }`.

use std::fmt::Write;

/// One entry point of one file of kernels/, with the constants that specialise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub file: &'static str,
    pub entry: &'static str,
    /// Register rows a lane owns where the file says `//@repeat ROWS`; 0 where it does not.
    pub rows: u32,
    /// Columns a lane owns where the file has `Columns`.
    pub columns: u32,
    /// Compiled without checks of indices into workgroup memory: only where every such index is below its array's
    /// length by construction, whatever the buffers hold. Buffers stay checked by the driver.
    pub trusted: bool,
}

impl Kernel {
    /// A kernel without a register block.
    pub const fn new(file: &'static str, entry: &'static str) -> Self {
        Kernel { file, entry, rows: 0, columns: 4, trusted: false }
    }

    /// The same kernel with `rows` register rows.
    pub const fn rows(self, rows: u32) -> Self {
        Kernel { rows, ..self }
    }

    /// The same kernel with `columns` columns a lane, 2 to 4.
    pub const fn columns(self, columns: u32) -> Self {
        Kernel { columns, ..self }
    }

    /// The same kernel without checks of its indices into workgroup memory.
    pub const fn trusted(self) -> Self {
        Kernel { trusted: true, ..self }
    }
}

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../kernels/", $name, ".wgsl")))),*]
    };
}

/// Every kernel file by name.
#[rustfmt::skip]
const SOURCES: &[(&str, &str)] = sources![
    "adamw",
    "attention",
    "attention_lanes",
    "attention_rows",
    "basic",
    "geodesic",
    "gram",
    "layer_norm",
    "masked_loss",
    "matmul",
    "matmul_blocks",
    "matmul_direct",
    "matmul_tiles",
    "nt_xent",
    "prepare",
    "reduce",
    "rms_norm",
    "routing",
    "softmax",
    "tokens",
];

const INCLUDES: &[(&str, &str)] = &[
    ("epilogue", include_str!("../../kernels/include/epilogue.wgsl")),
    ("gelu", include_str!("../../kernels/include/gelu.wgsl")),
    ("grid", include_str!("../../kernels/include/grid.wgsl")),
    ("lie", include_str!("../../kernels/include/lie.wgsl")),
    ("look", include_str!("../../kernels/include/look.wgsl")),
    ("norm_rows", include_str!("../../kernels/include/norm_rows.wgsl")),
    ("product", include_str!("../../kernels/include/product.wgsl")),
    ("row_softmax", include_str!("../../kernels/include/row_softmax.wgsl")),
    ("row_sum", include_str!("../../kernels/include/row_sum.wgsl")),
    ("sequences", include_str!("../../kernels/include/sequences.wgsl")),
    ("workgroup", include_str!("../../kernels/include/workgroup.wgsl")),
];

/// Names and texts of all kernel files as they lie, for the portability tests.
pub fn all_sources() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(name, _)| *name)
}

fn find(table: &[(&'static str, &'static str)], name: &str) -> &'static str {
    match table.iter().find(|(n, _)| *n == name) {
        Some((_, text)) => text,
        None => unreachable!("no kernel file '{name}': names are literals in the ops"),
    }
}

/// A text with everything it includes.
fn included(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        match line.strip_prefix("//@include ") {
            Some(name) => out.push_str(&included(find(INCLUDES, name.trim()))),
            None => out.extend([line, "\n"]),
        }
    }
    out
}

/// Lines to be repeated, and how many copies go into a block of which head.
struct Repeat<'a> {
    count: u32,
    together: Option<(u32, &'a str)>,
    lines: Vec<&'a str>,
}

impl Repeat<'_> {
    fn write(&self, out: &mut String) {
        let (size, head) = self.together.unwrap_or((self.count.max(1), ""));
        for i in 0..self.count {
            if i % size == 0 && !head.is_empty() {
                let _ = writeln!(out, "{} {{", numbered(head, i));
            }
            for line in &self.lines {
                let _ = writeln!(out, "{}", numbered(line, i));
            }
            if (i % size == size - 1 || i == self.count - 1) && !head.is_empty() {
                out.push_str("}\n");
            }
        }
    }
}

/// The WGSL of a kernel's file, expanded for its register block.
pub fn source(kernel: Kernel) -> String {
    let Kernel { file, rows, columns, .. } = kernel;
    let mut out = String::new();
    let text = included(find(SOURCES, file));
    let mut block: Option<Repeat> = None;
    for line in text.lines() {
        let mark = line.trim_start();
        if let Some(count) = mark.strip_prefix("//@repeat ") {
            let count = match count.trim() {
                "ROWS" => rows.max(1),
                "COLUMNS" => columns,
                number => number.parse().expect("the count of a repeat is ROWS, COLUMNS or a number"),
            };
            block = Some(Repeat { count, together: None, lines: Vec::new() });
        } else if let Some(rest) = mark.strip_prefix("//@together ") {
            let (size, head) = rest.split_once(' ').expect("a size and what stands before a block");
            let block = block.as_mut().expect("copies are put together inside a repeat");
            block.together = Some((size.parse().expect("the size is a number"), head));
        } else if mark.starts_with("//@end") {
            block.take().expect("an end follows a repeat").write(&mut out);
        } else if mark.starts_with("const ROWS: u32") {
            let _ = writeln!(out, "const ROWS: u32 = {}u;", rows.max(1));
        } else if mark.starts_with("const COLUMNS: u32") {
            let _ = writeln!(out, "const COLUMNS: u32 = {columns}u;");
        } else if mark.starts_with("alias Columns") {
            let _ = writeln!(out, "alias Columns = vec{columns}<f32>;");
        } else if let Some(block) = &mut block {
            block.lines.push(line);
        } else {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// `acc_0 = f(0u)` -> `acc_3 = f(3u)`: only whole suffixes and whole literals change.
fn numbered(line: &str, index: u32) -> String {
    let bytes = line.as_bytes();
    let word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut out = String::with_capacity(line.len() + 4);
    let mut i = 0;
    while i < bytes.len() {
        let rest = &bytes[i..];
        if rest.starts_with(b"_0") && i > 0 && word(bytes.get(i - 1)) && !word(bytes.get(i + 2)) {
            let _ = write!(out, "_{index}");
            i += 2;
        } else if rest.starts_with(b"0u") && !(i > 0 && word(bytes.get(i - 1))) && !word(bytes.get(i + 2)) {
            let _ = write!(out, "{index}u");
            i += 2;
        } else {
            out.push(bytes[i] as char);
            i += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flag compared with `0u` would be compared with `1u` in the next copy.
    #[test]
    fn repeats_compare_nothing_with_zero() {
        for (name, text) in SOURCES.iter().chain(INCLUDES) {
            let mut inside = false;
            for line in text.lines().map(str::trim_start) {
                inside = line.starts_with("//@repeat") || inside && !line.starts_with("//@end");
                assert!(!(inside && ["!= 0u", "== 0u"].iter().any(|c| line.contains(c))), "{name}: {line}");
            }
        }
    }

    #[test]
    fn copies_are_put_together() {
        let mut out = String::new();
        Repeat { count: 3, together: Some((2, "if 0u < n")), lines: vec!["f(0u);"] }.write(&mut out);
        assert_eq!(out, "if 0u < n {\nf(0u);\nf(1u);\n}\nif 2u < n {\nf(2u);\n}\n");
    }

    #[test]
    fn numbering_touches_whole_names_only() {
        assert_eq!(numbered("let a_0 = x_01 + y[0u] + 10u + b_0;", 7), "let a_7 = x_01 + y[7u] + 10u + b_7;");
    }
}
