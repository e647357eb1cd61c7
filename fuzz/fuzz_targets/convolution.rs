//! Every ISA that the CPU has against the reference, bit for bit.
//!
//! The input's first bytes choose sizes, strides and what follows the sum; the others are the tensors' values, as they
//! are, so NaNs, infinities and denormals occur. Slices hold what a view spans and little more: the address sanitizer
//! sees an access beyond them. Canaries stand between output pixels and behind the last one.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::{
    Activation, Executor, Isa, Nhwc, NhwcMut, PointwiseConv, ResidualOrder, Shape, Strides, reference::Reference,
};
use std::ops::RangeInclusive;

/// A value that no sum gives by chance.
const CANARY: f32 = f32::from_bits(0xdead_beef);

/// Sizes `[K, F, n, h, w]`, channels by group. Each kind leads somewhere else.
type Sizes = [RangeInclusive<usize>; 5];
const SMALL: Sizes = [0..=20, 0..=20, 0..=3, 0..=5, 0..=9];
const PIXELS: Sizes = [0..=9, 0..=17, 0..=2, 0..=40, 0..=40];
const CHANNELS: Sizes = [0..=72, 0..=144, 0..=2, 0..=3, 0..=20];
/// Millions of multiply-adds: below that, one thread does it all. The slowest, and so the rarest.
const THREADS: Sizes = [48..=72, 48..=72, 1..=1, 30..=40, 30..=40];

#[derive(Debug)]
struct Case {
    /// Of one group.
    in_channels: usize,
    groups: usize,
    stride: (usize, usize),
    input: Shape,
    input_strides: Strides,
    output: Shape,
    output_strides: Strides,
    residual_strides: Option<Strides>,
    /// Values behind the last pixel.
    tail: usize,
    bias: bool,
    scale_shift: bool,
    activation: u8,
    residual_order: ResidualOrder,
    /// The residual is what the output holds.
    in_place: bool,
    threads: usize,
    seed: u64,
    /// Values as they are, or ordinary numbers made of them.
    raw: bool,
}

impl Case {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let kinds = [SMALL, SMALL, PIXELS, CHANNELS, SMALL, PIXELS, CHANNELS, SMALL, PIXELS, CHANNELS, SMALL, THREADS];
        let mut sizes = [0; 5];
        for (size, range) in sizes.iter_mut().zip(u.choose(&kinds)?) {
            *size = u.int_in_range(range.clone())?;
        }
        let [in_channels, out_channels, n, h, w] = sizes;
        let large = in_channels * out_channels * n * h * w > 1 << 18;
        let groups = if large { 1 } else { u.int_in_range(1..=4)? };
        let stride = if large { (1, 1) } else { (u.int_in_range(1..=3)?, u.int_in_range(1..=3)?) };
        let input = [n, h, w, in_channels * groups];
        let output = [n, h.div_ceil(stride.0), w.div_ceil(stride.1), out_channels * groups];
        Ok(Self {
            in_channels,
            groups,
            stride,
            input,
            input_strides: strides_to_read(u, input)?,
            output,
            output_strides: strides(u, output)?,
            residual_strides: if u.arbitrary()? { Some(strides_to_read(u, output)?) } else { None },
            tail: u.int_in_range(0..=3)?,
            bias: u.arbitrary()?,
            scale_shift: u.arbitrary()?,
            activation: u.int_in_range(0..=14)?,
            residual_order: *u.choose(&[ResidualOrder::BeforeActivation, ResidualOrder::AfterActivation])?,
            in_place: u.arbitrary()?,
            threads: u.int_in_range(1..=5)?,
            seed: u.arbitrary()?,
            raw: u.arbitrary()?,
        })
    }

    fn view<'a>(&self, y: &'a mut [f32]) -> NhwcMut<'a> {
        NhwcMut::with_strides(y, self.output, self.output_strides).expect("pixels do not overlap")
    }
}

/// Pixels that do not overlap: axes in any order, each with room behind it.
fn strides(u: &mut Unstructured<'_>, [n, h, w, channels]: Shape) -> Result<Strides> {
    let orders = [[2, 1, 0], [2, 0, 1], [1, 2, 0], [1, 0, 2], [0, 1, 2], [0, 2, 1]];
    let (mut strides, mut extent) = ([0; 3], channels);
    for axis in *u.choose(&orders)? {
        strides[axis] = extent + *u.choose(&[0, 0, 1, 3])?;
        extent = [n, h, w][axis] * strides[axis];
    }
    Ok(strides)
}

/// As [`strides`], or pixels that overlap, or pixels that fall into one set of a cache.
fn strides_to_read(u: &mut Unstructured<'_>, shape: Shape) -> Result<Strides> {
    let small = shape[0] * shape[1] * shape[2] <= 100;
    match u.int_in_range(0..=7)? {
        0 => Ok([u.int_in_range(0..=99)?, u.int_in_range(0..=99)?, u.int_in_range(0..=99)?]),
        1 if small => Ok([1024 * shape[1] * shape[2], 1024 * shape[2], 1024]),
        _ => strides(u, shape),
    }
}

/// Values from the first to the last of a view.
fn span(shape: Shape, strides: Strides) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum::<usize>() + shape[3]
}

/// Knuth's linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as usize
    }
}

/// Values from a pool of bits, in random order: in a fixed one, pixels might repeat and a kernel mix them up unseen.
struct Values {
    pool: Vec<u32>,
    random: Random,
    raw: bool,
}

impl Values {
    fn next(&mut self) -> f32 {
        let bits = self.pool[self.random.next() % self.pool.len()];
        // Otherwise exponents from -7 to 8, so that no product drowns the others, and any digits.
        let digits = self.random.next() as u32 & 0x007f_ffff;
        f32::from_bits(if self.raw { bits } else { bits & 0x8780_0000 | 0x3c00_0000 | digits })
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// Runs the tasks in a random order, and each once more, which must do no harm.
struct Shuffled {
    threads: usize,
    seed: u64,
}

impl Executor for Shuffled {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let mut random = Random(self.seed);
        let mut order: Vec<usize> = (0..tasks).chain(0..tasks).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, random.next() % (last + 1));
        }
        order.into_iter().for_each(task);
    }
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// The input, continued at random where it is short: libFuzzer starts with inputs of four bytes, and takes long to grow
/// them. So each of them is a whole case.
fn continued(input: &[u8]) -> Vec<u8> {
    let seed = input.iter().fold(0, |seed, byte| Random(seed ^ u64::from(*byte)).next() as u64);
    let mut random = Random(seed);
    let more = std::iter::from_fn(|| Some(random.next() as u8)).take(256usize.saturating_sub(input.len()));
    input.iter().copied().chain(more).collect()
}

fuzz_target!(|input: &[u8]| {
    let bytes = continued(input);
    let mut u = Unstructured::new(&bytes);
    let Ok(case) = Case::new(&mut u) else { return };
    let pool = u.take_rest().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect::<Vec<u32>>();
    let pool = if pool.is_empty() { vec![0] } else { pool };
    let mut values = Values { pool, random: Random(case.seed), raw: case.raw };

    let (in_channels, out_channels) = (case.input[3], case.output[3]);
    let weights = values.vec(out_channels * case.in_channels);
    let bias = case.bias.then(|| values.vec(out_channels));
    let x = values.vec(span(case.input, case.input_strides));
    let x = Nhwc::with_strides(&x, case.input, case.input_strides).expect("the slice spans the view");
    let residual = case.residual_strides.map(|strides| values.vec(span(case.output, strides)));
    let residual = residual
        .as_ref()
        .zip(case.residual_strides)
        .map(|(data, strides)| Nhwc::with_strides(data, case.output, strides).expect("the slice spans the view"));
    let activation = match case.activation {
        0 => Activation::Identity,
        1 => Activation::Relu,
        2 => Activation::Clamp { min: values.next(), max: values.next() },
        3 => Activation::Sigmoid,
        4 => Activation::Tanh,
        5 => Activation::LeakyRelu { slope: values.next() },
        6 => Activation::HardSigmoid { alpha: values.next(), beta: values.next() },
        7 => Activation::HardSwish,
        8 => Activation::Swish { beta: values.next() },
        9 => Activation::Gelu,
        10 => Activation::GeluTanh,
        11 => Activation::Elu { alpha: values.next() },
        12 => Activation::Softplus,
        13 => Activation::Prelu,
        _ => Activation::Mish,
    };

    let slopes = (activation == Activation::Prelu).then(|| values.vec(out_channels));
    let [scale, shift] = [values.vec(out_channels), values.vec(out_channels)];
    let scale_shift = case.scale_shift.then_some((&scale[..], &shift[..]));

    let mut before = vec![CANARY; span(case.output, case.output_strides) + case.tail];
    if let Some(residual) = residual.filter(|_| case.in_place) {
        let [n, h, w, _] = case.output;
        let mut y = case.view(&mut before);
        for (n, h, w) in (0..n).flat_map(|n| (0..h).flat_map(move |h| (0..w).map(move |w| (n, h, w)))) {
            y.pixel_mut(n, h, w).expect("a pixel").copy_from_slice(residual.pixel(n, h, w).expect("a pixel"));
        }
    }
    let (mut expected, mut actual) = (before.clone(), before.clone());
    let reference = Reference {
        out_channels,
        stride: case.stride,
        groups: case.groups,
        weights: &weights,
        bias: bias.as_deref(),
        scale_shift,
        activation,
        slopes: slopes.as_deref(),
        residual: case.residual_order,
    };
    let defined = reference.run(x, residual, case.view(&mut expected));

    for &isa in Isa::available() {
        let builder = PointwiseConv::builder(in_channels, out_channels)
            .stride(case.stride.0, case.stride.1)
            .groups(case.groups)
            .activation(activation)
            .residual_order(case.residual_order)
            .isa(isa);
        let builder = bias.as_ref().map_or(builder, |bias| builder.bias(bias));
        let builder = scale_shift.map_or(builder, |(scale, shift)| builder.scale_shift(scale, shift));
        let builder = slopes.as_ref().map_or(builder, |slopes| builder.slopes(slopes));
        let conv = match (builder.build(&weights), &defined) {
            (Ok(conv), Ok(())) => conv,
            // A clamp without order, or a parameter that is not finite. The error may hold a NaN and not equal itself.
            (Err(actual), Err(expected)) => {
                assert_eq!(actual.to_string(), expected.to_string());
                continue;
            }
            (built, _) => panic!("{isa}, {case:?}, {activation:?}: expected {defined:?}, got {built:?}"),
        };
        actual.copy_from_slice(&before);
        let executor = Shuffled { threads: case.threads, seed: case.seed };
        let ran = match residual {
            Some(_) if case.in_place => conv.run_accumulate_with(&executor, x, case.view(&mut actual)),
            Some(residual) => conv.run_residual_with(&executor, x, residual, case.view(&mut actual)),
            None => conv.run_with(&executor, x, case.view(&mut actual)),
        };
        assert_eq!(ran, Ok(()), "{isa}, {case:?}");
        for (i, (&actual, &expected)) in actual.iter().zip(&expected).enumerate() {
            assert!(
                same(actual, expected),
                "{isa}, {case:?}, {activation:?}, value {i}: expected {expected:?} ({:08x}), got {actual:?} ({:08x})",
                expected.to_bits(),
                actual.to_bits(),
            );
        }
    }
});
