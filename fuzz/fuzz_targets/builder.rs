//! What a builder is told, in any order, right and wrong: the first thing wrong is the error, or else the convolution, its
//! clones, other ISAs and what is loaded of its bytes give the reference's bits, whatever ran before.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::{
    Activation, Error, Executor, Isa, IsaChoice, IsaList, Kernel, PointwiseConv, ResidualOrder, Shape, Tail, Tile,
    Verify, reference::Reference,
};
use pointwise_fuzz::{
    Aligned, Shuffled, Values, View, activation, assert_same, check, expected, number, output_shape, residual_order,
};
use std::cmp::Ordering;

const ISAS: [Isa; 4] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];

/// What the builder was told.
#[derive(Debug)]
struct Told<'a> {
    in_channels: usize,
    reference: Reference<'a>,
    isa: Option<Isa>,
}

impl Told<'_> {
    /// What is wrong first, in the order of the documentation.
    fn error(&self) -> Option<Error> {
        let Self { in_channels, isa, reference } = self;
        let Reference { out_channels, groups, stride, activation, .. } = *reference;
        let divides = |channels: usize| groups != 0 && channels.is_multiple_of(groups);
        if !divides(*in_channels) || !divides(out_channels) {
            return Some(Error::Groups { in_channels: *in_channels, out_channels, groups });
        }
        if stride.0.min(stride.1) == 0 {
            return Some(Error::Stride { actual: stride });
        }
        let parameters: &[_] = match activation {
            Activation::Clamp { min, max } if min.partial_cmp(&max).is_none_or(Ordering::is_gt) => {
                return Some(Error::Clamp { min, max });
            }
            Activation::LeakyRelu { slope } => &[("slope", slope)],
            Activation::HardSigmoid { alpha, beta } => &[("alpha", alpha), ("beta", beta)],
            Activation::Swish { beta } => &[("beta", beta)],
            Activation::Elu { alpha } => &[("alpha", alpha)],
            _ => &[],
        };
        if let Some((what, actual)) = parameters.iter().find(|(_, value)| value.is_nan() || value.is_infinite()) {
            return Some(Error::Parameter { what, actual: *actual });
        }
        let weights = (out_channels as u128 * (in_channels / groups) as u128).min(usize::MAX as u128) as usize;
        let prelu = activation == Activation::Prelu;
        let slopes = reference.slopes.map(<[f32]>::len).or(prelu.then_some(0));
        for (what, actual, expected) in [
            ("weights", Some(reference.weights.len()), weights),
            ("bias", reference.bias.map(<[f32]>::len), out_channels),
            ("scale", reference.scale_shift.map(|(scale, _)| scale.len()), out_channels),
            ("shift", reference.scale_shift.map(|(_, shift)| shift.len()), out_channels),
            ("slopes", slopes, if prelu { out_channels } else { 0 }),
        ] {
            if let Some(actual) = actual.filter(|actual| *actual != expected) {
                return Some(Error::Length { what, expected, actual });
            }
        }
        if let Some(requested) = isa.filter(|isa| !Isa::available().contains(isa)) {
            return Some(Error::IsaUnavailable { requested, available: IsaList(Isa::available()) });
        }
        // Channels without weights.
        let too_large = out_channels > 1 << 20 || in_channels / groups == usize::MAX;
        too_large.then_some(Error::OutOfMemory { in_channels: *in_channels, out_channels, groups })
    }
}

fn any_tile(u: &mut Unstructured<'_>) -> Result<Tile> {
    let tail = *u.choose(&[Tail::Panel, Tail::Half, Tail::Narrow])?;
    let mut size = || if u.int_in_range(0..=3)? == 3 { number(u) } else { u.int_in_range(0..=80) };
    Ok(Tile { pixels: size()?, channels: size()?, tail })
}

fn check_getters(conv: &PointwiseConv, Told { in_channels, reference, .. }: &Told<'_>) {
    let expected = (*in_channels, reference.out_channels, reference.groups, reference.stride);
    assert_eq!((conv.in_channels(), conv.out_channels(), conv.groups(), conv.stride()), expected);
    let (activation, residual) = match reference.activation {
        Activation::Identity => (Activation::Identity, ResidualOrder::BeforeActivation),
        Activation::LeakyRelu { .. } => (Activation::Prelu, reference.residual),
        other => (other, reference.residual),
    };
    let expected = (activation, residual, reference.scale_shift.is_some());
    assert_eq!((conv.activation(), conv.residual_order(), conv.has_scale_shift()), expected);
}

fn check_plan(conv: &PointwiseConv, told: &Told<'_>, tile: Option<Tile>, input: Shape, executor: &Shuffled) {
    let Told { in_channels, reference, isa } = told;
    let (result, shape) = (conv.plan(input, executor), conv.output_shape(input));
    if input[3] != *in_channels {
        let error = Error::Channels { expected: *in_channels, actual: input[3] };
        assert_eq!((result, shape), (Err(error.clone()), Err(error)));
        return;
    }
    let output = output_shape(reference, input);
    assert_eq!(shape, Ok(output));
    for (what, dense) in [("input", View::dense(input)), ("output", View::dense(output))] {
        if dense.span().is_err() {
            assert!(matches!(result, Err(Error::TooLarge { what: w, shape, .. }) if (w, shape) == (what, dense.shape)));
            return;
        }
    }
    let plan = result.expect("a tensor can have this shape");
    assert_eq!(plan.isa, isa.unwrap_or(Isa::detect().expect("the variable is not set")));
    assert_eq!(plan.isa_choice, if isa.is_some() { IsaChoice::Forced } else { IsaChoice::Detected });
    let values = View::dense(output).span().expect("not too many");
    let pixels = values.checked_div(output[3]).unwrap_or(0);
    let (k, f) = (in_channels / reference.groups, output[3] / reference.groups);
    assert_eq!(plan.flops, values.saturating_mul(k).saturating_mul(2));
    assert_eq!((plan.input_bytes, plan.output_bytes), (4 * pixels * in_channels, 4 * values));
    assert_eq!(plan.weight_bytes, 64 * reference.groups * f.div_ceil(16) * (k + 1));
    assert!((1..=executor.threads()).contains(&plan.threads), "{plan:?}");
    assert_eq!((plan.tasks > 0, plan.tile.0 > 0), (values > 0, values > 0), "{plan:?}");
    assert!(tile.is_none_or(|tile| plan.kernel == Kernel::Narrow || plan.tile.0 <= tile.pixels.max(1)), "{plan:?}");
    assert_eq!(plan.to_string().lines().count(), 7, "{plan}");
    let drawing = plan.drawing().to_string();
    assert!(drawing.lines().count() <= 40 && drawing.lines().all(|line| line.len() <= 100), "{plan:?}\n{drawing}");
    assert_eq!(drawing == "no output", values == 0, "{plan:?}\n{drawing}");
}

fn check_run(
    conv: &PointwiseConv,
    told: &Told<'_>,
    input: Shape,
    u: &mut Unstructured<'_>,
    values: &mut Values,
) -> Result<()> {
    let output = output_shape(&told.reference, input);
    let (x, residual, y) = (View::to_read(u, input)?, View::to_read(u, output)?, View::to_write(u, output)?);
    let mut vec = |view: View| values.vec(view.span().expect("small sizes"));
    let (x_data, residual_data, before) = (vec(x), vec(residual), vec(y));
    let (mut actual, executor) = (before.clone(), Shuffled::new(u)?);
    let (input, output) = (x.read(&x_data), y.write(&mut actual));
    let (ran, residual) = match u.int_in_range(0..=2)? {
        0 => (conv.run_with(&executor, input, output), None),
        1 => {
            let added = residual.read(&residual_data);
            (conv.run_residual_with(&executor, input, added, output), Some((residual, &residual_data[..])))
        }
        _ => (conv.run_accumulate_with(&executor, input, output), Some((y, &before[..]))),
    };
    assert_eq!(ran, Ok(()), "{x:?}, {told:?}");
    let expected = expected(&told.reference, (x, &x_data), residual, y, &before);
    assert_same(&actual, &expected, format_args!("{x:?}, {residual:?}, {y:?}, {executor:?}, {told:?}"));
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut values = Values::new(u)?;
    let mut channels = || match u.int_in_range(0..=31)? {
        31 => Ok(usize::MAX - u.int_in_range(0..=3)?),
        // Mostly even, for groups.
        0..=24 => Ok(2 * u.int_in_range(0..=35)?),
        _ => u.int_in_range(0..=70),
    };
    let (in_channels, out_channels) = (channels()?, channels()?);
    // Those that there is memory for.
    let (k, f) = (in_channels.min(80), out_channels.min(80));
    let by_channel: [Vec<f32>; 5] = std::array::from_fn(|_| values.vec(f + 1));
    let len = |u: &mut Unstructured<'_>| if u.int_in_range(0..=31)? == 31 { u.int_in_range(0..=f + 1) } else { Ok(f) };

    let (mut builder, mut tile) = (PointwiseConv::builder(in_channels, out_channels), None);
    let mut told = Told { in_channels, reference: Reference { out_channels, ..Reference::default() }, isa: None };
    let reference = &mut told.reference;
    for _ in 0..u.int_in_range(0..=9)? {
        builder = match u.int_in_range(0..=9)? {
            0 => {
                let bias = &u.choose(&by_channel)?[..len(u)?];
                reference.bias = Some(bias);
                builder.bias(bias)
            }
            1 => {
                let (scale, shift) = (&by_channel[1][..len(u)?], &by_channel[2][..len(u)?]);
                reference.scale_shift = Some((scale, shift));
                builder.scale_shift(scale, shift)
            }
            2 => {
                let prelu = reference.activation == Activation::Prelu;
                let slopes = &u.choose(&by_channel)?[..if prelu { len(u)? } else { f - len(u)?.min(f) }];
                reference.slopes = Some(slopes);
                builder.slopes(slopes)
            }
            3 | 4 => {
                let any = u.int_in_range(0..=3)? == 3;
                reference.activation = activation(u, any)?;
                builder.activation(reference.activation)
            }
            5 => {
                reference.residual = residual_order(u)?;
                builder.residual_order(reference.residual)
            }
            6 => {
                let mut stride = || if u.int_in_range(0..=7)? == 7 { number(u) } else { u.int_in_range(1..=3) };
                reference.stride = (stride()?, stride()?);
                builder.stride(reference.stride.0, reference.stride.1)
            }
            7 => {
                reference.groups = if u.int_in_range(0..=7)? == 7 { number(u)? } else { u.int_in_range(1..=2)? };
                builder.groups(reference.groups)
            }
            8 => {
                let isas = if u.int_in_range(0..=7)? == 7 { &ISAS } else { Isa::available() };
                let isa = *u.choose(isas)?;
                told.isa = Some(isa);
                builder.isa(isa)
            }
            _ => {
                let any = any_tile(u)?;
                tile = Some(any);
                builder.tile(any)
            }
        };
    }
    if reference.activation == Activation::Prelu && u.int_in_range(0..=7)? < 7 {
        reference.slopes = Some(&by_channel[3][..f]);
        builder = builder.slopes(&by_channel[3][..f]);
    }
    let right = k.checked_div(reference.groups).unwrap_or(0) * f;
    let weights = values.vec(if u.int_in_range(0..=31)? == 31 { right + 1 } else { right });
    reference.weights = &weights;

    let built = builder.build(&weights);
    if let Some(expected) = told.error() {
        // It may hold a NaN, and not equal itself.
        assert_eq!(format!("{:?}", built.map(|_| ())), format!("{:?}", Err::<(), _>(expected)), "{told:?}");
        return Ok(());
    }
    let mut conv = built.unwrap_or_else(|error| panic!("{error}: {told:?}"));
    for _ in 0..u.int_in_range(1..=6)? {
        check_getters(&conv, &told);
        match u.int_in_range(0..=7)? {
            0 => conv = conv.clone(),
            1 => {
                let isa = *u.choose(&ISAS)?;
                match conv.clone().with_isa(isa) {
                    Ok(other) => (conv, told.isa) = (other, Some(isa)),
                    Err(error) => {
                        assert_eq!(
                            error,
                            Error::IsaUnavailable { requested: isa, available: IsaList(Isa::available()) }
                        );
                        assert!(!Isa::available().contains(&isa));
                    }
                }
            }
            2 => {
                let bytes = conv.to_packed_bytes();
                let mut written = vec![];
                conv.write_packed(&mut written).expect("a vector takes all");
                assert_eq!((&written, bytes.len()), (&bytes, conv.packed_len()));
                let loaded = match u.arbitrary()? {
                    true => PointwiseConv::from_packed(Aligned::from_slice(64, &bytes), Verify::All),
                    false => PointwiseConv::from_packed_copy(&bytes, Verify::All),
                };
                conv = loaded.expect("what was packed is loaded");
                (told.isa, tile) = (None, None);
            }
            3 => {
                let mut size = || if u.arbitrary()? { number(u) } else { u.int_in_range(0..=9) };
                let shape =
                    [size()?, size()?, size()?, if u.int_in_range(0..=7)? == 7 { number(u)? } else { in_channels }];
                check_plan(&conv, &told, tile, shape, &Shuffled::new(u)?);
            }
            _ if in_channels <= k => {
                let shape = [u.int_in_range(0..=2)?, u.int_in_range(0..=5)?, u.int_in_range(0..=20)?, in_channels];
                check_run(&conv, &told, shape, u, &mut values)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| check(input, run));
