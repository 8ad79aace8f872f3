//! How a correlation is cut into pieces that fit into the caches.

use std::ops::Range;

use super::correlation::Correlation;
use super::kernel::{ALIGN, touched};
use super::panel::{Chunk, Compact, Layout, Maps, Tap};
use crate::ops::element::Element;

/// Floats that a task may use at a time: half of a second-level cache of today.
const WORKING_SET: usize = 128 * 1024;
/// Columns of a chunk, at least and at most, where the maps allow it.
const COLUMNS: Range<usize> = 192..1536;
/// Gaps of this share of the pixels, times the outputs, are copied away. They cost a vector step in
/// every `LANES · 2` outputs, and copying costs somewhat more than one.
const MAX_GAPS: f64 = 24.0;

/// Tasks a thread of a convolution, about.
pub(super) const TASKS_PER_THREAD: usize = 4;

/// A chunking of the images: the layout of a chunk, and the chunks.
pub(super) struct Chunking {
    layout: Layout,
    /// Whether the maps are their own panel, and rows of outputs maps: a chunk is an image.
    pub(super) direct: bool,
    compact: Option<Compact>,
    /// Channels that are multiplied at a time.
    pub(super) depth: usize,
    pub(super) chunks: Vec<Chunk>,
    /// Of the rows of a panel.
    pub(super) offsets: Vec<usize>,
}

/// Where panels are made.
#[derive(Default)]
pub(super) struct Panels {
    panel: Vec<f32>,
    compact: Vec<f32>,
}

impl Chunking {
    pub(super) fn stride(&self) -> usize {
        match &self.compact {
            Some(compact) => compact.stride,
            None if self.direct => self.layout.pixels(),
            None => self.layout.columns().next_multiple_of(ALIGN),
        }
    }

    pub(super) fn columns(&self) -> usize {
        match &self.compact {
            Some(_) => self.layout.pixels(),
            None => self.layout.columns(),
        }
    }

    /// Calls `body(column, first row, rows)` for the stretches of an image of the chunk that lie in one
    /// piece: the whole image if there are no gaps, otherwise row by row.
    pub(super) fn stretches(
        &self,
        image: usize,
        chunk: Chunk,
        mut body: impl FnMut(usize, usize, usize),
    ) {
        match &self.compact {
            Some(compact) => body(image * compact.image, 0, chunk.rows),
            None if self.layout.is_dense() => body(self.layout.start(image, 0), 0, chunk.rows),
            None => (0..chunk.rows).for_each(|row| body(self.layout.start(image, row), row, 1)),
        }
    }

    /// The panel of some channels of a chunk: in one of the two buffers, or the maps themselves.
    pub(super) fn panel<'a, E: Element>(
        &self,
        Panels { panel, compact }: &'a mut Panels,
        maps: &Maps<'a, E>,
        chunk: Chunk,
        channels: Range<usize>,
    ) -> &'a [f32] {
        if self.direct {
            return E::widened(maps.maps(chunk.image, channels), panel);
        }
        self.layout.fill(panel, maps, chunk, channels.clone());
        match &self.compact {
            None => panel,
            Some(c) => {
                c.fill(compact, panel, &self.layout.offsets(channels.len()));
                compact
            }
        }
    }
}

impl Correlation {
    fn layout(&self, chunk: Chunk) -> Layout {
        Layout::new(&self.taps.deltas, self.step, self.source, self.width, chunk)
    }

    /// Cuts the images into chunks, for tasks that keep `outputs` rows beside a panel of about `depth`
    /// rows of the matrix of patches. Chunks may get smaller for there to be as many as `tasks`.
    pub(super) fn plan(&self, outputs: usize, depth: usize, tasks: usize) -> Chunking {
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
        let gaps = (image - pixels) as f64 / pixels as f64;
        let compact = gaps * outputs as f64 > MAX_GAPS;
        let rows = outputs + depth * if compact { self.taps() } else { 1 };
        let share = (image * self.images).div_ceil(tasks);
        let columns = (WORKING_SET / rows).min(share);
        let columns = columns.clamp(COLUMNS.start, COLUMNS.end);
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
        Chunking {
            layout,
            direct: false,
            compact,
            depth,
            chunks,
            offsets,
        }
    }

    /// Whether every output pixel sees the input pixel in its own place and no other, and maps are whole
    /// vectors, and `least` of them.
    pub(super) fn is_pointwise(&self, least: usize) -> bool {
        let pixels = self.height * self.width;
        self.taps.deltas[..] == [Tap { dy: 0, dx: 0 }]
            && self.step == 1
            && self.source == [self.height, self.width]
            && self.groups == 1
            && pixels.is_multiple_of(ALIGN)
            && pixels >= least
            && touched(self.outputs) == self.outputs
    }

    /// The plan of a pointwise correlation: every image for itself, where it lies.
    pub(super) fn direct_plan(&self, depth: usize) -> Chunking {
        let whole = |image| Chunk {
            image,
            images: 1,
            row: 0,
            rows: self.height,
        };
        let depth = depth.min(self.inputs);
        let pixels = self.height * self.width;
        Chunking {
            layout: self.layout(whole(0)),
            direct: true,
            compact: None,
            depth,
            chunks: (0..self.images).map(whole).collect(),
            offsets: (0..depth).map(|channel| channel * pixels).collect(),
        }
    }
}

/// `0..length` in about `count` ranges of the same length.
pub(super) fn ranges(length: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let size = length.div_ceil(count.max(1)).max(1);
    (0..length)
        .step_by(size)
        .map(move |start| start..(start + size).min(length))
}
