//! What the targets share: convolutions, views and executors made of an input, and what must be said of them.

#[path = "../../tests/common/mod.rs"]
mod common;

pub use common::{CANARY, assert_same};

use aligned_vec::{AVec, ConstAlign};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use pointwise::{
    Activation, Builder, Error, Executor, Nhwc, NhwcMut, PointwiseConv, Pool, ResidualOrder, Shape, Strides,
    reference::Reference,
};
use rand::{RngExt, rngs::SmallRng, seq::SliceRandom};
use std::{ops::Range, sync::LazyLock};

/// Bytes at a multiple of 64, and no more than these: the address sanitizer sees an access beyond them.
pub type Aligned = AVec<u8, ConstAlign<64>>;

/// Makes a case of the input, and checks it. The input is continued at random where it is short: libFuzzer starts with
/// inputs of four bytes, and takes long to grow them. So each of them is a whole case.
pub fn check(input: &[u8], case: impl FnOnce(&mut Unstructured<'_>) -> Result<()>) {
    let mut random = common::rng(crc32fast::hash(input).into());
    let more = std::iter::repeat_with(|| random.random()).take(1024usize.saturating_sub(input.len()));
    let bytes: Vec<u8> = input.iter().copied().chain(more).collect();
    case(&mut Unstructured::new(&bytes)).expect("there is something to choose from");
}

/// Values of a pool of bits, in random order: in a fixed one, pixels might repeat and a kernel mix them up unseen.
pub struct Values {
    pool: [u32; 16],
    random: SmallRng,
    /// As they are, so that NaNs, infinities and denormals occur. Otherwise ordinary numbers are made of them.
    raw: bool,
}

impl Values {
    pub fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self { pool: u.arbitrary()?, random: common::rng(u.arbitrary()?), raw: u.arbitrary()? })
    }

    fn next(&mut self) -> f32 {
        let bits = self.pool[self.random.random_range(0..self.pool.len())];
        // Otherwise exponents from -7 to 8, so that no product drowns the others, and any digits.
        let digits = self.random.random::<u32>() & 0x007f_ffff;
        f32::from_bits(if self.raw { bits } else { bits & 0x8780_0000 | 0x3c00_0000 | digits })
    }

    pub fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// An activation; with `any` parameters, also such as are refused.
pub fn activation(u: &mut Unstructured<'_>, any: bool) -> Result<Activation> {
    let mut parameter = || match u.int_in_range(0..=7)? {
        0 if any => Ok(f32::from_bits(u.arbitrary()?)),
        1 if any => u.choose(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]).copied(),
        _ => Ok(f32::from(u.arbitrary::<i8>()?) / 32.0),
    };
    let (a, b) = (parameter()?, parameter()?);
    let parameters = if any { [a, b] } else { [a.min(b), a.max(b)] };
    Ok(activation_of(u.int_in_range(0..=14)?, parameters).expect("a number of C's"))
}

/// What a number and two parameters stand for in C.
pub fn activation_of(number: i32, [a, b]: [f32; 2]) -> Option<Activation> {
    Some(match number {
        0 => Activation::Identity,
        1 => Activation::Relu,
        2 => Activation::Clamp { min: a, max: b },
        3 => Activation::Sigmoid,
        4 => Activation::Tanh,
        5 => Activation::LeakyRelu { slope: a },
        6 => Activation::Prelu,
        7 => Activation::HardSigmoid { alpha: a, beta: b },
        8 => Activation::HardSwish,
        9 => Activation::Swish { beta: a },
        10 => Activation::Gelu,
        11 => Activation::GeluTanh,
        12 => Activation::Elu { alpha: a },
        13 => Activation::Softplus,
        14 => Activation::Mish,
        _ => return None,
    })
}

pub fn residual_order(u: &mut Unstructured<'_>) -> Result<ResidualOrder> {
    u.choose(&[ResidualOrder::BeforeActivation, ResidualOrder::AfterActivation]).copied()
}

/// A size, stride or length: any, and often where arithmetic ends.
pub fn number(u: &mut Unstructured<'_>) -> Result<usize> {
    const VALUES: usize = isize::MAX as usize / size_of::<f32>();
    match u.int_in_range(0..=2)? {
        0 => u.int_in_range(0..=9),
        1 => u.arbitrary(),
        _ => {
            let edges = [usize::MAX, usize::MAX / 2, usize::MAX / 4, VALUES, VALUES / 2, 1 << 32, 1 << 31, 1 << 16];
            Ok(u.choose(&edges)?.saturating_add(u.int_in_range(0..=4)?).saturating_sub(2))
        }
    }
}

/// What a convolution is built of.
#[derive(Clone, Debug)]
pub struct Layer {
    pub in_channels: usize,
    pub out_channels: usize,
    pub groups: usize,
    pub stride: (usize, usize),
    pub weights: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub scale_shift: Option<(Vec<f32>, Vec<f32>)>,
    pub activation: Activation,
    pub slopes: Option<Vec<f32>>,
    pub residual: ResidualOrder,
}

impl Layer {
    /// `channels` are those of a group.
    pub fn new(
        u: &mut Unstructured<'_>,
        values: &mut Values,
        channels: (usize, usize),
        groups: usize,
        stride: (usize, usize),
        activation: Activation,
    ) -> Result<Self> {
        let (in_channels, out_channels) = (channels.0 * groups, channels.1 * groups);
        let mut given = |given: bool| given.then(|| values.vec(out_channels));
        Ok(Self {
            in_channels,
            out_channels,
            groups,
            stride,
            bias: given(u.arbitrary()?),
            scale_shift: if u.arbitrary()? { given(true).zip(given(true)) } else { None },
            activation,
            slopes: given(activation == Activation::Prelu),
            residual: residual_order(u)?,
            weights: values.vec(out_channels * channels.0),
        })
    }

    pub fn reference(&self) -> Reference<'_> {
        Reference {
            out_channels: self.out_channels,
            stride: self.stride,
            groups: self.groups,
            weights: &self.weights,
            bias: self.bias.as_deref(),
            scale_shift: self.scale_shift.as_ref().map(|(scale, shift)| (&scale[..], &shift[..])),
            activation: self.activation,
            slopes: self.slopes.as_deref(),
            residual: self.residual,
        }
    }

    pub fn builder(&self) -> Builder<'_> {
        builder(self.in_channels, &self.reference())
    }
}

pub fn output_shape(reference: &Reference<'_>, [n, h, w, _]: Shape) -> Shape {
    [n, h.div_ceil(reference.stride.0), w.div_ceil(reference.stride.1), reference.out_channels]
}

/// The memory of an output, which held `before`: what the reference makes of tensors without strides.
pub fn expected(
    reference: &Reference<'_>,
    (x, x_data): (View, &[f32]),
    residual: Option<(View, &[f32])>,
    y: View,
    before: &[f32],
) -> Vec<f32> {
    let mut after = before.to_vec();
    if y.is_empty() {
        return after;
    }
    let x = x.every(reference.stride);
    let (input, residual) = (x.gather(x_data), residual.map(|(view, data)| view.gather(data)));
    let mut output = vec![CANARY; y.shape.iter().product()];
    Reference { stride: (1, 1), ..*reference }
        .run(
            Nhwc::new(&input, x.shape).expect("a view"),
            residual.as_ref().map(|data| Nhwc::new(data, y.shape).expect("a view")),
            NhwcMut::new(&mut output, y.shape).expect("a view"),
        )
        .expect("the reference runs");
    y.scatter(&output, &mut after);
    after
}

/// A builder that was told what the reference knows.
pub fn builder<'a>(in_channels: usize, reference: &Reference<'a>) -> Builder<'a> {
    let builder = PointwiseConv::builder(in_channels, reference.out_channels)
        .stride(reference.stride.0, reference.stride.1)
        .groups(reference.groups)
        .activation(reference.activation)
        .residual_order(reference.residual);
    let builder = reference.bias.map_or(builder, |bias| builder.bias(bias));
    let builder = reference.scale_shift.map_or(builder, |(scale, shift)| builder.scale_shift(scale, shift));
    reference.slopes.map_or(builder, |slopes| builder.slopes(slopes))
}

/// A view's numbers, and what must be said of them, by arithmetic that cannot overflow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    pub shape: Shape,
    pub strides: Strides,
}

impl View {
    pub fn dense(shape: Shape) -> Self {
        let row = shape[2].saturating_mul(shape[3]);
        Self { shape, strides: [shape[1].saturating_mul(row), row, shape[3]] }
    }

    /// Pixels that do not overlap: axes in any order, each with room behind it.
    pub fn to_write(u: &mut Unstructured<'_>, shape: Shape) -> Result<Self> {
        let orders = [[2, 1, 0], [2, 0, 1], [1, 2, 0], [1, 0, 2], [0, 1, 2], [0, 2, 1]];
        let (mut strides, mut extent) = ([0; 3], shape[3]);
        for axis in *u.choose(&orders)? {
            strides[axis] = extent + *u.choose(&[0, 0, 1, 3])?;
            extent = shape[axis] * strides[axis];
        }
        Ok(Self { shape, strides })
    }

    /// As [`to_write`](Self::to_write), or pixels that overlap, or pixels that fall into one set of a cache.
    pub fn to_read(u: &mut Unstructured<'_>, shape: Shape) -> Result<Self> {
        let [n, h, w, _] = shape;
        let strides = match u.int_in_range(0..=7)? {
            0 => [u.int_in_range(0..=99)?, u.int_in_range(0..=99)?, u.int_in_range(0..=99)?],
            1 if n * h * w <= 100 => [1024 * h * w, 1024 * w, 1024],
            _ => return Self::to_write(u, shape),
        };
        Ok(Self { shape, strides })
    }

    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Values from the first to the last.
    pub fn span(&self) -> Result<usize, Error> {
        if self.is_empty() {
            return Ok(0);
        }
        let steps = self.shape.iter().zip(self.strides).map(|(size, stride)| (*size as u128 - 1) * stride as u128);
        let span = steps.fold(self.shape[3] as u128, u128::saturating_add);
        if span > isize::MAX as u128 / 4 {
            return Err(Error::TooLarge { what: "view", shape: self.shape, strides: self.strides });
        }
        Ok(span as usize)
    }

    /// Whether `len` values hold it.
    pub fn check_length(&self, actual: usize) -> Result<(), Error> {
        let expected = self.span()?;
        if actual < expected { Err(Error::Length { what: "view", expected, actual }) } else { Ok(()) }
    }

    /// Whether each axis steps over all that lies on those of smaller strides.
    pub fn check_apart(&self) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let key = |axis: usize| (self.strides[axis], 2 - axis);
        let step = |axis: usize| (self.shape[axis] - 1) * self.strides[axis];
        let axes = || (0..3).filter(|axis| self.shape[*axis] > 1);
        let extent = |axis| self.shape[3] + axes().filter(|other| key(*other) < key(axis)).map(step).sum::<usize>();
        match axes().filter(|axis| self.strides[*axis] < extent(*axis)).min_by_key(|axis| key(*axis)) {
            None => Ok(()),
            Some(axis) => Err(Error::Overlap {
                axis: ["images", "rows", "pixels"][axis],
                size: self.shape[axis],
                extent: extent(axis),
                stride: self.strides[axis],
            }),
        }
    }

    /// Its pixels. A view without values has none.
    pub fn pixels(&self) -> impl Iterator<Item = [usize; 3]> + use<> {
        let [n, h, w, _] = if self.is_empty() { [0; 4] } else { self.shape };
        (0..n).flat_map(move |n| (0..h).flat_map(move |h| (0..w).map(move |w| [n, h, w])))
    }

    /// Where a pixel lies. Nowhere, if it has no values.
    pub fn range(&self, pixel: [usize; 3]) -> Range<usize> {
        let channels = self.shape[3];
        let start = if channels == 0 { 0 } else { pixel.iter().zip(self.strides).map(|(i, stride)| i * stride).sum() };
        start..start + channels
    }

    /// What a convolution reads of it.
    pub fn every(&self, stride: (usize, usize)) -> Self {
        let ([n, h, w, c], [batch, row, pixel]) = (self.shape, self.strides);
        Self {
            shape: [n, h.div_ceil(stride.0), w.div_ceil(stride.1), c],
            // A product that saturates is the step to a pixel that is not there.
            strides: [batch, row.saturating_mul(stride.0), pixel.saturating_mul(stride.1)],
        }
    }

    /// Its values, one after the other.
    pub fn gather(&self, data: &[f32]) -> Vec<f32> {
        self.pixels().flat_map(|pixel| &data[self.range(pixel)]).copied().collect()
    }

    pub fn scatter(&self, values: &[f32], data: &mut [f32]) {
        for (pixel, values) in self.pixels().zip(values.chunks_exact(self.shape[3].max(1))) {
            data[self.range(pixel)].copy_from_slice(values);
        }
    }

    pub fn read(self, data: &[f32]) -> Nhwc<'_> {
        Nhwc::with_strides(data, self.shape, self.strides).expect("the slice spans the view")
    }

    pub fn write(self, data: &mut [f32]) -> NhwcMut<'_> {
        NhwcMut::with_strides(data, self.shape, self.strides).expect("the slice spans the view, and pixels are apart")
    }
}

/// Calls with each number twice, in a random order, which must do no harm; now and then on several threads.
#[derive(Debug)]
pub struct Shuffled {
    threads: usize,
    /// Little, so that small runs are split too, or as much as is the default.
    work_per_thread: usize,
    seed: u64,
}

impl Shuffled {
    pub fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let threads = u.int_in_range(1..=5)?;
        Ok(Self { threads, work_per_thread: 1 << u.int_in_range(0..=21)?, seed: u.arbitrary()? })
    }
}

impl Executor for Shuffled {
    fn threads(&self) -> usize {
        self.threads
    }

    fn work_per_thread(&self) -> usize {
        self.work_per_thread
    }

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        // One for all cases: to start threads takes longer than a case.
        static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(3).expect("there are threads"));
        let mut order: Vec<usize> = (0..threads).chain(0..threads).collect();
        order.shuffle(&mut common::rng(self.seed));
        if self.seed.is_multiple_of(8) {
            POOL.run(order.len(), &|i| work(order[i]));
        } else {
            order.into_iter().for_each(work);
        }
    }
}
