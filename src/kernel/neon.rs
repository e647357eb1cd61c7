//! Lanes for NEON on aarch64.
//!
//! MR and NV: 32 registers hold the accumulators, a quad of each pixel (four k's, multiplied by lane) and one row of a
//! panel, so `MR * NV + MR + NV <= 32`: 5 x 4 (a whole panel) has twenty chains, enough for the four multiply-adds a
//! cycle of Apple's cores and Neoverse V2. 8 x 2, 6 x 3 and 12 x 1 serve the last panel where it is not full.

use super::{Lanes, NarrowKernel, PANEL, Row, TileKernel, narrow, tile};
use bytemuck::{must_cast, must_cast_mut, must_cast_ref};
use core::arch::aarch64::*;
use core::arch::asm;
use pulp::aarch64::Neon;

const LANES: usize = 4;
type Quarters = [[f32; LANES]; PANEL / LANES];

impl Lanes for Neon {
    const LANES: usize = LANES;
    const REGISTERS: usize = 32;
    type Vector = float32x4_t;
    type Quad = float32x4_t;

    #[inline(always)]
    fn vectorize<F: pulp::NullaryFnOnce>(self, f: F) -> F::Output {
        self.vectorize(f)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        self.neon.vdupq_n_f32(value)
    }

    #[inline(always)]
    fn load(self, row: &Row, part: usize) -> float32x4_t {
        must_cast(must_cast_ref::<_, Quarters>(&row.0)[part])
    }

    #[inline(always)]
    fn store(self, vector: float32x4_t, row: &mut Row, part: usize) {
        must_cast_mut::<_, Quarters>(&mut row.0)[part] = must_cast(vector);
    }

    #[inline(always)]
    fn load_first(self, from: &[f32]) -> float32x4_t {
        must_cast(match <&[f32; LANES]>::try_from(from) {
            Ok(all) => *all,
            Err(_) => core::array::from_fn(|l| from.get(l).copied().unwrap_or(0.0)),
        })
    }

    #[inline(always)]
    fn store_first(self, vector: float32x4_t, to: &mut [f32]) {
        match <&mut [f32; LANES]>::try_from(&mut *to) {
            Ok(all) => *all = must_cast(vector),
            Err(_) => super::store_pieces::<LANES>(&must_cast(vector), to),
        }
    }

    #[inline(always)]
    fn transpose_step<'a>(self, step: usize, pixel: impl Fn(usize) -> &'a [f32; 4], columns: &mut [float32x4_t; 4]) {
        super::transpose_step(
            step,
            columns,
            #[inline(always)]
            |j| must_cast(*pixel(j)),
            #[inline(always)]
            |a, b| {
                let (a, b) = (must_cast(a), must_cast(b));
                [must_cast(self.neon.vzip1q_f64(a, b)), must_cast(self.neon.vzip2q_f64(a, b))]
            },
            #[inline(always)]
            |a, b| [self.neon.vuzp1q_f32(a, b), self.neon.vuzp2q_f32(a, b)],
        );
    }

    #[inline(always)]
    fn quad(self, values: &[f32; 4]) -> float32x4_t {
        must_cast(*values)
    }

    #[inline(always)]
    fn mul_add_quad<const J: i32>(self, quad: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        self.neon.vfmaq_laneq_f32::<J>(c, b, quad)
    }

    #[inline(always)]
    fn pin(self, mut vector: float32x4_t) -> float32x4_t {
        // SAFETY: no instruction.
        unsafe { asm!("/* {0:v} */", inout(vreg) vector, options(nostack, preserves_flags)) }
        vector
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        self.neon.vfmaq_f32(c, a, b)
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.neon.vaddq_f32(a, b)
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.neon.vsubq_f32(a, b)
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.neon.vmulq_f32(a, b)
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.neon.vdivq_f32(a, b)
    }

    #[inline(always)]
    fn select_less(self, a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        self.neon.vbslq_f32(self.neon.vcltq_f32(a, b), yes, no)
    }

    // NEON's own minimum and maximum order the zeros by sign and prefer a NaN; the contract is the comparison's.
    #[inline(always)]
    fn lesser(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.select_less(a, b, a, b)
    }

    #[inline(always)]
    fn greater(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.select_less(b, a, a, b)
    }

    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        self.neon.vabsq_f32(a)
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: float32x4_t, sign: float32x4_t) -> float32x4_t {
        self.neon.vbslq_f32(must_cast(self.splat(-0.0)), sign, magnitude)
    }

    #[inline(always)]
    fn shift_left_23(self, a: float32x4_t) -> float32x4_t {
        must_cast(self.neon.vshlq_n_u32::<23>(must_cast(a)))
    }

    fn tiles(nv: usize, _: bool) -> &'static [TileKernel<Self>] {
        tile::NEON[nv - 1]
    }

    fn narrow() -> &'static [NarrowKernel<Self>] {
        &narrow::NEON
    }
}

#[cfg(test)]
super::conformance::suite!(Neon::try_new(), "neon");
