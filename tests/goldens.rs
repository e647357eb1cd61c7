//! Activations against results that were computed to 50 digits: `goldens.csv`, which `goldens.py` writes.

mod common;

use common::activations::{apply, bounds, ulp};
use pointwise::Activation;
use std::collections::HashSet;

/// A number's bits, in hexadecimal.
fn float(bits: &str) -> f32 {
    f32::from_bits(u32::from_str_radix(bits, 16).expect("eight hexadecimal digits"))
}

#[test]
fn results_are_within_the_documented_error() {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens.csv");
    let (mut names, mut count) = (HashSet::new(), 0);
    for record in csv::Reader::from_path(goldens).expect("the file").records() {
        let record = record.expect("a record");
        names.insert(record[0].to_owned());
        count += 1;
        let [a, b, x, rounded] = [1, 2, 3, 4].map(|column| float(&record[column]));
        let exact: f64 = record[5].parse().expect("a number");
        let activation = match &record[0] {
            "identity" => Activation::Identity,
            "relu" => Activation::Relu,
            "clamp" => Activation::Clamp { min: a, max: b },
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "leaky_relu" => Activation::LeakyRelu { slope: a },
            "hard_sigmoid" => Activation::HardSigmoid { alpha: a, beta: b },
            "hard_swish" => Activation::HardSwish,
            "swish" => Activation::Swish { beta: a },
            "gelu" => Activation::Gelu,
            "gelu_tanh" => Activation::GeluTanh,
            "elu" => Activation::Elu { alpha: a },
            "softplus" => Activation::Softplus,
            "mish" => Activation::Mish,
            other => panic!("{other}: not an activation"),
        };
        // Infinities are equal, or wrong.
        let error = |y: f32| if y as f64 == exact { 0.0 } else { (y as f64 - exact).abs() / ulp(exact) };
        assert!(error(rounded) <= 0.5, "{activation:?}({x:e}): the decimal and the bits differ");

        let mut y = [f32::NAN];
        apply(activation, &[x], &mut y);
        let [got] = y;
        let normal = exact.abs() >= f32::MIN_POSITIVE as f64;
        let bound = bounds(activation)[usize::from(!normal)];
        assert!(error(got) <= bound, "{activation:?}({x:e}): expected {rounded:e} within {bound} ulp, got {got:e}");
    }
    assert_eq!((names.len(), count), (14, 707), "every activation has goldens: {names:?}");
}
