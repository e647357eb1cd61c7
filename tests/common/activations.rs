//! The activations, and how far each may be from the truth.

use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};

/// All activations, those with parameters at three of each.
pub const ALL: [Activation; 24] = [
    Activation::Identity,
    Activation::Relu,
    Activation::RELU6,
    Activation::Clamp { min: -1.0, max: 1.0 },
    Activation::Clamp { min: f32::NEG_INFINITY, max: 0.1 },
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::LeakyRelu { slope: 0.01 },
    Activation::LeakyRelu { slope: 0.3 },
    Activation::LeakyRelu { slope: -0.7 },
    Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
    Activation::HardSigmoid { alpha: -3.0, beta: 0.1 },
    Activation::HardSwish,
    Activation::SILU,
    Activation::Swish { beta: 1.702 },
    Activation::Swish { beta: -0.03 },
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Elu { alpha: 1.0 },
    Activation::Elu { alpha: 1.673_263_2 },
    Activation::Elu { alpha: -0.1 },
    Activation::Softplus,
    Activation::Mish,
];

/// The greatest documented error in ulp where the true result is normal, and where it is denormal.
pub fn bounds(activation: Activation) -> [f64; 2] {
    match activation {
        Activation::Identity | Activation::Relu | Activation::Clamp { .. } => [0.0, 0.0],
        Activation::Sigmoid => [0.987, 0.908],
        Activation::Tanh => [1.066, 0.0],
        Activation::LeakyRelu { .. } | Activation::HardSigmoid { .. } => [0.5, 0.5],
        Activation::HardSwish => [2.5, 0.5],
        Activation::Swish { .. } => [2.8, 1.5],
        Activation::Gelu => [2.9, 1.5],
        Activation::GeluTanh => [2.7, 1.3],
        Activation::Elu { .. } => [1.8, 0.6],
        Activation::Softplus => [2.0, 0.8],
        Activation::Mish => [2.9, 1.0],
        other => unreachable!("{other:?} has no bounds"),
    }
}

/// The activation of many values as the public interface computes it: a convolution of one channel with weight 1, on the
/// best ISA. The bias of -0 keeps the sign of zeros.
pub fn apply(activation: Activation, x: &[f32], y: &mut [f32]) {
    let conv = PointwiseConv::builder(1, 1).bias(&[-0.0]).activation(activation).build(&[1.0]).expect("it builds");
    let shape = [1, 1, x.len(), 1];
    conv.run(Nhwc::new(x, shape).expect("a view"), NhwcMut::new(y, shape).expect("a view")).expect("it runs");
}

/// The spacing of f32 numbers at `value`, at least 2^-149.
pub fn ulp(value: f64) -> f64 {
    let exponent = (value.abs().to_bits() >> 52).max(1023 - 126);
    f64::from_bits((exponent - 23) << 52)
}
