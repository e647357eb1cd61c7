//! The definition of every output bit: plain loops, no cleverness.
//!
//! ```text
//! sum = b[f] + sum over k of x[n, i * sh, j * sw, k] * w[f, k]
//! y[n, i, j, f] = act(residual[n, i, j, f] + (shift[f] + scale[f] * sum))
//! ```
//!
//! where the sum is one chain of fused multiply-adds that starts at the bias and takes k in ascending order, and scale and
//! shift, if there are any, are one more. The residual may be added after the activation instead. All kernels give these
//! bits. The formula is the cross-channel parametric pooling of Lin, Chen and Yan, "Network in
//! Network" (2013), section 3.2, in front of its activation.

use crate::{
    Activation, Error, Nhwc, NhwcMut, ResidualOrder,
    conv::{check_channels, check_per_channel, check_stride, check_weights},
    environment::in_default,
    epilogue::{self, WithActivation},
    kernel::{Lanes, Scalar},
    plan::divide_up,
    run::check_shapes,
};

/// A 1x1 convolution, as [`PointwiseConv`](crate::PointwiseConv) computes it, by plain loops.
///
/// # Example
/// ```
/// use pointwise::{Activation, Nhwc, NhwcMut, reference::Reference};
///
/// let reference = Reference {
///     out_channels: 1,
///     weights: &[2.0, -1.0],
///     bias: Some(&[0.5]),
///     activation: Activation::Relu,
///     ..Reference::default()
/// };
/// let mut y = [f32::NAN; 2];
/// reference.run(
///     Nhwc::new(&[1.0, 1.0, 0.0, 4.0], [1, 1, 2, 2])?,
///     None,
///     NhwcMut::new(&mut y, [1, 1, 2, 1])?,
/// )?;
/// assert_eq!(y, [1.5, 0.0]);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// F.
    pub out_channels: usize,
    /// Vertical and horizontal stride, 1 or more.
    pub stride: (usize, usize),
    /// Groups that input and output channels are cut into.
    pub groups: usize,
    /// `[out_channels, in_channels / groups]`, row-major.
    pub weights: &'a [f32],
    /// `out_channels` values, or zeros.
    pub bias: Option<&'a [f32]>,
    /// `out_channels` values each, or ones and zeros.
    pub scale_shift: Option<(&'a [f32], &'a [f32])>,
    /// What follows.
    pub activation: Activation,
    /// `out_channels` values for [`Activation::Prelu`], and only for it.
    pub slopes: Option<&'a [f32]>,
    /// Where the residual is added.
    pub residual: ResidualOrder,
}

/// No output channels, stride 1, one group, nothing that follows the sum.
impl Default for Reference<'_> {
    fn default() -> Self {
        Self {
            out_channels: 0,
            stride: (1, 1),
            groups: 1,
            weights: &[],
            bias: None,
            scale_shift: None,
            activation: Activation::Identity,
            slopes: None,
            residual: ResidualOrder::BeforeActivation,
        }
    }
}

impl Reference<'_> {
    /// Computes `y`.
    ///
    /// # Errors
    /// As [`PointwiseConv::run_residual`](crate::PointwiseConv::run_residual) and [`Builder::build`](crate::Builder::build).
    ///
    /// # Example
    /// ```
    /// use pointwise::{Nhwc, NhwcMut, reference::Reference};
    /// let sum = Reference { out_channels: 1, weights: &[1.0, 1.0], ..Reference::default() };
    /// let (mut y, shape) = ([0.0], [1, 1, 1, 1]);
    /// let residual = Nhwc::new(&[0.5], shape)?;
    /// sum.run(Nhwc::new(&[1.0, 2.0], [1, 1, 1, 2])?, Some(residual), NhwcMut::new(&mut y, shape)?)?;
    /// assert_eq!(y, [3.5]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn run(&self, x: Nhwc<'_>, residual: Option<Nhwc<'_>>, mut y: NhwcMut<'_>) -> Result<(), Error> {
        let [n, h, w, in_channels] = x.shape();
        let (k, f) = check_channels(in_channels, self.out_channels, self.groups)?;
        check_stride(self.stride)?;
        self.activation.check()?;
        check_weights(self.weights, self.out_channels, k)?;
        check_per_channel(self.out_channels, self.bias, self.scale_shift, (self.activation, self.slopes))?;
        let [ho, wo] = [divide_up(h, self.stride.0), divide_up(w, self.stride.1)];
        check_shapes([n, ho, wo, self.out_channels], &y, residual.as_ref())?;

        in_default(|| {
            for image in 0..n {
                for i in 0..ho {
                    for j in 0..wo {
                        let pixel = x.pixel(image, i * self.stride.0, j * self.stride.1).expect("inside the input");
                        let residual = residual.map(|r| r.pixel(image, i, j).expect("inside the residual"));
                        let out = y.pixel_mut(image, i, j).expect("inside the output");
                        for (channel, out) in out.iter_mut().enumerate() {
                            let first = channel / f * k;
                            let mut sum = self.bias.map_or(0.0, |bias| bias[channel]);
                            for (x, weight) in pixel[first..].iter().zip(&self.weights[channel * k..][..k]) {
                                sum = Scalar.mul_add(*x, *weight, sum);
                            }
                            let value = Value {
                                sum,
                                scale_shift: self.scale_shift.map(|(scale, shift)| [scale[channel], shift[channel]]),
                                residual: (residual.map(|residual| residual[channel]), self.residual),
                                // An activation without slopes may be given an empty slice of them.
                                slope: self.slopes.and_then(|slopes| slopes.get(channel)).copied().unwrap_or(0.0),
                            };
                            *out = epilogue::with_activation(Scalar, self.activation, value);
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

/// A sum, and what follows it.
pub(crate) struct Value {
    pub sum: f32,
    pub scale_shift: Option<[f32; 2]>,
    pub residual: (Option<f32>, ResidualOrder),
    pub slope: f32,
}

impl WithActivation<Scalar> for Value {
    type Output = f32;

    fn call(self, activation: impl Fn(f32, f32) -> f32) -> f32 {
        epilogue::finish(Scalar, self.sum, (self.scale_shift, self.slope), self.residual, &activation)
    }
}
