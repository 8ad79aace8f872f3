//! What the values of a map are stored as on the CPU: `f32`, or `bf16` at half of the memory.
//!
//! Whatever it is, kernels compute in `f32`: they widen what they read, which is exact, and round what they write.

use burn::tensor::{Bytes, DType, Shape, bf16};
use burn_flex::{FlexTensor, Layout};

use super::vectors::{Kernel, Simd, dispatch};

/// A number format of maps.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// What the tensor's elements are.
    const DTYPE: DType;

    /// Exactly this value.
    fn widen(self) -> f32;

    /// The value nearest to this one, of two the even one.
    fn narrow(value: f32) -> Self;

    /// These values as `f32`: where they lie if they are that already, otherwise in `room`.
    fn widened<'a>(values: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32];

    /// These values, rounded.
    fn narrowed(values: Vec<f32>) -> Vec<Self>;

    /// What is left of these values when they are rounded: where they lie if that is all of them, otherwise in `room`.
    fn rounded<'a>(values: &'a [f32], room: &'a mut Vec<f32>) -> &'a [f32];

    /// Changes these values as `f32`: where they lie if they are that already, otherwise in `room`, from which they are
    /// rounded.
    fn edit(values: &mut [Self], room: &mut Vec<f32>, edit: impl FnOnce(&mut [f32]));

    /// The values of a contiguous tensor.
    ///
    /// # Panics
    /// If it is not contiguous, or of other elements.
    fn values(tensor: &FlexTensor) -> &[Self];

    /// The same to change: copied first, if somebody else holds them too.
    ///
    /// # Panics
    /// If it is of other elements.
    fn values_mut(tensor: &mut FlexTensor) -> &mut [Self];

    /// A contiguous tensor of these values.
    fn tensor(values: Vec<Self>, shape: impl Into<Shape>) -> FlexTensor;
}

/// The methods of [`Element`] that are the same for every type.
macro_rules! stored_in_tensors {
    ($dtype:expr) => {
        const DTYPE: DType = $dtype;

        fn values(tensor: &FlexTensor) -> &[Self] {
            let values = tensor.as_slice();
            values.unwrap_or_else(|| {
                panic!("{tensor:?} is not a contiguous tensor of {:?}", Self::DTYPE)
            })
        }

        fn values_mut(tensor: &mut FlexTensor) -> &mut [Self] {
            tensor.storage_mut()
        }

        fn tensor(values: Vec<Self>, shape: impl Into<Shape>) -> FlexTensor {
            let layout = Layout::contiguous(shape.into());
            FlexTensor::new(Bytes::from_elems(values), layout, Self::DTYPE)
        }
    };
}

impl Element for f32 {
    stored_in_tensors!(DType::F32);

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn widened<'a>(values: &'a [Self], _room: &'a mut Vec<f32>) -> &'a [f32] {
        values
    }

    fn narrowed(values: Vec<f32>) -> Vec<Self> {
        values
    }

    fn rounded<'a>(values: &'a [f32], _room: &'a mut Vec<f32>) -> &'a [f32] {
        values
    }

    #[inline(always)]
    fn edit(values: &mut [Self], _room: &mut Vec<f32>, edit: impl FnOnce(&mut [f32])) {
        edit(values);
    }
}

impl Element for bf16 {
    stored_in_tensors!(DType::BF16);

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // Without a branch, for vectors of them.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // Rounding would carry some of the not-a-numbers over to infinity.
        let not_a_number = bits >> 16 | 0x40;
        let is_number = bits & 0x7fff_ffff <= 0x7f80_0000;
        Self::from_bits(if is_number { nearest } else { not_a_number } as u16)
    }

    fn widened<'a>(values: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32] {
        *room = converted(values, std::mem::take(room));
        room
    }

    fn narrowed(values: Vec<f32>) -> Vec<Self> {
        converted(&values, Vec::new())
    }

    fn rounded<'a>(values: &'a [f32], room: &'a mut Vec<f32>) -> &'a [f32] {
        room.clear();
        room.extend(values.iter().map(|&value| Self::narrow(value).widen()));
        room
    }

    fn edit(values: &mut [Self], room: &mut Vec<f32>, edit: impl FnOnce(&mut [f32])) {
        *room = converted(values, std::mem::take(room));
        edit(room);
        assert_eq!(values.len(), room.len());
        // SAFETY: they are as many, and two buffers.
        unsafe { convert(room, values.as_mut_ptr()) };
    }
}

/// The values of `from` in another format, in `room`, whatever was in it.
fn converted<E: Element, F: Element>(from: &[E], mut room: Vec<F>) -> Vec<F> {
    room.clear();
    room.reserve(from.len());
    // SAFETY: there is room for as many.
    unsafe {
        convert(from, room.as_mut_ptr());
        room.set_len(from.len());
    }
    room
}

/// Writes the values of `from` to `to`, perhaps in another format.
///
/// # Safety
/// There must be room for as many, and the two must not overlap.
#[inline]
pub(crate) unsafe fn convert<E: Element, F: Element>(from: &[E], to: *mut F) {
    struct Convert<'a, E, F>(&'a [E], *mut F);
    impl<E: Element, F: Element> Kernel for Convert<'_, E, F> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let Self(from, to) = self;
            for (i, value) in from.iter().enumerate() {
                // SAFETY: the caller of `convert` guarantees room for as many.
                unsafe { to.add(i).write(F::narrow(value.widen())) };
            }
        }
    }
    if E::DTYPE == F::DTYPE {
        // SAFETY: it is one type, and the caller guarantees room for as many that do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().cast(), to, from.len()) };
        return;
    }
    dispatch(Convert(from, to));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_16_bits_is_widened_and_rounded_as_the_crate_half_does() {
        for bits in 0..=u16::MAX {
            let value = bf16::from_bits(bits);
            if value.is_nan() {
                // The crate turns a bit of some.
                assert!(Element::widen(value).is_nan());
            } else {
                assert_eq!(
                    Element::widen(value).to_bits(),
                    value.to_f32_const().to_bits()
                );
            }
            let high = u32::from(bits) << 16;
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(high | low);
                let (found, wanted) = (<bf16 as Element>::narrow(value), bf16::from_f32(value));
                assert_eq!(found.to_bits(), wanted.to_bits(), "{value:e}");
            }
        }
    }
}
