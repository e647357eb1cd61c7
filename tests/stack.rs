//! How much stack a call takes: all of them fit in a thread of 64 KiB, with room for a caller.
#![cfg(unix)]

mod common;

use pointwise::{
    Activation, Executor, Head, Nhwc, NhwcMut, PointwiseConv, Pool, Serial, Verify, reference::Reference, run_heads,
};
use std::{ffi::c_void, ptr};

const STACK: usize = 64 << 10;
/// The least that a system may ask for, glibc on aarch64. What is more than [`STACK`], nobody may touch.
const MAP: usize = 128 << 10;
/// What no call takes more than.
const MOST: usize = 16 << 10;
const PAINT: u8 = 0xa5;

/// The stack that this takes on a thread of its own, which has [`STACK`] bytes.
fn stack_of(work: impl FnOnce()) -> usize {
    extern "C" fn start<F: FnOnce()>(work: *mut c_void) -> *mut c_void {
        // SAFETY: the option below, which only this thread uses.
        let work = unsafe { &mut *work.cast::<Option<F>>() };
        if let Some(work) = work.take() {
            work();
        }
        ptr::null_mut()
    }
    fn spawn<F: FnOnce()>(mut work: Option<F>) -> usize {
        let (mut memory, guard) = (memmap2::MmapMut::map_anon(MAP).expect("memory"), MAP - STACK);
        memory[guard..].fill(PAINT);
        // SAFETY: it lies in the map; nothing in it is used as a stack yet.
        let protected = unsafe { libc::mprotect(memory.as_mut_ptr().cast(), guard, libc::PROT_NONE) };
        assert_eq!(protected, 0);
        // SAFETY: the attributes are initialised before they are used, the stack is the map, and the thread has ended before it
        // and `work` do.
        unsafe {
            let mut attributes = std::mem::zeroed();
            let mut thread = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstack(&mut attributes, memory.as_mut_ptr().cast(), MAP), 0);
            assert_eq!(libc::pthread_create(&mut thread, &attributes, start::<F>, (&raw mut work).cast()), 0);
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
            libc::pthread_attr_destroy(&mut attributes);
        }
        assert!(work.is_none(), "the work is done");
        memory[guard..].iter().position(|byte| *byte != PAINT).map_or(0, |untouched| STACK - untouched)
    }
    // What a thread has there of its own.
    spawn(Some(work)) - spawn(Some(|| {}))
}

#[test]
fn no_call_takes_much_stack() {
    let pool = Pool::new(2).unwrap();
    let (pixels, k) = (67, 20);
    let shape = |channels| [1, 1, pixels, channels];
    fn view(x: &[f32], channels: usize) -> Nhwc<'_> {
        Nhwc::new(x, [1, 1, x.len() / channels, channels]).unwrap()
    }
    let x = vec![0.25; pixels * k];
    for isa in common::isas() {
        let mut most = [
            ("build", 0),
            ("run", 0),
            ("run on a pool", 0),
            ("8 heads", 0),
            ("plan", 0),
            ("reference", 0),
            ("packed", 0),
        ];
        for (f, activation) in [1, 8, 24, 64, 100]
            .into_iter()
            .flat_map(|f| [Activation::Relu, Activation::Gelu, Activation::Mish].map(|activation| (f, activation)))
        {
            let (weights, values, residual) = (vec![0.5; k * f], vec![0.5; f], vec![0.125; pixels * f]);
            let builder = PointwiseConv::builder(k, f).activation(activation).isa(*isa).scale_shift(&values, &values);
            let conv = builder.build(&weights).unwrap();
            let packed = conv.to_packed_bytes();
            let reference = Reference { out_channels: f, weights: &weights, activation, ..Reference::default() };
            let run = |executor: &dyn Executor| {
                let (mut y, executor) = (vec![0.0; pixels * f], &common::Eager(executor));
                conv.run_residual_with(
                    executor,
                    view(&x, k),
                    view(&residual, f),
                    NhwcMut::new(&mut y, shape(f)).unwrap(),
                )
                .unwrap();
            };
            let heads = || {
                let mut ys = vec![vec![0.0; pixels * f]; 8];
                let mut heads: Vec<_> = ys
                    .iter_mut()
                    .map(|y| Head::new(&conv, NhwcMut::new(y, shape(f)).unwrap()).residual(view(&residual, f)))
                    .collect();
                run_heads(&Serial, view(&x, k), &mut heads).unwrap();
            };
            let depths = [
                stack_of(|| drop(builder.build(&weights).unwrap())),
                stack_of(|| run(&Serial)),
                stack_of(|| run(&pool)),
                stack_of(heads),
                stack_of(|| assert!(conv.plan(shape(k), &pool).is_ok())),
                stack_of(|| {
                    let mut y = vec![0.0; pixels * f];
                    reference.run(view(&x, k), None, NhwcMut::new(&mut y, shape(f)).unwrap()).unwrap();
                }),
                stack_of(|| {
                    drop(PointwiseConv::from_packed_copy(&packed, Verify::All).unwrap().with_isa(*isa).unwrap())
                }),
            ];
            most.iter_mut().zip(depths).for_each(|((_, most), depth)| *most = depth.max(*most));
        }
        println!("{isa}, bytes of stack: {most:?}");
        assert!(most.iter().all(|(_, most)| *most <= MOST), "{isa}: {most:?}");
    }
}
