//! The kernels: what one register tile computes, and the operations it is built from.
//!
//! A tile is `MR` pixels by `NV` vectors of output channels, held in registers:
//!
//! ```text
//!                       panel p            panel p + 1
//!                  +--------------+     +--------------+
//!             bias | b0 ....  b15 |     | b16 ... b31  |    row 0 of a panel
//!            k = 0 | w0 ....  w15 |     | w16 ... w31  |    rows 1..=K: 16 output channels each
//!            k = 1 |              |     |              |
//!              ... |      |       |     |      |       |
//!                  +------|-------+     +------|-------+
//!                         v                    v
//!   x  pixel 0  k -> *  [ acc 0,0 ]          [ acc 0,1 ]     acc = bias;
//!      pixel 1  k -> *  [ acc 1,0 ]          [ acc 1,1 ]     for k ascending: acc = fma(x[k], w[k], acc)
//!      ...
//!      pixel MR-1       [ acc MR-1,0 ]       [ acc MR-1,1 ]  then what follows the sum, and the store
//! ```
//!
//! Lanes run along output channels, so every output is one chain of fused multiply-adds in ascending k, whatever
//! `MR`, `NV` and the vector's width. Where output channels are few, [`narrow`] turns the picture round and runs the lanes
//! along pixels; the chain stays the same.
//!
//! Nothing here knows views or plans: a [`Strip`] is lines of pixels at constant distances from each other, and panels.

/// The same integer or pointer, of which the compiler forgets how it was computed: no instruction.
macro_rules! opaque {
    ($value:expr) => {{
        #[allow(unused_mut, reason = "targets without stable assembly")]
        let mut value = $value;
        #[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"))]
        // SAFETY: no instruction.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) value, options(pure, readonly, nostack, preserves_flags));
        }
        value
    }};
}

/// Where the end of a k loop begins: its counters and jumps, up to 25 bytes, lie within 32 bytes that begin at a multiple of 32,
/// if need be behind instructions that do nothing. Intel's cores from Skylake to Cascade Lake do not keep 32 bytes decoded in
/// which a jump touches the end, and then decode the whole loop anew each time: a tile of 6 x 64 takes a fifth longer so. By
/// chance, three of ten loops did.
macro_rules! align_end {
    () => {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        // SAFETY: no instruction, or some that do nothing.
        unsafe {
            core::arch::asm!(".balign 32, , 25", options(nomem, nostack, preserves_flags));
        }
    };
}

/// `unrolled! { for i in 0..N, at most 16 { .. } }`: the body once for each `i < N`, which is a constant there. N is a constant,
/// or a generic one, of at most 4, 8 or 16.
///
/// A loop that stays a loop would index the accumulators by a variable, and they would live in memory. A macro, because the
/// compiler spent most of its time on inlining closures and on what they hold in memory: so this crate is built with a quarter
/// less work. For the same reason what depends on constants alone is decided by constants, closures that are passed on are
/// `Copy`, which need no code to drop them, and there is one scalar kernel of plain loops. And what asserts for each vector is
/// not inlined where assertions are on: tests would take twice as long to build.
macro_rules! unrolled {
    (for $i:ident in 0..$n:tt, at most 4 $body:block) => { unrolled!(@ $i $n 4 $body 0 1 2 3) };
    (for $i:ident in 0..$n:tt, at most 8 $body:block) => { unrolled!(@ $i $n 8 $body 0 1 2 3 4 5 6 7) };
    (for $i:ident in 0..$n:tt, at most 16 $body:block) => {
        unrolled!(@ $i $n 16 $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident $n:tt $most:literal $body:block $($value:literal)*) => {{
        let () = crate::kernel::Numbers::<$n, $most>::AT_MOST;
        $(if crate::kernel::Numbers::<$value, $n>::LESS {
            #[allow(non_upper_case_globals, dead_code, reason = "the variable of a loop")]
            const $i: usize = $value;
            $body
        })*
    }};
}

/// Comparisons that the compiler makes once for each two numbers, in place of `const { A < B }` in each function.
struct Numbers<const A: usize, const B: usize>;

impl<const A: usize, const B: usize> Numbers<A, B> {
    const LESS: bool = A < B;
    const AT_MOST: () = assert!(A <= B);
}

/// How the last vector of a tile's output channels is shared, which the head of `tile` explains: not at all.
const WHOLE: u8 = 0;
#[allow(dead_code, reason = "AVX-512 alone has such tiles")]
const BLENDED: u8 = 1;
const PAIRED: u8 = 2;

/// The same as conditions that the compiler decides before it looks at what depends on them.
struct Last<const LAST: u8>;

impl<const LAST: u8> Last<LAST> {
    const IS_SHARED: bool = LAST != WHOLE;
    const IS_BLENDED: bool = LAST == BLENDED;
    const IS_PAIRED: bool = LAST == PAIRED;
}

mod finish;
pub(crate) mod narrow;
mod scalar;
mod strip;
mod tile;

cfg_if::cfg_if! {
    if #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
        pub(crate) mod avx2;
        pub(crate) mod avx512;
    } else if #[cfg(target_arch = "aarch64")] {
        pub(crate) mod neon;
    }
}
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod toy;

pub(crate) use scalar::Scalar;
use strip::Start;
pub(crate) use strip::{Pixels, Residual, Strip};

/// Output channels of a panel of packed weights, on every ISA.
pub(crate) const PANEL: usize = 16;

/// One row of a panel: the weights of 16 output channels for one input channel, or their biases.
///
/// A cache line, so that no load of one crosses into a second.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Row(pub [f32; PANEL]);

// SAFETY: zeros are values.
unsafe impl bytemuck::Zeroable for Row {}
// SAFETY: 16 values of any bits fill its 64 bytes.
unsafe impl bytemuck::Pod for Row {}

/// What is given for each channel of a panel besides its weights and its bias.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Channels {
    pub scale: Row,
    pub shift: Row,
    /// Of the activation, below zero.
    pub slope: Row,
}

// SAFETY: zeros are values.
unsafe impl bytemuck::Zeroable for Channels {}
// SAFETY: three rows fill it, one behind the other.
unsafe impl bytemuck::Pod for Channels {}

/// Four that load, the last four that shuffle.
pub(crate) const TRANSPOSE_STEPS: usize = 8;

/// The operations that the kernels and the epilogue need of an ISA, on vectors of `LANES` f32.
///
/// A value of the type is the proof that the CPU has the ISA. Every operation is IEEE 754's on each lane, rounded to
/// nearest, so that all implementations give the same bits.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// f32 values of a vector; divides [`PANEL`].
    const LANES: usize;
    /// Vector registers.
    const REGISTERS: usize;
    type Vector: Copy;
    /// Four consecutive values of one pixel, loaded at once.
    type Quad: Copy;

    /// Runs `f` compiled for the ISA.
    fn vectorize<F: pulp::NullaryFnOnce>(self, f: F) -> F::Output;

    fn splat(self, value: f32) -> Self::Vector;
    /// The `part`-th vector of a row.
    fn load(self, row: &Row, part: usize) -> Self::Vector;
    /// Writes the vector into a row as its `part`-th.
    fn store(self, vector: Self::Vector, row: &mut Row, part: usize);
    /// The first `from.len()` lanes from memory, the others 0; `from` holds 1 to `LANES` values.
    fn load_first(self, from: &[f32]) -> Self::Vector;
    /// Writes the first `to.len()` lanes; `to` holds 1 to `LANES` values.
    fn store_first(self, vector: Self::Vector, to: &mut [f32]);
    /// The same in two stores where they are cheaper, which depends on what else is to do meanwhile.
    #[inline(always)]
    fn store_first_halved(self, vector: Self::Vector, to: &mut [f32]) {
        self.store_first(vector, to);
    }
    /// The first `LANES / 2` values of a row, twice. This and what follows, up to `every_second`, half tiles alone need.
    fn load_half_twice(self, _row: &Row) -> Self::Vector {
        has_no_half_tiles()
    }
    /// The lower half of the one and the upper half of the other.
    fn blend_halves(self, _lower: Self::Vector, _upper: Self::Vector) -> Self::Vector {
        has_no_half_tiles()
    }
    /// The upper half as the lower one; what then is above it, is unspecified.
    fn upper_half(self, _vector: Self::Vector) -> Self::Vector {
        has_no_half_tiles()
    }
    /// Interleaves as many values of two pixels as there are, 1 to [`PANEL`]: those of channel `c` get to the place `pair_at(c)`.
    fn store_pairs(self, _a: &[f32], _b: &[f32], _pairs: &mut [Row; 2]) {
        has_no_half_tiles()
    }
    /// The one value in each even lane, the other in each odd one.
    fn splat_pair(self, _pair: &[f32; 2]) -> Self::Vector {
        has_no_half_tiles()
    }
    /// The first `LANES / 2` values of a row, each twice.
    fn load_each_twice(self, _row: &Row) -> Self::Vector {
        has_no_half_tiles()
    }
    /// The even values of a row, or the odd ones, each twice.
    fn load_every_second_twice(self, _row: &Row, _odd: bool) -> Self::Vector {
        has_no_half_tiles()
    }
    /// The even lanes of both, or the odd ones, in turn.
    fn every_second_of_both(self, _a: Self::Vector, _b: Self::Vector, _odd: bool) -> Self::Vector {
        has_no_half_tiles()
    }
    /// The even lanes, or the odd ones, as the lower half; what then is above it, is unspecified.
    fn every_second(self, _vector: Self::Vector, _odd: bool) -> Self::Vector {
        has_no_half_tiles()
    }
    /// One of the [`TRANSPOSE_STEPS`] that turn four values of each of `LANES` pixels into four vectors: in the end pixel `l`'s
    /// values are lane `l` of the columns. In between they hold what the next steps need.
    fn transpose_step<'a>(self, step: usize, pixel: impl Fn(usize) -> &'a [f32; 4], columns: &mut [Self::Vector; 4]);
    /// All steps.
    #[inline(always)]
    fn transpose<'a>(self, pixel: impl Fn(usize) -> &'a [f32; 4]) -> [Self::Vector; 4] {
        let mut columns = [self.splat(0.0); 4];
        unrolled! { for step in 0..TRANSPOSE_STEPS, at most 8 { self.transpose_step(step, &pixel, &mut columns); } }
        columns
    }

    /// Hints that the cache line of this address will be read or written. No access: any address will do.
    #[inline(always)]
    fn prefetch(self, _address: *const f32) {}

    fn quad(self, values: &[f32; 4]) -> Self::Quad;
    /// `quad[J] * b + c`, rounded once.
    fn mul_add_quad<const J: i32>(self, quad: Self::Quad, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The same vector, in a register, with every load before this done and none after it begun. No instruction: a wall
    /// for the compiler's scheduler.
    fn pin(self, vector: Self::Vector) -> Self::Vector;

    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `if a < b { yes } else { no }`; `no` where either is NaN.
    fn select_less(self, a: Self::Vector, b: Self::Vector, yes: Self::Vector, no: Self::Vector) -> Self::Vector;
    /// `if a < b { a } else { b }`: `b` where either is NaN, and for zeros of either sign.
    fn lesser(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `if a > b { a } else { b }`: `b` where either is NaN, and for zeros of either sign.
    fn greater(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Clears the sign.
    fn abs(self, a: Self::Vector) -> Self::Vector;
    /// `magnitude` with the sign of `sign`.
    fn copy_sign(self, magnitude: Self::Vector, sign: Self::Vector) -> Self::Vector;
    /// The bits of each lane as an integer, shifted left by 23: makes an exponent of a float's low bits.
    fn shift_left_23(self, a: Self::Vector) -> Self::Vector;

    /// The kernels of tiles that are `nv` vectors wide, 1 to 4: for 1, 2, 3 and so on pixels a tile. Those for Intel's
    /// CPUs, or for the others.
    fn tiles(nv: usize, intel: bool) -> &'static [TileKernel<Self>];
    /// Those of tiles one and a half vectors wide, likewise, where the ISA has such: only where a vector is as wide as a panel.
    fn half_tiles(_intel: bool) -> &'static [TileKernel<Self>] {
        &[]
    }
    /// Whether this CPU is one of Intel's, whose pipes differ from AMD's.
    fn is_intel() -> bool {
        #[cfg(test)]
        if let Some([intel, _]) = AS_IF_INTEL.get() {
            return intel;
        }
        cfg_if::cfg_if! {
            if #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
                // Those without the extension that only AMD's have.
                pulp::core_arch::x86::Sse4a::try_new().is_none()
            } else {
                false
            }
        }
    }
    /// Whether it is one of Intel's before Sapphire Rapids: two of its pipes load or prefetch, of later ones three.
    fn is_older_intel() -> bool {
        #[cfg(test)]
        if let Some([_, older]) = AS_IF_INTEL.get() {
            return older;
        }
        cfg_if::cfg_if! {
            if #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
                Self::is_intel() && pulp::core_arch::x86::Avx512bf16::try_new().is_none()
            } else {
                false
            }
        }
    }
    /// The narrow kernels, for 1, 2, 3 and so on output channels.
    fn narrow() -> &'static [NarrowKernel<Self>];
}

#[cfg(test)]
std::thread_local! {
    /// What [`Lanes::is_intel`] and [`Lanes::is_older_intel`] say, in place of the truth: one machine tests the plans of all.
    pub(crate) static AS_IF_INTEL: core::cell::Cell<Option<[bool; 2]>> = const { core::cell::Cell::new(None) };
}

/// Where in two rows the values of two pixels for a channel of [`PANEL`] stand: four channels take a quarter of each row, as
/// interleaving within 128 bits leaves them.
const fn pair_at(channel: usize) -> usize {
    channel / 2 % 2 * PANEL + channel / 4 * 4 + channel % 2 * 2
}

/// What an ISA without [`Lanes::half_tiles`] has of their operations.
fn has_no_half_tiles() -> ! {
    unreachable!("an operation of half tiles, of which this ISA has none")
}

/// The kernel of a register tile.
pub(crate) struct TileKernel<L> {
    /// Runs so many tiles down each line of a strip that is as wide as one, and finishes their sums, if that is short or it is of one
    /// pixel.
    down: StripKernel<L>,
    /// The same for a strip that is several tiles wide, where there is such a kernel: across them first, then down.
    across: Option<StripKernel<L>>,
    /// Pixels and output channels of a tile.
    size: [usize; 2],
    /// The fewest output channels with which it runs one.
    least: usize,
    /// Of how many of its pixels a tile holds quads in registers.
    pub quads: usize,
    /// Whether two pixels' values are interleaved in memory.
    pub paired: bool,
}

/// Runs so many tiles down each line of a strip.
type StripKernel<L> = fn(L, &Strip<'_>, tiles: usize);

/// Runs all of a strip.
pub(crate) type NarrowKernel<L> = fn(L, &Strip<'_>);

/// Writes the first `to.len()` values, which are fewer than there are, in pieces of a power of two.
#[cfg_attr(not(debug_assertions), inline(always))]
#[allow(dead_code, reason = "AVX-512 has masks, and scalar code no partial vectors")]
fn store_pieces<const N: usize>(values: &[f32; N], to: &mut [f32]) {
    let mut at = 0;
    macro_rules! piece {
        ($len:literal) => {
            if to.len() & $len > 0 {
                to[at..at + $len].copy_from_slice(&values[at..at + $len]);
                at += $len;
            }
        };
    }
    piece!(4);
    piece!(2);
    piece!(1);
    debug_assert_eq!(at, to.len());
}

/// [`Lanes::transpose_step`] on vectors of one or more 128 bits: in each of them four pixels meet, `4 q` to `4 q + 3`. `join`
/// gives the quads of pixels `j`, `4 + j`, `8 + j` and so on, `halves` the lower halves of two quads and the upper ones, and
/// `alternate` the values of even and of odd place. Two pipes of Intel's cores do the latter with 256 bits; to interleave values
/// and then pairs of them would do as well, but there is one pipe for it.
#[inline(always)]
#[allow(dead_code, reason = "scalar code has nothing to shuffle")]
fn transpose_step<V: Copy>(
    step: usize,
    columns: &mut [V; 4],
    join: impl Fn(usize) -> V,
    halves: impl Fn(V, V) -> [V; 2],
    alternate: impl Fn(V, V) -> [V; 2],
) {
    let [a, b, c, d] = *columns;
    match step {
        0..4 => columns[step] = join(step),
        4 => [columns[0], columns[1]] = halves(a, b),
        5 => [columns[2], columns[3]] = halves(c, d),
        6 => [columns[0], columns[2]] = alternate(a, c),
        _ => {
            let [column2, column3] = alternate(b, d);
            *columns = [a, c, column2, column3];
        }
    }
}
