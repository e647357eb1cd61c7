//! Every error, by what causes it and what it says. Nothing is written where one is returned.

mod common;

use pointwise::{Activation, Error, Executor, Isa, Nhwc, NhwcMut, PointwiseConv, reference::Reference};

fn build_error(builder: pointwise::Builder<'_>, weights: &[f32]) -> Error {
    builder.build(weights).expect_err("the builder refuses")
}

#[test]
fn lengths() {
    let builder = PointwiseConv::builder(3, 2);
    let error = build_error(builder, &[0.0; 5]);
    assert_eq!(error, Error::Length { what: "weights", expected: 6, actual: 5 });
    assert_eq!(error.to_string(), "weights: expected 6 values, got 5");
    let error = build_error(builder.bias(&[0.0; 3]), &[0.0; 6]);
    assert_eq!(error, Error::Length { what: "bias", expected: 2, actual: 3 });
    let error = Nhwc::new(&[0.0; 7], [1, 2, 2, 2]).unwrap_err();
    assert_eq!(error, Error::Length { what: "view", expected: 8, actual: 7 });
    assert!(Nhwc::new(&[0.0; 9], [1, 2, 2, 2]).is_err(), "a dense view fills its slice");
    let error = Nhwc::with_strides(&[0.0; 9], [1, 2, 2, 2], [0, 6, 3]).unwrap_err();
    assert_eq!(error, Error::Length { what: "view", expected: 11, actual: 9 });
    assert!(NhwcMut::with_strides(&mut [0.0; 9], [1, 2, 2, 2], [0, 6, 3]).is_err());
    assert!(NhwcMut::new(&mut [0.0; 7], [1, 2, 2, 2]).is_err());
}

#[test]
fn sizes_beyond_memory() {
    const MAX: usize = usize::MAX;
    for shape in [[MAX; 4], [1, 1, MAX, 2], [2, MAX / 2, 2, 1], [1, 1, 1, MAX], [MAX, 1, 1, 1], [1, 1, MAX / 4, 1]] {
        assert!(matches!(Nhwc::new(&[], shape), Err(Error::TooLarge { .. })), "{shape:?}");
        assert!(matches!(NhwcMut::new(&mut [], shape), Err(Error::TooLarge { .. })), "{shape:?}");
    }
    for strides in [[MAX, 1, 1], [1, MAX, 1], [1, 1, MAX], [MAX / 2, MAX / 2, MAX / 2]] {
        let error = Nhwc::with_strides(&[0.0; 8], [2, 2, 2, 1], strides).unwrap_err();
        assert_eq!(error, Error::TooLarge { what: "view", shape: [2, 2, 2, 1], strides });
        assert!(NhwcMut::with_strides(&mut [0.0; 8], [2, 2, 2, 1], strides).is_err());
    }
    // Sizes without a value are no error, however large the others.
    for shape in [[0, 1 << 20, 1 << 20, 7], [0, MAX, MAX, 7], [MAX, MAX, 0, MAX], [MAX, MAX, MAX, 0]] {
        assert!(Nhwc::new(&[], shape).is_ok(), "{shape:?}");
        assert!(NhwcMut::new(&mut [], shape).is_ok(), "{shape:?}");
    }
    // A stride that is never taken is no error either.
    assert!(Nhwc::with_strides(&[0.0; 3], [1, 1, 1, 3], [MAX, MAX, MAX]).is_ok());

    let error = build_error(PointwiseConv::builder(0, MAX), &[]);
    assert_eq!(error, Error::OutOfMemory { in_channels: 0, out_channels: MAX, groups: 1 });
    let words = format!("packed weights: no memory for 0 input and {MAX} output channels in 1 groups");
    assert_eq!(error.to_string(), words);
    // No number is too large, but no memory is so large.
    #[cfg(target_pointer_width = "64")]
    {
        let error = build_error(PointwiseConv::builder(0, 1 << 50), &[]);
        assert_eq!(error, Error::OutOfMemory { in_channels: 0, out_channels: 1 << 50, groups: 1 });
    }
    let error = build_error(PointwiseConv::builder(MAX, MAX), &[]);
    assert_eq!(error, Error::Length { what: "weights", expected: MAX, actual: 0 });
    let conv = PointwiseConv::builder(1, 1).build(&[1.0]).unwrap();
    assert!(matches!(conv.plan([MAX, MAX, 1, 1], &pointwise::Serial), Err(Error::TooLarge { what: "input", .. })));
    let conv = PointwiseConv::builder(0, 1).build(&[]).unwrap();
    assert!(matches!(conv.plan([MAX, 2, 1, 0], &pointwise::Serial), Err(Error::TooLarge { .. })));
}

/// Though the slice goes on behind them.
#[test]
fn pixels_outside_a_view() {
    let mut data = [0.0; 64];
    let (shape, strides) = ([1, 2, 3, 2], [6, 8, 2]);
    let outside = [[1, 0, 0], [0, 2, 0], [0, 0, 3], [1, 2, 0], [1, 0, 3], [0, 2, 3], [1, 2, 3]];
    let view = Nhwc::with_strides(&data, shape, strides).unwrap();
    assert_eq!((view.shape(), view.strides()), (shape, strides));
    assert!(view.pixel(0, 1, 2).is_some());
    for [n, h, w] in outside {
        assert_eq!(view.pixel(n, h, w), None, "{n}, {h}, {w}");
    }
    let mut view = NhwcMut::with_strides(&mut data, shape, strides).unwrap();
    assert_eq!((view.shape(), view.strides()), (shape, strides));
    assert!(view.pixel_mut(0, 1, 2).is_some());
    for [n, h, w] in outside {
        assert_eq!(view.pixel_mut(n, h, w), None, "{n}, {h}, {w}");
    }
}

#[test]
fn overlapping_outputs() {
    let mut y = [0.0; 64];
    let mut overlap = |shape, strides| NhwcMut::with_strides(&mut y, shape, strides).map(|_| ()).unwrap_err();
    assert_eq!(overlap([1, 1, 2, 4], [0, 0, 3]), Error::Overlap { axis: "pixels", size: 2, extent: 4, stride: 3 });
    assert_eq!(overlap([1, 2, 2, 4], [0, 7, 4]), Error::Overlap { axis: "rows", size: 2, extent: 8, stride: 7 });
    assert_eq!(overlap([2, 2, 2, 4], [15, 8, 4]), Error::Overlap { axis: "images", size: 2, extent: 16, stride: 15 });
    let error = overlap([1, 1, 3, 1], [0, 0, 0]);
    assert_eq!(error.to_string(), "output: pixels overlap: 3 pixels of 1 values each are 0 values apart");
}

#[test]
fn shapes_and_channels() {
    let conv = PointwiseConv::builder(2, 3).stride(2, 2).build(&[0.0; 6]).unwrap();
    let x = Nhwc::new(&[0.0; 18], [1, 3, 3, 2]).unwrap();
    let mut y = [7.0; 27];
    let error = conv.run(x, NhwcMut::new(&mut y, [1, 3, 3, 3]).unwrap()).unwrap_err();
    assert_eq!(error, Error::Shape { what: "output", expected: [1, 2, 2, 3], actual: [1, 3, 3, 3] });
    assert_eq!(error.to_string(), "output: expected shape [1, 2, 2, 3], got [1, 3, 3, 3]");
    let error =
        conv.run(Nhwc::new(&[0.0; 9], [1, 3, 3, 1]).unwrap(), NhwcMut::new(&mut y[..12], [1, 2, 2, 3]).unwrap());
    assert_eq!(error, Err(Error::Channels { expected: 2, actual: 1 }));
    assert_eq!(error.unwrap_err().to_string(), "input: expected 2 channels, got 1");
    let residual = Nhwc::new(&[0.0; 8], [1, 2, 2, 2]).unwrap();
    let error = conv.run_residual(x, residual, NhwcMut::new(&mut y[..12], [1, 2, 2, 3]).unwrap());
    assert_eq!(error, Err(Error::Shape { what: "residual", expected: [1, 2, 2, 3], actual: [1, 2, 2, 2] }));
    assert_eq!(y, [7.0; 27], "nothing is written");
    assert_eq!(conv.plan([1, 3, 3, 1], &pointwise::Serial), Err(Error::Channels { expected: 2, actual: 1 }));
}

#[test]
fn builder_arguments() {
    let builder = PointwiseConv::builder(4, 6);
    for groups in [0, 3, 4, 5] {
        let error = build_error(builder.groups(groups), &[]);
        assert_eq!(error, Error::Groups { in_channels: 4, out_channels: 6, groups });
    }
    let error = build_error(builder.groups(3), &[]);
    assert_eq!(error.to_string(), "groups: expected a divisor of 4 input and 6 output channels, got 3");
    for stride in [(0, 1), (1, 0)] {
        let error = build_error(builder.stride(stride.0, stride.1), &[0.0; 24]);
        assert_eq!(error, Error::Stride { actual: stride });
    }
    assert_eq!(build_error(builder.stride(0, 2), &[]).to_string(), "stride: expected at least (1, 1), got (0, 2)");
    for (min, max) in [(1.0, 0.5), (f32::NAN, 1.0), (0.0, f32::NAN)] {
        let error = build_error(builder.activation(Activation::Clamp { min, max }), &[0.0; 24]);
        assert!(matches!(error, Error::Clamp { .. }), "{error}");
    }
    let error = build_error(builder.activation(Activation::Clamp { min: 2.0, max: 1.0 }), &[0.0; 24]);
    assert_eq!(error.to_string(), "clamp: expected min <= max, got min 2 and max 1");
    assert!(builder.activation(Activation::Clamp { min: 1.0, max: 1.0 }).build(&[0.0; 24]).is_ok());
    for actual in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        for (activation, name) in [
            (Activation::LeakyRelu { slope: actual }, "slope"),
            (Activation::HardSigmoid { alpha: actual, beta: 0.5 }, "alpha"),
            (Activation::HardSigmoid { alpha: 0.2, beta: actual }, "beta"),
            (Activation::Swish { beta: actual }, "beta"),
            (Activation::Elu { alpha: actual }, "alpha"),
        ] {
            let error = build_error(builder.activation(activation), &[0.0; 24]);
            assert!(matches!(error, Error::Parameter { what, .. } if what == name), "{error}");
            assert_eq!(error.to_string(), format!("{name}: expected a finite number, got {actual}"));
        }
    }
}

#[test]
fn values_by_channel() {
    let builder = PointwiseConv::builder(4, 6);
    let length = |what, expected, actual| Error::Length { what, expected, actual };
    let (all, few) = ([1.0; 6], [1.0; 5]);
    assert_eq!(build_error(builder.bias(&few), &[0.0; 24]), length("bias", 6, 5));
    assert_eq!(build_error(builder.scale_shift(&few, &all), &[0.0; 24]), length("scale", 6, 5));
    assert_eq!(build_error(builder.scale_shift(&all, &[]), &[0.0; 24]), length("shift", 6, 0));
    let prelu = builder.activation(Activation::Prelu);
    assert_eq!(build_error(prelu, &[0.0; 24]), length("slopes", 6, 0));
    assert_eq!(build_error(prelu.slopes(&few), &[0.0; 24]), length("slopes", 6, 5));
    // Slopes that nothing would use are a mistake.
    assert_eq!(build_error(builder.slopes(&all), &[0.0; 24]), length("slopes", 0, 6));
    assert!(prelu.slopes(&all).scale_shift(&all, &all).build(&[0.0; 24]).is_ok());
    assert!(PointwiseConv::builder(4, 0).activation(Activation::Prelu).build(&[]).is_ok());
}

#[test]
fn an_isa_that_the_cpu_has_not() {
    let missing = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
    let error = build_error(PointwiseConv::builder(1, 1).isa(missing), &[1.0]);
    assert!(matches!(error, Error::IsaUnavailable { requested, .. } if requested == missing));
    let words = error.to_string();
    assert!(words.starts_with("ISA: expected one that this CPU has (scalar"), "{words}");
    assert!(words.ends_with(&format!("got {missing}")), "{words}");
}

#[test]
fn an_unknown_isa_name() {
    let error = "sse9".parse::<Isa>().unwrap_err();
    assert_eq!(error.to_string(), r#"ISA: expected one of scalar, neon, avx2, avx512, got "sse9""#);
    assert!(matches!(error, Error::UnknownIsa { .. }));
}

/// Returns without having run anything.
struct Idle;

impl Executor for Idle {
    fn threads(&self) -> usize {
        4
    }

    fn run(&self, _threads: usize, _work: &(dyn Fn(usize) + Sync)) {}
}

/// Works, and then panics.
struct Panics;

impl Executor for Panics {
    fn threads(&self) -> usize {
        4
    }

    fn run(&self, _threads: usize, work: &(dyn Fn(usize) + Sync)) {
        work(0);
        panic!("the pool broke");
    }
}

#[test]
fn executors_that_do_not_work() {
    let (k, f, pixels) = (128, 256, 256);
    let conv = PointwiseConv::builder(k, f).build(&vec![0.5; k * f]).unwrap();
    let x = vec![1.0; pixels * k];
    let x = Nhwc::new(&x, [1, 1, pixels, k]).unwrap();
    let mut y = vec![0.0; pixels * f];
    let error = conv.run_with(&Idle, x, NhwcMut::new(&mut y, [1, 1, pixels, f]).unwrap()).unwrap_err();
    let Error::Executor { expected, actual: 0 } = error else { panic!("{error}") };
    assert!(expected > 1);
    assert_eq!(error.to_string(), format!("executor: expected {expected} tasks to be run, 0 were"));
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        conv.run_with(&Panics, x, NhwcMut::new(&mut y, [1, 1, pixels, f]).unwrap())
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"the pool broke"));
    // Too little work for a second thread: the executor is not asked.
    let x = Nhwc::new(&[1.0; 128], [1, 1, 1, k]).unwrap();
    conv.run_with(&Idle, x, NhwcMut::new(&mut y[..f], [1, 1, 1, f]).unwrap()).unwrap();
    assert_eq!(y[0], 64.0);
}

#[test]
fn the_reference_refuses_what_the_convolution_refuses() {
    let reference = Reference { out_channels: 2, weights: &[1.0; 4], ..Reference::default() };
    let x = Nhwc::new(&[0.0; 2], [1, 1, 1, 2]).unwrap();
    let run = |reference: Reference<'_>| {
        let mut y = [0.0; 2];
        reference.run(x, None, NhwcMut::new(&mut y, [1, 1, 1, 2]).unwrap())
    };
    assert_eq!(run(reference), Ok(()));
    assert!(matches!(run(Reference { groups: 0, ..reference }), Err(Error::Groups { .. })));
    assert!(matches!(run(Reference { stride: (1, 0), ..reference }), Err(Error::Stride { .. })));
    assert!(matches!(run(Reference { weights: &[], ..reference }), Err(Error::Length { .. })));
    assert!(matches!(run(Reference { bias: Some(&[]), ..reference }), Err(Error::Length { .. })));
    assert!(matches!(run(Reference { out_channels: 1, weights: &[0.0; 2], ..reference }), Err(Error::Shape { .. })));
    let activation = Activation::Clamp { min: 1.0, max: 0.0 };
    assert!(matches!(run(Reference { activation, ..reference }), Err(Error::Clamp { .. })));
    // And takes what it takes.
    assert_eq!(run(Reference { slopes: Some(&[]), ..reference }), Ok(()));
    assert!(PointwiseConv::builder(2, 2).slopes(&[]).build(&[1.0; 4]).is_ok());
}
