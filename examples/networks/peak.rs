//! How fast cores multiply and add, measured: nothing that computes with the same instructions is faster.
//!
//! The vector loops are assembly, so that no compiler spills a chain, merges two or drops them all. Their registers start
//! as zeros and stay zeros: a denormal that happened to lie in one would slow the loop down.

use pointwise::Isa;
use std::{hint::black_box, sync::Barrier, thread, time::Instant};

/// Steps of a measurement: a fifth of a millisecond with vectors, a few without.
const STEPS: u32 = 1 << 17;

/// Independent chains of multiply-adds: enough that one starts in every slot while the others are under way (latency of 4
/// cycles times 2 a cycle on x86, times 4 a cycle on the widest aarch64 cores).
const CHAINS: usize = if cfg!(target_arch = "aarch64") { 16 } else { 12 };

/// The FMA peak of all threads in GFLOP/s, the best of five runs of each; NaN for an ISA that has no loop here, and for scalar
/// code that is compiled for a CPU without such an instruction.
///
/// # Panics
/// Where the CPU has not the ISA.
pub fn gflops(isa: Isa, threads: usize) -> f64 {
    assert!(Isa::available().contains(&isa), "{isa}: not on this CPU");
    let flops = 2 * CHAINS * isa.lanes() * STEPS as usize;
    let run = || {
        let start = Instant::now();
        match isa {
            Isa::Scalar if cfg!(any(target_arch = "aarch64", target_feature = "fma")) => scalar(),
            // SAFETY: the CPU has the ISA, by the assertion above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2() },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512() },
            _ => return f64::NAN,
        }
        flops as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    at_once(threads, || run)
}

/// The best of five runs of each thread, added up; they start together. `prepare` is called in each thread, and gives its run.
pub fn at_once<R: Fn() -> f64>(threads: usize, prepare: impl Fn() -> R + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let thread = || {
        let run = prepare();
        let started = || {
            barrier.wait();
            run()
        };
        (0..5).map(|_| started()).fold(f64::NAN, f64::max)
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(thread)).collect();
        thread() + others.into_iter().map(|other| other.join().expect("a run that does not panic")).sum::<f64>()
    })
}

fn scalar() {
    let factor = black_box(0.5f32);
    let mut chains = [1.0; CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            *chain = factor.mul_add(*chain, factor);
        }
    }
    black_box(chains);
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_chains {
    ($(#[$doc:meta])* $name:ident, $register:literal) => {
        $(#[$doc])*
        unsafe fn $name() {
            // SAFETY: the CPU has the instructions, by this function's contract; all registers written are declared: the
            // vector registers are among those that a call of this ABI may change.
            unsafe {
                std::arch::asm!(
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
                    concat!("vxorps ", $register, "\\i, ", $register, "\\i, ", $register, "\\i"),
                    ".endr",
                    "2:",
                    ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
                    concat!("vfmadd231ps ", $register, "\\i, ", $register, "\\i, ", $register, "\\i"),
                    ".endr",
                    "dec ecx",
                    "jnz 2b",
                    "vzeroupper",
                    inout("ecx") STEPS => _,
                    clobber_abi("sysv64"),
                    options(nomem, nostack),
                );
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
x86_chains!(
    /// # Safety
    /// The CPU has AVX2 and FMA.
    avx2,
    "ymm"
);
#[cfg(target_arch = "x86_64")]
x86_chains!(
    /// # Safety
    /// The CPU has AVX-512 F and DQ.
    avx512,
    "zmm"
);

/// # Safety
/// The CPU has NEON.
#[cfg(target_arch = "aarch64")]
unsafe fn neon() {
    // SAFETY: the CPU has NEON, by this function's contract; all registers written are declared: v16 to v31 are among
    // those that a call of the C ABI may change.
    unsafe {
        std::arch::asm!(
            ".irp i, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "movi v\\i\\().4s, #0",
            ".endr",
            "2:",
            ".irp i, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "fmla v\\i\\().4s, v\\i\\().4s, v\\i\\().4s",
            ".endr",
            "subs w0, w0, #1",
            "b.ne 2b",
            inout("w0") STEPS => _,
            clobber_abi("C"),
            options(nomem, nostack),
        );
    }
}
