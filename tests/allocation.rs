//! A run allocates nothing, alone, on a pool, or as a head, building and loading what their documentation says, and sizes that
//! nothing could hold nothing either.

use pointwise::{Activation, Error, Head, Nhwc, NhwcMut, PointwiseConv, Pool, Verify, run_heads};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many allocations `f` makes, and of how many bytes in all. What the test harness allocates meanwhile, it allocates once:
/// not in each of five tries.
fn allocations(mut f: impl FnMut()) -> (usize, usize) {
    let count = |_| {
        let before = [&ALLOCATIONS, &BYTES].map(|counter| counter.load(Ordering::Relaxed));
        f();
        (ALLOCATIONS.load(Ordering::Relaxed) - before[0], BYTES.load(Ordering::Relaxed) - before[1])
    };
    (0..5).map(count).min().unwrap_or_default()
}

#[repr(align(64))]
struct Aligned<T>(T);

static PACKED: Aligned<[u8; 2432]> = Aligned(*include_bytes!("packed.bin"));

/// The only test of this file: another one's allocations would be counted too.
#[test]
fn calls_allocate_what_is_documented() {
    runs();
    building();
    loading();
    absurd_sizes();
}

fn runs() {
    let pool = Pool::new(2).expect("a pool");
    let (pixels, k) = (200, 96);
    for f in [1, 24, 200] {
        let weights = vec![0.5; k * f];
        let values = vec![0.5; f];
        let builder = PointwiseConv::builder(k, f).activation(Activation::Tanh).scale_shift(&values, &values);
        // What the first run of one makes is counted, too.
        let convs: Vec<_> = (0..31).map(|_| builder.build(&weights).expect("it builds")).collect();
        let mut convs = convs.iter();
        let (x, mut y, residual) = (vec![1.0; pixels * k], vec![0.0; pixels * f], vec![1.0; pixels * f]);
        let mut run = |how: usize| {
            let conv = convs.next().expect("one that has not run");
            for _ in 0..2 {
                let x = Nhwc::new(&x, [1, 1, pixels, k]).expect("a view");
                let y = NhwcMut::new(&mut y, [1, 1, pixels, f]).expect("a view");
                match how {
                    0 => conv.run(x, y),
                    1 => conv.run_with(&pool, x, y),
                    2 => conv.run_accumulate(x, y),
                    3 => conv.run_residual(x, Nhwc::new(&residual, [1, 1, pixels, f]).expect("a view"), y),
                    _ => run_heads(&pool, x, &mut [Head::new(conv, y)]),
                }
                .expect("it runs");
            }
        };
        // The pool's threads are started, and names of threads are set, by the first run at the latest.
        run(1);
        assert_eq!(allocations(|| [0, 1, 1, 2, 3, 4].into_iter().for_each(&mut run)), (0, 0), "F {f}: a run allocates");
    }
}

/// A word for each count of references, and three for a vector.
const OWNER: usize = 5 * size_of::<usize>();

fn building() {
    for (k, f, groups) in [(1, 1, 1), (64, 256, 1), (30, 51, 3), (7, 7, 7), (0, 17, 1), (12, 4, 4)] {
        let (weights, values) = (vec![0.5; k / groups * f], vec![0.5; f]);
        let builder = PointwiseConv::builder(k, f).groups(groups).bias(&values);
        let prelu = builder.activation(Activation::Prelu).slopes(&values);
        let leaky = builder.activation(Activation::LeakyRelu { slope: 0.5 });
        for (builder, by_channel) in [(builder, 0), (builder.scale_shift(&values, &values), 3), (prelu, 3), (leaky, 3)]
        {
            let bytes = 64 * groups * (f / groups).div_ceil(16) * (k / groups + 1 + by_channel);
            let build = || drop(builder.build(&weights).expect("it builds"));
            assert_eq!(allocations(build), (2, bytes + OWNER), "{builder:?}");
        }
    }
}

fn loading() {
    // The golden file is little-endian.
    let bytes = PACKED.0.as_slice();
    let load = || drop(PointwiseConv::from_packed(bytes, Verify::All).expect("it loads"));
    assert_eq!(allocations(load), (1, 2 * size_of::<usize>() + size_of::<&[u8]>()));
    let copy = || drop(PointwiseConv::from_packed_copy(bytes, Verify::All).expect("it loads"));
    assert_eq!(allocations(copy), (2, bytes.len() - 128 + OWNER));
}

/// What is too large is an error before anything is allocated.
fn absurd_sizes() {
    const MAX: usize = usize::MAX;
    for (k, f, groups) in [
        (MAX, MAX, 1),
        (MAX, MAX, MAX),
        (MAX, 1, 1),
        (1, MAX, 1),
        (MAX / 2, 2, 1),
        (1 << (usize::BITS / 2), 1 << (usize::BITS / 2), 1),
        (MAX, 0, 1),
        (0, MAX, 1),
        (0, MAX, MAX),
        (0, MAX, 0),
    ] {
        let build = || match PointwiseConv::builder(k, f).groups(groups).stride(MAX, MAX).build(&[]) {
            Err(Error::Length { .. } | Error::OutOfMemory { .. } | Error::Groups { .. }) => {}
            other => panic!("K {k}, F {f}, {groups} groups: {other:?}"),
        };
        assert_eq!(allocations(build), (0, 0), "K {k}, F {f}, {groups} groups");
    }
    let conv = PointwiseConv::builder(1, 1).stride(MAX, MAX).build(&[1.0]).expect("it builds");
    for shape in [[MAX, MAX, MAX, 1], [1, 1, MAX, 1], [1, MAX, 1, 1], [MAX, 1, 1, 1], [2, MAX / 2, 2, 1]] {
        let refused = || {
            assert!(matches!(Nhwc::new(&[], shape), Err(Error::TooLarge { .. })));
            assert!(matches!(NhwcMut::with_strides(&mut [], shape, [MAX; 3]), Err(Error::TooLarge { .. })));
            assert!(matches!(conv.plan(shape, &pointwise::Serial), Err(Error::TooLarge { .. })));
        };
        assert_eq!(allocations(refused), (0, 0), "{shape:?}");
    }
    // A header that promises what is not there.
    for (at, size) in [(16, u64::MAX), (24, 1 << 40), (32, 1 << 40), (24, u64::MAX), (32, u64::MAX), (40, u64::MAX)] {
        let mut bytes = PACKED.0;
        bytes[at..at + 8].copy_from_slice(&size.to_ne_bytes());
        let checksum = crc32fast::hash(&bytes[..124]);
        bytes[124..128].copy_from_slice(&checksum.to_ne_bytes());
        let load = || assert!(PointwiseConv::from_packed_copy(&bytes, Verify::All).is_err());
        assert_eq!(allocations(load), (0, 0), "{size} at {at}");
    }
}
