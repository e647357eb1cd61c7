//! How close the 1x1 convolutions of five published networks come to what this machine can do, as pictures by the
//! roofline model (Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
//! Architectures", 2009): no layer is faster than the multiply-adds, nor than the bytes that it must move allow.
//!
//! ```text
//! attainable GFLOP/s = min(FMA peak, FLOP per byte * GB/s)
//! ```
//!
//! * FLOP per byte: input, weights and output count once, however often a kernel reads them.
//! * GB/s: the paper has that of memory. But a layer that is timed runs again and again on the same tensors, and finds
//!   them in the smallest cache that holds them all. So a layer's bound is what this machine reads of a buffer of as
//!   many bytes, over and over, measured beside the layer with loads as wide as the ISA's. One that lies half in a
//!   cache and half in the next gets its due, and no size of a cache need be known. Writes are no faster than reads, so
//!   it is a bound.
//! * The slopes drawn are what each cache and memory give at their best. Only they need the caches' sizes, which
//!   Linux tells in `/sys`.
//! * FMA peak: of one core, times the threads; the highest of the run, as the clock rises and falls.
//!
//! ```text
//! cargo run --release --example roofline -- --out roofline
//! cargo run --release --example roofline -- --threads 2 --isa avx2 --net resnet50
//! ```

mod bandwidth;
mod draw;
#[path = "../networks/layers.rs"]
mod layers;
#[path = "../networks/peak.rs"]
mod peak;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use layers::{Layer, geometric_mean, isa_names};
use pointwise::{Isa, Pool};
use std::{fs, num::NonZeroUsize, path::PathBuf};

/// Measures this machine's FMA peak and read bandwidths and the 1x1 convolutions of ResNet-50, MobileNetV2, GoogLeNet,
/// NiN and DeepPhys, and draws them: roofline.svg, efficiency.svg, the same as PNG, and the figures, layers.csv.
#[derive(Parser)]
struct Args {
    /// Threads that share a layer
    #[arg(long, value_name = "N", default_value = "1")]
    threads: NonZeroUsize,
    /// An ISA of this CPU; may be given more than once [default: all that have vectors, the best first]
    #[arg(long, value_name = "NAME", value_parser = isa_names())]
    isa: Vec<Isa>,
    /// Only this network
    #[arg(long, value_name = "NAME")]
    net: Option<String>,
    /// The folder to write into
    #[arg(long, value_name = "DIR", default_value = "target/roofline")]
    out: PathBuf,
}

/// Of `layers.csv`, behind those of a [`Layer`].
const CSV_COLUMNS: &str = "isa,threads,us,gflops,flop_per_byte,gbps,attainable_gflops,percent_of_attainable";

/// What an ISA came to.
struct Panel<'a> {
    isa: Isa,
    threads: usize,
    /// GFLOP/s.
    peak: f64,
    /// GB/s of the caches and of memory.
    levels: Vec<(String, f64)>,
    points: Vec<Point<'a>>,
}

/// What a layer came to on that ISA.
struct Point<'a> {
    layer: &'a Layer,
    seconds: f64,
    /// GB/s, measured with as many bytes as the layer has.
    bandwidth: f64,
}

impl Point<'_> {
    fn gflops(&self) -> f64 {
        self.layer.flops() as f64 / self.seconds / 1e9
    }

    fn flop_per_byte(&self) -> f64 {
        self.layer.flops() as f64 / self.layer.compulsory_bytes() as f64
    }

    fn attainable(&self, peak: f64) -> f64 {
        peak.min(self.flop_per_byte() * self.bandwidth)
    }

    fn percent(&self, peak: f64) -> f64 {
        self.gflops() / self.attainable(peak) * 100.0
    }
}

impl Panel<'_> {
    /// The points, the closest to what is attainable first, each with the percentage that it reaches.
    fn sorted(&self) -> Vec<(&Point<'_>, f64)> {
        let mut points: Vec<_> = self.points.iter().map(|point| (point, point.percent(self.peak))).collect();
        points.sort_by(|a, b| b.1.total_cmp(&a.1));
        points
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let threads = args.threads.get();
    let pool = Pool::new(threads).context("cannot start the threads")?;
    let isas = match (args.isa, Isa::available()) {
        (given, _) if !given.is_empty() => given,
        (_, [only]) => vec![*only],
        (_, all) => all.iter().rev().copied().filter(|isa| *isa != Isa::Scalar).collect(),
    };
    let layers = layers::load(args.net.as_deref())?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut file = layers::csv_writer(&args.out.join("layers.csv"), CSV_COLUMNS)?;

    let peak = |isa| peak::gflops(isa, threads);
    let mut panels = vec![];
    for &isa in &isas {
        let (peak, levels) = (peak(isa), bandwidth::levels(isa, threads));
        ensure!(!peak.is_nan(), "{isa}: nothing measures its FMA peak here");
        panels.push(Panel { isa, threads, peak, levels, points: vec![] });
    }
    let progress = layers::progress_bar(&layers)?;
    for layer in &layers {
        progress.set_message(layer.to_string());
        for (panel, seconds) in panels.iter_mut().zip(layer.run(&isas, &pool)?) {
            panel.peak = panel.peak.max(peak(panel.isa));
            let bandwidth = bandwidth::gigabytes_per_second(panel.isa, layer.compulsory_bytes(), threads);
            ensure!(!bandwidth.is_nan(), "{}: nothing measures its bandwidth here", panel.isa);
            panel.points.push(Point { layer, seconds, bandwidth });
        }
        progress.inc(layer.flops() as u64);
    }
    drop(progress);

    for panel in &panels {
        print!("{}, {threads} thread(s): FMA peak {} GFLOP/s", panel.isa, draw::figure(panel.peak));
        for (name, bandwidth) in &panel.levels {
            print!(", {name} {} GB/s", draw::figure(*bandwidth));
        }
        let points = panel.sorted();
        let mean = geometric_mean(points.iter().map(|(_, percent)| *percent));
        println!("\n{mean:.1} % of what is attainable: geometric mean of {} layers", points.len());
        for point in &panel.points {
            let Point { layer, seconds, bandwidth } = point;
            let (attainable, percent) = (point.attainable(panel.peak), point.percent(panel.peak));
            let rates = (point.gflops(), point.flop_per_byte(), bandwidth, attainable, percent);
            file.serialize((layer, panel.isa.name(), threads, seconds * 1e6, rates))?;
        }
    }
    file.flush()?;
    draw::save(&draw::roofline(&panels), &args.out.join("roofline"))?;
    draw::save(&draw::efficiency(&panels), &args.out.join("efficiency"))?;
    println!("written to {}", args.out.display());
    Ok(())
}
