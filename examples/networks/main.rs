//! The 1x1 convolutions of five published networks on every ISA that this CPU has: each output is compared bit for bit
//! with the reference, then each layer is timed and set against the FMA peak of the same machine.
//!
//! ```text
//! cargo run --release --example networks
//! cargo run --release --example networks -- --threads 2 --isa avx2 --net resnet50
//! ```

mod layers;
mod peak;

use anyhow::{Context, Result};
use clap::Parser;
use layers::{Layer, geometric_mean, isa_names};
use pointwise::{Isa, Pool};
use std::{num::NonZeroUsize, path::PathBuf};

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

/// Of the file that `--csv` writes, behind those of a [`Layer`]: what it came to.
const CSV_COLUMNS: &str = "isa,threads,us,gflops,percent_of_peak";

/// What one layer came to on one ISA.
#[derive(Clone, Copy)]
struct Figure<'a> {
    layer: &'a Layer,
    seconds: f64,
    gflops: f64,
    /// Of the FMA peak of all threads.
    percent: f64,
}

/// A number, or a dash where there is no peak.
fn known(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.1}") }
}

fn print_table(isa: Isa, threads: usize, figures: &[Figure<'_>]) {
    println!("\n{isa}, {threads} thread(s)");
    println!("{:<12} {:<10} {:<20} {:>10} {:>9} {:>8}", "net", "layer", "HxWxK>F /stride", "us", "GFLOP/s", "% peak");
    for Figure { layer, seconds, gflops, percent } in figures {
        let (net, name, shape, us) = (&layer.net, &layer.name, layer.shape(), seconds * 1e6);
        println!("{net:<12} {name:<10} {shape:<20} {us:>10.1} {gflops:>9.1} {:>8}", known(*percent));
    }
    println!();
    for net in figures.chunk_by(|a, b| a.layer.net == b.layer.net) {
        let seconds: f64 = net.iter().map(|figure| figure.seconds * figure.layer.count as f64).sum();
        let (name, ms) = (&net[0].layer.net, seconds * 1e3);
        let count: usize = net.iter().map(|figure| figure.layer.count).sum();
        println!("{name:<12} {ms:>9.3} ms for {count} layers, repeated ones as often as they occur");
    }
    let wide = |figure: &&Figure<'_>| figure.layer.k.min(figure.layer.f).min(figure.layer.output_pixels()) >= 16;
    let percents: Vec<f64> =
        figures.iter().filter(wide).map(|figure| figure.percent).filter(|percent| !percent.is_nan()).collect();
    if !percents.is_empty() {
        let (mean, count) = (geometric_mean(percents.iter().copied()), percents.len());
        println!("{mean:.1} % of the peak: geometric mean of the {count} layers with K, F and pixels >= 16");
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let threads = args.threads.get();
    let pool = Pool::new(threads).context("cannot start the threads")?;
    let isas = if args.isa.is_empty() { Isa::available().iter().rev().copied().collect() } else { args.isa };
    let layers = layers::load(args.net.as_deref())?;
    let mut file = args.csv.map(|path| layers::csv_writer(&path, CSV_COLUMNS)).transpose()?;

    println!(
        "FMA peak of {threads} thread(s), measured (and again beside each layer; percentages are of the highest so far):"
    );
    let mut peaks: Vec<f64> = isas.iter().map(|isa| peak::gflops(*isa, threads)).collect();
    for (isa, peak) in isas.iter().zip(&peaks) {
        println!("{isa:<8} {:>8} GFLOP/s", known(*peak));
    }

    let progress = layers::progress_bar(&layers)?;
    let mut tables = vec![Vec::new(); isas.len()];
    for layer in &layers {
        progress.set_message(layer.to_string());
        let seconds = layer.run(&isas, &pool)?;
        for (i, (isa, seconds)) in isas.iter().zip(seconds).enumerate() {
            let gflops = layer.flops() as f64 / seconds / 1e9;
            // The clock rises and falls: the highest peak so far, measured anew beside each layer.
            peaks[i] = peaks[i].max(peak::gflops(*isa, threads));
            let percent = gflops / peaks[i] * 100.0;
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
