//! The 1x1 (pointwise) convolution of NHWC tensors, as fast as the machine can multiply and add, with the same bits on
//! every CPU.
//!
//! A 1x1 convolution maps the K input channels of each pixel to F output channels and never looks sideways:
//!
//! ```text
//! y[n, i, j, f] = act(residual[n, i, j, f] + (b[f] + sum over k of x[n, i * sh, j * sw, k] * w[f, k]))
//! ```
//!
//! It is the cross-channel pooling of "Network in Network" (Lin, Chen and Yan, 2013), Inception's channel reduction
//! (F < K), an inverted bottleneck's expansion (F > K), an attention mask (F = 1), and, where height and width are 1, a
//! fully connected layer. All of them are the same call:
//!
//! ```
//! use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};
//!
//! # let (weights, bias) = (vec![0.01; 64 * 256], vec![0.5; 64]);
//! # let (x, mut y) = (vec![1.0; 56 * 56 * 256], vec![0.0; 56 * 56 * 64]);
//! let conv = PointwiseConv::builder(256, 64)      // in_channels, out_channels
//!     .activation(Activation::Relu)
//!     .bias(&bias)
//!     .build(&weights)?;                          // [out_channels, in_channels], row-major
//! conv.run(Nhwc::new(&x, [1, 56, 56, 256])?, NhwcMut::new(&mut y, [1, 56, 56, 64])?)?;
//! # assert!(y.iter().all(|y| (y - 3.06).abs() < 1e-4));
//! # Ok::<(), pointwise::Error>(())
//! ```
//!
//! # The contract
//!
//! Every output is ONE chain of fused multiply-adds, which starts at the bias and takes k in ascending order:
//!
//! ```text
//! acc = b[f];  for k in 0..K { acc = fma(x[k], w[f][k], acc) };  y = what follows the sum (acc)
//! ```
//!
//! So the result does not depend on the instruction set, the register tile, the number of threads, the batch, where the
//! tensors lie, or how the work was split: a model gives the same answer on a laptop, a server and a phone, and tests
//! compare bits. The activations are part of it: each is one sequence of IEEE 754 operations, the same on every
//! instruction set. Payload and sign of a NaN are the only exception. A NaN in gives a NaN out, and denormals are kept.
//! [`mod@reference`] is the definition, in plain loops.
//!
//! Nor does it depend on the caller's floating-point environment, or on that of an executor's threads. Where a thread flushes
//! denormals (DAZ, FTZ, FZ), rounds otherwise than to nearest, or traps exceptions, the default is set while this crate
//! computes there, and what was there is restored, also where a panic passes through. To find that there is nothing to do
//! takes a nanosecond. This holds on x86 with SSE and on aarch64; on other targets the default environment is expected.
//!
//! # What follows the sum
//!
//! Before a value is stored, and without another pass over memory:
//!
//! ```text
//! b + w x --> scale, shift --> + --> activation --> + --> y
//!                              ^                    ^
//!                              residual             or here
//! ```
//!
//! * [`Builder::scale_shift`], per output channel, is one more fused multiply-add. A batch norm rather goes into the weights:
//!   [`fold_batch_norm`].
//! * A residual is a tensor ([`PointwiseConv::run_residual`]) or what the output holds ([`PointwiseConv::run_accumulate`]),
//!   and is added before the activation or after it ([`Builder::residual_order`]).
//! * [`Activation`] has what published models put behind a convolution, from relu to gelu, each within a documented error.
//! * Several convolutions of the same input take one pass ([`run_heads`]), and write side by side into one tensor where they
//!   are given its channels ([`NhwcMut::split_channels`]).
//!
//! What that costs beside the sum, on a Zen 5 for 28 x 28 pixels and 128 output channels: relu, clamp, prelu, leaky relu and a
//! residual before the activation are done in registers, within 2 % at K = 64. All else takes a way through the L1 cache, 1 ns
//! for 16 outputs or 4 % at K = 256; with it elu takes 1.9 ns, silu 2.4, tanh 3.0, sigmoid 3.4, mish 3.7, gelu 3.9 or, by the
//! error function, 5.1.
//!
//! # How it is done
//!
//! [`Builder::build`] packs the weights, once, into panels of 16 output channels that every instruction set reads. A run
//! checks the views, cuts the pixels and panels into blocks that fit the caches and blocks into register tiles, both chosen
//! from the shape ([`PointwiseConv::plan`] tells how), and computes each tile with the kernels of the best [`Isa`] that the
//! CPU has: AVX-512, AVX2 or NEON, or plain scalar code. It allocates nothing. [`PointwiseConv::run_with`] splits the work over
//! an [`Executor`]: a [`Pool`], rayon's pools (which allocate their jobs), or your own.
//!
//! Packed weights are bytes that any machine of the same byte order can map and run: [`PointwiseConv::to_packed_bytes`] and
//! [`PointwiseConv::from_packed`].
//!
//! The environment variable `POINTWISE_MAX_ISA` caps the instruction set that is chosen; [`Isa::detect`] has the details.
//!
//! # The book
//!
//! [`docs`] has more: [the operation](docs::operation) and [its contract](docs::contract), [instruction sets](docs::dispatch),
//! [threads](docs::threads), [views](docs::views), [packed files](docs::packed), and [the same layer](docs::porting) in
//! PyTorch, ONNX, TFLite, oneDNN, XNNPACK and others; how to [tune](docs::tuning), to [add an instruction
//! set](docs::new_isa), and to [measure](docs::measuring).
//!
//! # Features
//!
//! * `std` (default): detection with the operating system's help, `POINTWISE_MAX_ISA`, [`Pool`]. Without it the crate needs
//!   `alloc` only.
//! * `rayon`: [`Executor`] for rayon's pools.
//! * `serde`: [`Plan`], [`Isa`], [`Tile`] and what is in them as data, such as JSON.
//! * `capi`: the C interface, in [`capi`](https://docs.rs/pointwise/latest/pointwise/capi).
#![cfg_attr(not(any(feature = "std", test)), no_std)]

extern crate alloc;

mod batch_norm;
#[cfg(feature = "capi")]
pub mod capi;
mod conv;
#[cfg(any(doc, doctest))]
pub mod docs;
mod drawing;
mod environment;
mod epilogue;
mod error;
mod exec;
mod isa;
#[cfg_attr(
    not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "tiles of vectors, where no vectors are")
)]
mod kernel;
mod output;
mod pack;
mod plan;
#[cfg(feature = "std")]
mod pool;
pub mod reference;
mod run;
mod save;
mod view;

pub use batch_norm::fold_batch_norm;
pub use conv::{Builder, PointwiseConv};
pub use epilogue::{Activation, ResidualOrder};
pub use error::{Error, IsaList};
#[cfg(feature = "rayon")]
pub use exec::RayonGlobal;
pub use exec::{Executor, Serial};
pub use isa::{Isa, IsaChoice};
pub use plan::{Kernel, Plan, Tail, Tile};
#[cfg(feature = "std")]
pub use pool::Pool;
pub use run::{Head, run_heads};
pub use save::Verify;
pub use view::{Nhwc, NhwcMut, Shape, Strides};

/// The README's examples are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
