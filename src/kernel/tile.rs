//! The one micro-kernel: an `MR` x `NV` register tile, run down the pixels of a strip.
//!
//! ```text
//! for each tile of MR pixels:
//!     acc[m][v] = bias[v]
//!     for k in 0..K:
//!         acc[m][v] = fma(x[m][k], w[k][v], acc[m][v])
//!     y[m][v] = activation(residual[m][v] + acc[m][v])
//! ```
//!
//! Departures from these loops, each for a reason:
//!
//! 1. k runs in steps of four. NEON multiplies by a lane of a register, so it wants four values of a pixel in one
//!    load; on x86 the four share one address computation.
//! 2. All sizes inside the k loop are constants or the lengths of fixed-size chunks, so no bounds check is left there.
//! 3. Expensive activations work on a copy of the accumulators in memory, out of line. An array that is indexed by a
//!    variable cannot live in registers, and one copy of their code serves every tile shape.

use super::{Lanes, PANEL, Row, Strip, TileKernel};
use crate::epilogue::{self, Activation};

include!(concat!(env!("OUT_DIR"), "/tiles.rs"));

/// Runs `tiles` tiles of `MR` pixels by `NV` vectors down the strip, from its first pixel on.
pub(crate) fn kernel<L: Lanes, const MR: usize, const NV: usize>(simd: L, strip: &Strip<'_>, tiles: usize) {
    /// A type rather than a closure: a closure is called through a shim that is not inlined for certain, and what is not
    /// inlined is not compiled for the ISA.
    struct Down<'a, L, const MR: usize, const NV: usize>(L, &'a Strip<'a>, usize);
    impl<L: Lanes, const MR: usize, const NV: usize> pulp::NullaryFnOnce for Down<'_, L, MR, NV> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            for t in 0..self.2 {
                tile::<L, MR, NV>(self.0, self.1, t * MR);
            }
        }
    }
    simd.vectorize(Down::<L, MR, NV>(simd, strip, tiles));
}

#[inline(always)]
fn tile<L: Lanes, const MR: usize, const NV: usize>(simd: L, strip: &Strip<'_>, pixel: usize) {
    let k = strip.in_channels;
    let per_panel = const { PANEL / L::LANES };

    // Each vector's panel as its bias, its rows in fours, and the rows left over. Vectors of one panel share a slice.
    let mut panels: [(&Row, &[[Row; 4]], &[Row]); NV] = [(&Row([0.0; PANEL]), &[], &[]); NV];
    unrolled::<NV>(
        #[inline(always)]
        |v| {
            let rows = &strip.panels[v / per_panel * (k + 1)..][..k + 1];
            let (fours, rest) = rows[1..].as_chunks();
            panels[v] = (&rows[0], &fours[..k / 4], &rest[..k % 4]);
        },
    );
    let mut x: [(&[[f32; 4]], &[f32]); MR] = [(&[], &[]); MR];
    unrolled::<MR>(
        #[inline(always)]
        |m| {
            let (fours, rest) = strip.x.get(pixel + m, k).as_chunks();
            x[m] = (&fours[..k / 4], &rest[..k % 4]);
        },
    );

    let mut acc = [[simd.splat(0.0); NV]; MR];
    for_each::<MR, NV>(
        #[inline(always)]
        |m, v| acc[m][v] = simd.load(panels[v].0, v % per_panel),
    );
    for four in 0..k / 4 {
        step::<L, 0, MR, NV>(simd, &mut acc, &x, &panels, four);
        step::<L, 1, MR, NV>(simd, &mut acc, &x, &panels, four);
        step::<L, 2, MR, NV>(simd, &mut acc, &x, &panels, four);
        step::<L, 3, MR, NV>(simd, &mut acc, &x, &panels, four);
    }
    for rest in 0..k % 4 {
        for_each::<MR, NV>(
            #[inline(always)]
            |m, v| {
                let weights = simd.load(&panels[v].2[rest], v % per_panel);
                acc[m][v] = simd.mul_add(simd.splat(x[m].1[rest]), weights, acc[m][v]);
            },
        );
    }

    let channels = strip.out_channels.min(NV * L::LANES);
    let part = |v: usize| v * L::LANES..channels.min((v + 1) * L::LANES);
    if let Some(residual) = &strip.residual {
        for_each::<MR, NV>(
            #[inline(always)]
            |m, v| {
                if let Some(part) = residual.get(pixel + m, channels).get(part(v))
                    && !part.is_empty()
                {
                    acc[m][v] = simd.add(simd.load_first(part), acc[m][v]);
                }
            },
        );
    }
    match strip.activation {
        Activation::Identity => {}
        Activation::Relu => for_each::<MR, NV>(
            #[inline(always)]
            |m, v| acc[m][v] = epilogue::relu(simd, acc[m][v]),
        ),
        Activation::Clamp { min, max } => for_each::<MR, NV>(
            #[inline(always)]
            |m, v| acc[m][v] = epilogue::clamp(simd, acc[m][v], min, max),
        ),
        other => {
            let mut copy = acc;
            epilogue::apply_to_all(simd, other, copy.as_flattened_mut());
            acc = copy;
        }
    }
    for_each::<MR, NV>(
        #[inline(always)]
        |m, v| {
            // SAFETY: this kernel call owns the strip's pixels and channels (`Strip::y`), and holds one row at a time.
            let row = unsafe { strip.y.row_mut(pixel + m, channels) };
            if let Some(part) = row.get_mut(part(v))
                && !part.is_empty()
            {
                simd.store_first(acc[m][v], part);
            }
        },
    );
}

/// One k: value `J` of each pixel's quad times one row of each panel.
///
/// The fences (no instruction, a wall for the compiler's scheduler) keep a load next to its use. Without them it starts
/// loads of later steps early and then runs out of registers.
#[inline(always)]
fn step<L: Lanes, const J: i32, const MR: usize, const NV: usize>(
    simd: L,
    acc: &mut [[L::Vector; NV]; MR],
    x: &[(&[[f32; 4]], &[f32]); MR],
    panels: &[(&Row, &[[Row; 4]], &[Row]); NV],
    four: usize,
) {
    let load = |v: usize| simd.load(&panels[v].1[four][J as usize], v % const { PANEL / L::LANES });
    let mut weights = [simd.splat(0.0); NV];
    unrolled::<NV>(
        #[inline(always)]
        |v| weights[v] = load(v),
    );
    unrolled::<MR>(
        #[inline(always)]
        |m| {
            if const { MR * NV + NV + 1 > L::REGISTERS } {
                weights[NV - 1] = load(NV - 1);
            }
            let quad = simd.quad(&x[m].0[four]);
            unrolled::<NV>(
                #[inline(always)]
                |v| acc[m][v] = simd.pin(simd.mul_add_quad::<J>(quad, weights[v], acc[m][v])),
            );
        },
    );
}

/// Calls `f(m, v)` for all `m < MR` and `v < NV`, unrolled whatever the size of `f`: a loop that stays a loop would index
/// the accumulators by a variable, and they would live in memory.
#[inline(always)]
fn for_each<const MR: usize, const NV: usize>(mut f: impl FnMut(usize, usize)) {
    unrolled::<MR>(
        #[inline(always)]
        |m| {
            unrolled::<NV>(
                #[inline(always)]
                |v| f(m, v),
            )
        },
    );
}

/// `f(0)` to `f(N - 1)`, for `N` up to 16.
#[inline(always)]
fn unrolled<const N: usize>(mut f: impl FnMut(usize)) {
    const { assert!(N <= 16) };
    macro_rules! steps {
        ($($i:literal)*) => { $(if $i < N { f($i) })* };
    }
    steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}
