//! Shapes, and the handle of a value on a tape.

use anyhow::{Result, bail};
use std::fmt;

const MAX_RANK: usize = 6;

/// Up to six dimensions, outermost first; the last one is contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn elems(&self) -> usize {
        self.dims().iter().product()
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        assert!(dims.len() <= MAX_RANK, "a shape has at most {MAX_RANK} dimensions, not {dims:?}");
        let mut all = [1; MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Shape { dims: all, rank: dims.len() }
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::from(&dims[..])
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// A value on a tape: its number and its shape. 32-bit elements. Copying the handle copies nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub(super) id: usize,
    pub(super) shape: Shape,
}

impl Tensor {
    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn elems(&self) -> usize {
        self.shape.elems()
    }

    /// The last dimension.
    pub fn width(&self) -> usize {
        self.shape.dims().last().copied().unwrap_or(1)
    }

    /// The dimensions, if there are exactly `N`.
    ///
    /// # Errors
    /// Names `what` and both ranks.
    pub fn dims<const N: usize>(&self, what: &str) -> Result<[usize; N]> {
        match <[usize; N]>::try_from(self.shape.dims()) {
            Ok(dims) => Ok(dims),
            Err(_) => bail!("{what} has shape {:?} and should have {N} dimensions", self.shape),
        }
    }

    /// Checks the whole shape.
    ///
    /// # Errors
    /// Names `what` and both shapes.
    pub fn expect(&self, what: &str, shape: impl Into<Shape>) -> Result<()> {
        let shape = shape.into();
        if self.shape != shape {
            bail!("{what} has shape {:?} and should have {shape:?}", self.shape);
        }
        Ok(())
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the numbers of elements differ.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape.elems() != self.elems() {
            bail!("{:?} cannot be seen as {shape:?}: {} elements are not {}", self.shape, self.elems(), shape.elems());
        }
        Ok(Tensor { id: self.id, shape })
    }
}
