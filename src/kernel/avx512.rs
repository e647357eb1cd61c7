//! Lanes for AVX-512 (pulp's V4: F, BW, CD, DQ, VL).
//!
//! MR and NV: 32 registers hold the accumulators, one row of each panel and one broadcast value, so
//! `MR * NV + NV + 1 <= 32`. The k step of a tile takes `MR * NV` multiply-adds and `MR + NV` loads, and the cores that
//! matter start two of each a cycle (Zen 5, Xeon) or one 512-bit multiply-add and one load (Zen 4): the closer to square,
//! the more the loads hide. 7 x 4 leaves no register for the broadcast value, and loads the last weights again instead.
//! Where another thread runs on the same core, the load units are shared: on Sapphire Rapids 6 x 4, with 10 loads for 24
//! multiply-adds in place of 17 for 28, is 8 to 15 % faster then, and as fast when the core is its own.
//! At NV = 1 each multiply-add brings its own broadcast from memory, and loads would be the limit: 14 multiply-adds for 15.
//! So quads of three of the pixels are held, whose values are broadcast by a shuffle instead: 100 % of the peak on Zen 5 in
//! place of 93 %. Two would do but for the prefetches; with those of all, shuffles take the multiply-adds' pipes (95 %). On
//! Intel's cores each shuffle takes a turn of the multiply-adds, and tiles of another table, without quads, are 5 % faster.
//!
//! 24 output channels are one and a half vectors. Two pixels share a vector for the halves: one shuffle joins their broadcast
//! values, and one multiply-add of the half panel, loaded twice, serves both. 14 pixels take 21 multiply-adds in place of 28
//! and reach 94 % of Zen 5's peak, where 16 channels by tiles and 8 by the narrow kernel reached 86. On Intel's cores, where
//! such a shuffle takes a turn of the multiply-adds, that is no faster than two vectors: 73 %. There, from 8 pixels on, the
//! values of two pixels are interleaved in memory and broadcast from there together: 80 %, and 90 in a bare loop.
//!
//! What the loop hides badly on Zen 5 are the stores: a 512-bit store keeps both multiply-add pipes idle for a cycle where
//! many come in a row. Tiles of up to 16 accumulators hide them, and the plan takes those where K is small; else two 256-bit
//! stores may be cheaper. Measured, in cycles for 28 vectors after 448 multiply-adds (224 cycles), row by row:
//!
//! | activation | 512-bit stores | pairs of 256-bit stores |
//! |------------|----------------|-------------------------|
//! | none       | 35             | 7                       |
//! | relu       | 17             | 10                      |
//! | clamp      | 7              | 21                      |
//!
//! On Intel's cores each store has its place in a queue, which is full sooner: whole vectors take 2 to 3 % less time where
//! outputs do not stay in L2 (56x56x24 to 144 channels), 1 to 4 % more where they do (14x14x64 to 384, 28x28x32 to 192), and
//! 2 to 7 % less for all of these where another thread runs on the same core.

use super::{Lanes, NarrowKernel, Row, TileKernel, narrow, tile};
use bytemuck::must_cast;
use core::arch::asm;
use pulp::x86::V4;

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86")] { use core::arch::x86::*; } else { use core::arch::x86_64::*; }
}

/// The mask of the first `len` lanes.
#[cfg_attr(not(debug_assertions), inline(always))]
fn first(len: usize) -> __mmask16 {
    debug_assert!((1..=16).contains(&len));
    u16::MAX >> (16 - len)
}

impl Lanes for V4 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type Vector = __m512;
    type Quad = __m512;

    #[inline(always)]
    fn vectorize<F: pulp::NullaryFnOnce>(self, f: F) -> F::Output {
        self.vectorize(f)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        self.avx512f._mm512_set1_ps(value)
    }

    #[inline(always)]
    fn load(self, row: &Row, _part: usize) -> __m512 {
        must_cast(row.0)
    }

    #[inline(always)]
    fn store(self, vector: __m512, row: &mut Row, _part: usize) {
        row.0 = must_cast(vector);
    }

    #[inline(always)]
    fn load_first(self, from: &[f32]) -> __m512 {
        match <&[f32; 16]>::try_from(from) {
            Ok(all) => must_cast(*all),
            // SAFETY: lanes beyond `from` are masked off, and masked lanes are not accessed.
            Err(_) => unsafe { self.avx512f._mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) },
        }
    }

    #[inline(always)]
    fn store_first(self, vector: __m512, to: &mut [f32]) {
        match <&mut [f32; 16]>::try_from(&mut *to) {
            Ok(all) => *all = must_cast(vector),
            // SAFETY: lanes beyond `to` are masked off, and masked lanes are not accessed.
            Err(_) => unsafe { self.avx512f._mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), vector) },
        }
    }

    #[inline(always)]
    fn store_first_halved(self, vector: __m512, to: &mut [f32]) {
        // Pinned before and in between, or the compiler would make one store of two neighbouring halves.
        let vector = self.pin(vector);
        match to.as_chunks_mut::<8>() {
            ([low, high], []) => {
                *low = must_cast(self.avx512f._mm512_castps512_ps256(vector));
                *high = must_cast(self.avx512dq._mm512_extractf32x8_ps::<1>(self.pin(vector)));
            }
            ([half], []) => *half = must_cast(self.avx512f._mm512_castps512_ps256(vector)),
            _ => self.store_first(vector, to),
        }
    }

    #[inline(always)]
    fn load_half_twice(self, row: &Row) -> __m512 {
        let [half, _] = must_cast::<[f32; 16], [[f32; 8]; 2]>(row.0);
        must_cast([half; 2])
    }

    #[inline(always)]
    fn blend_halves(self, lower: __m512, upper: __m512) -> __m512 {
        self.avx512f._mm512_mask_blend_ps(0xff00, lower, upper)
    }

    #[inline(always)]
    fn upper_half(self, vector: __m512) -> __m512 {
        self.avx512f._mm512_shuffle_f32x4::<0b11_10_11_10>(vector, vector)
    }

    #[inline(always)]
    fn store_pairs(self, a: &[f32], b: &[f32], pairs: &mut [Row; 2]) {
        // SAFETY: lanes beyond each are masked off, and masked lanes are not accessed.
        let (a, b) = unsafe {
            let load = |from: &[f32]| self.avx512f._mm512_maskz_loadu_ps(first(from.len()), from.as_ptr());
            (load(a), load(b))
        };
        pairs[0].0 = must_cast(self.avx512f._mm512_unpacklo_ps(a, b));
        pairs[1].0 = must_cast(self.avx512f._mm512_unpackhi_ps(a, b));
    }

    #[inline(always)]
    fn splat_pair(self, pair: &[f32; 2]) -> __m512 {
        must_cast(self.avx512f._mm512_set1_epi64(must_cast(*pair)))
    }

    #[inline(always)]
    fn load_each_twice(self, row: &Row) -> __m512 {
        const EACH_TWICE: [i32; 16] = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7];
        self.avx512f._mm512_permutexvar_ps(must_cast(EACH_TWICE), must_cast(row.0))
    }

    #[inline(always)]
    fn load_every_second_twice(self, row: &Row, odd: bool) -> __m512 {
        if odd {
            // Opaque, or the compiler would load the row once, and shuffle it twice: such loads take no turn of the multiply-adds.
            let row = opaque!(&raw const *row);
            // SAFETY: it is the row.
            self.avx512f._mm512_movehdup_ps(must_cast(unsafe { (*row).0 }))
        } else {
            self.avx512f._mm512_moveldup_ps(must_cast(row.0))
        }
    }

    #[inline(always)]
    fn every_second_of_both(self, a: __m512, b: __m512, odd: bool) -> __m512 {
        if odd {
            self.avx512f._mm512_mask_movehdup_ps(b, 0x5555, a)
        } else {
            self.avx512f._mm512_mask_moveldup_ps(a, 0xaaaa, b)
        }
    }

    #[inline(always)]
    fn every_second(self, vector: __m512, odd: bool) -> __m512 {
        const EVEN: [i32; 16] = [0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14];
        const ODD: [i32; 16] = [1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15];
        self.avx512f._mm512_permutexvar_ps(must_cast(if odd { ODD } else { EVEN }), vector)
    }

    #[inline(always)]
    fn transpose_step<'a>(self, step: usize, pixel: impl Fn(usize) -> &'a [f32; 4], columns: &mut [__m512; 4]) {
        super::transpose_step(
            step,
            columns,
            #[inline(always)]
            |j| must_cast([*pixel(j), *pixel(4 + j), *pixel(8 + j), *pixel(12 + j)]),
            #[inline(always)]
            |a, b| {
                let (a, b) = (must_cast(a), must_cast(b));
                [must_cast(self.avx512f._mm512_unpacklo_pd(a, b)), must_cast(self.avx512f._mm512_unpackhi_pd(a, b))]
            },
            #[inline(always)]
            |a, b| [self.avx512f._mm512_shuffle_ps::<0x88>(a, b), self.avx512f._mm512_shuffle_ps::<0xdd>(a, b)],
        );
    }

    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        // SAFETY: a hint, which accesses nothing and cannot fault; every CPU with AVX has SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn quad(self, values: &[f32; 4]) -> __m512 {
        // Pinned, or the compiler would see through the shuffles, and load each value again.
        self.pin(must_cast([*values; 4]))
    }

    #[inline(always)]
    fn mul_add_quad<const J: i32>(self, quad: __m512, b: __m512, c: __m512) -> __m512 {
        // Its value J in each 128-bit lane.
        const { assert!(J >= 0 && J < 4) };
        let value = match J {
            0 => self.avx512f._mm512_permute_ps::<0b00_00_00_00>(quad),
            1 => self.avx512f._mm512_permute_ps::<0b01_01_01_01>(quad),
            2 => self.avx512f._mm512_permute_ps::<0b10_10_10_10>(quad),
            _ => self.avx512f._mm512_permute_ps::<0b11_11_11_11>(quad),
        };
        self.mul_add(value, b, c)
    }

    #[inline(always)]
    fn pin(self, mut vector: __m512) -> __m512 {
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn wall(vector: &mut __m512) {
            // SAFETY: no instruction.
            unsafe { asm!("/* {0} */", inout(zmm_reg) * vector, options(nostack, preserves_flags)) }
        }
        // SAFETY: the token proves the feature.
        unsafe { wall(&mut vector) }
        vector
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        self.avx512f._mm512_fmadd_ps(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        self.avx512f._mm512_add_ps(a, b)
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        self.avx512f._mm512_sub_ps(a, b)
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        self.avx512f._mm512_mul_ps(a, b)
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        self.avx512f._mm512_div_ps(a, b)
    }

    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        self.avx512f._mm512_mask_blend_ps(self.avx512f._mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes)
    }

    #[inline(always)]
    fn lesser(self, a: __m512, b: __m512) -> __m512 {
        self.avx512f._mm512_min_ps(a, b)
    }

    #[inline(always)]
    fn greater(self, a: __m512, b: __m512) -> __m512 {
        self.avx512f._mm512_max_ps(a, b)
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        self.avx512dq._mm512_andnot_ps(self.splat(-0.0), a)
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: __m512, sign: __m512) -> __m512 {
        let sign = self.avx512dq._mm512_and_ps(self.splat(-0.0), sign);
        self.avx512dq._mm512_or_ps(self.abs(magnitude), sign)
    }

    #[inline(always)]
    fn shift_left_23(self, a: __m512) -> __m512 {
        must_cast(self.avx512f._mm512_slli_epi32::<23>(must_cast(a)))
    }

    fn tiles(nv: usize, intel: bool) -> &'static [TileKernel<Self>] {
        match (nv, intel) {
            (1, true) => tile::AVX512_BROADCAST[0],
            // Without 7 x 4, for its loads.
            (4, true) => &tile::AVX512[3][..6],
            _ => tile::AVX512[nv - 1],
        }
    }

    fn half_tiles(intel: bool) -> &'static [TileKernel<Self>] {
        if intel { tile::AVX512_BROADCAST_HALF } else { tile::AVX512_HALF }
    }

    fn narrow() -> &'static [NarrowKernel<Self>] {
        &narrow::AVX512
    }
}

#[cfg(test)]
super::conformance::suite!(V4::try_new(), "avx512");
