//! Tells what a packed file holds, and how it would be computed here.
//!
//! ```text
//! cargo run --release --example inspect -- layer.pw --shape 1,112,112,3
//! ```

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use memmap2::Mmap;
use pointwise::{PointwiseConv, Serial, Verify};
use std::{fs::File, path::PathBuf, time::Instant};

/// Prints what a packed file holds.
#[derive(Parser)]
struct Args {
    /// A packed file, as the example `pack` writes it
    file: PathBuf,
    /// An input's shape, to see the plan for it
    #[arg(long, value_name = "N,H,W,K", value_delimiter = ',')]
    shape: Option<Vec<usize>>,
    /// Does not read the weights, nor check them
    #[arg(long)]
    header_only: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let name = || args.file.display().to_string();
    let file = File::open(&args.file).with_context(name)?;
    let verify = if args.header_only { Verify::Header } else { Verify::All };
    let start = Instant::now();
    // SAFETY: the file must not be changed while this runs. That cannot be known here, as for every mapped file.
    let map = unsafe { Mmap::map(&file) }.with_context(name)?;
    let conv = PointwiseConv::from_packed(map, verify).with_context(name)?;
    let time = start.elapsed();

    let (vertical, horizontal) = conv.stride();
    println!("channels        {} to {}, in {} groups", conv.in_channels(), conv.out_channels(), conv.groups());
    println!("stride          {vertical} x {horizontal}");
    println!("scale, shift    {}", if conv.has_scale_shift() { "yes" } else { "no" });
    println!("activation      {:?}", conv.activation());
    println!("residual        {:?}", conv.residual_order());
    println!("size            {} bytes, mapped and loaded in {time:?}", conv.packed_len());
    if let Some(shape) = args.shape {
        let shape: [usize; 4] =
            shape.try_into().map_err(|shape| anyhow!("--shape: expected N,H,W,K, got {shape:?}"))?;
        let plan = conv.plan(shape, &Serial)?;
        println!("\n{plan}\n\n{}", plan.drawing());
    }
    Ok(())
}
