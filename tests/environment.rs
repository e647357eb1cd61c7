//! No bit depends on the floating-point environment of a thread that computes, and it is left as it was.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod common;

use common::{Case, Threads, activations, assert_same};
use pointwise::{
    Activation, Error, Executor, Head, Nhwc, NhwcMut, PointwiseConv, Pool, Serial, fold_batch_norm, run_heads,
};
use register::{OTHERS, read, write};

/// MXCSR.
#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    /// All but the flags of exceptions that were met.
    pub const CONTROL: u64 = !0x3f;
    /// Other contents than the default, which is 0x1f80.
    pub const OTHERS: [(&str, u64); 8] = [
        ("DAZ", 0x1fc0),
        ("FTZ", 0x9f80),
        ("DAZ and FTZ", 0x9fc0),
        ("down", 0x3f80),
        ("up", 0x5f80),
        ("to zero", 0x7f80),
        ("traps", 0x0000),
        ("DAZ, FTZ, to zero and traps", 0xe040),
    ];

    pub fn read() -> u64 {
        let mut bits = 0u32;
        // SAFETY: it stores 4 bytes, which have their place.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut bits, options(nostack, preserves_flags)) };
        bits.into()
    }

    /// # Safety
    /// Nothing is computed until the default is back.
    pub unsafe fn write(bits: u64) {
        let bits = bits as u32;
        // SAFETY: it loads 4 bytes, which are there, without a reserved bit.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const bits, options(nostack)) };
    }
}

/// FPCR.
#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    pub const CONTROL: u64 = !0;
    /// Other contents than the default, which is 0.
    pub const OTHERS: [(&str, u64); 8] = [
        ("FZ", 1 << 24),
        ("DN", 1 << 25),
        ("FZ and DN", 3 << 24),
        ("up", 1 << 22),
        ("down", 2 << 22),
        ("to zero", 3 << 22),
        ("traps", 0x9f00),
        ("FZ, DN, to zero and traps", 15 << 22 | 0x9f00),
    ];

    pub fn read() -> u64 {
        let bits;
        // SAFETY: it writes one register.
        unsafe { asm!("mrs {}, fpcr", out(reg) bits, options(nostack, preserves_flags)) };
        bits
    }

    /// # Safety
    /// Nothing is computed until the default is back.
    pub unsafe fn write(bits: u64) {
        // SAFETY: every program may.
        unsafe { asm!("msr fpcr, {}", in(reg) bits, options(nostack)) };
    }
}

/// Does this with another environment, and sees that it is left as it was.
#[track_caller]
fn under<R>(environment: u64, work: impl FnOnce() -> R) -> R {
    let default = read();
    // SAFETY: tests give work that computes nothing itself, and threads that it starts do not either.
    unsafe { write(environment) };
    // Not all that may be asked for is there on every CPU.
    let before = read();
    let result = work();
    let after = read();
    // SAFETY: the default.
    unsafe { write(default) };
    assert_eq!(after & register::CONTROL, before & register::CONTROL, "left as it was, {environment:#x}");
    result
}

/// An executor on whose threads another environment rules.
struct Under<'a>(&'a (dyn Executor + Sync), u64);

impl Executor for Under<'_> {
    fn threads(&self) -> usize {
        self.0.threads()
    }

    fn work_per_thread(&self) -> usize {
        1 << 12
    }

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        self.0.run(threads, &|i| under(self.1, || work(i)));
    }
}

/// A case, and tensors of which every third pixel has sums that are denormal unless there is more than the sum.
fn small_and_ordinary(case: Case) -> (Case, common::Tensors) {
    let mut tensors = case.tensors();
    tensors.x.chunks_exact_mut(case.input[3]).step_by(3).flatten().for_each(|x| *x *= 1e-39);
    (case, tensors)
}

#[test]
fn every_activation_on_every_isa() {
    let isas = common::isas();
    for activation in activations::ALL.into_iter().chain([Activation::Prelu]) {
        for (out_channels, more) in [(3, false), (27, false), (27, true)] {
            let input = [1, 3, 9, 19];
            let case = Case { input, out_channels, activation, bias: more, residual: more, ..Case::default() };
            let (case, tensors) = small_and_ordinary(Case { scale_shift: more, ..case });
            let expected = case.reference(&tensors);
            assert!(more || activation != Activation::Identity || expected.iter().any(|y| y.is_subnormal()));
            for (name, environment) in OTHERS {
                let got = under(environment, || case.reference(&tensors));
                assert_same(&got, &expected, format_args!("the reference, {name}, {case:?}"));
                for isa in isas {
                    let got = under(environment, || case.run(&tensors, *isa));
                    assert_same(&got, &expected, format_args!("{isa}, {name}, {case:?}"));
                }
            }
        }
    }
}

#[test]
fn threads_of_an_executor() {
    let case = Case { input: [1, 8, 15, 33], out_channels: 52, bias: false, ..Case::default() };
    let (case, tensors) = small_and_ordinary(case);
    let expected = case.reference(&tensors);
    let pool = Pool::new(3).unwrap();
    for isa in common::isas() {
        let conv = case.build(&tensors, *isa).unwrap();
        for (name, environment) in OTHERS {
            for executor in [&Threads(3) as &(dyn Executor + Sync), &pool] {
                let executor = Under(executor, environment);
                assert!(conv.plan(case.input, &executor).unwrap().threads > 1);
                let got = case.with_views(&tensors, |x, _, y| conv.run_with(&executor, x, y));
                assert_same(&got, &expected, format_args!("{isa}, {name} in the tasks"));
                let run = |x: Nhwc<'_>, _: Option<Nhwc<'_>>, y: NhwcMut<'_>| {
                    under(environment, || conv.run_with(&executor, x, y))
                };
                assert_same(&case.with_views(&tensors, run), &expected, format_args!("{isa}, {name} everywhere"));
            }
        }
    }
}

#[test]
fn heads() {
    let (case, tensors) = small_and_ordinary(Case { input: [1, 2, 9, 19], out_channels: 24, ..Case::default() });
    let residual = vec![3e-40; 18 * 24];
    for isa in common::isas() {
        let conv = case.build(&tensors, *isa).unwrap();
        let run = || {
            let (mut a, mut b) = (vec![0.0; 18 * 24], residual.clone());
            let view = |y| NhwcMut::new(y, case.output()).unwrap();
            let residual = Nhwc::new(&residual, case.output()).unwrap();
            let mut heads =
                [Head::new(&conv, view(&mut a)).residual(residual), Head::new(&conv, view(&mut b)).accumulate()];
            run_heads(&Serial, Nhwc::new(&tensors.x, case.input).unwrap(), &mut heads).unwrap();
            [a, b].concat()
        };
        let expected = run();
        for (name, environment) in OTHERS {
            assert_same(&under(environment, run), &expected, format_args!("{isa}, {name}"));
        }
    }
}

#[test]
fn a_plan_in_words() {
    let conv = PointwiseConv::builder(3, 1).build(&[1.0; 3]).unwrap();
    let plan = conv.plan([1, 1, 7, 3], &Serial).unwrap();
    let expected = plan.to_string();
    for (name, environment) in OTHERS {
        assert_eq!(under(environment, || plan.to_string()), expected, "{name}");
    }
}

#[test]
fn what_is_refused() {
    let signaling = f32::from_bits(0x7f80_0001);
    let conv = PointwiseConv::builder(2, 1).build(&[1.0, 1.0]).unwrap();
    for (name, environment) in OTHERS {
        let build =
            |activation| under(environment, || PointwiseConv::builder(1, 1).activation(activation).build(&[1.0]));
        // Flushed, they are equal.
        let error = build(Activation::Clamp { min: 3e-45, max: 1e-45 }).unwrap_err();
        assert!(matches!(error, Error::Clamp { .. }), "{name}");
        assert!(build(Activation::Clamp { min: 1e-45, max: 3e-45 }).is_ok(), "{name}");
        let error = build(Activation::Swish { beta: signaling }).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{name}");
        let error = under(environment, || {
            let mut y = [0.0; 2];
            conv.run(Nhwc::new(&[1.0; 2], [1, 1, 1, 2])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)
        });
        assert!(matches!(error, Err(Error::Shape { .. })), "{name}");
    }
}

#[test]
fn a_folded_batch_norm() {
    let fold = || fold_batch_norm(&[1.0, -3.0], None, &[1.0], &[0.1], &[0.7], &[3e-45], 0.0).unwrap();
    let expected = fold();
    for (name, environment) in OTHERS {
        assert_eq!(under(environment, fold), expected, "{name}");
    }
}
