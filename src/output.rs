//! The output, as views of other channels and the tasks of one run share it. All that is unsafe about sharing stands here.

use core::{marker::PhantomData, slice};

/// Values that were borrowed exclusively, and are written by several owners at once, each its own part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutputValues<'a> {
    start: *mut f32,
    len: usize,
    exclusive: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]`, which is Send; who writes where is the duty of `slice_mut`'s caller.
unsafe impl Send for OutputValues<'_> {}
// SAFETY: as above; through a shared reference nothing can be reached but by `slice` and `slice_mut`.
unsafe impl Sync for OutputValues<'_> {}

impl<'a> OutputValues<'a> {
    #[inline]
    pub fn new(data: &'a mut [f32]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), exclusive: PhantomData }
    }

    /// # Safety
    /// `start` points to `len` values that may be written as long as `'a`. Whoever else may touch some of them then, is told
    /// apart from the owner of this as [`slice_mut`](Self::slice_mut) says.
    #[cfg(feature = "capi")]
    pub unsafe fn from_raw(start: *mut f32, len: usize) -> Self {
        Self { start, len, exclusive: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Those from `offset` on.
    pub fn from(self, offset: usize) -> Self {
        let offset = offset.min(self.len);
        // SAFETY: `offset` is at most `len`, so the pointer stays inside the slice or one past its end.
        Self { start: unsafe { self.start.add(offset) }, len: self.len - offset, ..self }
    }

    /// `len` values from `offset` on, to read.
    ///
    /// # Safety
    /// As for [`slice_mut`](Self::slice_mut); other slices that are only read may live at the same time.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub unsafe fn slice(&self, offset: usize, len: usize) -> &'a [f32] {
        debug_assert!(offset + len <= self.len);
        // SAFETY: these values are among those from `start` on, which live for `'a`; that nobody writes them meanwhile, the caller
        // knows.
        unsafe { slice::from_raw_parts(self.start.add(offset), len) }
    }

    /// `len` values from `offset` on.
    ///
    /// # Safety
    /// `offset + len` is at most the number of values. While the slice lives, no other slice with a value of it does: not in
    /// this thread, not in another.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub unsafe fn slice_mut(&self, offset: usize, len: usize) -> &'a mut [f32] {
        debug_assert!(offset + len <= self.len);
        // SAFETY: these values are among those from `start` on, which live for `'a`; that nobody reads or writes them meanwhile,
        // the caller knows.
        unsafe { slice::from_raw_parts_mut(self.start.add(offset), len) }
    }
}

/// Lines of output pixels at constant distances: pixel `p` of line `l` starts at value `l * line_stride + p * stride`.
#[derive(Clone, Copy)]
pub(crate) struct OutputPixels<'a> {
    pub values: OutputValues<'a>,
    pub stride: usize,
    pub line_stride: usize,
}

impl OutputPixels<'_> {
    /// The pixels from the one at `offset` on.
    pub fn from(self, offset: usize) -> Self {
        Self { values: self.values.from(offset), ..self }
    }

    /// Values from the first pixel to the end of the tensor.
    pub fn len(&self) -> usize {
        self.values.len()
    }
}
