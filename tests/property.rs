//! Random convolutions, with everything that a user can vary, give the reference's bits on every ISA.
//!
//! `PROPTEST_CASES` sets how many are tried.

mod common;
#[path = "common/random.rs"]
mod random;

use common::{Case, Padding};
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

/// Outputs of more bytes than an L2 cache has, of few input channels, to which tiles run across: in groups, with a half panel, with
/// panels that fill more than the L1 cache, and with a last tile of less than the others' channels.
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
    // Of lines that are not equally far apart.
    let padding = [Padding { front: 0, pixel: 1, row: 2, batch: 3 }; 3];
    Case { input: [3, 40, 50, 16], out_channels: 96, padding, ..Case::default() }.check();
}

/// Output channels in many chunks, all of one width or of two, the last of a group full or not, whose panels fit in the caches or
/// do not: of a single pixel, of a single tile, of several, and of lines that are not equally far apart.
#[test]
fn many_output_channels() {
    for (shape, in_channels, out_channels, groups) in [
        ([1, 1, 1], 20, 1024, 1),
        ([1, 1, 1], 5, 380, 3),
        ([1, 1, 1], 40, 208, 1),
        ([1, 2, 2], 16, 1008, 1),
        ([1, 1, 5], 300, 208, 1),
        ([1, 4, 4], 12, 220, 2),
        ([1, 1, 9], 33, 640, 1),
        ([1, 7, 7], 16, 376, 2),
        ([1, 5, 10], 300, 1024, 1),
        ([2, 3, 5], 300, 1016, 1),
    ] {
        for (residual, threads) in [(false, 1), (true, 3)] {
            let [n, h, w] = shape;
            let (input, out_channels) = ([n, h, w, groups * in_channels], groups * out_channels);
            let padding = Padding { front: 1, pixel: 2, row: 3, batch: if n > 1 { 4 } else { 0 } };
            let (activation, padding) = (Activation::Prelu, [padding; 3]);
            Case { input, out_channels, groups, residual, threads, activation, padding, ..Case::default() }.check();
        }
    }
}

#[test]
fn the_isas_that_must_be_tested_are() {
    common::isas();
}
