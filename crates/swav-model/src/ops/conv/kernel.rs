//! The two inner loops: a product that yields maps, and one that yields weights.
//!
//! Both read the input through a *panel*: a block of floats and an offset for each k = (channel,
//! tap), such that row k of the matrix of patches is `panel[offset[k] ..]`. The rows may overlap:
//! the nine taps of a 3×3 kernel are nine shifted views of one padded map, and no patch is ever
//! copied. See [`panel`](super::panel) for how the offsets come about.
//!
//! A tile of either product is two vectors by six rows: twelve sums, two inputs and a factor fill
//! fifteen of the sixteen registers of AVX2. Three by four would load less, but it needs all sixteen,
//! and one spilled sum halves the speed. Of the 32 registers of AVX-512 a tile takes 27 or 29: two
//! vectors by twelve rows where maps come out, four by six where weights do.

use super::out::Out;
use crate::ops::vectors::{Kernel, Simd, dispatch};

/// Rows of the left matrix that a tile covers at most. Weights are packed, and rows of scratch space
/// padded, to multiples of it.
pub(super) const ROWS: usize = 6;
/// The longest vector there is, in floats. The kernels may touch up to a whole vector where a row
/// ends, so rows are padded to multiples of it.
pub(super) const ALIGN: usize = 16;

/// Rows that a product of `rows` reads or writes: tiles come in two, four, six, eight and twelve.
pub(super) fn touched(rows: usize) -> usize {
    let tiled = rows - rows % (2 * ROWS);
    match rows % (2 * ROWS) {
        0 => tiled,
        rest @ 9.. => tiled + rest.next_multiple_of(2 * ROWS),
        rest => tiled + rest.next_multiple_of(2),
    }
}

/// `out[r][q] = Σ_k weights[r][k] · panel[offsets[k] + q]`, added to what is there if `accumulate`.
///
/// Vectors run along q.
pub(super) struct MapProduct<'a> {
    pub(super) panel: &'a [f32],
    pub(super) offsets: &'a [usize],
    /// Blocks of `[k][ROWS]`; the kernel takes `offsets.len()` k's of each.
    pub(super) weights: &'a [f32],
    /// From block to block of `weights`.
    pub(super) weights_stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// `[touched(rows)][out_stride]`
    pub(super) out: Out<'a>,
    pub(super) out_stride: usize,
    pub(super) accumulate: bool,
}

impl MapProduct<'_> {
    /// # Safety
    /// If `accumulate` is set, `out` must hold floats in the first `columns`, rounded up to a multiple of [`ALIGN`], of
    /// each of `touched(rows)` rows: those that a product with as many rows and columns has written.
    ///
    /// # Panics
    /// If a slice is too short for what the numbers say.
    pub(super) unsafe fn run(self) {
        let columns = self.columns.next_multiple_of(ALIGN);
        let reach = self.offsets.iter().max().unwrap_or(&0) + columns;
        assert!(reach <= self.panel.len() && columns <= self.out_stride);
        let blocks = self.rows.div_ceil(ROWS);
        let last = self.offsets.len() * ROWS;
        assert!(blocks > 0 && (blocks - 1) * self.weights_stride + last <= self.weights.len());
        assert!(touched(self.rows) * self.out_stride <= self.out.len());
        dispatch(self);
    }

    /// A tile of `V` vectors by `R` rows, of one block or two, from `panel`, a column of the panel, to
    /// `out`.
    ///
    /// # Safety
    /// `S` must be present, and what `run` asserts must hold for the columns from `panel` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const V: usize, const R: usize>(
        &self,
        panel: *const f32,
        mut weights: *const f32,
        out: *mut f32,
    ) {
        // SAFETY: the caller guarantees the instruction set, and that what `run` asserts holds from these addresses on.
        unsafe {
            let mut sums = [[S::zero(); V]; R];
            if self.accumulate {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = S::load(out.add(r * self.out_stride + v * S::LANES));
                    }
                }
            }
            for &offset in self.offsets {
                let at = panel.add(offset);
                let mut x = [S::zero(); V];
                for (v, x) in x.iter_mut().enumerate() {
                    *x = S::load(at.add(v * S::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let w = S::splat(*weights.add(r / ROWS * self.weights_stride + r % ROWS));
                    for (sum, &x) in sums.iter_mut().zip(&x) {
                        *sum = S::mul_add(w, x, *sum);
                    }
                }
                weights = weights.add(ROWS);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    S::store(out.add(r * self.out_stride + v * S::LANES), sum);
                }
            }
        }
    }

    /// All rows at column `q`.
    ///
    /// # Safety
    /// As `tile`.
    #[inline(always)]
    unsafe fn column<S: Simd, const V: usize>(&self, q: usize, out: *mut f32) {
        let mut row = 0;
        while row < self.rows {
            // SAFETY: the caller guarantees what `tile` wants for this column; a tile reaches no row beyond `touched(rows)`.
            unsafe {
                let panel = self.panel.as_ptr().add(q);
                let weights = self.weights.as_ptr().add(row / ROWS * self.weights_stride);
                let out = out.add(row * self.out_stride + q);
                match self.rows - row {
                    1 | 2 => self.tile::<S, V, 2>(panel, weights, out),
                    3 | 4 => self.tile::<S, V, 4>(panel, weights, out),
                    7 | 8 if S::MANY_REGISTERS => {
                        self.tile::<S, V, { ROWS + 2 }>(panel, weights, out);
                        row += ROWS;
                    }
                    9.. if S::MANY_REGISTERS => {
                        self.tile::<S, V, { 2 * ROWS }>(panel, weights, out);
                        row += ROWS;
                    }
                    _ => self.tile::<S, V, ROWS>(panel, weights, out),
                }
            }
            row += ROWS;
        }
    }
}

impl Kernel for MapProduct<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let out = self.out.at(0);
        let mut q = 0;
        while q < self.columns {
            // SAFETY: the caller guarantees the instruction set; `run` has checked the lengths.
            unsafe {
                if q + S::LANES < self.columns {
                    self.column::<S, 2>(q, out);
                    q += 2 * S::LANES;
                } else {
                    self.column::<S, 1>(q, out);
                    q += S::LANES;
                }
            }
        }
    }
}

/// `out[r][k] += Σ_q left[r][q] · panel[offsets[k] + q]`.
///
/// Vectors run along q here too; the lanes are summed when q is through.
pub(super) struct WeightProduct<'a> {
    pub(super) panel: &'a [f32],
    pub(super) offsets: &'a [usize],
    /// `[touched(rows)][stride]`, zero from `columns` to the next multiple of [`ALIGN`].
    pub(super) left: &'a [f32],
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// `[rows, padded to ROWS][offsets.len()]`
    pub(super) out: &'a mut [f32],
}

impl WeightProduct<'_> {
    /// # Panics
    /// If a slice is too short for what the numbers say.
    pub(super) fn run(self) {
        let columns = self.columns.next_multiple_of(ALIGN);
        let reach = self.offsets.iter().max().unwrap_or(&0) + columns;
        assert!(reach <= self.panel.len() && columns <= self.stride);
        assert!(touched(self.rows) * self.stride <= self.left.len());
        assert!(self.rows.next_multiple_of(ROWS) * self.offsets.len() <= self.out.len());
        dispatch(self);
    }

    /// A tile of `T` k's by `R` rows; `T` is at most 4.
    ///
    /// # Safety
    /// `S` must be present, what `run` asserts must hold, `k + T ≤ offsets.len()`, and `row` must be
    /// a multiple of `ROWS` below `rows`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const T: usize, const R: usize>(
        &self,
        row: usize,
        k: usize,
        out: *mut f32,
    ) {
        // SAFETY: the caller guarantees the instruction set, the rows and the k's; `run` has checked the lengths.
        unsafe {
            let left = self.left.as_ptr().add(row * self.stride);
            let mut taps = [self.panel.as_ptr(); T];
            for (t, tap) in taps.iter_mut().enumerate() {
                *tap = tap.add(*self.offsets.get_unchecked(k + t));
            }
            let mut sums = [[S::zero(); T]; R];
            let mut q = 0;
            while q < self.columns {
                let mut x = [S::zero(); T];
                for (x, tap) in x.iter_mut().zip(taps) {
                    *x = S::load(tap.add(q));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left = S::load(left.add(r * self.stride + q));
                    for (sum, &x) in sums.iter_mut().zip(&x) {
                        *sum = S::mul_add(left, x, *sum);
                    }
                }
                q += S::LANES;
            }
            // By way of memory: what follows is too long to be unrolled, and what is not unrolled cannot
            // tell registers apart. Summing them in a loop would keep the sums out of registers above.
            let mut stored = [[S::zero(); T]; R];
            for (stored, sums) in stored.iter_mut().zip(&sums) {
                for (stored, &sum) in stored.iter_mut().zip(sums) {
                    S::store(std::ptr::from_mut(stored).cast(), sum);
                }
            }
            for (r, sums) in stored.iter().enumerate() {
                let out = out.add((row + r) * self.offsets.len() + k);
                match sums.first_chunk::<4>() {
                    Some(&sums) => S::add_sums(out, sums),
                    None => {
                        for (t, &sum) in sums.iter().enumerate() {
                            *out.add(t) += S::sum(sum);
                        }
                    }
                }
            }
        }
    }

    /// All k's of `R` rows.
    ///
    /// # Safety
    /// As `tile`.
    #[inline(always)]
    unsafe fn row<S: Simd, const R: usize>(&self, row: usize, out: *mut f32) {
        let mut k = 0;
        while k < self.offsets.len() {
            // SAFETY: the caller guarantees what `tile` wants for these rows; as many k's are left.
            unsafe {
                match self.offsets.len() - k {
                    4.. if S::MANY_REGISTERS => {
                        self.tile::<S, 4, R>(row, k, out);
                        k += 4;
                    }
                    1 => {
                        self.tile::<S, 1, R>(row, k, out);
                        k += 1;
                    }
                    _ => {
                        self.tile::<S, 2, R>(row, k, out);
                        k += 2;
                    }
                }
            }
        }
    }
}

impl Kernel for WeightProduct<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let out = self.out.as_mut_ptr();
        for row in (0..self.rows).step_by(ROWS) {
            // SAFETY: the caller guarantees the instruction set; `run` has checked the lengths.
            unsafe {
                match self.rows - row {
                    1 | 2 => self.row::<S, 2>(row, out),
                    3 | 4 => self.row::<S, 4>(row, out),
                    _ => self.row::<S, ROWS>(row, out),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::vectors::Portable;

    /// Small whole numbers: every order of the sums is exact.
    fn numbers(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7 + i / 5) % 9) as f32 - 4.0)
            .collect()
    }

    /// Rows of the panel that overlap, in no order.
    const OFFSETS: [usize; 7] = [3, 0, 40, 41, 7, 23, 9];
    const KS: usize = OFFSETS.len();
    const STRIDE: usize = 80;

    fn map_products(rows: usize, columns: usize, run: fn(MapProduct)) {
        let (panel, packed) = (numbers(41 + STRIDE), numbers(3 * KS * ROWS));
        for accumulate in [false, true] {
            let before = numbers(touched(rows) * STRIDE);
            let mut out = before.clone();
            run(MapProduct {
                panel: &panel,
                offsets: &OFFSETS,
                weights: &packed,
                weights_stride: KS * ROWS,
                rows,
                columns,
                out: Out::from(&mut out[..]),
                out_stride: STRIDE,
                accumulate,
            });
            for (r, q) in (0..rows).flat_map(|r| (0..columns).map(move |q| (r, q))) {
                let weight = |k: usize| packed[(r / ROWS * KS + k) * ROWS + r % ROWS];
                let products = OFFSETS.iter().enumerate();
                let sum: f32 = products.map(|(k, &o)| weight(k) * panel[o + q]).sum();
                let at = r * STRIDE + q;
                let expected = if accumulate { before[at] + sum } else { sum };
                assert_eq!(
                    out[at], expected,
                    "{rows} rows, {columns} columns: row {r}, column {q}"
                );
            }
        }
    }

    fn weight_products(rows: usize, columns: usize, run: fn(WeightProduct)) {
        let panel = numbers(41 + STRIDE);
        let mut left = numbers(touched(rows) * STRIDE);
        for row in left.chunks_exact_mut(STRIDE) {
            row[columns..].fill(0.0);
        }
        let mut out = numbers(3 * ROWS * KS);
        let before = out.clone();
        run(WeightProduct {
            panel: &panel,
            offsets: &OFFSETS,
            left: &left,
            stride: STRIDE,
            rows,
            columns,
            out: &mut out,
        });
        for (r, k) in (0..rows).flat_map(|r| (0..KS).map(move |k| (r, k))) {
            let at = |q: usize| panel[OFFSETS[k] + q];
            let sum: f32 = (0..columns).map(|q| left[r * STRIDE + q] * at(q)).sum();
            let expected = before[r * KS + k] + sum;
            assert_eq!(
                out[r * KS + k],
                expected,
                "{rows} rows, {columns} columns: row {r}, k {k}"
            );
        }
    }

    #[test]
    fn products_are_the_plain_sums_with_vectors_of_every_width() {
        for rows in 1..=3 * ROWS {
            for columns in [1, 7, 8, 9, 16, 17, 33, 65] {
                // SAFETY: `Portable` needs no instructions; the lengths are those that `run` checks, and all is initialised.
                map_products(rows, columns, |p| unsafe { Kernel::run::<Portable<8>>(p) });
                // SAFETY: as above.
                map_products(rows, columns, |p| unsafe { Kernel::run::<Portable<16>>(p) });
                // SAFETY: all is initialised.
                map_products(rows, columns, |p| unsafe { p.run() });
                // SAFETY: `Portable` needs no instructions; the lengths are those that `run` checks.
                weight_products(rows, columns, |p| unsafe { Kernel::run::<Portable<8>>(p) });
                // SAFETY: as above.
                weight_products(rows, columns, |p| unsafe { Kernel::run::<Portable<16>>(p) });
                weight_products(rows, columns, |p| p.run());
            }
        }
    }

    #[test]
    #[should_panic(expected = "reach <= self.panel.len()")]
    fn a_panel_that_is_too_short_is_refused() {
        let mut out = [0.0; ROWS * ALIGN];
        let product = MapProduct {
            panel: &[0.0; 10],
            offsets: &[0],
            weights: &[0.0; ROWS],
            weights_stride: ROWS,
            rows: 1,
            columns: 1,
            out: Out::from(&mut out[..]),
            out_stride: ALIGN,
            accumulate: false,
        };
        // SAFETY: nothing is accumulated.
        unsafe { product.run() };
    }
}
