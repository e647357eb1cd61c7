//! The bits are right, by two ways that need no tolerance: sums of integers, which are exact in any order, are computed anew
//! in integers, by the formula alone; and many random convolutions differ in no bit, whoever runs them in whatever parts.

mod common;
#[path = "common/random.rs"]
mod random;

use common::{Case, Eager, Padding, Shuffled, Tensors, Threads, Values, assert_same, isas, same};
use pointwise::{Activation, Executor, Isa, Pool, ResidualOrder, Serial, Shape};
use proptest::{prelude::*, test_runner::Config};
use std::{collections::BTreeMap, sync::Mutex};

/// What maps integers to integers.
fn of_integers() -> impl Strategy<Value = Activation> {
    let small = || (-20..=20i8).prop_map(f32::from);
    prop_oneof![
        Just(Activation::Identity),
        Just(Activation::Relu),
        (small(), small()).prop_map(|(a, b)| Activation::Clamp { min: a.min(b), max: a.max(b) }),
        small().prop_map(|slope| Activation::LeakyRelu { slope }),
        Just(Activation::Prelu),
    ]
}

/// Where a pixel's first value lies.
fn index([_, height, width, channels]: Shape, padding: Padding, [n, i, j]: [usize; 3]) -> usize {
    let row = width * (channels + padding.pixel) + padding.row;
    padding.front + n * (height * row + padding.batch) + i * row + j * (channels + padding.pixel)
}

/// Writes `y[n, i, j, f] = act(residual[n, i, j, f] + (scale[f] * (b[f] + sum over k of x[n, i * sh, j * sw, k] * w[f, k]) +
/// shift[f]))`, or with the residual behind the activation. No number is greater than 2^24: each is an f32.
fn in_integers(case: &Case, tensors: &Tensors, y: &mut [f32]) {
    let [x, w, b, scale, shift, slopes, residual] = [
        &tensors.x,
        &tensors.weights,
        &tensors.bias,
        &tensors.scale,
        &tensors.shift,
        &tensors.slopes,
        &tensors.residual,
    ]
    .map(|values| values.iter().map(|value| *value as i64).collect::<Vec<_>>());
    let [batch, height, width, in_channels] = case.input;
    let (sh, sw) = case.stride;
    let output = [batch, height.div_ceil(sh), width.div_ceil(sw), case.out_channels];
    let (k_of_group, f_of_group) = (in_channels / case.groups, case.out_channels / case.groups);
    for n in 0..output[0] {
        for i in 0..output[1] {
            for j in 0..output[2] {
                for (f, &bias) in b.iter().enumerate() {
                    let pixel = index(case.input, case.padding[0], [n, i * sh, j * sw]) + f / f_of_group * k_of_group;
                    let products = (0..k_of_group).map(|k| x[pixel + k] * w[f * k_of_group + k]);
                    let mut value = products.sum::<i64>() + if case.bias { bias } else { 0 };
                    if case.scale_shift {
                        value = scale[f] * value + shift[f];
                    }
                    let residual = match case.residual {
                        true => residual[index(output, case.padding[1], [n, i, j]) + f],
                        false => 0,
                    };
                    let act = |value: i64| match case.activation {
                        Activation::Identity => value,
                        Activation::Relu => value.max(0),
                        Activation::Clamp { min, max } => value.clamp(min as i64, max as i64),
                        Activation::LeakyRelu { slope } if value < 0 => value * slope as i64,
                        Activation::Prelu if value < 0 => value * slopes[f],
                        _ => value,
                    };
                    let value = match case.residual_order {
                        ResidualOrder::BeforeActivation => act(residual + value),
                        ResidualOrder::AfterActivation => residual + act(value),
                    };
                    assert!(value.abs() <= 1 << 24, "{value} may be no f32");
                    y[index(output, case.padding[2], [n, i, j]) + f] = value as f32;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 5000, ..Config::default() })]

    #[test]
    fn sums_of_integers_are_exact(case in random::case(1 << 14), activation in of_integers()) {
        let case = Case { values: Values::Integers, activation, ..case };
        let tensors = case.tensors();
        let reference = case.reference(&tensors);
        let mut expected = vec![common::CANARY; reference.len()];
        in_integers(&case, &tensors, &mut expected);
        // Integers have one zero.
        let unsigned = |y: Vec<f32>| y.iter().map(|y| y + 0.0).collect::<Vec<_>>();
        assert_same(&unsigned(reference), &expected, format_args!("reference, {case:?}"));
        for isa in Isa::available() {
            assert_same(&unsigned(case.run(&tensors, *isa)), &expected, format_args!("{isa}, {case:?}"));
        }
    }
}

/// The multiply-add of scale and shift is rounded once, as those of the sum are.
#[test]
fn scale_and_shift_are_fused() {
    let scale = 1.0 + 2f32.powi(-12);
    let fused = scale.mul_add(scale, -1.0);
    assert_ne!(fused, scale * scale - 1.0);
    // A pixel for each of many lanes, a channel for each of others, and one of each.
    for case in [(40, 1), (1, 40), (7, 24), (1, 1)].map(|(pixels, out_channels)| Case {
        input: [1, 1, pixels, 1],
        out_channels,
        scale_shift: true,
        ..Case::default()
    }) {
        let mut tensors = case.tensors();
        for (values, value) in [
            (&mut tensors.x, scale),
            (&mut tensors.weights, 1.0),
            (&mut tensors.bias, 0.0),
            (&mut tensors.scale, scale),
            (&mut tensors.shift, -1.0),
        ] {
            values.fill(value);
        }
        let len = case.output_len();
        let expected = vec![fused; len];
        assert_same(&case.reference(&tensors)[..len], &expected, format_args!("the reference, {case:?}"));
        for isa in isas() {
            assert_same(&case.run(&tensors, *isa)[..len], &expected, format_args!("{isa}, {case:?}"));
        }
    }
}

/// Cases, bits compared, and bits that differ.
type Counts = [u64; 3];

/// `cargo test --release --all-features --test exact -- --ignored --nocapture`, for `PROPTEST_CASES`. A difference tells the
/// case's seed; `PROPTEST_RNG_SEED` and `PROPTEST_CASES=1` repeat it.
#[test]
#[ignore = "a million convolutions take ten minutes"]
fn whoever_runs_it_no_bit_differs() {
    isas();
    let table = Mutex::new(BTreeMap::<(Isa, &str), Counts>::new());
    let (cases, seed) = random::check_cases(1_000_000, 1 << 13, || {
        // Of 1 to 5 threads.
        let pools: Vec<_> = (1..=5).map(|threads| Pool::new(threads).expect("a pool")).collect();
        #[cfg(feature = "rayon")]
        let rayons: Vec<_> = (1..=5)
            .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool"))
            .collect();
        let table = &table;
        move |case: Case| {
            let Case { threads, seed, .. } = case;
            let tensors = case.tensors();
            let expected = case.reference(&tensors);
            let executors: &[(&str, &dyn Executor)] = &[
                ("serial", &Serial),
                ("pool", &Eager(&pools[threads - 1])),
                ("scoped threads", &Eager(&Threads(threads))),
                ("shuffled, twice", &Shuffled { threads, seed }),
                #[cfg(feature = "rayon")]
                ("rayon", &Eager(&rayons[threads - 1])),
            ];
            for &isa in Isa::available() {
                let conv = case.build(&tensors, isa).expect("the case builds");
                for &(name, executor) in executors {
                    let y = case.with_views(&tensors, |x, residual, y| case.run_views(&conv, executor, x, residual, y));
                    let differ = |(a, b): (&f32, &f32)| if same(*a, *b) { 0 } else { a.to_bits() ^ b.to_bits() };
                    let differing: u64 = y.iter().zip(&expected).map(|pair| u64::from(differ(pair).count_ones())).sum();
                    if differing > 0 {
                        println!("{isa}, {name}: {differing} bits differ, PROPTEST_RNG_SEED={seed}: {case:?}");
                    }
                    let bits = 32 * case.output().iter().product::<usize>() as u64;
                    let mut table = table.lock().expect("no thread has panicked");
                    let counts = table.entry((isa, name)).or_default();
                    *counts = [counts[0] + 1, counts[1] + bits, counts[2] + differing];
                }
            }
        }
    });
    let table = table.into_inner().expect("no thread has panicked");
    println!("{cases} convolutions, the first of seed {seed}");
    println!("{:8} {:15} {:>9} {:>15} {:>9}", "ISA", "executor", "cases", "bits compared", "differing");
    for ((isa, name), [cases, bits, differing]) in &table {
        println!("{:8} {name:15} {cases:9} {bits:15} {differing:9}", isa.to_string());
    }
    assert!(table.values().all(|[.., differing]| *differing == 0));
}
