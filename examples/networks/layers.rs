//! The layers of the networks, and what else the examples that time them share.
#![allow(dead_code, reason = "each example uses its part")]

use anyhow::{Context, Result, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use pointwise::{Activation, Isa, Nhwc, NhwcMut, PointwiseConv, Pool, reference::Reference};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

pub fn isa_names() -> impl TypedValueParser<Value = Isa> {
    PossibleValuesParser::new(Isa::available().iter().map(|isa| isa.name())).try_map(|name| name.parse())
}

/// All layers, or those of one network.
pub fn load(net: Option<&str>) -> Result<Vec<Layer>> {
    let mut layers: Vec<Layer> = csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .from_reader(include_str!("layers.csv").as_bytes())
        .deserialize()
        .collect::<Result<_, _>>()?;
    if let Some(only) = net {
        let mut nets: Vec<String> = layers.iter().map(|layer| layer.net.clone()).collect();
        nets.dedup();
        layers.retain(|layer| layer.net == only);
        ensure!(!layers.is_empty(), "--net {only}: expected one of {}", nets.join(", "));
    }
    Ok(layers)
}

/// A line of `layers.csv`.
#[derive(Deserialize, Serialize)]
pub struct Layer {
    pub net: String,
    pub name: String,
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub k: usize,
    pub f: usize,
    pub stride: usize,
    pub activation: String,
    /// How often the network has it.
    pub count: usize,
}

impl Layer {
    pub fn output_pixels(&self) -> usize {
        self.n * self.h.div_ceil(self.stride) * self.w.div_ceil(self.stride)
    }

    pub fn flops(&self) -> usize {
        2 * self.output_pixels() * self.k * self.f
    }

    /// That a run must read or write at least once: the pixels that the stride meets, weights, bias and output.
    pub fn compulsory_bytes(&self) -> usize {
        size_of::<f32>() * (self.output_pixels() * (self.k + self.f) + (self.k + 1) * self.f)
    }

    pub fn shape(&self) -> String {
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
    pub fn run(&self, isas: &[Isa], pool: &Pool) -> Result<Vec<f64>> {
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
    let mut rounds = vec![];
    while rounds.is_empty() || rounds.len() < 15 && start.elapsed() < Duration::from_millis(500) {
        let round = Instant::now();
        for _ in 0..runs {
            run()?;
        }
        rounds.push(round.elapsed().as_secs_f64() / f64::from(runs));
    }
    Ok(median(rounds))
}

/// Of an even number of values, the greater of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

pub fn geometric_mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    (values.map(f64::ln).sum::<f64>() / count).exp()
}

/// The median of each; they take turns, so that a change of the clock meets all.
pub fn medians_in_turn<T>(
    rounds: usize,
    all: &mut [T],
    mut seconds: impl FnMut(&mut T) -> Result<f64>,
) -> Result<Vec<f64>> {
    let mut times = vec![vec![]; all.len()];
    for _ in 0..rounds {
        for (times, one) in times.iter_mut().zip(&mut *all) {
            times.push(seconds(one)?);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

/// A file with a line for each layer and ISA: the layer's columns, and these.
pub fn csv_writer(path: &Path, columns: &str) -> Result<csv::Writer<File>> {
    let file = csv::WriterBuilder::new().has_headers(false).from_path(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    file.write_record("net,name,n,h,w,k,f,stride,activation,count".split(',').chain(columns.split(',')))?;
    Ok(file)
}

/// FLOPs tell how much is left better than layers do: most of the time goes into the reference and the scalar ISA.
pub fn progress_bar(layers: &[Layer]) -> Result<ProgressBar> {
    Ok(ProgressBar::new(layers.iter().map(|layer| layer.flops() as u64).sum())
        .with_style(ProgressStyle::with_template("{bar:40} {percent:>3} %, {eta} left: {wide_msg}")?)
        .with_finish(ProgressFinish::AndClear))
}
