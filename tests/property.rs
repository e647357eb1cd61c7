//! Random convolutions, with everything that a user can vary, give the reference's bits on every ISA.
//!
//! `PROPTEST_CASES` sets how many are tried.

mod common;
#[path = "common/random.rs"]
mod random;

use common::Case;
use pointwise::Activation;
use proptest::{prelude::*, test_runner::Config};

proptest! {
    #![proptest_config(Config { cases: 5000, ..Config::default() })]

    #[test]
    fn every_isa_gives_the_bits_of_the_reference(case in random::case(usize::MAX)) {
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

/// Inputs of more bytes than an L2 cache has, which kernels prefetch.
#[test]
fn large_inputs() {
    for out_channels in [1, 5, 8, 40] {
        Case { input: [1, 1, 1100, 128], out_channels, ..Case::default() }.check();
    }
}

/// Outputs of more bytes than an L2 cache has, to which tiles run across: in groups, with a half panel, with panels that fill more
/// than the L1 cache, and with a last tile of less than the others' channels.
#[test]
fn large_outputs() {
    for (pixels, in_channels, out_channels, groups) in
        [(6000, 16, 96, 1), (2800, 20, 208, 2), (4100, 9, 136, 1), (330, 8, 1696, 1), (4500, 5, 122, 1)]
    {
        for (residual, threads) in [(false, 1), (true, 3)] {
            let input = [1, 1, pixels, groups * in_channels];
            let (activation, scale_shift) = (Activation::Prelu, residual);
            Case { input, out_channels, groups, residual, scale_shift, threads, activation, ..Case::default() }.check();
        }
    }
}

#[test]
fn the_isas_that_must_be_tested_are() {
    common::isas();
}
