//! What follows the sum: activations, each written once as a sequence of IEEE 754 operations, so that every ISA and the
//! reference give the same bits.
//!
//! Where the formulas of [`sigmoid`] and [`tanh`] come from:
//!
//! * The argument reduction `v = n ln 2 + r`, with `ln 2` split into a leading and a trailing part, is that of W. J. Cody
//!   and W. Waite, "Software Manual for the Elementary Functions" (1980), with fused multiply-adds in place of their short
//!   leading part.
//! * The polynomials are weighted minimax approximations, computed in 30-digit arithmetic by iteratively reweighted least
//!   squares (Lawson); coefficients were rounded to f32 from the lowest power up, the others fitted again each time.
//! * The errors of sums are recovered as in T. J. Dekker's fast two-sum (1971), and the quotient is corrected by its fused
//!   residual (P. Markstein, 1990).
//!
//! "ulp" is the spacing of the f32 numbers at the true value, at least 2^-149. The errors given are the greatest over all
//! 2^32 inputs; `cargo test --release --test accuracy -- --ignored` finds them.

use crate::{
    Error,
    kernel::{Channels, Lanes},
};

/// The function applied to each output value, after the residual is added.
///
/// A NaN gives a NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `if 0 > x { 0 } else { x }`: the negative zero stays.
    Relu,
    /// `x` limited to `min..=max`: `Clamp { min: 0.0, max: 6.0 }` is relu6. `min` must not be greater than `max`, and
    /// neither may be NaN.
    Clamp {
        /// The least output.
        min: f32,
        /// The greatest output.
        max: f32,
    },
    /// The logistic function `1 / (1 + e^-x)`, within 0.987 ulp: 0 at -inf, 1 at +inf.
    Sigmoid,
    /// `if x < 0 { slope x } else { x }`, with a slope for each output channel: [`Builder::slopes`](crate::Builder::slopes).
    Prelu,
    /// The hyperbolic tangent `(e^x - e^-x) / (e^x + e^-x)`, within 1.066 ulp: -1 at -inf, 1 at +inf.
    Tanh,
}

/// Where a run that has a residual adds it.
///
/// ```text
/// x --> w x + b --> scale, shift --> + --> activation --> + --> y
///                                    ^                    ^
///                       BeforeActivation                  AfterActivation
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResidualOrder {
    /// `act(residual + ..)`, as in ResNet.
    #[default]
    BeforeActivation,
    /// `residual + act(..)`, as in EfficientNet's and MobileNetV2's blocks.
    AfterActivation,
}

/// What follows the sum, for some panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue<'a> {
    pub activation: Activation,
    pub residual: ResidualOrder,
    /// Whether there are a scale and a shift.
    pub scaled: bool,
    /// One for each panel, where something is given by channel.
    pub channels: &'a [Channels],
}

impl Epilogue<'_> {
    /// Whether kernels do it in registers: what is much used, and takes an operation or two.
    #[inline(always)]
    pub fn is_short(&self, residual: bool) -> bool {
        let added_last = residual && self.residual == ResidualOrder::AfterActivation;
        let activation = matches!(
            self.activation,
            Activation::Identity | Activation::Relu | Activation::Clamp { .. } | Activation::Prelu
        );
        activation && !self.scaled && !added_last
    }
}

impl Activation {
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Activation::Clamp { min, max } if min.is_nan() || max.is_nan() || min > max => {
                Err(Error::Clamp { min, max })
            }
            _ => Ok(()),
        }
    }
}

#[inline(always)]
pub(crate) fn relu<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    simd.greater(simd.splat(0.0), x)
}

#[inline(always)]
pub(crate) fn clamp<L: Lanes>(simd: L, x: L::Vector, min: f32, max: f32) -> L::Vector {
    simd.lesser(simd.splat(max), simd.greater(simd.splat(min), x))
}

/// log2(e) rounded to `f32`.
const LOG2_E: f32 = core::f32::consts::LOG2_E;
/// -ln 2 rounded to `f32` ...
const MINUS_LN_2_HIGH: f32 = -core::f32::consts::LN_2;
/// ... and what is left of -ln 2.
const MINUS_LN_2_LOW: f32 = 1.904_654_2e-9;

/// `1.5 * 2^23 + 127`: added to a number below `2^22` it rounds that number to an integer
/// and leaves the biased exponent of `2^n` in the low bits.
const ROUND: f32 = 12_582_912.0 + 127.0;
/// As [`ROUND`], but for `2^(n - 64)`: so that `n` may be 128 and more.
const ROUND_DOWN_64: f32 = ROUND - 64.0;
/// `2^-64`, which goes with [`ROUND_DOWN_64`].
const TWO_TO_MINUS_64: f32 = 5.421_011e-20;

/// `e^-104` is below half of the least denormal and so rounds to zero.
const EXP_LIMIT: f32 = 104.0;

// e^r = 1 + r + r^2 (1/2 + E3 r + E4 r^2 + E5 r^3 + E6 r^4) for |r| <= 0.34658, minimax for
// the absolute error, which is at most 3.3e-9 = 2^-28.2. The coefficient of r^2 came out as
// 1/2 after rounding.
const E2: f32 = 0.5;
const E3: f32 = 0.166_665_21;
const E4: f32 = 0.041_666_39;
const E5: f32 = 0.008_368_677;
const E6: f32 = 0.001_394_187_2;

/// `tanh` uses its polynomial below this and the exponential from here on.
const TANH_SPLIT: f32 = 0.7;
/// `1 - tanh(10)` is 4e-9: far below half an ulp of one.
const TANH_LIMIT: f32 = 10.0;

// tanh(a) = a + a^3 (T3 + T5 a^2 + T7 a^4 + T9 a^6 + T11 a^8) for 0 <= a <= TANH_SPLIT,
// minimax for the relative error, which is at most 1.6e-8 = 2^-25.9.
const T3: f32 = -0.333_331_9;
const T5: f32 = 0.133_291_33;
const T7: f32 = -0.053_560_097;
const T9: f32 = 0.020_094_719;
const T11: f32 = -0.005_140_815_4;

/// `e^v` as a pair `(power, fraction)` with `e^v = 2^k * power * (1 + fraction)`.
///
/// `power` is a power of two, `fraction` lies within `[-0.2929, 0.4143]`, and `k` is 0 for
/// `round` = [`ROUND`], 64 for [`ROUND_DOWN_64`]. `|v|` must be at most [`EXP_LIMIT`], and
/// `power` must come out normal. A NaN `v` gives a NaN `fraction`; `power` is then
/// arbitrary.
///
/// The pair, and not its product, because a sum with `power` is exact far more often than
/// one with `e^v`: `e^v - 1` is `mul_add(power, fraction, power - 1)`, for instance, which
/// is accurate relative to itself, also for tiny `v`, where `fraction` is `v` and `power` 1.
///
/// Reduction: `n` = `v log2(e)` to the nearest integer, `r = v - n ln 2`, `|r| <= ln(2) / 2`
/// (a little more where `n` was rounded the wrong way). `fraction = e^r - 1`.
/// Absolute error of `fraction`: about `2^-25`, half of it from rounding `r` (not when
/// `n` = 0: there `r` is `v`), half from rounding `fraction`.
///
/// Operations: 11 (8 fused, 1 sub, 1 mul, 1 shift).
#[inline(always)]
fn exp_parts<L: Lanes>(simd: L, v: L::Vector, round: f32) -> (L::Vector, L::Vector) {
    let round = simd.splat(round);
    let biased = simd.mul_add(v, simd.splat(LOG2_E), round);
    let power = simd.shift_left_23(biased);
    let n = simd.sub(biased, round);

    // The first step is exact (v and n ln 2 are close, and fused, the product is not
    // rounded, so the full 24 bits of ln 2 may be used); only the second one rounds.
    let r = simd.mul_add(n, simd.splat(MINUS_LN_2_HIGH), v);
    let r = simd.mul_add(n, simd.splat(MINUS_LN_2_LOW), r);

    let q = simd.mul_add(simd.splat(E6), r, simd.splat(E5));
    let q = simd.mul_add(q, r, simd.splat(E4));
    let q = simd.mul_add(q, r, simd.splat(E3));
    let q = simd.mul_add(q, r, simd.splat(E2));
    let fraction = simd.mul_add(simd.mul(r, r), q, r);
    (power, fraction)
}

/// The logistic function `1 / (1 + e^-x)`, within 0.987 ulp (0.908 where it is denormal).
///
/// Within `[0, 1]`, 1 at +inf, 0 at -inf (and below about -103.973), 1/2 at both zeros,
/// NaN for NaN. Never falls as `x` rises.
///
/// Formula: `y = 1 / (1 + e^|x|)`, the result for a negative `x`; for the others `1 - y`,
/// where subtracting costs nothing, as `y <= 1/2`. The positive exponent saves a numerator
/// and its error. All is done at `2^-64` times the denominator, as `e^104` is beyond `f32`
/// and `y` may be denormal: then the last multiplication alone rounds it.
///
/// Most of the error of the plain quotient would come from rounding the denominator (up to
/// 1 ulp of the result; 2.32 ulp in all), so what was rounded off is computed and put
/// back together with the remainder of the division. What is left is the last rounding and
/// the error of [`exp_parts`].
///
/// Operations: 25 (13 fused, 1 div, 5 add and sub, 2 mul, 4 of bits and selects).
#[inline(always)]
fn sigmoid<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    let limit = simd.splat(EXP_LIMIT);
    let one = simd.splat(TWO_TO_MINUS_64);

    let a = simd.abs(x);
    // A NaN is not above the limit and so stays.
    let a = simd.select_less(limit, a, limit, a);
    let (power, fraction) = exp_parts(simd, a, ROUND_DOWN_64);

    // denominator + rest = one + power + power * fraction, to far below an ulp. Taking
    // `power` away first makes both differences exact as long as `one` counts at all;
    // adding `one` to `power` is not, once `power` is 2^24 times `one`.
    let denominator = simd.mul_add(power, fraction, simd.add(power, one));
    let rest = simd.sub(one, simd.sub(denominator, power));
    let rest = simd.mul_add(power, fraction, rest);

    // The negative of the reciprocal, because then no step below needs a negation.
    let y = simd.div(simd.splat(-1.0), denominator);
    let remainder = simd.mul_add(y, denominator, simd.splat(1.0));
    let remainder = simd.mul_add(y, rest, remainder);
    let y = simd.mul_add(y, remainder, y);
    let y = simd.mul(y, simd.splat(-TWO_TO_MINUS_64));

    simd.select_less(x, simd.splat(0.0), y, simd.sub(simd.splat(1.0), y))
}

/// The hyperbolic tangent, within 1.066 ulp.
///
/// Within `[-1, 1]`, exactly odd, `x` itself where `x` is tiny (denormals and both zeros
/// among them), +-1 at +-inf, NaN for NaN. Never falls as `x` rises.
///
/// Formula, with `a = |x|`: below [`TANH_SPLIT`] the polynomial, whose error is that of its
/// last rounding and little more; from there on `1 - 2 / (1 + e^(2a))`, where the quotient
/// is below 0.4 and the result above 0.6, so that an ulp of the one is at most half an ulp
/// of the other. Both are computed and one is selected.
///
/// Operations: 27 (14 fused, 1 div, 4 add and sub, 3 mul, 5 of bits and selects).
#[inline(always)]
fn tanh<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    let limit = simd.splat(TANH_LIMIT);
    let one = simd.splat(1.0);

    let a = simd.abs(x);
    // A NaN is not above the limit and so stays.
    let a = simd.select_less(limit, a, limit, a);

    let (power, fraction) = exp_parts(simd, simd.add(a, a), ROUND);
    let denominator = simd.mul_add(power, fraction, simd.add(power, one));
    let large = simd.sub(one, simd.div(simd.splat(2.0), denominator));

    // a^3 underflows harmlessly: the last step then returns `a`.
    let square = simd.mul(a, a);
    let q = simd.mul_add(simd.splat(T11), square, simd.splat(T9));
    let q = simd.mul_add(q, square, simd.splat(T7));
    let q = simd.mul_add(q, square, simd.splat(T5));
    let q = simd.mul_add(q, square, simd.splat(T3));
    let small = simd.mul_add(simd.mul(a, square), q, a);

    let magnitude = simd.select_less(a, simd.splat(TANH_SPLIT), small, large);
    simd.copy_sign(magnitude, x)
}

/// `if x < 0 { slope x } else { x }`: the negative zero stays.
#[inline(always)]
pub(crate) fn leaky_relu<L: Lanes>(simd: L, x: L::Vector, slope: L::Vector) -> L::Vector {
    simd.select_less(x, simd.splat(0.0), simd.mul(x, slope), x)
}

/// What wants to be compiled once for each activation: [`with_activation`] calls it with the function of a value and its
/// channel's slope.
pub(crate) trait WithActivation<L: Lanes> {
    type Output;
    fn call(self, activation: impl Fn(L::Vector, L::Vector) -> L::Vector) -> Self::Output;
}

/// The one place that knows which activation is which function.
#[inline(always)]
pub(crate) fn with_activation<L: Lanes, F: WithActivation<L>>(simd: L, activation: Activation, f: F) -> F::Output {
    macro_rules! with {
        (|$x:ident, $slope:ident| $y:expr) => {
            f.call(
                #[inline(always)]
                |$x, $slope| $y,
            )
        };
    }
    match activation {
        Activation::Identity => with!(|x, _slope| x),
        Activation::Relu => with!(|x, _slope| relu(simd, x)),
        Activation::Clamp { min, max } => with!(|x, _slope| clamp(simd, x, min, max)),
        Activation::Prelu => with!(|x, slope| leaky_relu(simd, x, slope)),
        Activation::Sigmoid => with!(|x, _slope| sigmoid(simd, x)),
        Activation::Tanh => with!(|x, _slope| tanh(simd, x)),
    }
}

/// All that follows the sum of one value or vector, and the order of it.
#[inline(always)]
pub(crate) fn finish<L: Lanes>(
    simd: L,
    sum: L::Vector,
    scale_shift: Option<[L::Vector; 2]>,
    (residual, order): (Option<L::Vector>, ResidualOrder),
    activation: impl Fn(L::Vector) -> L::Vector,
) -> L::Vector {
    let scaled = scale_shift.map_or(sum, |[scale, shift]| simd.mul_add(scale, sum, shift));
    match (residual, order) {
        (None, _) => activation(scaled),
        (Some(residual), ResidualOrder::BeforeActivation) => activation(simd.add(residual, scaled)),
        (Some(residual), ResidualOrder::AfterActivation) => simd.add(residual, activation(scaled)),
    }
}
