//! The C interface: opaque handles, plain structs, a status from every call that can fail, and words for the last one.
//!
//! `include/pointwise.h` is generated from this file, so its doc comments speak to readers of C. cargo-c's
//! `cargo cinstall` installs that header, a shared and a static library, and a pkg-config file.
//!
//! Nothing unwinds into C. Null and misaligned pointers, strides that make pixels overlap, tensors that share memory
//! and numbers that are no value of an enum give a status and a message; memory that a pointer does not own cannot be
//! told, so each function says what it takes on trust.
//!
//! Enums are only ever given to C. What comes from there is an `i32`, which may be any number.
//!
//! # Example
//! ```
//! use pointwise::capi::{pw_status::*, *};
//! use std::ptr::{null, null_mut};
//!
//! let desc = pw_conv_desc {
//!     struct_size: size_of::<pw_conv_desc>(),
//!     in_channels: 2,
//!     out_channels: 1,
//!     groups: 0,
//!     stride_h: 0,
//!     stride_w: 0,
//!     activation: pw_activation::PW_RELU as i32,
//!     param_a: 0.0,
//!     param_b: 0.0,
//!     isa: 0,
//!     scale: null(),
//!     shift: null(),
//!     slopes: null(),
//!     flags: 0,
//! };
//! let view = |data: &mut [f32], c| pw_nhwc_f32 {
//!     data: data.as_mut_ptr(),
//!     n: 1,
//!     h: 1,
//!     w: 2,
//!     c,
//!     batch_stride: 0,
//!     row_stride: 0,
//!     pixel_stride: 0,
//! };
//! let (mut x, mut y) = ([1.0, 2.0, -3.0, 0.5], [0.0; 2]);
//! let (mut conv, mut pool) = (null_mut(), null_mut());
//! // SAFETY: every pointer points to what its type says, and to as many values as the shapes span.
//! unsafe {
//!     assert_eq!(pw_conv_f32_create(&desc, [1.0, 10.0].as_ptr(), null(), &mut conv), PW_OK);
//!     assert_eq!(pw_pool_create(2, &mut pool), PW_OK);
//!     assert_eq!(pw_conv_f32_run(conv, &view(&mut x, 2), null(), &view(&mut y, 1), pool), PW_OK);
//!     pw_pool_destroy(pool);
//!     pw_conv_destroy(conv);
//! }
//! assert_eq!(y, [21.0, 2.0]);
//! ```
#![allow(non_camel_case_types, reason = "C's names")]

use crate::{
    Activation, Error, Executor, Head, Isa, Nhwc, NhwcMut, PointwiseConv, Pool, ResidualOrder, Serial, Shape, Verify,
    kernel::Residual, output::OutputValues, run, view,
};
use core::{
    ffi::{CStr, c_char, c_void},
    mem::{MaybeUninit, offset_of},
    ops::Range,
    ptr, slice,
};
use std::{
    any::Any,
    cell::RefCell,
    ffi::CString,
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, PoisonError},
};

/// The version of this header.
pub const PW_VERSION_MAJOR: u32 = 0;
/// The version of this header.
pub const PW_VERSION_MINOR: u32 = 1;
/// The version of this header.
pub const PW_VERSION_PATCH: u32 = 0;
/// The version of this header in one number, to be compared with what `pw_version` returns.
pub const PW_VERSION: u32 = PW_VERSION_MAJOR * 10000 + PW_VERSION_MINOR * 100 + PW_VERSION_PATCH;

const _: () = {
    const fn is(number: u32, text: &str) -> bool {
        matches!(u32::from_str_radix(text, 10), Ok(n) if n == number)
    }
    assert!(is(PW_VERSION_MAJOR, env!("CARGO_PKG_VERSION_MAJOR")), "expected the version in Cargo.toml");
    assert!(is(PW_VERSION_MINOR, env!("CARGO_PKG_VERSION_MINOR")), "expected the version in Cargo.toml");
    assert!(is(PW_VERSION_PATCH, env!("CARGO_PKG_VERSION_PATCH")), "expected the version in Cargo.toml");
};

/// What a call came to. Where it is not `PW_OK`, `pw_last_error` says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum pw_status {
    /// Success.
    PW_OK = 0,
    /// An argument is null, misaligned, out of range, or does not fit the others; or a `pw_executor` has called nothing.
    PW_INVALID_ARGUMENT = 1,
    /// The CPU has not the ISA that was asked for.
    PW_UNAVAILABLE = 2,
    /// Memory or threads could not be had.
    PW_OUT_OF_RESOURCES = 3,
    /// A bug in this library.
    PW_INTERNAL = 4,
}
use pw_status::*;

const STATUSES: [(pw_status, &CStr); 5] = [
    (PW_OK, c"PW_OK"),
    (PW_INVALID_ARGUMENT, c"PW_INVALID_ARGUMENT"),
    (PW_UNAVAILABLE, c"PW_UNAVAILABLE"),
    (PW_OUT_OF_RESOURCES, c"PW_OUT_OF_RESOURCES"),
    (PW_INTERNAL, c"PW_INTERNAL"),
];

/// The function applied to each output value. A NaN gives a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum pw_activation {
    /// x
    PW_IDENTITY = 0,
    /// x < 0 ? 0 : x
    PW_RELU = 1,
    /// x limited to param_a (minimum) and param_b (maximum): 0 and 6 make relu6.
    PW_CLAMP = 2,
    /// 1 / (1 + exp(-x)), within 0.987 ulp.
    PW_SIGMOID = 3,
    /// The hyperbolic tangent of x, within 1.066 ulp.
    PW_TANH = 4,
    /// x < 0 ? param_a * x : x
    PW_LEAKY_RELU = 5,
    /// x < 0 ? slope * x : x, with the slope of the output channel in `slopes`.
    PW_PRELU = 6,
    /// param_a * x + param_b, limited to 0..1. ONNX: 0.2 and 0.5 by default; PyTorch: 1/6 and 0.5.
    PW_HARD_SIGMOID = 7,
    /// x * clamp(x / 6 + 1/2, 0, 1), within 2.5 ulp.
    PW_HARD_SWISH = 8,
    /// x / (1 + exp(-param_a * x)), within 2.8 ulp. With a param_a of 1 it is silu.
    PW_SWISH = 9,
    /// x / 2 * (1 + erf(x / sqrt(2))), within 2.9 ulp.
    PW_GELU = 10,
    /// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), within 2.7 ulp.
    PW_GELU_TANH = 11,
    /// x < 0 ? param_a * (exp(x) - 1) : x, within 1.8 ulp. ONNX and PyTorch: 1 by default.
    PW_ELU = 12,
    /// ln(1 + exp(x)), within 2 ulp.
    PW_SOFTPLUS = 13,
    /// x * tanh(ln(1 + exp(x))), within 2.9 ulp.
    PW_MISH = 14,
}
use pw_activation::*;

const ACTIVATIONS: [pw_activation; 15] = [
    PW_IDENTITY,
    PW_RELU,
    PW_CLAMP,
    PW_SIGMOID,
    PW_TANH,
    PW_LEAKY_RELU,
    PW_PRELU,
    PW_HARD_SIGMOID,
    PW_HARD_SWISH,
    PW_SWISH,
    PW_GELU,
    PW_GELU_TANH,
    PW_ELU,
    PW_SOFTPLUS,
    PW_MISH,
];

/// For `flags` of a `pw_conv_desc`: a residual is added after the activation rather than before it.
pub const PW_RESIDUAL_AFTER_ACTIVATION: usize = 1;

/// An instruction set. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum pw_isa {
    /// What `pw_isa_detect` finds.
    PW_ISA_AUTO = 0,
    /// No vector instructions: every CPU has it.
    PW_ISA_SCALAR = 1,
    /// AVX2 with FMA on x86.
    PW_ISA_AVX2 = 2,
    /// AVX-512 F, BW, CD, DQ and VL on x86.
    PW_ISA_AVX512 = 3,
    /// NEON on aarch64.
    PW_ISA_NEON = 4,
}
use pw_isa::*;

const ISAS: [(pw_isa, Option<Isa>, &CStr); 5] = [
    (PW_ISA_AUTO, None, c"auto"),
    (PW_ISA_SCALAR, Some(Isa::Scalar), c"scalar"),
    (PW_ISA_AVX2, Some(Isa::Avx2), c"avx2"),
    (PW_ISA_AVX512, Some(Isa::Avx512), c"avx512"),
    (PW_ISA_NEON, Some(Isa::Neon), c"neon"),
];

impl From<Isa> for pw_isa {
    fn from(isa: Isa) -> Self {
        ISAS.into_iter().find(|(_, ours, _)| *ours == Some(isa)).map_or(PW_ISA_AUTO, |(isa, ..)| isa)
    }
}

/// Of `pw_conv_f32_create_packed`: the bytes are copied, so that they may lie anywhere and need not stay.
pub const PW_PACKED_COPY: u32 = 1;
/// Of `pw_conv_f32_create_packed`: only the header is checked. The other bytes are read for a copy alone; where they are
/// damaged, outputs are wrong.
pub const PW_PACKED_HEADER_ONLY: u32 = 2;

/// A convolution: packed weights, and all that is decided before an input is seen. It never changes: any number of
/// threads may use one at the same time.
pub struct pw_conv(PointwiseConv);

/// Who runs the tasks that a convolution is split into: threads of this library's, or of the caller's.
pub struct pw_pool(Box<dyn Executor + Send + Sync>);

/// What a convolution is made of. Only the size and the channels must be set: a field that is 0 has its default.
///
/// Fields are only ever added at the end; `struct_size` tells which are there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct pw_conv_desc {
    /// sizeof(pw_conv_desc)
    pub struct_size: usize,
    /// K, the channels of the input.
    pub in_channels: usize,
    /// F, the channels of the output.
    pub out_channels: usize,
    /// Equal parts that the channels are cut into; each part of the output sees only its part of the input. Default: 1.
    pub groups: usize,
    /// Every stride_h-th row of the input is read, from the first on. Default: 1.
    pub stride_h: usize,
    /// Every stride_w-th pixel of such a row is read, from the first on. Default: 1.
    pub stride_w: usize,
    /// A `pw_activation`. Default: PW_IDENTITY.
    pub activation: i32,
    /// PW_CLAMP: the minimum. Others: as is said of the activation; 0 is 0, not a default.
    pub param_a: f32,
    /// PW_CLAMP: the maximum, not less than the minimum. Others: as is said of the activation.
    pub param_b: f32,
    /// A `pw_isa`. Default: PW_ISA_AUTO. Another one is taken whatever POINTWISE_MAX_ISA says.
    pub isa: i32,
    /// One value for each output channel, by which the sum is multiplied, or null. `shift` must be given with it.
    pub scale: *const f32,
    /// One value for each output channel, which is then added, or null.
    pub shift: *const f32,
    /// One value for each output channel: PW_PRELU needs them, for the others it must be null.
    pub slopes: *const f32,
    /// PW_RESIDUAL_AFTER_ACTIVATION or 0.
    pub flags: usize,
}

/// A view of an NHWC tensor: value c of the pixel in image n, row h and column w is
/// `data[n * batch_stride + h * row_stride + w * pixel_stride + c]`.
///
/// Strides count values, not bytes. A stride of 0 stands for a dense tensor's: pixel_stride for c, row_stride for
/// w * pixel_stride, batch_stride for h * row_stride. A crop, some of the channels, rows with padding are views, too.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct pw_nhwc_f32 {
    /// The first value, aligned as a float. May be null where the view has no values. Inputs are not written.
    pub data: *mut f32,
    /// Images.
    pub n: usize,
    /// Rows of an image.
    pub h: usize,
    /// Pixels of a row.
    pub w: usize,
    /// Channels of a pixel. They lie side by side.
    pub c: usize,
    /// Values from an image to the next, or 0.
    pub batch_stride: usize,
    /// Values from a row to the next, or 0.
    pub row_stride: usize,
    /// Values from a pixel to the next, or 0.
    pub pixel_stride: usize,
}

/// One of several convolutions of the same input, for `pw_heads_f32_run`.
///
/// Fields are only ever added at the end; `struct_size` tells which are there, and is the same for all of an array.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct pw_head {
    /// sizeof(pw_head)
    pub struct_size: usize,
    /// The convolution.
    pub conv: *const pw_conv,
    /// As for `pw_conv_f32_run`; may be null.
    pub residual: *const pw_nhwc_f32,
    /// As for `pw_conv_f32_run`.
    pub output: *const pw_nhwc_f32,
}

/// The work of a thread. `context` is the `task_context` that came with it.
pub type pw_task = unsafe extern "C" fn(context: *mut c_void, task: usize);

/// The caller's threads, for `pw_pool_create_with`. A field that is 0 has its default, where one is given.
///
/// Fields are only ever added at the end; `struct_size` tells which are there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct pw_executor {
    /// sizeof(pw_executor)
    pub struct_size: usize,
    /// How many threads can work at the same time, 1 or more. With 1, the calling thread does all and `run` is not called.
    pub threads: usize,
    /// Calls `task(task_context, i)` for every i < tasks, which are no more than `threads`, in any order, on any threads, and
    /// returns when all calls have returned. Each call works until nothing is left to do: calls may be left out, but for one,
    /// where no thread is free for them. It must not throw or jump out. `context` is the field below. For instance, one of
    /// ```c
    /// pthreadpool_parallelize_1d(context, task, task_context, tasks, 0);       // pthreadpool, which is XNNPACK's
    /// ort->KernelContext_ParallelFor(context, task, tasks, 0, task_context);   // ONNX Runtime
    /// #pragma omp parallel for                                                 // OpenMP
    /// for (size_t i = 0; i < tasks; i++) task(task_context, i);
    /// ```
    pub run: Option<unsafe extern "C" fn(context: *mut c_void, tasks: usize, task: pw_task, task_context: *mut c_void)>,
    /// Handed to `run`. May be null.
    pub context: *mut c_void,
    /// Multiply-adds that are worth another thread: a run of fewer than twice as many stays on the calling thread.
    /// Default: 2^21, for threads that sleep between two runs; 2^18 is right for threads that spin.
    pub work_per_thread: usize,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// A status with its words.
struct Failure(pw_status, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::IsaUnavailable { .. } => PW_UNAVAILABLE,
            Error::OutOfMemory { .. } => PW_OUT_OF_RESOURCES,
            _ => PW_INVALID_ARGUMENT,
        };
        Failure(status, error.to_string())
    }
}

fn invalid<T>(words: String) -> Result<T, Failure> {
    Err(Failure(PW_INVALID_ARGUMENT, words))
}

/// Runs `body` on this side of the border: failures and panics become a status and the thread's last error.
fn guard(body: impl FnOnce() -> Result<(), Failure>) -> pw_status {
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    let Failure(status, words) = match outcome {
        Ok(Ok(())) => return PW_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let words = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let words = words.or_else(|| payload.downcast_ref::<String>().cloned());
            Failure(PW_INTERNAL, words.unwrap_or_else(|| "panic".to_owned()))
        }
    };
    let words = CString::new(words.replace('\0', " ")).unwrap_or_default();
    // A thread that is about to end may have no place for words any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(words));
    status
}

/// The entry that a number from C stands for: tables are in the order of their enum's values, which count from 0.
fn entry<'a, T>(what: &str, table: &'a [T], value: i32) -> Result<&'a T, Failure> {
    match usize::try_from(value).ok().and_then(|i| table.get(i)) {
        Some(entry) => Ok(entry),
        None => invalid(format!("{what}: expected 0 to {}, got {value}", table.len() - 1)),
    }
}

fn check_pointer<T>(what: &str, pointer: *const T) -> Result<(), Failure> {
    if pointer.is_null() {
        return invalid(format!("{what}: expected a pointer, got null"));
    }
    if !pointer.is_aligned() {
        return invalid(format!("{what}: expected an address divisible by {}, got {pointer:p}", align_of::<T>()));
    }
    Ok(())
}

/// # Safety
/// `pointer` is null, misaligned, or points to a `T` that lives for `'a` and is not written meanwhile.
unsafe fn read<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Failure> {
    check_pointer(what, pointer)?;
    // SAFETY: neither null nor misaligned; the rest is the caller's.
    Ok(unsafe { &*pointer })
}

/// # Safety
/// `pointer` is null, misaligned, or points to room for a `T`.
unsafe fn write<T>(what: &str, pointer: *mut T, value: T) -> Result<(), Failure> {
    check_pointer(what, pointer)?;
    // SAFETY: neither null nor misaligned; the rest is the caller's.
    unsafe { pointer.write(value) };
    Ok(())
}

/// The most bytes that a growing struct will ever have; more are no size.
const LARGEST_STRUCT: usize = 4096;

/// Reads a struct that grows at the end, by whole words, and begins with its size. Fields that the caller's does not have yet
/// are 0, which stands for a default in each of them; fields that are not known here must be 0. So that none of its bytes is
/// undefined, a struct has no padding. The first version's had `least` bytes.
///
/// # Safety
/// `T` is `repr(C)`, begins with a `usize`, and is valid whatever C writes into its fields. `pointer` is null,
/// misaligned, or points to as many bytes as that `usize` says.
unsafe fn read_growing<T>(what: &str, pointer: *const T, least: usize) -> Result<T, Failure> {
    check_pointer(what, pointer)?;
    // SAFETY: neither null nor misaligned, and begins with its size.
    let size = unsafe { pointer.cast::<usize>().read() };
    let words = align_of::<T>();
    if !(least..=LARGEST_STRUCT).contains(&size) || !size.is_multiple_of(words) {
        return invalid(format!(
            "{what}: expected struct_size from {least} to {LARGEST_STRUCT} in steps of {words}, got {size}"
        ));
    }
    // SAFETY: the caller's struct has `size` bytes, none of them undefined.
    let bytes = unsafe { slice::from_raw_parts(pointer.cast::<u8>(), size) };
    let (known, unknown) = bytes.split_at(size.min(size_of::<T>()));
    if let Some(at) = unknown.iter().position(|byte| *byte != 0) {
        let (at, known) = (at + known.len(), known.len());
        return invalid(format!(
            "{what}: expected zeros behind the {known} bytes known here, got another at byte {at}"
        ));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` is no longer than a `T`.
    unsafe { ptr::copy_nonoverlapping(known.as_ptr(), value.as_mut_ptr().cast::<u8>(), known.len()) };
    // SAFETY: C wrote the fields, or they are zeros, which it could have written.
    Ok(unsafe { value.assume_init() })
}

/// The most threads of a pool: -1 in C is no number of threads, and a machine that tried to start them would suffer.
const MOST_THREADS: usize = 4096;

/// The addresses of `len` values. None at all lie nowhere, and their pointer may be null.
fn addresses<T>(what: &str, pointer: *const T, len: usize) -> Result<Range<usize>, Failure> {
    if len == 0 {
        return Ok(0..0);
    }
    check_pointer(what, pointer)?;
    let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| *bytes <= isize::MAX as usize);
    match bytes.and_then(|bytes| pointer.addr().checked_add(bytes)) {
        Some(end) => Ok(pointer.addr()..end),
        None => invalid(format!("{what}: {len} values from {pointer:p} on are more than memory can hold")),
    }
}

/// What is written may not lie in what is read or written otherwise.
fn check_apart(what: &str, written: &Range<usize>, whose: &str, other: &Range<usize>) -> Result<(), Failure> {
    if other.start < written.end && written.start < other.end {
        return invalid(format!("{what}: expected memory apart from {whose}'s {other:x?}, got {written:x?}"));
    }
    Ok(())
}

/// # Safety
/// `pointer` is null, misaligned, or points to `len` values that live for `'a` and are not written meanwhile.
unsafe fn values<'a, T>(what: &str, pointer: *const T, len: usize) -> Result<&'a [T], Failure> {
    let addresses = addresses(what, pointer, len)?;
    if addresses.is_empty() {
        return Ok(&[]);
    }
    // SAFETY: neither null nor misaligned nor too long; the rest is the caller's.
    Ok(unsafe { slice::from_raw_parts(pointer, len) })
}

/// A view's shape, strides with the zeros filled in, and the values that it spans.
fn layout(what: &'static str, view: &pw_nhwc_f32) -> Result<(Shape, view::Strides, usize), Failure> {
    let shape = [view.n, view.h, view.w, view.c];
    let or_dense = |stride: usize, size: usize, inner: usize| {
        if stride != 0 { stride } else { size.saturating_mul(inner) }
    };
    let pixel = or_dense(view.pixel_stride, view.c, 1);
    let row = or_dense(view.row_stride, view.w, pixel);
    let strides = [or_dense(view.batch_stride, view.h, row), row, pixel];
    let span = view::span(what, shape, strides)?;
    Ok((shape, strides, span))
}

/// # Safety
/// As [`values`], for the values that the view spans.
unsafe fn input_view<'a>(what: &'static str, view: &pw_nhwc_f32) -> Result<(Nhwc<'a>, Range<usize>), Failure> {
    let (shape, strides, span) = layout(what, view)?;
    // SAFETY: the caller's.
    let data = unsafe { values(what, view.data, span) }?;
    Ok((Nhwc::with_strides(data, shape, strides)?, addresses(what, view.data, span)?))
}

/// A handle's way to C: `*place` is null unless `make` succeeds.
///
/// # Safety
/// `place` is null, misaligned, or points to room for a pointer.
unsafe fn create<T>(what: &str, place: *mut *mut T, make: impl FnOnce() -> Result<T, Failure>) -> pw_status {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { write(what, place, ptr::null_mut()) }?;
        let made = Box::new(make()?);
        // SAFETY: the caller's.
        unsafe { write(what, place, Box::into_raw(made)) }
    })
}

/// A handle's way back.
///
/// # Safety
/// `handle` is null, misaligned, or came from [`create`] and does not come back again.
unsafe fn destroy<T>(what: &str, handle: *mut T) {
    guard(|| {
        if !handle.is_null() {
            check_pointer(what, handle)?;
            // SAFETY: it came from `Box::into_raw`, and is given back once.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    });
}

/// The version of the library as `PW_VERSION` is that of the header: 10000 * major + 100 * minor + patch.
#[unsafe(no_mangle)]
pub extern "C" fn pw_version() -> u32 {
    PW_VERSION
}

/// What went wrong in this thread's last call that failed: one sentence, with what was expected and what was given.
/// Empty where none has failed. Valid until this thread's next call; not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn pw_last_error() -> *const c_char {
    LAST_ERROR.try_with(|words| words.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The name of a `pw_status`, such as "PW_OK", or "unknown" for another number. Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn pw_status_name(status: i32) -> *const c_char {
    entry("status", &STATUSES, status).map_or(c"unknown", |(_, name)| name).as_ptr()
}

/// The name of a `pw_isa`: "auto", "scalar", "avx2", "avx512", "neon", or "unknown" for another number. Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn pw_isa_name(isa: i32) -> *const c_char {
    entry("isa", &ISAS, isa).map_or(c"unknown", |(.., name)| name).as_ptr()
}

/// Sets `*isa` to what PW_ISA_AUTO stands for: the best that the CPU has, up to the one that the environment variable
/// POINTWISE_MAX_ISA names, if it is set. Both are asked once in a process. Fails where the variable names none.
///
/// # Safety
/// `isa` points to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_isa_detect(isa: *mut pw_isa) -> pw_status {
    // SAFETY: this function's contract.
    guard(|| unsafe { write("isa", isa, Isa::detect()?.into()) })
}

/// Lists the ISAs that the CPU has, the best last: sets `*count` to their number, and the first `capacity` of `isas`,
/// which may be null where `capacity` is 0. POINTWISE_MAX_ISA does not shorten the list.
///
/// # Safety
/// `isas` points to room for `capacity`, `count` to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_isa_available(isas: *mut pw_isa, capacity: usize, count: *mut usize) -> pw_status {
    guard(|| {
        let available = Isa::available();
        if capacity > 0 {
            check_pointer("isas", isas)?;
        }
        // SAFETY: this function's contract.
        unsafe { write("count", count, available.len()) }?;
        for (i, isa) in available.iter().take(capacity).enumerate() {
            // SAFETY: as above, and `i` is less than `capacity`.
            unsafe { isas.add(i).write((*isa).into()) };
        }
        Ok(())
    })
}

/// Creates a convolution and sets `*conv` to it, or to null on failure. `pw_conv_destroy` frees it.
///
/// `weights` are out_channels x (in_channels / groups) values, row-major: OHWI with H = W = 1. `bias` is one value for
/// each output channel, or null for zeros. All arguments are copied: nothing of them is used after the call.
///
/// # Safety
/// Each pointer is null or points to what is said of it; `conv` to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_f32_create(
    desc: *const pw_conv_desc,
    weights: *const f32,
    bias: *const f32,
    conv: *mut *mut pw_conv,
) -> pw_status {
    let make = || {
        // SAFETY: as large as its size says, by this function's contract; its fields are numbers and pointers, which may be
        // null.
        let desc = unsafe { read_growing("desc", desc, offset_of!(pw_conv_desc, isa) + size_of::<i32>()) }?;
        let activation = match entry("activation", &ACTIVATIONS, desc.activation)? {
            PW_IDENTITY => Activation::Identity,
            PW_RELU => Activation::Relu,
            PW_CLAMP => Activation::Clamp { min: desc.param_a, max: desc.param_b },
            PW_SIGMOID => Activation::Sigmoid,
            PW_TANH => Activation::Tanh,
            PW_LEAKY_RELU => Activation::LeakyRelu { slope: desc.param_a },
            PW_PRELU => Activation::Prelu,
            PW_HARD_SIGMOID => Activation::HardSigmoid { alpha: desc.param_a, beta: desc.param_b },
            PW_HARD_SWISH => Activation::HardSwish,
            PW_SWISH => Activation::Swish { beta: desc.param_a },
            PW_GELU => Activation::Gelu,
            PW_GELU_TANH => Activation::GeluTanh,
            PW_ELU => Activation::Elu { alpha: desc.param_a },
            PW_SOFTPLUS => Activation::Softplus,
            PW_MISH => Activation::Mish,
        };
        let residual_order = match desc.flags {
            0 => ResidualOrder::BeforeActivation,
            PW_RESIDUAL_AFTER_ACTIVATION => ResidualOrder::AfterActivation,
            flags => return invalid(format!("flags: expected 0 or {PW_RESIDUAL_AFTER_ACTIVATION}, got {flags}")),
        };
        let (_, isa, _) = entry("isa", &ISAS, desc.isa)?;
        let groups = desc.groups.max(1);
        let mut builder = PointwiseConv::builder(desc.in_channels, desc.out_channels)
            .groups(groups)
            .stride(desc.stride_h.max(1), desc.stride_w.max(1))
            .activation(activation)
            .residual_order(residual_order);
        if let Some(isa) = isa {
            builder = builder.isa(*isa);
        }
        let (k, _) = crate::conv::check_channels(desc.in_channels, desc.out_channels, groups)?;
        let per_channel = |what, pointer: *const f32| match pointer.is_null() {
            true => Ok(None),
            // SAFETY: `out_channels` values, by this function's contract.
            false => unsafe { values(what, pointer, desc.out_channels) }.map(Some),
        };
        if let Some(bias) = per_channel("bias", bias)? {
            builder = builder.bias(bias);
        }
        match (per_channel("scale", desc.scale)?, per_channel("shift", desc.shift)?) {
            (Some(scale), Some(shift)) => builder = builder.scale_shift(scale, shift),
            (None, None) => {}
            (Some(_), None) => return invalid("shift: expected a pointer, as for scale, got null".to_owned()),
            (None, Some(_)) => return invalid("scale: expected a pointer, as for shift, got null".to_owned()),
        }
        if let Some(slopes) = per_channel("slopes", desc.slopes)? {
            builder = builder.slopes(slopes);
        }
        // A product that saturates is more than memory can hold.
        let len = k.saturating_mul(desc.out_channels);
        // SAFETY: as many values, by this function's contract.
        Ok(pw_conv(builder.build(unsafe { values("weights", weights, len) }?)?))
    };
    // SAFETY: room for a pointer, by this function's contract.
    unsafe { create("conv", conv, make) }
}

/// Destroys a convolution. Null is let pass.
///
/// # Safety
/// `conv` is null or came from `pw_conv_f32_create` or `pw_conv_f32_create_packed`, is not in use, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_destroy(conv: *mut pw_conv) {
    // SAFETY: this function's contract.
    unsafe { destroy("conv", conv) }
}

/// Sets `output_shape` to the shape of the output for an input of `input_shape`, four values each: images, rows, pixels
/// of a row, channels. The output has ceil(rows / stride_h) rows of ceil(pixels / stride_w) pixels.
///
/// # Safety
/// `conv` came from a create function, `input_shape` points to four values, `output_shape` to room for four.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_output_shape(
    conv: *const pw_conv,
    input_shape: *const usize,
    output_shape: *mut usize,
) -> pw_status {
    guard(|| {
        // SAFETY: this function's contract, for this and what follows.
        let conv = unsafe { &read("conv", conv)?.0 };
        // SAFETY: as above.
        let input = unsafe { *read("input_shape", input_shape.cast::<Shape>())? };
        // SAFETY: as above.
        unsafe { write("output_shape", output_shape.cast::<Shape>(), conv.output_shape(input)?) }
    })
}

/// Computes the output: at every pixel and for every output channel
/// ```text
/// sum = bias[f] + sum over k of input[n, i * stride_h, j * stride_w, k] * weights[f, k]
/// output[n, i, j, f] = activation(residual[n, i, j, f] + (scale[f] * sum + shift[f]))
/// output[n, i, j, f] = residual[n, i, j, f] + activation(scale[f] * sum + shift[f])   // PW_RESIDUAL_AFTER_ACTIVATION
/// ```
/// The bits do not depend on the ISA, the threads, the strides or the batch: the sum is one chain of fused
/// multiply-adds, which starts at the bias and takes k in ascending order. Nor do they depend on how the calling thread, or
/// one of the pool's, rounds, flushes denormals or traps exceptions; that is left as it was. Nothing is allocated.
///
/// `residual` may be null; it and `output` have the shape that `pw_conv_output_shape` tells. It may be the output itself,
/// the same data, shape and strides: then what stands there is added, and overwritten. Else `input` and `residual` are only
/// read, and may share memory; `output` may not share with them: from the first to the last value of each view, also where
/// those in between belong to nobody. `pool` may be null: the calling thread does all the work. On failure
/// nothing has been written, but where it is PW_INTERNAL.
///
/// # Safety
/// Each pointer is null or points to what its type says; the views' data to all values that shape and strides span.
/// Meanwhile no other thread writes those of `input` and `residual`, nor reads or writes the values of `output`'s pixels:
/// what lies between them, such as other channels of the same tensor, is not touched.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_f32_run(
    conv: *const pw_conv,
    input: *const pw_nhwc_f32,
    residual: *const pw_nhwc_f32,
    output: *const pw_nhwc_f32,
    pool: *const pw_pool,
) -> pw_status {
    guard(|| {
        // SAFETY: this function's contract, for this and all that follow.
        let conv = unsafe { &read("conv", conv)?.0 };
        // SAFETY: as above.
        let (x, x_addresses) = unsafe { input_view("input", read("input", input)?) }?;
        // SAFETY: as above.
        let mut output = unsafe { Output::new(residual, output) }?;
        output.check_apart_from("input", &x_addresses)?;
        // SAFETY: as above.
        let executor = unsafe { executor(pool) }?;
        Ok(run::run_one(executor, conv, &x, output.residual.as_ref(), &mut output.y)?)
    })
}

/// Runs several convolutions of the same input in one pass, which reads it from memory once: the heads of a detector,
/// Inception's reductions, q, k and v. The bits are those of `pw_conv_f32_run` for one after the other. Up to eight
/// neighbours share a pass, where their strides are equal and the rows of their outputs lie alike: one behind the other, or
/// with gaps.
///
/// What is said there holds for each head, but that two lists of the heads are allocated, and that a `pw_executor` which
/// calls nothing may do so when some heads have been written. Their outputs may not share values
/// with each other, nor with a residual of another, but they may lie side by side: views of different channels of one tensor,
/// with equal strides. Every two heads are compared for that.
///
/// # Safety
/// As for `pw_conv_f32_run`; `heads` points to `count` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_heads_f32_run(
    input: *const pw_nhwc_f32,
    heads: *const pw_head,
    count: usize,
    pool: *const pw_pool,
) -> pw_status {
    guard(|| {
        // SAFETY: this function's contract, for this and all that follow.
        let (x, x_addresses) = unsafe { input_view("input", read("input", input)?) }?;
        let mut outputs = Vec::new();
        let mut at = heads;
        for i in 0..count {
            let mut head = || {
                // SAFETY: as above; its fields are numbers and pointers, which may be null.
                let head = unsafe { read_growing("heads", at, offset_of!(pw_head, output) + size_of::<usize>()) }?;
                at = at.wrapping_byte_add(head.struct_size);
                // SAFETY: as above, for this and what follows.
                let conv = unsafe { &read("conv", head.conv)?.0 };
                // SAFETY: as above.
                Ok((conv, unsafe { Output::new(head.residual, head.output) }?))
            };
            outputs.push(head().map_err(of_head(i))?);
        }
        for (i, (_, output)) in outputs.iter().enumerate() {
            let check = || {
                output.check_apart_from("input", &x_addresses)?;
                for (_, other) in outputs[..i].iter().chain(&outputs[i + 1..]) {
                    if let Some(read) = &other.residual_addresses {
                        output.check_apart_from("another head's residual", read)?;
                    }
                    if !output.is_beside(other) {
                        output.check_apart_from("another head's output", &other.addresses)?;
                    }
                }
                Ok(())
            };
            check().map_err(of_head(i))?;
        }
        // SAFETY: as above.
        let executor = unsafe { executor(pool) }?;
        let mut heads: Vec<Head<'_>> =
            outputs.into_iter().map(|(conv, output)| Head { conv, residual: output.residual, y: output.y }).collect();
        Ok(run::run_heads(executor, x, &mut heads)?)
    })
}

/// Says of a failure which head it is about, as [`Error::Head`] does.
fn of_head(index: usize) -> impl Fn(Failure) -> Failure {
    move |Failure(status, words)| Failure(status, format!("head {index}: {words}"))
}

/// What a run writes, and the residual that it adds.
struct Output<'a> {
    y: NhwcMut<'a>,
    /// From the first to the last value.
    addresses: Range<usize>,
    residual: Residual<Nhwc<'a>>,
    residual_addresses: Option<Range<usize>>,
}

impl Output<'_> {
    /// # Safety
    /// As for `pw_conv_f32_run`.
    unsafe fn new(residual: *const pw_nhwc_f32, output: *const pw_nhwc_f32) -> Result<Self, Failure> {
        // SAFETY: this function's contract, for this and all that follow.
        let view = unsafe { read("output", output) }?;
        let (shape, strides, span) = layout("output", view)?;
        let addresses = addresses("output", view.data, span)?;
        // SAFETY: as above; not null and aligned, if there are any.
        let values = unsafe { OutputValues::from_raw(view.data, span) };
        let y = NhwcMut::from_values(values, shape, strides)?;
        let mut new = Self { y, addresses, residual: Residual::None, residual_addresses: None };
        if !residual.is_null() {
            // SAFETY: as above.
            let residual = unsafe { read("residual", residual) }?;
            if residual.data == view.data && layout("residual", residual)? == (shape, strides, span) {
                new.residual = Residual::Output;
            } else {
                // SAFETY: as above.
                let (values, read) = unsafe { input_view("residual", residual) }?;
                new.check_apart_from("residual", &read)?;
                (new.residual, new.residual_addresses) = (Residual::Of(values), Some(read));
            }
        }
        Ok(new)
    }

    fn check_apart_from(&self, what: &str, other: &Range<usize>) -> Result<(), Failure> {
        check_apart("output", &self.addresses, what, other)
    }

    /// Whether the two are different channels of one tensor.
    fn is_beside(&self, other: &Self) -> bool {
        let (first, second) = if self.addresses.start < other.addresses.start { (self, other) } else { (other, self) };
        let ([n, h, w, channels], [n2, h2, w2, more]) = (first.y.shape(), second.y.shape());
        let distance = (second.addresses.start - first.addresses.start) / size_of::<f32>();
        first.y.strides() == second.y.strides()
            && [n, h, w] == [n2, h2, w2]
            && distance >= channels
            && view::check_apart([n, h, w, distance.saturating_add(more)], first.y.strides()).is_ok()
    }
}

/// Tells, as text of aligned lines, how a dense input of `input_shape` (four values: images, rows, pixels of a row,
/// channels) is computed with `pool`, which may be null: ISA, register tile, tasks, threads, FLOPs, bytes.
///
/// As `snprintf` does, it writes up to `size` bytes to `buffer`, the last of them 0, and tells in `*length` how long
/// the whole text is, without that 0. `buffer` may be null where `size` is 0, and `length` where nobody wants to know.
///
/// # Safety
/// Each pointer is null or points to what is said of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_explain(
    conv: *const pw_conv,
    input_shape: *const usize,
    pool: *const pw_pool,
    buffer: *mut c_char,
    size: usize,
    length: *mut usize,
) -> pw_status {
    guard(|| {
        // SAFETY: this function's contract, for this and what follows.
        let conv = unsafe { &read("conv", conv)?.0 };
        // SAFETY: as above.
        let input = unsafe { *read("input_shape", input_shape.cast::<Shape>())? };
        // SAFETY: as above.
        let text = conv.plan(input, unsafe { executor(pool) }?)?.to_string();
        if !length.is_null() {
            check_pointer("length", length)?;
        }
        if size > 0 {
            check_pointer("buffer", buffer)?;
            let len = text.len().min(size - 1);
            // SAFETY: as above: `len + 1` is at most `size`, and the text is not where C has its buffer.
            unsafe { ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), len) };
            // SAFETY: as above.
            unsafe { buffer.add(len).write(0) };
        }
        if !length.is_null() {
            // SAFETY: as above.
            unsafe { write("length", length, text.len()) }?;
        }
        Ok(())
    })
}

/// # Safety
/// `pool` is null, misaligned, or came from [`create`] and lives for `'a`.
unsafe fn executor<'a>(pool: *const pw_pool) -> Result<&'a dyn Executor, Failure> {
    if pool.is_null() {
        return Ok(&Serial);
    }
    // SAFETY: the caller's.
    Ok(unsafe { &*read("pool", pool)?.0 })
}

/// Creates a pool on which `threads` threads, 1 to 4096, work, the calling one among them, and sets `*pool` to it, or to
/// null on failure. `pw_pool_destroy` frees it. More threads than there are cores only get into each other's way.
///
/// The threads spin for a millisecond before they sleep, so that the next layer finds them awake. Several threads may
/// use a pool at the same time: one gets its threads, and the others work alone.
///
/// # Safety
/// `pool` is null or points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_pool_create(threads: usize, pool: *mut *mut pw_pool) -> pw_status {
    let make = || {
        if !(1..=MOST_THREADS).contains(&threads) {
            return invalid(format!("threads: expected 1 to {MOST_THREADS}, got {threads}"));
        }
        let pool = Pool::new(threads).map_err(|error| Failure(PW_OUT_OF_RESOURCES, format!("threads: {error}")))?;
        Ok(pw_pool(Box::new(pool)))
    };
    // SAFETY: room for a pointer, by this function's contract.
    unsafe { create("pool", pool, make) }
}

/// Creates a pool of the caller's threads and sets `*pool` to it, or to null on failure. `pw_pool_destroy` frees it.
///
/// The struct is copied; what its `context` points to must live as long as the pool. `run` is called on the thread that
/// runs a convolution, and by several at once where several use the pool at once.
///
/// # Safety
/// `executor` is null or points to a struct that keeps to what is said of its fields; `pool` to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_pool_create_with(executor: *const pw_executor, pool: *mut *mut pw_pool) -> pw_status {
    let make = || {
        let least = offset_of!(pw_executor, work_per_thread) + size_of::<usize>();
        // SAFETY: as large as its size says, by this function's contract; its fields are numbers and pointers, which
        // may be null.
        let executor = unsafe { read_growing("executor", executor, least) }?;
        if executor.threads == 0 {
            return invalid("executor: expected threads of 1 or more, got 0".to_owned());
        }
        let Some(run) = executor.run else {
            return invalid("executor: expected a function for run, got null".to_owned());
        };
        Ok(pw_pool(Box::new(Foreign { executor, run })))
    };
    // SAFETY: room for a pointer, by this function's contract.
    unsafe { create("pool", pool, make) }
}

/// Destroys a pool, and ends its threads. Null is let pass.
///
/// # Safety
/// `pool` is null or came from `pw_pool_create` or `pw_pool_create_with`, is not in use, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_pool_destroy(pool: *mut pw_pool) {
    // SAFETY: this function's contract.
    unsafe { destroy("pool", pool) }
}

/// Sets `*size` to the bytes that `pw_conv_pack` writes.
///
/// # Safety
/// `conv` is null or came from a create function, `size` is null or points to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_packed_size(conv: *const pw_conv, size: *mut usize) -> pw_status {
    // SAFETY: this function's contract.
    guard(|| unsafe { write("size", size, read("conv", conv)?.0.packed_len()) })
}

/// Writes all that the convolution is, but for its ISA, to `buffer`, which has `size` bytes, as many as
/// `pw_conv_packed_size` tells. They may be kept in a file, and loaded by any machine of the same byte order, whatever
/// its ISA. docs/packed-format.md describes them.
///
/// # Safety
/// `conv` is null or came from a create function; `buffer` is null or points to room for `size` bytes, which nobody else
/// reads or writes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_pack(conv: *const pw_conv, buffer: *mut c_void, size: usize) -> pw_status {
    guard(|| {
        // SAFETY: this function's contract.
        let conv = unsafe { &read("conv", conv)?.0 };
        if size != conv.packed_len() {
            return invalid(format!("size: expected {}, got {size}", conv.packed_len()));
        }
        let buffer = buffer.cast::<u8>();
        let written = addresses("buffer", buffer, size)?;
        let (header, rows) = conv.packed_parts();
        let read = addresses("conv", rows.as_ptr(), rows.len())?;
        check_apart("buffer", &written, "the convolution", &read)?;
        // SAFETY: not null, room for header and rows, and apart from both.
        unsafe {
            ptr::copy_nonoverlapping(header.as_ptr(), buffer, header.len());
            ptr::copy_nonoverlapping(rows.as_ptr(), buffer.add(header.len()), rows.len());
        }
        Ok(())
    })
}

/// Creates a convolution of the `size` bytes that `pw_conv_pack` wrote, and sets `*conv` to it, or to null on failure.
/// `pw_conv_destroy` frees it. `isa` is a `pw_isa`; `flags` are 0, or some of PW_PACKED_COPY and PW_PACKED_HEADER_ONLY.
///
/// Unless PW_PACKED_COPY is among them nothing is copied: `bytes`, a mapped file for instance, start at an address
/// divisible by 64, and stay as they are until the convolution is destroyed. Bytes that are damaged, of another version or
/// of no convolution are refused.
///
/// # Safety
/// `bytes` is null or points to `size` bytes that nobody writes or frees before the convolution is destroyed, with
/// PW_PACKED_COPY before this function returns. `conv` is null or points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_f32_create_packed(
    bytes: *const c_void,
    size: usize,
    flags: u32,
    isa: i32,
    conv: *mut *mut pw_conv,
) -> pw_status {
    let make = || {
        if flags & !(PW_PACKED_COPY | PW_PACKED_HEADER_ONLY) != 0 {
            return invalid(format!("flags: expected 0 to {}, got {flags}", PW_PACKED_COPY | PW_PACKED_HEADER_ONLY));
        }
        let (_, isa, _) = entry("isa", &ISAS, isa)?;
        let verify = if flags & PW_PACKED_HEADER_ONLY == 0 { Verify::All } else { Verify::Header };
        // SAFETY: this function's contract. The lifetime is that of the convolution, or of this call.
        let bytes: &'static [u8] = unsafe { values("bytes", bytes.cast(), size) }?;
        Ok(pw_conv(match flags & PW_PACKED_COPY {
            0 => PointwiseConv::load_packed(bytes, verify, *isa),
            _ => PointwiseConv::load_packed_copy(bytes, verify, *isa),
        }?))
    };
    // SAFETY: room for a pointer, by this function's contract.
    unsafe { create("conv", conv, make) }
}

/// The caller's threads. `run` is that of `executor`; whoever makes this vouches that both keep to what is said there.
struct Foreign {
    executor: pw_executor,
    run: unsafe extern "C" fn(*mut c_void, usize, pw_task, *mut c_void),
}

// SAFETY: what a `pw_executor` says of its function allows calls from several threads, and its context lives as long.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}

/// What foreign threads share in a run: the task, and the first panic.
struct Tasks<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Executor for Foreign {
    fn threads(&self) -> usize {
        self.executor.threads
    }

    fn work_per_thread(&self) -> usize {
        match self.executor.work_per_thread {
            0 => Serial.work_per_thread(),
            work => work,
        }
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        unsafe extern "C" fn call(context: *mut c_void, task: usize) {
            // SAFETY: the context that came with this function: `shared` below, which outlives the run.
            let Tasks { task: call, panic: first } = unsafe { &*context.cast::<Tasks<'_>>() };
            // A panic must not reach foreign code: it waits until that has returned.
            if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| call(task))) {
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
        }
        let shared = Tasks { task, panic: Mutex::default() };
        // SAFETY: the function and its context belong together. All calls of `call` have returned when it returns, as
        // `pw_executor` says.
        unsafe { (self.run)(self.executor.context, tasks, call, (&raw const shared).cast_mut().cast()) };
        if let Some(payload) = shared.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            panic::resume_unwind(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn tables_are_in_the_order_of_their_values() {
        assert!(STATUSES.iter().enumerate().all(|(i, (status, _))| *status as usize == i));
        assert!(STATUSES.iter().all(|(status, name)| name.to_str() == Ok(&format!("{status:?}"))));
        assert!(ACTIVATIONS.iter().enumerate().all(|(i, activation)| *activation as usize == i));
        assert!(ISAS.iter().enumerate().all(|(i, (isa, ..))| *isa as usize == i));
        for (isa, ours, name) in &ISAS[1..] {
            let ours = ours.unwrap();
            assert_eq!((pw_isa::from(ours), name.to_str()), (*isa, Ok(ours.name())));
        }
    }

    #[test]
    fn structs_grow_at_the_end() {
        /// The struct as this version knows it, whose last field came later than the others.
        #[derive(Debug, PartialEq)]
        #[repr(C)]
        struct Known {
            size: usize,
            old: usize,
            new: usize,
        }
        let words = size_of::<usize>();
        let read = |caller: &[usize; 4]| {
            // SAFETY: four words, of which those that the size counts are read.
            let known = unsafe { read_growing("known", caller.as_ptr().cast::<Known>(), 2 * words) };
            known.map_err(|Failure(_, words)| words)
        };
        assert_eq!(read(&[2 * words, 7, 8, 9]), Ok(Known { size: 2 * words, old: 7, new: 0 }));
        assert_eq!(read(&[3 * words, 7, 8, 9]), Ok(Known { size: 3 * words, old: 7, new: 8 }));
        assert_eq!(read(&[4 * words, 7, 8, 0]), Ok(Known { size: 4 * words, old: 7, new: 8 }));
        assert!(read(&[4 * words, 7, 8, 9]).unwrap_err().starts_with("known: expected zeros behind the"));
        for size in [0, words, 2 * words + 1, 3 * words - 1, LARGEST_STRUCT + words, usize::MAX] {
            assert!(read(&[size, 7, 8, 9]).unwrap_err().starts_with("known: expected struct_size from"));
        }
    }

    #[test]
    fn a_panic_waits_until_foreign_code_has_returned() {
        unsafe extern "C" fn run(context: *mut c_void, tasks: usize, task: pw_task, task_context: *mut c_void) {
            // SAFETY: on the calling thread, before this function returns; the context is the flag below.
            unsafe {
                (0..tasks).for_each(|i| task(task_context, i));
                (*context.cast::<AtomicBool>()).store(true, Ordering::Relaxed);
            }
        }
        let returned = AtomicBool::new(false);
        let context = (&raw const returned).cast_mut().cast();
        let executor = pw_executor {
            struct_size: size_of::<pw_executor>(),
            threads: 2,
            run: Some(run),
            context,
            work_per_thread: 0,
        };
        let status = guard(|| {
            Foreign { executor, run }.run(3, &|i| assert!(i != 1, "task {i}"));
            Ok(())
        });
        assert!(returned.into_inner());
        assert_eq!(status, PW_INTERNAL);
        // SAFETY: a string that lives until the next call.
        assert_eq!(unsafe { CStr::from_ptr(pw_last_error()) }, c"task 1");
    }
}
