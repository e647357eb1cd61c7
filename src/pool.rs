//! A thread pool whose threads stay awake for a moment.
//!
//! ```text
//! caller                                  each other thread
//! publish the work, open the run          wait until a run is open: spin, then sleep
//! work                                    enter; if the run is still open, work; leave
//! close the run                           ...
//! wait until nobody is inside
//! ```
//!
//! Many layers of a network take 20 microseconds, and so does waking a thread that sleeps (on a virtual machine it takes
//! five times as long). Threads that spin between two layers are there in 0.1 microseconds. They meet on one cache line and
//! without a lock: with one, a run on two threads took 0.2 microseconds longer.

use crate::Executor;
use core::{
    hint, mem, ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
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

/// What a run has its threads call, with their numbers.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// What the threads share. A run is open while `runs` is odd, and who finds it so after entering may use its work: the caller
/// closes it and then waits until nobody is inside, so that one of the two sees the other (all four accesses are in one order,
/// [`SeqCst`]).
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Shared {
    /// Counts the opening and the closing of each run.
    runs: AtomicUsize,
    /// Threads that have entered.
    inside: AtomicUsize,
    /// To a [`Work`] on the caller's stack, while a run is open.
    work: AtomicPtr<()>,
    /// Threads that sleep until they are woken, or are about to.
    sleeping: AtomicUsize,
    stop: AtomicBool,
    /// Held by a thread from before it counts as sleeping until it sleeps, so that it cannot miss [`wake`](Self::wake).
    sleep_lock: Mutex<()>,
    wake: Condvar,
    /// The first panic of a run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A thread pool for layers that take microseconds: its threads spin for a millisecond before they sleep, so that the next
/// layer finds them awake. An idle pool costs nothing.
///
/// The calling thread works too. Where several threads run on one pool at the same time, one gets its threads, and the others
/// work alone. A run that is worth two threads wakes all of them: a pool should have as many as its layers are worth.
///
/// `fork` does not take the threads along: in the child a pool that was made before works with the calling thread alone. Make
/// it anew there, unless the parent forked while another of its threads was starting or ending: the standard library's lock for
/// that stays locked in the child, which can start no thread then. A task must not fork and go on in the child: it would wait
/// for the others.
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
        // Some systems allocate a lock when it is first used: not in the caller's first run.
        pool.wake();
        pool.share(&|_| {});
        Ok(pool)
    }

    /// Has `work` called by this thread, number 0, and by those of the others that are free, and returns when all have
    /// returned.
    fn share(&self, work: Work<'_>) {
        // Another caller has the threads. Nothing unwinds while one has them, so that no turn is poisoned.
        let Ok(turn) = self.turn.try_lock() else { return work(0) };
        let Shared { runs, inside, sleeping, panic, .. } = &*self.shared;
        self.shared.work.store(ptr::from_ref(&work).cast_mut().cast(), Relaxed);
        runs.fetch_add(1, SeqCst);
        if sleeping.load(SeqCst) > 0 {
            self.wake();
        }
        self.shared.call(work, 0);
        runs.fetch_add(1, SeqCst);
        // Those inside are at their last task; a thread that the system has put aside needs a core. In a forked process there
        // is none, though one may have been inside.
        let mut spins = 0;
        while inside.load(SeqCst) > 0 && !(pause(&mut spins) && self.is_forked()) {}
        let panic = lock(panic).take();
        drop(turn);
        if let Some(panic) = panic {
            panic::resume_unwind(panic);
        }
    }

    fn wake(&self) {
        let Shared { sleep_lock, wake, .. } = &*self.shared;
        let locked = match sleep_lock.try_lock() {
            Ok(locked) => locked,
            // One of the others held it when this process was forked, and holds it for ever.
            Err(_) if self.is_forked() => return,
            Err(_) => lock(sleep_lock),
        };
        wake.notify_all();
        drop(locked);
    }

    /// Whether this is a child of the process where the others are.
    fn is_forked(&self) -> bool {
        process() != self.process
    }
}

/// Tells the child of a fork from its parent. Other systems than Unix have no forks, and not all of them processes.
fn process() -> u32 {
    if cfg!(unix) { std::process::id() } else { 0 }
}

/// Spins, and every now and then lets another thread have the core: true then.
fn pause(spins: &mut usize) -> bool {
    *spins += 1;
    let long = spins.is_multiple_of(SPINS);
    if long {
        thread::yield_now()
    } else {
        hint::spin_loop()
    }
    long
}

/// Nothing panics under a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// What the other thread of this number does.
    fn serve(&self, thread: usize) {
        let mut seen = 0;
        loop {
            self.wait(seen);
            self.inside.fetch_add(1, SeqCst);
            seen = self.runs.load(SeqCst);
            if is_open(seen) && !self.stop.load(Relaxed) {
                // SAFETY: the run is open, and this thread inside: the caller, on whose stack the work is, waits for it.
                let work = unsafe { *self.work.load(Relaxed).cast::<Work<'_>>() };
                self.call(work, thread);
            }
            self.inside.fetch_sub(1, SeqCst);
            if self.stop.load(Relaxed) {
                return;
            }
        }
    }

    /// Calls `work` and keeps its panic, if it is the run's first.
    fn call(&self, work: Work<'_>, thread: usize) {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| work(thread))) {
            let mut first = lock(&self.panic);
            if first.is_none() {
                *first = Some(panic);
            } else {
                // Not dropped: that may panic as well.
                mem::forget(panic);
            }
        }
    }

    /// Returns when another run than `seen` is open.
    fn wait(&self, seen: usize) {
        let another = || {
            let run = self.runs.load(SeqCst);
            is_open(run) && run != seen
        };
        let (mut start, mut spins) = (Instant::now(), 0);
        while !another() {
            if pause(&mut spins) && start.elapsed() > SPIN {
                let locked = lock(&self.sleep_lock);
                self.sleeping.fetch_add(1, SeqCst);
                if !another() {
                    drop(self.wake.wait(locked).unwrap_or_else(PoisonError::into_inner));
                }
                self.sleeping.fetch_sub(1, SeqCst);
                // Too late for that run, it is awake for the next one.
                start = Instant::now();
            }
        }
    }
}

fn is_open(run: usize) -> bool {
    !run.is_multiple_of(2)
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.is_forked() {
            // There is nobody to wait for.
            return mem::forget(mem::take(&mut self.others));
        }
        self.shared.stop.store(true, Relaxed);
        self.shared.runs.fetch_add(1, SeqCst);
        self.wake();
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

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        self.share(&|thread| {
            if thread < threads {
                work(thread);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::run_each_once;
    use std::sync::Barrier;

    fn count(pool: &Pool, tasks: usize) {
        let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        let done = run_each_once(pool, pool.threads(), tasks, |i| {
            ran[i].fetch_add(1, Relaxed);
        });
        assert_eq!(done, Ok(()));
        assert!(ran.iter().all(|ran| ran.load(Relaxed) == 1));
    }

    #[test]
    fn every_task_runs_once_awake_and_asleep() {
        for threads in 0..5 {
            let pool = Pool::new(threads).unwrap();
            for tasks in (0..40).chain([1000]) {
                count(&pool, tasks);
            }
            let start = Instant::now();
            while pool.shared.sleeping.load(Relaxed) < pool.others.len() {
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
                let _ = run_each_once(&pool, 3, 100, |i| {
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
                    at_work.fetch_add(1, Relaxed);
                    while at_work.load(Relaxed) < 2 {
                        thread::yield_now();
                    }
                    panic::resume_unwind(Box::new(7));
                });
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&7));
            count(&pool, 50);
        }
    }

    #[test]
    fn panics_that_panic_when_dropped_are_kept() {
        struct Again;
        impl Drop for Again {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let pool = Pool::new(3).unwrap();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            let all = Barrier::new(3);
            pool.run(3, &|_| {
                all.wait();
                panic::resume_unwind(Box::new(Again));
            });
        }));
        let panic = outcome.unwrap_err();
        assert!(panic.is::<Again>());
        mem::forget(panic);
        count(&pool, 50);
    }

    /// As in a child process, where none of the others is and the lock may be held for ever.
    #[test]
    fn a_pool_without_its_threads_works_alone() {
        let mut pool = Pool::new(1).unwrap();
        pool.process = process().wrapping_add(1);
        let Shared { inside, sleeping, sleep_lock, .. } = &*pool.shared;
        inside.store(1, Relaxed);
        sleeping.store(1, Relaxed);
        mem::forget(lock(sleep_lock));
        count(&pool, 50);
    }

    /// It does not wait for a lock that a thread may have for long.
    #[test]
    fn a_pool_is_shown_while_it_works() {
        let pool = Pool::new(2).unwrap();
        let locked = lock(&pool.shared.sleep_lock);
        let text = std::format!("{pool:?}");
        drop(locked);
        assert!(text.contains("runs: 2, inside: "), "{text}");
    }

    #[test]
    fn a_task_may_run_on_its_own_pool() {
        let pool = Pool::new(2).unwrap();
        assert_eq!(run_each_once(&pool, 2, 4, |_| count(&pool, 8)), Ok(()));
    }
}
