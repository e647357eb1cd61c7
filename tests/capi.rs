//! The C interface, called as C calls it.
#![cfg(feature = "capi")]

use pointwise::capi::{pw_isa::*, pw_status::*, *};
use std::{
    ffi::{CStr, c_char, c_void},
    ptr::{null, null_mut},
};

fn desc(in_channels: usize, out_channels: usize) -> pw_conv_desc {
    pw_conv_desc {
        struct_size: size_of::<pw_conv_desc>(),
        in_channels,
        out_channels,
        groups: 0,
        stride_h: 0,
        stride_w: 0,
        activation: 0,
        param_a: 0.0,
        param_b: 0.0,
        isa: 0,
        scale: null(),
        shift: null(),
        slopes: null(),
        flags: 0,
    }
}

fn view(data: &[f32], [n, h, w, c]: [usize; 4]) -> pw_nhwc_f32 {
    let data = data.as_ptr().cast_mut();
    pw_nhwc_f32 { data, n, h, w, c, batch_stride: 0, row_stride: 0, pixel_stride: 0 }
}

/// The last call's words.
fn words() -> String {
    // SAFETY: a string that lives until the next call.
    unsafe { CStr::from_ptr(pw_last_error()) }.to_str().expect("UTF-8").to_owned()
}

fn create(desc: &pw_conv_desc, weights: &[f32], bias: Option<&[f32]>) -> Result<*mut pw_conv, (pw_status, String)> {
    let mut conv = null_mut();
    // SAFETY: the slices are as long as the tests say; what is wrong is found before they are read.
    let status = unsafe { pw_conv_f32_create(desc, weights.as_ptr(), bias.map_or(null(), <[f32]>::as_ptr), &mut conv) };
    assert_eq!(status == PW_OK, !conv.is_null());
    if status == PW_OK { Ok(conv) } else { Err((status, words())) }
}

fn run(
    conv: *const pw_conv,
    x: &pw_nhwc_f32,
    residual: *const pw_nhwc_f32,
    y: &pw_nhwc_f32,
    pool: *const pw_pool,
) -> Result<(), (pw_status, String)> {
    // SAFETY: as above.
    match unsafe { pw_conv_f32_run(conv, x, residual, y, pool) } {
        PW_OK => Ok(()),
        status => Err((status, words())),
    }
}

#[test]
fn a_convolution_with_everything() {
    let (k, f, pixels) = (64, 96, 300);
    let value = |i: usize| (i % 17) as f32 * 0.25 - 2.0;
    let weights: Vec<f32> = (0..k * f).map(value).collect();
    let bias: Vec<f32> = (0..f).map(value).collect();
    let x: Vec<f32> = (0..pixels * k).map(value).collect();
    let residual: Vec<f32> = (0..pixels * f).map(value).collect();
    let conv = create(&pw_conv_desc { activation: 2, param_b: 6.0, ..desc(k, f) }, &weights, Some(&bias)).unwrap();
    let mut expected = vec![0.0; pixels * f];
    let ours = pointwise::PointwiseConv::builder(k, f)
        .bias(&bias)
        .activation(pointwise::Activation::Clamp { min: 0.0, max: 6.0 })
        .build(&weights)
        .unwrap();
    ours.run_residual(
        pointwise::Nhwc::new(&x, [1, 1, pixels, k]).unwrap(),
        pointwise::Nhwc::new(&residual, [1, 1, pixels, f]).unwrap(),
        pointwise::NhwcMut::new(&mut expected, [1, 1, pixels, f]).unwrap(),
    )
    .unwrap();
    for threads in [0, 1, 2, 3] {
        let mut pool = null_mut();
        if threads > 0 {
            // SAFETY: room for a pointer.
            assert_eq!(unsafe { pw_pool_create(threads, &mut pool) }, PW_OK);
        }
        // Rows five values apart: what lies between is not touched.
        let mut y = vec![-1.0; pixels * (f + 5)];
        let out = pw_nhwc_f32 { data: y.as_mut_ptr(), pixel_stride: f + 5, ..view(&[], [1, 1, pixels, f]) };
        run(conv, &view(&x, [1, 1, pixels, k]), &view(&residual, [1, 1, pixels, f]), &out, pool).unwrap();
        for (got, expected) in y.chunks_exact(f + 5).zip(expected.chunks_exact(f)) {
            assert_eq!(&got[..f], expected);
            assert_eq!(got[f..], [-1.0; 5]);
        }
        // SAFETY: created above, or null.
        unsafe { pw_pool_destroy(pool) };
    }
    // SAFETY: created above.
    unsafe { pw_conv_destroy(conv) };
}

#[test]
fn descriptions_are_checked() {
    let weights = [1.0; 12];
    let refused = |desc: pw_conv_desc| create(&desc, &weights, None).unwrap_err();
    let (status, words) = refused(pw_conv_desc { struct_size: 8, ..desc(3, 4) });
    assert_eq!(status, PW_INVALID_ARGUMENT);
    assert!(words.starts_with("desc: expected struct_size"), "{words}");
    // The lower half of a pointer is none.
    let (_, words) = refused(pw_conv_desc { struct_size: size_of::<pw_conv_desc>() - 4, ..desc(3, 4) });
    assert!(words.starts_with("desc: expected struct_size"), "{words}");
    let (_, words) = refused(pw_conv_desc { activation: 99, ..desc(3, 4) });
    assert_eq!(words, "activation: expected 0 to 14, got 99");
    let (_, words) = refused(pw_conv_desc { isa: -1, ..desc(3, 4) });
    assert_eq!(words, "isa: expected 0 to 4, got -1");
    let (_, words) = refused(pw_conv_desc { groups: 2, ..desc(3, 4) });
    assert!(words.starts_with("groups:"), "{words}");
    let (_, words) = refused(pw_conv_desc { activation: 2, param_a: 1.0, ..desc(3, 4) });
    assert!(words.starts_with("clamp:"), "{words}");
    let (_, words) = refused(desc(usize::MAX, 2));
    assert!(words.starts_with("weights:"), "{words}");
    // Biases, where no weights are needed.
    let (_, words) = create(&desc(0, usize::MAX), &weights, Some(&weights)).unwrap_err();
    assert!(words.starts_with(&format!("bias: {} values from 0x", usize::MAX)), "{words}");
    let (status, words) = refused(desc(0, usize::MAX));
    assert_eq!(status, PW_OUT_OF_RESOURCES, "{words}");
    let (_, words) = refused(pw_conv_desc { scale: weights.as_ptr(), ..desc(3, 4) });
    assert_eq!(words, "shift: expected a pointer, as for scale, got null");
    let (_, words) = refused(pw_conv_desc { shift: weights.as_ptr(), ..desc(3, 4) });
    assert_eq!(words, "scale: expected a pointer, as for shift, got null");
    let (_, words) = refused(pw_conv_desc { activation: 6, ..desc(3, 4) });
    assert_eq!(words, "slopes: expected 4 values, got 0");
    let (_, words) = refused(pw_conv_desc { slopes: weights.as_ptr(), ..desc(3, 4) });
    assert_eq!(words, "slopes: expected 0 values, got 4");
    let (_, words) = refused(pw_conv_desc { flags: 2, ..desc(3, 4) });
    assert_eq!(words, "flags: expected 0 or 1, got 2");
    let (_, words) = refused(pw_conv_desc { activation: 12, param_a: f32::NAN, ..desc(3, 4) });
    assert_eq!(words, "alpha: expected a finite number, got NaN");
    let missing = if cfg!(target_arch = "aarch64") { 2 } else { 4 };
    let (status, words) = refused(pw_conv_desc { isa: missing, ..desc(3, 4) });
    assert_eq!(status, PW_UNAVAILABLE, "{words}");
}

#[test]
fn pointers_are_checked() {
    let weights = [1.0; 12];
    let mut conv = null_mut();
    // SAFETY: null and misaligned pointers are refused before they are read.
    unsafe {
        assert_eq!(pw_conv_f32_create(null(), weights.as_ptr(), null(), &mut conv), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "desc: expected a pointer, got null");
        assert_eq!(pw_conv_f32_create(&desc(3, 4), null(), null(), &mut conv), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "weights: expected a pointer, got null");
        let odd = weights.as_ptr().wrapping_byte_add(1);
        assert_eq!(pw_conv_f32_create(&desc(3, 4), odd, null(), &mut conv), PW_INVALID_ARGUMENT);
        assert!(words().starts_with("weights: expected an address divisible by 4, got 0x"), "{}", words());
        assert_eq!(pw_conv_f32_create(&desc(3, 4), weights.as_ptr(), odd, &mut conv), PW_INVALID_ARGUMENT);
        assert_eq!(pw_conv_f32_create(&desc(3, 4), weights.as_ptr(), null(), null_mut()), PW_INVALID_ARGUMENT);
        assert_eq!(pw_pool_create(1, null_mut()), PW_INVALID_ARGUMENT);
        let mut pool = null_mut();
        assert_eq!(pw_pool_create(0, &mut pool), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "threads: expected 1 to 4096, got 0");
        assert_eq!(pw_pool_create(usize::MAX, &mut pool), PW_INVALID_ARGUMENT);
        pw_conv_destroy(null_mut());
        pw_pool_destroy(null_mut());
    }
    let conv = create(&desc(3, 4), &weights, None).unwrap();
    let x = [1.0; 6];
    let mut y = [7.0f32; 8];
    let (input, output) = (view(&x, [1, 1, 2, 3]), view(&y, [1, 1, 2, 4]));
    let output = pw_nhwc_f32 { data: y.as_mut_ptr(), ..output };
    let refused = |conv, x: &pw_nhwc_f32, y: &pw_nhwc_f32| run(conv, x, null(), y, null()).unwrap_err().1;
    assert_eq!(refused(null(), &input, &output), "conv: expected a pointer, got null");
    assert_eq!(
        refused(conv, &pw_nhwc_f32 { data: null_mut(), ..input }, &output),
        "input: expected a pointer, got null"
    );
    assert_eq!(
        refused(conv, &input, &pw_nhwc_f32 { data: null_mut(), ..output }),
        "output: expected a pointer, got null"
    );
    let odd = pw_nhwc_f32 { data: output.data.wrapping_byte_add(2), ..output };
    assert!(refused(conv, &input, &odd).starts_with("output: expected an address divisible by 4"));
    assert!(refused(conv, &input, &pw_nhwc_f32 { pixel_stride: 3, ..output }).starts_with("output: pixels overlap"));
    assert!(refused(conv, &input, &pw_nhwc_f32 { w: usize::MAX, ..output }).contains("more values than memory"));
    assert!(refused(conv, &input, &pw_nhwc_f32 { w: 1, ..output }).starts_with("output: expected shape"));
    assert!(refused(conv, &pw_nhwc_f32 { c: 2, ..input }, &output).starts_with("input: expected 3 channels"));
    assert!(
        refused(conv, &pw_nhwc_f32 { data: output.data, ..input }, &output)
            .starts_with("output: expected memory apart")
    );
    assert_eq!(y, [7.0; 8], "nothing is written");
    let last = std::ptr::without_provenance_mut(usize::MAX - 3);
    assert!(refused(conv, &input, &pw_nhwc_f32 { data: last, ..output }).contains("more than memory"));
    // An empty output needs no memory, and lies in nobody's.
    for data in [null_mut(), x[1..].as_ptr().cast_mut()] {
        run(conv, &pw_nhwc_f32 { n: 0, ..input }, null(), &pw_nhwc_f32 { data, n: 0, ..output }, null()).unwrap();
    }
    // SAFETY: created above.
    unsafe { pw_conv_destroy(conv) };
}

/// The text that the library writes, and what it says of its length.
fn explain(conv: *const pw_conv, shape: [usize; 4], pool: *const pw_pool, size: usize) -> (Vec<u8>, usize) {
    let (mut buffer, mut length) = (vec![0x7fu8; size + 1], usize::MAX);
    let data = if size == 0 { null_mut() } else { buffer.as_mut_ptr().cast::<c_char>() };
    // SAFETY: room for `size` bytes, four values.
    assert_eq!(unsafe { pw_conv_explain(conv, shape.as_ptr(), pool, data, size, &mut length) }, PW_OK);
    assert_eq!(buffer.pop(), Some(0x7f), "nothing is written behind the buffer");
    (buffer, length)
}

#[test]
fn a_plan_is_explained() {
    let conv = create(&desc(8, 16), &[1.0; 128], None).unwrap();
    let shape = [1, 20, 20, 8];
    let ours = pointwise::PointwiseConv::builder(8, 16).build(&[1.0; 128]).unwrap();
    let expected = ours.plan(shape, &pointwise::Serial).unwrap().to_string();
    for size in [0, 1, 10, expected.len(), expected.len() + 1, expected.len() + 50] {
        let (buffer, length) = explain(conv, shape, null(), size);
        assert_eq!(length, expected.len());
        if size > 0 {
            let written = CStr::from_bytes_until_nul(&buffer).expect("an end").to_str().unwrap();
            assert_eq!(written, &expected[..expected.len().min(size - 1)]);
        }
    }
    let mut out = [0; 4];
    // SAFETY: four values each; null pointers are refused before they are read.
    unsafe {
        assert_eq!(pw_conv_explain(conv, shape.as_ptr(), null(), null_mut(), 9, null_mut()), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "buffer: expected a pointer, got null");
        assert_eq!(pw_conv_explain(conv, shape.as_ptr(), null(), null_mut(), 0, null_mut()), PW_OK);
        assert_eq!(pw_conv_explain(conv, null(), null(), null_mut(), 0, null_mut()), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "input_shape: expected a pointer, got null");
        assert_eq!(pw_conv_output_shape(conv, shape.as_ptr(), out.as_mut_ptr()), PW_OK);
        assert_eq!(out, [1, 20, 20, 16]);
        assert_eq!(pw_conv_output_shape(conv, [1; 4].as_ptr(), out.as_mut_ptr()), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "input: expected 8 channels, got 1");
        assert_eq!(pw_conv_output_shape(conv, shape.as_ptr(), null_mut()), PW_INVALID_ARGUMENT);
        pw_conv_destroy(conv);
    }
}

/// Works on scoped threads; the context counts the runs, or is null to do nothing.
unsafe extern "C" fn on_threads(context: *mut c_void, tasks: usize, task: pw_task, task_context: *mut c_void) {
    struct Shared(*mut c_void);
    // SAFETY: the library's context is for all threads.
    unsafe impl Sync for Shared {}
    let shared = &Shared(task_context);
    let tasks = if context.is_null() { 0 } else { tasks };
    std::thread::scope(|scope| {
        for first in 0..3 {
            scope.spawn(move || {
                let Shared(task_context) = shared;
                for i in (first..tasks).step_by(3) {
                    // SAFETY: within this call.
                    unsafe { task(*task_context, i) };
                }
            });
        }
    });
    if !context.is_null() {
        // SAFETY: the test's counter, which one thread uses.
        unsafe { *context.cast::<usize>() += 1 };
    }
}

#[test]
fn the_callers_threads_do_the_work() {
    let (k, f, pixels) = (16, 32, 500);
    let value = |i: usize| (i % 23) as f32 * 0.25 - 2.0;
    let weights: Vec<f32> = (0..k * f).map(value).collect();
    let x: Vec<f32> = (0..pixels * k).map(value).collect();
    let conv = create(&desc(k, f), &weights, None).unwrap();
    let input = view(&x, [1, 1, pixels, k]);
    let compute = |pool| {
        let mut y = vec![0.0; pixels * f];
        let output = pw_nhwc_f32 { data: y.as_mut_ptr(), ..view(&[], [1, 1, pixels, f]) };
        run(conv, &input, null(), &output, pool).map(|()| y)
    };
    let expected = compute(null()).unwrap();
    let mut runs = 0usize;
    let executor = pw_executor {
        struct_size: size_of::<pw_executor>(),
        threads: 3,
        run: Some(on_threads),
        context: (&raw mut runs).cast(),
        work_per_thread: 1000,
    };
    let pool = |executor: pw_executor| {
        let mut pool = null_mut();
        // SAFETY: a struct and room for a pointer; `on_threads` keeps to its contract, or does nothing.
        let status = unsafe { pw_pool_create_with(&executor, &mut pool) };
        assert_eq!(status == PW_OK, !pool.is_null());
        if status == PW_OK { Ok(pool) } else { Err(words()) }
    };
    let threads = pool(executor).unwrap();
    assert_eq!(compute(threads).unwrap(), expected);
    assert_eq!(runs, 1);
    let (text, _) = explain(conv, [1, 1, pixels, k], threads, 1000);
    assert!(String::from_utf8_lossy(&text).contains("threads  3\n"));
    let many = pool(pw_executor { threads: usize::MAX, work_per_thread: 1, ..executor }).unwrap();
    assert_eq!(compute(many).unwrap(), expected);
    assert_eq!(runs, 2);
    // Too little work for another thread, by the default.
    let rarely = pool(pw_executor { work_per_thread: 0, ..executor }).unwrap();
    assert_eq!(compute(rarely).unwrap(), expected);
    let lazy = pool(pw_executor { context: null_mut(), ..executor }).unwrap();
    let (status, words) = compute(lazy).unwrap_err();
    assert_eq!(status, PW_INVALID_ARGUMENT);
    assert!(words.starts_with("executor: expected ") && words.contains(" tasks to be run, "), "{words}");
    assert_eq!(runs, 2);
    let refused = |executor| pool(executor).unwrap_err();
    assert_eq!(refused(pw_executor { threads: 0, ..executor }), "executor: expected threads of 1 or more, got 0");
    assert_eq!(refused(pw_executor { run: None, ..executor }), "executor: expected a function for run, got null");
    assert!(refused(pw_executor { struct_size: 8, ..executor }).starts_with("executor: expected struct_size"));
    for pool in [threads, many, rarely, lazy] {
        // SAFETY: created above.
        unsafe { pw_pool_destroy(pool) };
    }
    // SAFETY: created above.
    unsafe { pw_conv_destroy(conv) };
}

#[test]
fn a_convolution_is_packed_and_loaded() {
    let conv =
        create(&pw_conv_desc { activation: 1, ..desc(3, 2) }, &[1.0, 2.0, 3.0, -1.0, 0.0, 1.0], Some(&[0.5, -0.5]));
    let conv = conv.unwrap();
    let mut size = 0;
    // SAFETY: room for one.
    assert_eq!(unsafe { pw_conv_packed_size(conv, &mut size) }, PW_OK);
    let mut memory = vec![0u8; size + 64];
    let start = memory.as_ptr().addr().next_multiple_of(64) - memory.as_ptr().addr();
    let bytes = &mut memory[start..][..size];
    // SAFETY: room for `size` bytes; what is wrong is found before anything is written.
    unsafe {
        assert_eq!(pw_conv_pack(conv, bytes.as_mut_ptr().cast(), size + 1), PW_INVALID_ARGUMENT);
        assert_eq!(words(), format!("size: expected {size}, got {}", size + 1));
        assert_eq!(pw_conv_pack(conv, null_mut(), size), PW_INVALID_ARGUMENT);
        assert_eq!(pw_conv_packed_size(null(), &mut size), PW_INVALID_ARGUMENT);
        assert_eq!(pw_conv_packed_size(conv, null_mut()), PW_INVALID_ARGUMENT);
        assert_eq!(pw_conv_pack(conv, bytes.as_mut_ptr().cast(), size), PW_OK);
        pw_conv_destroy(conv);
    }
    let ours = pointwise::PointwiseConv::builder(3, 2)
        .bias(&[0.5, -0.5])
        .activation(pointwise::Activation::Relu)
        .build(&[1.0, 2.0, 3.0, -1.0, 0.0, 1.0])
        .unwrap();
    assert_eq!(*bytes, ours.to_packed_bytes());

    let load = |bytes: &[u8], flags, isa| {
        let mut conv = null_mut();
        // SAFETY: bytes that live until the convolution is destroyed below, or are copied.
        let status = unsafe { pw_conv_f32_create_packed(bytes.as_ptr().cast(), bytes.len(), flags, isa, &mut conv) };
        assert_eq!(status == PW_OK, !conv.is_null());
        if status == PW_OK { Ok(conv) } else { Err(words()) }
    };
    let odd = [&[0], &bytes[..]].concat();
    for (bytes, flags) in [
        (&bytes[..], 0),
        (bytes, PW_PACKED_HEADER_ONLY),
        (bytes, PW_PACKED_COPY),
        (&odd[1..], PW_PACKED_COPY),
        (&odd[1..], PW_PACKED_COPY | PW_PACKED_HEADER_ONLY),
    ] {
        for isa in [PW_ISA_AUTO, PW_ISA_SCALAR] {
            let conv = load(bytes, flags, isa as i32).unwrap();
            let mut y = [0.0; 2];
            let output = pw_nhwc_f32 { data: y.as_mut_ptr(), ..view(&[], [1, 1, 1, 2]) };
            run(conv, &view(&[1.0, 0.0, 1.0], [1, 1, 1, 3]), null(), &output, null()).unwrap();
            assert_eq!(y, [4.5, 0.0]);
            // SAFETY: created above.
            unsafe { pw_conv_destroy(conv) };
        }
    }
    assert_eq!(load(bytes, 4, 0).unwrap_err(), "flags: expected 0 to 3, got 4");
    assert_eq!(load(bytes, 0, 9).unwrap_err(), "isa: expected 0 to 4, got 9");
    let short = load(&bytes[..size - 1], 0, 0).unwrap_err();
    assert_eq!(short, format!("packed: expected length {size}, got {}", size - 1));
    assert!(load(&odd[1..], 0, 0).unwrap_err().starts_with("packed: expected an address divisible by 64, got "));
    let mut conv = null_mut();
    // SAFETY: null and lengths that no memory has are refused.
    unsafe {
        assert_eq!(pw_conv_f32_create_packed(null(), size, 0, 0, &mut conv), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "bytes: expected a pointer, got null");
        let pointer = bytes.as_ptr().cast();
        assert_eq!(pw_conv_f32_create_packed(pointer, usize::MAX, 0, 0, &mut conv), PW_INVALID_ARGUMENT);
        assert_eq!(pw_conv_f32_create_packed(pointer, size, 0, 0, null_mut()), PW_INVALID_ARGUMENT);
    }
    // Into the bytes that it borrows.
    let conv = load(bytes, 0, 0).unwrap();
    let place = bytes.as_ptr().cast_mut().cast();
    // SAFETY: refused before anything is written.
    assert_eq!(unsafe { pw_conv_pack(conv, place, size) }, PW_INVALID_ARGUMENT);
    assert!(words().starts_with("buffer: expected memory apart"), "{}", words());
    // SAFETY: created above.
    unsafe { pw_conv_destroy(conv) };
}

#[test]
fn isas_are_listed() {
    let (mut isas, mut count, mut isa) = ([PW_ISA_AUTO; 4], 0, PW_ISA_AUTO);
    // SAFETY: room for what is written; names are strings.
    unsafe {
        assert_eq!(pw_isa_available(isas.as_mut_ptr(), 4, &mut count), PW_OK);
        let names: Vec<&str> =
            isas[..count].iter().map(|isa| CStr::from_ptr(pw_isa_name(*isa as i32)).to_str().unwrap()).collect();
        let ours: Vec<&str> = pointwise::Isa::available().iter().map(|isa| isa.name()).collect();
        assert_eq!(names, ours);
        assert_eq!(pw_isa_detect(&mut isa), PW_OK);
        assert_eq!(CStr::from_ptr(pw_isa_name(isa as i32)).to_str(), Ok(pointwise::Isa::detect().unwrap().name()));
        let mut one = [PW_ISA_AUTO; 2];
        assert_eq!(pw_isa_available(one.as_mut_ptr(), 1, &mut count), PW_OK);
        assert_eq!((one, count), ([PW_ISA_SCALAR, PW_ISA_AUTO], ours.len()));
        assert_eq!(pw_isa_available(null_mut(), 0, &mut count), PW_OK);
        assert_eq!(pw_isa_available(null_mut(), 1, &mut count), PW_INVALID_ARGUMENT);
        assert_eq!(words(), "isas: expected a pointer, got null");
        assert_eq!(pw_isa_available(isas.as_mut_ptr(), 4, null_mut()), PW_INVALID_ARGUMENT);
        assert_eq!(pw_isa_detect(null_mut()), PW_INVALID_ARGUMENT);
        for (number, name) in [(0, c"auto"), (4, c"neon"), (5, c"unknown"), (-1, c"unknown")] {
            assert_eq!(CStr::from_ptr(pw_isa_name(number)), name);
        }
        assert_eq!(CStr::from_ptr(pw_status_name(PW_UNAVAILABLE as i32)), c"PW_UNAVAILABLE");
        assert_eq!(CStr::from_ptr(pw_status_name(-1)), c"unknown");
    }
    assert_eq!(pw_version(), PW_VERSION);
}

#[test]
fn every_activation_is_that_of_rust() {
    use pointwise::Activation::*;
    let x: Vec<f32> = (-40..40).map(|i| i as f32 * 0.37).collect();
    let (slopes, scale, shift) = ([0.25f32], [1.5f32], [-0.125f32]);
    let ours = [
        Identity,
        Relu,
        Clamp { min: 0.3, max: 0.7 },
        Sigmoid,
        Tanh,
        LeakyRelu { slope: 0.3 },
        Prelu,
        HardSigmoid { alpha: 0.3, beta: 0.7 },
        HardSwish,
        Swish { beta: 0.3 },
        Gelu,
        GeluTanh,
        Elu { alpha: 0.3 },
        Softplus,
        Mish,
    ];
    let shape = [1, 1, x.len(), 1];
    for (number, activation) in ours.into_iter().enumerate() {
        let prelu = activation == Prelu;
        let desc = pw_conv_desc {
            activation: number as i32,
            param_a: 0.3,
            param_b: 0.7,
            scale: scale.as_ptr(),
            shift: shift.as_ptr(),
            slopes: if prelu { slopes.as_ptr() } else { null() },
            flags: PW_RESIDUAL_AFTER_ACTIVATION,
            ..desc(1, 1)
        };
        let conv = create(&desc, &[2.0], None).unwrap();
        let builder = pointwise::PointwiseConv::builder(1, 1)
            .activation(activation)
            .scale_shift(&scale, &shift)
            .residual_order(pointwise::ResidualOrder::AfterActivation);
        let ours = if prelu { builder.slopes(&slopes) } else { builder }.build(&[2.0]).unwrap();
        let (mut expected, mut y) = (vec![3.0; x.len()], vec![3.0; x.len()]);
        let view_of_x = pointwise::Nhwc::new(&x, shape).unwrap();
        ours.run_accumulate(view_of_x, pointwise::NhwcMut::new(&mut expected, shape).unwrap()).unwrap();
        // The residual is the output itself.
        let out = pw_nhwc_f32 { data: y.as_mut_ptr(), ..view(&[], shape) };
        run(conv, &view(&x, shape), &out, &out, null()).unwrap();
        assert_eq!(y, expected, "{activation:?}");
        // SAFETY: created above.
        unsafe { pw_conv_destroy(conv) };
    }
}

#[test]
fn the_first_version_of_a_description_is_understood() {
    let first =
        pw_conv_desc { struct_size: std::mem::offset_of!(pw_conv_desc, scale), flags: usize::MAX, ..desc(1, 1) };
    let conv = create(&first, &[2.0], None).unwrap();
    let (x, mut y) = ([1.5], [0.0]);
    let out = pw_nhwc_f32 { data: y.as_mut_ptr(), ..view(&[], [1, 1, 1, 1]) };
    run(conv, &view(&x, [1, 1, 1, 1]), null(), &out, null()).unwrap();
    assert_eq!(y, [3.0]);
    // SAFETY: created above.
    unsafe { pw_conv_destroy(conv) };
}

#[test]
fn heads_write_side_by_side_and_not_into_each_other() {
    let convs = [[1.0, 1.0], [1.0, -1.0], [2.0, 0.0]].map(|weights| create(&desc(2, 1), &weights, None).unwrap());
    let (x, mut y) = ([1.0, 2.0, 3.0, 5.0], [0.0f32; 6]);
    let x = view(&x, [1, 1, 2, 2]);
    let channel =
        |data: *mut f32, c| pw_nhwc_f32 { data: data.wrapping_add(c), pixel_stride: 3, ..view(&[], [1, 1, 2, 1]) };
    let start = y.as_mut_ptr();
    let run = |outputs: [pw_nhwc_f32; 3], residual: *const pw_nhwc_f32| {
        let head =
            |i: usize| pw_head { struct_size: size_of::<pw_head>(), conv: convs[i], residual, output: &outputs[i] };
        let heads = [head(0), head(1), head(2)];
        // SAFETY: as long as the shapes say; what is wrong is found before it is read.
        match unsafe { pw_heads_f32_run(&x, heads.as_ptr(), 3, null()) } {
            PW_OK => Ok(()),
            status => Err((status, words())),
        }
    };
    run([channel(start, 0), channel(start, 1), channel(start, 2)], null()).unwrap();
    assert_eq!(y, [3.0, -1.0, 2.0, 8.0, -2.0, 6.0]);
    for outputs in [
        [channel(start, 0), channel(start, 1), channel(start, 1)],
        // Two channels wide, into the next head's.
        [pw_nhwc_f32 { c: 1, pixel_stride: 2, ..channel(start, 0) }, channel(start, 1), channel(start, 2)],
    ] {
        let (status, words) = run(outputs, null()).unwrap_err();
        assert_eq!(status, PW_INVALID_ARGUMENT);
        assert!(words.contains(": output: expected memory apart from another head's output's "), "{words}");
    }
    let residual = view(&[1.0, 2.0], [1, 1, 2, 1]);
    run([channel(start, 0), channel(start, 1), channel(start, 2)], &residual).unwrap();
    assert_eq!(y, [4.0, 0.0, 3.0, 10.0, 0.0, 8.0]);
    let mut wrong = [channel(start, 0), channel(start, 1), channel(start, 2)];
    let elsewhere = [0.0];
    wrong[1] = view(&elsewhere, [1, 1, 1, 1]);
    assert_eq!(run(wrong, null()).unwrap_err().1, "head 1: output: expected shape [1, 1, 2, 1], got [1, 1, 1, 1]");
    wrong[1].data = null_mut();
    assert_eq!(run(wrong, null()).unwrap_err().1, "head 1: output: expected a pointer, got null");
    // Another head's output as a residual.
    let (_, words) = run([channel(start, 0), channel(start, 1), channel(start, 2)], &channel(start, 1)).unwrap_err();
    assert!(words.contains("memory apart from"), "{words}");
    // SAFETY: created above.
    convs.into_iter().for_each(|conv| unsafe { pw_conv_destroy(conv) });
}
