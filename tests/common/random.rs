//! Random convolutions, with everything that a user can vary.
#![allow(dead_code, reason = "each test file uses its part")]

use crate::common::{Case, Padding, Values};
use pointwise::{Activation, ResidualOrder, Tail, Tile};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, RngSeed, TestRunner, contextualize_config},
};
use std::thread;

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

/// Fewer pixels where there would be more than `most` multiply-adds, or values.
pub fn case(most: usize) -> impl Strategy<Value = Case> {
    let values = prop_oneof![Just(Values::Ordinary), Just(Values::Mixed), Just(Values::AnyBits)];
    // Mostly not empty.
    let size = |most: usize| prop_oneof![1 => Just(0), 30 => 1..=most];
    let width = prop_oneof![size(9), size(70)];
    let shape = (width, size(9), size(3)).prop_map(|(w, h, n)| [w, h, n]);
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
        .prop_map(move |(shape, k, f, groups, stride, options, padding, threads, seed)| {
            let (bias, scale_shift, (residual, in_place, residual_order), activation, values, tile) = options;
            // Groups divide the channels: sizes of one group, fewer where there are many.
            let (k, f) = (k / groups, f / groups);
            let mut pixels = most / (groups * (k * f).max(k + f).max(1));
            let [w, h, n] = shape.map(|size| {
                let size = size.min(pixels.max(1));
                pixels /= size.max(1);
                size
            });
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

/// Checks random cases on all cores, each with a checker of its own: so many, or `PROPTEST_CASES`. Returns how many, and the
/// first one's seed; the others' are those that follow. With `PROPTEST_RNG_SEED` it is that one, to repeat a case.
pub fn check_cases<C: FnMut(Case)>(cases: u32, most: usize, checker: impl Fn() -> C + Sync) -> (u32, u64) {
    let Config { cases, rng_seed, .. } = contextualize_config(Config::with_cases(cases));
    let first = match rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
    thread::scope(|scope| {
        for thread in 0..threads {
            let checker = &checker;
            scope.spawn(move || {
                let mut check = checker();
                (thread as u32..cases)
                    .step_by(threads)
                    .for_each(|i| check(of_seed(first.wrapping_add(i.into()), most)));
            });
        }
    });
    (cases, first)
}

/// The case of a seed, which is also its tensors'.
fn of_seed(seed: u64, most: usize) -> Case {
    // Not the default generator: that is better, and takes longer than the case.
    let config = Config { rng_seed: RngSeed::Fixed(seed), rng_algorithm: RngAlgorithm::XorShift, ..Config::default() };
    let tree = case(most).new_tree(&mut TestRunner::new(config)).expect("few values are refused");
    Case { seed, ..tree.current() }
}
