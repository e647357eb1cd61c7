//! Every small shape on every ISA: all numbers of pixels up to two tiles and one, all F up to four panels and three, all
//! small K and those around powers of two.
//!
//! `POINTWISE_TEST_GRID_STEP` takes only every so many-th shape, for emulated CPUs.

mod common;

use common::{Case, assert_same};
use pointwise::{Activation, Nhwc, NhwcMut};

/// The most pixels of a tile on any ISA.
const MAX_ROWS: usize = 14;

#[test]
fn every_small_shape() {
    let step = std::env::var("POINTWISE_TEST_GRID_STEP").map_or(1, |step| step.parse().expect("a number"));
    let powers = [31, 32, 33, 63, 64, 65, 127, 128, 129];
    let most = 2 * MAX_ROWS + 1;
    let shapes: Vec<_> = (0..20).chain(powers).flat_map(|k| (0..=67).map(move |f| (k, f))).collect();
    let mut runs = 0;
    for (i, &(k, f)) in shapes.iter().enumerate().step_by(step) {
        let activation = [Activation::Identity, Activation::Relu, Activation::Clamp { min: -0.5, max: 0.5 }][i % 3];
        let case = Case {
            input: [1, 1, most, k],
            out_channels: f,
            bias: i % 2 == 0,
            activation,
            seed: i as u64,
            ..Case::default()
        };
        let tensors = case.tensors();
        // Pixels do not see each other: the reference of fewer pixels is the start of that of most.
        let expected = case.reference(&tensors);
        for isa in common::isas() {
            let conv = case.build(&tensors, *isa).expect("the case builds");
            for pixels in 0..=most {
                let mut y = vec![f32::NAN; pixels * f];
                let x = Nhwc::new(&tensors.x[..pixels * k], [1, 1, pixels, k]).expect("a view of the input");
                conv.run(x, NhwcMut::new(&mut y, [1, 1, pixels, f]).expect("a view of the output")).expect("it runs");
                assert_same(&y, &expected[..pixels * f], format_args!("{isa}: {pixels} pixels, K {k}, F {f}"));
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}
