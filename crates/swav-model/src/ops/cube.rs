//! What the kernels for whatever CubeCL runs on share.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::permute_nchw_to_nhwc;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};

/// What kernels call the elements of a map.
///
/// # Panics
/// If they are not those of a map.
pub(super) fn element_of(dtype: DType) -> ElemType {
    match dtype {
        DType::F32 => ElemType::Float(FloatKind::F32),
        DType::BF16 => ElemType::Float(FloatKind::BF16),
        // Instead of bf16, which software devices do not have.
        #[cfg(test)]
        DType::F16 => ElemType::Float(FloatKind::F16),
        other => panic!("maps are f32 or bf16, not {other:?}"),
    }
}

/// `[N, C, …]` as `[N, …, C]`, contiguous: a copy only if it does not lie so already.
pub(super) fn rows_last(x: CubeTensor) -> CubeTensor {
    into_contiguous(permute_nchw_to_nhwc(x))
}
