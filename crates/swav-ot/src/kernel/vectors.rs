//! Vectors of `f32` of whatever width the processor has.
//!
//! A kernel is written once, generic over [`Simd`], and compiled once for each instruction set; the set
//! is chosen when the program runs. A kernel and all it calls must be `#[inline(always)]`, so that its
//! body ends up inside the function that carries the `target_feature`; and no vector may go through a closure, which
//! cannot be told to be inlined.

/// The vector operations that the kernels need.
///
/// # Safety
/// Every method may only be called where the instruction set that the type stands for is present.
/// `load` and `store` access [`LANES`](Simd::LANES) floats at the address, the methods named after a part
/// `n` of them; addresses need not be aligned, except for `stream`.
pub(crate) trait Simd {
    /// Floats in a vector.
    const LANES: usize;
    /// A vector.
    type Vector: Copy;

    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// The first `n` lanes; the others are 0.
    unsafe fn load_part(from: *const f32, n: usize) -> Self::Vector;
    unsafe fn store(to: *mut f32, v: Self::Vector);
    unsafe fn store_part(to: *mut f32, v: Self::Vector, n: usize);
    /// Past the caches, to an address that is a multiple of the vector's size.
    unsafe fn stream(to: *mut f32, v: Self::Vector);
    /// A hint that this address, which need not be one, will be read soon.
    #[inline(always)]
    fn prefetch(_address: *const f32) {}
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `2^x` to 2e-7 relative, for −126 ≤ x ≤ 127; what lies outside counts as the nearer end, and
    /// not-a-number stays.
    unsafe fn exp2(x: Self::Vector) -> Self::Vector;
    /// The first `n` lanes; the others are 0.
    unsafe fn masked(v: Self::Vector, n: usize) -> Self::Vector;
    /// The lanes, added up.
    unsafe fn sum(v: Self::Vector) -> f32;
    /// The largest lane.
    unsafe fn largest(v: Self::Vector) -> f32;
    /// The smallest lane.
    unsafe fn smallest(v: Self::Vector) -> f32;
}

/// A computation that is generic over the instruction set.
pub(crate) trait Kernel {
    type Output;
    /// # Safety
    /// The instruction set `S` must be present.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `kernel` on the widest vectors this processor has.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
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

/// Coefficients, lowest first, of the polynomial that has the least relative error against `2^x` on [−½, ½] among
/// those of degree 5 that are exactly 1 at 0: 9.2e-8. (Sums are rescaled by powers of 0 very often.)
#[allow(clippy::excessive_precision)] // as they came out
const EXP2: [f32; 6] = [
    1.0,
    6.931_469_776_0e-1,
    2.402_224_208_5e-1,
    5.550_733_743_5e-2,
    9.671_512_676_3e-3,
    1.326_472_722_7e-3,
];

/// Added to a small number and taken away again, it leaves the nearest integer; and the sum's lowest bits
/// are that integer.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23

/// Plain Rust on N floats: the compiler makes of it what the target's baseline allows.
pub(crate) struct Portable<const N: usize>;

impl<const N: usize> Simd for Portable<N> {
    const LANES: usize = N;
    type Vector = [f32; N];

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; N] {
        [value; N]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; N] {
        // SAFETY: the caller guarantees N floats at the address; arrays are read unaligned.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> [f32; N] {
        // SAFETY: the caller guarantees `n` floats at the address.
        std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; N]) {
        // SAFETY: the caller guarantees N floats at the address; arrays are written unaligned.
        unsafe { to.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, v: [f32; N], n: usize) {
        for (i, value) in v.into_iter().take(n).enumerate() {
            // SAFETY: the caller guarantees `n` floats at the address.
            unsafe { to.add(i).write(value) }
        }
    }
    #[inline(always)]
    unsafe fn stream(to: *mut f32, v: [f32; N]) {
        // SAFETY: the caller guarantees N floats at the address.
        unsafe { Self::store(to, v) }
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
    unsafe fn max(a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn exp2(x: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| {
            let x = if x[i] < -126.0 { -126.0 } else { x[i] };
            let x = if x > 127.0 { 127.0 } else { x };
            let shifted = x + ROUND;
            let r = x - (shifted - ROUND);
            let p = EXP2.iter().rev().fold(0.0, |p, c| p * r + c);
            p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
        })
    }
    #[inline(always)]
    unsafe fn masked(v: [f32; N], n: usize) -> [f32; N] {
        std::array::from_fn(|i| if i < n { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; N]) -> f32 {
        v.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(v: [f32; N]) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn smallest(v: [f32; N]) -> f32 {
        v.into_iter().fold(f32::INFINITY, f32::min)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{EXP2, Kernel, ROUND, Simd};
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
    pub(crate) unsafe fn avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller guarantees that AVX2 and FMA are present.
        unsafe { kernel.run::<Avx2>() }
    }

    /// # Safety
    /// AVX-512F and AVX-512VL must be present.
    //
    // Without `avx512vl` the compiler keeps to the lower 16 registers for what it makes of zeros.
    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub(crate) unsafe fn avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller guarantees that AVX-512F and AVX-512VL are present; they include AVX2 and FMA.
        unsafe { kernel.run::<Avx512>() }
    }

    struct Avx2;

    impl Avx2 {
        /// All bits of the first `n` lanes.
        ///
        /// # Safety
        /// AVX2 must be present.
        #[inline(always)]
        unsafe fn mask(n: usize) -> __m256i {
            // SAFETY: the caller guarantees the instructions.
            unsafe {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
            }
        }
    }

    impl Simd for Avx2 {
        const LANES: usize = 8;
        type Vector = __m256;

        #[inline(always)]
        fn prefetch(address: *const f32) {
            // SAFETY: part of the baseline, and no access.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        by_intrinsics! {
            splat(value: f32) -> __m256 { _mm256_set1_ps(value) }
            load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
            load_part(from: *const f32, n: usize) -> __m256 { _mm256_maskload_ps(from, Self::mask(n)) }
            store(to: *mut f32, v: __m256) { _mm256_storeu_ps(to, v) }
            store_part(to: *mut f32, v: __m256, n: usize) { _mm256_maskstore_ps(to, Self::mask(n), v) }
            stream(to: *mut f32, v: __m256) { _mm256_stream_ps(to, v) }
            add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
            sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
            mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
            mul_add(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
            max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
            min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
            exp2(x: __m256) -> __m256 {
                // Of two operands that cannot be compared these yield the second: not-a-number stays.
                let x = _mm256_max_ps(_mm256_set1_ps(-126.0), x);
                let x = _mm256_min_ps(_mm256_set1_ps(127.0), x);
                let round = _mm256_set1_ps(ROUND);
                let shifted = _mm256_add_ps(x, round);
                let r = _mm256_sub_ps(x, _mm256_sub_ps(shifted, round));
                let mut p = _mm256_set1_ps(EXP2[5]);
                for at in (0..5).rev() {
                    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP2[at]));
                }
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
                let power = _mm256_castsi256_ps(_mm256_add_epi32(exponent, one));
                _mm256_mul_ps(p, power)
            }
            masked(v: __m256, n: usize) -> __m256 { _mm256_and_ps(v, _mm256_castsi256_ps(Self::mask(n))) }
            sum(v: __m256) -> f32 {
                let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
            }
            largest(v: __m256) -> f32 {
                let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
            }
            smallest(v: __m256) -> f32 {
                let v = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_min_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_min_ss(v, _mm_movehdup_ps(v)))
            }
        }
    }

    struct Avx512;

    impl Avx512 {
        /// The first `n` lanes.
        #[inline(always)]
        fn mask(n: usize) -> __mmask16 {
            ((1_u32 << n) - 1) as __mmask16
        }
    }

    impl Simd for Avx512 {
        const LANES: usize = 16;
        type Vector = __m512;

        #[inline(always)]
        fn prefetch(address: *const f32) {
            // SAFETY: part of the baseline, and no access.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        by_intrinsics! {
            splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
            load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
            load_part(from: *const f32, n: usize) -> __m512 { _mm512_maskz_loadu_ps(Self::mask(n), from) }
            store(to: *mut f32, v: __m512) { _mm512_storeu_ps(to, v) }
            store_part(to: *mut f32, v: __m512, n: usize) { _mm512_mask_storeu_ps(to, Self::mask(n), v) }
            stream(to: *mut f32, v: __m512) { _mm512_stream_ps(to, v) }
            add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
            sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
            mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
            mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
            max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
            min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
            exp2(x: __m512) -> __m512 {
                // As above; the power itself saturates, but an infinite x would leave no remainder.
                let x = _mm512_max_ps(_mm512_set1_ps(-126.0), x);
                let x = _mm512_min_ps(_mm512_set1_ps(127.0), x);
                let whole = _mm512_roundscale_ps::<0>(x);
                let r = _mm512_sub_ps(x, whole);
                let mut p = _mm512_set1_ps(EXP2[5]);
                for at in (0..5).rev() {
                    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2[at]));
                }
                _mm512_scalef_ps(p, whole)
            }
            masked(v: __m512, n: usize) -> __m512 { _mm512_maskz_mov_ps(Self::mask(n), v) }
            sum(v: __m512) -> f32 { _mm512_reduce_add_ps(v) }
            largest(v: __m512) -> f32 { _mm512_reduce_max_ps(v) }
            smallest(v: __m512) -> f32 { _mm512_reduce_min_ps(v) }
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

    /// Does `work` on this set, in threads of its own: what one kernel packs another must read, so no other test may
    /// come across a set that it has not chosen.
    pub(crate) fn on<T: Send>(set: Set, work: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(2)
            .start_handler(move |_| FORCED.set(Some(set)))
            .build()
            .unwrap();
        pool.install(work)
    }

    pub(super) fn run<K: Kernel>(set: Set, kernel: K) -> K::Output {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `2^x` of each number, by the set `S`, a part of a vector at the end.
    struct Powers<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Powers<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for (x, y) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
                // SAFETY: a part is as long as its slice.
                unsafe {
                    let x = S::load_part(x.as_ptr(), x.len());
                    S::store_part(y.as_mut_ptr(), S::exp2(x), y.len());
                }
            }
        }
    }

    fn on_every_set(check: impl Fn(&dyn Fn(&[f32], &mut [f32]))) {
        for set in forced::present() {
            check(&|x, y| forced::run(set, Powers(x, y)));
        }
    }

    #[test]
    fn powers_of_two_are_right_to_two_roundings_over_the_whole_range() {
        on_every_set(|powers| {
            let x: Vec<f32> = (0..253_007)
                .map(|i| -126.0 + i as f32 / 1000.0)
                .filter(|x| *x <= 127.0)
                .collect();
            let mut y = vec![0.0; x.len()];
            powers(&x, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                let error = f64::from(y) / f64::from(x).exp2() - 1.0;
                assert!(error.abs() < 2e-7, "2^{x}: {error:e}");
            }
        });
    }

    #[test]
    fn what_lies_outside_of_the_range_saturates_and_not_a_number_stays() {
        on_every_set(|powers| {
            let x = [f32::NEG_INFINITY, -1e30, -127.0, 127.5, 1e30, f32::INFINITY];
            let mut y = [0.0; 6];
            powers(&x, &mut y);
            assert!(y[..3].iter().all(|&y| y < 1.2e-38), "{y:?}");
            assert!(y[3..].iter().all(|&y| y.is_finite() && y > 1e38), "{y:?}");

            for bits in [0x7fc0_0000, 0xffc0_0001, 0x7fff_ffff] {
                let mut y = [0.0];
                powers(&[f32::from_bits(bits)], &mut y);
                assert!(y[0].is_nan(), "{bits:x}");
            }
        });
    }
}
