//! Lanes for any target that Rust compiles for: one f32.
//!
//! MR and NV: one pixel by a whole panel. What counts here is to be right everywhere, also where a fused multiply-add is
//! a function call (x86 without FMA, wasm32); that call costs more than any tile could save.

use super::{Lanes, NarrowKernel, PANEL, Row, Strip, TileKernel, finish::finish_rows, narrow};

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
        cfg_if::cfg_if! {
            if #[cfg(feature = "std")] { a.mul_add(b, c) } else { libm::fmaf(a, b, c) }
        }
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
        &[TileKernel { run: kernel, across: None, quads: 0, paired: false }]
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
    assert!(strip.out_channels() <= PANEL, "the strip is as wide as a tile");
    let mut line = strip.start(0, 0);
    for _ in 0..strip.lines() {
        let mut start = line;
        for first in (0..pixels).step_by(PIXELS) {
            let mut sums = [[0.0; PANEL]; PIXELS];
            let sums = &mut sums[..PIXELS.min(pixels - first)];
            for sums in &mut *sums {
                // SAFETY: asserted above, and a strip has an output channel.
                let (x, panel) = unsafe { (strip.input(start, 0), strip.panel(start, 0)) };
                *sums = panel.bias.0;
                let (of_fours, of_rest) = x.split_at(4 * panel.fours.len());
                for (x, rows) in [(of_fours, panel.fours.as_flattened()), (of_rest, panel.rest)] {
                    for (x, weights) in x.iter().zip(rows) {
                        for (sum, weight) in sums.iter_mut().zip(weights.0) {
                            *sum = simd.mul_add(*x, weight, *sum);
                        }
                    }
                }
                start = strip.behind(start, 1);
            }
            // SAFETY: as above.
            unsafe {
                finish_rows(simd, strip, [line.line, first, 0], sums.as_flattened(), PANEL, strip.out_channels())
            };
        }
        line = strip.next_line(line);
    }
}

#[cfg(test)]
super::conformance::suite!(Some(Scalar), "scalar");
