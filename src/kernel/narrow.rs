//! The kernel for few output channels: lanes along pixels.
//!
//! ```text
//! for each LANES pixels:
//!     acc[f] = bias[f]                              one vector an output channel
//!     for k in 0..K:
//!         column = x[0..LANES][k]                   a column of the pixels x k matrix
//!         acc[f] = fma(column, w[k][f], acc[f])
//! ```
//!
//! A panel is 16 channels wide, so a tile of [`super::tile`] would waste fifteen lanes of sixteen where F = 1. Here every
//! lane works, at the price of the columns: four of them come from one transposition of LANES pixels x 4 values.
//! The panels are the same; a weight is one value of a row.

use super::{Lanes, PANEL, Row, Strip, for_each, strip::Pixel, unrolled};
use crate::epilogue;

/// The most output channels that this kernel takes.
pub(crate) const MAX_CHANNELS: usize = 12;

/// Runs the strip, which has 1 to [`MAX_CHANNELS`] output channels.
pub(crate) fn run<L: Lanes>(simd: L, strip: &Strip<'_>) {
    let kernel = match strip.out_channels() {
        1 => kernel::<L, 1>,
        2 => kernel::<L, 2>,
        3 => kernel::<L, 3>,
        4 => kernel::<L, 4>,
        5 => kernel::<L, 5>,
        6 => kernel::<L, 6>,
        7 => kernel::<L, 7>,
        8 => kernel::<L, 8>,
        9 => kernel::<L, 9>,
        10 => kernel::<L, 10>,
        11 => kernel::<L, 11>,
        _ => kernel::<L, MAX_CHANNELS>,
    };
    kernel(simd, strip);
}

fn kernel<L: Lanes, const F: usize>(simd: L, strip: &Strip<'_>) {
    struct Down<'a, L, const F: usize>(L, &'a Strip<'a>);
    impl<L: Lanes, const F: usize> pulp::NullaryFnOnce for Down<'_, L, F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, strip) = self;
            // One group's chains are bound by their latency where there are few of them: two groups take turns.
            let pairs = if const { F < 8 && 2 * F + 8 < L::REGISTERS } { strip.pixels() / (2 * L::LANES) } else { 0 };
            for i in 0..pairs {
                // SAFETY: two groups are inside, and F was asserted.
                unsafe { groups::<L, F, 2>(simd, strip, i * 2 * L::LANES, L::LANES) };
            }
            for pixel in (pairs * 2 * L::LANES..strip.pixels()).step_by(L::LANES) {
                // SAFETY: as many pixels are inside, and F was asserted.
                match strip.pixels() - pixel {
                    rest if rest < L::LANES => unsafe { groups::<L, F, 1>(simd, strip, pixel, rest) },
                    _ => unsafe { groups::<L, F, 1>(simd, strip, pixel, L::LANES) },
                }
            }
        }
    }
    assert_eq!(strip.out_channels(), F, "the kernel is made for F output channels");
    simd.vectorize(Down::<L, F>(simd, strip));
}

/// `G` groups of `count` pixels each, 1 to LANES, from `pixel` on. Lanes beyond repeat a group's last pixel and are not
/// stored.
///
/// # Safety
/// The strip has these pixels, and F output channels.
#[inline(always)]
unsafe fn groups<L: Lanes, const F: usize, const G: usize>(simd: L, strip: &Strip<'_>, pixel: usize, count: usize) {
    // The pixel of a group's lane, inside the strip for every lane.
    let at = |g: usize, l: usize| pixel + g * L::LANES + if count < L::LANES { l.min(count - 1) } else { l };
    // SAFETY: the strip has output channels, and so a panel.
    let panel = unsafe { strip.panel(0) };
    let mut x = [[Pixel::default(); PANEL]; G];
    for (g, x) in x.iter_mut().enumerate() {
        for (l, x) in x.iter_mut().enumerate().take(L::LANES) {
            // SAFETY: inside the strip.
            *x = unsafe { strip.pixel(at(g, l)) };
        }
    }

    let mut acc = [[simd.splat(0.0); F]; G];
    for_each::<G, F>(
        #[inline(always)]
        |g, f| acc[g][f] = simd.splat(panel.bias.0[f]),
    );
    for (four, weights) in panel.fours.iter().enumerate() {
        unrolled::<G>(
            #[inline(always)]
            |g| {
                let columns = simd.transpose(
                    #[inline(always)]
                    // SAFETY: all pixels have as many fours as the panel.
                    |l| unsafe { x[g][l].fours.get_unchecked(four) },
                );
                for_each::<4, F>(
                    #[inline(always)]
                    |j, f| acc[g][f] = simd.mul_add(columns[j], simd.splat(weights[j].0[f]), acc[g][f]),
                );
            },
        );
    }
    for (rest, weights) in panel.rest.iter().enumerate() {
        for_each::<G, F>(
            #[inline(always)]
            |g, f| {
                let column = gather(
                    simd,
                    #[inline(always)]
                    |l| x[g][l].rest[rest],
                );
                acc[g][f] = simd.mul_add(column, simd.splat(weights.0[f]), acc[g][f]);
            },
        );
    }

    if strip.has_residual() {
        for_each::<G, F>(
            #[inline(always)]
            |g, f| {
                let column = gather(
                    simd,
                    #[inline(always)]
                    // SAFETY: inside the strip, which has F output channels and a residual.
                    |l| unsafe { strip.residual(at(g, l), F) }[f],
                );
                acc[g][f] = simd.add(column, acc[g][f]);
            },
        );
    }
    epilogue::apply_in_registers(simd, strip.activation(), &mut acc);
    unrolled::<G>(
        #[inline(always)]
        |g| {
            let first = pixel + g * L::LANES;
            if F == 1 && strip.is_contiguous() {
                // SAFETY: `count` pixels are inside the contiguous strip; the slice ends with this statement.
                simd.store_first(acc[g][0], unsafe { strip.contiguous_output(first, count) });
                return;
            }
            let mut columns = [Row([0.0; PANEL]); F];
            unrolled::<F>(
                #[inline(always)]
                |f| simd.store(acc[g][f], &mut columns[f], 0),
            );
            for l in 0..count {
                // SAFETY: inside the strip, which has F output channels; the slice ends with this round.
                let row = unsafe { strip.output(first + l, F) };
                for (value, column) in row.iter_mut().zip(&columns) {
                    *value = column.0[l];
                }
            }
        },
    );
}

/// A vector whose lanes are given one by one.
#[inline(always)]
fn gather<L: Lanes>(simd: L, lane: impl Fn(usize) -> f32) -> L::Vector {
    let mut row = Row([0.0; PANEL]);
    for (l, value) in row.0.iter_mut().enumerate().take(L::LANES) {
        *value = lane(l);
    }
    simd.load(&row, 0)
}
