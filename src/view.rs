//! Views of NHWC tensors: a slice, a shape and strides, checked once at the door.
//!
//! Value `c` of the pixel in image `n`, row `h` and column `w` lies at
//! `n * batch_stride + h * row_stride + w * pixel_stride + c`: the channels of a pixel are contiguous, all else is free.
//! A dense tensor, a crop of it, some of its channels, rows with padding behind them are all views.

use crate::{Error, output::OutputValues};
use core::{iter, ops::Range};

/// `[batch, height, width, channels]`.
pub type Shape = [usize; 4];

/// Distances `[batch, row, pixel]` in values: from one image, row or pixel to the next.
pub type Strides = [usize; 3];

/// Strides of a dense tensor. They saturate where it has no values, or more than [`span`] lets pass.
#[inline]
pub(crate) fn dense([_, h, w, c]: Shape) -> Strides {
    let row = w.saturating_mul(c);
    [h.saturating_mul(row), row, c]
}

/// Values from the first to the last of the view; 0 where it has none. Greater than a slice can be is an error.
#[inline]
pub(crate) fn span(what: &'static str, shape: Shape, strides: Strides) -> Result<usize, Error> {
    if shape.contains(&0) {
        return Ok(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |sum, (size, stride)| (size - 1).checked_mul(stride).and_then(|step| sum.checked_add(step)));
    let span = last.and_then(|last| last.checked_add(shape[3]));
    match span.filter(|span| *span <= isize::MAX as usize / size_of::<f32>()) {
        Some(span) => Ok(span),
        // Not made where there is none: to drop it is a call.
        None => Err(Error::TooLarge { what, shape, strides }),
    }
}

/// A tensor that is read.
///
/// # Example
/// The left half of a picture of 2 x 4 pixels with 3 channels, without copying it:
/// ```
/// use pointwise::Nhwc;
/// let picture = [0.0; 2 * 4 * 3];
/// let left = Nhwc::with_strides(&picture, [1, 2, 2, 3], [24, 12, 3])?;
/// assert_eq!(left.shape(), [1, 2, 2, 3]);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Nhwc<'a> {
    data: &'a [f32],
    shape: Shape,
    strides: Strides,
}

impl<'a> Nhwc<'a> {
    /// A dense tensor `[batch, height, width, channels]`, which fills the slice.
    ///
    /// # Errors
    /// [`Error::Length`] where the slice has another length; [`Error::TooLarge`] where the shape has more values than
    /// memory can hold.
    ///
    /// # Example
    /// ```
    /// let x = pointwise::Nhwc::new(&[1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2])?;
    /// assert_eq!(x.strides(), [4, 4, 2]);
    /// assert!(pointwise::Nhwc::new(&[1.0], [1, 1, 2, 2]).is_err());
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    // Inlined, as all that a view takes: a small run would feel its way through memory.
    #[inline]
    pub fn new(data: &'a [f32], shape: Shape) -> Result<Self, Error> {
        let strides = dense(shape);
        let expected = span("view", shape, strides)?;
        if data.len() != expected {
            return Err(Error::Length { what: "view", expected, actual: data.len() });
        }
        Ok(Self { data, shape, strides })
    }

    /// A view with strides `[batch, row, pixel]` in values, from the slice's first value on. The slice may be longer.
    /// Pixels may overlap, and a stride may be 0: a tensor is only read through it.
    ///
    /// # Errors
    /// [`Error::Length`] where the slice is too short; [`Error::TooLarge`] where the view spans more than memory can hold.
    ///
    /// # Example
    /// Channels 1 and 2 of a pixel of four, and the same pixel three times:
    /// ```
    /// use pointwise::Nhwc;
    /// let wide = [10.0, 11.0, 12.0, 13.0];
    /// let slice = Nhwc::with_strides(&wide[1..], [1, 1, 1, 2], [4, 4, 4])?;
    /// let repeated = Nhwc::with_strides(&wide, [1, 1, 3, 4], [0, 0, 0])?;
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn with_strides(data: &'a [f32], shape: Shape, strides: Strides) -> Result<Self, Error> {
        check_length(data.len(), shape, strides)?;
        Ok(Self { data, shape, strides })
    }

    /// `[batch, height, width, channels]`.
    ///
    /// # Example
    /// ```
    /// assert_eq!(pointwise::Nhwc::new(&[0.0; 6], [1, 1, 2, 3])?.shape(), [1, 1, 2, 3]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// `[batch, row, pixel]`, in values.
    ///
    /// # Example
    /// ```
    /// assert_eq!(pointwise::Nhwc::new(&[0.0; 6], [1, 1, 2, 3])?.strides(), [6, 6, 3]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn strides(&self) -> Strides {
        self.strides
    }

    /// The values of a pixel.
    ///
    /// Returns `None` outside the shape.
    ///
    /// # Example
    /// ```
    /// let x = pointwise::Nhwc::new(&[1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2])?;
    /// assert_eq!(x.pixel(0, 0, 1), Some(&[3.0, 4.0][..]));
    /// assert_eq!(x.pixel(0, 0, 2), None);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn pixel(&self, n: usize, h: usize, w: usize) -> Option<&'a [f32]> {
        let at = offset(self.shape, self.strides, n, h, w)?;
        self.data.get(at..at + self.shape[3])
    }

    pub(crate) fn data(&self) -> &'a [f32] {
        self.data
    }
}

/// A tensor that is written. No two of its pixels share a value.
///
/// # Example
/// Channels 3 to 7 of a tensor of 8:
/// ```
/// use pointwise::NhwcMut;
/// let mut wide = [0.0; 5 * 8];
/// let some = NhwcMut::with_strides(&mut wide[3..], [1, 1, 5, 5], [40, 40, 8])?;
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Debug)]
pub struct NhwcMut<'a> {
    /// Of which the view's own are the `shape[3]` values of each of its pixels.
    values: OutputValues<'a>,
    shape: Shape,
    strides: Strides,
}

impl<'a> NhwcMut<'a> {
    /// A dense tensor `[batch, height, width, channels]`, which fills the slice.
    ///
    /// # Errors
    /// As [`Nhwc::new`].
    ///
    /// # Example
    /// ```
    /// let mut y = [0.0; 4];
    /// assert_eq!(pointwise::NhwcMut::new(&mut y, [1, 1, 2, 2])?.shape(), [1, 1, 2, 2]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    #[inline]
    pub fn new(data: &'a mut [f32], shape: Shape) -> Result<Self, Error> {
        let strides = Nhwc::new(data, shape)?.strides;
        Ok(Self { values: OutputValues::new(data), shape, strides })
    }

    /// A view with strides `[batch, row, pixel]` in values, from the slice's first value on. The slice may be longer; the
    /// values between pixels are never touched.
    ///
    /// # Errors
    /// As [`Nhwc::with_strides`], and [`Error::Overlap`] where two pixels share a value. Axes may be in any order (a
    /// transposed tensor is fine), but each must step over all that lies on the axes of smaller strides.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Error, NhwcMut};
    /// let mut y = [0.0; 4];
    /// let overlap = NhwcMut::with_strides(&mut y, [1, 1, 2, 2], [4, 4, 1]).unwrap_err();
    /// assert_eq!(overlap, Error::Overlap { axis: "pixels", size: 2, extent: 2, stride: 1 });
    /// ```
    pub fn with_strides(data: &'a mut [f32], shape: Shape, strides: Strides) -> Result<Self, Error> {
        Self::from_values(OutputValues::new(data), shape, strides)
    }

    pub(crate) fn from_values(values: OutputValues<'a>, shape: Shape, strides: Strides) -> Result<Self, Error> {
        check_length(values.len(), shape, strides)?;
        check_apart(shape, strides)?;
        Ok(Self { values, shape, strides })
    }

    /// `[batch, height, width, channels]`.
    ///
    /// # Example
    /// ```
    /// let mut y = [0.0; 4];
    /// assert_eq!(pointwise::NhwcMut::new(&mut y, [1, 2, 1, 2])?.shape(), [1, 2, 1, 2]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// `[batch, row, pixel]`, in values.
    ///
    /// # Example
    /// ```
    /// let mut y = [0.0; 4];
    /// assert_eq!(pointwise::NhwcMut::new(&mut y, [1, 2, 1, 2])?.strides(), [4, 2, 2]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn strides(&self) -> Strides {
        self.strides
    }

    /// The values of a pixel, to be written.
    ///
    /// Returns `None` outside the shape.
    ///
    /// # Example
    /// ```
    /// let mut y = [0.0; 4];
    /// pointwise::NhwcMut::new(&mut y, [1, 2, 1, 2])?.pixel_mut(0, 1, 0).unwrap()[1] = 7.0;
    /// assert_eq!(y, [0.0, 0.0, 0.0, 7.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn pixel_mut(&mut self, n: usize, h: usize, w: usize) -> Option<&mut [f32]> {
        let at = offset(self.shape, self.strides, n, h, w)?;
        // SAFETY: the pixel is inside the span, which the constructor has checked; its values are this view's own, and `self`
        // is borrowed as long as the slice is.
        Some(unsafe { self.values.slice_mut(at, self.shape[3]) })
    }

    /// Two views: of the first `channels` channels of each pixel, and of the others. What is written into one and into the
    /// other is concatenated.
    ///
    /// # Errors
    /// [`Error::Split`] where there are fewer channels.
    ///
    /// # Example
    /// ```
    /// let mut y = [0.0; 6];
    /// let (mut first, mut rest) = pointwise::NhwcMut::new(&mut y, [1, 1, 2, 3])?.split_channels(1)?;
    /// first.pixel_mut(0, 0, 1).unwrap().copy_from_slice(&[1.0]);
    /// rest.pixel_mut(0, 0, 1).unwrap().copy_from_slice(&[2.0, 3.0]);
    /// assert_eq!(y, [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn split_channels(self, channels: usize) -> Result<(NhwcMut<'a>, NhwcMut<'a>), Error> {
        let [n, h, w, all] = self.shape;
        let Some(rest) = all.checked_sub(channels) else {
            return Err(Error::Split { channels: all, at: channels });
        };
        let first = NhwcMut { shape: [n, h, w, channels], ..self };
        // Of pixels that do not overlap, these are apart from the first ones.
        Ok((first, NhwcMut { values: self.values.from(channels), shape: [n, h, w, rest], ..self }))
    }

    /// The same view for a shorter time: to run several convolutions into it, one after the other, without checking it anew.
    ///
    /// # Example
    /// ```
    /// let (mut data, shape) = ([0.0; 4], [1, 2, 1, 2]);
    /// let mut y = pointwise::NhwcMut::new(&mut data, shape)?;
    /// let conv = pointwise::PointwiseConv::builder(1, 2).build(&[1.0, 2.0])?;
    /// for x in [[1.0, 2.0], [3.0, 4.0]] {
    ///     conv.run(pointwise::Nhwc::new(&x, [1, 2, 1, 1])?, y.reborrow())?;
    /// }
    /// assert_eq!(data, [3.0, 6.0, 4.0, 8.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn reborrow(&mut self) -> NhwcMut<'_> {
        NhwcMut { ..*self }
    }

    pub(crate) fn values(&self) -> OutputValues<'a> {
        self.values
    }
}

/// Whether so many values hold the view.
fn check_length(actual: usize, shape: Shape, strides: Strides) -> Result<(), Error> {
    let expected = span("view", shape, strides)?;
    if actual < expected { Err(Error::Length { what: "view", expected, actual }) } else { Ok(()) }
}

/// Whether no two pixels share a value. What they span has been checked.
pub(crate) fn check_apart(shape: Shape, strides: Strides) -> Result<(), Error> {
    if shape.contains(&0) {
        return Ok(());
    }
    let [n, h, w, c] = shape;
    let [batch, row, pixel] = strides;
    let mut axes = [("pixels", w, pixel), ("rows", h, row), ("images", n, batch)];
    axes.sort_by_key(|(_, _, stride)| *stride);
    let mut extent = c;
    for (axis, size, stride) in axes.into_iter().filter(|(_, size, _)| *size > 1) {
        if stride < extent {
            return Err(Error::Overlap { axis, size, extent, stride });
        }
        // At most the span: no overflow.
        extent += (size - 1) * stride;
    }
    Ok(())
}

/// Where a pixel starts. Inside the shape the span's check holds, and nothing overflows.
fn offset(shape: Shape, strides: Strides, n: usize, h: usize, w: usize) -> Option<usize> {
    let inside = n < shape[0] && h < shape[1] && w < shape[2];
    inside.then(|| if shape[3] == 0 { 0 } else { n * strides[0] + h * strides[1] + w * strides[2] })
}

/// One axis of the output: how many pixels, and how far one is from the next in each tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Axis {
    pub size: usize,
    pub x: usize,
    pub y: usize,
    pub residual: usize,
}

/// The output's pixels as lines of equally spaced pixels, in every tensor of a run.
///
/// Axes that follow on from each other are one: a dense batch of images is a single line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Lines {
    /// The two axes along which lines are laid out.
    pub outer: [Axis; 2],
    /// A line.
    pub line: Axis,
}

impl Lines {
    /// Those of a run; none where `y` is empty. `stride` is the convolution's, vertical and horizontal.
    pub fn new(stride: (usize, usize), x: &Nhwc<'_>, y: &NhwcMut<'_>, residual: Option<&Nhwc<'_>>) -> Self {
        let mut lines = Self::default();
        lines.set(stride, x, y, residual);
        lines
    }

    /// The same in place of none: a small run would feel a copy, which reads what was just written.
    pub fn set(&mut self, stride: (usize, usize), x: &Nhwc<'_>, y: &NhwcMut<'_>, residual: Option<&Nhwc<'_>>) {
        if y.shape.contains(&0) {
            return;
        }
        // Pixels without channels lie nowhere: their strides are not checked, and not to be followed.
        let x = if x.shape[3] == 0 { [0; 3] } else { x.strides };
        self.set_strides(stride, y.shape, x, y.strides, residual.map_or([0; 3], |residual| residual.strides));
    }

    /// The lines of dense tensors, which memory can hold.
    pub fn dense(stride: (usize, usize), input: Shape, output: Shape) -> Self {
        let mut lines = Self::default();
        lines.set_strides(stride, output, dense(input), dense(output), [0; 3]);
        lines
    }

    fn set_strides(&mut self, stride: (usize, usize), shape: Shape, x: Strides, y: Strides, residual: Strides) {
        let steps = [1, stride.0, stride.1];
        let one = Axis { size: 1, ..Axis::default() };
        *self = Self { outer: [one; 2], line: one };
        let [first, second] = &mut self.outer;
        let axes = [first, second, &mut self.line];
        let mut last = 2;
        for i in (0..3).rev() {
            let size = shape[i];
            if size == 1 {
                continue;
            }
            // With two or more output pixels, a step of the input stays inside its span.
            let axis = Axis { size, x: x[i] * steps[i], y: y[i], residual: residual[i] };
            let inner = &mut *axes[last];
            let follows = |outer: fn(&Axis) -> usize| outer(&axis) == inner.size * outer(inner);
            if *inner == one {
                *inner = axis;
            } else if follows(|a| a.x) && follows(|a| a.y) && follows(|a| a.residual) {
                inner.size *= size;
            } else {
                last -= 1;
                *axes[last] = axis;
            }
        }
    }

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.outer[0].size * self.outer[1].size
    }

    /// Where line `i` starts in input, output and residual.
    pub fn start(&self, i: usize) -> [usize; 3] {
        let [outer, inner] = self.outer;
        let (o, i) = if inner.size == 1 { (i, 0) } else { (i / inner.size, i % inner.size) };
        [o * outer.x + i * inner.x, o * outer.y + i * inner.y, o * outer.residual + i * inner.residual]
    }

    /// These lines, cut where the inner axis ends, so that those of a piece are equally far from each other: the first line of
    /// each piece, and how many it has.
    pub fn pieces(&self, mut lines: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        let size = self.outer[1].size;
        iter::from_fn(move || {
            let (first, count) = (lines.start, lines.len());
            // A small run would feel the division.
            let count = if count > 1 { count.min(size - first % size) } else { count };
            lines.start += count;
            (count > 0).then_some((first, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn dense_tensors_are_one_line() {
        let (data, mut out) = (vec![0.0; 120], vec![0.0; 120]);
        let x = Nhwc::new(&data, [2, 3, 4, 5]).unwrap();
        let y = NhwcMut::new(&mut out, [2, 3, 4, 5]).unwrap();
        let lines = Lines::new((1, 1), &x, &y, None);
        assert_eq!((lines.count(), lines.line.size, lines.line.x), (1, 24, 5));
    }

    #[test]
    fn a_stride_or_padding_splits_lines() {
        let (data, mut out) = (vec![0.0; 120], vec![0.0; 120]);
        let x = Nhwc::new(&data, [2, 3, 4, 5]).unwrap();
        let y = NhwcMut::new(&mut out[..40], [2, 2, 2, 5]).unwrap();
        let lines = Lines::new((2, 2), &x, &y, None);
        assert_eq!((lines.count(), lines.line), (4, Axis { size: 2, x: 10, y: 5, residual: 0 }));
        assert_eq!(lines.start(3), [100, 30, 0]);
        // Rows of one image, then those of the next.
        assert!(lines.pieces(0..4).eq([(0, 2), (2, 2)]) && lines.pieces(1..4).eq([(1, 1), (2, 2)]));
        assert!(lines.pieces(2..2).eq([]));
        // Rows with padding: images follow on from each other, rows do not.
        let y = NhwcMut::with_strides(&mut out, [2, 2, 2, 5], [30, 15, 5]).unwrap();
        let x = Nhwc::new(&data[..40], [2, 2, 2, 5]).unwrap();
        let lines = Lines::new((1, 1), &x, &y, None);
        assert_eq!((lines.count(), lines.line.size), (4, 2));
        assert_eq!(lines.outer, [Axis { size: 1, ..Axis::default() }, Axis { size: 4, x: 10, y: 15, residual: 0 }]);
    }

    #[test]
    fn a_transposed_output_does_not_overlap() {
        let mut out = vec![0.0; 24];
        assert!(NhwcMut::with_strides(&mut out, [1, 3, 4, 2], [24, 2, 6]).is_ok());
        assert!(NhwcMut::with_strides(&mut out, [1, 3, 4, 2], [24, 2, 5]).is_err());
    }
}
