//! The 1x1 convolutions of published networks, on pointwise and on the Rust crates with fast matrix products of f32.
//!
//! ```text
//! cargo run --release --manifest-path benches/rivals/Cargo.toml
//! cargo run --release --manifest-path benches/rivals/Cargo.toml -- --net mobilenetv2 --csv rivals.csv
//! ```
//!
//! One thread, batch 1, bias and relu. All run in one process, in turn, round after round, so that a change of the clock
//! meets all; a figure is the median round. Weights are packed before, where a crate can. Of bias and relu a rival does what
//! it can do on the way out, and the rest is left out, in its favour: [`RIVALS`] tells. Strided layers are left out, too,
//! as a matrix product would need a copy of the input. What a rival computes is compared with pointwise first.

#[path = "../../examples/networks/layers.rs"]
mod layers;
#[path = "../../examples/networks/peak.rs"]
mod peak;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use layers::{Layer, geometric_mean, medians_in_turn};
use pointwise::{Activation, Isa, Nhwc, NhwcMut, PointwiseConv};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rten_gemm::{BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;
use std::{path::PathBuf, time::Instant};
use tract_data::prelude::{DatumType, Tensor, tensor0};
use tract_linalg::{
    BinOp,
    mmm::{AsInputValue, FusedSpec, MmmDispatch, Query},
};

/// Times the 1x1 convolutions of ResNet-50, MobileNetV2, GoogLeNet, NiN and DeepPhys on pointwise and on its Rust rivals.
#[derive(Parser)]
struct Args {
    /// Only this network
    #[arg(long, value_name = "NAME")]
    net: Option<String>,
    /// Rounds that a figure is the median of
    #[arg(long, value_name = "N", default_value = "15")]
    rounds: usize,
    /// Writes all times to this file, too
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// What all get.
struct Data<'a> {
    pixels: usize,
    k: usize,
    f: usize,
    /// `[pixels, k]`.
    x: &'a [f32],
    /// `[f, k]`.
    weights: &'a [f32],
    /// `[f]`.
    bias: &'a [f32],
}

/// Computes the output, `[pixels, f]`. A tensor of tract's, as tract-linalg writes to nothing else.
type Run<'a> = Box<dyn FnMut(&mut Tensor) -> Result<()> + 'a>;

struct Rival {
    name: &'static str,
    /// Whether it adds the bias, and whether it computes the relu.
    bias: bool,
    relu: bool,
    /// Whether it takes packed weights.
    packs: bool,
    prepare: for<'a> fn(&Data<'a>) -> Result<Run<'a>>,
}

const RIVALS: [Rival; 4] = [
    Rival { name: "gemm", bias: false, relu: false, packs: false, prepare: gemm },
    Rival { name: "matrixmultiply", bias: false, relu: false, packs: false, prepare: matrixmultiply },
    Rival { name: "rten-gemm", bias: true, relu: false, packs: true, prepare: rten_gemm },
    Rival { name: "tract-linalg", bias: true, relu: true, packs: true, prepare: tract_linalg },
];

fn values(tensor: &mut Tensor) -> &mut [f32] {
    bytemuck::cast_slice_mut(tensor.as_bytes_mut())
}

fn pointwise<'a>(data: &Data<'a>, bias: bool, relu: bool) -> Result<Run<'a>> {
    let Data { pixels, k, f, x, weights, bias: values_of_bias } = *data;
    let mut builder = PointwiseConv::builder(k, f);
    if bias {
        builder = builder.bias(values_of_bias);
    }
    if relu {
        builder = builder.activation(Activation::Relu);
    }
    let conv = builder.build(weights)?;
    Ok(Box::new(move |y| {
        let y = NhwcMut::new(values(y), [1, 1, pixels, f])?;
        Ok(conv.run(Nhwc::new(x, [1, 1, pixels, k])?, y)?)
    }))
}

fn gemm<'a>(data: &Data<'a>) -> Result<Run<'a>> {
    let Data { pixels, k, f, x, weights, .. } = *data;
    let [k_stride, f_stride] = [k, f].map(|stride| stride as isize);
    Ok(Box::new(move |y| {
        let (y, x, weights, no) = (values(y).as_mut_ptr(), x.as_ptr(), weights.as_ptr(), gemm::Parallelism::None);
        // SAFETY: the strides, of columns and rows, are those of pixels x f, pixels x k and k x f values.
        unsafe {
            gemm::gemm(
                pixels, f, k, y, 1, f_stride, false, x, 1, k_stride, weights, k_stride, 1, 0.0, 1.0, false, false,
                false, no,
            );
        }
        Ok(())
    }))
}

fn matrixmultiply<'a>(data: &Data<'a>) -> Result<Run<'a>> {
    let Data { pixels, k, f, x, weights, .. } = *data;
    let [k_stride, f_stride] = [k, f].map(|stride| stride as isize);
    Ok(Box::new(move |y| {
        let (y, x, weights) = (values(y).as_mut_ptr(), x.as_ptr(), weights.as_ptr());
        // SAFETY: the strides, of rows and columns, are those of pixels x k, k x f and pixels x f values.
        unsafe { matrixmultiply::sgemm(pixels, k, f, 1.0, x, k_stride, 1, weights, 1, k_stride, 0.0, y, f_stride, 1) };
        Ok(())
    }))
}

fn rten_gemm<'a>(data: &Data<'a>) -> Result<Run<'a>> {
    let Data { pixels, k, f, x, weights, bias } = *data;
    let executor = GemmExecutor::<f32>::new();
    let weights = executor.prepack_b(NdTensorView::from_data([f, k], weights).transposed());
    Ok(Box::new(move |y| {
        let x = GemmInputA::Unpacked(NdTensorView::from_data([pixels, k], x));
        let options = GemmOptions { bias: Some(BiasVector::Row(bias)), ..Default::default() };
        Ok(executor.gemm(values(y), x, GemmInputB::Packed(&weights), options)?)
    }))
}

/// As tract itself, with output channels as rows and pixels as columns. The pixels are packed in every run.
fn tract_linalg<'a>(data: &Data<'a>) -> Result<Run<'a>> {
    let Data { pixels, k, f, x, weights, bias } = *data;
    let query = Query::plain(DatumType::F32, Some(f), Some(k), Some(pixels));
    let (kernel, packing, _) = MmmDispatch::native().pick(&query).context("tract-linalg has no kernel")?;
    let (of_weights, of_pixels) = kernel.packings()[packing].clone();
    let weights = of_weights.prepare_one(&Tensor::from_shape(&[f, k], weights)?, 1, 0)?;
    let (x, bias, zero) = (Tensor::from_shape(&[pixels, k], x)?, Tensor::from_shape(&[f], bias)?, tensor0(0f32));
    // SAFETY: nothing is asked of the caller.
    let mut scratch = unsafe { kernel.allocate_scratch_space() };
    Ok(Box::new(move |y| {
        let product = FusedSpec::AddMatMul {
            a: AsInputValue::Borrowed(&*weights),
            b: AsInputValue::Owned(of_pixels.prepare_one(&x, 1, 0)?),
            packing,
        };
        // SAFETY: the output has an axis of pixels and one of f output channels, and so have the operands.
        unsafe {
            let store = FusedSpec::Store(kernel.c_view(Some(1), Some(0)).wrap(&y.view()));
            let bias = FusedSpec::BinPerRow(bias.view(), BinOp::Add);
            let relu = FusedSpec::BinScalar(&zero, BinOp::Max);
            kernel.run_with_scratch_space(f, pixels, &mut *scratch, &[product, bias, relu, store])
        }
    }))
}

/// Compares a rival's output with that of pointwise, which does the same beside the product.
fn check(rival: &Rival, data: &Data<'_>, run: &mut Run<'_>, y: &mut Tensor) -> Result<()> {
    let mut expected = Tensor::zero::<f32>(&[data.pixels, data.f])?;
    pointwise(data, rival.bias, rival.relu)?(&mut expected)?;
    values(y).fill(f32::NAN);
    run(y)?;
    // Sums in another order: values up to 1, K roundings.
    let tolerance = 4.0 * data.k as f32 * f32::EPSILON;
    for (i, (y, expected)) in values(y).iter().zip(values(&mut expected)).enumerate() {
        let (pixel, channel) = (i / data.f, i % data.f);
        ensure!(
            (*y - *expected).abs() <= tolerance,
            "{}: pixel {pixel}, channel {channel}: expected {expected}, got {y}",
            rival.name
        );
    }
    Ok(())
}

/// Seconds of a run: of pointwise, then of each rival.
fn time(layer: &Layer, rounds: usize) -> Result<Vec<f64>> {
    let Layer { h, w, k, f, .. } = *layer;
    let mut rng = StdRng::seed_from_u64(1);
    let mut random = |len| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (x, weights, bias) = (random(h * w * k), random(f * k), random(f));
    let data = Data { pixels: h * w, k, f, x: &x, weights: &weights, bias: &bias };
    let mut y = Tensor::zero::<f32>(&[data.pixels, f])?;
    let mut runs = vec![pointwise(&data, true, true)?];
    for rival in &RIVALS {
        let mut run = (rival.prepare)(&data)?;
        check(rival, &data, &mut run, &mut y)?;
        runs.push(run);
    }

    let mut seconds = |run: &mut Run<'_>, calls: u32| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            run(&mut y)?;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(calls))
    };
    // Rounds of about 2 ms: a clock is too coarse for a single short run.
    seconds(&mut runs[0], 2)?;
    let calls = (2e-3 / seconds(&mut runs[0], 2)?).clamp(1.0, 1e5) as u32;
    medians_in_turn(rounds, &mut runs, |run| {
        // Once before: what the last one left in the caches is not its own.
        seconds(run, 1)?;
        seconds(run, calls)
    })
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "--rounds: expected 1 or more, got 0");
    // rten-gemm takes its threads from rayon, and the caller shall be the only one.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()?;
    let mut layers = layers::load(args.net.as_deref())?;
    layers.retain(|layer| layer.stride == 1);
    let create =
        |path: PathBuf| csv::Writer::from_path(&path).with_context(|| format!("cannot write {}", path.display()));
    let mut file = args.csv.map(create).transpose()?;
    if let Some(file) = &mut file {
        file.write_record(["net", "layer", "h", "w", "k", "f", "library", "us"])?;
    }

    for Rival { name, bias, relu, packs, .. } in RIVALS {
        let done = match (bias, relu) {
            (true, true) => "bias and relu",
            (true, false) => "bias, relu left out",
            _ => "bias and relu left out",
        };
        println!("{name:<15} {done}, weights {}", if packs { "packed before" } else { "packed in every run" });
    }
    let isa = Isa::detect()?;
    println!("\n{isa}, one thread; of a rival, its time as a multiple of that of pointwise");
    print!("{:<12} {:<10} {:<15} {:>8} {:>7}", "net", "layer", "HxWxK>F", "GFLOP/s", "% peak");
    RIVALS.iter().for_each(|rival| print!(" {:>15}", rival.name));
    println!();
    let (mut peak, mut percents, mut ratios) = (0f64, vec![], vec![]);
    for layer in &layers {
        let Layer { net, name, h, w, k, f, .. } = layer;
        let times = time(layer, args.rounds).with_context(|| format!("{net} {name}"))?;
        // The clock rises and falls: the highest peak so far.
        peak = peak.max(peak::gflops(isa, 1));
        let gflops = layer.flops() as f64 / times[0] / 1e9;
        percents.push(gflops / peak * 100.0);
        print!("{net:<12} {name:<10} {:<15} {gflops:>8.1} {:>7.1}", format!("{h}x{w}x{k}>{f}"), gflops / peak * 100.0);
        ratios.push(times[1..].iter().map(|time| time / times[0]).collect::<Vec<_>>());
        ratios[ratios.len() - 1].iter().for_each(|ratio| print!(" {ratio:>15.2}"));
        println!();
        if let Some(file) = &mut file {
            for (library, seconds) in ["pointwise"].into_iter().chain(RIVALS.map(|rival| rival.name)).zip(&times) {
                file.serialize((net, name, h, w, k, f, library, seconds * 1e6))?;
            }
        }
    }
    println!("\nFMA peak of one core, measured: {peak:.1} GFLOP/s");
    let means = RIVALS.iter().enumerate().map(|(i, rival)| {
        let mean = geometric_mean(ratios.iter().map(|ratios| ratios[i]));
        format!("{} {mean:.2}", rival.name)
    });
    println!(
        "times the time of pointwise, which reaches {:.1} % of the peak, as geometric means over {} layers: {}",
        geometric_mean(percents.iter().copied()),
        layers.len(),
        means.collect::<Vec<_>>().join(", ")
    );
    if let Some(file) = &mut file {
        file.flush()?;
    }
    Ok(())
}
