//! Memory that a convolution writes its result to.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use crate::ops::element::{Element, convert};

/// An out reference: values that may be written, and may not be initialised yet.
///
/// It is made of either kind of slice. Nothing but such values can be written to it, and nothing can be read in safe code.
pub(super) struct Out<'a, E = f32> {
    start: *mut E,
    len: usize,
    slice: PhantomData<&'a mut [E]>,
}

// SAFETY: it stands for a `&mut [E]`, which is `Send` if `E` is.
unsafe impl<E: Send> Send for Out<'_, E> {}
// SAFETY: what a shared `Out` offers is addresses, and `part`, whose caller guarantees that parts in use are disjoint.
unsafe impl<E: Send> Sync for Out<'_, E> {}

impl<'a, E> From<&'a mut [E]> for Out<'a, E> {
    fn from(slice: &'a mut [E]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }
}

impl<'a, E> Out<'a, E> {
    /// Values that are not there yet.
    pub(super) fn unwritten(slice: &'a mut [MaybeUninit<E>]) -> Self {
        Self {
            start: slice.as_mut_ptr().cast(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of a value, good for those from there to the end.
    ///
    /// # Panics
    /// If `index` is beyond the end.
    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> *mut E {
        assert!(index <= self.len);
        // SAFETY: at most one past the end of the slice, as has just been checked.
        unsafe { self.start.add(index) }
    }

    /// The same values, for as long as the result is borrowed.
    pub(super) fn reborrow(&mut self) -> Out<'_, E> {
        Out { ..*self }
    }

    /// Some of the values, for one of the tasks that share this.
    ///
    /// # Safety
    /// Nobody else may use these values while the result is in use.
    ///
    /// # Panics
    /// If the range is not within the values.
    #[inline(always)]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> Out<'_, E> {
        assert!(range.start <= range.end && range.end <= self.len);
        Out {
            start: self.at(range.start),
            len: range.len(),
            slice: PhantomData,
        }
    }
}

impl<E: Element> Out<'_, E> {
    /// Itself, if its values are what kernels compute in.
    pub(super) fn as_floats(&mut self) -> Option<Out<'_>> {
        (E::DTYPE == f32::DTYPE).then(|| Out {
            start: self.start.cast(),
            len: self.len,
            slice: PhantomData,
        })
    }

    /// Copies `from` to all of it, for rows that are mostly shorter than the call of a function takes.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline(always)]
    pub(super) fn copy_from<F: Element>(&mut self, from: &[F]) {
        assert_eq!(self.len, from.len());
        match self.len {
            0..4 => from.iter().enumerate().for_each(|(i, value)| {
                // SAFETY: both are of the same length.
                unsafe { self.at(i).write(E::narrow(value.widen())) }
            }),
            4..8 => self.copy_ends::<F, 4>(from),
            8..16 => self.copy_ends::<F, 8>(from),
            16..=32 => self.copy_ends::<F, 16>(from),
            // SAFETY: `self` has room for as many, and is borrowed for writing: they do not overlap.
            _ => unsafe { convert(from, self.start) },
        }
    }

    /// The first N and the last N, which are all: there are N to 2 N.
    #[inline(always)]
    fn copy_ends<F: Element, const N: usize>(&mut self, from: &[F]) {
        let copied = |values: &[F; N]| values.map(|value| E::narrow(value.widen()));
        if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
            let end = self.at(from.len() - N);
            // SAFETY: the caller has seen that the lengths are the same, and there are N values from the start and from
            // `end` on. Arrays are written unaligned.
            unsafe {
                self.start.cast::<[E; N]>().write_unaligned(copied(first));
                end.cast::<[E; N]>().write_unaligned(copied(last));
            }
        }
    }
}
