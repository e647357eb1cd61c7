//! A folded batch norm does what the batch norm does behind the convolution, in f64.

mod common;

use common::Values;
use pointwise::{Error, Nhwc, NhwcMut, PointwiseConv, fold_batch_norm};

#[test]
fn folded_is_the_same_as_apart() {
    let (pixels, k, f, eps) = (7, 19, 21, 1e-5);
    let mut rng = common::rng(3);
    let mut fill = |len| common::fill(len, Values::Ordinary, &mut rng);
    let [x, weights] = [fill(pixels * k), fill(f * k)];
    let [bias, gamma, beta, mean] = [fill(f), fill(f), fill(f), fill(f)];
    let variance: Vec<f32> = fill(f).iter().map(|v| v * v).collect();
    let (folded, folded_bias) = fold_batch_norm(&weights, Some(&bias), &gamma, &beta, &mean, &variance, eps).unwrap();
    let conv = PointwiseConv::builder(k, f).bias(&folded_bias).build(&folded).unwrap();
    let mut y = vec![0.0; pixels * f];
    conv.run(Nhwc::new(&x, [1, 1, pixels, k]).unwrap(), NhwcMut::new(&mut y, [1, 1, pixels, f]).unwrap()).unwrap();
    for (i, got) in y.iter().enumerate() {
        let (p, f) = (i / f, i % f);
        let of = |values: &[f32]| f64::from(values[f]);
        let products = (0..k).map(|k_| f64::from(x[p * k + k_]) * f64::from(weights[f * k + k_]));
        let deviation = (of(&variance) + f64::from(eps)).sqrt();
        let (sum, size) = products.fold((of(&bias), of(&bias).abs()), |(sum, size), p| (sum + p, size + p.abs()));
        let expected = of(&gamma) * (sum - of(&mean)) / deviation + of(&beta);
        // Each folded weight is rounded, and each of K + 1 steps rounds a sum that is no larger than those of magnitudes.
        let size = (of(&gamma) / deviation).abs() * (size + of(&mean).abs()) + of(&beta).abs();
        let bound = (k as f64 + 2.0) * size * f64::from(f32::EPSILON) / 2.0;
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= bound, "pixel {p}, channel {f}: expected {expected} within {bound}, got {got}");
    }
}

#[test]
fn what_is_folded_is_rounded_once() {
    let (weights, gamma, variance) = ([0.1f32, -3.7, 1e-3], [1.3f32], [0.7f32]);
    let (folded, bias) = fold_batch_norm(&weights, None, &gamma, &[0.2], &[0.4], &variance, 1e-3).unwrap();
    let scale = f64::from(gamma[0]) / (f64::from(variance[0]) + f64::from(1e-3f32)).sqrt();
    assert_eq!(folded, weights.map(|w| (scale * f64::from(w)) as f32));
    assert_eq!(bias, [(f64::from(0.2f32) - scale * f64::from(0.4f32)) as f32]);
}

#[test]
fn errors() {
    let (one, two) = (&[1.0][..], &[1.0, 1.0][..]);
    let length = |what, expected, actual| Err(Error::Length { what, expected, actual });
    assert_eq!(fold_batch_norm(&[1.0; 3], None, two, two, two, two, 0.1), length("weights", 2, 3));
    assert_eq!(fold_batch_norm(&[1.0; 4], Some(one), two, two, two, two, 0.1), length("bias", 2, 1));
    assert_eq!(fold_batch_norm(&[1.0; 4], None, two, one, two, two, 0.1), length("beta", 2, 1));
    assert_eq!(fold_batch_norm(&[1.0; 4], None, two, two, one, two, 0.1), length("mean", 2, 1));
    assert_eq!(fold_batch_norm(&[1.0; 4], None, two, two, two, one, 0.1), length("variance", 2, 1));
    assert_eq!(fold_batch_norm(&[1.0], None, &[], &[], &[], &[], 0.1), length("weights", 0, 1));
    let error = fold_batch_norm(one, None, one, one, one, &[-0.5], 0.5).unwrap_err();
    assert_eq!(error.to_string(), "variance: expected more than -eps in channel 0, got -0.5");
    let error = fold_batch_norm(one, None, one, one, one, &[f32::NAN], 0.1).unwrap_err();
    assert_eq!(error.to_string(), "variance: expected more than -eps in channel 0, got NaN");
    assert!(fold_batch_norm(one, None, one, one, one, one, f32::NAN).is_err());
    assert_eq!(fold_batch_norm(&[], None, &[], &[], &[], &[], 0.1), Ok((vec![], vec![])));
    assert_eq!(fold_batch_norm(&[], None, one, &[3.0], &[0.0], one, 0.1), Ok((vec![], vec![3.0])));
}
