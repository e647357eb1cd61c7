//! Benchmarks, each named `group/isa/shape`, so that `cargo bench -- avx2` or `cargo bench -- layers/avx512/7x7` picks some:
//!
//! * `layers`: layers of real networks, one thread
//! * `sigmoid`: an activation that takes long
//! * `small`: what a call costs before it computes
//! * `pack`: building a convolution
//! * `threads`: two threads of a [`Pool`]
//!
//! Elements are floating-point operations: 1 Gelem/s is 1 GFLOP/s.
//!
//! [critcmp] puts runs side by side, or the ISAs of one run:
//!
//! ```text
//! cargo bench -- layers --save-baseline before
//! cargo bench -- layers --save-baseline after
//! critcmp before after
//! critcmp after -g '(\w+)/\w+/(.*)'
//! ```
//!
//! Minutes lie between two such runs, and clocks drift: `just bench-compare` runs a commit and the working tree in turn, and
//! `.ci/instructions` counts instructions.
//!
//! [critcmp]: https://crates.io/crates/critcmp

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointwise::{Activation, Isa, Nhwc, NhwcMut, PointwiseConv, Pool};
use std::hint::black_box;

/// `[height, width, in_channels, out_channels]`
type Layer = [usize; 4];

const LAYERS: [Layer; 12] = [
    [56, 56, 64, 256],
    [28, 28, 512, 128],
    [14, 14, 256, 1024],
    [14, 14, 1024, 256],
    [7, 7, 2048, 512],
    [112, 112, 16, 96],
    [112, 112, 32, 16],
    [56, 56, 144, 24],
    [32, 32, 192, 160],
    [8, 8, 192, 10],
    [36, 36, 32, 1],
    [1, 1, 1280, 1000],
];

const SMALL: [Layer; 3] = [[1, 1, 8, 8], [1, 1, 64, 64], [4, 4, 16, 16]];

/// Runs `bench` for each ISA and layer, with the values of the layer's tensors.
fn each(
    criterion: &mut Criterion,
    group: &str,
    layers: &[Layer],
    activation: Activation,
    throughput: impl Fn(Layer) -> Throughput,
    mut bench: impl FnMut(&mut criterion::Bencher<'_>, &PointwiseConv, Layer, &[f32], &[f32], &mut [f32]),
) {
    let mut group = criterion.benchmark_group(group);
    for &isa in Isa::available().iter().rev() {
        for &layer in layers {
            let [h, w, k, f] = layer;
            let values = |len: usize| (0..len).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect::<Vec<_>>();
            // Only where the benchmark is picked, and only once: criterion calls the closure for each sample.
            let mut made = None;
            let make = || {
                let (x, weights, y) = (values(h * w * k), values(k * f), vec![0.0; h * w * f]);
                let builder = PointwiseConv::builder(k, f).activation(activation).isa(isa);
                (builder.build(&weights).expect("the layer builds"), weights, x, y)
            };
            group.throughput(throughput(layer));
            group.bench_function(format!("{isa}/{h}x{w}x{k}>{f}"), |bencher| {
                let (conv, weights, x, y) = made.get_or_insert_with(make);
                bench(bencher, conv, layer, weights, x, y);
            });
        }
    }
}

/// FLOPs, which criterion shows as elements a second.
fn flops([h, w, k, f]: Layer) -> Throughput {
    Throughput::Elements(2 * (h * w * k * f) as u64)
}

/// What is timed. `.ci/instructions` counts from its entry to its exit.
#[inline(never)]
fn call<T>(f: impl FnOnce() -> T) -> T {
    f()
}

fn run(
    bencher: &mut criterion::Bencher<'_>,
    [h, w, k, f]: Layer,
    x: &[f32],
    y: &mut [f32],
    run: impl Fn(Nhwc<'_>, NhwcMut<'_>) -> Result<(), pointwise::Error>,
) {
    bencher.iter(|| {
        call(|| {
            let x = Nhwc::new(black_box(x), [1, h, w, k]).expect("a dense input");
            let y = NhwcMut::new(black_box(y), [1, h, w, f]).expect("a dense output");
            run(x, y).expect("the layer runs");
        });
    });
}

fn one_thread(criterion: &mut Criterion, group: &str, layers: &[Layer], activation: Activation) {
    each(criterion, group, layers, activation, flops, |bencher, conv, layer, _, x, y| {
        run(bencher, layer, x, y, |x, y| conv.run(x, y));
    });
}

fn layers(criterion: &mut Criterion) {
    one_thread(criterion, "layers", &LAYERS, Activation::Relu);
}

fn sigmoid(criterion: &mut Criterion) {
    one_thread(criterion, "sigmoid", &[[28, 28, 64, 128]], Activation::Sigmoid);
}

fn small(criterion: &mut Criterion) {
    one_thread(criterion, "small", &SMALL, Activation::Relu);
}

fn pack(criterion: &mut Criterion) {
    let bytes = |[_, _, k, f]: Layer| Throughput::Bytes(4 * (k * f) as u64);
    each(criterion, "pack", &LAYERS[..5], Activation::Relu, bytes, |bencher, conv, [_, _, k, f], weights, _, _| {
        let isa = conv.plan([1, 1, 1, k], &pointwise::Serial).expect("a plan").isa;
        bencher.iter(|| call(|| PointwiseConv::builder(k, f).isa(isa).build(black_box(weights))));
    });
}

fn threads(criterion: &mut Criterion) {
    let pool = Pool::new(2).expect("a pool");
    each(criterion, "threads", &LAYERS, Activation::Relu, flops, |bencher, conv, layer, _, x, y| {
        run(bencher, layer, x, y, |x, y| conv.run_with(&pool, x, y));
    });
}

criterion_group!(benches, layers, sigmoid, small, pack, threads);
criterion_main!(benches);
