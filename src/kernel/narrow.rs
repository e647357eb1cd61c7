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

use super::{Lanes, PANEL, Row, Start, Strip, TRANSPOSE_STEPS};
use crate::{
    Activation,
    epilogue::{self, Epilogue, WithActivation},
};
use core::{array, ops::Range};

include!(concat!(env!("OUT_DIR"), "/narrow.rs"));

/// How many groups of pixels are worked on at the same time, so that each hides the latency of the others' chains: two, if there
/// is place in the registers for their accumulators, four columns and a weight, and four where a group has 8 products a k or
/// fewer. With AVX2, 1 channel takes a fifth less time on four groups than on two (2 channels do not), 3 to 5 channels a quarter
/// less on two than on one. Scalar code has nothing to hide that would be worth the instructions.
pub(crate) const fn most_groups<L: Lanes>(f: usize) -> usize {
    if L::LANES == 1 {
        1
    } else if f * L::LANES <= 8 {
        4
    } else if 2 * f + 5 <= L::REGISTERS {
        2
    } else {
        1
    }
}

/// Whether the columns of all groups, and what a transposition needs, fit in the registers as well, so that they share each
/// weight's load. If not, four columns of the one are followed by four of the next.
const fn shares_weights<L: Lanes>(f: usize, groups: usize) -> bool {
    groups * (f + 5) < L::REGISTERS
}

/// Whether the loads and shuffles for the next four k's are spread between the multiply-adds of these. In a row, shuffles hold
/// up the multiply-adds that share a pipe with them: F = 8 reaches 83 % of Zen 5's peak in place of 68 %. Fewer than 5 channels
/// are bound by the loads; with more than 9, the next columns do not fit in the registers.
pub(crate) const fn loads_ahead<L: Lanes>(f: usize, groups: usize) -> bool {
    f > 4 && groups * (f + 6) < L::REGISTERS && f + 10 < L::REGISTERS
}

/// Runs the strip, which has F output channels.
fn kernel<L: Lanes, const F: usize>(simd: L, strip: &Strip<'_>) {
    struct Down<'a, L, const F: usize>(L, &'a Strip<'a>);
    impl<L: Lanes, const F: usize> pulp::NullaryFnOnce for Down<'_, L, F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, original) = self;
            // A copy that is never passed out of line: no store of an output can change it, so that it stays in registers.
            let strip = *original;
            let mut line = strip.start(0, 0);
            for _ in 0..strip.lines() {
                let mut start = line;
                macro_rules! down {
                    ($groups:literal) => {
                        if const { most_groups::<L>(F) >= $groups } {
                            while strip.pixels() - start.pixel >= $groups * L::LANES {
                                // SAFETY: as many groups are inside, and F was asserted.
                                unsafe { groups::<L, F, $groups>(simd, &strip, original, start, L::LANES) };
                                start = strip.behind(start, $groups * L::LANES);
                            }
                        }
                    };
                }
                down!(4);
                down!(2);
                while start.pixel < strip.pixels() {
                    let rest = strip.pixels() - start.pixel;
                    if rest < L::LANES {
                        // SAFETY: as many pixels are inside, and F was asserted.
                        unsafe { groups::<L, F, 1>(simd, &strip, original, start, rest) };
                    } else {
                        // SAFETY: as above.
                        unsafe { groups::<L, F, 1>(simd, &strip, original, start, L::LANES) };
                    }
                    start = strip.behind(start, L::LANES);
                }
                line = strip.next_line(line);
            }
        }
    }
    assert_eq!(strip.out_channels(), F, "the kernel is made for F output channels");
    simd.vectorize(Down::<L, F>(simd, strip));
}

/// `G` groups of `count` pixels each, 1 to LANES, from the start on. Lanes beyond repeat a group's last pixel and are not
/// stored. `strip` is a copy of `original`.
///
/// # Safety
/// The strip has these pixels, and F output channels.
#[inline(always)]
unsafe fn groups<L: Lanes, const F: usize, const G: usize>(
    simd: L,
    strip: &Strip<'_>,
    original: &Strip<'_>,
    start: Start,
    count: usize,
) {
    debug_assert!((1..=L::LANES).contains(&count) && strip.contains(start, (G - 1) * L::LANES + count));
    debug_assert_eq!(strip.out_channels(), F);
    let k = strip.in_channels();
    // SAFETY: the strip has output channels, and so a panel.
    let panel = unsafe { strip.panel(start, 0) };
    let steps = strip.steps();
    let mut first = [start.input; G];
    unrolled! { for g in 0..G, at most 4 { first[g] = strip.step(start.input, g * L::LANES); } }
    // From a place in a group's first pixel to the same in lane `l`'s.
    let lane = |place: *const f32, l: usize| {
        if count < L::LANES { strip.step(place, l.min(count - 1)) } else { steps.from(place, l) }
    };
    // SAFETY: `place` is that of one of K / 4 quads of a group's first pixel, lane `l`'s pixel is inside the strip, by this
    // function's contract, and `Strip::new` has checked that K values of each are there.
    let quad = |place, l| unsafe { &*lane(place, l).cast::<[f32; 4]>() };

    let mut acc = [[simd.splat(0.0); F]; G];
    unrolled! { for g in 0..G, at most 4 {
        unrolled! { for f in 0..F, at most 16 { acc[g][f] = simd.splat(panel.bias.0[f]); } }
    }}
    let ahead = const { loads_ahead::<L>(F, G) };
    let mut columns = [[simd.splat(0.0); 4]; G];
    if ahead && k >= 4 {
        columns = transposed(simd, &first, quad);
    }
    let following = strip.ahead(start, G * L::LANES);
    for four in 0..k / 4 {
        // As many values of the next groups as this step works on. Before all else: behind the products, the branch made the
        // compiler spill vectors.
        if !following.is_null() {
            for line in (0..4 * G * L::LANES).step_by(PANEL) {
                simd.prefetch(following.wrapping_add(four * 4 * G * L::LANES + line));
            }
        }
        // The last four once more, rather than a second copy of the loop's body.
        let four_to_load = if ahead { (four + 1).min(k / 4 - 1) } else { four };
        let mut place = first;
        unrolled! { for g in 0..G, at most 4 { place[g] = opaque!(first[g].wrapping_add(4 * four_to_load)); } }
        let weight = |j: usize, f: usize| simd.splat(panel.fours[four][j].0[f]);
        if ahead {
            let mut next = columns;
            multiply(
                simd,
                &mut acc,
                &columns,
                weight,
                #[inline(always)]
                |now| {
                    // Before product `i * products / steps`, step i.
                    let (steps, products) = const { (G * TRANSPOSE_STEPS, 4 * F) };
                    let i = steps - (products - now) * steps / products;
                    let (g, step) = (i / TRANSPOSE_STEPS, i % TRANSPOSE_STEPS);
                    if i < steps && i * products / steps == now {
                        simd.transpose_step(
                            step,
                            #[inline(always)]
                            |l| quad(place[g], l),
                            &mut next[g],
                        );
                        pin_step(simd, step, &mut next[g]);
                    }
                },
            );
            columns = next;
        } else if const { shares_weights::<L>(F, G) } {
            columns = transposed(simd, &place, quad);
            multiply(
                simd,
                &mut acc,
                &columns,
                weight,
                #[inline(always)]
                |_| {},
            );
        } else {
            // For one channel, the weights have place in the registers.
            let mut held = [simd.splat(0.0); 4];
            if F == 1 {
                unrolled! { for j in 0..4, at most 4 { held[j] = simd.pin(weight(j, 0)); } }
            }
            unrolled! { for g in 0..G, at most 4 {
                multiply(
                    simd,
                    array::from_mut(&mut acc[g]),
                    &transposed(simd, &[place[g]], quad),
                    #[inline(always)]
                    |j, f| if const { F == 1 } { held[j] } else { weight(j, f) },
                    #[inline(always)]
                    |_| {},
                );
            }}
        }
    }
    for rest in 0..k % 4 {
        unrolled! { for g in 0..G, at most 4 {
            let column = gather(
                simd,
                #[inline(always)]
                // SAFETY: as for a quad; it is one of the K % 4 values behind them.
                |l| unsafe { *lane(first[g].wrapping_add(k - k % 4 + rest), l) },
            );
            unrolled! { for f in 0..F, at most 16 {
                acc[g][f] = simd.mul_add(column, simd.splat(panel.rest[rest].0[f]), acc[g][f]);
            }}
        }}
    }

    let epilogue = strip.epilogue();
    if strip.has_residual() || !epilogue.channels.is_empty() || !epilogue.is_short(false) {
        // A copy, so that the accumulators need not live in memory.
        let copy = acc;
        // SAFETY: this function's contract.
        return unsafe { finish_columns(simd, original, ([start.line, start.pixel], count), copy.as_flattened(), F) };
    }
    match epilogue.activation {
        Activation::Relu => unrolled! { for g in 0..G, at most 4 {
            unrolled! { for f in 0..F, at most 16 { acc[g][f] = epilogue::relu(simd, acc[g][f]); } }
        }},
        Activation::Clamp { min, max } => unrolled! { for g in 0..G, at most 4 {
            unrolled! { for f in 0..F, at most 16 { acc[g][f] = epilogue::clamp(simd, acc[g][f], min, max); } }
        }},
        activation => debug_assert_eq!(activation, Activation::Identity, "the others are not short, or by channel"),
    }
    unrolled! { for g in 0..G, at most 4 {
        if const { F == 1 } && strip.is_contiguous() {
            // SAFETY: `count` pixels are inside the contiguous strip; the slice ends with this statement.
            simd.store_first(acc[g][0], unsafe { strip.contiguous_output(start, g * L::LANES, count) });
        } else {
            let mut columns = [Row([0.0; PANEL]); F];
            unrolled! { for f in 0..F, at most 16 { simd.store(acc[g][f], &mut columns[f], 0); } }
            // SAFETY: this function's contract.
            unsafe { store_columns(simd, strip, start, g * L::LANES..g * L::LANES + count, &columns) };
        }
    }}
}

/// Stores what stands in a row for each output channel: back to a vector for each pixel, by the transposition of the input.
///
/// # Safety
/// The strip has these pixels, counted from the start on, and as many output channels as there are columns.
#[inline(always)]
unsafe fn store_columns<L: Lanes>(simd: L, strip: &Strip<'_>, start: Start, pixels: Range<usize>, columns: &[Row]) {
    debug_assert!(strip.contains(start, pixels.end) && columns.len() <= strip.out_channels());
    for channel in (0..columns.len()).step_by(L::LANES) {
        for l in (0..pixels.len()).step_by(4) {
            let rows = simd.transpose(
                #[inline(always)]
                |c| &columns[(channel + c).min(columns.len() - 1)].0.as_chunks().0[l / 4],
            );
            for (row, m) in rows.into_iter().zip(pixels.start + l..pixels.end) {
                // SAFETY: this function's contract; the slice ends with this round.
                let out = unsafe { strip.output(start, m, channel..columns.len().min(channel + L::LANES)) };
                simd.store_first(row, out);
            }
        }
    }
}

/// What follows the sums that are in memory, `f` vectors for each group of `count` pixels, and their store: out of line, once
/// for all narrow kernels of an ISA. Cold, so that the compiler spares the registers of the k loop rather than of this call.
///
/// # Safety
/// The strip has these pixels, and `f` output channels.
#[cold]
#[inline(never)]
unsafe fn finish_columns<L: Lanes>(
    simd: L,
    strip: &Strip<'_>,
    ([line, pixel], count): ([usize; 2], usize),
    sums: &[L::Vector],
    f: usize,
) {
    let start = strip.start(line, pixel);
    debug_assert!(sums.len().is_multiple_of(f) && f <= strip.out_channels());
    struct Groups<'a, L: Lanes> {
        simd: L,
        strip: &'a Strip<'a>,
        start: Start,
        count: usize,
        sums: &'a [L::Vector],
        f: usize,
    }
    impl<L: Lanes> pulp::NullaryFnOnce for Groups<'_, L> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self { simd, strip, start, count, sums, f } = self;
            let (epilogue, has_residual) = (strip.epilogue(), strip.has_residual());
            for (first, sums) in (0..).step_by(L::LANES).zip(sums.chunks_exact(f)) {
                let mut columns = [Row([0.0; PANEL]); PANEL];
                if has_residual {
                    for (channel, column) in columns.iter_mut().enumerate().take(f) {
                        let residual = gather(
                            simd,
                            #[inline(always)]
                            // SAFETY: inside the strip, by the caller's contract, and it has a residual.
                            |l| unsafe { strip.residual(start, first + l.min(count - 1), channel..f) }[0],
                        );
                        simd.store(residual, column, 0);
                    }
                }
                epilogue::with_activation(
                    simd,
                    epilogue.activation,
                    Columns { simd, epilogue, has_residual, sums, columns: &mut columns },
                );
                if strip.is_contiguous() {
                    // SAFETY: `count` pixels are inside the contiguous strip; the slice ends with this statement.
                    simd.store_first(simd.load(&columns[0], 0), unsafe {
                        strip.contiguous_output(start, first, count)
                    });
                } else {
                    // SAFETY: the caller's contract; residuals of these pixels were read.
                    unsafe { store_columns(simd, strip, start, first..first + count, &columns[..f]) };
                }
            }
        }
    }
    /// The sums of a group, a vector a channel, and its residual, which the output replaces. Nothing else, for this is compiled
    /// anew for each activation.
    struct Columns<'a, L: Lanes> {
        simd: L,
        epilogue: Epilogue<'a>,
        has_residual: bool,
        sums: &'a [L::Vector],
        columns: &'a mut [Row; PANEL],
    }
    impl<L: Lanes> WithActivation<L> for Columns<'_, L> {
        type Output = ();

        #[inline(always)]
        fn call(self, activation: impl Fn(L::Vector, L::Vector) -> L::Vector) {
            let Self { simd, epilogue, has_residual, sums, columns } = self;
            for (channel, (sum, column)) in sums.iter().zip(columns).enumerate() {
                let of_channel = epilogue.of_channels(
                    simd,
                    0,
                    #[inline(always)]
                    |row| simd.splat(row.0[channel]),
                );
                let residual = (has_residual.then(|| simd.load(column, 0)), epilogue.residual);
                simd.store(epilogue::finish(simd, *sum, of_channel, residual, &activation), column, 0);
            }
        }
    }
    simd.vectorize(Groups { simd, strip, start, count, sums, f });
}

/// Four columns of each group, transposed one group after the other; `quad` gives those of a lane from the place of the first.
#[inline(always)]
fn transposed<'a, L: Lanes, const G: usize>(
    simd: L,
    place: &[*const f32; G],
    quad: impl Fn(*const f32, usize) -> &'a [f32; 4] + Copy,
) -> [[L::Vector; 4]; G] {
    let mut columns = [[simd.splat(0.0); 4]; G];
    unrolled! { for g in 0..G, at most 4 {
        unrolled! { for step in 0..TRANSPOSE_STEPS, at most 8 {
            simd.transpose_step(
                step,
                #[inline(always)]
                |l| quad(place[g], l),
                &mut columns[g],
            );
            pin_step(simd, step, &mut columns[g]);
        }}
    }}
    columns
}

/// Keeps a step where it is: what the compiler moves about takes more registers than there are.
#[inline(always)]
fn pin_step<L: Lanes>(simd: L, step: usize, columns: &mut [L::Vector; 4]) {
    if step < 4 {
        columns[step] = simd.pin(columns[step]);
    } else {
        unrolled! { for j in 0..4, at most 4 { columns[j] = simd.pin(columns[j]); } }
    }
}

/// Multiplies four columns of each group by the weights of their k's, and calls `between(i)` before the i-th product.
#[inline(always)]
fn multiply<L: Lanes, const F: usize, const G: usize>(
    simd: L,
    acc: &mut [[L::Vector; F]; G],
    columns: &[[L::Vector; 4]; G],
    weight: impl Fn(usize, usize) -> L::Vector + Copy,
    mut between: impl FnMut(usize),
) {
    unrolled! { for j in 0..4, at most 4 {
        unrolled! { for f in 0..F, at most 16 {
            between(j * F + f);
            let weight = weight(j, f);
            unrolled! { for g in 0..G, at most 4 { acc[g][f] = simd.pin(simd.mul_add(columns[g][j], weight, acc[g][f])); } }
        }}
    }}
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
