//! Products with the matrix of patches, which is never written: see [`panel`](super::panel).

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::chunking::{Chunking, Panels, TASKS_PER_THREAD, ranges};
use super::correlation::{Correlation, Target, Weights};
use super::kernel::{MapProduct, ROWS, WeightProduct};
use super::out::Out;
use super::panel::{Chunk, Maps, copy};
use crate::ops::element::Element;

/// Rows of the matrix of patches that are multiplied at a time: their part under a tile stays in the
/// first-level cache. Overlapping rows take less of it than separate ones.
const SHARED_DEPTH: usize = 288;
const DEPTH: usize = 144;
/// Outputs that a task computes at most.
const OUTPUTS: usize = 256;
/// Tasks that a weight gradient is cut into, about. Partial sums depend on it, so the threads must not.
const TASKS: usize = 16;
/// A convolution is cut by its columns first, because each part of the outputs copies the inputs anew; it is not cut
/// into fewer than so many blocks of outputs.
const MIN_BLOCKS: usize = 16;
/// Pixels that a map has at least to be multiplied where it lies: smaller ones fill too few vectors.
const POINTWISE: usize = 64;
/// And to be summed over where it lies: the sums of a shorter one are hardly begun when they end.
const POINTWISE_SUMS: usize = 512;
/// Rows of the gradient that are in use at a time, about: they pass by, the panel stays.
const GRADIENT_ROWS: usize = 32;
/// Inputs that groups are put together to, for a task of the weight gradient.
const GROUPED: usize = 64;
/// Columns that a partial weight gradient sums at least: fewer would not pay for adding it.
const PARTIAL: usize = 1024;

/// Buffers that a thread keeps.
#[derive(Default)]
struct Scratch {
    panels: Panels,
    rows: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a task computes at a time: some blocks of the outputs of a group.
struct Part {
    chunk: Chunk,
    group: usize,
    blocks: Range<usize>,
}

impl Correlation {
    /// Computes all outputs.
    pub(super) fn run<E: Element>(&self, maps: &Maps<E>, weights: &Weights, target: &Target<E>) {
        let packed = self.pack(weights);
        let tasks = TASKS_PER_THREAD * rayon::current_num_threads();
        let depth = if self.taps() > 1 { SHARED_DEPTH } else { DEPTH };
        let plan = if self.is_pointwise(POINTWISE) && target.step == 1 {
            self.direct_plan(depth)
        } else {
            self.plan(self.outputs.min(OUTPUTS), depth, tasks)
        };
        // What a task does: a chunk, and a range of groups or of the outputs of a group.
        let blocks = self.outputs.div_ceil(ROWS);
        let least = self.outputs.div_ceil(OUTPUTS);
        let wanted = (tasks / plan.chunks.len()).max(least);
        let splits: Vec<(Range<usize>, Range<usize>)> = if self.groups > 1 {
            ranges(self.groups, wanted)
                .map(|groups| (groups, 0..blocks))
                .collect()
        } else {
            let wanted = wanted.min(blocks.div_ceil(MIN_BLOCKS));
            // In pairs, as the highest tile takes them: none but the last part ends within one.
            ranges(blocks.div_ceil(2), wanted)
                .map(|pairs| (0..1, 2 * pairs.start..blocks.min(2 * pairs.end)))
                .collect()
        };
        (0..plan.chunks.len() * splits.len())
            .into_par_iter()
            .for_each(|task| {
                let chunk = plan.chunks[task / splits.len()];
                let (groups, blocks) = splits[task % splits.len()].clone();
                SCRATCH.with_borrow_mut(|scratch| {
                    for group in groups {
                        let part = Part {
                            chunk,
                            group,
                            blocks: blocks.clone(),
                        };
                        let Scratch { panels, rows } = &mut *scratch;
                        if plan.direct {
                            let (outputs, pixels) = (self.rows(&part), plan.stride());
                            let first = chunk.image * target.channels + outputs.start;
                            let range = first * pixels..(first + outputs.len()) * pixels;
                            // SAFETY: whole maps of an image and some blocks of outputs, which no other task has.
                            let mut out = unsafe { target.values.part(range) };
                            if let Some(out) = out.as_floats() {
                                self.compute(&plan, maps, &part, &packed, panels, out);
                                continue;
                            }
                        }
                        let needed = part.blocks.len() * ROWS * plan.stride();
                        if rows.len() < needed {
                            rows.resize(needed, 0.0);
                        }
                        let out = Out::from(&mut rows[..]);
                        self.compute(&plan, maps, &part, &packed, panels, out);
                        self.deliver(&plan, &part, rows, target);
                    }
                });
            });
    }

    /// Fills `out` with the outputs of a part, in rows of the plan.
    fn compute<E: Element>(
        &self,
        plan: &Chunking,
        maps: &Maps<E>,
        part: &Part,
        packed: &[f32],
        panels: &mut Panels,
        mut out: Out<'_>,
    ) {
        let &Part { chunk, group, .. } = part;
        let rows = self.rows(part);
        let taps = self.taps();
        let depth = self.inputs * taps;
        let all_blocks = self.outputs.div_ceil(ROWS);
        for first in (0..self.inputs).step_by(plan.depth) {
            let last = (first + plan.depth).min(self.inputs);
            let channels = group * self.inputs + first..group * self.inputs + last;
            let panel = plan.panel(panels, maps, chunk, channels);
            let start = (group * all_blocks + part.blocks.start) * depth + first * taps;
            let product = MapProduct {
                panel,
                offsets: &plan.offsets[..(last - first) * taps],
                weights: &packed[start * ROWS..],
                weights_stride: depth * ROWS,
                rows: rows.len(),
                columns: plan.columns(),
                out: out.reborrow(),
                out_stride: plan.stride(),
                accumulate: first > 0,
            };
            // SAFETY: after the first pass, one with the same rows and columns has written what this one adds to.
            unsafe { product.run() };
        }
    }

    /// The outputs of a part.
    fn rows(&self, part: &Part) -> Range<usize> {
        part.blocks.start * ROWS..(part.blocks.end * ROWS).min(self.outputs)
    }

    /// Copies the outputs of a part to where they belong.
    fn deliver<E: Element>(&self, plan: &Chunking, part: &Part, rows: &[f32], target: &Target<E>) {
        let &Part { chunk, group, .. } = part;
        let outputs = self.rows(part);
        let stride = plan.stride();
        for image in 0..chunk.images {
            for (output, row) in outputs.clone().zip(rows.chunks_exact(stride)) {
                let channel = group * self.outputs + output;
                let map = (chunk.image + image) * target.channels + channel;
                plan.stretches(image, chunk, |column, y, rows| {
                    let from = &row[column..][..rows * self.width];
                    let line = (chunk.row + y) * target.step + target.row;
                    let to = (map * target.height + line) * target.width + target.column;
                    if target.step == 1 {
                        // SAFETY: no other task has these rows of this map: chunks, groups and blocks are disjoint.
                        let mut to = unsafe { target.values.part(to..to + from.len()) };
                        to.copy_from(from);
                        return;
                    }
                    for (y, from) in from.chunks_exact(self.width).enumerate() {
                        let to = target.values.at(to + y * target.step * target.width);
                        for (x, &value) in from.iter().enumerate() {
                            // SAFETY: a pixel of a row of the map, since `width` of a correlation is how often `step`
                            // fits; and of this task alone, as above.
                            unsafe { to.add(x * target.step).write(E::narrow(value)) };
                        }
                    }
                });
            }
        }
    }

    /// The weights in the order of the kernel: `[group][block][input][tap][ROWS]`, anything where there
    /// is no output.
    fn pack(&self, weights: &Weights) -> Vec<f32> {
        let taps = self.taps();
        let blocks = self.outputs.div_ceil(ROWS);
        let size = self.inputs * taps * ROWS;
        let mut packed = vec![0.0; self.groups * blocks * size];
        packed
            .par_chunks_mut(size)
            .enumerate()
            .for_each(|(index, block)| {
                let first = index % blocks * ROWS;
                let rows = ROWS.min(self.outputs - first);
                let start = index / blocks * weights.group + first * weights.output;
                // The rows that are missing in the last block are multiplied too, and then forgotten.
                let row = |r: usize| &weights.values[start + r.min(rows - 1) * weights.output..];
                let [a, b, c, d, e, f]: [&[f32]; ROWS] = std::array::from_fn(row);
                let (ks, _) = block.as_chunks_mut::<ROWS>();
                if self.taps.area == 1 && weights.output == 1 && rows == ROWS {
                    // The rows lie side by side: the gradient of the input of a 1×1 kernel.
                    let columns = weights.values[start..].chunks(weights.input);
                    for (k, column) in ks.iter_mut().zip(columns) {
                        if let Some(column) = column.first_chunk() {
                            *k = *column;
                        }
                    }
                    return;
                }
                if self.taps.area == 1 && weights.input == 1 {
                    let ab = a.iter().zip(b).zip(c.iter().zip(d)).zip(e.iter().zip(f));
                    for (k, (((a, b), (c, d)), (e, f))) in ks.iter_mut().zip(ab) {
                        *k = [*a, *b, *c, *d, *e, *f];
                    }
                    return;
                }
                for (input, ks) in ks.chunks_exact_mut(taps).enumerate() {
                    let from = input * weights.input;
                    let window = from..from + self.taps.area;
                    let (a, b, c) = (&a[window.clone()], &b[window.clone()], &c[window.clone()]);
                    let (d, e, f) = (&d[window.clone()], &e[window.clone()], &f[window]);
                    for (k, &p) in ks.iter_mut().zip(&self.taps.places) {
                        *k = [a[p], b[p], c[p], d[p], e[p], f[p]];
                    }
                }
            });
        packed
    }

    /// The gradient of the weights, from the input and the gradient of the output.
    pub(super) fn weight_gradient<E: Element>(
        &self,
        maps: &Maps<E>,
        gradient: &Maps<E>,
        dw: &mut [f32],
    ) {
        // The longer the columns, the fewer vectors are summed up: chunks as large as may be.
        let plan = if self.is_pointwise(POINTWISE_SUMS) {
            self.direct_plan(SHARED_DEPTH)
        } else {
            self.plan(self.outputs.min(GRADIENT_ROWS), SHARED_DEPTH, 1)
        };
        let taps = self.taps();
        // What a task does: a range of the chunks, for some groups or for some inputs of a group.
        let groups = ranges(
            self.groups,
            self.groups.div_ceil(GROUPED.div_ceil(self.inputs)),
        );
        let parts = groups.flat_map(|groups| {
            let inputs = ranges(self.inputs, self.inputs.div_ceil(plan.depth));
            inputs.map(move |inputs| (groups.clone(), inputs))
        });
        let parts: Vec<(Range<usize>, Range<usize>)> = parts.collect();
        let all = plan.chunks.len() * plan.columns();
        let slices = (2 * TASKS).div_ceil(parts.len()).min(all.div_ceil(PARTIAL));
        let slices: Vec<Range<usize>> = ranges(plan.chunks.len(), slices).collect();
        let partial: Vec<Vec<f32>> = (0..parts.len() * slices.len())
            .into_par_iter()
            .map(|task| {
                let (groups, inputs) = parts[task / slices.len()].clone();
                let chunks = &plan.chunks[slices[task % slices.len()].clone()];
                self.partial(&plan, maps, gradient, chunks, groups, inputs)
            })
            .collect();
        let size = self.outputs.next_multiple_of(ROWS);
        let target = Out::from(dw);
        parts
            .par_iter()
            .zip(partial.par_chunks(slices.len()))
            .for_each(|((groups, inputs), partial)| {
                let depth = inputs.len() * taps;
                let mut sums = vec![0.0; depth];
                for (g, group) in groups.clone().enumerate() {
                    for output in 0..self.outputs {
                        let from = (g * size + output) * depth;
                        let sums: &[f32] = match partial {
                            [all] => &all[from..][..depth],
                            parts => {
                                sums.fill(0.0);
                                for part in parts {
                                    for (sum, &value) in sums.iter_mut().zip(&part[from..]) {
                                        *sum += value;
                                    }
                                }
                                &sums
                            }
                        };
                        let channel = (group * self.outputs + output) * self.inputs + inputs.start;
                        let area = self.taps.area;
                        if taps == area {
                            let weights = channel * area..channel * area + depth;
                            // SAFETY: no other task has these inputs of this output: parts are disjoint.
                            unsafe { target.part(weights) }.copy_from(sums);
                            continue;
                        }
                        for (input, sums) in sums.chunks_exact(taps).enumerate() {
                            let kernel = (channel + input) * area;
                            for (&sum, &place) in sums.iter().zip(&self.taps.places) {
                                // SAFETY: a weight of a kernel that no other task has: parts are disjoint.
                                unsafe { target.at(kernel + place).write(sum) };
                            }
                        }
                    }
                }
            });
    }

    /// The weight gradient of some chunks: `[groups][outputs, padded][inputs][taps]`.
    fn partial<E: Element>(
        &self,
        plan: &Chunking,
        maps: &Maps<E>,
        gradient: &Maps<E>,
        chunks: &[Chunk],
        groups: Range<usize>,
        inputs: Range<usize>,
    ) -> Vec<f32> {
        let taps = self.taps();
        let depth = inputs.len() * taps;
        let blocks = self.outputs.div_ceil(ROWS);
        let size = blocks * ROWS * depth;
        let mut sums = vec![0.0; groups.len() * size];
        let stride = plan.stride();
        SCRATCH.with_borrow_mut(|Scratch { panels, rows }| {
            for &chunk in chunks {
                for (group, sums) in groups.clone().zip(sums.chunks_exact_mut(size)) {
                    let left: &[f32] = if plan.direct {
                        E::widened(gradient.maps(chunk.image, 0..self.outputs), rows)
                    } else {
                        rows.clear();
                        rows.resize(blocks * ROWS * stride, 0.0);
                        self.collect(plan, gradient, chunk, group, rows);
                        &*rows
                    };
                    let first = group * self.inputs;
                    let channels = first + inputs.start..first + inputs.end;
                    let panel = plan.panel(panels, maps, chunk, channels);
                    WeightProduct {
                        panel,
                        offsets: &plan.offsets[..depth],
                        left,
                        stride,
                        rows: self.outputs,
                        columns: plan.columns(),
                        out: sums,
                    }
                    .run();
                }
            }
        });
        sums
    }

    /// Copies the output maps of a group into rows with the gaps of the panel.
    fn collect<E: Element>(
        &self,
        plan: &Chunking,
        maps: &Maps<E>,
        chunk: Chunk,
        group: usize,
        rows: &mut [f32],
    ) {
        let stride = plan.stride();
        for (output, row) in rows.chunks_exact_mut(stride).take(self.outputs).enumerate() {
            for image in 0..chunk.images {
                let map = maps.map(chunk.image + image, group * self.outputs + output);
                plan.stretches(image, chunk, |column, y, rows| {
                    let from = &map[(chunk.row + y) * self.width..][..rows * self.width];
                    copy(&mut row[column..][..from.len()], from);
                });
            }
        }
    }
}
