//! Packs the weights of a layer into a file that is mapped and run where it is, on any instruction set.
//!
//! ```text
//! python3 -c 'import numpy as np; np.save("w.npy", np.ones((32, 3), np.float32))'
//! cargo run --release --example pack -- w.npy layer.pw --activation relu6
//! cargo run --release --example inspect -- layer.pw --shape 1,112,112,3
//! ```

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use npyz::{NpyFile, Order};
use pointwise::{Activation, PointwiseConv};
use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

/// Packs weights and biases from .npy files.
#[derive(Parser)]
struct Args {
    /// Weights, f32 of shape [F, K / groups], or with more axes of size 1 behind
    weights: PathBuf,
    /// The packed file to write
    output: PathBuf,
    /// Biases, f32 of shape [F] [default: zeros]
    #[arg(long, value_name = "NPY")]
    bias: Option<PathBuf>,
    #[arg(long, default_value = "identity")]
    activation: Name,
    #[arg(long, value_name = "N", default_value = "1")]
    groups: usize,
    /// Vertical and horizontal stride
    #[arg(long, value_name = "N", default_value = "1")]
    stride: usize,
}

/// The activations with the parameters that are common.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Identity,
    Relu,
    Relu6,
    Sigmoid,
    Tanh,
    HardSwish,
    Silu,
    Gelu,
    GeluTanh,
    Softplus,
    Mish,
}

impl From<Name> for Activation {
    fn from(name: Name) -> Self {
        match name {
            Name::Identity => Activation::Identity,
            Name::Relu => Activation::Relu,
            Name::Relu6 => Activation::RELU6,
            Name::Sigmoid => Activation::Sigmoid,
            Name::Tanh => Activation::Tanh,
            Name::HardSwish => Activation::HardSwish,
            Name::Silu => Activation::SILU,
            Name::Gelu => Activation::Gelu,
            Name::GeluTanh => Activation::GeluTanh,
            Name::Softplus => Activation::Softplus,
            Name::Mish => Activation::Mish,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (shape, weights) = read(&args.weights)?;
    let (f, k) = match shape[..] {
        [f, k, ref rest @ ..] if rest.iter().all(|size| *size == 1) => (f, k),
        _ => bail!("{}: expected shape [F, K] or [F, K, 1, 1], got {shape:?}", args.weights.display()),
    };
    let bias = args.bias.as_ref().map(|path| read(path)).transpose()?.map(|(_, bias)| bias);
    let builder = PointwiseConv::builder(k * args.groups, f)
        .groups(args.groups)
        .stride(args.stride, args.stride)
        .activation(args.activation.into());
    let conv = bias.as_ref().map_or(builder, |bias| builder.bias(bias)).build(&weights)?;
    conv.write_packed(File::create(&args.output).with_context(|| args.output.display().to_string())?)?;
    println!("{}: K {}, F {f}, {} bytes", args.output.display(), conv.in_channels(), conv.packed_len());
    Ok(())
}

/// A file's shape and values.
fn read(path: &Path) -> Result<(Vec<usize>, Vec<f32>)> {
    let values = || {
        let npy = NpyFile::new(BufReader::new(File::open(path)?))?;
        ensure!(npy.order() == Order::C, "expected row-major values");
        let shape = npy.shape().iter().map(|size| usize::try_from(*size)).collect::<Result<_, _>>()?;
        Ok((shape, npy.into_vec()?))
    };
    values().with_context(|| path.display().to_string())
}
