//! What follows a tile's sums, and their stores: in registers where that is short, or else out of line.

use super::{Lanes, Last, PANEL, Start, Strip};
use crate::{
    Activation,
    epilogue::{self, WithActivation},
};
use core::ops::Range;

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
) {
    debug_assert!(strip.contains(start, MR) && channels <= strip.out_channels_from(start));
    if strip.has_residual() {
        unrolled! { for m in 0..MR, at most 16 {
            unrolled! { for v in 0..NV, at most 4 {
                // SAFETY: this function's contract, and there is a residual.
                let residual = unsafe { strip.residual(start, m, part::<L>(v, channels)) };
                acc[m][v] = simd.add(simd.load_first(residual), acc[m][v]);
            }}
        }}
    }
    macro_rules! store {
        ($halved:literal, $activation:expr) => {
            // SAFETY: this function's contract.
            unsafe { store::<L, MR, NV, LAST, $halved>(simd, strip, start, &acc, channels, $activation) }
        };
        ($activation:expr) => {
            if const { L::LANES == PANEL } && strip.halves_stores() {
                store!(true, $activation)
            } else {
                store!(false, $activation)
            }
        };
    }
    match strip.epilogue().activation {
        Activation::Relu => store!(
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

/// [`finish_in_registers`] for other tiles that are not full, and for what takes long: out of line, once for all tiles of an ISA,
/// from sums in memory, `nv` vectors a pixel.
///
/// # Safety
/// The strip has the pixels from the start on for which there are sums, and `channels` output channels.
#[inline(never)]
pub(super) unsafe fn finish_rows<L: Lanes>(
    simd: L,
    strip: &Strip<'_>,
    [line, pixel, panel]: [usize; 3],
    sums: &[L::Vector],
    nv: usize,
    channels: usize,
) {
    let start = strip.beside(strip.start(line, pixel), panel);
    debug_assert!(strip.contains(start, sums.len() / nv) && channels <= strip.out_channels_from(start));
    struct Rows<'a, L: Lanes> {
        simd: L,
        strip: &'a Strip<'a>,
        start: Start,
        sums: &'a [L::Vector],
        nv: usize,
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
            let Self { simd, strip, start, sums, nv, channels } = self;
            let (epilogue, per_panel) = (strip.epilogue(), const { PANEL / L::LANES });
            for v in 0..nv {
                let part = part::<L>(v, channels);
                if part.is_empty() {
                    break;
                }
                let of_channels = epilogue.of_channels(
                    simd,
                    start.panel + v / per_panel,
                    #[inline(always)]
                    |row| simd.load(row, v % per_panel),
                );
                macro_rules! down {
                    ($part:expr) => {
                        for (m, sum) in sums.iter().skip(v).step_by(nv).enumerate() {
                            // SAFETY: the caller's contract, and there is a residual.
                            let residual = strip.has_residual().then(|| unsafe { strip.residual(start, m, $part) });
                            let residual = residual.map(|residual| simd.load_first(residual));
                            let residual = (residual, epilogue.residual);
                            let y = epilogue::finish(simd, *sum, of_channels, residual, &activation);
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
    simd.vectorize(Rows { simd, strip, start, sums, nv, channels });
}
