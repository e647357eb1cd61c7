//! Lanes for AVX2 with FMA (pulp's V3).
//!
//! MR and NV: 16 registers hold the accumulators, one row of each panel and one broadcast value, so
//! `MR * NV + NV + 1 <= 16`: 6 x 2 (a whole panel) has twelve chains, enough to keep two multiply-adds of four cycles'
//! latency going, and 8 loads for 12 of them. 3 x 4 leaves no register for a broadcast value, and holds the pixels' values in
//! place of the weights: 7 loads for 12, and as fast. 4 x 3 and 8 x 1 serve the last panel where it is half full.

use super::{Lanes, NarrowKernel, PANEL, Row, TileKernel, narrow, tile};
use bytemuck::{must_cast, must_cast_mut, must_cast_ref};
use core::arch::asm;
use pulp::x86::V3;

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86")] { use core::arch::x86::*; } else { use core::arch::x86_64::*; }
}

const LANES: usize = 8;
type Halves = [[f32; LANES]; PANEL / LANES];

impl Lanes for V3 {
    const LANES: usize = LANES;
    const REGISTERS: usize = 16;
    type Vector = __m256;
    type Quad = [f32; 4];

    #[inline(always)]
    fn vectorize<F: pulp::NullaryFnOnce>(self, f: F) -> F::Output {
        self.vectorize(f)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        self.avx._mm256_set1_ps(value)
    }

    #[inline(always)]
    fn load(self, row: &Row, part: usize) -> __m256 {
        must_cast(must_cast_ref::<_, Halves>(&row.0)[part])
    }

    #[inline(always)]
    fn store(self, vector: __m256, row: &mut Row, part: usize) {
        must_cast_mut::<_, Halves>(&mut row.0)[part] = must_cast(vector);
    }

    #[inline(always)]
    fn load_first(self, from: &[f32]) -> __m256 {
        must_cast(match <&[f32; LANES]>::try_from(from) {
            Ok(all) => *all,
            Err(_) => core::array::from_fn(|l| from.get(l).copied().unwrap_or(0.0)),
        })
    }

    #[inline(always)]
    fn store_first(self, vector: __m256, to: &mut [f32]) {
        // A masked store takes dozens of cycles on Zen: 8, or 4 and 2 and 1 values instead.
        match <&mut [f32; LANES]>::try_from(&mut *to) {
            Ok(all) => *all = must_cast(vector),
            Err(_) => super::store_pieces::<LANES>(&must_cast(vector), to),
        }
    }

    #[inline(always)]
    fn transpose_step<'a>(self, step: usize, pixel: impl Fn(usize) -> &'a [f32; 4], columns: &mut [__m256; 4]) {
        super::transpose_step(
            step,
            columns,
            #[inline(always)]
            |j| must_cast([*pixel(j), *pixel(4 + j)]),
            #[inline(always)]
            |a, b| {
                let (a, b) = (must_cast(a), must_cast(b));
                [must_cast(self.avx._mm256_unpacklo_pd(a, b)), must_cast(self.avx._mm256_unpackhi_pd(a, b))]
            },
            #[inline(always)]
            |a, b| [self.avx._mm256_shuffle_ps::<0x88>(a, b), self.avx._mm256_shuffle_ps::<0xdd>(a, b)],
        );
    }

    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        // SAFETY: a hint, which accesses nothing and cannot fault; every CPU with AVX has SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn quad(self, values: &[f32; 4]) -> [f32; 4] {
        *values
    }

    #[inline(always)]
    fn mul_add_quad<const J: i32>(self, quad: [f32; 4], b: __m256, c: __m256) -> __m256 {
        self.mul_add(self.splat(quad[J as usize]), b, c)
    }

    #[inline(always)]
    fn pin(self, mut vector: __m256) -> __m256 {
        #[inline]
        #[target_feature(enable = "avx")]
        fn wall(vector: &mut __m256) {
            // SAFETY: no instruction.
            unsafe { asm!("/* {0} */", inout(ymm_reg) * vector, options(nostack, preserves_flags)) }
        }
        // SAFETY: the token proves the feature.
        unsafe { wall(&mut vector) }
        vector
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.fma._mm256_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_add_ps(a, b)
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_sub_ps(a, b)
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_mul_ps(a, b)
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_div_ps(a, b)
    }

    #[inline(always)]
    fn select_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        self.avx._mm256_blendv_ps(no, yes, self.avx._mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }

    #[inline(always)]
    fn lesser(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_min_ps(a, b)
    }

    #[inline(always)]
    fn greater(self, a: __m256, b: __m256) -> __m256 {
        self.avx._mm256_max_ps(a, b)
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        self.avx._mm256_andnot_ps(self.splat(-0.0), a)
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: __m256, sign: __m256) -> __m256 {
        let sign = self.avx._mm256_and_ps(self.splat(-0.0), sign);
        self.avx._mm256_or_ps(self.abs(magnitude), sign)
    }

    #[inline(always)]
    fn shift_left_23(self, a: __m256) -> __m256 {
        must_cast(self.avx2._mm256_slli_epi32::<23>(must_cast(a)))
    }

    fn tiles(nv: usize, _: bool) -> &'static [TileKernel<Self>] {
        tile::AVX2[nv - 1]
    }

    fn narrow() -> &'static [NarrowKernel<Self>] {
        &narrow::AVX2
    }
}

#[cfg(test)]
super::conformance::suite!(V3::try_new(), "avx2");
