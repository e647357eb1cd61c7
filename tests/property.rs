//! Random convolutions, with everything that a user can vary, give the reference's bits on every ISA.
//!
//! `PROPTEST_CASES` sets how many are tried.

mod common;

use common::{Case, Padding, Values};
use pointwise::{Activation, ResidualOrder, Tail, Tile};
use proptest::{prelude::*, test_runner::Config};

/// Any finite number, most of them such as networks have.
fn parameter() -> impl Strategy<Value = f32> {
    prop_oneof![3 => -2.0f32..2.0, 1 => any::<f32>().prop_filter("finite", |x| x.is_finite())]
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::Identity),
        Just(Activation::Relu),
        Just(Activation::RELU6),
        (-2.0f32..0.0, 0.0f32..2.0).prop_map(|(min, max)| Activation::Clamp { min, max }),
        Just(Activation::Clamp { min: f32::NEG_INFINITY, max: f32::INFINITY }),
        Just(Activation::Prelu),
        Just(Activation::Sigmoid),
        Just(Activation::Tanh),
        parameter().prop_map(|slope| Activation::LeakyRelu { slope }),
        (parameter(), parameter()).prop_map(|(alpha, beta)| Activation::HardSigmoid { alpha, beta }),
        Just(Activation::HardSwish),
        Just(Activation::SILU),
        parameter().prop_map(|beta| Activation::Swish { beta }),
        Just(Activation::Gelu),
        Just(Activation::GeluTanh),
        parameter().prop_map(|alpha| Activation::Elu { alpha }),
        Just(Activation::Softplus),
        Just(Activation::Mish),
    ]
}

fn padding() -> impl Strategy<Value = Padding> {
    let some = |most| prop_oneof![3 => Just(0), 1 => 1..=most];
    (some(3usize), some(5), some(7), some(9)).prop_map(|(front, pixel, row, batch)| Padding {
        front,
        pixel,
        row,
        batch,
    })
}

/// Sizes at which kernels change: small ones, and those around the widths of panels and tiles.
fn channels(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![0..=20usize, prop::sample::select(vec![31, 32, 33, 48, 63, 64, 65, 80]), 0..=most]
}

/// The plan's choice, or any other, such as there are no kernels for.
fn tile() -> impl Strategy<Value = Option<Tile>> {
    let tile = (0..=16usize, 0..=80usize, prop::sample::select(vec![Tail::Panel, Tail::Half, Tail::Narrow]));
    prop::option::of(tile.prop_map(|(pixels, channels, tail)| Tile { pixels, channels, tail }))
}

fn case() -> impl Strategy<Value = Case> {
    let values = prop_oneof![Just(Values::Ordinary), Just(Values::Mixed), Just(Values::AnyBits)];
    let shape = (0..=3usize, 0..=9usize, prop_oneof![0..=9usize, 0..=70usize]);
    let order = prop_oneof![Just(ResidualOrder::BeforeActivation), Just(ResidualOrder::AfterActivation)];
    let residual = (any::<bool>(), any::<bool>(), order);
    let options = (any::<bool>(), prop::bool::weighted(0.2), residual, activation(), values, tile());
    (
        shape,
        channels(100),
        channels(140),
        1..=4usize,
        (1..=3usize, 1..=3usize),
        options,
        [padding(), padding(), padding()],
        1..=5usize,
        any::<u64>(),
    )
        .prop_map(|((n, h, w), k, f, groups, stride, options, padding, threads, seed)| {
            let (bias, scale_shift, (residual, in_place, residual_order), activation, values, tile) = options;
            // Groups divide the channels: sizes of one group, fewer where there are many.
            let (k, f) = (k / groups, f / groups);
            Case {
                input: [n, h, w, k * groups],
                out_channels: f * groups,
                groups,
                stride,
                bias,
                scale_shift,
                residual,
                in_place,
                residual_order,
                activation,
                values,
                padding,
                threads,
                tile,
                seed,
            }
        })
}

proptest! {
    #![proptest_config(Config { cases: 5000, ..Config::default() })]

    #[test]
    fn every_isa_gives_the_bits_of_the_reference(case in case()) {
        case.check();
    }
}

proptest! {
    #![proptest_config(Config { cases: 100, ..Config::default() })]

    /// Enough work that a run is split over threads.
    #[test]
    fn large_runs_split_over_threads(
        pixels in 50..600usize, k in 60..300usize, f in 60..300usize, threads in 2..=5usize, seed in any::<u64>(),
    ) {
        Case { input: [1, 1, pixels, k], out_channels: f, threads, seed, ..Case::default() }.check();
    }
}

#[test]
fn the_isas_that_must_be_tested_are() {
    common::isas();
}
