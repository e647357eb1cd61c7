//! How fast cores read a buffer over and over, measured: from the smallest cache that holds it, or from memory.
//!
//! The loops are those of `peak.rs` with loads in place of multiply-adds, as wide as the ISA's vectors. They go back to
//! the buffer's start without a branch, which would be mispredicted once a pass: in L1 that is a tenth of it.

use crate::peak::at_once;
use pointwise::Isa;
use std::{fs, ptr, time::Instant};

/// What a step of a loop reads.
#[derive(Clone)]
#[repr(align(64))]
struct Block([f32; 128]);

/// At least so many steps are timed: 16 MiB.
const STEPS: usize = 1 << 15;

/// All threads' GB/s, the best of five runs; each reads its own part of so many bytes. NaN for an ISA that has no loop
/// here.
///
/// # Panics
/// Where the CPU has not the ISA.
pub fn gigabytes_per_second(isa: Isa, bytes: usize, threads: usize) -> f64 {
    assert!(Isa::available().contains(&isa), "{isa}: not on this CPU");
    at_once(threads, || {
        // Not zeros, for which an operating system has one page that stands for all.
        let buffer = vec![Block([1.0; 128]); bytes.div_ceil(threads * size_of::<Block>())];
        let steps = buffer.len().max(STEPS);
        move || {
            let start = Instant::now();
            match isa {
                Isa::Scalar => scalar(&buffer, steps),
                // SAFETY: the CPU has the ISA, by the assertion above.
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => unsafe { neon(&buffer, steps) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2(&buffer, steps) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => unsafe { avx512(&buffer, steps) },
                _ => return f64::NAN,
            }
            (steps * size_of::<Block>()) as f64 / start.elapsed().as_secs_f64() / 1e9
        }
    })
}

/// The name and bandwidth of each cache and of memory. A roof is the best that a level gives: what is read is half of
/// the first cache, and of each other level twice what the one before it holds; of memory four times as much as the
/// last cache, or 1 GiB. Linux tells the sizes; where it does not, there are no levels.
pub fn levels(isa: Isa, threads: usize) -> Vec<(String, f64)> {
    let caches: Vec<_> = (0..).map_while(|index| cache(index, threads)).flatten().collect();
    let mut sets = vec![];
    for (i, (level, bytes)) in caches.iter().enumerate() {
        let set = if i == 0 { bytes / 2 } else { (2 * caches[i - 1].1).min(*bytes) };
        sets.push((format!("L{level}"), set));
    }
    sets.extend(caches.last().map(|(_, bytes)| ("memory".to_owned(), (4 * bytes).min(1 << 30))));
    sets.into_iter().map(|(name, set)| (name, gigabytes_per_second(isa, set, threads))).collect()
}

/// Level and bytes, for so many threads, of the first CPU's cache of that index; `Some(None)` for one of instructions.
fn cache(index: usize, threads: usize) -> Option<Option<(u32, usize)>> {
    let read = |name| fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}")).ok();
    if read("type")?.trim() == "Instruction" {
        return Some(None);
    }
    let kib: usize = read("size")?.trim().strip_suffix('K')?.parse().ok()?;
    // Those CPUs are bits of hexadecimal numbers, with commas between them.
    let sharing =
        read("shared_cpu_map")?.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum::<u32>().max(1);
    Some(Some((read("level")?.trim().parse().ok()?, (kib << 10) * threads.div_ceil(sharing as usize))))
}

fn scalar(buffer: &[Block], steps: usize) {
    for value in buffer.iter().cycle().take(steps).flat_map(|block| &block.0) {
        // SAFETY: a reference. Volatile: a load of its own for each value.
        unsafe { ptr::read_volatile(value) };
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_loads {
    ($(#[$doc:meta])* $name:ident, $register:literal, $bytes:literal, $loads:literal) => {
        $(#[$doc])*
        unsafe fn $name(buffer: &[Block], steps: usize) {
            assert!(!buffer.is_empty() && steps > 0);
            // SAFETY: the CPU has the instructions, by this function's contract; a step reads a block of the buffer,
            // which has one; all registers written are declared: the vector registers are among those that a call of
            // this ABI may change.
            unsafe {
                std::arch::asm!(
                    "2:",
                    concat!(".irp i, ", $loads),
                    concat!("vmovaps ", $register, "\\i, [{buffer} + rdx + ", $bytes, " * \\i]"),
                    ".endr",
                    "add rdx, 512",
                    "cmp rdx, {end}",
                    "cmove rdx, {start}",
                    "dec rcx",
                    "jnz 2b",
                    "vzeroupper",
                    buffer = in(reg) buffer.as_ptr(),
                    inout("rdx") 0usize => _,
                    start = in(reg) 0usize,
                    end = in(reg) size_of_val(buffer),
                    inout("rcx") steps => _,
                    clobber_abi("sysv64"),
                    options(readonly, nostack),
                );
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
x86_loads!(
    /// # Safety
    /// The CPU has AVX.
    avx2,
    "ymm",
    "32",
    "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15"
);
#[cfg(target_arch = "x86_64")]
x86_loads!(
    /// # Safety
    /// The CPU has AVX-512 F.
    avx512,
    "zmm",
    "64",
    "0, 1, 2, 3, 4, 5, 6, 7"
);

/// # Safety
/// The CPU has NEON.
#[cfg(target_arch = "aarch64")]
unsafe fn neon(buffer: &[Block], steps: usize) {
    assert!(!buffer.is_empty() && steps > 0);
    // SAFETY: the CPU has NEON, by this function's contract; a step reads a block of the buffer, which has one; all
    // registers written are declared: v16 and v17 are among those that a call of the C ABI may change.
    unsafe {
        std::arch::asm!(
            "2:",
            "add x0, {buffer}, x1",
            ".irp i, 0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 480",
            "ldp q16, q17, [x0, #\\i]",
            ".endr",
            "add x1, x1, #512",
            "cmp x1, {end}",
            "csel x1, xzr, x1, eq",
            "subs x2, x2, #1",
            "b.ne 2b",
            buffer = in(reg) buffer.as_ptr(),
            out("x0") _,
            inout("x1") 0usize => _,
            end = in(reg) size_of_val(buffer),
            inout("x2") steps => _,
            clobber_abi("C"),
            options(readonly, nostack),
        );
    }
}
