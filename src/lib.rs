//! The 1x1 (pointwise) convolution of NHWC tensors, as fast as the machine can multiply and add, with the same bits on
//! every CPU.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(feature = "capi")]
pub mod capi;
mod conv;
mod epilogue;
mod error;
mod exec;
mod isa;
mod kernel;
mod output;
mod pack;
mod plan;
pub mod reference;
mod view;

pub use conv::{Builder, PointwiseConv};
pub use epilogue::Activation;
pub use error::{Error, IsaList};
#[cfg(feature = "rayon")]
pub use exec::RayonGlobal;
pub use exec::{Executor, Serial};
pub use isa::{Isa, IsaChoice};
pub use plan::{Kernel, Plan};
pub use view::{Nhwc, NhwcMut, Shape, Strides};
