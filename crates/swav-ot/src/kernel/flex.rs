//! The passes on the CPU: from Burn's Flex to the [slices](super::cpu) and back.

use burn::backend::Flex;
use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};

use super::Kernels;
use super::cpu::{self, Potentials, Scores};

impl Kernels for Flex {
    fn with_contiguous_rows(scores: FlexTensor) -> FlexTensor {
        contiguous_rows(scores)
    }

    fn prototype_potentials(scores: FlexTensor, centres: FlexTensor, epsilon: f64) -> FlexTensor {
        let (scores, centres) = (contiguous_rows(scores), centres.to_contiguous());
        let scores = view(&scores);
        let found = cpu::prototype_potentials(&scores, centres.storage(), epsilon);
        tensor(found, [scores.sets, scores.prototypes])
    }

    fn sample_potentials(
        scores: FlexTensor,
        centres: FlexTensor,
        offsets: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        with_potentials(scores, centres, offsets, |s, potentials| {
            tensor(
                cpu::sample_potentials(s, potentials, epsilon),
                [s.sets, s.samples],
            )
        })
    }

    fn shares(
        scores: FlexTensor,
        centres: FlexTensor,
        offsets: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        with_potentials(scores, centres, offsets, |s, potentials| {
            tensor(cpu::shares(s, potentials, epsilon), [s.sets, s.prototypes])
        })
    }

    fn codes(
        scores: FlexTensor,
        centres: FlexTensor,
        offsets: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        with_potentials(scores, centres, offsets, |s, potentials| {
            tensor(
                cpu::codes(s, potentials, epsilon),
                [s.sets, s.samples, s.prototypes],
            )
        })
    }
}

/// Hands a pass what it goes over as slices.
fn with_potentials(
    scores: FlexTensor,
    centres: FlexTensor,
    offsets: FlexTensor,
    pass: impl FnOnce(&Scores<'_>, Potentials<'_>) -> FlexTensor,
) -> FlexTensor {
    let (centres, offsets) = (centres.to_contiguous(), offsets.to_contiguous());
    let potentials = Potentials {
        centres: centres.storage(),
        offsets: offsets.storage(),
    };
    pass(&view(&contiguous_rows(scores)), potentials)
}

/// As it is if each sample's row lies in one piece, wherever the rows are; else a copy.
fn contiguous_rows(scores: FlexTensor) -> FlexTensor {
    let (shape, strides) = (scores.layout().shape(), scores.layout().strides());
    let whole = shape[2] == 1 || strides[2] == 1;
    if whole && strides.iter().all(|&stride| stride >= 0) {
        scores
    } else {
        scores.to_contiguous()
    }
}

fn view(scores: &FlexTensor) -> Scores<'_> {
    let layout = scores.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    Scores {
        values: &scores.storage()[layout.start_offset()..],
        set_stride: strides[0].unsigned_abs(),
        row_stride: strides[1].unsigned_abs(),
        sets: shape[0],
        samples: shape[1],
        prototypes: shape[2],
    }
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    let layout = Layout::contiguous(shape.into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}
