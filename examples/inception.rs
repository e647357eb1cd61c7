//! The 1x1 convolutions of GoogLeNet's inception modules that read the module's input, as heads: one pass for all three.
//!
//! A module (Szegedy et al., "Going Deeper with Convolutions", 2015) lays four branches side by side in its output. The first
//! is a 1x1 convolution, which writes its channels straight into that output; two others reduce the channels for a 3x3 and a
//! 5x5 convolution to come.
//!
//! ```text
//! input --+-- 1x1 ----------------> channels 0.. of the output
//!         +-- 1x1 reduction -> 3x3  (not computed here)
//!         +-- 1x1 reduction -> 5x5  (not computed here)
//! ```
//!
//! ```text
//! cargo run --release --example inception -- [--batch N] [--threads N]
//! ```
//!
//! What heads save are two of three reads of the input: much where its memory is the limit, as in the last line, next to
//! nothing where multiply-adds are.

#[path = "networks/layers.rs"]
mod layers;

use anyhow::{Result, ensure};
use clap::Parser;
use layers::median;
use pointwise::{Activation, Head, Nhwc, NhwcMut, PointwiseConv, Pool, Shape, run_heads};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{num::NonZeroUsize, time::Instant};

/// Times the heads of inception modules together and one after the other.
#[derive(Parser)]
struct Args {
    /// Images at a time
    #[arg(long, default_value = "1")]
    batch: NonZeroUsize,
    /// Threads
    #[arg(long, default_value = "1")]
    threads: NonZeroUsize,
    /// Measurements, of which the median is taken
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

struct Module {
    name: &'static str,
    /// Height and width.
    size: usize,
    in_channels: usize,
    /// Of the 1x1 branch and the two reductions.
    heads: [usize; 3],
    out_channels: usize,
}

const MODULES: [Module; 10] = [
    Module { name: "3a", size: 28, in_channels: 192, heads: [64, 96, 16], out_channels: 256 },
    Module { name: "3b", size: 28, in_channels: 256, heads: [128, 128, 32], out_channels: 480 },
    Module { name: "4a", size: 14, in_channels: 480, heads: [192, 96, 16], out_channels: 512 },
    Module { name: "4b", size: 14, in_channels: 512, heads: [160, 112, 24], out_channels: 512 },
    Module { name: "4c", size: 14, in_channels: 512, heads: [128, 128, 24], out_channels: 512 },
    Module { name: "4d", size: 14, in_channels: 512, heads: [112, 144, 32], out_channels: 528 },
    Module { name: "4e", size: 14, in_channels: 528, heads: [256, 160, 32], out_channels: 832 },
    Module { name: "5a", size: 7, in_channels: 832, heads: [256, 160, 32], out_channels: 832 },
    Module { name: "5b", size: 7, in_channels: 832, heads: [384, 192, 48], out_channels: 1024 },
    // Not GoogLeNet's: three masks of one map each.
    Module { name: "masks", size: 112, in_channels: 64, heads: [1, 1, 1], out_channels: 3 },
];

/// Where the heads of a module write.
struct Outputs {
    module: Vec<f32>,
    reduced: [Vec<f32>; 2],
}

impl Module {
    fn outputs(&self, batch: usize) -> Outputs {
        let zeros = |channels: usize| vec![0.0; batch * self.size * self.size * channels];
        Outputs { module: zeros(self.out_channels), reduced: [zeros(self.heads[1]), zeros(self.heads[2])] }
    }

    fn shape(&self, batch: usize, channels: usize) -> Shape {
        [batch, self.size, self.size, channels]
    }

    /// One view a head.
    fn views<'a>(&self, batch: usize, outputs: &'a mut Outputs) -> Result<[NhwcMut<'a>; 3]> {
        let [a, b] = &mut outputs.reduced;
        let module = NhwcMut::new(&mut outputs.module, self.shape(batch, self.out_channels))?;
        let (first, _) = module.split_channels(self.heads[0])?;
        Ok([
            first,
            NhwcMut::new(a, self.shape(batch, self.heads[1]))?,
            NhwcMut::new(b, self.shape(batch, self.heads[2]))?,
        ])
    }

    /// Seconds of three runs, and of one pass.
    fn time(&self, args: &Args, pool: &Pool) -> Result<(f64, f64)> {
        let mut rng = StdRng::seed_from_u64(1);
        let mut fill = |len| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let shape = self.shape(args.batch.get(), self.in_channels);
        let input = fill(shape.iter().product());
        let x = Nhwc::new(&input, shape)?;
        let mut convs = Vec::new();
        for channels in self.heads {
            let builder = PointwiseConv::builder(self.in_channels, channels).activation(Activation::Relu);
            convs.push(builder.build(&fill(channels * self.in_channels))?);
        }
        let (mut apart, mut together) = (self.outputs(args.batch.get()), self.outputs(args.batch.get()));
        let mut times = Vec::new();
        for _ in 0..args.rounds {
            let start = Instant::now();
            for (conv, y) in convs.iter().zip(self.views(args.batch.get(), &mut apart)?) {
                conv.run_with(pool, x, y)?;
            }
            let middle = Instant::now();
            let [a, b, c] = self.views(args.batch.get(), &mut together)?;
            run_heads(pool, x, &mut [Head::new(&convs[0], a), Head::new(&convs[1], b), Head::new(&convs[2], c)])?;
            times.push(((middle - start).as_secs_f64(), middle.elapsed().as_secs_f64()));
        }
        ensure!(apart.module == together.module && apart.reduced == together.reduced, "{}: other bits", self.name);
        let (apart, together) = times.into_iter().unzip();
        Ok((median(apart), median(together)))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let pool = Pool::new(args.threads.get())?;
    println!("module  {:>22}  {:>10}  {:>10}  {:>6}", "HxWxK>F+F+F", "apart us", "heads us", "faster");
    for module in &MODULES {
        let (apart, together) = module.time(&args, &pool)?;
        let [a, b, c] = module.heads;
        let layer = format!("{0}x{0}x{1}>{a}+{b}+{c}", module.size, module.in_channels);
        println!(
            "{:6}  {layer:>22}  {:10.1}  {:10.1}  {:5.2}x",
            module.name,
            apart * 1e6,
            together * 1e6,
            apart / together
        );
    }
    Ok(())
}
