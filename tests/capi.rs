//! The C interface, called as C calls it.
#![cfg(feature = "capi")]

use pointwise::capi::*;
use std::{
    ffi::{CStr, c_int},
    ptr::{null, null_mut},
};

fn desc(in_channels: usize, out_channels: usize) -> pw_conv_desc {
    pw_conv_desc {
        struct_size: size_of::<pw_conv_desc>(),
        in_channels,
        out_channels,
        groups: 1,
        stride_h: 1,
        stride_w: 1,
        activation: 0,
        param_a: 0.0,
        param_b: 0.0,
        isa: 0,
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

fn create(desc: &pw_conv_desc, weights: &[f32], bias: Option<&[f32]>) -> Result<*mut pw_conv, (c_int, String)> {
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
) -> Result<(), (c_int, String)> {
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
    let (_, words) = refused(pw_conv_desc { activation: 99, ..desc(3, 4) });
    assert_eq!(words, "activation: expected 0 to 4, got 99");
    let (_, words) = refused(pw_conv_desc { isa: -1, ..desc(3, 4) });
    assert_eq!(words, "isa: expected 0 to 4, got -1");
    let (_, words) = refused(pw_conv_desc { groups: 2, ..desc(3, 4) });
    assert!(words.starts_with("groups:"), "{words}");
    let (_, words) = refused(pw_conv_desc { stride_w: 0, ..desc(3, 4) });
    assert!(words.starts_with("stride:"), "{words}");
    let (_, words) = refused(pw_conv_desc { activation: 2, param_a: 1.0, ..desc(3, 4) });
    assert!(words.starts_with("clamp:"), "{words}");
    let (_, words) = refused(desc(usize::MAX, 2));
    assert!(words.starts_with("weights:"), "{words}");
    let (status, words) = refused(desc(0, usize::MAX));
    assert_eq!(status, PW_OUT_OF_RESOURCES, "{words}");
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
        assert_eq!(words(), "threads: expected 1 or more, got 0");
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
    // An empty output needs no memory.
    run(conv, &view(&[], [0, 1, 2, 3]), null(), &pw_nhwc_f32 { data: null_mut(), n: 0, ..output }, null()).unwrap();
    // SAFETY: created above.
    unsafe { pw_conv_destroy(conv) };
}
