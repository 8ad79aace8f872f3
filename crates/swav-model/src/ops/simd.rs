//! Vectors of `f32` of whatever width the processor has.
//!
//! A kernel is written once, generic over [`Simd`], and compiled once per instruction set; the set is
//! chosen when the program runs. A kernel and all it calls must be `#[inline(always)]`, so that the
//! body ends up inside the function that carries the `target_feature`.

/// The vector operations that the kernels need.
///
/// # Safety
/// Every method may only be called where the instruction set that the type stands for is present.
/// `load` and `store` access [`LANES`](Simd::LANES) floats at the address, `splat` one, `add_sums` four; it
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
    unsafe fn splat(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, v: Self::Vector);
    /// `a · b + c`
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The sum of the lanes.
    unsafe fn sum(v: Self::Vector) -> f32;

    /// The sums of the lanes of four vectors, added to the four floats at `to`.
    #[inline(always)]
    unsafe fn add_sums(to: *mut f32, vectors: [Self::Vector; 4]) {
        for (i, v) in vectors.into_iter().enumerate() {
            // SAFETY: the caller's.
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
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has just said so.
            return unsafe { x86::avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { x86::avx2(kernel) };
        }
    }
    // SAFETY: needs nothing.
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
        // SAFETY: the caller's; arrays are read unaligned.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [f32; N] {
        // SAFETY: the caller's.
        [unsafe { *from }; N]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; N]) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; N]>().write_unaligned(v) }
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

    #[target_feature(enable = "avx2,fma")]
    pub(crate) unsafe fn avx2(kernel: impl Kernel) {
        // SAFETY: this function may only be called where these are present.
        unsafe { kernel.run::<Avx2>() }
    }

    // Without `avx512vl` the compiler makes zeros in one of the lower 16 registers, and keeps there what
    // starts as zero: a tile of 24 sums then spills a third of them.
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(crate) unsafe fn avx512(kernel: impl Kernel) {
        // SAFETY: as above.
        unsafe { kernel.run::<Avx512>() }
    }

    struct Avx2;

    impl Simd for Avx2 {
        const LANES: usize = 8;
        const MANY_REGISTERS: bool = false;
        type Vector = __m256;

        #[inline(always)]
        unsafe fn zero() -> __m256 {
            // SAFETY: this and all below are the caller's.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            unsafe { _mm256_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            unsafe {
                let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
            }
        }
    }

    struct Avx512;

    /// The sums of lane i and lane i + 8.
    #[inline(always)]
    unsafe fn halves(v: __m512) -> __m256 {
        // SAFETY: the caller's.
        unsafe {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
            _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(high))
        }
    }

    impl Simd for Avx512 {
        const LANES: usize = 16;
        const MANY_REGISTERS: bool = true;
        type Vector = __m512;

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: this and all below are the caller's.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m512 {
            unsafe { _mm512_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(v) }
        }
        #[inline(always)]
        unsafe fn add_sums(to: *mut f32, vectors: [__m512; 4]) {
            unsafe {
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
