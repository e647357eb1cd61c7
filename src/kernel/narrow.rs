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

use super::{Lanes, Row, Strip};
use crate::epilogue;

/// The most output channels that this kernel takes.
pub(crate) const MAX_CHANNELS: usize = 12;

/// Runs the strip's first `pixels` pixels for all of its output channels, 1 to [`MAX_CHANNELS`] of them.
pub(crate) fn run<L: Lanes>(simd: L, strip: &Strip<'_>, pixels: usize) {
    let kernel = match strip.out_channels {
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
    kernel(simd, strip, pixels);
}

fn kernel<L: Lanes, const F: usize>(simd: L, strip: &Strip<'_>, pixels: usize) {
    struct Down<'a, L, const F: usize>(L, &'a Strip<'a>, usize);
    impl<L: Lanes, const F: usize> pulp::NullaryFnOnce for Down<'_, L, F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, strip, pixels) = self;
            for pixel in (0..pixels).step_by(L::LANES) {
                lanes::<L, F>(simd, strip, pixel, (pixels - pixel).min(L::LANES));
            }
        }
    }
    simd.vectorize(Down::<L, F>(simd, strip, pixels));
}

/// `count` pixels from `pixel` on, at most LANES. Lanes beyond repeat the last pixel and are not stored.
#[inline(always)]
fn lanes<L: Lanes, const F: usize>(simd: L, strip: &Strip<'_>, pixel: usize, count: usize) {
    let k = strip.in_channels;
    let (bias, weights) = strip.panels[..k + 1].split_first().expect("a panel has a row of biases");
    let (weights, weights_rest) = weights.as_chunks::<4>();
    let (weights, weights_rest) = (&weights[..k / 4], &weights_rest[..k % 4]);
    let mut x: [(&[[f32; 4]], &[f32]); 16] = [(&[], &[]); 16];
    for (l, x) in x.iter_mut().enumerate().take(L::LANES) {
        let (fours, rest) = strip.x.get(pixel + l.min(count - 1), k).as_chunks();
        *x = (&fours[..k / 4], &rest[..k % 4]);
    }

    let mut acc = [simd.splat(0.0); F];
    for f in 0..F {
        acc[f] = simd.splat(bias.0[f]);
    }
    for four in 0..k / 4 {
        let columns = simd.transpose(
            #[inline(always)]
            |l| &x[l].0[four],
        );
        for j in 0..4 {
            step(simd, &mut acc, columns[j], &weights[four][j]);
        }
    }
    for rest in 0..k % 4 {
        let column = gather::<L>(
            #[inline(always)]
            |l| x[l].1[rest],
        );
        step(simd, &mut acc, simd.load(&column, 0), &weights_rest[rest]);
    }

    if let Some(residual) = &strip.residual {
        for f in 0..F {
            let column = gather::<L>(
                #[inline(always)]
                |l| residual.get(pixel + l.min(count - 1), F)[f],
            );
            acc[f] = simd.add(simd.load(&column, 0), acc[f]);
        }
    }
    epilogue::apply_to_all(simd, strip.activation, &mut acc);
    if F == 1 && strip.y.stride() == 1 {
        // SAFETY: `count` pixels of one value each, which this kernel call owns (`Strip::y`).
        simd.store_first(acc[0], unsafe { strip.y.row_mut(pixel, count) });
        return;
    }
    let mut columns = [Row([0.0; 16]); F];
    for f in 0..F {
        simd.store(acc[f], &mut columns[f], 0);
    }
    for l in 0..count {
        // SAFETY: this kernel call owns the strip's pixels and channels (`Strip::y`), and holds one row at a time.
        let row = unsafe { strip.y.row_mut(pixel + l, F) };
        for f in 0..F {
            row[f] = columns[f].0[l];
        }
    }
}

/// One k: a column of the pixels times the weight of each output channel.
#[inline(always)]
fn step<L: Lanes, const F: usize>(simd: L, acc: &mut [L::Vector; F], column: L::Vector, weights: &Row) {
    for f in 0..F {
        acc[f] = simd.mul_add(column, simd.splat(weights.0[f]), acc[f]);
    }
}

/// A row whose first LANES values are given one by one.
#[inline(always)]
fn gather<L: Lanes>(value: impl Fn(usize) -> f32) -> Row {
    let mut row = Row([0.0; 16]);
    for l in 0..L::LANES {
        row.0[l] = value(l);
    }
    row
}
