//! The output, as the tasks of one run share it. All that is unsafe about sharing stands here.

use core::{marker::PhantomData, slice};

/// Output pixels at a constant distance, written by several tasks at once, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct OutputPixels<'a> {
    start: *mut f32,
    len: usize,
    stride: usize,
    exclusive: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]`, which is Send; who writes where is the duty of `row_mut`'s caller.
unsafe impl Send for OutputPixels<'_> {}
// SAFETY: as above; through a shared reference nothing can be reached but by `row_mut`.
unsafe impl Sync for OutputPixels<'_> {}

impl<'a> OutputPixels<'a> {
    /// Pixel `p` starts at `data[p * stride]`.
    pub fn new(data: &'a mut [f32], stride: usize) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), stride, exclusive: PhantomData }
    }

    /// What is left after `offset` values.
    pub fn shifted(&self, offset: usize) -> Self {
        let offset = offset.min(self.len);
        // SAFETY: `offset` is at most `len`, so the pointer stays inside the slice or one past its end.
        Self { start: unsafe { self.start.add(offset) }, len: self.len - offset, ..*self }
    }

    /// The distance between pixels.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The first `len` values of pixel `p`.
    ///
    /// # Safety
    /// While the slice lives, no other slice with a value of it does: not in this thread, not in another.
    #[inline(always)]
    #[allow(
        clippy::mut_from_ref,
        reason = "the exclusive borrow was given up to be split; the caller keeps it exclusive"
    )]
    pub unsafe fn row_mut(&self, p: usize, len: usize) -> &'a mut [f32] {
        let at = p * self.stride;
        assert!(at <= self.len && len <= self.len - at, "a kernel stays inside its output");
        // SAFETY: in bounds by the assertion; not aliased by this function's contract.
        unsafe { slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
