//! A short book: what the operation is and what it promises, how to use it well, how to move to it, and how to work on it.
//!
//! For those who use it:
//!
//! * [The operation](operation): which layers it is, and what bounds them
//! * [The contract](contract): one chain of multiply-adds, what that is good for, and what it costs
//! * [Which instruction set](dispatch): what is chosen, and how to choose
//! * [Threads](threads): which executor, and how work is cut
//! * [Views](views): parts of larger tensors
//! * [Packed files](packed), and [their format](packed_format)
//! * [Porting](porting): the same layer in PyTorch, ONNX, TFLite, oneDNN, XNNPACK and others
//!
//! For those who work on it:
//!
//! * [Tuning for a new CPU](tuning)
//! * [Adding an instruction set](new_isa)
//! * [How it is measured](measuring)

#[doc = include_str!("../docs/book/operation.md")]
pub mod operation {}

#[doc = include_str!("../docs/book/contract.md")]
pub mod contract {}

#[doc = include_str!("../docs/book/dispatch.md")]
pub mod dispatch {}

#[doc = include_str!("../docs/book/threads.md")]
pub mod threads {}

#[doc = include_str!("../docs/book/views.md")]
pub mod views {}

#[doc = include_str!("../docs/book/packed.md")]
pub mod packed {}

#[doc = include_str!("../docs/packed-format.md")]
pub mod packed_format {}

#[doc = include_str!("../docs/book/porting.md")]
pub mod porting {}

#[doc = include_str!("../docs/book/tuning.md")]
pub mod tuning {}

#[doc = include_str!("../docs/book/new_isa.md")]
pub mod new_isa {}

#[doc = include_str!("../docs/book/measuring.md")]
pub mod measuring {}
