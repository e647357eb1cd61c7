//! Whatever an executor does, no task runs twice; whether too few run, or something panics, the convolution and the pool work
//! afterwards.

mod common;

use common::{Case, Eager, Tensors, assert_same};
use pointwise::{Error, Executor, Nhwc, NhwcMut, PointwiseConv, Pool, Serial};
use rand::seq::SliceRandom;
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Barrier, mpsc},
    thread,
    time::Duration,
};

/// An executor that is a function of the number of threads and their work.
struct Does<F: Fn(usize, &(dyn Fn(usize) + Sync))>(F);

impl<F: Fn(usize, &(dyn Fn(usize) + Sync))> Executor for Does<F> {
    fn threads(&self) -> usize {
        4
    }

    fn work_per_thread(&self) -> usize {
        1 << 12
    }

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        assert!((2..=self.threads()).contains(&threads), "{threads}");
        (self.0)(threads, work);
    }
}

/// A convolution in place, where a task that runs twice shows.
struct Layer {
    tensors: Tensors,
    conv: PointwiseConv,
    expected: Vec<f32>,
}

const CASE: Case =
    Case { input: [1, 7, 9, 32], out_channels: 72, residual: true, in_place: true, seed: 3, ..Case::ONE };

impl Layer {
    fn new() -> Self {
        let tensors = CASE.tensors();
        let conv = CASE.build(&tensors, pointwise::Isa::detect().unwrap()).unwrap();
        let mut expected = CASE.reference(&tensors);
        expected.truncate(tensors.residual.len());
        Self { tensors, conv, expected }
    }

    /// What a run returns, and the output.
    fn run(&self, executor: &dyn Executor) -> (thread::Result<Result<(), Error>>, Vec<f32>) {
        let mut y = self.tensors.residual.clone();
        let returned = catch_unwind(AssertUnwindSafe(|| {
            let x = Nhwc::new(&self.tensors.x, CASE.input)?;
            self.conv.run_accumulate_with(executor, x, NhwcMut::new(&mut y, CASE.output())?)
        }));
        (returned, y)
    }

    #[track_caller]
    fn check(&self, executor: &dyn Executor, what: &str) {
        let (returned, y) = self.run(executor);
        returned.expect(what).expect(what);
        assert_same(&y, &self.expected, what);
    }

    /// Each value is as it was, or as it should be; returns how many of them are the latter.
    #[track_caller]
    fn done(&self, y: &[f32]) -> usize {
        let (before, expected) = (&self.tensors.residual, &self.expected);
        let as_before = y.iter().zip(before).filter(|(y, before)| y == before).count();
        let done = y.iter().zip(expected).filter(|(y, expected)| y == expected).count();
        assert_eq!(as_before + done, y.len(), "each value is as it was, or as it should be");
        done
    }
}

/// Fails where this takes longer than a deadlock should.
fn without_deadlock(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    if wait.recv_timeout(Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("deadlock");
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic));
}

#[test]
fn any_calls_in_any_order() {
    let layer = Layer::new();
    layer.check(&Does(|threads, work| Serial.run(threads, work)), "one after the other");
    layer.check(&Does(|threads, work| (0..threads).rev().for_each(work)), "backwards");
    layer.check(
        &Does(|threads, work| {
            let mut order: Vec<_> = (0..threads).collect();
            order.shuffle(&mut common::rng(1));
            order.into_iter().for_each(work);
        }),
        "shuffled",
    );
    layer.check(
        &Does(|threads, work| {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..threads).for_each(work));
                }
            });
        }),
        "each on four threads at once",
    );
    (0..4).for_each(|i| layer.check(&Does(|_, work| work(i)), "one call"));
    layer.check(
        &Does(|threads, work| [threads, threads + 1, usize::MAX, usize::MAX / 2].into_iter().for_each(work)),
        "none of the numbers that were asked for",
    );
}

#[test]
fn no_call() {
    let layer = Layer::new();
    let idle = Does(|_, _| {});
    let tasks = layer.conv.plan(CASE.input, &idle).unwrap().tasks;
    let (returned, y) = layer.run(&idle);
    assert_eq!(returned.unwrap(), Err(Error::Executor { expected: tasks, actual: 0 }));
    assert_eq!(layer.done(&y), 0);
    layer.check(&Serial, "afterwards");
}

#[test]
fn panics_pass_through() {
    let layer = Layer::new();
    let pool = Pool::new(3).unwrap();
    // Before all work and after it on the calling thread, and on each of a pool's.
    for when in [0usize, 1, 2] {
        let alone = Does(|_, work| {
            (0..when).for_each(work);
            resume_unwind(Box::new(when));
        });
        let on_a_pool = Does(|threads, work| {
            let all = Barrier::new(3);
            pool.run(threads, &|i| {
                all.wait();
                if i == when { resume_unwind(Box::new(when)) } else { work(i) }
            });
        });
        for executor in [&alone as &dyn Executor, &on_a_pool] {
            let (returned, y) = layer.run(executor);
            assert_eq!(returned.unwrap_err().downcast_ref(), Some(&when));
            layer.done(&y);
            layer.check(&pool, "afterwards");
        }
    }
}

/// Each thread also runs a convolution on the pool that it belongs to.
fn nested(pool: impl Executor + Sync) {
    let layer = Layer::new();
    let nested = Does(|threads, work| {
        pool.run(threads, &|i| {
            layer.check(&Eager(&pool), "inside");
            work(i);
        });
    });
    (0..5).for_each(|_| layer.check(&nested, "outside"));
}

#[test]
fn a_task_may_run_a_convolution_on_its_own_pool() {
    without_deadlock(|| nested(Pool::new(3).unwrap()));
    #[cfg(feature = "rayon")]
    without_deadlock(|| nested(rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap()));
}

#[test]
fn many_threads_share_a_convolution_and_a_pool() {
    without_deadlock(|| {
        let (layer, pool) = (Layer::new(), Pool::new(3).unwrap());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| layer.check(&Eager(&pool), "shared")));
            }
        });
    });
}
