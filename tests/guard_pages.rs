//! No byte outside the caller's slices is read or written, and none that is only to be read is written: each buffer of a run
//! begins or ends at a page that nobody may touch, and what is read lies in pages that nobody may write.
//!
//! A fault tells the case's seed; `PROPTEST_RNG_SEED` and `PROPTEST_CASES=1` repeat it.
#![cfg(unix)]

mod common;
#[path = "common/random.rs"]
mod random;

use common::{Case, Padding, Shuffled, Tensors, assert_same, isas};
use libc::{PROT_NONE, PROT_READ, PROT_WRITE, c_int};
use memmap2::MmapMut;
use pointwise::{Head, Isa, Nhwc, NhwcMut, PointwiseConv, Verify, run_heads};
use rand::{RngExt, rngs::SmallRng};
use std::{
    cell::Cell,
    io::{self, Write},
    mem,
    os::unix::process::ExitStatusExt,
    slice,
};

/// CI emulates aarch64.
const CASES: u32 = if cfg!(target_arch = "aarch64") { 10_000 } else { 100_000 };

/// The most multiply-adds of a case.
const MOST: usize = 1 << 12;

/// Bytes of a guard, and of the room between two: multiples of any page's size.
const GUARD: usize = 1 << 16;
const ROOM: usize = 1 << 18;

/// The side of the room on which a buffer touches the guard.
#[derive(Clone, Copy)]
enum Side {
    Start,
    End,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Start, Self::End];
}

/// Room for one buffer, between guards.
struct Arena {
    room: *mut u8,
    /// Looked at through `room` only, for most of it is not to be read.
    _map: MmapMut,
}

impl Arena {
    fn new() -> Self {
        let mut map = MmapMut::map_anon(GUARD + ROOM + GUARD).expect("a mapping");
        let [start, room, end] = [0, GUARD, GUARD + ROOM].map(|at| map.as_mut_ptr().wrapping_add(at));
        protect(start, GUARD, PROT_NONE);
        protect(end, GUARD, PROT_NONE);
        Self { room, _map: map }
    }

    /// Room for so many values, to be written.
    fn slice_mut<T: bytemuck::Pod>(&mut self, len: usize, side: Side) -> &mut [T] {
        let bytes = len * size_of::<T>();
        assert!(bytes <= ROOM, "a case of {bytes} bytes");
        protect(self.room, ROOM, PROT_READ | PROT_WRITE);
        let start = match side {
            Side::Start => self.room,
            Side::End => self.room.wrapping_add(ROOM - bytes),
        };
        // SAFETY: these bytes lie in the room, which is mapped as long as `self` lives and borrowed as long as the slice does;
        // they may be read and written, whatever they hold is a `T`, and both ends of the room are multiples of a page.
        unsafe { slice::from_raw_parts_mut(start.cast(), len) }
    }

    /// These values, to be read.
    fn slice<T: bytemuck::Pod>(&mut self, values: &[T], side: Side) -> &[T] {
        let room = self.room;
        let slice = self.slice_mut(values.len(), side);
        slice.copy_from_slice(values);
        protect(room, ROOM, PROT_READ);
        slice
    }
}

fn protect(start: *mut u8, len: usize, protection: c_int) {
    // SAFETY: all callers name a guard or the room of an arena, to which there is no reference that this would break.
    let result = unsafe { libc::mprotect(start.cast(), len, protection) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

const NAMES: [&str; 10] =
    ["input", "weights", "bias", "scale", "shift", "slopes", "residual", "packed bytes", "output", "second output"];

/// One for each buffer of [`NAMES`].
struct Arenas([Arena; NAMES.len()]);

/// The buffers of a case.
struct Buffers<'a> {
    tensors: Tensors<&'a [f32]>,
    packed: &'a [u8],
    outputs: [&'a mut [f32]; 2],
}

impl Arenas {
    fn new() -> Self {
        Self([(); NAMES.len()].map(|()| Arena::new()))
    }

    fn place(&mut self, case: &Case, tensors: &Tensors, packed: &[u8], sides: [Side; NAMES.len()]) -> Buffers<'_> {
        let [x, weights, bias, scale, shift, slopes, residual, bytes, output, second] = &mut self.0;
        let mut sides = sides.into_iter();
        let mut side = || sides.next().expect("one for each");
        Buffers {
            tensors: Tensors {
                x: x.slice(&tensors.x, side()),
                weights: weights.slice(&tensors.weights, side()),
                bias: bias.slice(&tensors.bias, side()),
                scale: scale.slice(&tensors.scale, side()),
                shift: shift.slice(&tensors.shift, side()),
                slopes: slopes.slice(&tensors.slopes, side()),
                residual: residual.slice(&tensors.residual, side()),
            },
            packed: bytes.slice(packed, side()),
            outputs: [output, second].map(|output| output.slice_mut(case.output_len(), side())),
        }
    }

    /// Every ISA gives the reference's bits.
    fn check(&mut self, case: Case) {
        // What stands in front of a view would stand between it and the guard.
        let case = Case { padding: case.padding.map(|padding| Padding { front: 0, ..padding }), ..case };
        let tensors = case.tensors();
        let expected = &case.reference(&tensors)[..case.output_len()];
        let packed = case.build(&tensors, Isa::Scalar).expect("the case builds").to_packed_bytes();
        let mut rng = common::rng(case.seed);
        let sides = sides(&mut rng);
        let as_heads = rng.random_ratio(1, 4);

        let Buffers { tensors, packed, outputs: [y, second] } = self.place(&case, &tensors, &packed, sides);
        // SAFETY: the bytes are mapped until the thread ends, and not written before the next case, when all convolutions of
        // this one are gone.
        let packed = unsafe { mem::transmute::<&[u8], &'static [u8]>(packed) };
        let executor = Shuffled { threads: case.threads, seed: case.seed };
        for &isa in Isa::available() {
            RUNNING.set(Some((case.seed, isa)));
            let built = case.build(&tensors, isa).expect("the case builds");
            let loaded = PointwiseConv::from_packed(packed, Verify::All).expect("it loads");
            let loaded = loaded.with_isa(isa).expect("the CPU has it");
            for conv in [&built, &loaded] {
                case.with_views_in(y, &tensors, |x, residual, y| case.run_views(conv, &executor, x, residual, y));
                assert_same(y, expected, format_args!("{isa}, {case:?}"));
            }
            if as_heads {
                case.with_views_in(y, &tensors, |x, residual, y| {
                    case.with_views_in(second, &tensors, |_, _, second| {
                        run_heads(
                            &executor,
                            x,
                            &mut [head(&case, &built, residual, y), head(&case, &loaded, residual, second)],
                        )
                    });
                    Ok(())
                });
                for y in [&y, &second] {
                    assert_same(y, expected, format_args!("{isa}, as heads, {case:?}"));
                }
            }
        }
        RUNNING.set(None);
    }
}

/// A head that does what the case does.
fn head<'a>(case: &Case, conv: &'a PointwiseConv, residual: Option<Nhwc<'a>>, y: NhwcMut<'a>) -> Head<'a> {
    match residual {
        Some(_) if case.in_place => Head::new(conv, y).accumulate(),
        Some(residual) => Head::new(conv, y).residual(residual),
        None => Head::new(conv, y),
    }
}

/// All at one side, or each at its own.
fn sides(rng: &mut SmallRng) -> [Side; NAMES.len()] {
    let all = rng.random_bool(0.5).then(|| rng.random());
    [(); NAMES.len()].map(|()| Side::BOTH[usize::from(all.unwrap_or_else(|| rng.random::<bool>()))])
}

thread_local! {
    /// The seed and ISA of the case that this thread runs.
    static RUNNING: Cell<Option<(u64, Isa)>> = const { Cell::new(None) };
}

/// Has a fault say what it was about before it ends the process.
fn catch_faults() {
    extern "C" fn last_words(_signal: c_int) {
        // What a handler may do: it allocates nothing and takes no lock.
        let mut line = [0; 200];
        let mut rest = &mut line[..];
        let _ = match RUNNING.get() {
            Some((seed, isa)) => writeln!(rest, "memory fault: {isa}, the case of PROPTEST_RNG_SEED={seed}"),
            None => writeln!(rest, "memory fault outside the cases"),
        };
        let len = 200 - rest.len();
        // SAFETY: as many bytes of the line. It may fail.
        unsafe { libc::write(2, line.as_ptr().cast(), len) };
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: all zeros are a valid `sigaction`, whose handler does only what a handler may. The instruction that has
        // faulted is repeated, and without a handler, for it is reset, ends the process.
        let result = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = last_words as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

/// How [`child`] touches a buffer.
const TOUCHES: [&str; 3] = ["reads in front of", "reads behind", "writes to"];

/// What the child processes of the test below do; by itself it passes.
#[test]
fn child() {
    let Ok(touch) = std::env::var("POINTWISE_TEST_TOUCH") else { return };
    let touch: usize = touch.parse().expect("a number");
    let (buffer, touch) = (touch / TOUCHES.len(), touch % TOUCHES.len());
    catch_faults();
    let case = Case { input: [1, 1, 3, 5], out_channels: 7, residual: true, ..Case::default() };
    let mut arenas = Arenas::new();
    let side = if touch == 0 { Side::Start } else { Side::End };
    let (tensors, packed) = (case.tensors(), case.build(&case.tensors(), Isa::Scalar).unwrap().to_packed_bytes());
    let Buffers { tensors: t, packed, outputs: [y, second] } =
        arenas.place(&case, &tensors, &packed, [side; NAMES.len()]);
    let values = [t.x, t.weights, t.bias, t.scale, t.shift, t.slopes, t.residual, y, second].map(bytemuck::cast_slice);
    let mut buffers: Vec<&[u8]> = values.to_vec();
    buffers.insert(7, packed);
    let bytes = buffers[buffer].as_ptr_range();
    println!("child: {} the {}", TOUCHES[touch], NAMES[buffer]);
    // SAFETY: there is none: each of them is what must not be done, and ends the process.
    unsafe {
        match touch {
            0 => drop(bytes.start.wrapping_sub(1).read_volatile()),
            1 => drop(bytes.end.read_volatile()),
            _ => bytes.start.cast_mut().write_volatile(0),
        }
    }
    println!("child: lives");
}

/// The guards of each buffer, and its pages' being read-only, are there: who does not keep to them dies.
#[test]
fn whoever_touches_a_guard_dies() {
    for (buffer, name) in NAMES.iter().enumerate() {
        // Outputs are there to be written.
        let touches = if name.ends_with("output") { 2 } else { 3 };
        for (touch, touches) in TOUCHES.iter().enumerate().take(touches) {
            let number = (buffer * TOUCHES.len() + touch).to_string();
            let output = common::child("child").env("POINTWISE_TEST_TOUCH", number).output();
            let output = output.expect("the test's own file runs");
            let (says, dies) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(says.contains(&format!("child: {touches} the {name}\n")), "{says}{dies}");
            assert!(dies.contains("memory fault outside the cases"), "{says}{dies}");
            let signal = output.status.signal();
            assert!([Some(libc::SIGSEGV), Some(libc::SIGBUS)].contains(&signal), "{signal:?} {says}{dies}");
        }
    }
}

#[test]
fn no_byte_outside_the_buffers_is_touched() {
    catch_faults();
    let isas = isas();
    let (cases, seed) = random::check_cases(CASES, MOST, || {
        let mut arenas = Arenas::new();
        move |case| arenas.check(case)
    });
    for isa in isas {
        println!("{isa}: {cases} cases, 0 faults, seed {seed}");
    }
}
