//! The 1x1 convolutions of five published networks on every ISA that this CPU has: each output is compared bit for bit
//! with the reference, then each layer is timed and set against the FMA peak of the same machine.
//!
//! ```text
//! cargo run --release --example networks
//! cargo run --release --example networks -- --threads 2 --isa avx2 --net resnet50
//! ```

mod peak;

use anyhow::{Context, Result, bail, ensure};
use clap::{
    Parser,
    builder::{PossibleValuesParser, TypedValueParser},
};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use pointwise::{Activation, Isa, Nhwc, NhwcMut, PointwiseConv, Pool, reference::Reference};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Runs the 1x1 convolutions of ResNet-50, MobileNetV2, GoogLeNet, NiN and DeepPhys: compares every output with the
/// reference, bit for bit, and prints how fast they are.
#[derive(Parser)]
struct Args {
    /// Threads that share a layer
    #[arg(long, value_name = "N", default_value = "1")]
    threads: NonZeroUsize,
    /// An ISA of this CPU; may be given more than once [default: all of them, the best first]
    #[arg(long, value_name = "NAME", value_parser = isa_names())]
    isa: Vec<Isa>,
    /// Only this network
    #[arg(long, value_name = "NAME")]
    net: Option<String>,
    /// Writes all figures to this file, too
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

fn isa_names() -> impl TypedValueParser<Value = Isa> {
    PossibleValuesParser::new(Isa::available().iter().map(|isa| isa.name())).try_map(|name| name.parse())
}

/// Of the file that `--csv` writes: a [`Layer`], and what it came to.
const CSV_HEADER: &str = "net,name,n,h,w,k,f,stride,activation,count,isa,threads,us,gflops,percent_of_peak";

/// A line of `layers.csv`.
#[derive(Deserialize, Serialize)]
struct Layer {
    net: String,
    name: String,
    n: usize,
    h: usize,
    w: usize,
    k: usize,
    f: usize,
    stride: usize,
    activation: String,
    /// How often the network has it.
    count: usize,
}

impl Layer {
    fn output_pixels(&self) -> usize {
        self.n * self.h.div_ceil(self.stride) * self.w.div_ceil(self.stride)
    }

    fn flops(&self) -> usize {
        2 * self.output_pixels() * self.k * self.f
    }

    fn shape(&self) -> String {
        let Self { h, w, k, f, stride, .. } = self;
        format!("{h}x{w}x{k}>{f} /{stride}")
    }

    fn activation(&self) -> Result<Activation> {
        Ok(match self.activation.as_str() {
            "none" => Activation::Identity,
            "relu" => Activation::Relu,
            "relu6" => Activation::RELU6,
            other => bail!("{self}: unknown activation {other:?}"),
        })
    }

    /// Seconds that a run takes on each ISA, all with the reference's bits.
    fn run(&self, isas: &[Isa], pool: &Pool) -> Result<Vec<f64>> {
        let Self { n, h, w, k, f, stride, .. } = *self;
        let mut rng = StdRng::seed_from_u64(1);
        let mut random = |len| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let (x, weights, bias) = (random(n * h * w * k), random(f * k), random(f));
        let activation = self.activation()?;
        let x = Nhwc::new(&x, [n, h, w, k])?;
        let y_shape = [n, h.div_ceil(stride), w.div_ceil(stride), f];

        let mut expected = vec![0.0; self.output_pixels() * f];
        let (out_channels, stride) = (f, (stride, stride));
        let reference = Reference {
            out_channels,
            stride,
            weights: &weights,
            bias: Some(&bias),
            activation,
            ..Reference::default()
        };
        reference.run(x, None, NhwcMut::new(&mut expected, y_shape)?)?;

        let mut y = vec![0.0; expected.len()];
        let on_isa = |isa: &Isa| {
            let conv = PointwiseConv::builder(k, f)
                .bias(&bias)
                .activation(activation)
                .stride(stride.0, stride.1)
                .isa(*isa)
                .build(&weights)?;
            // What the last ISA wrote must not pass for this one's.
            y.fill(f32::NAN);
            conv.run_with(pool, x, NhwcMut::new(&mut y, y_shape)?)?;
            if let Some(at) = y.iter().zip(&expected).position(|(y, expected)| y.to_bits() != expected.to_bits()) {
                let [actual, expected] =
                    [y[at], expected[at]].map(|value| format!("{value} ({:#010x})", value.to_bits()));
                bail!("{self} on {isa}: pixel {}, channel {}: expected {expected}, got {actual}", at / f, at % f);
            }
            median_seconds(|| Ok(conv.run_with(pool, x, NhwcMut::new(&mut y, y_shape)?)?))
        };
        isas.iter().map(on_isa).collect()
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.net, self.name, self.shape())
    }
}

/// Of 15 rounds, or of those that fit into half a second: the scalar ISA must not take minutes.
fn median_seconds(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    const ROUND: Duration = Duration::from_millis(2);
    // The warm-up, which also tells how many runs fill a round: a clock is too coarse for a single short one.
    let start = Instant::now();
    let mut runs = 0;
    while start.elapsed() < ROUND {
        run()?;
        runs += 1;
    }
    let mut rounds = Vec::new();
    while rounds.is_empty() || rounds.len() < 15 && start.elapsed() < Duration::from_millis(500) {
        let round = Instant::now();
        for _ in 0..runs {
            run()?;
        }
        rounds.push(round.elapsed().as_secs_f64() / f64::from(runs));
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}

/// What one layer came to on one ISA.
#[derive(Clone, Copy)]
struct Figure<'a> {
    layer: &'a Layer,
    seconds: f64,
    gflops: f64,
    /// Of the FMA peak of all threads.
    percent: f64,
}

fn print_table(isa: Isa, threads: usize, figures: &[Figure<'_>]) {
    println!("\n{isa}, {threads} thread(s)");
    println!("{:<12} {:<10} {:<20} {:>10} {:>9} {:>8}", "net", "layer", "HxWxK>F /stride", "us", "GFLOP/s", "% peak");
    for Figure { layer, seconds, gflops, percent } in figures {
        let (net, name, shape, us) = (&layer.net, &layer.name, layer.shape(), seconds * 1e6);
        println!("{net:<12} {name:<10} {shape:<20} {us:>10.1} {gflops:>9.1} {percent:>8.1}");
    }
    println!();
    for net in figures.chunk_by(|a, b| a.layer.net == b.layer.net) {
        let seconds: f64 = net.iter().map(|figure| figure.seconds * figure.layer.count as f64).sum();
        let (name, ms) = (&net[0].layer.net, seconds * 1e3);
        let count: usize = net.iter().map(|figure| figure.layer.count).sum();
        println!("{name:<12} {ms:>9.3} ms for {count} layers, repeated ones as often as they occur");
    }
    let wide = |figure: &&Figure<'_>| figure.layer.k.min(figure.layer.f).min(figure.layer.output_pixels()) >= 16;
    let logs: Vec<f64> = figures.iter().filter(wide).map(|figure| figure.percent.ln()).collect();
    if !logs.is_empty() {
        let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
        println!("{mean:.1} % of the peak: geometric mean of the {} layers with K, F and pixels >= 16", logs.len());
    }
}

fn run(args: Args) -> Result<()> {
    let threads = args.threads.get();
    let pool = Pool::new(threads).context("cannot start the threads")?;
    let isas = if args.isa.is_empty() { Isa::available().iter().rev().copied().collect() } else { args.isa };
    let mut layers: Vec<Layer> = csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .from_reader(include_str!("layers.csv").as_bytes())
        .deserialize()
        .collect::<Result<_, _>>()?;
    if let Some(only) = &args.net {
        let mut nets: Vec<String> = layers.iter().map(|layer| layer.net.clone()).collect();
        nets.dedup();
        layers.retain(|layer| layer.net == *only);
        ensure!(!layers.is_empty(), "--net {only}: expected one of {}", nets.join(", "));
    }
    let mut file = match &args.csv {
        Some(path) => {
            let file = csv::WriterBuilder::new().has_headers(false).from_path(path);
            let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
            file.write_record(CSV_HEADER.split(','))?;
            Some(file)
        }
        None => None,
    };

    println!("FMA peak of one core, measured (and again beside each layer; percentages are of the highest so far):");
    let mut peaks: Vec<f64> = isas.iter().map(|isa| peak::gflops(*isa)).collect();
    for (isa, peak) in isas.iter().zip(&peaks) {
        println!("{isa:<8} {peak:>8.1} GFLOP/s");
    }

    // FLOPs tell how much is left better than layers do: most of the time goes into the reference and the scalar ISA.
    let progress = ProgressBar::new(layers.iter().map(|layer| layer.flops() as u64).sum())
        .with_style(ProgressStyle::with_template("{bar:40} {percent:>3} %, {eta} left: {wide_msg}")?)
        .with_finish(ProgressFinish::AndClear);
    let mut tables = vec![Vec::new(); isas.len()];
    for layer in &layers {
        progress.set_message(layer.to_string());
        let seconds = layer.run(&isas, &pool)?;
        for (i, (isa, seconds)) in isas.iter().zip(seconds).enumerate() {
            let gflops = layer.flops() as f64 / seconds / 1e9;
            // The clock rises and falls: the highest peak so far, measured anew beside each layer.
            peaks[i] = peaks[i].max(peak::gflops(*isa));
            let percent = gflops / (peaks[i] * threads as f64) * 100.0;
            tables[i].push(Figure { layer, seconds, gflops, percent });
            if let Some(file) = &mut file {
                file.serialize((layer, isa.name(), threads, seconds * 1e6, gflops, percent))?;
            }
        }
        progress.inc(layer.flops() as u64);
    }
    drop(progress);

    println!("\nAll outputs of all {} layers have the reference's bits on every ISA below.", layers.len());
    for (isa, table) in isas.iter().zip(&tables) {
        print_table(*isa, threads, table);
    }
    if let Some(file) = &mut file {
        file.flush()?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // One line, also where RUST_BACKTRACE is set: what can go wrong here is the caller's to mend.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
