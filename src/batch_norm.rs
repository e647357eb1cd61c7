//! Batch normalisation, folded into the convolution in front of it.

use crate::{Error, environment::in_default};
use alloc::vec::Vec;

/// The weights and biases of a convolution that does what this one and a batch norm behind it do.
///
/// ```text
/// scale[f]      = gamma[f] / sqrt(variance[f] + eps)
/// weights[f, k] = scale[f] * weights[f, k]
/// bias[f]       = beta[f] + scale[f] * (bias[f] - mean[f])
/// ```
///
/// `weights` is `[F, K]`, row-major, where K is the input channels of a group; all others hold F values. This is the transform
/// of S. Ioffe and C. Szegedy, "Batch Normalization" (2015), with the statistics of inference. It is computed in f64, and
/// rounded once.
///
/// # Errors
/// [`Error::Length`] where a slice has not F values, as `gamma` has, or the weights are no multiple of that;
/// [`Error::Variance`] where the square root has no positive argument.
///
/// # Example
/// ```
/// use pointwise::{PointwiseConv, fold_batch_norm};
/// // ONNX BatchNormalization, PyTorch nn.BatchNorm2d: eps is 1e-5 by default.
/// let (gamma, beta, mean, variance) = ([2.0], [0.5], [1.0], [4.0]);
/// let (weights, bias) = fold_batch_norm(&[3.0, 5.0], None, &gamma, &beta, &mean, &variance, 0.0)?;
/// assert_eq!((&weights[..], &bias[..]), (&[3.0, 5.0][..], &[-0.5][..]));
/// let conv = PointwiseConv::builder(2, 1).bias(&bias).build(&weights)?;
/// # Ok::<(), pointwise::Error>(())
/// ```
pub fn fold_batch_norm(
    weights: &[f32],
    bias: Option<&[f32]>,
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    eps: f32,
) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let out_channels = gamma.len();
    let in_channels = weights.len().checked_div(out_channels).unwrap_or(0);
    for (what, actual, expected) in [
        ("weights", weights.len(), in_channels * out_channels),
        ("bias", bias.map_or(out_channels, <[f32]>::len), out_channels),
        ("beta", beta.len(), out_channels),
        ("mean", mean.len(), out_channels),
        ("variance", variance.len(), out_channels),
    ] {
        if actual != expected {
            return Err(Error::Length { what, expected, actual });
        }
    }
    in_default(|| {
        let eps = f64::from(eps);
        // Not that of NaN.
        let has_root = |variance: f32| f64::from(variance) + eps > 0.0;
        if let Some((channel, actual)) = variance.iter().enumerate().find(|(_, v)| !has_root(**v)) {
            return Err(Error::Variance { channel, actual: *actual });
        }
        let scale = |f: usize| f64::from(gamma[f]) / libm::sqrt(f64::from(variance[f]) + eps);
        let folded = |f: usize| {
            let (scale, of_channel) = (scale(f), &weights[f * in_channels..][..in_channels]);
            of_channel.iter().map(move |weight| (scale * f64::from(*weight)) as f32)
        };
        let bias = |f: usize| {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[f]));
            (f64::from(beta[f]) + scale(f) * (bias - f64::from(mean[f]))) as f32
        };
        Ok(((0..out_channels).flat_map(folded).collect(), (0..out_channels).map(bias).collect()))
    })
}
