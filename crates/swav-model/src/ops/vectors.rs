//! Vectors of `f32` of whatever width the processor has.
//!
//! A kernel is written once, generic over [`Simd`], and compiled once per instruction set; the set is
//! chosen when the program runs. A kernel and all it calls must be `#[inline(always)]`, so that the
//! body ends up inside the function that carries the `target_feature`.

/// The vector operations that the kernels need.
///
/// # Safety
/// Every method may only be called where the instruction set that the type stands for is present.
/// `load` and `store` access [`LANES`](Simd::LANES) floats at the address, `add_sums` four; it
/// need not be aligned.
pub(crate) trait Simd {
    /// Floats in a vector.
    const LANES: usize;
    /// Whether there are 32 vector registers rather than 16.
    const MANY_REGISTERS: bool;
    /// A vector.
    type Vector: Copy;

    unsafe fn zero() -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, v: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The sum of the lanes.
    unsafe fn sum(v: Self::Vector) -> f32;

    /// As many rows as a vector has lanes to as many columns: float j of row i, which is `from_row` after the row before,
    /// goes to float i of row j, which is `to_row` after the one before. The two must not overlap.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: the caller guarantees LANES rows of LANES floats at both addresses.
                unsafe { *to.add(j * to_row + i) = *from.add(i * from_row + j) };
            }
        }
    }

    /// The sums of the lanes of four vectors, added to the four floats at `to`.
    #[inline(always)]
    unsafe fn add_sums(to: *mut f32, vectors: [Self::Vector; 4]) {
        for (i, v) in vectors.into_iter().enumerate() {
            // SAFETY: the caller guarantees the instruction set, and four floats at the address.
            unsafe { *to.add(i) += Self::sum(v) };
        }
    }
}

/// A computation that is generic over the instruction set.
pub(crate) trait Kernel {
    /// # Safety
    /// The instruction set `S` must be present.
    unsafe fn run<S: Simd>(self);
}

/// Runs `kernel` on the widest vectors this processor has.
pub(crate) fn dispatch(kernel: impl Kernel) {
    #[cfg(test)]
    if let Some(set) = forced::get() {
        return forced::run(set, kernel);
    }
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has just said that AVX-512F and AVX-512VL are present.
            return unsafe { x86::avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has just said that AVX2 and FMA are present.
            return unsafe { x86::avx2(kernel) };
        }
    }
    // SAFETY: `Portable` needs no instruction set.
    unsafe { kernel.run::<Portable<8>>() }
}

/// Plain Rust on N floats: the compiler makes of it what the target's baseline allows.
pub(crate) struct Portable<const N: usize>;

impl<const N: usize> Simd for Portable<N> {
    const LANES: usize = N;
    const MANY_REGISTERS: bool = false;
    type Vector = [f32; N];

    #[inline(always)]
    unsafe fn zero() -> [f32; N] {
        [0.0; N]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; N] {
        // SAFETY: the caller guarantees N floats at the address; arrays are read unaligned.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; N] {
        [value; N]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; N]) {
        // SAFETY: the caller guarantees N floats at the address; arrays are written unaligned.
        unsafe { to.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        // Not `f32::mul_add`: without hardware for it that is a call of a function.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; N]) -> f32 {
        v.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Simd};
    use std::arch::x86_64::*;

    /// Implements methods of [`Simd`] by intrinsics.
    macro_rules! by_intrinsics {
        ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? { $($body:tt)* })*) => {$(
            #[inline(always)]
            unsafe fn $name($($argument: $type),*) $(-> $result)? {
                // SAFETY: the caller guarantees what the trait demands: the instruction set is present, and addresses are
                // good for as many floats as the method accesses.
                unsafe { $($body)* }
            }
        )*};
    }

    /// # Safety
    /// AVX2 and FMA must be present.
    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn avx2(kernel: impl Kernel) {
        // SAFETY: the caller guarantees that AVX2 and FMA are present.
        unsafe { kernel.run::<Avx2>() }
    }

    /// # Safety
    /// AVX-512F and AVX-512VL must be present.
    //
    // Without `avx512vl` the compiler makes zeros in one of the lower 16 registers, and keeps there what
    // starts as zero: a tile of 24 sums then spills a third of them.
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(crate) unsafe fn avx512(kernel: impl Kernel) {
        // SAFETY: the caller guarantees that AVX-512F and AVX-512VL are present; they include AVX2 and FMA.
        unsafe { kernel.run::<Avx512>() }
    }

    struct Avx2;

    impl Simd for Avx2 {
        const LANES: usize = 8;
        const MANY_REGISTERS: bool = false;
        type Vector = __m256;

        by_intrinsics! {
            zero() -> __m256 { _mm256_setzero_ps() }
            load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
            splat(value: f32) -> __m256 { _mm256_set1_ps(value) }
            store(to: *mut f32, v: __m256) { _mm256_storeu_ps(to, v) }
            add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
            sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
            mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
            mul_add(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
            transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
                // As below, with halves.
                let mut columns = [[_mm256_setzero_ps(); 2]; 4];
                #[expect(clippy::needless_range_loop, reason = "it indexes the inner arrays")]
                for half in 0..2 {
                    let row = |i: usize| _mm256_loadu_ps(from.add((4 * half + i) * from_row));
                    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                    let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                    columns[0][half] = _mm256_shuffle_ps::<0x44>(ab, cd);
                    columns[1][half] = _mm256_shuffle_ps::<0xee>(ab, cd);
                    let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                    columns[2][half] = _mm256_shuffle_ps::<0x44>(ab, cd);
                    columns[3][half] = _mm256_shuffle_ps::<0xee>(ab, cd);
                }
                for (i, [a, b]) in columns.into_iter().enumerate() {
                    _mm256_storeu_ps(to.add(i * to_row), _mm256_permute2f128_ps::<0x20>(a, b));
                    _mm256_storeu_ps(
                        to.add((4 + i) * to_row),
                        _mm256_permute2f128_ps::<0x31>(a, b),
                    );
                }
            }
            sum(v: __m256) -> f32 {
                let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
            }
        }
    }

    struct Avx512;

    /// The sums of lane i and lane i + 8.
    ///
    /// # Safety
    /// AVX-512F must be present.
    #[inline(always)]
    unsafe fn halves(v: __m512) -> __m256 {
        // SAFETY: the caller guarantees the instructions.
        unsafe {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
            _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(high))
        }
    }

    impl Simd for Avx512 {
        const LANES: usize = 16;
        const MANY_REGISTERS: bool = true;
        type Vector = __m512;

        by_intrinsics! {
            zero() -> __m512 { _mm512_setzero_ps() }
            load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
            splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
            store(to: *mut f32, v: __m512) { _mm512_storeu_ps(to, v) }
            add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
            sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
            mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
            mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
            sum(v: __m512) -> f32 { _mm512_reduce_add_ps(v) }
            transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
                // Four rows at a time become the columns 0–3, 4–7, … of a quarter each; then quarters change places.
                let mut columns = [[_mm512_setzero_ps(); 4]; 4];
                #[expect(clippy::needless_range_loop, reason = "it indexes the inner arrays")]
                for quarter in 0..4 {
                    let row = |i: usize| _mm512_loadu_ps(from.add((4 * quarter + i) * from_row));
                    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                    let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                    columns[0][quarter] = _mm512_shuffle_ps::<0x44>(ab, cd);
                    columns[1][quarter] = _mm512_shuffle_ps::<0xee>(ab, cd);
                    let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                    columns[2][quarter] = _mm512_shuffle_ps::<0x44>(ab, cd);
                    columns[3][quarter] = _mm512_shuffle_ps::<0xee>(ab, cd);
                }
                for (i, [a, b, c, d]) in columns.into_iter().enumerate() {
                    let (ab, cd) = (
                        _mm512_shuffle_f32x4::<0x44>(a, b),
                        _mm512_shuffle_f32x4::<0x44>(c, d),
                    );
                    _mm512_storeu_ps(to.add(i * to_row), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                    _mm512_storeu_ps(
                        to.add((4 + i) * to_row),
                        _mm512_shuffle_f32x4::<0xdd>(ab, cd),
                    );
                    let (ab, cd) = (
                        _mm512_shuffle_f32x4::<0xee>(a, b),
                        _mm512_shuffle_f32x4::<0xee>(c, d),
                    );
                    _mm512_storeu_ps(
                        to.add((8 + i) * to_row),
                        _mm512_shuffle_f32x4::<0x88>(ab, cd),
                    );
                    _mm512_storeu_ps(
                        to.add((12 + i) * to_row),
                        _mm512_shuffle_f32x4::<0xdd>(ab, cd),
                    );
                }
            }
            add_sums(to: *mut f32, vectors: [__m512; 4]) {
                let [a, b, c, d] = vectors;
                let (a, b, c, d) = (halves(a), halves(b), halves(c), halves(d));
                let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
                let high = _mm256_extractf128_ps::<1>(pairs);
                let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), high);
                _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), sums));
            }
        }
    }
}

/// Running on a set of one's choice: whatever this processor has, each must be tested.
#[cfg(test)]
pub(crate) mod forced {
    use std::cell::Cell;

    use super::{Kernel, Portable};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Set {
        Portable,
        #[cfg(target_arch = "x86_64")]
        Avx2,
        #[cfg(target_arch = "x86_64")]
        Avx512,
    }

    thread_local! {
        static FORCED: Cell<Option<Set>> = const { Cell::new(None) };
    }

    /// The sets that this processor has.
    pub(crate) fn present() -> Vec<Set> {
        let mut sets = vec![Set::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(Set::Avx2);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                sets.push(Set::Avx512);
            }
        }
        sets
    }

    pub(super) fn get() -> Option<Set> {
        FORCED.get()
    }

    /// Does `work` on this set, in threads of its own.
    pub(crate) fn on<T: Send>(set: Set, work: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(2)
            .start_handler(move |_| FORCED.set(Some(set)))
            .build()
            .unwrap();
        pool.install(work)
    }

    pub(super) fn run(set: Set, kernel: impl Kernel) {
        // SAFETY: tests force no sets but those of `present`.
        unsafe {
            match set {
                Set::Portable => kernel.run::<Portable<8>>(),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => super::x86::avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => super::x86::avx512(kernel),
            }
        }
    }
}
