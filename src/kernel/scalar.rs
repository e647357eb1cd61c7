//! Lanes for any target that Rust compiles for: one f32.
//!
//! MR and NV: one pixel by a whole panel. What counts here is to be right everywhere, also where there is no instruction for a
//! fused multiply-add (x86 without FMA, wasm32): without one it costs more than any tile could save.

use super::{Lanes, NarrowKernel, PANEL, Row, Strip, TileKernel, finish::finish_rows, narrow};
use crate::output::{OutputPixels, OutputValues};

cfg_if::cfg_if! {
    // Else it would be a call of the C library's function, or of libm's, which round a denormal result twice where the CPU has no
    // instruction for it: glibc 2.36's, musl's and compiler-builtins' do, and MinGW's all results.
    if #[cfg(all(feature = "std", any(target_arch = "aarch64", target_feature = "fma")))] {
        #[inline(always)]
        fn fused_multiply_add(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
    } else {
        use by_way_of_f64 as fused_multiply_add;
    }
}

/// `a * b + c`, rounded once, without an instruction for it: the product is exact in f64, and the sum rounded to odd there, so
/// that to round it once more gives what rounding once would (Boldo and Melquiond, "Emulation of a FMA and correctly rounded
/// sums: proved algorithms using rounding to odd", 2008). A call: in line it would make the library an eighth of a megabyte
/// larger.
#[inline(never)]
#[allow(dead_code, reason = "where there is such an instruction, tests alone call it")]
fn by_way_of_f64(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // What is missing from the sum, exactly (Knuth); NaN beside infinities.
    let of_c = sum - product;
    let error = (product - (sum - of_c)) + (c - of_c);
    let bits = sum.to_bits();
    let is_inexact = error.abs() > 0.0;
    let odd = match bits % 2 {
        0 if is_inexact && (error > 0.0) == (sum > 0.0) => bits + 1,
        0 if is_inexact => bits - 1,
        _ => bits,
    };
    f64::from_bits(odd) as f32
}

/// The scalar ISA, which every CPU has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Lanes for Scalar {
    const LANES: usize = 1;
    const REGISTERS: usize = 32;
    type Vector = f32;
    type Quad = [f32; 4];

    #[inline(always)]
    fn vectorize<F: pulp::NullaryFnOnce>(self, f: F) -> F::Output {
        f.call()
    }

    #[inline(always)]
    fn splat(self, value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn load(self, row: &Row, part: usize) -> f32 {
        row.0[part]
    }

    #[inline(always)]
    fn store(self, vector: f32, row: &mut Row, part: usize) {
        row.0[part] = vector;
    }

    #[inline(always)]
    fn load_first(self, from: &[f32]) -> f32 {
        from[0]
    }

    #[inline(always)]
    fn store_first(self, vector: f32, to: &mut [f32]) {
        to[0] = vector;
    }

    #[inline(always)]
    fn transpose_step<'a>(self, step: usize, pixel: impl Fn(usize) -> &'a [f32; 4], columns: &mut [f32; 4]) {
        if step == 0 {
            *columns = *pixel(0);
        }
    }

    #[inline(always)]
    fn quad(self, values: &[f32; 4]) -> [f32; 4] {
        *values
    }

    #[inline(always)]
    fn mul_add_quad<const J: i32>(self, quad: [f32; 4], b: f32, c: f32) -> f32 {
        self.mul_add(quad[J as usize], b, c)
    }

    #[inline(always)]
    fn pin(self, vector: f32) -> f32 {
        vector
    }

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        fused_multiply_add(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }

    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }

    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }

    #[inline(always)]
    fn select_less(self, a: f32, b: f32, yes: f32, no: f32) -> f32 {
        if a < b { yes } else { no }
    }

    #[inline(always)]
    fn lesser(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }

    #[inline(always)]
    fn greater(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }

    #[inline(always)]
    fn abs(self, a: f32) -> f32 {
        a.abs()
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: f32, sign: f32) -> f32 {
        magnitude.copysign(sign)
    }

    #[inline(always)]
    fn shift_left_23(self, a: f32) -> f32 {
        f32::from_bits(a.to_bits() << 23)
    }

    fn tiles(_nv: usize, _: bool) -> &'static [TileKernel<Self>] {
        &[TileKernel { down: kernel, across: None, size: [1, PANEL], least: 1, quads: 0, paired: false }]
    }

    fn narrow() -> &'static [NarrowKernel<Self>] {
        &narrow::SCALAR
    }
}

/// Of so many pixels, what follows the sums is done at once.
const PIXELS: usize = 16;

/// The first `pixels` pixels of each line, one by one.
fn kernel(simd: Scalar, strip: &Strip<'_>, pixels: usize) {
    assert!(pixels <= strip.pixels(), "tiles lie inside a line");
    assert!(strip.out_channels() <= PANEL, "the strip is as wide as its tiles");
    let mut line = strip.start(0, 0);
    for _ in 0..strip.lines() {
        let mut start = line;
        for first in (0..pixels).step_by(PIXELS) {
            let first_pixel = start;
            let mut sums = [Row([0.0; PANEL]); PIXELS];
            let sums = &mut sums[..PIXELS.min(pixels - first)];
            for sums in &mut *sums {
                // SAFETY: asserted above, and a strip has an output channel.
                let (x, panel) = unsafe { (strip.input(start, 0), strip.panel(start, 0)) };
                *sums = *panel.bias;
                let (of_fours, of_rest) = x.split_at(4 * panel.fours.len());
                for (x, rows) in [(of_fours, panel.fours.as_flattened()), (of_rest, panel.rest)] {
                    for (x, weights) in x.iter().zip(rows) {
                        for (sum, weight) in sums.0.iter_mut().zip(weights.0) {
                            *sum = simd.mul_add(*x, weight, *sum);
                        }
                    }
                }
                start = strip.behind(start, 1);
            }
            let pixels = sums.len();
            let values = OutputValues::new(bytemuck::cast_slice_mut(sums));
            let sums = OutputPixels { values, stride: PANEL, line_stride: 0 };
            // SAFETY: as above, and the sums are this function's.
            unsafe { finish_rows(simd, strip, first_pixel, sums, pixels, strip.out_channels()) };
        }
        line = strip.next_line(line);
    }
}

#[cfg(test)]
super::conformance::suite!(Some(Scalar), "scalar");

#[cfg(test)]
mod tests {
    use super::*;
    use core::hint::black_box;

    #[test]
    fn multiply_adds_are_rounded_once() {
        // Results that a sum in f64 rounds to a half between two of f32, the first two of them denormal.
        for [a, b, c, expected] in [
            [0x1a00_0001, 0x19ff_fffe, 0x0040_0001, 0x0040_0001],
            [0x9700_0800, 0x1cff_f001, 0x0001_0002, 0x0001_0001],
            [0x3f80_0800, 0x3f80_0800, 0x2280_0000, 0x3f80_1001],
        ] {
            let [x, y, z] = black_box([a, b, c].map(f32::from_bits));
            let got = [by_way_of_f64(x, y, z), fused_multiply_add(x, y, z)].map(f32::to_bits);
            assert_eq!(got, [expected; 2], "{a:#x} {b:#x} {c:#x}");
        }
    }

    #[test]
    #[cfg(feature = "std")]
    fn with_and_without_an_instruction_they_are_the_same() {
        use crate::kernel::conformance::same;
        use core::ops::Range;
        use rand::{RngExt, SeedableRng, rngs::SmallRng};

        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        if !std::is_x86_feature_detected!("fma") {
            return;
        }
        let mut random = SmallRng::seed_from_u64(1);
        // Few bits, so that sums meet halves between two results: the last of an odd one, the first of an even one.
        let mut sparse = |exponents: Range<u32>| {
            let (sign, exponent) = (random.random::<u32>() << 31, random.random_range(exponents) << 23);
            let [one, other] = [0, 0].map(|_: u32| 1 << random.random_range(0..24u32) & 0x7f_ffff);
            f32::from_bits(sign | exponent | one ^ other)
        };
        let mut twice = 0;
        for i in 0..1_000_000 {
            let near = if i % 2 == 0 { 40..90 } else { 0..255 };
            let [a, b] = [0, 0].map(|_| sparse(near.clone()));
            let c = sparse(if i % 2 == 0 { 0..40 } else { near });
            let (got, expected) = (by_way_of_f64(a, b, c), a.mul_add(b, c));
            assert!(same(got, expected), "{a:e} * {b:e} + {c:e}: {got:e} in place of {expected:e}");
            let rounded_twice = (f64::from(a) * f64::from(b) + f64::from(c)) as f32;
            twice += usize::from(!same(rounded_twice, got));
        }
        assert!(twice > 1000, "{twice}");
    }
}
