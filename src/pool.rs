//! A thread pool whose threads stay awake for a moment.
//!
//! ```text
//! caller                                  each other thread
//! publish the work, count the run         wait until the run's number changes: spin, then sleep
//! work                                    if there is work: enter, work, leave
//! take the work back                      ...
//! wait until all that entered have left
//! ```
//!
//! Many layers of a network take 20 microseconds, and so does waking a thread that sleeps (on a virtual machine it takes
//! five times as long). Threads that spin between two layers are there in a tenth of one.

use crate::{Executor, exec::Shares};
use core::{
    hint, mem,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use std::{
    any::Any,
    boxed::Box,
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
    vec::Vec,
};

/// How long a thread without work spins before it sleeps: longer than what stands between two 1x1 layers of a network.
const SPIN: Duration = Duration::from_millis(1);

/// Spins before the clock is looked at, and before the core is offered to others.
const SPINS: usize = 256;

/// What a run gives to the threads, which call it with their numbers. It borrows from the caller's stack; [`Shared`] says why
/// that holds.
type Work = &'static (dyn Fn(usize) + Sync);

/// What the threads share. `work` is there only while [`Pool::share`] is in progress, and every thread that has taken it
/// counts in `inside` until it has done with it; both change under the lock.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Counts runs, so that a spinning thread sees a new one without the lock.
    runs: AtomicUsize,
    /// Threads that are at `work`.
    inside: AtomicUsize,
}

#[derive(Default)]
struct State {
    work: Option<Work>,
    sleeping: usize,
    stop: bool,
    /// The first panic of a run.
    panic: Option<Box<dyn Any + Send>>,
}

/// A thread pool for layers that take microseconds: its threads spin for a millisecond before they sleep, so that the next
/// layer finds them awake. An idle pool costs nothing.
///
/// The calling thread works too. Where several threads run on one pool at the same time, one gets its threads, and the others
/// work alone.
///
/// `fork` does not take the threads along: in the child a pool that was made before works with the calling thread alone. Make
/// it anew there. A task must not fork and go on in the child: it would wait for the others.
///
/// # Example
/// ```
/// use pointwise::{Executor, Nhwc, NhwcMut, PointwiseConv, Pool};
///
/// let pool = Pool::new(2)?;
/// assert_eq!(pool.threads(), 2);
/// let conv = PointwiseConv::builder(2, 1).build(&[1.0, 10.0])?;
/// let mut y = [0.0; 2];
/// let x = Nhwc::new(&[1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2])?;
/// conv.run_with(&pool, x, NhwcMut::new(&mut y, [1, 1, 2, 1])?)?;
/// assert_eq!(y, [21.0, 43.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    others: Vec<JoinHandle<()>>,
    /// Where the others are.
    process: u32,
    /// Held by the run that has the threads.
    turn: Mutex<()>,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared").field("runs", &self.runs).field("inside", &self.inside).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool on which `threads` threads work, the caller's among them: `threads - 1` are started. More than there are cores
    /// only get into each other's way.
    ///
    /// # Errors
    /// That of the operating system where it does not start a thread.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Executor, Pool};
    /// assert_eq!(Pool::new(3)?.threads(), 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(threads: usize) -> io::Result<Self> {
        let (shared, process) = (Arc::default(), process());
        let mut pool = Self { shared, others: Vec::new(), process, turn: Mutex::default() };
        for i in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let name = std::format!("pointwise-{i}");
            pool.others.push(thread::Builder::new().name(name).spawn(move || shared.serve(i))?);
        }
        Ok(pool)
    }

    /// Has `work` called by this thread, number 0, and by those of the others that are free, and returns when all have
    /// returned.
    fn share(&self, work: &(dyn Fn(usize) + Sync)) {
        // Another caller has the threads. Nothing unwinds while one has them, so that no turn is poisoned.
        let Ok(turn) = self.turn.try_lock() else { return work(0) };
        let mut state = match self.shared.state.try_lock() {
            Ok(state) => state,
            // One of the others held it when this process was forked, and holds it for ever.
            Err(_) if process() != self.process => return work(0),
            Err(_) => self.shared.lock(),
        };
        // SAFETY: only the lifetime changes. The reference is in `state.work` until it is taken back below, nothing in between
        // unwinds, and this function then waits for all threads that took it.
        state.work = Some(unsafe { mem::transmute::<&(dyn Fn(usize) + Sync), Work>(work) });
        self.shared.runs.fetch_add(1, Ordering::Release);
        if state.sleeping > 0 {
            self.shared.wake.notify_all();
        }
        drop(state);
        let own = panic::catch_unwind(AssertUnwindSafe(|| work(0)));
        self.shared.lock().work = None;
        // Those inside are at their last task; a thread that the system has put aside needs a core.
        let mut spins = 0;
        while self.shared.inside.load(Ordering::Acquire) > 0 {
            pause(&mut spins);
        }
        let others = self.shared.lock().panic.take();
        drop(turn);
        if let Some(panic) = own.err().or(others) {
            panic::resume_unwind(panic);
        }
    }
}

/// Tells the child of a fork from its parent. Other systems than Unix have no forks, and not all of them processes.
fn process() -> u32 {
    if cfg!(unix) { std::process::id() } else { 0 }
}

/// Spins, and every now and then lets another thread have the core.
fn pause(spins: &mut usize) {
    *spins += 1;
    if spins.is_multiple_of(SPINS) { thread::yield_now() } else { hint::spin_loop() }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock, and the state is right at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the other thread of this number does.
    fn serve(&self, thread: usize) {
        let mut seen = 0;
        loop {
            self.wait(seen);
            let mut state = self.lock();
            if state.stop {
                return;
            }
            seen = self.runs.load(Ordering::Relaxed);
            let Some(work) = state.work else { continue };
            self.inside.fetch_add(1, Ordering::Relaxed);
            drop(state);
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| work(thread)));
            if let Err(panic) = outcome {
                state = self.lock();
                state.panic.get_or_insert(panic);
            }
            self.inside.fetch_sub(1, Ordering::Release);
        }
    }

    /// Returns when the number of runs is no longer `seen`.
    fn wait(&self, seen: usize) {
        let (start, mut spins) = (Instant::now(), 0);
        while self.runs.load(Ordering::Acquire) == seen {
            pause(&mut spins);
            if spins.is_multiple_of(SPINS) && start.elapsed() > SPIN {
                let mut state = self.lock();
                state.sleeping += 1;
                while self.runs.load(Ordering::Relaxed) == seen {
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.sleeping -= 1;
                return;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if process() != self.process {
            // There is nobody to wait for.
            return mem::forget(mem::take(&mut self.others));
        }
        self.shared.lock().stop = true;
        self.shared.runs.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
        for other in self.others.drain(..) {
            // It has caught every panic.
            let _ = other.join();
        }
    }
}

impl Executor for Pool {
    fn threads(&self) -> usize {
        self.others.len() + 1
    }

    /// 2^18, which take a core with AVX-512 about 2 us: threads that spin are there in a tenth of it.
    fn work_per_thread(&self) -> usize {
        1 << 18
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shares = Shares::new(tasks, self.threads());
        self.share(&|thread| while shares.run_one(thread, task) {});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pool: &Pool, tasks: usize) {
        let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, &|i| {
            ran[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(ran.iter().all(|ran| ran.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn every_task_runs_once_awake_and_asleep() {
        for threads in 0..5 {
            let pool = Pool::new(threads).unwrap();
            for tasks in (0..40).chain([1000]) {
                count(&pool, tasks);
            }
            let start = Instant::now();
            while pool.shared.lock().sleeping < pool.others.len() {
                assert!(start.elapsed() < Duration::from_secs(20), "idle threads sleep");
                thread::sleep(SPIN);
            }
            count(&pool, 100);
        }
    }

    #[test]
    fn several_callers_share_a_pool() {
        let pool = Pool::new(3).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| count(&pool, 7)));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for bad in [0, 5, 99] {
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|i| {
                    assert!(i != bad, "task {bad}");
                    thread::yield_now();
                });
            }));
            assert_eq!(*outcome.unwrap_err().downcast::<std::string::String>().unwrap(), std::format!("task {bad}"));
            count(&pool, 50);
        }
    }

    #[test]
    fn panics_of_several_threads_are_one_and_none_is_left_over() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..100 {
            let at_work = AtomicUsize::new(0);
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.run(3, &|_| {
                    // Until two are at work.
                    at_work.fetch_add(1, Ordering::Relaxed);
                    while at_work.load(Ordering::Relaxed) < 2 {
                        thread::yield_now();
                    }
                    panic::resume_unwind(Box::new(7));
                });
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&7));
            count(&pool, 50);
        }
    }

    /// As in a child process, where none of the others is and the lock may be held for ever.
    #[test]
    fn a_pool_without_its_threads_works_alone() {
        let mut pool = Pool::new(3).unwrap();
        pool.process = process().wrapping_add(1);
        mem::forget(pool.shared.lock());
        count(&pool, 50);
    }

    /// It does not wait for a lock that a thread may have for long.
    #[test]
    fn a_pool_is_shown_while_it_works() {
        let pool = Pool::new(2).unwrap();
        let state = pool.shared.lock();
        let text = std::format!("{pool:?}");
        drop(state);
        assert!(text.contains("Shared { runs: 0, inside: 0, .. }"), "{text}");
    }

    #[test]
    fn a_task_may_run_on_its_own_pool() {
        let pool = Pool::new(2).unwrap();
        pool.run(4, &|_| count(&pool, 8));
    }
}
