//! From maps to panels: where the patches of a convolution are found without being copied.
//!
//! Take one channel of one image and a kernel of stride 1. Write the map into a zeroed buffer with a
//! gap after each row as wide as the padding, and with gaps as high between images. Give the output
//! pixel (y, x) the number `q = y·pitch + x`. Then the pixel under tap (dy, dx) is at `q + dy·pitch +
//! dx`, whatever q is: for a fixed tap, the row of the matrix of patches is the buffer itself, from
//! an offset on. The gap on the right of one row is also the gap on the left of the next, so 32
//! columns cost 33. The q that fall into a gap are computed and thrown away.
//!
//! With stride s the map is taken apart first, into s×s maps of every s-th row and column; a tap sees
//! one of those, with stride 1.
//!
//! On maps of a few pixels the gaps are a large part: 3×3 pixels cost 4×4. There the rows of the
//! matrix are copied out without the gaps ([`Panel::compact`]), which costs one pass over them and
//! pays if there are many outputs.

use std::ops::Range;

use super::kernel::ALIGN;
use super::out::Out;
use crate::ops::element::Element;

/// A tap of a kernel: output (y, x) reads input `(y·step + dy, x·step + dx)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) dy: isize,
    pub(super) dx: isize,
}

/// Many images of many channels, contiguous: `[N, channels, height, width]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maps<'a, E> {
    pub(super) values: &'a [E],
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl<'a, E: Element> Maps<'a, E> {
    pub(super) fn map(&self, image: usize, channel: usize) -> &'a [E] {
        self.maps(image, channel..channel + 1)
    }

    /// The maps of some channels of an image, one after the other.
    pub(super) fn maps(&self, image: usize, channels: Range<usize>) -> &'a [E] {
        let size = self.height * self.width;
        let start = image * self.channels;
        &self.values[(start + channels.start) * size..(start + channels.end) * size]
    }
}

/// What one task computes at a time: some whole images, or some rows of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) image: usize,
    pub(super) images: usize,
    pub(super) row: usize,
    pub(super) rows: usize,
}

/// One axis of a padded buffer.
#[derive(Clone, Copy, Debug)]
struct Axis {
    /// Positions that hold data, relative to output position 0 of the chunk.
    data: (isize, isize),
    /// Smallest and largest shift of a tap.
    shifts: (isize, isize),
    /// From one row (of rows: image) to the next.
    span: usize,
}

impl Axis {
    /// `outputs` positions from `first` on, over `size` inputs, read by taps `deltas` with a step.
    fn new(
        deltas: impl Iterator<Item = isize> + Clone,
        step: usize,
        size: usize,
        first: usize,
        outputs: usize,
    ) -> Self {
        let step = step as isize;
        let shifts = deltas.clone().map(|d| d.div_euclid(step));
        let (least, most) = (shifts.clone().min().unwrap_or(0), shifts.max().unwrap_or(0));
        let first = first as isize;
        let end = deltas
            .map(|d| phase_length(size, d.rem_euclid(step), step) - first)
            .max()
            .unwrap_or(0);
        let outputs = outputs as isize;
        let low = (-first).max(least);
        let high = end.min(outputs + most).max(low);
        // What is read before the data, and after it, must not be data of the neighbour.
        let span = (high - least).max(outputs + most - low).max(outputs);
        Self {
            data: (low, high),
            shifts: (least, most),
            span: span as usize,
        }
    }
}

/// Number of inputs at `phase`, `phase + step`, …
fn phase_length(size: usize, phase: isize, step: isize) -> isize {
    (size as isize - phase + step - 1).div_euclid(step).max(0)
}

/// How a chunk is laid out as a panel. The same for all chunks of equal height and number of images.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    step: usize,
    /// The distinct phases that the taps see, as (y, x).
    phases: Vec<(usize, usize)>,
    /// For each tap, its phase and its offset within a plane.
    taps: Vec<(usize, usize)>,
    y: Axis,
    x: Axis,
    chunk: Chunk,
    width: usize,
    lead: usize,
    plane: usize,
}

impl Layout {
    /// For `taps` over maps of `height × width`, of which `width_out` outputs a row are wanted.
    pub(super) fn new(
        taps: &[Tap],
        step: usize,
        [height, width]: [usize; 2],
        width_out: usize,
        chunk: Chunk,
    ) -> Self {
        let y = Axis::new(
            taps.iter().map(|t| t.dy),
            step,
            height,
            chunk.row,
            chunk.rows,
        );
        let x = Axis::new(taps.iter().map(|t| t.dx), step, width, 0, width_out);
        let pitch = x.span as isize;
        let s = step as isize;
        let lead = (-(y.shifts.0 * pitch + x.shifts.0)).max(0);
        let mut phases = Vec::new();
        let taps = taps.iter().map(|tap| {
            let phase = (tap.dy.rem_euclid(s) as usize, tap.dx.rem_euclid(s) as usize);
            let found = phases.iter().position(|&p| p == phase);
            let index = found.unwrap_or_else(|| {
                phases.push(phase);
                phases.len() - 1
            });
            let shift = tap.dy.div_euclid(s) * pitch + tap.dx.div_euclid(s);
            (index, (lead + shift) as usize)
        });
        let taps: Vec<_> = taps.collect();
        let mut layout = Self {
            step,
            phases,
            taps,
            y,
            x,
            chunk,
            width: width_out,
            lead: lead as usize,
            plane: 0,
        };
        let reach = layout.taps.iter().map(|t| t.1).max().unwrap_or(0);
        let plane = (reach + layout.columns().next_multiple_of(ALIGN)).next_multiple_of(ALIGN);
        // An odd number of cache lines: planes a power of two apart would fight for the same ones.
        layout.plane = ((plane / ALIGN) | 1) * ALIGN;
        layout
    }

    /// Number of q's, those in gaps included.
    pub(super) fn columns(&self) -> usize {
        let rows = (self.chunk.images - 1) * self.y.span + self.chunk.rows;
        (rows - 1) * self.x.span + self.width
    }

    /// Number of q's that are pixels.
    pub(super) fn pixels(&self) -> usize {
        self.chunk.images * self.chunk.rows * self.width
    }

    /// Whether the rows of an image follow one another without a gap.
    pub(super) fn is_dense(&self) -> bool {
        self.x.span == self.width
    }

    /// The q of the first pixel of an output row.
    pub(super) fn start(&self, image: usize, row: usize) -> usize {
        (image * self.y.span + row) * self.x.span
    }

    /// Floats of a panel of `channels`.
    pub(super) fn len(&self, channels: usize) -> usize {
        channels * self.phases.len() * self.plane
    }

    /// Offsets of the rows of `channels`, channel by channel.
    pub(super) fn offsets(&self, channels: usize) -> Vec<usize> {
        let rows = (0..channels).flat_map(|channel| {
            let channel = channel * self.phases.len();
            let tap =
                move |&(phase, offset): &(usize, usize)| (channel + phase) * self.plane + offset;
            self.taps.iter().map(tap)
        });
        rows.collect()
    }

    /// Fills `panel` with `channels` of the chunk's images. Everything that is not data is zero.
    pub(super) fn fill<E: Element>(
        &self,
        panel: &mut Vec<f32>,
        maps: &Maps<E>,
        chunk: Chunk,
        channels: Range<usize>,
    ) {
        if self.is_plain(maps, chunk) {
            self.fill_plain(panel, maps, chunk, channels);
            return;
        }
        panel.clear();
        panel.resize(self.len(channels.len()), 0.0);
        let phases = self.phases.iter();
        let windows: Vec<Option<Window>> = phases.map(|&p| self.window(maps, chunk, p)).collect();
        let mut planes = panel.chunks_exact_mut(self.plane);
        for channel in channels {
            for window in &windows {
                let (Some(plane), Some(window)) = (planes.next(), window) else {
                    continue;
                };
                for image in 0..chunk.images {
                    let map = maps.map(chunk.image + image, channel);
                    let to = &mut plane[image * self.y.span * self.x.span..];
                    self.fill_plane(to, map, maps.width, window);
                }
            }
        }
    }

    /// Whether the planes of a chunk are nothing but its maps, one after the other: as of 1×1 kernels with stride 1.
    fn is_plain<E: Element>(&self, maps: &Maps<E>, chunk: Chunk) -> bool {
        let in_place = self.taps == [(0, 0)] && (self.y.shifts, self.x.shifts) == ((0, 0), (0, 0));
        let whole = maps.width == self.width && chunk.row + chunk.rows <= maps.height;
        self.step == 1 && in_place && whole && self.columns() == self.pixels()
    }

    /// [`fill`](Self::fill) of such planes: what is written over need not be cleared.
    fn fill_plain<E: Element>(
        &self,
        panel: &mut Vec<f32>,
        maps: &Maps<E>,
        chunk: Chunk,
        channels: Range<usize>,
    ) {
        panel.resize(self.len(channels.len()), 0.0);
        let rows = chunk.row * maps.width..(chunk.row + chunk.rows) * maps.width;
        for (plane, channel) in panel.chunks_exact_mut(self.plane).zip(channels) {
            let mut rest = plane;
            for image in chunk.image..chunk.image + chunk.images {
                let (to, after) = rest.split_at_mut(rows.len());
                copy(to, &maps.map(image, channel)[rows.clone()]);
                rest = after;
            }
            rest.fill(0.0);
        }
    }

    /// What of a map is copied into the planes of a phase, and to where.
    fn window<E: Element>(
        &self,
        maps: &Maps<E>,
        chunk: Chunk,
        (phase_y, phase_x): (usize, usize),
    ) -> Option<Window> {
        let step = self.step as isize;
        // Rows at the lower edge of the last band may be fewer than the layout has room for.
        let first = chunk.row as isize;
        let end_y = phase_length(maps.height, phase_y as isize, step) - first;
        let low_y = (-first).max(self.y.shifts.0);
        let high_y = end_y.min(chunk.rows as isize + self.y.shifts.1);
        let end_x = phase_length(maps.width, phase_x as isize, step);
        let (low_x, high_x) = (self.x.data.0, self.x.data.1.min(end_x));
        let to = self.lead as isize + low_y * self.x.span as isize + low_x;
        let row = ((first + low_y) * step) as usize + phase_y;
        (low_y < high_y && low_x < high_x).then(|| Window {
            rows: (high_y - low_y) as usize,
            length: (high_x - low_x) as usize,
            to: to as usize,
            from: row * maps.width + low_x as usize * self.step + phase_x,
        })
    }

    fn fill_plane<E: Element>(&self, plane: &mut [f32], map: &[E], width: usize, window: &Window) {
        let &Window { rows, length, .. } = window;
        let (mut to, mut from) = (window.to, window.from);
        if self.step == 1 && length == width && self.x.span == length {
            let size = rows * length;
            copy(&mut plane[to..to + size], &map[from..from + size]);
            return;
        }
        for _ in 0..rows {
            let row = &mut plane[to..to + length];
            match self.step {
                1 => copy(row, &map[from..from + length]),
                2 => {
                    let (pairs, rest) = map[from..].as_chunks::<2>();
                    for (to, &[pixel, _]) in row.iter_mut().zip(pairs) {
                        *to = pixel.widen();
                    }
                    // At the end of the map the last pixel may have none beside it.
                    if let (Some(to), Some(&pixel)) = (row.get_mut(pairs.len()), rest.first()) {
                        *to = pixel.widen();
                    }
                }
                step => {
                    let pixels = map[from..].iter().step_by(step);
                    for (to, &pixel) in row.iter_mut().zip(pixels) {
                        *to = pixel.widen();
                    }
                }
            }
            to += self.x.span;
            from += self.step * width;
        }
    }
}

/// A part of a map, for the planes of a phase.
#[derive(Clone, Copy, Debug)]
struct Window {
    rows: usize,
    /// Pixels of a row.
    length: usize,
    /// The first pixel in the plane of the first image.
    to: usize,
    /// The first pixel in the map.
    from: usize,
}

/// [`Out::copy_from`] for floats that are initialised.
#[inline(always)]
pub(super) fn copy<E: Element>(to: &mut [f32], from: &[E]) {
    Out::from(to).copy_from(from);
}

/// The way from a panel to one without gaps.
#[derive(Clone, Debug)]
pub(super) struct Compact {
    /// The q of the first pixel of each row.
    starts: Vec<usize>,
    /// Pixels of a row.
    width: usize,
    /// Pixels of an image.
    pub(super) image: usize,
    /// From row to row.
    pub(super) stride: usize,
}

impl Compact {
    pub(super) fn new(layout: &Layout) -> Self {
        let chunk = layout.chunk;
        let rows = (0..chunk.images).flat_map(|i| (0..chunk.rows).map(move |y| (i, y)));
        // An odd number of cache lines, as for planes.
        let lines = layout.pixels().div_ceil(ALIGN) | 1;
        Self {
            starts: rows.map(|(i, y)| layout.start(i, y)).collect(),
            width: layout.width,
            image: chunk.rows * layout.width,
            stride: lines * ALIGN,
        }
    }

    /// Copies the rows at `offsets` out of `panel`, one after the other.
    pub(super) fn fill(&self, compact: &mut Vec<f32>, panel: &[f32], offsets: &[usize]) {
        compact.resize(offsets.len() * self.stride, 0.0);
        for (row, &offset) in compact.chunks_exact_mut(self.stride).zip(offsets) {
            let from = &panel[offset..];
            match self.width {
                ..=4 => self.fill_row::<4>(row, from),
                5..=8 => self.fill_row::<8>(row, from),
                9..=16 => self.fill_row::<16>(row, from),
                _ => self.fill_row::<32>(row, from),
            }
        }
    }

    /// Copies N floats at a time where there is room: what is too much, the next row is written over.
    #[inline(always)]
    fn fill_row<const N: usize>(&self, row: &mut [f32], from: &[f32]) {
        let width = self.width;
        let mut at = 0;
        for &start in &self.starts {
            match (row.get_mut(at..at + N), from.get(start..start + N)) {
                (Some(to), Some(from)) if width <= N => to.copy_from_slice(from),
                _ => row[at..at + width].copy_from_slice(&from[start..start + width]),
            }
            at += width;
        }
        row[at..].fill(0.0);
    }

    /// Offsets of `rows` rows.
    pub(super) fn offsets(&self, rows: usize) -> Vec<usize> {
        (0..rows).map(|row| row * self.stride).collect()
    }
}
