//! The C interface: opaque handles, plain structs, a status from every call that can fail, and words for the last one.
//!
//! Nothing unwinds into C. Null and misaligned pointers, strides that make pixels overlap, tensors that share memory and
//! numbers that are no value of an enum give a status and a message; memory that a pointer does not own cannot be told, so
//! each function says what it takes on trust.
//!
//! # Example
//! ```
//! use pointwise::capi::*;
//! use std::ptr::{null, null_mut};
//!
//! let desc = pw_conv_desc {
//!     struct_size: size_of::<pw_conv_desc>(),
//!     in_channels: 2,
//!     out_channels: 1,
//!     groups: 1,
//!     stride_h: 1,
//!     stride_w: 1,
//!     activation: 1, // relu
//!     param_a: 0.0,
//!     param_b: 0.0,
//!     isa: 0, // the best
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

use crate::{Activation, Error, Executor, Isa, Nhwc, NhwcMut, PointwiseConv, Pool, Serial, view};
use core::{
    ffi::{c_char, c_int},
    ptr, slice,
};
use std::{cell::RefCell, ffi::CString, ops::Range, panic};

/// Packed weights and everything decided once; immutable, shared by threads.
#[allow(non_camel_case_types, reason = "C's name")]
pub struct pw_conv(PointwiseConv);

/// A thread pool.
#[allow(non_camel_case_types, reason = "C's name")]
pub struct pw_pool(Pool);

/// Success.
pub const PW_OK: c_int = 0;
/// An argument is null, misaligned, out of range, or does not fit the others.
pub const PW_INVALID_ARGUMENT: c_int = 1;
/// The CPU has not the ISA that was asked for.
pub const PW_UNAVAILABLE: c_int = 2;
/// Memory or threads could not be had.
pub const PW_OUT_OF_RESOURCES: c_int = 3;
/// A bug in this library.
pub const PW_INTERNAL: c_int = 4;

/// What a convolution is made of. Fields are only ever added at the end; `struct_size` tells which are there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(non_camel_case_types, reason = "C's name")]
pub struct pw_conv_desc {
    /// `sizeof(pw_conv_desc)`
    pub struct_size: usize,
    /// K
    pub in_channels: usize,
    /// F
    pub out_channels: usize,
    /// Groups that the channels are cut into; 1 for none.
    pub groups: usize,
    /// Vertical stride, 1 or more.
    pub stride_h: usize,
    /// Horizontal stride, 1 or more.
    pub stride_w: usize,
    /// `pw_activation`: 0 identity, 1 relu, 2 clamp, 3 sigmoid, 4 tanh
    pub activation: i32,
    /// Clamp's minimum.
    pub param_a: f32,
    /// Clamp's maximum.
    pub param_b: f32,
    /// `pw_isa`: 0 the best, 1 scalar, 2 AVX2, 3 AVX-512, 4 NEON
    pub isa: i32,
}

/// An NHWC view. Strides count elements; 0 means dense.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(non_camel_case_types, reason = "C's name")]
pub struct pw_nhwc_f32 {
    /// The first value.
    pub data: *mut f32,
    /// Images.
    pub n: usize,
    /// Rows of an image.
    pub h: usize,
    /// Pixels of a row.
    pub w: usize,
    /// Channels of a pixel.
    pub c: usize,
    /// From image to image.
    pub batch_stride: usize,
    /// From row to row.
    pub row_stride: usize,
    /// From pixel to pixel.
    pub pixel_stride: usize,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// A status with its words.
struct Failure(c_int, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::IsaUnavailable { .. } => PW_UNAVAILABLE,
            Error::TooLarge { what: "packed weights", .. } => PW_OUT_OF_RESOURCES,
            Error::Executor { .. } => PW_INTERNAL,
            _ => PW_INVALID_ARGUMENT,
        };
        Failure(status, error.to_string())
    }
}

fn invalid<T>(words: String) -> Result<T, Failure> {
    Err(Failure(PW_INVALID_ARGUMENT, words))
}

/// Runs `body` on this side of the border: failures and panics become a status and the thread's last error.
fn guard(body: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(body));
    let Failure(status, words) = match outcome {
        Ok(Ok(())) => return PW_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let words = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let words = words.or_else(|| payload.downcast_ref::<String>().cloned());
            Failure(PW_INTERNAL, words.unwrap_or_else(|| "panic".to_owned()))
        }
    };
    LAST_ERROR.set(CString::new(words.replace('\0', " ")).unwrap_or_default());
    status
}

/// # Safety
/// `pointer` is null, misaligned, or points to a `T` that lives for `'a` and is not written meanwhile.
unsafe fn read<'a, T>(what: &str, pointer: *const T) -> Result<&'a T, Failure> {
    check_pointer(what, pointer)?;
    // SAFETY: neither null nor misaligned; the rest is the caller's.
    Ok(unsafe { &*pointer })
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
/// `pointer` is null, misaligned, or points to `len` values that live for `'a` and are not written meanwhile.
unsafe fn values<'a>(what: &str, pointer: *const f32, len: usize) -> Result<&'a [f32], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    check_pointer(what, pointer)?;
    // SAFETY: neither null nor misaligned; the rest is the caller's.
    Ok(unsafe { slice::from_raw_parts(pointer, len) })
}

/// A view's shape, strides with the zeros filled in, and the values that it spans.
fn layout(what: &'static str, view: &pw_nhwc_f32) -> Result<(view::Shape, view::Strides, usize), Failure> {
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
unsafe fn input<'a>(what: &'static str, view: &pw_nhwc_f32) -> Result<(Nhwc<'a>, Range<usize>), Failure> {
    let (shape, strides, span) = layout(what, view)?;
    // SAFETY: the caller's.
    let data = unsafe { values(what, view.data, span) }?;
    Ok((Nhwc::with_strides(data, shape, strides)?, addresses(data)))
}

fn addresses(data: &[f32]) -> Range<usize> {
    let range = data.as_ptr_range();
    range.start.addr()..range.end.addr()
}

/// Creates a convolution. `weights`: `out_channels` x (`in_channels` / `groups`) values, row-major. `bias`: `out_channels`
/// values, or null. Both are copied. `*conv` is set to null on failure.
///
/// # Safety
/// Each pointer is null or points to what is said of it; `conv` to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_f32_create(
    desc: *const pw_conv_desc,
    weights: *const f32,
    bias: *const f32,
    conv: *mut *mut pw_conv,
) -> c_int {
    guard(|| {
        check_pointer("conv", conv)?;
        // SAFETY: room for a pointer, by this function's contract.
        unsafe { conv.write(ptr::null_mut()) };
        check_pointer("desc", desc)?;
        // SAFETY: `struct_size` comes first in every version of the struct.
        let size = unsafe { *desc.cast::<usize>() };
        if size < size_of::<pw_conv_desc>() {
            return invalid(format!("desc: expected struct_size {} or more, got {size}", size_of::<pw_conv_desc>()));
        }
        // SAFETY: the caller's struct is at least as large as ours.
        let desc = unsafe { read("desc", desc) }?;
        let activation = match desc.activation {
            0 => Activation::Identity,
            1 => Activation::Relu,
            2 => Activation::Clamp { min: desc.param_a, max: desc.param_b },
            3 => Activation::Sigmoid,
            4 => Activation::Tanh,
            other => return invalid(format!("activation: expected 0 to 4, got {other}")),
        };
        let isa = match desc.isa {
            0 => None,
            1 => Some(Isa::Scalar),
            2 => Some(Isa::Avx2),
            3 => Some(Isa::Avx512),
            4 => Some(Isa::Neon),
            other => return invalid(format!("isa: expected 0 to 4, got {other}")),
        };
        let builder = PointwiseConv::builder(desc.in_channels, desc.out_channels)
            .groups(desc.groups)
            .stride(desc.stride_h, desc.stride_w)
            .activation(activation);
        let builder = isa.map_or(builder, |isa| builder.isa(isa));
        let (k, _) = crate::conv::check_channels(desc.in_channels, desc.out_channels, desc.groups)?;
        let Some(len) = k.checked_mul(desc.out_channels).filter(|len| *len <= isize::MAX as usize / size_of::<f32>())
        else {
            return invalid(format!("weights: {} x {k} values are more than memory can hold", desc.out_channels));
        };
        // SAFETY: `len` values, by this function's contract.
        let weights = unsafe { values("weights", weights, len) }?;
        let built = if bias.is_null() {
            builder.build(weights)?
        } else {
            // SAFETY: `out_channels` values, by this function's contract.
            builder.bias(unsafe { values("bias", bias, desc.out_channels) }?).build(weights)?
        };
        // SAFETY: as above.
        unsafe { conv.write(Box::into_raw(Box::new(pw_conv(built)))) };
        Ok(())
    })
}

/// Computes `output = act(residual + (bias + weights input))`. `residual` and `pool` may be null. `input` and `residual` are
/// only read, and share no memory with `output`.
///
/// # Safety
/// Each pointer is null or points to what its type says; the views' data to all values that shape and strides span, which
/// no other thread writes (`output`: nor reads) meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_f32_run(
    conv: *const pw_conv,
    input: *const pw_nhwc_f32,
    residual: *const pw_nhwc_f32,
    output: *const pw_nhwc_f32,
    pool: *const pw_pool,
) -> c_int {
    guard(|| {
        // SAFETY: this function's contract, for this and all that follow.
        let conv = unsafe { &read("conv", conv)?.0 };
        // SAFETY: as above.
        let (x, x_range) = unsafe { self::input("input", read("input", input)?) }?;
        let residual = if residual.is_null() {
            None
        } else {
            // SAFETY: as above.
            Some(unsafe { self::input("residual", read("residual", residual)?) }?)
        };
        // SAFETY: as above.
        let output = unsafe { read("output", output) }?;
        let (shape, strides, span) = layout("output", output)?;
        if span > 0 {
            check_pointer("output", output.data)?;
        }
        let start = output.data.addr();
        let y_range = start..start.wrapping_add(span * size_of::<f32>());
        let inputs = [("input", Some(&x_range)), ("residual", residual.as_ref().map(|(_, range)| range))];
        for (what, range) in inputs {
            if let Some(range) = range
                && range.start < y_range.end
                && y_range.start < range.end
            {
                return invalid(format!("output: expected memory apart from {what}'s {range:x?}, got {y_range:x?}"));
            }
        }
        // SAFETY: as above; not null, aligned, and apart from what the other views span.
        let data = if span == 0 { &mut [] } else { unsafe { slice::from_raw_parts_mut(output.data, span) } };
        let y = NhwcMut::with_strides(data, shape, strides)?;
        let residual = residual.map(|(residual, _)| residual);
        // SAFETY: as above.
        let executor: &dyn Executor = if pool.is_null() { &Serial } else { unsafe { &read("pool", pool)?.0 } };
        match residual {
            Some(residual) => conv.run_residual_with(executor, x, residual, y)?,
            None => conv.run_with(executor, x, y)?,
        }
        Ok(())
    })
}

/// Destroys a convolution. Null is let pass.
///
/// # Safety
/// `conv` is null or came from `pw_conv_f32_create`, is not in use, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_conv_destroy(conv: *mut pw_conv) {
    guard(|| {
        if !conv.is_null() {
            // SAFETY: it came from `Box::into_raw`, and is given back once.
            drop(unsafe { Box::from_raw(conv) });
        }
        Ok(())
    });
}

/// Creates a pool on which `threads` threads work, the caller's among them. `*pool` is set to null on failure.
///
/// # Safety
/// `pool` is null or points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_pool_create(threads: usize, pool: *mut *mut pw_pool) -> c_int {
    guard(|| {
        check_pointer("pool", pool)?;
        // SAFETY: room for a pointer, by this function's contract.
        unsafe { pool.write(ptr::null_mut()) };
        if threads == 0 {
            return invalid("threads: expected 1 or more, got 0".to_owned());
        }
        let created = Pool::new(threads).map_err(|error| Failure(PW_OUT_OF_RESOURCES, error.to_string()))?;
        // SAFETY: as above.
        unsafe { pool.write(Box::into_raw(Box::new(pw_pool(created)))) };
        Ok(())
    })
}

/// Destroys a pool. Null is let pass.
///
/// # Safety
/// `pool` is null or came from `pw_pool_create`, is not in use, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pw_pool_destroy(pool: *mut pw_pool) {
    guard(|| {
        if !pool.is_null() {
            // SAFETY: it came from `Box::into_raw`, and is given back once.
            drop(unsafe { Box::from_raw(pool) });
        }
        Ok(())
    });
}

/// What went wrong in this thread's last call that failed, in words. Valid until this thread's next call.
#[unsafe(no_mangle)]
pub extern "C" fn pw_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|words| words.as_ptr())
}
