//! The bits of the output depend on nothing but the values: not on threads, batch, strides, place in memory, or ISA.

mod common;

use common::{Case, Padding, assert_same};
use pointwise::{Activation, Isa, Nhwc, NhwcMut, PointwiseConv, ResidualOrder, Serial};

/// Large enough to be split over threads, and odd in every size.
const CASE: Case = Case {
    input: [3, 9, 17, 129],
    out_channels: 151,
    scale_shift: true,
    residual: true,
    residual_order: ResidualOrder::AfterActivation,
    activation: Activation::Tanh,
    seed: 7,
    ..Case::ONE
};

/// The values of the pixels alone, in order.
fn pixels(case: &Case, buffer: &[f32]) -> Vec<f32> {
    let [n, h, w, c] = case.output();
    let padding = case.padding[2];
    let ([batch, row, pixel], _) = padding.layout(case.output());
    let starts = (0..n * h * w).map(|p| p / (h * w) * batch + p / w % h * row + p % w * pixel);
    starts.flat_map(|at| buffer[padding.front + at..][..c].to_vec()).collect()
}

/// What was decided for one of them is not taken by the next.
#[test]
fn a_convolution_may_change_its_isa_between_runs() {
    let tensors = CASE.tensors();
    let run = |conv: &PointwiseConv| {
        CASE.with_views(&tensors, |x, residual, y| CASE.run_views(conv, &Serial, x, residual, y))
    };
    for first in common::isas() {
        for then in common::isas() {
            let conv = CASE.build(&tensors, *first).unwrap();
            let before = run(&conv);
            assert_same(&run(&conv.with_isa(*then).unwrap()), &before, format_args!("{first}, then {then}"));
        }
    }
}

#[test]
fn threads_do_not_change_the_bits() {
    let tensors = CASE.tensors();
    for isa in common::isas() {
        let one = CASE.run(&tensors, *isa);
        for threads in 2..=5 {
            assert_same(&Case { threads, ..CASE }.run(&tensors, *isa), &one, format_args!("{isa}, {threads} threads"));
        }
    }
}

#[test]
fn isas_do_not_change_the_bits() {
    let tensors = CASE.tensors();
    let scalar = CASE.run(&tensors, Isa::Scalar);
    for isa in common::isas() {
        assert_same(&CASE.run(&tensors, *isa), &scalar, isa);
    }
}

#[test]
fn a_batch_is_its_images_one_at_a_time() {
    let case = Case { residual: false, ..CASE };
    let tensors = case.tensors();
    let [n, h, w, k] = case.input;
    let f = case.out_channels;
    for isa in common::isas() {
        let batch = pixels(&case, &case.run(&tensors, *isa));
        let conv = case.build(&tensors, *isa).unwrap();
        for image in 0..n {
            let mut y = vec![f32::NAN; h * w * f];
            let x = Nhwc::new(&tensors.x[image * h * w * k..][..h * w * k], [1, h, w, k]).unwrap();
            conv.run(x, NhwcMut::new(&mut y, [1, h, w, f]).unwrap()).unwrap();
            assert_same(&y, &batch[image * h * w * f..][..h * w * f], format_args!("{isa}, image {image}"));
        }
    }
}

#[test]
fn strides_and_place_do_not_change_the_bits() {
    let case = Case { residual: false, ..CASE };
    let tensors = case.tensors();
    for isa in common::isas() {
        let dense = pixels(&case, &case.run(&tensors, *isa));
        for padding in [
            Padding { front: 1, ..Padding::default() },
            Padding { front: 3, pixel: 5, row: 0, batch: 0 },
            Padding { front: 0, pixel: 0, row: 11, batch: 2 },
            Padding { front: 7, pixel: 895, row: 1, batch: 3 },
        ] {
            let strided = Case { padding: [padding, Padding::default(), padding], ..case };
            // The same values, laid out anew.
            let [n, h, w, k] = case.input;
            let ([batch, row, pixel], len) = padding.layout(case.input);
            let mut moved = common::Tensors { x: vec![f32::NAN; len], ..case.tensors() };
            for p in 0..n * h * w {
                let at = padding.front + p / (h * w) * batch + p / w % h * row + p % w * pixel;
                moved.x[at..at + k].copy_from_slice(&tensors.x[p * k..][..k]);
            }
            let got = pixels(&strided, &strided.run(&moved, *isa));
            assert_same(&got, &dense, format_args!("{isa}, {padding:?}"));
        }
    }
}

/// Pixels of no channels lie nowhere: whatever their strides say, each output is the bias.
#[test]
fn no_input_channels_leave_the_bias() {
    for isa in common::isas() {
        for (strides, stride) in [([5, 5, 5], 1), ([usize::MAX, usize::MAX, usize::MAX], 2), ([0, 0, 0], 3)] {
            let builder = pointwise::PointwiseConv::builder(0, 2).bias(&[1.0, -2.0]).stride(stride, stride);
            let conv = builder.isa(*isa).build(&[]).unwrap();
            let x = Nhwc::with_strides(&[], [1, 3, 3, 0], strides).unwrap();
            let output = conv.output_shape(x.shape()).unwrap();
            let mut y = vec![f32::NAN; output.iter().product()];
            conv.run(x, NhwcMut::new(&mut y, output).unwrap()).unwrap();
            assert!(y.chunks_exact(2).all(|pixel| pixel == [1.0, -2.0]), "{isa}: {y:?}");
        }
    }
}

#[test]
fn a_shared_convolution_gives_each_thread_the_same_bits() {
    let case = Case { input: [1, 5, 5, 33], out_channels: 40, residual: false, ..CASE };
    let tensors = case.tensors();
    let conv = case.build(&tensors, Isa::detect().unwrap()).unwrap();
    let expected = case.reference(&tensors);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let got = case.with_views(&tensors, |x, _, y| conv.run(x, y));
                    assert_same(&got, &expected, "shared between threads");
                }
            });
        }
    });
}

#[test]
fn a_pool_does_not_change_the_bits() {
    let case = Case { residual: false, ..CASE };
    let tensors = case.tensors();
    let expected = case.reference(&tensors);
    for isa in common::isas() {
        let conv = case.build(&tensors, *isa).unwrap();
        for threads in 0..4 {
            let pool = pointwise::Pool::new(threads).unwrap();
            for _ in 0..20 {
                let got = case.with_views(&tensors, |x, _, y| conv.run_with(&pool, x, y));
                assert_same(&got, &expected, format_args!("{isa}, a pool of {threads}"));
            }
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn rayons_pools_do_not_change_the_bits() {
    use pointwise::{Executor, RayonGlobal};

    let case = Case { residual: false, ..CASE };
    let tensors = case.tensors();
    let expected = case.reference(&tensors);
    let conv = case.build(&tensors, Isa::detect().unwrap()).unwrap();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(conv.plan(case.input, &pool).unwrap().threads, threads);
        let outside = case.with_views(&tensors, |x, _, y| conv.run_with(&pool, x, y));
        assert_same(&outside, &expected, format_args!("called from outside a pool of {threads}"));
        let inside = pool.install(|| case.with_views(&tensors, |x, _, y| conv.run_with(&pool, x, y)));
        assert_same(&inside, &expected, format_args!("called from inside a pool of {threads}"));
        // In a pool, the global one is that pool.
        let global = pool.install(|| {
            assert_eq!(RayonGlobal.threads(), threads);
            case.with_views(&tensors, |x, _, y| conv.run_with(&RayonGlobal, x, y))
        });
        assert_same(&global, &expected, format_args!("in place of the global pool, one of {threads}"));
    }
    let global = case.with_views(&tensors, |x, _, y| conv.run_with(&RayonGlobal, x, y));
    assert_same(&global, &expected, "rayon's global pool");
}
