//! A run allocates nothing, alone, on a pool, or as a head, and loading packed bytes only a place for their owner.

use pointwise::{Activation, Head, Nhwc, NhwcMut, PointwiseConv, Pool, Verify, run_heads};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

/// How many allocations `f` makes. What the test harness allocates meanwhile, it allocates once: not in each of five tries.
fn allocations(mut f: impl FnMut()) -> usize {
    let count = |_| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        f();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    (0..5).map(count).min().unwrap_or_default()
}

#[repr(align(64))]
struct Aligned<T>(T);

static PACKED: Aligned<[u8; 2432]> = Aligned(*include_bytes!("packed.bin"));

/// The only test of this file: another one's allocations would be counted too.
#[test]
fn a_run_allocates_nothing() {
    // Of the golden file, which is little-endian.
    assert_eq!(
        allocations(|| drop(PointwiseConv::from_packed(PACKED.0.as_slice(), Verify::All).expect("it loads"))),
        1
    );
    let pool = Pool::new(2).expect("a pool");
    let (pixels, k) = (200, 96);
    for f in [1, 24, 200] {
        let weights = vec![0.5; k * f];
        let conv = PointwiseConv::builder(k, f).activation(Activation::Tanh).build(&weights).expect("it builds");
        let (x, mut y) = (vec![1.0; pixels * k], vec![0.0; pixels * f]);
        let mut run = |how: usize| {
            let x = Nhwc::new(&x, [1, 1, pixels, k]).expect("a view");
            let y = NhwcMut::new(&mut y, [1, 1, pixels, f]).expect("a view");
            match how {
                0 => conv.run(x, y),
                1 => conv.run_with(&pool, x, y),
                _ => run_heads(&pool, x, &mut [Head::new(&conv, y)]),
            }
            .expect("it runs");
        };
        // The pool's threads are started, and names of threads are set, by the first run at the latest.
        run(1);
        assert_eq!(allocations(|| [0, 1, 1, 2].into_iter().for_each(&mut run)), 0, "F {f}: a run allocates");
    }
}
