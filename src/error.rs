//! The one error type. Every variant says what was expected and what was given.

use crate::Isa;
use alloc::{boxed::Box, string::String};
use thiserror::Error;

/// Why a convolution could not be built or run. But for [`Error::Executor`], nothing was written.
///
/// # Example
/// ```
/// use pointwise::{Error, Nhwc};
/// let error = Nhwc::new(&[0.0; 7], [1, 2, 2, 2]).unwrap_err();
/// assert_eq!(error, Error::Length { what: "view", expected: 8, actual: 7 });
/// assert_eq!(error.to_string(), "view: expected 8 values, got 7");
/// ```
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice does not hold as many values as its shape says.
    #[error("{what}: expected {expected} values, got {actual}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Values that the shape asks for; at least as many, for a view with strides.
        expected: usize,
        /// Values that the slice holds.
        actual: usize,
    },
    /// The number of values that a shape and its strides span is greater than a slice can hold.
    #[error("{what}: shape {shape:?} with strides {strides:?} spans more values than memory can hold")]
    TooLarge {
        /// Which tensor.
        what: &'static str,
        /// `[batch, height, width, channels]`.
        shape: [usize; 4],
        /// `[batch, row, pixel]`, in values.
        strides: [usize; 3],
    },
    /// The packed weights take more memory than there is.
    #[error("packed weights: no memory for {in_channels} input and {out_channels} output channels in {groups} groups")]
    OutOfMemory {
        /// Input channels.
        in_channels: usize,
        /// Output channels.
        out_channels: usize,
        /// The number of groups.
        groups: usize,
    },
    /// Two pixels of an output share a value, or an axis does not step over all that lies on the axes of smaller strides.
    #[error("output: pixels overlap: {size} {axis} of {extent} values each are {stride} values apart")]
    Overlap {
        /// `"pixels"`, `"rows"` or `"images"`.
        axis: &'static str,
        /// How many of them there are.
        size: usize,
        /// Values from the first to the last of one of them.
        extent: usize,
        /// Values from the start of one to the start of the next.
        stride: usize,
    },
    /// A tensor's shape is not the one that the convolution and its input ask for.
    #[error("{what}: expected shape {expected:?}, got {actual:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// `[batch, height, width, channels]` as it should be.
        expected: [usize; 4],
        /// As it is.
        actual: [usize; 4],
    },
    /// The input has another number of channels than the convolution.
    #[error("input: expected {expected} channels, got {actual}")]
    Channels {
        /// The convolution's `in_channels`.
        expected: usize,
        /// The view's channels.
        actual: usize,
    },
    /// One of several convolutions cannot be run.
    #[error("head {index}: {error}")]
    Head {
        /// Which of the heads, counted from 0.
        index: usize,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// A view cannot be split behind more channels than it has.
    #[error("split: expected at most {channels} channels, got {at}")]
    Split {
        /// The view's channels.
        channels: usize,
        /// Behind how many it should be split.
        at: usize,
    },
    /// The channels cannot be divided into the groups.
    #[error("groups: expected a divisor of {in_channels} input and {out_channels} output channels, got {groups}")]
    Groups {
        /// Input channels.
        in_channels: usize,
        /// Output channels.
        out_channels: usize,
        /// The number of groups asked for.
        groups: usize,
    },
    /// A stride is zero.
    #[error("stride: expected at least (1, 1), got {actual:?}")]
    Stride {
        /// Vertical and horizontal stride.
        actual: (usize, usize),
    },
    /// A clamp's limits are not in order, or one is NaN.
    #[error("clamp: expected min <= max, got min {min} and max {max}")]
    Clamp {
        /// The lower limit.
        min: f32,
        /// The upper limit.
        max: f32,
    },
    /// A parameter of an activation is infinite or NaN.
    #[error("{what}: expected a finite number, got {actual}")]
    Parameter {
        /// The parameter's name.
        what: &'static str,
        /// Its value.
        actual: f32,
    },
    /// A variance from which no standard deviation can be taken.
    #[error("variance: expected more than -eps in channel {channel}, got {actual}")]
    Variance {
        /// The output channel.
        channel: usize,
        /// Its variance.
        actual: f32,
    },
    /// Packed bytes cannot be loaded: a number in them, or their length or address, is not what it must be.
    #[error("packed: expected {what} {expected}, got {actual}")]
    Packed {
        /// Which number, such as `"format version"`.
        what: &'static str,
        /// As it should be, or, where `what` ends so, up to or at least.
        expected: u64,
        /// As it is.
        actual: u64,
    },
    /// Packed bytes cannot be loaded: they are damaged, of the other byte order, or something else.
    #[error("packed: expected {what} {expected:#x}, got {actual:#x}")]
    PackedBits {
        /// Which bits, such as `"checksum of the header"`.
        what: &'static str,
        /// As they should be.
        expected: u64,
        /// As they are.
        actual: u64,
    },
    /// The CPU has not the ISA that was asked for.
    #[error("ISA: expected one that this CPU has ({available}), got {requested}")]
    IsaUnavailable {
        /// The ISA asked for.
        requested: Isa,
        /// The ISAs that the CPU has.
        available: IsaList,
    },
    /// A text is not the name of an ISA.
    #[error("{what}: expected one of {allowed}, got {value:?}")]
    UnknownIsa {
        /// Where the text came from: `"ISA"`, or `"POINTWISE_MAX_ISA"` for the environment variable.
        what: &'static str,
        /// The names that may be given.
        allowed: IsaList,
        /// The text.
        value: String,
    },
    /// An executor came back before every task had run: it has called nothing, or has kept a panic to itself. Each value of the
    /// output is as it was, or as it should be.
    #[error("executor: expected {expected} tasks to be run, {actual} were")]
    Executor {
        /// Tasks that the run was split into.
        expected: usize,
        /// Tasks that were finished.
        actual: usize,
    },
}

/// ISAs, printed with commas between them.
///
/// # Example
/// ```
/// use pointwise::{Isa, IsaList};
/// assert_eq!(IsaList(&[Isa::Scalar, Isa::Avx2]).to_string(), "scalar, avx2");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaList(pub &'static [Isa]);

impl core::fmt::Display for IsaList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (i, isa) in self.0.iter().enumerate() {
            write!(f, "{}{isa}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
