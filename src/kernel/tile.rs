//! The one micro-kernel: an `MR` x `NV` register tile, run down the pixels of a strip.
//!
//! ```text
//! for each tile of MR pixels:
//!     acc[m][v] = bias[v]
//!     for k in 0..K:
//!         acc[m][v] = fma(x[m][k], w[k][v], acc[m][v])
//!     y[m][v] = what follows the sum acc[m][v]
//! ```
//!
//! Departures from these loops, each for a reason:
//!
//! 1. k runs in steps of four. NEON multiplies by a lane of a register, so it wants four values of a pixel in one
//!    load, and AVX-512 does the like for some of the pixels; else the four share one address computation.
//! 2. All sizes inside the k loop are constants or the lengths of fixed-size chunks, so no bounds check is left there.
//! 3. Each accumulator is pinned after its multiply-add (no instruction, a wall for the compiler's scheduler). Without that
//!    loads of later steps start early, and the tile no longer fits in the registers.
//! 4. The next tile's pixels are prefetched, where the plan says so. Where they come from memory or a far cache, a hardware
//!    prefetcher starts anew for each pixel, and a quarter of the time was lost. Not by tiles of one pixel: there is no next one,
//!    and its panels are all that has to be fetched; a prefetch every four k's took 4 % of the time.
//! 5. Where few k's go by, stores wait for their cache lines until nothing else goes on. There tiles run across the output
//!    channels before they go down the pixels, as far as panels stay in L1: their stores follow each other in memory, and the
//!    hardware fetches the next lines meanwhile. On Sapphire Rapids layers of up to 48 input channels take 10 to 20 % less time
//!    so where their outputs were not in the cache, 28x28x8 to 288 40 %. So do the tiles of pixels that are no more than one
//!    tile, whatever K is, for each panel is read once: between two calls none is fetched. 4 pixels of 16 to 1008 channels take
//!    half the time, one pixel of 32 to 128 four fifths.
//! 6. Where accumulators and weights take every register, the pixels' values are held instead, if they are fewer: 3 x 4 with
//!    AVX2, which takes 7 loads in place of 9. On Sapphire Rapids it is 3 % faster where panels come from L1, and 3 to 4 %
//!    slower where they come from L2. If not, the last weights are loaded anew for each pixel: a memory operand of the
//!    multiply-add.
//! 7. One vector wide, AVX-512 multiplies by a pixel's value that the multiply-add loads itself. Where the address of such an
//!    instruction has an index, Intel's cores split it in two and lose a tenth: there each pixel has a pointer of its own, and
//!    a tile no more pixels than there are registers for them. With 11 pixels 14x14x480, 28x28x192 and 112x112x32 to 16 channels
//!    gain 1 % over 14 of which three have an index, and 3 to 8 % where another thread runs on the same core.
//! 8. A tile's addresses are sums from tile to tile, not products of its first pixel. On Intel's cores a product needs a port
//!    that AVX2's multiply-adds keep busy, and they are older: it waited for the end of the tile before, and the first loads of
//!    the tile for it. 16 channels to 96 gain a fifth with AVX2.
//! 9. What stands outside the k loop, few multiply-adds hide: its instructions count. So a tile of several pixels calls nothing, for
//!    registers would be saved around the call also where none is made: [`run_and_finish`] does what is not done in registers.
//!    And what follows the sums of most tiles, one comparison finds. On Cascade Lake 144 pixels of 16 to 128 channels take 1 to 4 %
//!    less time so, with AVX2 2 to 6 %.
//! 10. Where the last vector of output channels is at most half full, two pixels may share it. `BLENDED`: its lower half is the
//!     first one's, its upper half the second one's, and the weights stand in both. `PAIRED`: of three vectors for both, even
//!     lanes are the first one's, odd lanes the second one's, and each weight stands twice. The two pixels' values are
//!     interleaved in memory, 16 k's at a time, from where one load broadcasts both: on Intel's cores a blend takes a
//!     multiply-add's place, and loads do not, not even those that put every second weight twice.

use super::{
    BLENDED, Lanes, Last, Numbers, PAIRED, PANEL, Row, Start, Strip, TileKernel, WHOLE,
    finish::{SUMS, Usual, finish_in_registers, finish_rows, run_and_finish},
    pair_at,
};
use crate::output::{OutputPixels, OutputValues};
use core::array;

include!(concat!(env!("OUT_DIR"), "/tiles.rs"));

/// Fours of k's among as many k's as are interleaved at a time.
const FOURS: usize = PANEL / 4;

impl<L: Lanes> TileKernel<L> {
    /// Of tiles of `MR` pixels by `NV` vectors, the last of them shared or not, which hold quads of `QUADS` of their pixels.
    pub const fn new<const MR: usize, const NV: usize, const QUADS: usize, const LAST: u8>() -> Self {
        const { assert!(MR * width::<L>(NV, LAST).div_ceil(PANEL) <= SUMS) }
        let goes_across = Self::goes_across(MR, NV) && LAST == WHOLE;
        let across = L::run_tiles::<MR, NV, QUADS, LAST, true>;
        Self {
            // Of a single pixel, one kernel does both: it has no next pixel to be fast for.
            down: if goes_across && MR == 1 { across } else { L::run_tiles::<MR, NV, QUADS, LAST, false> },
            across: if goes_across { Some(across) } else { None },
            size: [MR, width::<L>(NV, LAST)],
            least: least::<L>(MR, NV, LAST),
            quads: QUADS,
            paired: LAST == PAIRED,
        }
    }

    /// Runs so many tiles down each line of a strip as wide as a tile, or less; where it [`runs_across`](Self::runs_across), also of
    /// one that is several tiles wide.
    pub fn run(&self, simd: L, strip: &Strip<'_>, tiles: usize) {
        let [mr, width] = self.size;
        let is_wider = strip.out_channels() > width;
        assert!(!is_wider || self.runs_across(), "the strip is as wide as its tiles");
        let kernel = if is_wider { self.across.unwrap_or(self.down) } else { self.down };
        // Of a single pixel, the kernel calls who finishes the rest: its k loop waits for panels, not for registers.
        let finishes_all = L::LANES == 1 || mr == 1;
        // A small run would feel the division.
        let is_full = || strip.out_channels() == width || (strip.out_channels() - 1) % width + 1 >= self.least;
        if finishes_all || strip.is_short() && is_full() {
            kernel(simd, strip, tiles);
        } else {
            run_and_finish(simd, kernel, self.size, strip, tiles);
        }
    }

    /// Whether there is a kernel for strips that are several tiles wide.
    pub fn runs_across(&self) -> bool {
        self.across.is_some()
    }

    /// Whether there is a kernel that runs such tiles across the output channels, from one panel to another. Of several pixels
    /// they are up to 8 x 48 and 6 x 64 with AVX-512, 3 x 32 with AVX2. On Sapphire Rapids 4 x 48 takes 3 % longer than 8 x 48
    /// to an output in a cache, and 2 % less to others.
    const fn goes_across(mr: usize, nv: usize) -> bool {
        let is_wide = L::LANES >= PANEL / 2 && nv >= 3 && mr * nv <= 24;
        (nv * L::LANES).is_multiple_of(PANEL) && (mr == 1 || is_wide)
    }

    /// Whether tiles so many vectors wide that are not full are finished in registers too: where masks store a part of a vector,
    /// and it is the only one. More would take more code than they are worth.
    pub const fn finishes_parts(nv: usize) -> bool {
        nv == 1 && L::LANES == PANEL
    }
}

/// A method of the ISA in place of a function: the compiler makes one unit of what belongs to a module or a type, and works on
/// several units at a time. With the tiles of all ISAs in one, a build took a third longer on two cores.
trait RunTiles: Lanes {
    /// Runs `tiles` tiles down each line of the strip, from its first pixel on. `ACROSS`: as many tiles, side by side, for each, as
    /// the strip is wide; else it is as wide as a tile. The last one has as few output channels as [`least`] says, or more, and what
    /// follows the sums of tiles of several pixels is short.
    fn run_tiles<const MR: usize, const NV: usize, const QUADS: usize, const LAST: u8, const ACROSS: bool>(
        self,
        strip: &Strip<'_>,
        tiles: usize,
    ) {
        assert!(tiles.checked_mul(MR).is_some_and(|pixels| pixels <= strip.pixels()), "tiles lie inside a line");
        let width = const { width::<Self>(NV, LAST) };
        let before_last = if ACROSS { (strip.out_channels() - 1) / width * width } else { 0 };
        let is_as_wide = const { least::<Self>(MR, NV, LAST) }..=width;
        assert!(is_as_wide.contains(&(strip.out_channels() - before_last)), "the strip is as wide as its tiles");
        debug_assert!(MR == 1 || strip.is_short(), "what follows the sums is short");
        self.vectorize(Down::<Self, MR, NV, QUADS, LAST, ACROSS>(self, strip, tiles));
    }
}

impl<L: Lanes> RunTiles for L {}

/// What [`RunTiles::run_tiles`] runs, once its assertions hold. A type, not a closure: that is called through a shim which is not
/// inlined for certain, and what is not inlined is not compiled for the ISA.
struct Down<'a, L, const MR: usize, const NV: usize, const QUADS: usize, const LAST: u8, const ACROSS: bool>(
    L,
    &'a Strip<'a>,
    usize,
);

impl<L: Lanes, const MR: usize, const NV: usize, const QUADS: usize, const LAST: u8, const ACROSS: bool>
    pulp::NullaryFnOnce for Down<'_, L, MR, NV, QUADS, LAST, ACROSS>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        // A copy that is never passed out of line: no store of an output can change it, so that it stays in registers.
        let strip = *self.1;
        let side_by_side = if ACROSS { strip.out_channels().div_ceil(const { NV * L::LANES }) } else { 1 };
        let usual = Usual::of::<L>(&strip);
        let mut line = strip.start(0, 0);
        for _ in 0..strip.lines() {
            let mut start = line;
            for _ in 0..self.2 {
                let mut at = start;
                for _ in 0..side_by_side {
                    // SAFETY: asserted in `run_tiles`.
                    unsafe { tile::<L, MR, NV, QUADS, LAST>(self.0, &strip, self.1, at, usual) };
                    if ACROSS {
                        at = strip.beside(at, const { NV * L::LANES / PANEL });
                    }
                }
                start = strip.behind(start, MR);
            }
            line = strip.next_line(line);
        }
    }
}

/// `strip` is a copy of `original`.
///
/// # Safety
/// The strip has `MR` pixels and the [`least`] output channels of a tile from the start on.
#[inline(always)]
unsafe fn tile<L: Lanes, const MR: usize, const NV: usize, const QUADS: usize, const LAST: u8>(
    simd: L,
    strip: &Strip<'_>,
    original: &Strip<'_>,
    start: Start,
    usual: usize,
) {
    debug_assert!(strip.contains(start, MR));
    let k = strip.in_channels();
    let per_panel = const { PANEL / L::LANES };

    debug_assert!(strip.out_channels_from(start) >= const { least::<L>(MR, NV, LAST) });
    // SAFETY: this function's contract.
    let mut panels = [unsafe { strip.panel(start, 0) }; NV];
    unrolled! { for v in 0..NV, at most 4 {
        // SAFETY: this function's contract.
        panels[v] = unsafe { strip.panel(start, v / per_panel) };
    }}
    let steps = strip.steps();
    // Those that are not used take no instruction.
    let mut places: [_; MR] = array::from_fn(|m| strip.step(start.input, m));
    let pixel = |places: &[_; MR], m: usize| {
        if const { has_pointers::<L>(NV, QUADS) } { places[m] } else { steps.from(places[0], m) }
    };

    let mut acc = [[simd.splat(0.0); NV]; MR];
    unrolled! { for m in 0..MR, at most 16 {
        unrolled! { for v in 0..NV, at most 4 { acc[m][v] = load::<L, MR, NV, LAST>(simd, panels[v].bias, [m, v]); } }
    }}
    let mut ahead = strip.ahead(start, MR);
    let mut pairs = [[Row([0.0; PANEL]); 2]; MR];
    // Where the pairs of four k's stand among a panel's. Opaque, or the compiler would keep them in registers, and shuffle.
    let place_of_pairs =
        |pairs: &[[Row; 2]; MR], four: usize| opaque!(pairs.as_ptr().cast::<[f32; 2]>().wrapping_add(four % FOURS * 2));
    // SAFETY: it is called with such a place, a pixel and one of the four, and nobody writes to the pairs meanwhile.
    let pair = |place: *const [f32; 2], m, j| unsafe { &*place.wrapping_add(m / 2 * PANEL + pair_at(j) / 2) };
    // All at once, but for interleaved pixels.
    let fours = k / 4;
    let mut end = 0;
    while end < fours {
        let first = end;
        end = fours;
        if Last::<LAST>::IS_PAIRED {
            end = end.min(first + FOURS);
            // SAFETY: this function's contract.
            unsafe { interleave(simd, strip, start, 4 * first, &mut pairs) };
        }
        for four in first..end {
            let place = place_of_pairs(&pairs, four);
            // As many values of the next tile as this step works on.
            if MR > 1 && !ahead.is_null() {
                for line in (0..4 * MR).step_by(PANEL) {
                    simd.prefetch(ahead.wrapping_add(line));
                }
                ahead = opaque!(ahead.wrapping_add(4 * MR));
            }
            // SAFETY: the places are those of one of K / 4 quads of each pixel, the `MR` pixels are inside the line, by this
            // function's contract, and `Strip::new` has checked that K values of each are there.
            let quad = |m: usize| unsafe { &*pixel(&places, m).cast::<[f32; 4]>() };
            let mut held = [None; MR];
            unrolled! { for m in 0..MR, at most 16 {
                if Numbers::<m, QUADS>::LESS {
                    held[m] = Some(simd.quad(quad(m)));
                }
            }}
            macro_rules! step {
                ($j:literal) => {
                    step::<L, $j, MR, NV, QUADS, LAST, true>(
                        simd,
                        &mut acc,
                        |m| quad(m)[$j],
                        |m| pair(place, m, $j),
                        &held,
                        |v| &panels[v].fours[four][$j],
                    )
                };
            }
            step!(0);
            step!(1);
            step!(2);
            step!(3);
            unrolled! { for m in 0..MR, at most 16 { places[m] = opaque!(places[m].wrapping_add(4)); } }
            align_end!();
        }
    }
    if Last::<LAST>::IS_PAIRED && (1..4).contains(&(k % PANEL)) {
        // SAFETY: this function's contract.
        unsafe { interleave(simd, strip, start, k - k % 4, &mut pairs) };
    }
    let place = place_of_pairs(&pairs, k / 4);
    for rest in 0..k % 4 {
        // SAFETY: as for a quad; it is one of the K % 4 values behind them.
        let value = |m: usize| unsafe { *pixel(&places, m).wrapping_add(rest) };
        step::<L, 0, MR, NV, 0, LAST, false>(
            simd,
            &mut acc,
            value,
            |m| pair(place, m, rest),
            &[None; MR],
            |v| &panels[v].rest[rest],
        );
    }
    unrolled! { for m in 0..MR, at most 16 {
        // The first of two holds both.
        let first = m & !1;
        if Last::<LAST>::IS_BLENDED && m % 2 == 1 {
            acc[m][NV - 1] = simd.upper_half(acc[first][NV - 1]);
        } else if Last::<LAST>::IS_PAIRED && m % 2 == 1 {
            let (even, odd, sums) = (acc[first][0], acc[m][0], acc[first][NV - 1]);
            acc[first][0] = simd.every_second_of_both(even, odd, false);
            acc[first][NV - 1] = simd.every_second(sums, false);
            acc[m][0] = simd.every_second_of_both(even, odd, true);
            acc[m][NV - 1] = simd.every_second(sums, true);
        }
    }}

    let all = const { width::<L>(NV, LAST) };
    let channels = if const { least::<L>(MR, NV, LAST) < width::<L>(NV, LAST) } {
        all.min(strip.out_channels_from(start))
    } else {
        all
    };
    let is_short = const { MR > 1 } || strip.is_short();
    if channels == all && is_short {
        // SAFETY: this function's contract.
        unsafe { finish_in_registers::<L, MR, NV, LAST>(simd, strip, start, acc, all, usual) };
    } else if const { TileKernel::<L>::finishes_parts(NV) } && is_short {
        let channels = channels.min(const { L::LANES - 1 });
        // SAFETY: this function's contract.
        unsafe { finish_in_registers::<L, MR, NV, LAST>(simd, strip, start, acc, channels, usual) };
    } else if const { MR == 1 } {
        let mut sums = [Row([0.0; PANEL]); 4];
        unrolled! { for v in 0..NV, at most 4 { simd.store(acc[0][v], &mut sums[v / per_panel], v % per_panel); } }
        let values = OutputValues::new(bytemuck::cast_slice_mut(&mut sums));
        // SAFETY: this function's contract, and the sums are its own.
        unsafe { finish_rows(simd, original, start, OutputPixels { values, stride: 0, line_stride: 0 }, 1, channels) };
    }
}

/// Interleaves the values of each two pixels of a tile, of a last one with itself, for up to [`PANEL`] k's from `k` on.
///
/// # Safety
/// The strip has `MR` pixels from the start on.
#[inline(always)]
unsafe fn interleave<L: Lanes, const MR: usize>(
    simd: L,
    strip: &Strip<'_>,
    start: Start,
    k: usize,
    pairs: &mut [[Row; 2]; MR],
) {
    let to = strip.in_channels().min(k + PANEL);
    unrolled! { for m in 0..MR, at most 16 {
        if m % 2 == 1 {
            // SAFETY: this function's contract.
            let [first, second] = [m & !1, m].map(|pixel| unsafe { &strip.input(start, pixel)[k..to] });
            simd.store_pairs(first, second, &mut pairs[m / 2]);
        }
    }}
}

/// What accumulator `v` of pixel `m` takes of a row of its panel, for a pixel or, if it is one of two that share vectors, for both.
#[inline(always)]
fn load<L: Lanes, const MR: usize, const NV: usize, const LAST: u8>(
    simd: L,
    row: &Row,
    [m, v]: [usize; 2],
) -> L::Vector {
    match LAST {
        BLENDED if v == NV - 1 => simd.load_half_twice(row),
        // An odd one out has its vectors for itself.
        PAIRED if m | 1 == MR => simd.load(row, 0),
        PAIRED if v == NV - 1 => simd.load_each_twice(row),
        PAIRED => simd.load_every_second_twice(row, m % 2 == 1),
        _ => simd.load(row, v % const { PANEL / L::LANES }),
    }
}

/// Output channels of a tile.
const fn width<L: Lanes>(nv: usize, last: u8) -> usize {
    nv * L::LANES - if last == WHOLE { 0 } else { L::LANES / 2 }
}

/// The fewest output channels with which a kernel runs such a tile: each of its panels has one.
const fn least<L: Lanes>(mr: usize, nv: usize, last: u8) -> usize {
    if mr == 1 || TileKernel::<L>::finishes_parts(nv) {
        (nv - 1) * L::LANES / PANEL * PANEL + 1
    } else {
        width::<L>(nv, last)
    }
}

/// Whether the accumulators and weights of a tile leave no register for a pixel's value.
const fn takes_every_register<L: Lanes>(mr: usize, nv: usize) -> bool {
    mr * nv + nv + 1 > L::REGISTERS
}

/// Whether a tile has a pointer to each pixel, or to the first alone.
const fn has_pointers<L: Lanes>(nv: usize, quads: usize) -> bool {
    nv == 1 && quads == 0 && L::LANES == PANEL
}

/// A sum, behind a wall for the compiler's scheduler or not.
#[inline(always)]
fn pinned<L: Lanes, const PIN: bool>(simd: L, sum: L::Vector) -> L::Vector {
    if PIN { simd.pin(sum) } else { sum }
}

/// One k: its value of each pixel times its row of each vector's panel. The first pixels' quads are held in registers, and it
/// is their `J`-th value; where two pixels' values are interleaved, it is one of a `pair`. Accumulators are pinned in the loop
/// over fours, not in the one over the k's that are left: pins there made the compiler move accumulators in the first loop.
#[inline(always)]
fn step<
    'a,
    L: Lanes,
    const J: i32,
    const MR: usize,
    const NV: usize,
    const QUADS: usize,
    const LAST: u8,
    const PIN: bool,
>(
    simd: L,
    acc: &mut [[L::Vector; NV]; MR],
    value: impl Fn(usize) -> f32 + Copy,
    pair: impl Fn(usize) -> &'a [f32; 2] + Copy,
    held: &[Option<L::Quad>; MR],
    row: impl Fn(usize) -> &'a Row + Copy,
) {
    if Last::<LAST>::IS_PAIRED {
        return step_of_pairs::<L, MR, NV, PIN>(simd, acc, value, pair, row);
    }
    let load = |v: usize| load::<L, MR, NV, LAST>(simd, row(v), [0, v]);
    if !Last::<LAST>::IS_SHARED && const { MR < NV && takes_every_register::<L>(MR, NV) } {
        let mut x = [simd.splat(0.0); MR];
        unrolled! { for m in 0..MR, at most 16 { x[m] = simd.splat(value(m)); } }
        unrolled! { for v in 0..NV, at most 4 {
            let weights = load(v);
            unrolled! { for m in 0..MR, at most 16 {
                acc[m][v] = pinned::<L, PIN>(simd, simd.mul_add(x[m], weights, acc[m][v]));
            }}
        }}
        return;
    }
    let mut weights = [simd.splat(0.0); NV];
    unrolled! { for v in 0..NV, at most 4 { weights[v] = load(v); } }
    // Of each two pixels.
    let mut x = [weights[0]; 2];
    unrolled! { for m in 0..MR, at most 16 {
        if !Last::<LAST>::IS_SHARED && const { takes_every_register::<L>(MR, NV) } {
            weights[NV - 1] = load(NV - 1);
        }
        x[m % 2] = simd.splat(value(m));
        if Last::<LAST>::IS_BLENDED {
            // Or the compiler would load it a second time, to blend from memory.
            x[m % 2] = simd.pin(x[m % 2]);
        }
        unrolled! { for v in 0..NV, at most 4 {
            if Last::<LAST>::IS_BLENDED && v == NV - 1 && m % 2 == 1 {
                let sum = simd.mul_add(simd.blend_halves(x[0], x[1]), weights[v], acc[m & !1][v]);
                acc[m & !1][v] = pinned::<L, PIN>(simd, sum);
            } else if Last::<LAST>::IS_BLENDED && v == NV - 1 && m + 1 < MR {
                // The next pixel multiplies for both.
            } else if Numbers::<0, QUADS>::LESS && let Some(quad) = held[m] {
                acc[m][v] = pinned::<L, PIN>(simd, simd.mul_add_quad::<J>(quad, weights[v], acc[m][v]));
            } else {
                acc[m][v] = pinned::<L, PIN>(simd, simd.mul_add(x[m % 2], weights[v], acc[m][v]));
            }
        }}
    }}
}

/// The same where the values of two pixels are interleaved in memory, from where one load gives both: their 24 channels are three
/// vectors, of which the first and the second pixel's accumulators hold the even channels, the odd ones, and the half panel.
#[inline(always)]
fn step_of_pairs<'a, L: Lanes, const MR: usize, const NV: usize, const PIN: bool>(
    simd: L,
    acc: &mut [[L::Vector; NV]; MR],
    value: impl Fn(usize) -> f32 + Copy,
    pair: impl Fn(usize) -> &'a [f32; 2] + Copy,
    row: impl Fn(usize) -> &'a Row + Copy,
) {
    let load = |m: usize, v: usize| load::<L, MR, NV, PAIRED>(simd, row(v), [m, v]);
    let weights = [load(0, 0), load(1, 0), load(0, 1)];
    macro_rules! multiply_add {
        ($x:expr, $weights:expr, $m:expr, $v:expr) => {
            acc[$m][$v] = pinned::<L, PIN>(simd, simd.mul_add($x, $weights, acc[$m][$v]))
        };
    }
    unrolled! { for m in 0..MR, at most 16 {
        if m % 2 == 1 {
            let x = simd.splat_pair(pair(m));
            multiply_add!(x, weights[0], m & !1, 0);
            multiply_add!(x, weights[1], m, 0);
            multiply_add!(x, weights[2], m & !1, 1);
        } else if m + 1 == MR {
            let x = simd.splat(value(m));
            multiply_add!(x, simd.load(row(0), 0), m, 0);
            multiply_add!(x, simd.load(row(1), 0), m, 1);
        }
    }}
}
