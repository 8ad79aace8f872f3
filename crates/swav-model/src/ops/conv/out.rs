//! Memory that a convolution writes its result to.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// An out reference: floats that may be written, and may not be initialised yet.
///
/// It is made of either kind of slice. Nothing but floats can be written to it, and nothing can be read in safe code.
pub(super) struct Out<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]`, which is `Send`.
unsafe impl Send for Out<'_> {}
// SAFETY: what a shared `Out` offers is addresses, and `part`, whose caller guarantees that parts in use are disjoint.
unsafe impl Sync for Out<'_> {}

impl<'a> From<&'a mut [f32]> for Out<'a> {
    fn from(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }
}

impl<'a> From<&'a mut [MaybeUninit<f32>]> for Out<'a> {
    fn from(slice: &'a mut [MaybeUninit<f32>]) -> Self {
        Self {
            start: slice.as_mut_ptr().cast(),
            len: slice.len(),
            slice: PhantomData,
        }
    }
}

impl Out<'_> {
    /// Number of floats.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of a float, good for those from there to the end.
    ///
    /// # Panics
    /// If `index` is beyond the end.
    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> *mut f32 {
        assert!(index <= self.len);
        // SAFETY: at most one past the end of the slice, as has just been checked.
        unsafe { self.start.add(index) }
    }

    /// The same floats, for as long as the result is borrowed.
    pub(super) fn reborrow(&mut self) -> Out<'_> {
        Out { ..*self }
    }

    /// Some of the floats, for one of the tasks that share this.
    ///
    /// # Safety
    /// Nobody else may use these floats while the result is in use.
    ///
    /// # Panics
    /// If the range is not within the floats.
    #[inline(always)]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> Out<'_> {
        assert!(range.start <= range.end && range.end <= self.len);
        Out {
            start: self.at(range.start),
            len: range.len(),
            slice: PhantomData,
        }
    }

    /// Copies `from` to all of it, for rows that are mostly shorter than the call of a function takes.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline(always)]
    pub(super) fn copy_from(&mut self, from: &[f32]) {
        assert_eq!(self.len, from.len());
        match self.len {
            0..4 => from.iter().enumerate().for_each(|(i, &value)| {
                // SAFETY: both are of the same length.
                unsafe { self.at(i).write(value) }
            }),
            4..8 => self.copy_ends::<4>(from),
            8..16 => self.copy_ends::<8>(from),
            16..=32 => self.copy_ends::<16>(from),
            len => {
                // SAFETY: both are of this length, and `self` is borrowed for writing: they do not overlap.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.start, len) }
            }
        }
    }

    /// The first N and the last N, which are all: there are N to 2 N.
    #[inline(always)]
    fn copy_ends<const N: usize>(&mut self, from: &[f32]) {
        if let (Some(&first), Some(&last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
            let end = self.at(from.len() - N);
            // SAFETY: the caller has seen that the lengths are the same, and there are N floats from the start and from
            // `end` on. Arrays are written unaligned.
            unsafe {
                self.start.cast::<[f32; N]>().write_unaligned(first);
                end.cast::<[f32; N]>().write_unaligned(last);
            }
        }
    }
}
