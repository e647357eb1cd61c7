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
//! lane works, at the price of the columns: four of them come from one transposition of LANES pixels x 4 values. The panels
//! are the same; a weight is one value of a row.

use super::{Lanes, PANEL, Row, Strip, for_each, strip::Pixel, unrolled};
use crate::epilogue;

include!(concat!(env!("OUT_DIR"), "/narrow.rs"));

/// Whether the accumulators and columns of two groups of pixels, and what a transposition needs, fit in the registers.
pub(crate) const fn takes_two_groups<L: Lanes>(f: usize) -> bool {
    2 * (f + 5) < L::REGISTERS
}

/// Runs the strip, which has F output channels.
fn kernel<L: Lanes, const F: usize>(simd: L, strip: &Strip<'_>) {
    struct Down<'a, L, const F: usize>(L, &'a Strip<'a>);
    impl<L: Lanes, const F: usize> pulp::NullaryFnOnce for Down<'_, L, F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, strip) = self;
            // Two groups share each weight's load, and hide the latency of each other's chains.
            let pairs = if const { takes_two_groups::<L>(F) } { strip.pixels() / (2 * L::LANES) } else { 0 };
            for i in 0..pairs {
                // SAFETY: two groups are inside, and F was asserted.
                unsafe { groups::<L, F, 2>(simd, strip, i * 2 * L::LANES, L::LANES) };
            }
            for pixel in (pairs * 2 * L::LANES..strip.pixels()).step_by(L::LANES) {
                let rest = strip.pixels() - pixel;
                if rest < L::LANES {
                    // SAFETY: as many pixels are inside, and F was asserted.
                    unsafe { groups::<L, F, 1>(simd, strip, pixel, rest) };
                } else {
                    // SAFETY: as above.
                    unsafe { groups::<L, F, 1>(simd, strip, pixel, L::LANES) };
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
    let k = strip.in_channels();
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
    for four in 0..k / 4 {
        let mut columns = [[simd.splat(0.0); 4]; G];
        unrolled::<G>(
            #[inline(always)]
            |g| {
                columns[g] = simd.transpose(
                    #[inline(always)]
                    |l| &x[g][l].fours[four],
                )
            },
        );
        for_each::<4, F>(
            #[inline(always)]
            |j, f| {
                let weight = simd.splat(panel.fours[four][j].0[f]);
                unrolled::<G>(
                    #[inline(always)]
                    |g| acc[g][f] = simd.pin(simd.mul_add(columns[g][j], weight, acc[g][f])),
                );
            },
        );
    }
    for rest in 0..k % 4 {
        for_each::<G, F>(
            #[inline(always)]
            |g, f| {
                let column = gather(
                    simd,
                    #[inline(always)]
                    |l| x[g][l].rest[rest],
                );
                let weight = simd.splat(panel.rest[rest].0[f]);
                acc[g][f] = simd.mul_add(column, weight, acc[g][f]);
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
            // Back from a vector an output channel to a vector a pixel, by the same transposition.
            let mut columns = [Row([0.0; PANEL]); F];
            unrolled::<F>(
                #[inline(always)]
                |f| simd.store(acc[g][f], &mut columns[f], 0),
            );
            for channel in (0..F).step_by(L::LANES) {
                for l in (0..count).step_by(4) {
                    let rows = simd.transpose(
                        #[inline(always)]
                        |c| &columns[(channel + c).min(F - 1)].0.as_chunks().0[l / 4],
                    );
                    for (row, l) in rows.into_iter().zip(l..count) {
                        // SAFETY: inside the strip, which has F output channels; the slice ends with this round.
                        let out = unsafe { strip.output(first + l, F) };
                        simd.store_first(row, &mut out[channel..F.min(channel + L::LANES)]);
                    }
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
