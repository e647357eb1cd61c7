//! Layers as networks have them, checked by an independent computation in f64 with an error bound.
//!
//! The bound: a chain of K fused multiply-adds in f32 errs by at most `K * eps / 2 * (|b| + sum |x| |w|)` and a little
//! (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1), and the activations here have slopes of at most 1.

mod common;

use common::{Values, fill, rng};
use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv, Shape};

/// A layer with its weights.
struct Layer {
    k: usize,
    f: usize,
    stride: usize,
    activation: Activation,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    fn new(k: usize, f: usize, activation: Activation, seed: u64) -> Self {
        let mut rng = rng(seed);
        let weights = fill(k * f, Values::Ordinary, &mut rng);
        Layer { k, f, stride: 1, activation, weights, bias: fill(f, Values::Ordinary, &mut rng) }
    }

    fn conv(&self) -> PointwiseConv {
        PointwiseConv::builder(self.k, self.f)
            .bias(&self.bias)
            .activation(self.activation)
            .stride(self.stride, self.stride)
            .build(&self.weights)
            .unwrap()
    }

    fn output(&self, [n, h, w, _]: Shape) -> Shape {
        [n, h.div_ceil(self.stride), w.div_ceil(self.stride), self.f]
    }

    /// Runs the layer, checks every output value, and returns the output.
    fn run(&self, x: &[f32], input: Shape, residual: Option<&[f32]>) -> Vec<f32> {
        let output = self.output(input);
        let mut y = vec![f32::NAN; output.iter().product()];
        let (view, out) = (Nhwc::new(x, input).unwrap(), NhwcMut::new(&mut y, output).unwrap());
        match residual {
            Some(residual) => self.conv().run_residual(view, Nhwc::new(residual, output).unwrap(), out).unwrap(),
            None => self.conv().run(view, out).unwrap(),
        }
        self.check(x, input, residual, &y);
        y
    }

    fn check(&self, x: &[f32], input: Shape, residual: Option<&[f32]>, y: &[f32]) {
        let [n, h, w, k] = input;
        let [_, ho, wo, f] = self.output(input);
        assert_eq!(y.len(), n * ho * wo * f);
        for (at, got) in y.iter().enumerate() {
            let (p, f) = (at / self.f, at % self.f);
            let (image, i, j) = (p / (ho * wo), p / wo % ho * self.stride, p % wo * self.stride);
            let pixel = &x[((image * h + i) * w + j) * k..][..k];
            let products = || pixel.iter().zip(&self.weights[f * k..][..k]).map(|(x, w)| *x as f64 * *w as f64);
            let residual = residual.map_or(0.0, |residual| residual[at] as f64);
            let sum: f64 = products().sum::<f64>() + self.bias[f] as f64 + residual;
            let size: f64 = products().map(f64::abs).sum::<f64>() + (self.bias[f] as f64).abs() + residual.abs();
            let expected = match self.activation {
                Activation::Identity => sum,
                Activation::Relu => sum.max(0.0),
                Activation::Clamp { min, max } => sum.clamp(min as f64, max as f64),
                Activation::Sigmoid => 1.0 / (1.0 + (-sum).exp()),
                Activation::Tanh => sum.tanh(),
                other => panic!("{other:?}: no formula here"),
            };
            let bound = (k as f64 + 4.0) * f32::EPSILON as f64 / 2.0 * size + 2.0 * f32::EPSILON as f64;
            let error = (*got as f64 - expected).abs();
            assert!(error <= bound, "value {at}: expected {expected}, got {got}: off by {error:e}, bound {bound:e}");
        }
    }
}

fn input(shape: Shape) -> Vec<f32> {
    fill(shape.iter().product(), Values::Ordinary, &mut rng(99))
}

/// Network in Network, CIFAR-10: the two 1x1 layers behind its first convolution.
#[test]
fn network_in_network_block() {
    let shape = [1, 32, 32, 192];
    let (first, second) = (Layer::new(192, 160, Activation::Relu, 1), Layer::new(160, 96, Activation::Relu, 2));
    let hidden = first.run(&input(shape), shape, None);
    let y = second.run(&hidden, [1, 32, 32, 160], None);
    assert!(y.iter().all(|value| *value >= 0.0) && y.iter().any(|value| *value > 0.0));
}

/// GoogLeNet's inception 3a: three convolutions of one input, written side by side into one tensor of 176 channels.
#[test]
fn inception_reductions_side_by_side() {
    let shape = [1, 28, 28, 192];
    let x = input(shape);
    let heads: Vec<Layer> = [64, 96, 16].iter().map(|f| Layer::new(192, *f, Activation::Relu, *f as u64)).collect();
    let width = 176;
    let mut y = vec![f32::NAN; 28 * 28 * width];
    let mut first = 0;
    for head in &heads {
        let view = NhwcMut::with_strides(&mut y[first..], [1, 28, 28, head.f], [28 * 28 * width, 28 * width, width]);
        head.conv().run(Nhwc::new(&x, shape).unwrap(), view.unwrap()).unwrap();
        first += head.f;
    }
    first = 0;
    for head in &heads {
        let own: Vec<f32> = y.chunks_exact(width).flat_map(|pixel| pixel[first..][..head.f].to_vec()).collect();
        head.check(&x, shape, None, &own);
        first += head.f;
    }
}

/// DeepPhys' attention: 32 channels to one map, through a sigmoid, normalised to half its size.
#[test]
fn attention_mask() {
    let shape = [2, 36, 36, 32];
    let mask = Layer::new(32, 1, Activation::Sigmoid, 3).run(&input(shape), shape, None);
    assert!(mask.iter().all(|value| (0.0..=1.0).contains(value)));
    let sum: f64 = mask[..36 * 36].iter().map(|value| *value as f64).sum();
    let normalised: f64 = mask[..36 * 36].iter().map(|value| *value as f64 * (36.0 * 36.0) / (2.0 * sum)).sum();
    assert!((normalised - 36.0 * 18.0).abs() < 1e-6);
}

/// A classifier: H = W = 1 is a fully connected layer.
#[test]
fn fully_connected() {
    let shape = [3, 1, 1, 1280];
    Layer::new(1280, 1000, Activation::Identity, 4).run(&input(shape), shape, None);
}

/// ResNet-50's shortcut with stride 2, and the block's last layer added to it.
#[test]
fn resnet_shortcut() {
    let shape = [1, 14, 14, 256];
    let shortcut = Layer { stride: 2, ..Layer::new(256, 512, Activation::Identity, 5) };
    let residual = shortcut.run(&input(shape), shape, None);
    let shape = [1, 7, 7, 128];
    Layer::new(128, 512, Activation::Relu, 6).run(&input(shape), shape, Some(&residual));
}

/// MobileNetV2's inverted bottleneck: expand with relu6, project with nothing behind it.
#[test]
fn inverted_bottleneck() {
    let shape = [1, 14, 14, 64];
    let relu6 = Activation::Clamp { min: 0.0, max: 6.0 };
    let hidden = Layer::new(64, 384, relu6, 7).run(&input(shape), shape, None);
    assert!(hidden.iter().all(|value| (0.0..=6.0).contains(value)));
    Layer::new(384, 24, Activation::Tanh, 8).run(&hidden, [1, 14, 14, 384], None);
}
