//! How far sigmoid and tanh are from the truth, as the public interface computes them: a convolution of one channel with
//! weight 1, on the best ISA.
//!
//! `cargo test --release --test accuracy -- --ignored --nocapture` tries all 2^32 inputs.

mod common;

use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};

/// The spacing of f32 numbers at `value`, at least 2^-149.
fn ulp(value: f64) -> f64 {
    let exponent = (value.abs().to_bits() >> 52) as i32 - 1023;
    2f64.powi(exponent.max(-126) - 23)
}

fn sigmoid(x: f64) -> f64 {
    // e^-|x| is at most 1: no cancellation, no overflow.
    let e = (-x.abs()).exp();
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

/// The greatest error in ulp over every `step`-th of all 2^32 floats, and where it is.
fn worst(activation: Activation, truth: fn(f64) -> f64, step: usize) -> (f64, f32) {
    let conv = PointwiseConv::builder(1, 1).activation(activation).build(&[1.0]).expect("it builds");
    let mut worst = (0.0, 0.0);
    let inputs = (0..=u32::MAX).step_by(step);
    let mut x: Vec<f32> = Vec::with_capacity(1 << 16);
    let mut y = vec![0.0; 1 << 16];
    let mut rest = inputs.map(f32::from_bits);
    loop {
        x.clear();
        x.extend(rest.by_ref().take(1 << 16));
        if x.is_empty() {
            return worst;
        }
        let (shape, y) = ([1, 1, x.len(), 1], &mut y[..x.len()]);
        conv.run(Nhwc::new(&x, shape).expect("a view"), NhwcMut::new(y, shape).expect("a view")).expect("it runs");
        for (x, got) in x.iter().zip(y) {
            if x.is_nan() {
                assert!(got.is_nan(), "{activation:?}({x}): expected NaN, got {got}");
                continue;
            }
            let expected = truth(*x as f64);
            let error = (*got as f64 - expected).abs() / ulp(expected);
            assert!(!error.is_nan(), "{activation:?}({x}): expected {expected}, got {got}");
            if error > worst.0 {
                worst = (error, *x);
            }
        }
    }
}

fn check(step: usize) {
    for (activation, truth, bound) in
        [(Activation::Sigmoid, sigmoid as fn(f64) -> f64, 0.987), (Activation::Tanh, f64::tanh, 1.066)]
    {
        let (error, at) = worst(activation, truth, step);
        println!("{activation:?}: {error:.5} ulp at {at:e}");
        assert!(error <= bound, "{activation:?}: expected at most {bound} ulp, got {error} at {at:e}");
    }
}

#[test]
fn a_sample_is_within_the_documented_error() {
    // A prime, so that all parts of the bits vary: ten million floats.
    check(429);
}

#[test]
#[ignore = "two minutes in a release build"]
fn every_float_is_within_the_documented_error() {
    check(1);
}

#[test]
fn special_values() {
    let run = |activation, x: f32| {
        let conv = PointwiseConv::builder(1, 1).bias(&[-0.0]).activation(activation).build(&[1.0]).unwrap();
        let (mut y, shape) = ([f32::NAN], [1, 1, 1, 1]);
        conv.run(Nhwc::new(&[x], shape).unwrap(), NhwcMut::new(&mut y, shape).unwrap()).unwrap();
        y[0].to_bits()
    };
    let (inf, tiny) = (f32::INFINITY, f32::from_bits(1));
    for (x, sigmoid, tanh) in
        [(inf, 1.0, 1.0), (-inf, 0.0, -1.0), (0.0, 0.5, 0.0), (-0.0, 0.5, -0.0), (tiny, 0.5, tiny), (-tiny, 0.5, -tiny)]
    {
        assert_eq!(run(Activation::Sigmoid, x), f32::to_bits(sigmoid), "sigmoid({x})");
        assert_eq!(run(Activation::Tanh, x), f32::to_bits(tanh), "tanh({x})");
    }
    for x in [f32::NAN, -f32::NAN] {
        for activation in [
            Activation::Identity,
            Activation::Relu,
            Activation::Clamp { min: 0.0, max: 6.0 },
            Activation::Sigmoid,
            Activation::Tanh,
        ] {
            assert!(f32::from_bits(run(activation, x)).is_nan(), "{activation:?}(NaN)");
        }
    }
    assert_eq!(run(Activation::Relu, -0.0), (-0.0f32).to_bits(), "relu keeps the negative zero");
}
