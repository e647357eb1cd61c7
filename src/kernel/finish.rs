//! What follows a tile's sums, and their stores: in registers where that is short, or else out of line.

use super::{Lanes, Last, PANEL, Row, Start, Strip, StripKernel};
use crate::{
    Activation,
    epilogue::{self, WithActivation},
    output::{OutputPixels, OutputValues},
};
use core::ops::Range;

/// What follows the sums of most strips, as a number that is found once for all tiles.
pub(super) struct Usual;

impl Usual {
    const NOTHING: usize = 0;
    const RELU: usize = 1;
    /// The same two, stored by halves.
    const NOTHING_BY_HALVES: usize = 2;
    const RELU_BY_HALVES: usize = 3;
    /// Something else, or a residual too.
    const NEITHER: usize = 4;

    #[inline(always)]
    pub fn of<L: Lanes>(strip: &Strip<'_>) -> usize {
        let by_halves = if L::LANES == PANEL && strip.halves_stores() { Self::NOTHING_BY_HALVES } else { 0 };
        // Opaque, or the compiler would look again at what it was found from.
        opaque!(match strip.epilogue().activation {
            Activation::Identity if !strip.has_residual() => Self::NOTHING + by_halves,
            Activation::Relu if !strip.has_residual() => Self::RELU + by_halves,
            _ => Self::NEITHER,
        })
    }
}

/// What calls it, the compiler takes for rare: it keeps in registers what is needed elsewhere. No instruction.
#[cold]
#[inline]
fn rare() {}

/// What follows the sums of a tile's `channels` output channels, and their store: each vector has some. They are a constant, but
/// for tiles of one vector.
///
/// # Safety
/// The strip has `MR` pixels from the start on, and `channels` output channels.
#[inline(always)]
pub(super) unsafe fn finish_in_registers<L: Lanes, const MR: usize, const NV: usize, const LAST: u8>(
    simd: L,
    strip: &Strip<'_>,
    start: Start,
    mut acc: [[L::Vector; NV]; MR],
    channels: usize,
    usual: usize,
) {
    debug_assert!(strip.contains(start, MR) && channels <= strip.out_channels_from(start));
    macro_rules! store {
        ($halved:literal, $activation:expr) => {
            // SAFETY: this function's contract.
            unsafe { store::<L, MR, NV, LAST, $halved>(simd, strip, start, &acc, channels, $activation) }
        };
    }
    match usual {
        Usual::NOTHING => {
            return store!(
                false,
                #[inline(always)]
                |x, _| x
            );
        }
        Usual::RELU => {
            return store!(
                false,
                #[inline(always)]
                |x, _| epilogue::relu(simd, x)
            );
        }
        Usual::NOTHING_BY_HALVES if const { L::LANES == PANEL } => {
            return store!(
                true,
                #[inline(always)]
                |x, _| x
            );
        }
        Usual::RELU_BY_HALVES if const { L::LANES == PANEL } => {
            return store!(
                true,
                #[inline(always)]
                |x, _| epilogue::relu(simd, x)
            );
        }
        _ => rare(),
    }
    if strip.has_residual() {
        // Opaque, or the compiler would find where the residual is also where there is none.
        let mut start = start;
        (start.line, start.pixel) = (opaque!(start.line), opaque!(start.pixel));
        unrolled! { for m in 0..MR, at most 16 {
            unrolled! { for v in 0..NV, at most 4 {
                // SAFETY: this function's contract, and there is a residual.
                let residual = unsafe { strip.residual(start, m, part::<L>(v, channels)) };
                acc[m][v] = simd.add(simd.load_first(residual), acc[m][v]);
            }}
        }}
    }
    match strip.epilogue().activation {
        Activation::Relu => store!(
            false,
            #[inline(always)]
            |x, _| epilogue::relu(simd, x)
        ),
        Activation::Clamp { min, max } => store!(
            false,
            #[inline(always)]
            |x, _| epilogue::clamp(simd, x, min, max)
        ),
        Activation::Prelu => store!(
            false,
            #[inline(always)]
            |x, v| match strip.channels(start, v / const { PANEL / L::LANES }) {
                Some(channels) => {
                    epilogue::leaky_relu(simd, x, simd.load(&channels.slope, v % const { PANEL / L::LANES }))
                }
                None => x,
            }
        ),
        activation => {
            debug_assert_eq!(activation, Activation::Identity, "the others are not short");
            store!(
                false,
                #[inline(always)]
                |x, _| x
            )
        }
    }
}

/// Activates and stores row by row: a row's stores are under way while the next row is activated.
///
/// # Safety
/// As for [`finish_in_registers`].
#[inline(always)]
unsafe fn store<L: Lanes, const MR: usize, const NV: usize, const LAST: u8, const HALVED: bool>(
    simd: L,
    strip: &Strip<'_>,
    start: Start,
    acc: &[[L::Vector; NV]; MR],
    channels: usize,
    activation: impl Fn(L::Vector, usize) -> L::Vector + Copy,
) {
    unrolled! { for m in 0..MR, at most 16 {
        let mut row = acc[m];
        unrolled! { for v in 0..NV, at most 4 { row[v] = activation(row[v], v); } }
        unrolled! { for v in 0..NV, at most 4 {
            // SAFETY: this function's contract; the slice ends with this block.
            let to = unsafe { strip.output(start, m, part::<L>(v, channels)) };
            // Half a vector needs no mask.
            if HALVED || Last::<LAST>::IS_SHARED && v == NV - 1 {
                simd.store_first_halved(row[v], to);
            } else {
                simd.store_first(row[v], to);
            }
        }}
    }}
}

/// Which of `channels` values the `v`-th vector holds.
#[cfg_attr(not(debug_assertions), inline(always))]
fn part<L: Lanes>(v: usize, channels: usize) -> Range<usize> {
    (v * L::LANES).min(channels)..((v + 1) * L::LANES).min(channels)
}

/// Rows of sums at a time that have no place of their own, as many as a tile has or more.
pub(super) const SUMS: usize = 28;

/// Rows of sums at a time where they stand in the output: 16 KiB.
const SUMS_IN_OUTPUT: usize = 256;

/// Runs tiles of so many pixels by output channels down each line of a strip that their kernel cannot finish: it stores bare sums,
/// in the output unless it is to be read or the tiles are not full, and [`finish_rows`] does the rest, for several tiles at once.
#[inline(never)]
pub(super) fn run_and_finish<L: Lanes>(
    simd: L,
    kernel: StripKernel<L>,
    [mr, width]: [usize; 2],
    strip: &Strip<'_>,
    tiles: usize,
) {
    // No division where nothing is to be divided, for a small run.
    let columns = if strip.out_channels() > width { strip.out_channels().div_ceil(width) } else { 1 };
    if columns * width == strip.out_channels() && !strip.is_in_place() {
        run_by_parts(simd, kernel, ([mr, width], columns), strip, tiles, (None, SUMS_IN_OUTPUT));
    } else {
        let mut sums = [Row([0.0; PANEL]); SUMS];
        let sums = OutputValues::new(bytemuck::cast_slice_mut(&mut sums));
        run_by_parts(simd, kernel, ([mr, width], columns), strip, tiles, (Some(sums), SUMS));
    }
}

/// Tiles and columns of them at a time, as many as `rows` rows of sums allow. The sums stand in the output if they have no other
/// place.
fn run_by_parts<L: Lanes>(
    simd: L,
    kernel: StripKernel<L>,
    ([mr, width], columns): ([usize; 2], usize),
    strip: &Strip<'_>,
    tiles: usize,
    (sums, rows): (Option<OutputValues<'_>>, usize),
) {
    assert!(tiles.checked_mul(mr).is_some_and(|pixels| pixels <= strip.pixels()), "tiles lie inside a line");
    let panels = width.div_ceil(PANEL);
    let at_once = if columns.max(tiles) > 1 { rows / (mr * panels) } else { 1 };
    let columns_at_once = columns.min(at_once);
    let tiles_at_once = if columns > 1 { (at_once / columns).max(1) } else { at_once };
    let mut line = strip.start(0, 0);
    for _ in 0..strip.lines() {
        let (mut start, mut tiles) = (line, tiles);
        while tiles > 0 {
            let now = tiles.min(tiles_at_once);
            let (pixels, mut at, mut columns) = (now * mr, start, columns);
            while columns > 0 {
                let of_part = columns.min(columns_at_once);
                let channels = of_part * width;
                let sums = match sums {
                    Some(values) => OutputPixels { values, stride: of_part * panels * PANEL, line_stride: 0 },
                    None => strip.output_from(at),
                };
                // SAFETY: the sums are this function's own, or outputs of the strip, which is not in use while the kernel writes
                // them. The strip has these pixels, as was asserted, and as many channels; `bare` asserts that there is room for
                // their sums, and the kernel's tiles are all of them.
                unsafe {
                    kernel(simd, &strip.bare(at, pixels, channels, sums), now);
                    finish_rows(simd, strip, at, sums, pixels, channels.min(strip.out_channels_from(at)));
                }
                at = strip.beside(at, of_part * panels);
                columns -= of_part;
            }
            start = strip.behind(start, pixels);
            tiles -= now;
        }
        line = strip.next_line(line);
    }
}

/// What follows the sums of so many pixels and output channels, which are in memory: out of line, once for all tiles of an ISA.
///
/// # Safety
/// The strip has these pixels and output channels from the start on, and there is a sum for each of them, which nobody else
/// writes.
#[inline(never)]
pub(super) unsafe fn finish_rows<L: Lanes>(
    simd: L,
    strip: &Strip<'_>,
    start: Start,
    sums: OutputPixels<'_>,
    pixels: usize,
    channels: usize,
) {
    debug_assert!(strip.contains(start, pixels));
    debug_assert!(channels <= strip.out_channels_from(start));
    struct Rows<'a, L: Lanes> {
        simd: L,
        strip: &'a Strip<'a>,
        start: Start,
        sums: OutputPixels<'a>,
        pixels: usize,
        channels: usize,
    }
    impl<L: Lanes> pulp::NullaryFnOnce for Rows<'_, L> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            epilogue::with_activation(self.simd, self.strip.epilogue().activation, self);
        }
    }
    impl<L: Lanes> WithActivation<L> for Rows<'_, L> {
        type Output = ();

        #[inline(always)]
        fn call(self, activation: impl Fn(L::Vector, L::Vector) -> L::Vector) {
            let Self { simd, strip, start, sums, pixels, channels } = self;
            let (epilogue, per_panel) = (strip.epilogue(), const { PANEL / L::LANES });
            for v in 0..channels.div_ceil(L::LANES) {
                let part = part::<L>(v, channels);
                let of_channels = epilogue.of_channels(
                    simd,
                    start.panel + v / per_panel,
                    #[inline(always)]
                    |row| simd.load(row, v % per_panel),
                );
                macro_rules! down {
                    ($part:expr) => {
                        for m in 0..pixels {
                            // SAFETY: the caller's contract; the slice ends with this statement.
                            let sum = unsafe { sums.values.slice(m * sums.stride + $part.start, $part.len()) };
                            let sum = simd.load_first(sum);
                            // SAFETY: the caller's contract, and there is a residual.
                            let residual = strip.has_residual().then(|| unsafe { strip.residual(start, m, $part) });
                            let residual = residual.map(|residual| simd.load_first(residual));
                            let residual = (residual, epilogue.residual);
                            let y = epilogue::finish(simd, sum, of_channels, residual, &activation);
                            // SAFETY: the caller's contract; the slice ends with this round, and the residual was read.
                            simd.store_first(y, unsafe { strip.output(start, m, $part) });
                        }
                    };
                }
                // Twice, so that in the usual case the length is a constant.
                if L::LANES == 1 || part.len() == L::LANES {
                    down!(part.start..part.start + L::LANES);
                } else {
                    down!(part.clone());
                }
            }
        }
    }
    simd.vectorize(Rows { simd, strip, start, sums, pixels, channels });
}
