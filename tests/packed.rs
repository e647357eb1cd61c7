//! Convolutions as bytes and files: what was built and what was loaded give the same bits, and nothing else is loaded.

mod common;

use common::{Case, Values, activations::ALL, assert_same, fill, isas, rng};
use memmap2::Mmap;
use pointwise::{Activation, Error, Isa, Nhwc, NhwcMut, PointwiseConv, ResidualOrder, Verify, reference::Reference};
use rand::RngExt;
use std::{
    fs::File,
    io::Write,
    panic::{RefUnwindSafe, UnwindSafe},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Bytes at an address that is `offset` more than a multiple of 64.
struct At {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl At {
    fn new(offset: usize, bytes: &[u8]) -> Self {
        let mut memory = vec![0; bytes.len() + 128];
        let start = memory.as_ptr().addr().next_multiple_of(64) - memory.as_ptr().addr() + offset;
        memory[start..][..bytes.len()].copy_from_slice(bytes);
        Self { memory, start, len: bytes.len() }
    }
}

impl AsRef<[u8]> for At {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }
}

fn random_case(seed: u64) -> Case {
    let mut rng = rng(seed);
    let groups = rng.random_range(1..=3);
    let activation = rng.random_range(0..=ALL.len());
    Case {
        input: [rng.random_range(1..=2), 3, rng.random_range(1..=9), groups * rng.random_range(0..=70)],
        out_channels: groups * rng.random_range(0..=70),
        groups,
        stride: (rng.random_range(1..=2), rng.random_range(1..=2)),
        bias: rng.random(),
        scale_shift: rng.random(),
        residual: rng.random(),
        residual_order: if rng.random() { ResidualOrder::AfterActivation } else { ResidualOrder::BeforeActivation },
        activation: ALL.get(activation).copied().unwrap_or(Activation::Prelu),
        values: if rng.random() { Values::AnyBits } else { Values::Ordinary },
        seed,
        ..Case::default()
    }
}

#[test]
fn what_is_loaded_gives_the_bits_of_what_was_built() {
    let isas = isas();
    for seed in 0..400 {
        let case = random_case(seed);
        let tensors = case.tensors();
        let expected = case.reference(&tensors);
        let built = case.build(&tensors, Isa::Scalar).unwrap();
        let bytes = built.to_packed_bytes();
        assert_eq!((bytes.len(), bytes.len() % 64), (built.packed_len(), 0));
        for &isa in isas {
            let same = case.build(&tensors, isa).unwrap().to_packed_bytes();
            assert!(bytes == same, "{isa} packs other bytes: {case:?}");
            let loaded = [
                PointwiseConv::from_packed(At::new(0, &bytes), Verify::All),
                PointwiseConv::from_packed(At::new(0, &bytes), Verify::Header),
                PointwiseConv::from_packed_copy(&bytes, Verify::All),
            ];
            for loaded in loaded {
                let loaded = loaded.unwrap().with_isa(isa).unwrap();
                assert_eq!((loaded.in_channels(), loaded.out_channels()), (built.in_channels(), built.out_channels()));
                assert_eq!((loaded.groups(), loaded.stride()), (built.groups(), built.stride()));
                assert_eq!(loaded.activation(), built.activation());
                assert_eq!(loaded.residual_order(), built.residual_order());
                assert_eq!(loaded.has_scale_shift(), built.has_scale_shift());
                assert!(loaded.to_packed_bytes() == bytes, "{case:?}");
                let y = case.with_views(&tensors, |x, residual, y| match residual {
                    Some(residual) => loaded.run_residual(x, residual, y),
                    None => loaded.run(x, y),
                });
                assert_same(&y, &expected, format_args!("{isa}, {case:?}"));
            }
        }
    }
}

/// A convolution with all there is, of about 2 KB.
fn small() -> Vec<u8> {
    let case = Case {
        input: [1, 1, 1, 10],
        out_channels: 38,
        groups: 2,
        scale_shift: true,
        activation: Activation::Clamp { min: -1.0, max: 2.0 },
        ..Case::default()
    };
    case.build(&case.tensors(), Isa::Scalar).unwrap().to_packed_bytes()
}

#[track_caller]
fn refused(bytes: &[u8], verify: Verify) -> Error {
    let copied = PointwiseConv::from_packed_copy(bytes, verify).unwrap_err();
    let borrowed = PointwiseConv::from_packed(At::new(0, bytes), verify).unwrap_err();
    // Not the errors: a NaN in them does not equal itself.
    assert_eq!(copied.to_string(), borrowed.to_string());
    copied
}

#[test]
fn flipped_bits_are_detected() {
    let bytes = small();
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if bit < 8 * 128 {
            refused(&flipped, Verify::Header);
        } else if bit % 7 == 0 {
            let error = refused(&flipped, Verify::All);
            assert!(matches!(error, Error::PackedBits { what: "checksum of the weights", .. }), "{error}");
            assert!(PointwiseConv::from_packed_copy(&flipped, Verify::Header).is_ok());
        }
    }
}

#[test]
fn other_lengths_are_refused() {
    let bytes = small();
    for len in 0..bytes.len() {
        let error = refused(&bytes[..len], Verify::Header);
        assert!(matches!(error, Error::Packed { actual, .. } if actual == len as u64), "{len}: {error}");
    }
    for more in [1, 64, 128] {
        refused(&[&bytes, &vec![0; more][..]].concat(), Verify::All);
    }
}

/// Writes a field, and the header's checksum, so that it is the field that is looked at.
fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
    let checksum = crc32fast::hash(&bytes[..124]);
    bytes[124..128].copy_from_slice(&checksum.to_ne_bytes());
}

#[test]
fn wrong_fields_are_told() {
    let bytes = small();
    assert_eq!(bytes.len(), 128 + 64 * (2 * 2 * (1 + 5) + 3 * 2 * 2));
    let told = |at: usize, field: &[u8]| {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, field);
        refused(&wrong, Verify::All).to_string()
    };
    let int = |at, value: u32| told(at, &value.to_ne_bytes());
    let long = |at, value: u64| told(at, &value.to_ne_bytes());
    let float = |at, value: f32| told(at, &value.to_ne_bytes());
    assert_eq!(
        told(0, b"\x89PNG\r\n\x1a\n"),
        "packed: expected magic number 0x895057430d0a1a0a, got 0x89504e470d0a1a0a"
    );
    assert_eq!(int(8, 0x0403_0201), "packed: expected byte order mark 0x1020304, got 0x4030201");
    assert_eq!(int(12, 2), "packed: expected format version 1, got 2");
    assert_eq!(long(16, 64), "packed: expected length 64, got 2432");
    assert_eq!(long(16, u64::MAX), format!("packed: expected length {}, got 2432", u64::MAX));
    assert_eq!(long(24, 12), "packed: expected length for these channels 2688, got 2432");
    assert_eq!(long(32, 66), "packed: expected length for these channels 3584, got 2432");
    assert_eq!(long(24, 11), "groups: expected a divisor of 11 input and 38 output channels, got 2");
    assert_eq!(long(40, 0), "groups: expected a divisor of 10 input and 38 output channels, got 0");
    assert_eq!(long(48, 0), "stride: expected at least (1, 1), got (0, 1)");
    assert_eq!(long(56, 0), "stride: expected at least (1, 1), got (1, 0)");
    assert_eq!(int(64, 14), "packed: expected activation up to 13, got 14");
    assert_eq!(float(68, f32::NAN), "clamp: expected min <= max, got min NaN and max 2");
    assert_eq!(float(68, 3.0), "clamp: expected min <= max, got min 3 and max 2");
    assert_eq!(int(76, 2), "packed: expected residual order up to 1, got 2");
    assert_eq!(int(80, 2), "packed: expected scale and shift up to 1, got 2");
    assert_eq!(int(80, 0), "packed: expected length for these channels 1664, got 2432");
    for unused in 84..120 {
        assert_eq!(told(unused, &[7]), "packed: expected unused byte of the header 0x0, got 0x7");
    }
    // Parameters that the activation does not have, an order that makes no difference.
    assert!(int(64, 1).contains("unused byte"));
    let mut identity = bytes.clone();
    put(&mut identity, 64, &[0; 12]);
    assert!(PointwiseConv::from_packed_copy(&identity, Verify::All).is_ok());
    put(&mut identity, 76, &1u32.to_ne_bytes());
    assert!(refused(&identity, Verify::All).to_string().contains("unused byte"));
    for (activation, name) in [(6u32, "alpha"), (8, "beta"), (11, "alpha")] {
        let mut infinite = bytes.clone();
        put(&mut infinite, 64, &activation.to_ne_bytes());
        put(&mut infinite, 68, &f32::INFINITY.to_ne_bytes());
        put(&mut infinite, 72, &[0; 4]);
        assert_eq!(refused(&infinite, Verify::All).to_string(), format!("{name}: expected a finite number, got inf"));
    }
    // Sizes whose product is more than memory holds, or more than a number.
    for [k, f, groups] in [[u64::MAX, 0, 1], [u64::MAX / 2, 2, 1], [1 << 40, 1 << 40, 1 << 20], [0, u64::MAX - 15, 1]] {
        let mut absurd = bytes.clone();
        for (i, size) in [k, f, groups].into_iter().enumerate() {
            put(&mut absurd, 24 + 8 * i, &size.to_ne_bytes());
        }
        let error = refused(&absurd, Verify::All);
        assert!(matches!(error, Error::OutOfMemory { .. } | Error::Packed { .. }), "{error}");
    }
}

#[test]
fn bytes_between_multiples_of_64_are_copied_or_refused() {
    let bytes = small();
    for offset in [1, 4, 16, 32] {
        let error = PointwiseConv::from_packed(At::new(offset, &bytes), Verify::All).unwrap_err();
        assert!(error.to_string().starts_with("packed: expected an address divisible by 64, got "), "{error}");
        assert!(PointwiseConv::from_packed_copy(At::new(offset, &bytes).as_ref(), Verify::All).is_ok());
    }
}

/// Counts how often it is asked for its bytes, and its end.
struct Counted(At, Arc<[AtomicUsize; 2]>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        // Only the first time the right ones.
        let calls = self.1[0].fetch_add(1, Ordering::Relaxed);
        if calls == 0 { self.0.as_ref() } else { &[] }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1[1].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_owner_is_asked_once_and_lives_as_long_as_the_last_clone() {
    let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let count = || [0, 1].map(|i| counts[i].load(Ordering::Relaxed));
    let bytes = small();
    let conv = PointwiseConv::from_packed(Counted(At::new(0, &bytes), counts.clone()), Verify::All).unwrap();
    let clone = conv.clone();
    let clone = std::thread::spawn(move || {
        drop(conv);
        clone
    });
    let clone = clone.join().unwrap();
    assert_eq!(clone.to_packed_bytes(), bytes);
    assert_eq!(count(), [1, 0]);
    drop(clone);
    assert_eq!(count(), [1, 1]);
    // And ends where loading fails.
    assert!(PointwiseConv::from_packed(Counted(At::new(1, &bytes), counts.clone()), Verify::All).is_err());
    assert_eq!(count(), [2, 2]);
}

#[test]
fn a_convolution_may_go_anywhere() {
    fn anywhere<T: Clone + Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}
    anywhere::<PointwiseConv>();
}

/// As in the message of a failed assertion.
#[test]
fn a_convolution_is_shown_without_its_weights() {
    let text = format!("{:?}", PointwiseConv::builder(64, 64).build(&[0.125; 4096]).unwrap());
    assert!(text.contains("260 rows at 0x") && !text.contains("0.125"), "{text}");
}

#[repr(align(64))]
struct Aligned<T>(T);

/// A file of the format's first version. It stays readable.
static GOLDEN: &Aligned<[u8; 2432]> = &Aligned(*include_bytes!("packed.bin"));

/// Weights, bias, scale, shift, slopes, input and residual of the golden file's convolution.
fn golden_values() -> [Vec<f32>; 7] {
    let lengths = [38 * 5, 38, 38, 38, 38, 2 * 7 * 10, 2 * 4 * 38];
    lengths.map(|len| (0..len).map(|i| (i * 7 % 31) as f32 * 0.125 - 1.75).collect())
}

fn golden() -> PointwiseConv {
    let [weights, bias, scale, shift, slopes, ..] = &golden_values();
    PointwiseConv::builder(10, 38)
        .groups(2)
        .stride(1, 2)
        .bias(bias)
        .scale_shift(scale, shift)
        .activation(Activation::Prelu)
        .slopes(slopes)
        .residual_order(ResidualOrder::AfterActivation)
        .build(weights)
        .unwrap()
}

/// `cargo test --test packed -- --ignored`, for a new version of the format: then keep this file and add another.
#[test]
#[ignore = "writes tests/packed.bin"]
fn write_the_golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packed.bin");
    golden().write_packed(File::create(path).unwrap()).unwrap();
}

/// On machines of its byte order, as all that are tested are.
#[test]
fn the_golden_file_is_read_and_written_on_every_isa() {
    let [weights, bias, scale, shift, slopes, x, residual] = &golden_values();
    let (input, output) = ([1, 2, 7, 10], [1, 2, 4, 38]);
    let (x, residual) = (Nhwc::new(x, input).unwrap(), Nhwc::new(residual, output).unwrap());
    let mut expected = vec![0.0; output.iter().product()];
    let reference = Reference {
        out_channels: 38,
        stride: (1, 2),
        groups: 2,
        weights,
        bias: Some(bias),
        scale_shift: Some((scale, shift)),
        activation: Activation::Prelu,
        slopes: Some(slopes),
        residual: ResidualOrder::AfterActivation,
    };
    reference.run(x, Some(residual), NhwcMut::new(&mut expected, output).unwrap()).unwrap();
    // The bits as they were when the file was written.
    assert_eq!(crc32fast::hash(bytemuck::cast_slice(&expected)), 0xdfe7_6685);
    assert!(golden().to_packed_bytes() == GOLDEN.0);
    for &isa in isas() {
        let conv = PointwiseConv::from_packed(GOLDEN.0.as_slice(), Verify::All).unwrap().with_isa(isa).unwrap();
        let mut y = vec![0.0; expected.len()];
        conv.run_residual(x, residual, NhwcMut::new(&mut y, output).unwrap()).unwrap();
        assert_same(&y, &expected, isa);
    }
}

/// A file that is gone when the test is over, also where it fails.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id())))
    }

    fn map(&self) -> Mmap {
        // SAFETY: nobody else knows the file, and it is not written any more.
        unsafe { Mmap::map(&File::open(&self.0).unwrap()) }.unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_mapped_file_runs_where_it_is() {
    let (k, f) = (64, 100);
    let weights = fill(k * f, Values::Ordinary, &mut rng(1));
    let x = fill(k, Values::Ordinary, &mut rng(2));
    let built = PointwiseConv::builder(k, f).build(&weights).unwrap();
    // Two layers in a file, the second behind the first.
    let file = Temporary::new("two");
    let mut writer = File::create(&file.0).unwrap();
    writer.write_all(&small()).unwrap();
    built.write_packed(writer).unwrap();
    struct Second(Arc<Mmap>);
    impl AsRef<[u8]> for Second {
        fn as_ref(&self) -> &[u8] {
            &self.0[small().len()..]
        }
    }
    let second = Second(Arc::new(file.map()));
    let mapped = PointwiseConv::from_packed(second, Verify::All).unwrap();
    let run = |conv: &PointwiseConv| {
        let mut y = vec![0.0; f];
        conv.run(Nhwc::new(&x, [1, 1, 1, k]).unwrap(), NhwcMut::new(&mut y, [1, 1, 1, f]).unwrap()).unwrap();
        y
    };
    assert_same(&run(&mapped), &run(&built), "mapped");
}

#[test]
fn a_large_file_is_loaded_at_once() {
    // The header of a small convolution with the sizes of a large one, and a hole of zeros: nothing is written.
    let channels = 5120u64;
    let length = 128 + (1 + channels) * channels * 4;
    let mut header = PointwiseConv::builder(1, 1).build(&[0.0]).unwrap().to_packed_bytes()[..128].to_vec();
    put(&mut header, 16, &length.to_ne_bytes());
    put(&mut header, 24, &channels.to_ne_bytes());
    put(&mut header, 32, &channels.to_ne_bytes());
    let file = Temporary::new("large");
    let mut writer = File::create(&file.0).unwrap();
    writer.write_all(&header).unwrap();
    writer.set_len(length).unwrap();
    drop(writer);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let conv = PointwiseConv::from_packed(file.map(), Verify::Header).unwrap();
            let time = start.elapsed();
            assert_eq!(conv.packed_len() as u64, length);
            time
        })
        .collect();
    times.sort();
    println!("{} MB mapped and loaded in {:?}, at most {:?}", length / 1_000_000, times[2], times[4]);
    assert!(times[0] < Duration::from_millis(100), "{times:?}");

    let conv = PointwiseConv::from_packed(file.map(), Verify::Header).unwrap();
    let (x, mut y) = (vec![1.0; channels as usize], vec![1.0; channels as usize]);
    let shape = [1, 1, 1, channels as usize];
    conv.run(Nhwc::new(&x, shape).unwrap(), NhwcMut::new(&mut y, shape).unwrap()).unwrap();
    assert!(y.iter().all(|y| *y == 0.0));
}
