//! Where gradients are written, and the walk backwards that asks for them.

use super::tape::{External, Place};
use super::{Kind, Tape, Tensor};
use anyhow::Result;

/// Where an op's backward writes a gradient, and whether something is there already to add to.
#[derive(Clone, Copy, Debug)]
pub struct GradOut {
    pub tensor: Tensor,
    pub accumulate: bool,
}

impl Tape {
    /// The gradient that has reached `tensor`, in its shape; none if nothing downstream used it.
    pub fn grad(&self, tensor: Tensor) -> Option<Tensor> {
        let found = self.grads.get(&tensor.id)?;
        let (_, gaps) = self.unwritten(*found);
        gaps.is_empty().then_some(Tensor { id: found.id, shape: tensor.shape })
    }

    /// Where to write a contribution to the gradient of `tensor`; none if it needs no gradient.
    /// The caller must launch the write: the next caller is told to accumulate.
    pub fn grad_out(&mut self, tensor: Tensor) -> Option<GradOut> {
        if !self.needs_grad(tensor) {
            return None;
        }
        let storage = self.grad_storage(tensor);
        let accumulate = self.write(storage);
        Some(GradOut { tensor: Tensor { id: storage.id, shape: tensor.shape }, accumulate })
    }

    /// The room of a gradient, made if needed: a parameter's own, inside that of the whole for a part.
    pub(super) fn grad_storage(&mut self, tensor: Tensor) -> Tensor {
        if let Some(found) = self.grads.get(&tensor.id) {
            return *found;
        }
        let storage = match self.values[tensor.id].place {
            Place::External(External::Param(_, id)) => {
                let storage = self.external(External::Param(Kind::Gradient, id), tensor.shape);
                if self.accumulate_params {
                    self.write(storage);
                }
                storage
            }
            _ => match self.parts.get(&tensor.id).copied() {
                Some((whole, offset)) => {
                    let root = self.grad_storage(whole);
                    self.alias(root, offset, tensor.shape)
                }
                None => self.push(tensor.shape, Place::Planned, false),
            },
        };
        self.grads.insert(tensor.id, storage);
        storage
    }

    /// The root and the runs of a gradient's room that nothing has been written to.
    fn unwritten(&self, storage: Tensor) -> (usize, Vec<(usize, usize)>) {
        let (root, start) = self.resolve(storage.id);
        let end = start + storage.elems();
        let mut gaps = Vec::new();
        let mut at = start;
        let mut runs = self.written.get(&root).cloned().unwrap_or_default();
        runs.sort_unstable();
        for (from, to) in runs {
            if from > at && at < end {
                gaps.push((at, from.min(end)));
            }
            at = at.max(to);
        }
        if at < end {
            gaps.push((at, end));
        }
        (root, gaps)
    }

    /// Counts all of a gradient's room as written; true if the writer must add. Where parts of it were written and
    /// others not, those are filled with zeros first.
    pub(super) fn write(&mut self, storage: Tensor) -> bool {
        let (root, gaps) = self.unwritten(storage);
        let (_, start) = self.resolve(storage.id);
        let whole = (start, start + storage.elems());
        let accumulate = gaps != [whole];
        if accumulate {
            let seed = matches!(self.values[root].place, Place::Constant(_) | Place::Input(_));
            assert!(!seed, "a seeded value is an end of the graph: nothing may add to its gradient");
            for (from, to) in gaps {
                let gap = self.push([to - from].into(), Place::Alias { root, offset: from }, false);
                crate::ops::fill(self, gap, 0.0);
            }
        }
        self.written.entry(root).or_default().push(whole);
        accumulate
    }

    /// Says that the gradient of `from` is also the whole contribution to that of `to` (y = x + ...). Costs
    /// nothing when it is the first contribution: both are then one buffer, so no later launch may read the
    /// gradient of `from`. Otherwise returns where to add it.
    pub fn pass_grad(&mut self, from: Tensor, to: Tensor) -> Option<GradOut> {
        let free = self.needs_grad(to) && !self.grads.contains_key(&to.id) && !self.parts.contains_key(&to.id);
        let given = self.grads.get(&from.id).copied()?;
        let root = self.resolve(given.id).0;
        // A seed or a parameter's gradient is not ours to add to.
        let ours = matches!(self.values[root].place, Place::Planned);
        let param = matches!(self.values[to.id].place, Place::External(_));
        if free && ours && !param {
            self.grads.insert(to.id, Tensor { id: given.id, shape: to.shape });
            return None;
        }
        self.grad_out(to)
    }

    /// Records the gradients of `sum(weight * loss)` for losses of one element each.
    ///
    /// # Errors
    /// Whatever a rule reports.
    pub fn backward(&mut self, losses: &[(Tensor, f32)]) -> Result<()> {
        for (loss, weight) in losses {
            let seed = self.constant([1], &[*weight]);
            self.backward_seed(*loss, seed);
        }
        self.walk_back()
    }

    /// Sets the gradient of `tensor`, an end of the graph, to the value of `seed`.
    ///
    /// # Panics
    /// If it has one already; later, if something else adds to it.
    pub fn backward_seed(&mut self, tensor: Tensor, seed: Tensor) {
        assert!(!self.grads.contains_key(&tensor.id), "a value is seeded twice");
        self.grads.insert(tensor.id, Tensor { id: seed.id, shape: tensor.shape });
        self.written.entry(seed.id).or_default().push((0, tensor.elems()));
    }

    /// Runs the rules, last first.
    ///
    /// # Errors
    /// Whatever a rule reports.
    pub fn walk_back(&mut self) -> Result<()> {
        for rule in std::mem::take(&mut self.rules).into_iter().rev() {
            rule(self)?;
        }
        Ok(())
    }
}
