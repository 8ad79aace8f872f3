//! Convolution and its two gradients on slices of `f32`, in parallel.
//!
//! With X the matrix of patches of an image, one row for each k = (input channel, tap) and one column
//! for each output pixel, a convolution and its gradients are three products:
//!
//! ```text
//! Y  = W X            forward
//! dX = W'X'           where X' are the patches of dY and W' the kernels turned around: a convolution
//!                     again, for stride s one for each of the s×s phases of dX
//! dW = Σ dY Xᵀ        over the images
//! ```
//!
//! X is nine times the input for a 3×3 kernel, and on the small maps and few channels of a slim
//! network writing it costs as much as multiplying. Here it is never written: see [`panel`].
//!
//! # Determinism
//! Work is cut into chunks by the shapes alone, each output is computed by one task in a fixed order,
//! and partial weight gradients are added in the order of the images. The number of threads changes
//! nothing, not even the last bit. Another instruction set does.

mod kernel;
mod panel;
mod simd;

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use kernel::{ALIGN, MapProduct, ROWS, WeightProduct};
use panel::{Chunk, Compact, Layout, Maps, Tap};

/// Floats that a task may use at a time: half of a small second-level cache.
const WORKING_SET: usize = 64 * 1024;
/// Columns of a chunk, at least and at most, where the maps allow it.
const COLUMNS: Range<usize> = 192..1536;
/// Rows of the matrix of patches that are multiplied at a time: their part under a tile stays in the
/// first-level cache. Overlapping rows take less of it than separate ones.
const DEPTH_SHARED: usize = 288;
const DEPTH: usize = 128;
/// Tasks that a convolution is cut into if there are not enough chunks.
const TASKS: usize = 16;
/// Columns that a partial weight gradient sums at least: fewer would not pay for adding it.
const PARTIAL: usize = 1024;

/// The numbers that define a convolution of `[images, inputs, height, width]` with weights
/// `[outputs, inputs / groups, kernel, kernel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) images: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) groups: usize,
}

impl ConvShape {
    fn output_size(&self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Height and width of the output.
    pub(crate) fn output_map(&self) -> [usize; 2] {
        [self.output_size(self.height), self.output_size(self.width)]
    }

    fn input_len(&self) -> usize {
        self.images * self.inputs * self.height * self.width
    }

    fn output_len(&self) -> usize {
        let [height, width] = self.output_map();
        self.images * self.outputs * height * width
    }

    fn weight_len(&self) -> usize {
        self.outputs * self.inputs / self.groups * self.kernel * self.kernel
    }

    fn is_empty(&self) -> bool {
        self.input_len() == 0 || self.output_len() == 0
    }

    fn input<'a>(&self, values: &'a [f32]) -> Maps<'a> {
        assert_eq!(values.len(), self.input_len(), "the input of {self:?}");
        Maps {
            values,
            channels: self.inputs,
            height: self.height,
            width: self.width,
        }
    }

    fn output<'a>(&self, values: &'a [f32]) -> Maps<'a> {
        assert_eq!(values.len(), self.output_len(), "the output of {self:?}");
        let [height, width] = self.output_map();
        Maps {
            values,
            channels: self.outputs,
            height,
            width,
        }
    }

    /// The taps along an axis of `size` inputs, each with its place in the kernel. On a map that is
    /// smaller than the kernel some see nothing but padding: of a 3×3 kernel over a single pixel only
    /// the one in the middle is left.
    fn taps(&self, size: usize) -> Vec<(usize, isize)> {
        let outputs = self.output_size(size) as isize;
        let taps = (0..self.kernel).map(|k| (k, k as isize - self.padding as isize));
        let sees = |&(_, delta): &(usize, isize)| {
            let stride = self.stride as isize;
            let first = ((-delta).max(0) + stride - 1) / stride;
            first < outputs && first * stride + delta < size as isize
        };
        taps.filter(sees).collect()
    }

    /// The taps along an axis of `size` inputs that reach the inputs `phase + stride·i`: each with its
    /// place in the kernel and the output it comes from, relative to output i.
    fn turned_taps(&self, size: usize, phase: usize) -> Vec<(usize, isize)> {
        let stride = self.stride as isize;
        let outputs = self.output_size(size) as isize;
        let inputs = size.saturating_sub(phase).div_ceil(self.stride) as isize;
        let taps = (0..self.kernel).map(|k| (k, (phase + self.padding) as isize - k as isize));
        let taps = taps.filter(|(_, delta)| delta % stride == 0);
        let taps = taps.map(|(k, delta)| (k, delta / stride));
        taps.filter(|&(_, delta)| (-delta).max(0) < inputs && (-delta).max(0) + delta < outputs)
            .collect()
    }

    fn correlation(&self) -> Correlation {
        let [height, width] = self.output_map();
        Correlation {
            images: self.images,
            groups: self.groups,
            inputs: self.inputs / self.groups,
            outputs: self.outputs / self.groups,
            taps: Taps::new(self.kernel, &self.taps(self.height), &self.taps(self.width)),
            step: self.stride,
            source: [self.height, self.width],
            height,
            width,
        }
    }
}

/// The convolution of `x` with `weight`, written to `y`.
///
/// # Panics
/// If a slice has another length than `shape` says.
pub(crate) fn forward(shape: &ConvShape, x: &[f32], weight: &[f32], y: &mut [f32]) {
    assert_eq!(weight.len(), shape.weight_len(), "the weight of {shape:?}");
    assert_eq!(y.len(), shape.output_len(), "the output of {shape:?}");
    if shape.is_empty() {
        return;
    }
    let taps = shape.kernel * shape.kernel;
    let inputs = shape.inputs / shape.groups;
    let weights = Weights {
        values: weight,
        group: shape.outputs / shape.groups * inputs * taps,
        output: inputs * taps,
        input: taps,
    };
    let [height, width] = shape.output_map();
    let target = Target {
        values: Shared(y.as_mut_ptr()),
        channels: shape.outputs,
        height,
        width,
        step: 1,
        row: 0,
        column: 0,
    };
    let correlation = shape.correlation();
    if correlation.taps() == 0 {
        return y.fill(0.0);
    }
    correlation.run(&shape.input(x), &weights, &target);
}

/// The gradient of the input, written to `dx`, given the gradient `dy` of the output.
///
/// # Panics
/// If a slice has another length than `shape` says.
pub(crate) fn input_gradient(shape: &ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    assert_eq!(weight.len(), shape.weight_len(), "the weight of {shape:?}");
    assert_eq!(dx.len(), shape.input_len(), "the input of {shape:?}");
    if shape.is_empty() {
        return dx.fill(0.0);
    }
    let maps = shape.output(dy);
    let stride = shape.stride;
    let unseen = |phase: usize, size| shape.turned_taps(size, phase).is_empty();
    if (0..stride).any(|phase| unseen(phase, shape.height) || unseen(phase, shape.width)) {
        dx.fill(0.0);
    }
    let inputs = shape.inputs / shape.groups;
    let area = shape.kernel * shape.kernel;
    let weights = Weights {
        values: weight,
        group: shape.outputs / shape.groups * inputs * area,
        output: area,
        input: inputs * area,
    };
    for (row, column) in (0..stride).flat_map(|y| (0..stride).map(move |x| (y, x))) {
        let ys = shape.turned_taps(shape.height, row);
        let xs = shape.turned_taps(shape.width, column);
        if ys.is_empty() || xs.is_empty() {
            continue;
        }
        let correlation = Correlation {
            images: shape.images,
            groups: shape.groups,
            inputs: shape.outputs / shape.groups,
            outputs: inputs,
            taps: Taps::new(shape.kernel, &ys, &xs),
            step: 1,
            source: [maps.height, maps.width],
            height: (shape.height - row).div_ceil(stride),
            width: (shape.width - column).div_ceil(stride),
        };
        let target = Target {
            values: Shared(dx.as_mut_ptr()),
            channels: shape.inputs,
            height: shape.height,
            width: shape.width,
            step: stride,
            row,
            column,
        };
        correlation.run(&maps, &weights, &target);
    }
}

/// The gradient of the weight, written to `dw`, given the gradient `dy` of the output.
///
/// # Panics
/// If a slice has another length than `shape` says.
pub(crate) fn weight_gradient(shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert_eq!(dw.len(), shape.weight_len(), "the weight of {shape:?}");
    if shape.is_empty() {
        return dw.fill(0.0);
    }
    let correlation = shape.correlation();
    if correlation.taps() < correlation.taps.area {
        dw.fill(0.0);
    }
    if correlation.taps() == 0 {
        return;
    }
    correlation.weight_gradient(&shape.input(x), &shape.output(dy), dw);
}

/// Maps to maps: `out[o][y][x] = Σ_c Σ_t w[o][c][t] · in[c][y·step + dy_t][x·step + dx_t]`, group by
/// group, where what lies outside of the input is zero.
struct Correlation {
    images: usize,
    groups: usize,
    /// Of a group.
    inputs: usize,
    /// Of a group.
    outputs: usize,
    taps: Taps,
    step: usize,
    /// Height and width of the input.
    source: [usize; 2],
    height: usize,
    width: usize,
}

/// The taps of a kernel.
struct Taps {
    deltas: Vec<Tap>,
    /// Place of each in the kernel.
    places: Vec<usize>,
    /// Number of places.
    area: usize,
}

impl Taps {
    fn new(kernel: usize, ys: &[(usize, isize)], xs: &[(usize, isize)]) -> Self {
        let pairs = || ys.iter().flat_map(|y| xs.iter().map(move |x| (y, x)));
        Self {
            deltas: pairs().map(|(y, x)| Tap { dy: y.1, dx: x.1 }).collect(),
            places: pairs().map(|(y, x)| y.0 * kernel + x.0).collect(),
            area: kernel * kernel,
        }
    }
}

/// Where the weight of (group, output, input, place in the kernel) is: at the sum of the parts.
struct Weights<'a> {
    values: &'a [f32],
    group: usize,
    output: usize,
    input: usize,
}

/// Where the output goes: pixel (y, x) to `(y·step + row, x·step + column)`.
struct Target {
    values: Shared,
    channels: usize,
    height: usize,
    width: usize,
    step: usize,
    row: usize,
    column: usize,
}

/// A pointer that the tasks of one call share; each writes where no other does.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: see above; the call that makes it does not return before its tasks have ended.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Buffers that a thread keeps.
#[derive(Default)]
struct Scratch {
    panel: Vec<f32>,
    compact: Vec<f32>,
    rows: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A chunking of the images: the layout of a chunk, and the chunks.
struct Plan {
    layout: Layout,
    compact: Option<Compact>,
    /// Channels that are multiplied at a time.
    depth: usize,
    chunks: Vec<Chunk>,
    offsets: Vec<u32>,
}

impl Plan {
    fn stride(&self) -> usize {
        match &self.compact {
            Some(compact) => compact.stride,
            None => self.layout.columns().next_multiple_of(ALIGN),
        }
    }

    fn columns(&self) -> usize {
        match &self.compact {
            Some(_) => self.layout.pixels(),
            None => self.layout.columns(),
        }
    }

    /// Column of the first pixel of an output row of the chunk.
    fn start(&self, image: usize, row: usize) -> usize {
        match &self.compact {
            Some(_) => (image * self.layout_rows() + row) * self.layout_width(),
            None => self.layout.start(image, row),
        }
    }

    fn layout_rows(&self) -> usize {
        self.chunks[0].rows
    }

    fn layout_width(&self) -> usize {
        self.layout.width()
    }

    /// The panel of some channels of a chunk, in one of the two buffers.
    fn panel<'a>(
        &self,
        panel: &'a mut Vec<f32>,
        compact: &'a mut Vec<f32>,
        maps: &Maps,
        chunk: Chunk,
        channels: Range<usize>,
        taps: usize,
    ) -> &'a [f32] {
        let rows = channels.len() * taps;
        self.layout.fill(panel, maps, chunk, channels.clone());
        match &self.compact {
            None => panel,
            Some(c) => {
                c.fill(compact, panel, &self.layout.offsets(channels.len())[..rows]);
                compact
            }
        }
    }
}

impl Correlation {
    fn taps(&self) -> usize {
        self.taps.deltas.len()
    }

    fn layout(&self, chunk: Chunk) -> Layout {
        Layout::new(&self.taps.deltas, self.step, self.source, self.width, chunk)
    }

    /// Cuts the images into chunks for tasks that work on `outputs` rows beside the panel.
    fn plan(&self, outputs: usize, depth: usize) -> Plan {
        let depth = (depth / self.taps()).clamp(1, self.inputs);
        let whole = Chunk {
            image: 0,
            images: 1,
            row: 0,
            rows: self.height,
        };
        let probe = self.layout(Chunk { images: 2, ..whole });
        // Columns that one more image adds.
        let image = probe.start(1, 0);
        let pixels = self.height * self.width;
        // Gaps cost a vector step in sixteen outputs; copying them away, somewhat more than one.
        let gaps = (image - pixels) as f64 / pixels as f64;
        let compact = gaps * outputs as f64 > 24.0;
        let rows = outputs + depth * if compact { self.taps() } else { 1 };
        let columns = (WORKING_SET / rows).clamp(COLUMNS.start, COLUMNS.end);
        let mut chunks = Vec::new();
        if image * 3 > columns * 4 {
            let bands = image.div_ceil(columns).min(self.height);
            let rows = self.height.div_ceil(bands);
            for image in 0..self.images {
                for row in (0..self.height).step_by(rows) {
                    chunks.push(Chunk {
                        image,
                        images: 1,
                        row,
                        rows: rows.min(self.height - row),
                    });
                }
            }
        } else {
            let count = self.images.div_ceil((columns / image).max(1));
            let images = self.images.div_ceil(count);
            for image in (0..self.images).step_by(images) {
                chunks.push(Chunk {
                    image,
                    images: images.min(self.images - image),
                    ..whole
                });
            }
        }
        let layout = self.layout(chunks[0]);
        let compact = compact.then(|| Compact::new(&layout));
        let offsets = match &compact {
            Some(compact) => compact.offsets(depth * self.taps()),
            None => layout.offsets(depth),
        };
        Plan {
            layout,
            compact,
            depth,
            chunks,
            offsets,
        }
    }

    /// Whether rows of the matrix of patches overlap.
    fn depth(&self) -> usize {
        if self.taps() > 1 { DEPTH_SHARED } else { DEPTH }
    }

    fn run(&self, maps: &Maps, weights: &Weights, target: &Target) {
        let packed = self.pack(weights);
        let outputs_at_once = self.outputs.min(256);
        let plan = self.plan(outputs_at_once, self.depth());
        // What a task does: a chunk, and a range of groups or of the outputs of a group.
        let blocks = self.outputs.div_ceil(ROWS);
        let least = self.outputs.div_ceil(256);
        let wanted = TASKS.div_ceil(plan.chunks.len()).max(least);
        let splits: Vec<(Range<usize>, Range<usize>)> = if self.groups > 1 {
            ranges(self.groups, wanted)
                .map(|groups| (groups, 0..blocks))
                .collect()
        } else {
            let wanted = wanted.min(blocks.div_ceil(16));
            ranges(blocks, wanted)
                .map(|blocks| (0..1, blocks))
                .collect()
        };
        (0..plan.chunks.len() * splits.len())
            .into_par_iter()
            .for_each(|task| {
                let chunk = plan.chunks[task / splits.len()];
                let (groups, blocks) = splits[task % splits.len()].clone();
                SCRATCH.with_borrow_mut(|scratch| {
                    for group in groups {
                        self.task(&plan, maps, chunk, group, blocks.clone(), &packed, scratch);
                        self.deliver(&plan, chunk, group, blocks.clone(), &scratch.rows, target);
                    }
                });
            });
    }

    /// Fills `scratch.rows` with some outputs of one group.
    #[allow(clippy::too_many_arguments)]
    fn task(
        &self,
        plan: &Plan,
        maps: &Maps,
        chunk: Chunk,
        group: usize,
        blocks: Range<usize>,
        packed: &[f32],
        scratch: &mut Scratch,
    ) {
        let taps = self.taps();
        let depth = self.inputs * taps;
        let all_blocks = self.outputs.div_ceil(ROWS);
        let stride = plan.stride();
        let needed = blocks.len() * ROWS * stride;
        if scratch.rows.len() < needed {
            scratch.rows.resize(needed, 0.0);
        }
        for first in (0..self.inputs).step_by(plan.depth) {
            let last = (first + plan.depth).min(self.inputs);
            let channels = group * self.inputs + first..group * self.inputs + last;
            let panel = plan.panel(
                &mut scratch.panel,
                &mut scratch.compact,
                maps,
                chunk,
                channels,
                taps,
            );
            let start = (group * all_blocks + blocks.start) * depth + first * taps;
            MapProduct {
                panel,
                offsets: &plan.offsets[..(last - first) * taps],
                weights: &packed[start * ROWS..],
                weights_stride: depth * ROWS,
                rows: (blocks.end * ROWS).min(self.outputs) - blocks.start * ROWS,
                columns: plan.columns(),
                out: &mut scratch.rows,
                out_stride: stride,
                accumulate: first > 0,
            }
            .run();
        }
    }

    /// Copies the rows of a task to where they belong.
    fn deliver(
        &self,
        plan: &Plan,
        chunk: Chunk,
        group: usize,
        blocks: Range<usize>,
        rows: &[f32],
        target: &Target,
    ) {
        let first = blocks.start * ROWS;
        let last = (blocks.end * ROWS).min(self.outputs);
        let stride = plan.stride();
        for image in 0..chunk.images {
            for output in first..last {
                let row = &rows[(output - first) * stride..][..stride];
                let channel = group * self.outputs + output;
                let map = (chunk.image + image) * target.channels + channel;
                for y in 0..chunk.rows {
                    let from = &row[plan.start(image, y)..][..self.width];
                    let line = (chunk.row + y) * target.step + target.row;
                    let to = (map * target.height + line) * target.width + target.column;
                    // SAFETY: `line` and the columns lie within the map: `height` and `width` of a
                    // correlation are how often `step` fits. Chunks, groups and blocks are disjoint.
                    unsafe {
                        let to = target.values.0.add(to);
                        if target.step == 1 {
                            std::ptr::copy_nonoverlapping(from.as_ptr(), to, self.width);
                        } else {
                            for (x, &value) in from.iter().enumerate() {
                                to.add(x * target.step).write(value);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The weights in the order of the kernel: `[group][block][input][tap][ROWS]`, zero where there is
    /// no output.
    fn pack(&self, weights: &Weights) -> Vec<f32> {
        let taps = self.taps();
        let blocks = self.outputs.div_ceil(ROWS);
        let size = self.inputs * taps * ROWS;
        let mut packed = vec![0.0; self.groups * blocks * size];
        packed
            .par_chunks_mut(size)
            .enumerate()
            .for_each(|(index, block)| {
                let (group, block_index) = (index / blocks, index % blocks);
                let first = block_index * ROWS;
                for r in 0..ROWS.min(self.outputs - first) {
                    let start = group * weights.group + (first + r) * weights.output;
                    for (c, block) in block.chunks_exact_mut(taps * ROWS).enumerate() {
                        let start = start + c * weights.input;
                        for (to, &tap) in block[r..].iter_mut().step_by(ROWS).zip(&self.taps.places)
                        {
                            *to = weights.values[start + tap];
                        }
                    }
                }
            });
        packed
    }

    fn weight_gradient(&self, maps: &Maps, gradient: &Maps, dw: &mut [f32]) {
        let plan = self.plan(self.outputs.min(32), DEPTH_SHARED);
        let taps = self.taps();
        // What a task does: a range of the chunks, for some groups or for some inputs of a group.
        let parts: Vec<(Range<usize>, Range<usize>)> = if self.groups > 1 {
            let at_once = (64 / self.inputs).max(1);
            ranges(self.groups, self.groups.div_ceil(at_once))
                .flat_map(|groups| {
                    let inputs = ranges(self.inputs, self.inputs.div_ceil(plan.depth));
                    inputs.map(move |inputs| (groups.clone(), inputs))
                })
                .collect()
        } else {
            ranges(self.inputs, self.inputs.div_ceil(plan.depth))
                .map(|inputs| (0..1, inputs))
                .collect()
        };
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
        let target = Shared(dw.as_mut_ptr());
        parts
            .par_iter()
            .zip(partial.par_chunks(slices.len()))
            .for_each(|((groups, inputs), partial)| {
                let target = target;
                let depth = inputs.len() * taps;
                let mut sums = vec![0.0; depth];
                for (g, group) in groups.clone().enumerate() {
                    for output in 0..self.outputs {
                        let from = (g * size + output) * depth;
                        sums.fill(0.0);
                        for partial in partial {
                            for (sum, &value) in sums.iter_mut().zip(&partial[from..]) {
                                *sum += value;
                            }
                        }
                        let channel = (group * self.outputs + output) * self.inputs + inputs.start;
                        for (input, sums) in sums.chunks_exact(taps).enumerate() {
                            for (&sum, place) in sums.iter().zip(&self.taps.places) {
                                // SAFETY: a weight, and parts are disjoint.
                                unsafe {
                                    let to = (channel + input) * self.taps.area + place;
                                    target.0.add(to).write(sum);
                                }
                            }
                        }
                    }
                }
            });
    }

    /// The weight gradient of some chunks: `[groups][outputs, padded][inputs][taps]`.
    fn partial(
        &self,
        plan: &Plan,
        maps: &Maps,
        gradient: &Maps,
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
        SCRATCH.with_borrow_mut(|scratch| {
            for &chunk in chunks {
                for (group, sums) in groups.clone().zip(sums.chunks_exact_mut(size)) {
                    scratch.rows.clear();
                    scratch.rows.resize(blocks * ROWS * stride, 0.0);
                    self.collect(plan, gradient, chunk, group, &mut scratch.rows);
                    let first = group * self.inputs;
                    let channels = first + inputs.start..first + inputs.end;
                    let panel = plan.panel(
                        &mut scratch.panel,
                        &mut scratch.compact,
                        maps,
                        chunk,
                        channels,
                        taps,
                    );
                    WeightProduct {
                        panel,
                        offsets: &plan.offsets[..depth],
                        left: &scratch.rows,
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
    fn collect(&self, plan: &Plan, maps: &Maps, chunk: Chunk, group: usize, rows: &mut [f32]) {
        let stride = plan.stride();
        for (output, row) in rows.chunks_exact_mut(stride).take(self.outputs).enumerate() {
            for image in 0..chunk.images {
                let map = maps.map(chunk.image + image, group * self.outputs + output);
                for y in 0..chunk.rows {
                    let from = &map[(chunk.row + y) * self.width..][..self.width];
                    row[plan.start(image, y)..][..self.width].copy_from_slice(from);
                }
            }
        }
    }
}

/// `0..length` in about `count` ranges of the same length.
fn ranges(length: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let size = length.div_ceil(count.max(1)).max(1);
    (0..length)
        .step_by(size)
        .map(move |start| start..(start + size).min(length))
}
