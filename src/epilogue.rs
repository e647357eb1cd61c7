//! What follows the sum: activations, each written once as a sequence of IEEE 754 operations, so that every ISA and the
//! reference give the same bits.
//!
//! Where the formulas come from:
//!
//! * The argument reduction `v = n ln 2 + r`, with `ln 2` split into a leading and a trailing part, is that of W. J. Cody
//!   and W. Waite, "Software Manual for the Elementary Functions" (1980), with fused multiply-adds in place of their short
//!   leading part.
//! * The polynomials are weighted minimax approximations, computed in 30-digit arithmetic by iteratively reweighted least
//!   squares (Lawson) or by exchange (Remez); coefficients were rounded to f32 from the lowest power up, the others fitted
//!   again each time, except where another way is given.
//! * The errors of sums are recovered as in T. J. Dekker's fast two-sum (1971), those of products by a fused
//!   multiply-add, and the quotient is corrected by its fused residual (P. Markstein, 1990).
//! * The complementary error function without its exponential, as a polynomial in `a / (a + constant)`, is that of
//!   M. M. Shepherd and J. G. Laframboise, Mathematics of Computation 36 (1981).
//! * `HardSwish` is that of MobileNetV3 (A. Howard et al., 2019), `Swish` that of P. Ramachandran et al. (2017), both
//!   forms of `Gelu` are those of D. Hendrycks and K. Gimpel (2016), `Elu` is that of D.-A. Clevert et al. (2015), `Softplus`
//!   that of C. Dugas et al. (2000), `Mish` that of D. Misra (2019).
//!
//! "ulp" is the spacing of the f32 numbers at the true value, at least 2^-149. The errors given are the greatest over all
//! 2^32 inputs, and over three values of each parameter; `cargo test --release --test accuracy -- --ignored` finds them.

use crate::{
    Error,
    environment::in_default,
    kernel::{Channels, Lanes, Row},
};

/// The function applied to each output value, after the residual is added.
///
/// A NaN gives a NaN. A zero stays one, with its sign, where the function is 0 at 0, but for a `HardSigmoid` of `beta` 0.
/// Parameters other than those of `Clamp` must be finite; where one is 0 and multiplies `x`, an infinite `x` gives what IEEE 754
/// says: NaN.
///
/// The errors are the greatest over all inputs, in ulp. They hold where the true result is denormal, too.
///
/// # Example
/// ```
/// use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};
/// let conv = PointwiseConv::builder(1, 1).activation(Activation::LeakyRelu { slope: 0.25 }).build(&[1.0])?;
/// let (mut y, shape) = ([0.0; 2], [1, 1, 2, 1]);
/// conv.run(Nhwc::new(&[3.0, -2.0], shape)?, NhwcMut::new(&mut y, shape)?)?;
/// assert_eq!(y, [3.0, -0.5]);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `if 0 > x { 0 } else { x }`: the negative zero stays. ONNX `Relu`, PyTorch `nn.ReLU`, TFLite `RELU`.
    Relu,
    /// `x` limited to `min..=max`. `min` must not be greater than `max`, and neither may be NaN. ONNX `Clip`, PyTorch
    /// `nn.Hardtanh`; from -1 to 1 TFLite `RELU_N1_TO_1`. See also [`Activation::RELU6`].
    Clamp {
        /// The least output.
        min: f32,
        /// The greatest output.
        max: f32,
    },
    /// The logistic function `1 / (1 + e^-x)`, within 0.987 ulp: 0 at -inf, 1 at +inf. ONNX `Sigmoid`, PyTorch
    /// `nn.Sigmoid`, TFLite `LOGISTIC`.
    Sigmoid,
    /// The hyperbolic tangent `(e^x - e^-x) / (e^x + e^-x)`, within 1.066 ulp: -1 at -inf, 1 at +inf. ONNX `Tanh`, PyTorch
    /// `nn.Tanh`, TFLite `TANH`.
    Tanh,
    /// `if x < 0 { slope * x } else { x }`, rounded once. ONNX `LeakyRelu`, PyTorch `nn.LeakyReLU`, TFLite `LEAKY_RELU`:
    /// `slope` 0.01 by default.
    LeakyRelu {
        /// What a negative `x` is multiplied by.
        slope: f32,
    },
    /// As `LeakyRelu`, with a slope for each output channel: [`Builder::slopes`](crate::Builder::slopes). ONNX `PRelu`, PyTorch
    /// `nn.PReLU`, TFLite `PRELU`.
    Prelu,
    /// `alpha * x + beta`, rounded once, limited to `0..=1`. ONNX `HardSigmoid`: 0.2 and 0.5 by default; PyTorch
    /// `nn.Hardsigmoid`: 1/6 and 0.5.
    HardSigmoid {
        /// What `x` is multiplied by.
        alpha: f32,
        /// What is added to the product.
        beta: f32,
    },
    /// `x * clamp(x / 6 + 1/2, 0, 1)`, within 2.5 ulp: -0 up to -3, also at -inf; `x` from 3 on. ONNX `HardSwish`, PyTorch
    /// `nn.Hardswish`, TFLite `HARD_SWISH`.
    HardSwish,
    /// `x / (1 + e^(-beta * x))`, within 2.8 ulp: for a positive `beta` -0 at -inf and +inf at +inf, for a negative one -inf
    /// and 0. ONNX `Swish` and, with a `beta` of 1, PyTorch `nn.SiLU`: see [`Activation::SILU`].
    ///
    /// This holds for a `beta` of at least 2^-32, of either sign. With a lesser one the result is too large where `beta * x`
    /// is below -132.
    Swish {
        /// The steepness of the gate.
        beta: f32,
    },
    /// `x / 2 * (1 + erf(x / sqrt(2)))`, within 2.9 ulp: -0 at -inf. ONNX `Gelu`, PyTorch `nn.GELU`, TFLite `GELU`.
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`, within 2.7 ulp: -0 at -inf. ONNX `Gelu` and PyTorch
    /// `nn.GELU` with `approximate="tanh"`, TFLite `GELU` with `approximate`.
    GeluTanh,
    /// `if x < 0 { alpha * (e^x - 1) } else { x }`, within 1.8 ulp: `-alpha` at -inf. ONNX `Elu`, PyTorch `nn.ELU`, TFLite
    /// `ELU`: `alpha` 1 by default.
    Elu {
        /// The limit at -inf, negated.
        alpha: f32,
    },
    /// `ln(1 + e^x)`, within 2 ulp: 0 at -inf. ONNX `Softplus`, PyTorch `nn.Softplus`.
    Softplus,
    /// `x * tanh(ln(1 + e^x))`, within 2.9 ulp: -0 at -inf. ONNX `Mish`, PyTorch `nn.Mish`.
    Mish,
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

impl ResidualOrder {
    /// The same, and always the first where there is but one order: with no activation between them.
    pub(crate) fn around(self, activation: Activation) -> Self {
        if activation == Activation::Identity { ResidualOrder::BeforeActivation } else { self }
    }
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

    /// Scale and shift, if there are any, and the slope for channels of the `p`-th panel, as `load` takes them from its rows.
    #[inline(always)]
    pub fn of_channels<L: Lanes>(
        &self,
        simd: L,
        p: usize,
        load: impl Fn(&Row) -> L::Vector,
    ) -> (Option<[L::Vector; 2]>, L::Vector) {
        match self.channels.get(p) {
            Some(Channels { scale, shift, slope }) => {
                (if self.scaled { Some([load(scale), load(shift)]) } else { None }, load(slope))
            }
            None => (None, simd.splat(0.0)),
        }
    }
}

impl Activation {
    /// `x` limited to `0..=6`. PyTorch `nn.ReLU6`, TFLite `RELU6`.
    ///
    /// # Example
    /// ```
    /// # use pointwise::Activation;
    /// assert_eq!(Activation::RELU6, Activation::Clamp { min: 0.0, max: 6.0 });
    /// ```
    pub const RELU6: Self = Activation::Clamp { min: 0.0, max: 6.0 };
    /// `x / (1 + e^-x)`. PyTorch `nn.SiLU`.
    ///
    /// # Example
    /// ```
    /// # use pointwise::Activation;
    /// assert_eq!(Activation::SILU, Activation::Swish { beta: 1.0 });
    /// ```
    pub const SILU: Self = Activation::Swish { beta: 1.0 };

    pub(crate) fn check(self) -> Result<(), Error> {
        let finite = |what, actual: f32| {
            if actual.is_finite() { Ok(()) } else { Err(Error::Parameter { what, actual }) }
        };
        // A comparison is arithmetic, too: flushed, two denormals are equal.
        in_default(|| match self {
            Activation::Clamp { min, max } if min.is_nan() || max.is_nan() || min > max => {
                Err(Error::Clamp { min, max })
            }
            Activation::LeakyRelu { slope } => finite("slope", slope),
            Activation::HardSigmoid { alpha, beta } => finite("alpha", alpha).and(finite("beta", beta)),
            Activation::Swish { beta } => finite("beta", beta),
            Activation::Elu { alpha } => finite("alpha", alpha),
            _ => Ok(()),
        })
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
/// As [`ROUND`], but for `2^(n + 64)`: so that `n` may be -127 and less.
const ROUND_UP_64: f32 = ROUND + 64.0;
/// `2^-64`, which goes with both.
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

/// The greatest `v` of [`gate`]. There the result rounds to zero even for the `x` that gives it with a `beta` of 2^-32:
/// `132 * 2^32 * e^-132` is below 2^-151.
const GATE_LIMIT: f32 = 132.0;
/// For `v` below this, `1 + e^v` rounds to one.
const GATE_OPEN: f32 = -20.0;

// For gelu_tanh: x (G1 + G3 x^2) (1 + G_REST) is -2 sqrt(2 / pi) (x + 0.044715 x^3). G1 is a multiple of 2^-20, so that
// the sum's error can be computed exactly; among those nearest to the true coefficient it is the one for which G3 is
// nearest to an f32: what is left of it is 2^-34.8 of it.
const G1: f32 = -1.595_648_8;
const G3: f32 = -0.071_349_435;
const G_REST: f32 = 7.542_765_3e-5;
/// At -11 [`gelu_tanh`] rounds to zero.
const GELU_TANH_LIMIT: f32 = 11.0;

/// At -14.4 [`gelu`] rounds to zero.
const GELU_LIMIT: f32 = 14.4;
/// [`gelu`] uses its polynomial below this and the exponential from here on.
const GELU_SPLIT: f32 = 0.5;

// Phi(x) = 1/2 + x (N0 + N2 v + N4 v^2 + N6 v^3) with v = -x^2 / 2, for |x| <= GELU_SPLIT, minimax for the relative error
// of x Phi(x), which is at most 2^-28.6.
const N0: f32 = 0.398_942_26;
const N2: f32 = 0.132_978_95;
const N4: f32 = 0.039_844_457;
const N6: f32 = 0.008_981_549;

// a Phi(-a) e^(a^2 / 2) = q (S0 + S1 p + ... + S8 p^8) with q = a / (a + GELU_SCALE) and p = q - GELU_CENTER, for
// GELU_SPLIT <= a <= GELU_LIMIT, minimax for the relative error, by exchange. The center is the one of the multiples of
// 2^-9 for which rounding all coefficients at once costs least: the error is at most 2^-25.8, and 2^-26.3 before.
const GELU_SCALE: f32 = 3.5;
const GELU_CENTER: f32 = 235.0 / 512.0;
const S0: f32 = 0.792_997_2;
const S1: f32 = -1.239_382;
const S2: f32 = 1.378_596_8;
const S3: f32 = -0.970_309_5;
const S4: f32 = 0.231_042_44;
const S5: f32 = 0.253_930_78;
const S6: f32 = -0.181_775_88;
const S7: f32 = -0.080_871_165;
const S8: f32 = 0.093_765_154;

/// At -20 `e^x - 1` rounds to -1.
const ELU_LIMIT: f32 = 20.0;

// ln(1 + t) = t + t^2 (L2 + L3 t + ... + L10 t^8) for 0 <= t <= 1, minimax for the relative error, by exchange, which is at
// most 2^-27.5.
const L2: f32 = -0.499_999_3;
const L3: f32 = 0.333_304_64;
const L4: f32 = -0.249_580_19;
const L5: f32 = 0.196_921_02;
const L6: f32 = -0.153_448_82;
const L7: f32 = 0.106_611_37;
const L8: f32 = -0.057_457_43;
const L9: f32 = 0.020_086_432;
const L10: f32 = -0.003_290_535_9;

/// At -110 [`mish`] rounds to zero.
const MISH_LIMIT: f32 = 110.0;
/// From here on `tanh(ln(1 + e^x))` rounds to one.
const MISH_OPEN: f32 = 20.0;

/// `-x`, which a fused multiply-add takes in at no cost: not counted as an operation.
#[inline(always)]
fn minus<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    simd.mul(x, simd.splat(-1.0))
}

/// `e^(v + tail)` as a pair `(power, fraction)` with `e^(v + tail) = 2^k * power * (1 + fraction)`.
///
/// `power` is a power of two, `fraction` lies within `[-0.2929, 0.4143]`, and `k` is 0 for
/// `round` = [`ROUND`], 64 for [`ROUND_DOWN_64`], -64 for [`ROUND_UP_64`]. `|v|` must be at most
/// [`GATE_LIMIT`], and `power` must come out normal. A NaN `v` gives a NaN `fraction`; `power` is
/// then arbitrary.
///
/// `tail` is what was rounded off `v` where `v` was computed: an error of `v` is a relative error of
/// `e^v`, and half an ulp of `v` = 90 is up to 64 ulp of the result.
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
/// Operations: 11 (8 fused, 1 sub, 1 mul, 1 shift), and 1 add with a tail.
#[inline(always)]
fn exp_parts<L: Lanes>(simd: L, v: L::Vector, tail: Option<L::Vector>, round: f32) -> (L::Vector, L::Vector) {
    let round = simd.splat(round);
    let biased = simd.mul_add(v, simd.splat(LOG2_E), round);
    let power = simd.shift_left_23(biased);
    let n = simd.sub(biased, round);

    // The first step is exact (v and n ln 2 are close, and fused, the product is not
    // rounded, so the full 24 bits of ln 2 may be used); only the second one rounds.
    let r = simd.mul_add(n, simd.splat(MINUS_LN_2_HIGH), v);
    let low = simd.splat(MINUS_LN_2_LOW);
    let r = match tail {
        None => simd.mul_add(n, low, r),
        Some(tail) => simd.add(r, simd.mul_add(n, low, tail)),
    };

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

    // A NaN is not above the limit and so stays.
    let a = simd.lesser(limit, simd.abs(x));
    let (power, fraction) = exp_parts(simd, a, None, ROUND_DOWN_64);

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

    // A NaN is not above the limit and so stays.
    let a = simd.lesser(limit, simd.abs(x));

    let (power, fraction) = exp_parts(simd, simd.add(a, a), None, ROUND);
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
///
/// Operations: 2 (1 mul, 1 select).
#[inline(always)]
pub(crate) fn leaky_relu<L: Lanes>(simd: L, x: L::Vector, slope: L::Vector) -> L::Vector {
    simd.select_less(x, simd.splat(0.0), simd.mul(slope, x), x)
}

/// `alpha x + beta`, limited to `[0, 1]`.
///
/// Operations: 3 (1 fused, 2 comparisons).
#[inline(always)]
fn hard_sigmoid<L: Lanes>(simd: L, x: L::Vector, alpha: f32, beta: f32) -> L::Vector {
    clamp(simd, simd.mul_add(simd.splat(alpha), x, simd.splat(beta)), 0.0, 1.0)
}

/// `x clamp(x + 3, 0, 6) / 6`, within 2.5 ulp.
///
/// The sum is exact near -3, where `x / 6 + 1/2` would lose all its bits.
///
/// Operations: 5 (1 add, 2 mul, 2 comparisons).
#[inline(always)]
fn hard_swish<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    // So that -inf is not multiplied by zero. A NaN stays.
    let x = simd.greater(simd.splat(-3.0), x);
    let gate = simd.lesser(simd.splat(6.0), simd.add(x, simd.splat(3.0)));
    // 6 times 1/6, which is rounded, is rounded to 1.
    simd.mul(x, simd.mul(gate, simd.splat(1.0 / 6.0)))
}

/// `x / (1 + e^(v + tail))` for `v` up to [`GATE_LIMIT`]; `x` for a `v` below [`GATE_OPEN`], whatever the tail. NaN for a NaN
/// `v`.
///
/// For the scale of `2^-64` see [`sigmoid`]. The error, at most 2.8 ulp (1.5 where the result is denormal), is that of the
/// division, of rounding the denominator and of [`exp_parts`].
///
/// Operations: 17 (9 fused, 1 div, 3 add and sub, 2 mul, 2 of bits and selects).
#[inline(always)]
fn gate<L: Lanes>(simd: L, x: L::Vector, v: L::Vector, tail: L::Vector) -> L::Vector {
    let scale = simd.splat(TWO_TO_MINUS_64);

    let (power, fraction) = exp_parts(simd, v, Some(tail), ROUND_DOWN_64);
    let denominator = simd.mul_add(power, fraction, simd.add(power, scale));
    let y = simd.mul(simd.div(x, denominator), scale);

    simd.select_less(v, simd.splat(GATE_OPEN), x, y)
}

/// `x / (1 + e^(-beta x))`, with the error of [`gate`].
///
/// Operations: 20 (10 fused, 1 div, 3 add and sub, 3 mul, 3 of bits and selects).
#[inline(always)]
fn swish<L: Lanes>(simd: L, x: L::Vector, beta: f32) -> L::Vector {
    // Where `-beta x` reaches the limit; behind it the result is zero. A NaN stays.
    let end = simd.splat(-GATE_LIMIT / beta);
    let x = if beta.is_sign_negative() { simd.lesser(end, x) } else { simd.greater(end, x) };

    // v + tail = -beta x, exactly.
    let v = simd.mul(simd.splat(-beta), x);
    let tail = simd.mul_add(simd.splat(-beta), x, minus(simd, v));
    gate(simd, x, v, tail)
}

/// `x / 2 (1 + tanh(u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, within 2.7 ulp (1.3 where it is denormal).
///
/// Formula: `x / (1 + e^(-2u))`, with `-2u` to about 34 bits.
///
/// Operations: 28 (16 fused, 1 div, 4 add and sub, 4 mul, 3 of bits and selects).
#[inline(always)]
fn gelu_tanh<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    let (g1, g3) = (simd.splat(G1), simd.splat(G3));

    // A NaN stays.
    let x = simd.greater(simd.splat(-GELU_TANH_LIMIT), x);
    let square = simd.mul(x, x);
    let square_tail = simd.mul_add(x, x, minus(simd, square));

    // w + w_tail = G1 + G3 x^2. The difference is exact, and so is the step that follows it.
    let w = simd.mul_add(g3, square, g1);
    let w_tail = simd.mul_add(g3, square, simd.sub(g1, w));
    let w_tail = simd.mul_add(g3, square_tail, w_tail);

    // v + tail = x (w + w_tail) (1 + G_REST) = -2u.
    let v = simd.mul(x, w);
    let tail = simd.mul_add(x, w, minus(simd, v));
    let tail = simd.mul_add(x, w_tail, tail);
    let tail = simd.mul_add(v, simd.splat(G_REST), tail);
    gate(simd, x, v, tail)
}

/// `x Phi(x)`, where `Phi(x) = (1 + erf(x / sqrt(2))) / 2`, within 2.9 ulp (1.5 where it is denormal).
///
/// Formula, with `a = |x|`: below [`GELU_SPLIT`] the polynomial; from there on `max(x, 0) - a Phi(-a)`, where `a Phi(-a)` is
/// `e^(-a^2 / 2)` times what the other polynomial gives. Both are computed and one is selected. The scale of `2^64` is there
/// because that product may be denormal: then the last step alone rounds it.
///
/// Operations: 41 (24 fused, 1 div, 5 add and sub, 6 mul, 5 of bits and selects).
#[inline(always)]
fn gelu<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    // A NaN stays.
    let a = simd.lesser(simd.splat(GELU_LIMIT), simd.abs(x));

    // v + tail = -a^2 / 2, exactly.
    let minus_half = simd.mul(a, simd.splat(-0.5));
    let v = simd.mul(minus_half, a);
    let tail = simd.mul_add(minus_half, a, minus(simd, v));
    let (power, fraction) = exp_parts(simd, v, Some(tail), ROUND_UP_64);

    let q = simd.div(a, simd.add(a, simd.splat(GELU_SCALE)));
    let p = simd.sub(q, simd.splat(GELU_CENTER));
    let s = simd.mul_add(simd.splat(S8), p, simd.splat(S7));
    let s = simd.mul_add(s, p, simd.splat(S6));
    let s = simd.mul_add(s, p, simd.splat(S5));
    let s = simd.mul_add(s, p, simd.splat(S4));
    let s = simd.mul_add(s, p, simd.splat(S3));
    let s = simd.mul_add(s, p, simd.splat(S2));
    let s = simd.mul_add(s, p, simd.splat(S1));
    let s = simd.mul_add(s, p, simd.splat(S0));
    // product + tail = q s, exactly.
    let product = simd.mul(q, s);
    let tail = simd.mul_add(q, s, minus(simd, product));
    let scaled = simd.mul(simd.add(product, simd.mul_add(product, fraction, tail)), power);
    let large = simd.mul_add(scaled, simd.splat(-TWO_TO_MINUS_64), relu(simd, x));

    let n = simd.mul_add(simd.splat(N6), v, simd.splat(N4));
    let n = simd.mul_add(n, v, simd.splat(N2));
    let n = simd.mul_add(n, v, simd.splat(N0));
    let small = simd.mul(x, simd.mul_add(n, x, simd.splat(0.5)));

    simd.select_less(a, simd.splat(GELU_SPLIT), small, large)
}

/// `if x < 0 { alpha (e^x - 1) } else { x }`, within 1.8 ulp (0.6 where it is denormal).
///
/// Formula: `alpha e^x - alpha`, where the product with the power of two is exact for `|alpha|` of 2^-97 and more. So is the
/// difference for small `x`.
///
/// Operations: 16 (9 fused, 2 sub, 2 mul, 3 of bits and selects).
#[inline(always)]
fn elu<L: Lanes>(simd: L, x: L::Vector, alpha: f32) -> L::Vector {
    let alpha = simd.splat(alpha);

    // A NaN stays. What comes out for a positive `x` is not used.
    let (power, fraction) = exp_parts(simd, simd.greater(simd.splat(-ELU_LIMIT), x), None, ROUND);
    let power = simd.mul(alpha, power);
    let y = simd.mul_add(power, fraction, simd.sub(power, alpha));

    simd.select_less(x, simd.splat(0.0), y, x)
}

/// `ln(1 + e^x)`, within 2 ulp (0.8 where it is denormal).
///
/// Formula: `max(x, 0) + ln(1 + t)` with `t = e^-|x|`. The scale of `2^64` is there because `t` may be denormal: then the
/// last step alone rounds it.
///
/// Operations: 29 (20 fused, 1 sub, 4 mul, 4 of bits and comparisons).
#[inline(always)]
fn softplus<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    let scale = simd.splat(TWO_TO_MINUS_64);

    // A NaN stays.
    let v = simd.greater(simd.splat(-EXP_LIMIT), minus(simd, simd.abs(x)));
    let (power, fraction) = exp_parts(simd, v, None, ROUND_UP_64);
    let scaled = simd.mul_add(power, fraction, power);
    let t = simd.mul(scaled, scale);

    let q = simd.mul_add(simd.splat(L10), t, simd.splat(L9));
    let q = simd.mul_add(q, t, simd.splat(L8));
    let q = simd.mul_add(q, t, simd.splat(L7));
    let q = simd.mul_add(q, t, simd.splat(L6));
    let q = simd.mul_add(q, t, simd.splat(L5));
    let q = simd.mul_add(q, t, simd.splat(L4));
    let q = simd.mul_add(q, t, simd.splat(L3));
    let q = simd.mul_add(q, t, simd.splat(L2));

    // t + t^2 q + max(x, 0): `t` in its two parts, because `scaled` is rounded, and the power last, because the others'
    // sum is smaller and so loses less.
    let rest = simd.mul_add(simd.mul(q, t), scaled, simd.mul(power, fraction));
    simd.mul_add(power, scale, simd.mul_add(rest, scale, relu(simd, x)))
}

/// `x tanh(ln(1 + e^x))`, within 2.9 ulp (1 where it is denormal).
///
/// Formula, with `e = e^x`: the hyperbolic tangent is `e (e + 2) / d` with `d = e (e + 2) + 2`. So the result is
/// `x - x 2 / d`, and for a negative `x`, where that would cancel, `e (x - x e (e + 1) / d)`: with the numerator selected,
/// the rest is shared. The scale of `2^64` is there because the latter may be denormal: then the last multiplication alone
/// rounds it.
///
/// Operations: 26 (13 fused, 1 div, 2 sub, 4 mul, 6 of bits and selects).
#[inline(always)]
fn mish<L: Lanes>(simd: L, x: L::Vector) -> L::Vector {
    let zero = simd.splat(0.0);
    let minus_two = simd.splat(-2.0);
    let scale = simd.splat(TWO_TO_MINUS_64);

    // A NaN stays.
    let base = simd.greater(simd.splat(-MISH_LIMIT), x);
    let v = simd.lesser(simd.splat(MISH_OPEN), base);
    let (power, fraction) = exp_parts(simd, v, None, ROUND_UP_64);
    let e = simd.mul(simd.mul_add(power, fraction, power), scale);

    // `v`, not `base`, times the quotient: infinity may not be subtracted from itself.
    let minus_d = simd.mul_add(e, simd.sub(minus_two, e), minus_two);
    let numerator = simd.select_less(x, zero, simd.mul_add(e, e, e), simd.splat(2.0));
    let y = simd.mul_add(v, simd.div(numerator, minus_d), base);
    let negative = simd.mul(simd.mul(simd.mul_add(y, fraction, y), power), scale);

    // The sign is that of `x` but for the negative zero, of which the difference made a positive one.
    simd.copy_sign(simd.select_less(x, zero, negative, y), x)
}

/// What wants to be compiled once for each activation: [`with_activation`] calls it with the function of a value and its
/// channel's slope.
pub(crate) trait WithActivation<L: Lanes> {
    type Output;
    fn call(self, activation: impl Fn(L::Vector, L::Vector) -> L::Vector) -> Self::Output;
}

/// Which activation is which function: the one place that knows, but for those of [`Epilogue::is_short`], which
/// `kernel::finish` and `kernel::narrow` do in registers too.
#[inline(always)]
pub(crate) fn with_activation<L: Lanes, F: WithActivation<L>>(simd: L, activation: Activation, f: F) -> F::Output {
    macro_rules! with {
        (|$x:ident, $slope:ident| $y:expr) => {
            f.call(
                #[inline(always)]
                |$x, $slope| {
                    // Pinned, or selects of `x` become masked stores, which are slow on AVX2.
                    let $x = simd.pin($x);
                    $y
                },
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
        Activation::LeakyRelu { slope } => with!(|x, _slope| leaky_relu(simd, x, simd.splat(slope))),
        Activation::HardSigmoid { alpha, beta } => with!(|x, _slope| hard_sigmoid(simd, x, alpha, beta)),
        Activation::HardSwish => with!(|x, _slope| hard_swish(simd, x)),
        Activation::Swish { beta } => with!(|x, _slope| swish(simd, x, beta)),
        Activation::Gelu => with!(|x, _slope| gelu(simd, x)),
        Activation::GeluTanh => with!(|x, _slope| gelu_tanh(simd, x)),
        Activation::Elu { alpha } => with!(|x, _slope| elu(simd, x, alpha)),
        Activation::Softplus => with!(|x, _slope| softplus(simd, x)),
        Activation::Mish => with!(|x, _slope| mish(simd, x)),
    }
}

/// All that follows the sum of one value or vector, and the order of it; the slope is the activation's second argument.
#[inline(always)]
pub(crate) fn finish<L: Lanes>(
    simd: L,
    sum: L::Vector,
    (scale_shift, slope): (Option<[L::Vector; 2]>, L::Vector),
    (residual, order): (Option<L::Vector>, ResidualOrder),
    activation: &impl Fn(L::Vector, L::Vector) -> L::Vector,
) -> L::Vector {
    let scaled = scale_shift.map_or(sum, |[scale, shift]| simd.mul_add(scale, sum, shift));
    match (residual, order) {
        (None, _) => activation(scaled, slope),
        (Some(residual), ResidualOrder::BeforeActivation) => activation(simd.add(residual, scaled), slope),
        (Some(residual), ResidualOrder::AfterActivation) => simd.add(residual, activation(scaled, slope)),
    }
}
