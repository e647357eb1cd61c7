//! A strip: what a kernel works on. Its bounds are checked when it is made, so that kernels need not check each pixel
//! (checks cost a tile of K = 16 a third of its time). It is several lines of pixels, because a call costs as much as a small
//! tile.

use super::{Channels, PANEL, Row};
use crate::{Activation, epilogue::Epilogue, output::OutputPixels};
use core::{ops::Range, ptr, slice};

/// Lines of pixels at constant distances: pixel `p` of line `l` starts at `data[l * line_stride + p * stride]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub line_stride: usize,
}

impl<'a> Pixels<'a> {
    /// The pixels from the one at `offset` on.
    pub fn from(self, offset: usize) -> Self {
        Self { data: self.data.get(offset..).unwrap_or_default(), ..self }
    }

    /// # Safety
    /// `data` holds `len` values from `offset` on.
    #[cfg_attr(not(debug_assertions), inline(always))]
    unsafe fn get(&self, offset: usize, len: usize) -> &'a [f32] {
        debug_assert!(offset + len <= self.data.len());
        // SAFETY: the values are there, by this function's contract.
        unsafe { self.data.get_unchecked(offset..).get_unchecked(..len) }
    }
}

/// Whether `len` values hold so many lines of so many pixels, 1 or more of both, of `channels` values each.
fn holds(len: usize, (line_stride, lines): (usize, usize), (stride, pixels): (usize, usize), channels: usize) -> bool {
    let last_line = (lines - 1).checked_mul(line_stride);
    let last_pixel = (pixels - 1).checked_mul(stride).and_then(|last| last.checked_add(channels));
    last_line.zip(last_pixel).and_then(|(line, end)| line.checked_add(end)).is_some_and(|end| end <= len)
}

/// What is added to the sum.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Residual<T> {
    None,
    /// These values.
    Of(T),
    /// Those that the output holds.
    Output,
}

impl<T> Residual<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Residual<U> {
        match self {
            Residual::None => Residual::None,
            Residual::Of(values) => Residual::Of(f(values)),
            Residual::Output => Residual::Output,
        }
    }

    #[cfg(feature = "capi")]
    pub fn as_ref(&self) -> Residual<&T> {
        match self {
            Residual::None => Residual::None,
            Residual::Of(values) => Residual::Of(values),
            Residual::Output => Residual::Output,
        }
    }

    pub fn values(&self) -> Option<&T> {
        if let Residual::Of(values) = self { Some(values) } else { None }
    }
}

/// A panel as a k loop reads it: its biases, its rows in fours, and the rows left over.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub bias: &'a Row,
    pub fours: &'a [[Row; 4]],
    pub rest: &'a [Row],
}

/// How to get from a pixel to those behind it.
///
/// Pointers to every pixel of a tile would not fit in the registers, and a compiler that is left to choose keeps some of them
/// in memory. Pixel m is an odd multiple of the stride away, doubled up to three times: eight registers at most for sixteen
/// pixels, and on x86 a single address.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// The stride times 1, 3, 5 and so on, in bytes.
    odd: [usize; PANEL / 2],
}

impl Steps {
    #[inline(always)]
    fn new(stride: usize) -> Self {
        let mut odd = [0; PANEL / 2];
        unrolled! { for i in 0..8, at most 8 { odd[i] = opaque!(stride.wrapping_mul((2 * i + 1) * size_of::<f32>())); } }
        Self { odd }
    }

    /// From a place in one pixel to the same in the `m`-th behind it, `m < PANEL`.
    #[inline(always)]
    pub fn from(&self, place: *const f32, m: usize) -> *const f32 {
        debug_assert!(m < PANEL);
        if m == 0 {
            return place;
        }
        let doublings = m.trailing_zeros();
        place.wrapping_byte_add(self.odd[(m >> doublings) / 2] << doublings)
    }
}

/// Where a tile begins. What would be products of its line, its first pixel and its first panel are sums: [`Strip::behind`],
/// [`Strip::beside`] and [`Strip::next_line`] add to those of the tile before.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub line: usize,
    /// Of the line.
    pub pixel: usize,
    /// The first of its panels, and which row of all panels is the first of that.
    pub panel: usize,
    row: usize,
    /// Where its pixels begin.
    pub input: *const f32,
    /// Which value of the output is its first.
    output: usize,
    /// How many input values the pixels before it have.
    values: usize,
}

/// Lines of pixels, the panels of some output channels, and what follows the sum.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a> {
    x: Pixels<'a>,
    y: OutputPixels<'a>,
    residual: Residual<Pixels<'a>>,
    panels: &'a [Row],
    in_channels: usize,
    out_channels: usize,
    lines: usize,
    /// Of each line.
    pixels: usize,
    epilogue: Epilogue<'a>,
    /// Panels, of which each tile prefetches as many values as it reads.
    next: &'a [f32],
    /// Up to which of a line's pixels, counted from the strip's first, its kernels prefetch them: 0 for none, or behind its last.
    prefetched: usize,
    halves_stores: bool,
}

impl<'a> Strip<'a> {
    /// `lines` lines of `pixels` pixels, 1 or more of both: `in_channels` values of each of `x`, to `out_channels` values, 1 or
    /// more, of each of `y`.
    /// The panels have `in_channels + 1` rows each. What the epilogue has for each channel, it has for these panels.
    ///
    /// # Safety
    /// While the strip is in use, nobody else reads or writes those `out_channels` values of those pixels.
    pub unsafe fn new(
        (x, in_channels): (Pixels<'a>, usize),
        (y, out_channels): (OutputPixels<'a>, usize),
        residual: Residual<Pixels<'a>>,
        panels: &'a [Row],
        (lines, pixels): (usize, usize),
        epilogue: Epilogue<'a>,
    ) -> Self {
        let holds = |len, stride, line_stride, channels| holds(len, (line_stride, lines), (stride, pixels), channels);
        let inside = lines > 0
            && pixels > 0
            && out_channels > 0
            && holds(x.data.len(), x.stride, x.line_stride, in_channels)
            && holds(y.len(), y.stride, y.line_stride, out_channels)
            && residual.values().is_none_or(|r| holds(r.data.len(), r.stride, r.line_stride, out_channels))
            && (in_channels + 1).checked_mul(out_channels.div_ceil(PANEL)).is_some_and(|rows| rows <= panels.len())
            && (epilogue.channels.is_empty() || epilogue.channels.len() >= out_channels.div_ceil(PANEL));
        assert!(inside, "a strip lies inside its tensors");
        Self {
            x,
            y,
            residual,
            panels,
            in_channels,
            out_channels,
            lines,
            pixels,
            epilogue,
            next: &[],
            prefetched: 0,
            halves_stores: false,
        }
    }

    /// The strip, whose tiles prefetch these panels, as long as there are some, in place of pixels.
    pub fn prefetching(self, next_panels: &'a [Row]) -> Self {
        Self { next: bytemuck::cast_slice(next_panels), ..self }
    }

    /// The strip, whose kernels prefetch pixels, if there are no gaps between them.
    pub fn prefetching_input(self, prefetching: bool) -> Self {
        let prefetched = if prefetching && self.x.stride == self.in_channels { self.pixels } else { 0 };
        Self { prefetched, ..self }
    }

    /// The strip, whose tiles store a vector by halves where nothing or a ReLU follows the sum.
    pub fn halving_stores(self, halves_stores: bool) -> Self {
        Self { halves_stores, ..self }
    }

    pub fn halves_stores(&self) -> bool {
        self.halves_stores
    }

    /// The strip of some of its pixels and channels, both counted from a start on, whose outputs are the bare sums. Channels may be
    /// more than the strip has: all of its last panel.
    ///
    /// # Safety
    /// As for [`new`](Self::new), and the start is one of this strip's.
    pub(super) unsafe fn bare(&self, start: Start, pixels: usize, channels: usize, sums: OutputPixels<'a>) -> Self {
        let inside = self.contains(start, pixels)
            && channels <= self.out_channels_from(start).next_multiple_of(PANEL)
            && holds(sums.len(), (0, 1), (sums.stride, pixels), channels);
        assert!(inside, "a part lies inside its strip, and there is room for its sums");
        Self {
            x: self.x.from(start.line * self.x.line_stride + start.pixel * self.x.stride),
            y: sums,
            residual: Residual::None,
            panels: self.panels.get(start.row..).unwrap_or_default(),
            out_channels: channels,
            lines: 1,
            pixels,
            epilogue: Epilogue { activation: Activation::Identity, scaled: false, channels: &[], ..self.epilogue },
            next: self.next.get(start.values..).unwrap_or_default(),
            prefetched: self.prefetched.saturating_sub(start.pixel),
            halves_stores: false,
            ..*self
        }
    }

    /// The output from a start on.
    pub(super) fn output_from(&self, start: Start) -> OutputPixels<'a> {
        self.y.from(start.output)
    }

    /// Whether the residual is what the output holds.
    pub(super) fn is_in_place(&self) -> bool {
        matches!(self.residual, Residual::Output)
    }

    /// The strip without the first `pixels` pixels of each line, fewer than there are.
    pub fn skip(self, pixels: usize) -> Self {
        assert!(pixels < self.pixels, "a line has a pixel");
        Self {
            x: self.x.from(pixels * self.x.stride),
            y: self.y.from(pixels * self.y.stride),
            residual: self.residual.map(|residual| residual.from(pixels * residual.stride)),
            pixels: self.pixels - pixels,
            prefetched: self.prefetched.saturating_sub(pixels),
            next: self.next.get(pixels * self.in_channels..).unwrap_or_default(),
            ..self
        }
    }

    /// The strip of the first so many output channels, whole panels, and that of those behind them, of which there are some. The
    /// first prefetches the other's panels, or none.
    pub fn split_channels(self, channels: usize, prefetching: bool) -> [Self; 2] {
        assert!(
            channels.is_multiple_of(PANEL) && (1..self.out_channels).contains(&channels),
            "both have output channels"
        );
        let panels = channels / PANEL;
        let (now, behind) = self.panels.split_at(panels * (self.in_channels + 1));
        let next_panels = if prefetching { &behind[..now.len().min(behind.len())] } else { &[] };
        let first = Self { panels: now, out_channels: channels, ..self }.prefetching(next_panels);
        let behind = Self {
            y: self.y.from(channels),
            residual: self.residual.map(|residual| residual.from(channels)),
            panels: behind,
            out_channels: self.out_channels - channels,
            epilogue: Epilogue { channels: self.epilogue.channels.get(panels..).unwrap_or_default(), ..self.epilogue },
            ..self
        };
        [first, behind]
    }

    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Those from the panel of a start on.
    #[inline(always)]
    pub(super) fn out_channels_from(&self, start: Start) -> usize {
        self.out_channels - start.panel * PANEL
    }

    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Of each line.
    pub fn pixels(&self) -> usize {
        self.pixels
    }

    pub fn epilogue(&self) -> Epilogue<'a> {
        self.epilogue
    }

    /// What the epilogue has for the channels of the `p`-th panel from a start on.
    #[inline(always)]
    pub(super) fn channels(&self, start: Start, p: usize) -> Option<&'a Channels> {
        self.epilogue.channels.get(start.panel + p)
    }

    /// Whether what follows the sum is [short](Epilogue::is_short).
    #[inline(always)]
    pub fn is_short(&self) -> bool {
        self.epilogue.is_short(self.has_residual())
    }

    pub fn has_residual(&self) -> bool {
        !matches!(self.residual, Residual::None)
    }

    /// Whether each pixel of the output is one value, and the next pixel of its line the next value.
    pub fn is_contiguous(&self) -> bool {
        self.out_channels == 1 && self.y.stride == 1
    }

    /// The `p`-th panel from a start on.
    ///
    /// # Safety
    /// The strip has output channels of that panel.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) unsafe fn panel(&self, start: Start, p: usize) -> Panel<'a> {
        debug_assert!((start.panel + p) * PANEL < self.out_channels);
        let len = self.in_channels + 1;
        debug_assert_eq!(start.row, start.panel * len);
        // SAFETY: `new` has checked that the panels of all output channels are there, and this is one of them.
        let rows = unsafe { self.panels.get_unchecked(start.row + p * len..).get_unchecked(..len) };
        let (fours, rest) = rows[1..].as_chunks();
        Panel { bias: &rows[0], fours, rest }
    }

    /// Whether so many pixels from a start on are pixels of one of the lines.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn contains(&self, start: Start, pixels: usize) -> bool {
        start.line < self.lines && start.pixel + pixels <= self.pixels
    }

    /// The values of input pixel `m` from a start on.
    ///
    /// # Safety
    /// The strip contains the pixel.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) unsafe fn input(&self, start: Start, m: usize) -> &'a [f32] {
        debug_assert!(self.contains(start, m + 1));
        // SAFETY: this function's contract, and `new` has checked that `in_channels` values of all pixels are there.
        unsafe { slice::from_raw_parts(self.step(start.input, m), self.in_channels) }
    }

    /// The start of a tile whose first pixel is this one of a line.
    #[inline(always)]
    pub(super) fn start(&self, line: usize, pixel: usize) -> Start {
        let of =
            |line_stride: usize, stride: usize| line.wrapping_mul(line_stride).wrapping_add(pixel.wrapping_mul(stride));
        Start {
            line,
            pixel,
            panel: 0,
            row: 0,
            input: self.x.data.as_ptr().wrapping_add(of(self.x.line_stride, self.x.stride)),
            output: of(self.y.line_stride, self.y.stride),
            values: of(self.pixels.wrapping_mul(self.in_channels), self.in_channels),
        }
    }

    /// The start of the tile behind one of `pixels` pixels.
    #[inline(always)]
    pub(super) fn behind(&self, start: Start, pixels: usize) -> Start {
        Start {
            pixel: start.pixel + pixels,
            // Behind the last tile there may be no pixel, whatever the stride.
            input: opaque!(start.input.wrapping_add(pixels.wrapping_mul(self.x.stride))),
            output: opaque!(start.output.wrapping_add(pixels.wrapping_mul(self.y.stride))),
            values: opaque!(start.values.wrapping_add(pixels.wrapping_mul(self.in_channels))),
            ..start
        }
    }

    /// The start of the tile beside one of so many panels: of the same pixels.
    #[inline(always)]
    pub(super) fn beside(&self, start: Start, panels: usize) -> Start {
        Start {
            panel: start.panel + panels,
            row: start.row + panels * (self.in_channels + 1),
            output: start.output.wrapping_add(panels * PANEL),
            ..start
        }
    }

    /// The start of the line behind the one that starts there.
    #[inline(always)]
    pub(super) fn next_line(&self, start: Start) -> Start {
        Start {
            line: start.line + 1,
            // Behind the last line, likewise.
            input: start.input.wrapping_add(self.x.line_stride),
            output: start.output.wrapping_add(self.y.line_stride),
            values: start.values.wrapping_add(self.pixels.wrapping_mul(self.in_channels)),
            ..start
        }
    }

    /// From a place in one pixel to the same in the `m`-th behind it.
    #[inline(always)]
    pub(super) fn step(&self, place: *const f32, m: usize) -> *const f32 {
        place.wrapping_add(m * self.x.stride)
    }

    /// The same, for the pixels of a tile.
    #[inline(always)]
    pub(super) fn steps(&self) -> Steps {
        Steps::new(self.x.stride)
    }

    /// What a tile of `rows` pixels should prefetch, as many values as it reads: of the panels that come next, its share, or
    /// the tile of pixels that follows it; null where none follows, or not without gaps between its pixels, or the hardware does
    /// as well.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn ahead(&self, start: Start, rows: usize) -> *const f32 {
        if start.values + rows * self.in_channels <= self.next.len() {
            return self.next.as_ptr().wrapping_add(start.values);
        }
        let follows = start.pixel + 2 * rows <= self.prefetched;
        if follows { self.step(start.input, rows) } else { ptr::null() }
    }

    /// The residual of pixel `m` from a start on, for some output channels, which are counted from there too.
    ///
    /// # Safety
    /// The strip contains the pixel and the output channels, there is a residual, and no slice from [`output`](Self::output) of
    /// them is in use.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) unsafe fn residual(&self, start: Start, m: usize, channels: Range<usize>) -> &'a [f32] {
        debug_assert!(self.contains(start, m + 1) && channels.end <= self.out_channels_from(start));
        let len = channels.end - channels.start;
        // SAFETY: this function's contract; `new` has checked that `out_channels` values of all pixels are there, and its
        // caller promised that those of the output are this strip's alone.
        unsafe {
            match self.residual {
                Residual::None => &[],
                Residual::Of(r) => {
                    let pixel = start.line * r.line_stride + (start.pixel + m) * r.stride;
                    r.get(pixel + start.panel * PANEL + channels.start, len)
                }
                Residual::Output => self.y.values.slice(start.output + m * self.y.stride + channels.start, len),
            }
        }
    }

    /// Some output channels of pixel `m`, both counted from a start on.
    ///
    /// # Safety
    /// The strip contains the pixel and the output channels, and no other slice of them is in use.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) unsafe fn output(&self, start: Start, m: usize, channels: Range<usize>) -> &'a mut [f32] {
        debug_assert!(self.contains(start, m + 1) && channels.end <= self.out_channels_from(start));
        let len = channels.end - channels.start;
        // SAFETY: this function's contract; `new` has checked that `out_channels` values of all pixels are there, and its
        // caller promised that they are this strip's alone.
        unsafe { self.y.values.slice_mut(start.output + m * self.y.stride + channels.start, len) }
    }

    /// `count` output pixels, from pixel `m` from a start on, of a strip whose lines are contiguous.
    ///
    /// # Safety
    /// The strip contains the pixels, its lines are contiguous, and no other slice of these pixels is in use.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) unsafe fn contiguous_output(&self, start: Start, m: usize, count: usize) -> &'a mut [f32] {
        debug_assert!(self.contains(start, m + count) && self.is_contiguous());
        // SAFETY: as for `output`; a contiguous line's pixels are neighbours of one value each.
        unsafe { self.y.values.slice_mut(start.output + m, count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pixels_end_with_their_last_value() {
        // Two lines 20 values apart, of three pixels 5 values apart, of 4 values.
        assert!(holds(34, (20, 2), (5, 3), 4) && !holds(33, (20, 2), (5, 3), 4));
        // A stride that is not taken does not count, and sums that overflow are beyond all memory.
        assert!(holds(4, (usize::MAX, 1), (usize::MAX, 1), 4));
        for (line_stride, stride) in [(usize::MAX, 0), (0, usize::MAX), (usize::MAX - 1, 1)] {
            assert!(!holds(usize::MAX, (line_stride, 3), (stride, 3), 4));
        }
    }
}
