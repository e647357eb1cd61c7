//! Who runs the tasks of a convolution: the calling thread, or a pool.

use crate::Error;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Something that runs tasks, usually a thread pool.
///
/// The convolution splits its work into tasks and hands them over. Whatever an executor does, in whatever order, from
/// however many threads, the output's bits are the same, and no task runs twice.
///
/// # Example
/// [`Pool`](crate::Pool) is one. Another, on scoped threads of the standard library:
/// ```
/// struct Threads(usize);
///
/// impl pointwise::Executor for Threads {
///     fn threads(&self) -> usize {
///         self.0
///     }
///
///     fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
///         std::thread::scope(|scope| {
///             for first in 0..self.0.min(tasks) {
///                 scope.spawn(move || (first..tasks).step_by(self.0).for_each(task));
///             }
///         });
///     }
/// }
///
/// let conv = pointwise::PointwiseConv::builder(2, 1).build(&[1.0, 10.0])?;
/// let mut y = [0.0; 2];
/// let x = pointwise::Nhwc::new(&[1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2])?;
/// conv.run_with(&Threads(2), x, pointwise::NhwcMut::new(&mut y, [1, 1, 2, 1])?)?;
/// assert_eq!(y, [21.0, 43.0]);
/// # Ok::<(), pointwise::Error>(())
/// ```
pub trait Executor {
    /// How many tasks can run at the same time. With 1, the calling thread does all the work and `run` is not called.
    fn threads(&self) -> usize;

    /// Multiply-adds that are worth another thread: a run of fewer than twice as many stays on the calling thread. Default:
    /// 2^21, which take a core with AVX-512 about 15 us, for pools whose threads sleep between two runs.
    fn work_per_thread(&self) -> usize {
        1 << 21
    }

    /// Calls `task(i)` for every `i < tasks`, in any order, on any threads, and returns when all calls have returned.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// The calling thread.
///
/// # Example
/// ```
/// use pointwise::{Executor, Serial};
/// assert_eq!(Serial.threads(), 1);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Executor for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// Has every task run once. The number that an executor calls with does not matter: each call takes the next task that
/// nobody has, so even an executor that calls one twice, from two threads at once, cannot make two tasks of one.
pub(crate) fn run_each_once(
    executor: &(impl Executor + ?Sized),
    tasks: usize,
    task: impl Fn(usize) + Sync,
) -> Result<(), Error> {
    let (taken, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    executor.run(tasks, &|_| {
        // Counts no further than there are tasks: however many calls do not wrap it.
        let take = |next| if next < tasks { Some(next + 1) } else { None };
        if let Ok(next) = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            task(next);
            finished.fetch_add(1, Ordering::Release);
        }
    });
    match finished.load(Ordering::Acquire) {
        all if all == tasks => Ok(()),
        actual => Err(Error::Executor { expected: tasks, actual }),
    }
}

/// What each thread of a pool does in a run: calls the next task that nobody has called, until there is none.
#[cfg(feature = "std")]
pub(crate) fn work_off(next: &AtomicUsize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= tasks {
            return;
        }
        task(i);
    }
}

#[cfg(feature = "rayon")]
mod pools {
    use super::*;

    impl Executor for rayon::ThreadPool {
        fn threads(&self) -> usize {
            self.current_num_threads()
        }

        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            let next = AtomicUsize::new(0);
            self.in_place_scope(|scope| share(scope, self.threads(), &next, tasks, task));
        }
    }

    /// rayon's global pool.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Executor, RayonGlobal};
    /// assert_eq!(RayonGlobal.threads(), rayon::current_num_threads());
    /// ```
    #[derive(Clone, Copy, Debug, Default)]
    pub struct RayonGlobal;

    impl Executor for RayonGlobal {
        fn threads(&self) -> usize {
            rayon::current_num_threads()
        }

        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            let next = AtomicUsize::new(0);
            rayon::in_place_scope(|scope| share(scope, self.threads(), &next, tasks, task));
        }
    }

    /// Runs tasks on `threads` threads, the calling one among them: it is at work while the others still wake up.
    fn share<'a>(
        scope: &rayon::Scope<'a>,
        threads: usize,
        next: &'a AtomicUsize,
        tasks: usize,
        task: &'a (dyn Fn(usize) + Sync),
    ) {
        for _ in 1..threads.min(tasks) {
            scope.spawn(move |_| work_off(next, tasks, task));
        }
        work_off(next, tasks, task);
    }
}
#[cfg(feature = "rayon")]
pub use pools::RayonGlobal;

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls each of `calls`, on one thread.
    struct Calls(&'static [usize]);
    impl Executor for Calls {
        fn threads(&self) -> usize {
            2
        }
        fn run(&self, _tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            self.0.iter().for_each(|i| task(*i));
        }
    }

    #[test]
    fn tasks_run_once_whatever_the_executor_calls() {
        for calls in [&[0, 1, 2][..], &[2, 1, 0], &[0, 0, 0], &[7, 7, 7, 7, 7], &[usize::MAX; 4]] {
            let ran: [AtomicUsize; 3] = Default::default();
            let done = run_each_once(&Calls(calls), 3, |i| {
                ran[i].fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done, Ok(()));
            assert!(ran.iter().all(|ran| ran.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn serial_runs_each_task() {
        assert_eq!((Serial.threads(), Serial.work_per_thread()), (1, 1 << 21));
        assert_eq!(run_each_once(&Serial, 3, |_| {}), Ok(()));
    }

    #[test]
    fn too_few_calls_are_an_error() {
        let done = run_each_once(&Calls(&[0, 1]), 3, |_| {});
        assert_eq!(done, Err(Error::Executor { expected: 3, actual: 2 }));
    }
}
