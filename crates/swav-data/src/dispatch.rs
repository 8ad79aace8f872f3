//! Loops compiled once for each instruction set, and the widest that is there chosen when they run.
//!
//! A [`Kernel`] is plain safe Rust over slices. It and all that it calls must be `#[inline(always)]`,
//! so that the loops end up inside a function which carries the target features; the compiler then
//! makes vectors of them as wide as those allow.
//!
//! The arithmetic is the same in all of them: Rust never joins a product and a sum into one rounding
//! by itself, and no sum over lanes is taken in floating point. So the bytes do not depend on the
//! processor's vectors.

/// A computation to compile for each instruction set.
pub(crate) trait Kernel {
    /// What it computes.
    type Output;

    /// Computes it. `#[inline(always)]` where it is implemented.
    fn run(self) -> Self::Output;
}

/// Runs `kernel` on the widest vectors that this processor has.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx2 = is_x86_feature_detected!("avx2");
        if has_avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: `avx512` may be called where the processor has the features of its `target_feature`; all
            // five were detected above, by CPUID and with the registers enabled by the operating system.
            #[allow(unsafe_code)]
            return unsafe { avx512(kernel) };
        }
        if has_avx2 {
            // SAFETY: `avx2` may be called where the processor has AVX2, which was detected above.
            #[allow(unsafe_code)]
            return unsafe { avx2(kernel) };
        }
    }
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
