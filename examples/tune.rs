//! What the plan loses: each shape is timed with every register tile that its kernels can be cut into, and the plan's choice
//! is set against the best of them. For a CPU that the plan's numbers were not measured on.
//!
//! ```text
//! cargo run --release --example tune
//! cargo run --release --example tune -- --isa avx2 --shapes 100
//! ```
//!
//! The shapes are those of the networks, and random ones.

#[path = "networks/layers.rs"]
mod layers;

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use layers::{Layer, geometric_mean, isa_names, medians_in_turn};
use pointwise::{Isa, Nhwc, NhwcMut, PointwiseConv, Serial, Tail, Tile};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{collections::HashSet, iter, time::Instant};

/// Times every register tile on many shapes, and prints where the plan's choice is not the best.
#[derive(Parser)]
struct Args {
    /// An ISA of this CPU [default: the best]
    #[arg(long, value_name = "NAME", value_parser = isa_names())]
    isa: Option<Isa>,
    /// Only this network's shapes
    #[arg(long, value_name = "NAME")]
    net: Option<String>,
    /// Random shapes, besides those of the networks
    #[arg(long, value_name = "N", default_value = "500")]
    shapes: usize,
    /// Prints the shapes that lose more than this
    #[arg(long, value_name = "PERCENT", default_value = "4")]
    above: f64,
}

/// Of a layer, what a tile depends on.
#[derive(Clone, Copy)]
struct Shape {
    h: usize,
    w: usize,
    k: usize,
    f: usize,
    stride: usize,
}

/// More pixels or channels than any ISA's tile has.
const PIXELS: usize = 16;
const CHANNELS: usize = 64;

fn main() -> Result<()> {
    let args = Args::parse();
    let isa = match args.isa {
        Some(isa) => isa,
        None => Isa::detect()?,
    };
    let of_layer = |&Layer { h, w, k, f, stride, .. }: &Layer| Shape { h, w, k, f, stride };
    let mut shapes: Vec<Shape> = layers::load(args.net.as_deref())?.iter().map(of_layer).collect();
    let mut random = StdRng::seed_from_u64(1);
    shapes.extend((0..args.shapes).map(|_| random_shape(&mut random)));

    let style = "{bar:30} {pos} of {len} shapes, {eta} left";
    let bar = ProgressBar::new(shapes.len() as u64).with_style(ProgressStyle::with_template(style)?);
    let mut losses = vec![];
    for shape in bar.wrap_iter(shapes.iter()) {
        let (loss, plan, best) = compare(isa, *shape)?;
        let Shape { h, w, k, f, stride } = shape;
        if loss * 100.0 > args.above {
            let name = format!("{h}x{w}x{k}>{f} /{stride}");
            bar.suspend(|| println!("{name:<22} {:5.1} % lost: {plan}, best {best}", loss * 100.0));
        }
        losses.push(loss);
    }
    let mean = geometric_mean(losses.iter().map(|loss| 1.0 + loss)) - 1.0;
    let most = losses.iter().copied().fold(0.0, f64::max);
    println!(
        "{isa}: {} shapes, geometric mean {:.2} % lost, at most {:.1} %",
        losses.len(),
        mean * 100.0,
        most * 100.0
    );
    Ok(())
}

/// 0.1 to 50 MFLOPs, sizes as networks have them: mostly multiples of 8, many small ones.
fn random_shape(random: &mut StdRng) -> Shape {
    loop {
        let mut channels = || {
            let channels = 2f64.powf(random.random_range(3.0..11.0)) as usize;
            if random.random_bool(0.8) { channels.next_multiple_of(8) } else { channels }
        };
        let (k, f) = (channels(), channels());
        let h = 2f64.powf(random.random_range(0.0..7.0)) as usize;
        let shape = Shape { h, w: h, k, f, stride: 1 };
        if (100_000..50_000_000).contains(&(2 * h * h * k * f)) {
            return shape;
        }
    }
}

/// What the plan loses against the best tile, 0 or more but for noise; what it chose, and what would be best.
fn compare(isa: Isa, Shape { h, w, k, f, stride }: Shape) -> Result<(f64, String, String)> {
    let (weights, x) = (vec![0.5; k * f], vec![0.5; h * w * k]);
    let build = |tile: Option<Tile>| {
        let builder = PointwiseConv::builder(k, f).stride(stride, stride).isa(isa);
        tile.map_or(builder, |tile| builder.tile(tile)).build(&weights)
    };
    let shape = [1, h, w, k];
    let planned = build(None)?;
    let output = planned.output_shape(shape)?;
    let mut y = vec![0.0; output.iter().product()];

    // Tiles that differ only beyond what there are kernels or pixels for are the same.
    let mut seen = HashSet::new();
    let mut convs = vec![(planned, "the plan".to_owned())];
    let tails = match f % 16 {
        0 => &[Tail::Panel][..],
        1..=8 if isa == Isa::Avx512 => &[Tail::Panel, Tail::Half, Tail::Narrow],
        _ => &[Tail::Panel, Tail::Narrow],
    };
    for &tail in tails {
        for channels in (16..=CHANNELS).step_by(16) {
            // The tallest first: the most pixels hold for all chunks of channels, and the name tells those of the first.
            for pixels in (1..=PIXELS).rev() {
                let conv = build(Some(Tile { pixels, channels, tail }))?;
                let plan = conv.plan(shape, &Serial)?;
                if seen.insert(plan.drawing().to_string()) {
                    convs.push((conv, format!("{} x {}, {tail:?} tail", plan.tile.0, plan.tile.1)));
                }
            }
        }
    }

    let mut seconds = |conv: &PointwiseConv, calls: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            conv.run(Nhwc::new(&x, shape)?, NhwcMut::new(&mut y, output)?)?;
        }
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    };
    let once = seconds(&convs[0].0, 2)?;
    let calls = ((200e-6 / once) as usize).clamp(1, 1000);
    // All tiles roughly, then the best of them and the plan's choice well.
    let rough = medians_in_turn(3, &mut convs, |(conv, _)| seconds(conv, calls))?;
    let mut order: Vec<usize> = (1..convs.len()).collect();
    order.sort_by(|a, b| rough[*a].total_cmp(&rough[*b]));
    let mut convs: Vec<_> = iter::once(0).chain(order.into_iter().take(3)).map(|i| &convs[i]).collect();
    let times = medians_in_turn(15, &mut convs, |(conv, _)| seconds(conv, calls))?;
    let best = (0..convs.len()).min_by(|a, b| times[*a].total_cmp(&times[*b])).expect("the plan at least");
    let chosen = convs[0].0.plan(shape, &Serial)?.tile;
    Ok((times[0] / times[best] - 1.0, format!("{} x {}", chosen.0, chosen.1), convs[best].1.clone()))
}
