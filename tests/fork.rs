//! After `fork` the child computes on its own thread, on a pool made before, whose threads it has not, and on a new one.
#![cfg(unix)]

mod common;

use common::{Case, Eager};
use pointwise::{Executor, Isa, Pool, Serial};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Barrier,
    thread,
    time::Duration,
};

/// The only test of this file: a thread that starts or ends holds a lock of the standard library, and where another one forks
/// then, nobody opens it in the child, whose own threads need it.
#[test]
fn a_forked_process() {
    let case = Case { input: [1, 7, 9, 32], out_channels: 72, ..Case::default() };
    let tensors = case.tensors();
    let (conv, expected) = (case.build(&tensors, Isa::detect().unwrap()).unwrap(), case.reference(&tensors));
    let right = |executor: &dyn Executor| {
        case.with_views(&tensors, |x, _, y| conv.run_with(&Eager(executor), x, y)) == expected
    };
    let pool = Pool::new(3).unwrap();
    let all_started = Barrier::new(3);
    pool.run(3, &|_| {
        all_started.wait();
    });
    for pause in [0, 0, 0, 0, 5] {
        assert!(right(&pool));
        // The threads are awake, or asleep.
        thread::sleep(Duration::from_millis(pause));
        // SAFETY: the child calls nothing that needs one of the threads that it has not, and ends below.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork");
        if child == 0 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let all = right(&Serial) && right(&pool) && right(&pool) && Pool::new(2).is_ok_and(|anew| right(&anew));
                // SAFETY: nobody uses it again, for this process ends.
                drop(unsafe { std::ptr::read(&pool) });
                all
            }));
            // SAFETY: it ends the process.
            unsafe { libc::_exit(if matches!(outcome, Ok(true)) { 0 } else { 1 }) };
        }
        let mut status = 0;
        let finished = (0..6000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            // SAFETY: the child, and room for its status.
            unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) == child }
        });
        if !finished {
            // SAFETY: the child.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child hangs");
        }
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child: status {status:#x}");
        assert!(right(&pool), "the parent goes on");
    }
}
