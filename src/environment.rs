//! The floating-point environment: rounding, flushing of denormals, and which exceptions trap. All arithmetic of this crate
//! is done in the default one, whatever the caller's is, and the caller's is left as it was.
//!
//! Rust takes the default environment for granted. Where C, or assembly, has called with another one, setting it before the
//! first operation and restoring the caller's behind the last is what makes the arithmetic in between well-defined.
//!
//! Nothing of it can move out of there. To the compiler, the instructions that read and write the register are effects that
//! may touch any memory; so is the call between them, by its fence, and effects stay in order. The arithmetic stays inside
//! the call, since the function is not inlined.

use cfg_if::cfg_if;
use core::sync::atomic::{Ordering, compiler_fence};

/// What `work` returns, done in the default environment.
pub(crate) fn in_default<R>(work: impl FnOnce() -> R) -> R {
    #[inline(never)]
    fn call<R>(work: impl FnOnce() -> R) -> R {
        compiler_fence(Ordering::SeqCst);
        work()
    }

    let control = register::read();
    // Also where `work` unwinds.
    let _restore = (control & register::CONTROL != register::DEFAULT).then(|| {
        register::write(register::DEFAULT);
        Restore(control)
    });
    call(work)
}

struct Restore(register::Bits);

impl Drop for Restore {
    fn drop(&mut self) {
        register::write(self.0);
    }
}

cfg_if! {
    if #[cfg(all(any(target_arch = "x86", target_arch = "x86_64"), target_feature = "sse"))] {
        /// MXCSR.
        mod register {
            use core::arch::asm;

            pub type Bits = u32;
            /// Round to nearest, keep denormals, trap nothing.
            pub const DEFAULT: Bits = 0x1f80;
            /// All but the flags of exceptions that were met.
            pub const CONTROL: Bits = !0x3f;

            pub fn read() -> Bits {
                let mut bits = 0;
                // SAFETY: it stores 4 bytes, and there they have their place. The target has SSE.
                unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut bits, options(nostack, preserves_flags)) };
                bits
            }

            pub fn write(bits: Bits) {
                // SAFETY: it loads 4 bytes, and there they are; no reserved bit, which would be a fault, is set in the default
                // nor in what was read. What Rust takes for granted is as it was when this crate was called, or is so now.
                unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const bits, options(nostack)) };
            }
        }
    } else if #[cfg(target_arch = "aarch64")] {
        /// FPCR.
        mod register {
            use core::arch::asm;

            pub type Bits = u64;
            /// Round to nearest, keep denormals and NaNs, trap nothing.
            pub const DEFAULT: Bits = 0;
            pub const CONTROL: Bits = !0;

            pub fn read() -> Bits {
                let bits;
                // SAFETY: it writes one register; every program may read FPCR.
                unsafe { asm!("mrs {}, fpcr", out(reg) bits, options(nostack, preserves_flags)) };
                bits
            }

            pub fn write(bits: Bits) {
                // SAFETY: every program may write FPCR. What Rust takes for granted is as it was when this crate was called, or
                // is so now.
                unsafe { asm!("msr fpcr, {}", in(reg) bits, options(nostack)) };
            }
        }
    } else {
        /// None that is known: the default one is expected.
        mod register {
            pub type Bits = u32;
            pub const DEFAULT: Bits = 0;
            pub const CONTROL: Bits = 0;

            pub fn read() -> Bits {
                DEFAULT
            }

            pub fn write(_: Bits) {}
        }
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, resume_unwind};

    #[test]
    fn a_panic_restores_what_was_there() {
        const UP: register::Bits = if cfg!(target_arch = "aarch64") { 1 << 22 } else { 0x5f80 };
        let before = register::read();
        register::write(UP);
        let outcome = catch_unwind(|| in_default(|| resume_unwind(std::boxed::Box::new(register::read()))));
        let after = register::read();
        register::write(before);
        assert_eq!(after, UP);
        let outcome: Result<(), _> = outcome;
        assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&register::DEFAULT));
    }
}
