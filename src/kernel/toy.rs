//! The smallest lanes of several floats, an array, for tests only: what an ISA must have, and what the trait gives to those
//! that have no more. To start a new one from.
//!
//! MR and NV: two pixels, by as many vectors as there may be. No registers are counted on.

use super::{Lanes, NarrowKernel, Row, Scalar, TileKernel, narrow, tile};
use core::array::from_fn;

const LANES: usize = 4;
type Vector = [f32; LANES];

/// Four lanes of scalar code, which every CPU has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toy;

impl Lanes for Toy {
    const LANES: usize = LANES;
    const REGISTERS: usize = 16;
    type Vector = Vector;
    type Quad = Vector;

    #[inline(always)]
    fn vectorize<F: pulp::NullaryFnOnce>(self, f: F) -> F::Output {
        f.call()
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, row: &Row, part: usize) -> Vector {
        row.0.as_chunks().0[part]
    }

    #[inline(always)]
    fn store(self, vector: Vector, row: &mut Row, part: usize) {
        row.0.as_chunks_mut().0[part] = vector;
    }

    #[inline(always)]
    fn load_first(self, from: &[f32]) -> Vector {
        from_fn(|l| from.get(l).copied().unwrap_or(0.0))
    }

    #[inline(always)]
    fn store_first(self, vector: Vector, to: &mut [f32]) {
        to.copy_from_slice(&vector[..to.len()]);
    }

    #[inline(always)]
    fn transpose_step<'a>(self, step: usize, pixel: impl Fn(usize) -> &'a [f32; 4], columns: &mut [Vector; 4]) {
        if step < LANES {
            *columns = from_fn(|k| from_fn(|l| if l == step { pixel(l)[k] } else { columns[k][l] }));
        }
    }

    #[inline(always)]
    fn quad(self, values: &[f32; 4]) -> Vector {
        *values
    }

    #[inline(always)]
    fn mul_add_quad<const J: i32>(self, quad: Vector, b: Vector, c: Vector) -> Vector {
        self.mul_add([quad[J as usize]; LANES], b, c)
    }

    #[inline(always)]
    fn pin(self, vector: Vector) -> Vector {
        vector
    }

    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        from_fn(|l| Scalar.mul_add(a[l], b[l], c[l]))
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        from_fn(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        from_fn(|l| a[l] - b[l])
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        from_fn(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn div(self, a: Vector, b: Vector) -> Vector {
        from_fn(|l| a[l] / b[l])
    }

    #[inline(always)]
    fn select_less(self, a: Vector, b: Vector, yes: Vector, no: Vector) -> Vector {
        from_fn(|l| if a[l] < b[l] { yes[l] } else { no[l] })
    }

    #[inline(always)]
    fn lesser(self, a: Vector, b: Vector) -> Vector {
        self.select_less(a, b, a, b)
    }

    #[inline(always)]
    fn greater(self, a: Vector, b: Vector) -> Vector {
        self.select_less(b, a, a, b)
    }

    #[inline(always)]
    fn abs(self, a: Vector) -> Vector {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: Vector, sign: Vector) -> Vector {
        from_fn(|l| magnitude[l].copysign(sign[l]))
    }

    #[inline(always)]
    fn shift_left_23(self, a: Vector) -> Vector {
        a.map(|a| f32::from_bits(a.to_bits() << 23))
    }

    fn tiles(nv: usize, _: bool) -> &'static [TileKernel<Self>] {
        tile::TOY[nv - 1]
    }

    fn narrow() -> &'static [NarrowKernel<Self>] {
        &narrow::TOY
    }
}

super::conformance::suite!(Some(Toy), "toy");
