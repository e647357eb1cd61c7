//! What the integration tests share: a convolution with all its options as one value, and its comparison, bit for bit,
//! with the reference.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod activations;

use pointwise::{
    Activation, Error, Executor, Isa, Nhwc, NhwcMut, PointwiseConv, ResidualOrder, Shape, Strides, Tile,
    reference::Reference,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use std::process::Command;

/// The ISAs to test: all that the CPU has. Fails where `POINTWISE_TEST_ISAS` lists one that it has not.
pub fn isas() -> &'static [Isa] {
    let available = Isa::available();
    let required = std::env::var("POINTWISE_TEST_ISAS").unwrap_or_default();
    for name in required.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let isa: Isa = name.parse().expect("POINTWISE_TEST_ISAS lists ISAs");
        assert!(available.contains(&isa), "POINTWISE_TEST_ISAS asks for {isa}, which this CPU has not");
    }
    println!("ISAs tested: {available:?}");
    available
}

/// A test of the same file, to be run in a process of its own.
pub fn child(test: &str) -> Command {
    let file = std::env::current_exe().expect("the test's own file");
    let mut command = match std::env::var("POINTWISE_TEST_RUNNER") {
        // An emulator does not pass itself on to a child process.
        Ok(runner) => {
            let mut words = runner.split(' ');
            let mut command = Command::new(words.next().expect("a program"));
            command.args(words).arg(file);
            command
        }
        Err(_) => Command::new(file),
    };
    command.args(["--exact", test, "--nocapture"]);
    command
}

/// Equal bits; any NaN equals any other.
pub fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Fails with the first three values that differ.
#[track_caller]
pub fn assert_same(got: &[f32], expected: &[f32], what: impl std::fmt::Display) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let wrong: Vec<_> = (0..got.len()).filter(|i| !same(got[*i], expected[*i])).collect();
    let first: Vec<_> = wrong.iter().take(3).map(|i| (i, got[*i], expected[*i])).collect();
    assert!(
        wrong.is_empty(),
        "{what}: {} of {} values differ; (index, got, expected): {first:?}",
        wrong.len(),
        got.len()
    );
}

/// What fills a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Between -1 and 1.
    Ordinary,
    /// Any bits: NaN, infinities, denormals, zeros of both signs, all magnitudes.
    AnyBits,
    /// Ordinary, with a special one here and there.
    Mixed,
    /// Integers from -8 to 8.
    Integers,
}

pub fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

pub fn fill(len: usize, values: Values, rng: &mut SmallRng) -> Vec<f32> {
    const SPECIAL: [f32; 10] =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-40, -1e-45, f32::MAX, f32::MIN_POSITIVE, -3e38];
    (0..len)
        .map(|_| match values {
            Values::AnyBits => f32::from_bits(rng.random()),
            Values::Mixed if rng.random_ratio(1, 50) => SPECIAL[rng.random_range(0..SPECIAL.len())],
            Values::Integers => rng.random_range(-8i8..=8).into(),
            _ => rng.random_range(-1.0..1.0),
        })
        .collect()
}

/// A view's place in a larger buffer: what lies in front of it, and how much farther apart than needed pixels, rows and
/// images are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Padding {
    pub front: usize,
    pub pixel: usize,
    pub row: usize,
    pub batch: usize,
}

impl Padding {
    /// Strides, and the length of a buffer that ends with the view's last value.
    pub fn layout(&self, [n, h, w, c]: Shape) -> (Strides, usize) {
        let pixel = c + self.pixel;
        let row = w * pixel + self.row;
        let batch = h * row + self.batch;
        let strides = [batch, row, pixel];
        if [n, h, w, c].contains(&0) {
            return (strides, self.front);
        }
        (strides, self.front + (n - 1) * batch + (h - 1) * row + (w - 1) * pixel + c)
    }
}

/// A convolution and its input, all of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub input: Shape,
    pub out_channels: usize,
    pub groups: usize,
    pub stride: (usize, usize),
    pub bias: bool,
    pub scale_shift: bool,
    pub residual: bool,
    /// The residual is what the output holds.
    pub in_place: bool,
    pub residual_order: ResidualOrder,
    pub activation: Activation,
    pub values: Values,
    /// Of input, residual and output.
    pub padding: [Padding; 3],
    pub threads: usize,
    pub tile: Option<Tile>,
    pub seed: u64,
}

impl Case {
    /// One value of everything, which other cases vary.
    pub const ONE: Self = Self {
        input: [1, 1, 1, 1],
        out_channels: 1,
        groups: 1,
        stride: (1, 1),
        bias: true,
        scale_shift: false,
        residual: false,
        in_place: false,
        residual_order: ResidualOrder::BeforeActivation,
        activation: Activation::Identity,
        values: Values::Ordinary,
        padding: [Padding { front: 0, pixel: 0, row: 0, batch: 0 }; 3],
        threads: 1,
        tile: None,
        seed: 0,
    };
}

impl Default for Case {
    fn default() -> Self {
        Self::ONE
    }
}

/// Scoped threads.
pub struct Threads(pub usize);

impl Executor for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    /// Few, so that small cases are split too.
    fn work_per_thread(&self) -> usize {
        1 << 12
    }

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for i in 0..threads {
                scope.spawn(move || work(i));
            }
        });
    }
}

/// An executor for which whatever can be split is.
pub struct Eager<'a, E: ?Sized>(pub &'a E);

impl<E: Executor + ?Sized> Executor for Eager<'_, E> {
    fn threads(&self) -> usize {
        self.0.threads()
    }

    fn work_per_thread(&self) -> usize {
        1
    }

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        self.0.run(threads, work);
    }
}

/// The calling thread, which calls with each number twice, in an order that the seed gives.
pub struct Shuffled {
    pub threads: usize,
    pub seed: u64,
}

impl Executor for Shuffled {
    fn threads(&self) -> usize {
        self.threads
    }

    /// Whatever can be split is.
    fn work_per_thread(&self) -> usize {
        1
    }

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        let mut calls: Vec<_> = (0..threads).chain(0..threads).collect();
        calls.shuffle(&mut rng(self.seed));
        calls.into_iter().for_each(work);
    }
}

/// What an untouched value of an output buffer holds.
pub const CANARY: f32 = -12_345.679;

/// The tensors of a case.
pub struct Tensors<T = Vec<f32>> {
    pub x: T,
    pub weights: T,
    pub bias: T,
    pub scale: T,
    pub shift: T,
    pub slopes: T,
    pub residual: T,
}

impl Case {
    pub fn output(&self) -> Shape {
        let [n, h, w, _] = self.input;
        [n, h.div_ceil(self.stride.0), w.div_ceil(self.stride.1), self.out_channels]
    }

    pub fn tensors(&self) -> Tensors {
        let mut rng = rng(self.seed);
        let mut fill = |len| fill(len, self.values, &mut rng);
        Tensors {
            x: fill(self.padding[0].layout(self.input).1),
            weights: fill(self.out_channels * self.input[3] / self.groups),
            bias: fill(self.out_channels),
            scale: fill(self.out_channels),
            shift: fill(self.out_channels),
            slopes: fill(self.out_channels),
            residual: fill(self.padding[1].layout(self.output()).1),
        }
    }

    pub fn build(&self, tensors: &Tensors<impl AsRef<[f32]>>, isa: Isa) -> Result<PointwiseConv, Error> {
        let Tensors { weights, bias, scale, shift, slopes, .. } = tensors;
        let builder = PointwiseConv::builder(self.input[3], self.out_channels)
            .groups(self.groups)
            .stride(self.stride.0, self.stride.1)
            .activation(self.activation)
            .residual_order(self.residual_order)
            .isa(isa);
        let builder = if self.bias { builder.bias(bias.as_ref()) } else { builder };
        let builder = if self.scale_shift { builder.scale_shift(scale.as_ref(), shift.as_ref()) } else { builder };
        let builder = if self.activation == Activation::Prelu { builder.slopes(slopes.as_ref()) } else { builder };
        self.tile.map_or(builder, |tile| builder.tile(tile)).build(weights.as_ref())
    }

    /// The length of an output's buffer that ends with the last pixel.
    pub fn output_len(&self) -> usize {
        self.padding[2].layout(self.output()).1
    }

    /// Calls `run` with the views, the output's values being the residual's where it is in place; returns the output's whole
    /// buffer.
    pub fn with_views(
        &self,
        tensors: &Tensors<impl AsRef<[f32]>>,
        run: impl FnOnce(Nhwc<'_>, Option<Nhwc<'_>>, NhwcMut<'_>) -> Result<(), Error>,
    ) -> Vec<f32> {
        // Canaries behind the last pixel, too.
        let mut buffer = vec![CANARY; self.output_len() + 5];
        self.with_views_in(&mut buffer, tensors, run);
        buffer
    }

    /// The same, in this buffer for the output.
    pub fn with_views_in(
        &self,
        buffer: &mut [f32],
        tensors: &Tensors<impl AsRef<[f32]>>,
        run: impl FnOnce(Nhwc<'_>, Option<Nhwc<'_>>, NhwcMut<'_>) -> Result<(), Error>,
    ) {
        let [x, residual, y] = self.padding;
        let view = |data, padding: Padding, shape| {
            let data: &[f32] = data;
            Nhwc::with_strides(&data[padding.front..], shape, padding.layout(shape).0).expect("a view of the input")
        };
        buffer.fill(CANARY);
        let strides = y.layout(self.output()).0;
        let mut out =
            NhwcMut::with_strides(&mut buffer[y.front..], self.output(), strides).expect("a view of the output");
        let residual = self.residual.then(|| view(tensors.residual.as_ref(), residual, self.output()));
        if let Some(residual) = residual.filter(|_| self.in_place) {
            let [n, h, w, _] = self.output();
            for (n, h, w) in (0..n).flat_map(|n| (0..h).flat_map(move |h| (0..w).map(move |w| (n, h, w)))) {
                out.pixel_mut(n, h, w).expect("a pixel").copy_from_slice(residual.pixel(n, h, w).expect("a pixel"));
            }
        }
        run(view(tensors.x.as_ref(), x, self.input), residual, out).expect("the case runs");
    }

    pub fn reference(&self, tensors: &Tensors) -> Vec<f32> {
        let reference = Reference {
            out_channels: self.out_channels,
            stride: self.stride,
            groups: self.groups,
            weights: &tensors.weights,
            bias: self.bias.then_some(&tensors.bias),
            scale_shift: self.scale_shift.then_some((&tensors.scale, &tensors.shift)),
            activation: self.activation,
            slopes: (self.activation == Activation::Prelu).then_some(&tensors.slopes),
            residual: self.residual_order,
        };
        self.with_views(tensors, |x, residual, y| reference.run(x, residual, y))
    }

    /// The output's buffer as `isa` computes it.
    pub fn run(&self, tensors: &Tensors, isa: Isa) -> Vec<f32> {
        let conv = self.build(tensors, isa).expect("the case builds");
        let executor = Threads(self.threads);
        self.with_views(tensors, |x, residual, y| self.run_views(&conv, &executor, x, residual, y))
    }

    /// Runs the case as `conv` on what [`with_views`](Self::with_views) gives.
    pub fn run_views(
        &self,
        conv: &PointwiseConv,
        executor: &dyn Executor,
        x: Nhwc<'_>,
        residual: Option<Nhwc<'_>>,
        y: NhwcMut<'_>,
    ) -> Result<(), Error> {
        match residual {
            Some(_) if self.in_place => conv.run_accumulate_with(executor, x, y),
            Some(residual) => conv.run_residual_with(executor, x, residual, y),
            None => conv.run_with(executor, x, y),
        }
    }

    /// Every ISA gives the reference's bits, and touches nothing between and around the pixels.
    #[track_caller]
    pub fn check(&self) {
        let tensors = self.tensors();
        let expected = self.reference(&tensors);
        for isa in Isa::available() {
            assert_same(&self.run(&tensors, *isa), &expected, format_args!("{isa}, {self:?}"));
        }
    }
}
