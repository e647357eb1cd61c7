//! `POINTWISE_MAX_ISA`: read once a process, so each value is tried in a process of its own.

mod common;

use pointwise::{Isa, IsaChoice, PointwiseConv};

/// What the child process of the test below does; by itself it passes.
#[test]
fn child() {
    if std::env::var_os("POINTWISE_MAX_ISA").is_some() {
        match PointwiseConv::builder(1, 1).build(&[1.0]) {
            Ok(conv) => {
                let plan = conv.plan([1, 1, 1, 1], &pointwise::Serial).unwrap();
                assert_eq!(Isa::detect(), Ok(plan.isa));
                println!("child: {} {:?}", plan.isa, plan.isa_choice);
                let capped = plan.to_string().contains("(capped by POINTWISE_MAX_ISA)");
                assert_eq!(capped, plan.isa_choice == IsaChoice::Capped);
            }
            Err(error) => println!("child: {error}"),
        }
        let best = *Isa::available().last().unwrap();
        let forced = PointwiseConv::builder(1, 1).isa(best).build(&[1.0]).unwrap();
        assert_eq!(forced.plan([1, 1, 1, 1], &pointwise::Serial).unwrap().isa_choice, IsaChoice::Forced);
        #[cfg(feature = "capi")]
        load_forced(&forced.to_packed_bytes());
    }
}

#[cfg(feature = "capi")]
fn load_forced(bytes: &[u8]) {
    use pointwise::capi::{PW_PACKED_COPY, pw_conv_destroy, pw_conv_f32_create_packed, pw_isa, pw_status};
    let (mut conv, isa) = (std::ptr::null_mut(), pw_isa::PW_ISA_SCALAR as i32);
    // SAFETY: bytes that are copied, and a place for the convolution, which is destroyed once.
    unsafe {
        let status = pw_conv_f32_create_packed(bytes.as_ptr().cast(), bytes.len(), PW_PACKED_COPY, isa, &mut conv);
        assert_eq!(status, pw_status::PW_OK);
        pw_conv_destroy(conv);
    }
}

/// What the child says under a value of the variable.
fn child_says(value: &str) -> String {
    let output = common::child("child").env("POINTWISE_MAX_ISA", value).output();
    let output = output.expect("the test's own file runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let line = text.lines().find_map(|line| line.split_once("child: ").map(|(_, says)| says.to_owned()));
    line.unwrap_or_else(|| panic!("the child says nothing: {text}"))
}

#[test]
fn the_cap_is_kept() {
    let best = *Isa::available().last().unwrap();
    for cap in [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512] {
        let expected = *Isa::available().iter().filter(|isa| **isa <= cap).max().unwrap();
        let choice = if expected == best { "Detected" } else { "Capped" };
        assert_eq!(child_says(&cap.to_string()), format!("{expected} {choice}"));
    }
}

#[test]
fn an_unknown_value_is_an_error_that_names_the_isas() {
    let expected = r#"POINTWISE_MAX_ISA: expected one of scalar, neon, avx2, avx512, got "AVX2""#;
    assert_eq!(child_says("AVX2"), expected);
}
