//! Who runs the tasks of a convolution: the calling thread, or a pool.

use crate::{Error, plan::part};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Something that has threads, usually a thread pool.
///
/// The convolution splits its work into tasks, and the executor's threads take them. Whatever an executor does, in whatever
/// order, from however many threads, the output's bits are the same, and no task runs twice.
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
///     fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
///         std::thread::scope(|scope| {
///             for i in 1..threads {
///                 scope.spawn(move || work(i));
///             }
///             work(0);
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
    /// How many threads can work at the same time. With 1, the calling thread does all the work and `run` is not called.
    fn threads(&self) -> usize;

    /// Multiply-adds that are worth another thread: a run of fewer than twice as many stays on the calling thread. Default:
    /// 2^21, which take a core with AVX-512 about 15 us, for pools whose threads sleep between two runs.
    fn work_per_thread(&self) -> usize {
        1 << 21
    }

    /// Calls `work(i)` for every `i < threads`, in any order, on any threads, and returns when all calls have returned.
    /// `threads` is no more than [`threads`](Self::threads).
    ///
    /// Each call works until nothing is left to do. So calls may be left out, but for one, where no thread is free for them. It
    /// is fastest where they run at the same time, each number on the same thread in every run.
    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync));
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

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..threads).for_each(work);
    }
}

/// The most shares, which have their place on the stack.
const MOST_SHARES: usize = 16;

/// Tasks that are handed out once each: to every thread a share of neighbours, always the same, and when that is done, those
/// of the others.
///
/// So a core finds what it wrote for the last layer, and its part of the weights, in its own cache, where threads that take
/// any next task fetch lines from each other: 14x14x96 to 576 channels took a fifth longer on two threads.
struct Shares<'a> {
    tasks: usize,
    /// 1 or more. Thread `i` starts with the one at `i` modulo their number.
    shares: &'a [Share],
}

/// Far enough from the next one not to be on its cache line, nor on the one that is fetched along with it.
#[derive(Default)]
#[repr(align(128))]
struct Share {
    taken: AtomicUsize,
    finished: AtomicUsize,
}

impl Shares<'_> {
    /// Runs a task of this thread, or of another one. False where none is left.
    fn run_one(&self, thread: usize, task: impl Fn(usize)) -> bool {
        let (count, own) = (self.shares.len(), thread % self.shares.len());
        (own..count).chain(0..own).any(|i| {
            let (Share { taken, finished }, all) = (&self.shares[i], part(self.tasks, count, i));
            // Counts no further than there are tasks: however many calls do not wrap it.
            let take = |taken| if taken < all.len() { Some(taken + 1) } else { None };
            let Ok(taken) = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else { return false };
            task(all.start + taken);
            finished.fetch_add(1, Ordering::Release);
            true
        })
    }

    fn finished(&self) -> usize {
        self.shares.iter().map(|share| share.finished.load(Ordering::Acquire)).sum()
    }
}

/// Has every task run once, on up to so many threads. The number that an executor calls with only says whose tasks come first:
/// each task is one that nobody has, so even an executor that calls with a number twice, from two threads at once, cannot make
/// two tasks of one.
pub(crate) fn run_each_once(
    executor: &(impl Executor + ?Sized),
    threads: usize,
    tasks: usize,
    task: impl Fn(usize) + Sync,
) -> Result<(), Error> {
    let shares: [Share; MOST_SHARES] = Default::default();
    let shares = Shares { tasks, shares: &shares[..threads.clamp(1, MOST_SHARES)] };
    executor.run(threads, &|thread| while shares.run_one(thread, &task) {});
    match shares.finished() {
        all if all == tasks => Ok(()),
        actual => Err(Error::Executor { expected: tasks, actual }),
    }
}

#[cfg(feature = "rayon")]
mod pools {
    use super::*;

    /// A run waits until the pool's threads have come by, also where nothing is left for them to do: it is no match for a pool that
    /// is busy with something else. It allocates a job for each other thread.
    impl Executor for rayon::ThreadPool {
        fn threads(&self) -> usize {
            self.current_num_threads()
        }

        fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
            self.in_place_scope(|scope| share(scope, threads, work));
        }
    }

    /// rayon's global pool: as a `rayon::ThreadPool`, a run waits until its threads have come by, and allocates a job for each.
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

        fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
            rayon::in_place_scope(|scope| share(scope, threads, work));
        }
    }

    /// On `threads` threads, the calling one among them: it is at work while the others still wake up.
    fn share<'a>(scope: &rayon::Scope<'a>, threads: usize, work: &'a (dyn Fn(usize) + Sync)) {
        for thread in 1..threads {
            scope.spawn(move |_| work(thread));
        }
        work(0);
    }
}
#[cfg(feature = "rayon")]
pub use pools::RayonGlobal;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::{cell::RefCell, panic::AssertUnwindSafe};

    /// Calls each of `calls`, on one thread.
    struct Calls(&'static [usize]);
    impl Executor for Calls {
        fn threads(&self) -> usize {
            2
        }
        fn run(&self, _threads: usize, work: &(dyn Fn(usize) + Sync)) {
            self.0.iter().for_each(|i| work(*i));
        }
    }

    #[test]
    fn tasks_run_once_whatever_the_executor_calls() {
        for calls in [&[0, 1][..], &[1, 0], &[0, 0, 0], &[1], &[7, 7, 7, 7, 7], &[usize::MAX; 4]] {
            let ran: [AtomicUsize; 3] = Default::default();
            let done = run_each_once(&Calls(calls), 2, 3, |i| {
                ran[i].fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done, Ok(()));
            assert!(ran.iter().all(|ran| ran.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_thread_runs_its_share_and_then_those_of_the_others() {
        for (thread, order) in [(0, [0, 1, 2, 3, 4, 5, 6]), (1, [2, 3, 4, 5, 6, 0, 1]), (5, [4, 5, 6, 0, 1, 2, 3])] {
            let three: [Share; 3] = Default::default();
            let (shares, ran) = (Shares { tasks: 7, shares: &three }, RefCell::new(Vec::new()));
            while shares.run_one(thread, |i| ran.borrow_mut().push(i)) {}
            assert_eq!((ran.into_inner().as_slice(), shares.finished()), (&order[..], 7));
        }
    }

    #[test]
    fn serial_runs_each_task() {
        assert_eq!((Serial.threads(), Serial.work_per_thread()), (1, 1 << 21));
        assert_eq!(run_each_once(&Serial, 1, 3, |_| {}), Ok(()));
    }

    #[test]
    fn no_call_is_an_error() {
        let done = run_each_once(&Calls(&[]), 2, 3, |_| {});
        assert_eq!(done, Err(Error::Executor { expected: 3, actual: 0 }));
    }

    /// Keeps panics to itself.
    struct Quiet;
    impl Executor for Quiet {
        fn threads(&self) -> usize {
            2
        }
        fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
            for i in 0..threads {
                let _ = std::panic::catch_unwind(AssertUnwindSafe(|| work(i)));
            }
        }
    }

    #[test]
    fn a_task_that_panicked_is_not_finished() {
        let done = run_each_once(&Quiet, 2, 3, |i| assert_ne!(i, 1));
        assert_eq!(done, Err(Error::Executor { expected: 3, actual: 2 }));
    }
}
