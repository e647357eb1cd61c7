//! Packed bytes: nothing that is not a convolution is loaded, and what is gives the reference's bits on every ISA.
//!
//! The input is loaded as it is. Then its first bytes choose a convolution, whose packed bytes are changed here and there,
//! in part with checksums that fit, so that what stands behind them is reached. What loads is unpacked by the drawing in
//! `docs/packed-format.md` and given to the reference. The address sanitizer sees an access beyond the bytes.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::{Activation, Isa, Nhwc, NhwcMut, PointwiseConv, ResidualOrder, Verify, reference::Reference};

const HEADER: usize = 128;
const FIELDS: [usize; 15] = [0, 8, 12, 16, 24, 32, 40, 48, 56, 64, 68, 72, 76, 80, 84];

/// Knuth's linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Some of any bits, the others ordinary numbers.
    fn values(&mut self, len: usize) -> Vec<f32> {
        let value =
            |bits: u32| if bits % 16 == 0 { f32::from_bits(bits) } else { bits as i32 as f32 / (1u32 << 31) as f32 };
        (0..len).map(|_| value(self.next())).collect()
    }
}

/// At a multiple of 64, with nothing behind it.
#[repr(align(64))]
#[allow(dead_code, reason = "its bytes are read by a pointer")]
struct Line([u8; 64]);

struct Aligned(Vec<Line>, usize);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let line = |chunk: &[u8]| Line(std::array::from_fn(|i| chunk.get(i).copied().unwrap_or_default()));
        Self(bytes.chunks(64).map(line).collect(), bytes.len())
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as many bytes as the lines were made of, and lines have no padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.1) }
    }
}

fn activation(u: &mut Unstructured<'_>) -> Result<Activation> {
    let mut value = || Ok(f32::from(u.arbitrary::<i8>()?) / 32.0);
    let (a, b) = (value()?, value()?);
    Ok(match u.int_in_range(0..=14)? {
        0 => Activation::Identity,
        1 => Activation::Relu,
        2 => Activation::Clamp { min: a.min(b), max: a.max(b) },
        3 => Activation::Sigmoid,
        4 => Activation::Tanh,
        5 => Activation::Prelu,
        6 => Activation::HardSigmoid { alpha: a, beta: b },
        7 => Activation::HardSwish,
        8 => Activation::Swish { beta: a },
        9 => Activation::Gelu,
        10 => Activation::GeluTanh,
        11 => Activation::Elu { alpha: a },
        12 => Activation::Softplus,
        13 => Activation::Mish,
        _ => Activation::LeakyRelu { slope: a },
    })
}

fn packed(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let groups = u.int_in_range(1..=3)?;
    let (k, f) = (u.int_in_range(0..=20)?, u.int_in_range(0..=40)?);
    let (activation, mut random) = (activation(u)?, Random(u.arbitrary()?));
    let mut values = |len| random.values(len);
    let all = groups * f;
    let (weights, bias, scale, shift, slopes) = (values(all * k), values(all), values(all), values(all), values(all));
    let order = *u.choose(&[ResidualOrder::BeforeActivation, ResidualOrder::AfterActivation])?;
    let mut builder = PointwiseConv::builder(groups * k, groups * f)
        .groups(groups)
        .stride(u.int_in_range(1..=3)?, u.int_in_range(1..=3)?)
        .residual_order(order)
        .bias(&bias)
        .activation(activation);
    if activation == Activation::Prelu {
        builder = builder.slopes(&slopes);
    }
    if u.arbitrary()? {
        builder = builder.scale_shift(&scale, &shift);
    }
    Ok(builder.build(&weights).expect("it builds").to_packed_bytes())
}

fn change(bytes: &mut Vec<u8>, u: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..u.int_in_range(0..=3)? {
        let field = *u.choose(&FIELDS)?;
        match u.int_in_range(0..=5)? {
            0 => bytes.truncate(u.choose_index(bytes.len() + 1)?),
            1 => bytes.resize(bytes.len() + u.int_in_range(1..=200)?, u.arbitrary()?),
            2 if !bytes.is_empty() => {
                let at = u.choose_index(bytes.len())?;
                bytes[at] = u.arbitrary()?;
            }
            3 if bytes.len() >= HEADER => bytes[field..][..4].copy_from_slice(&u.arbitrary::<[u8; 4]>()?),
            4 if bytes.len() >= HEADER => bytes[field] = u.arbitrary()?,
            5 if bytes.len() >= HEADER => {
                let len = (bytes.len() as u64).to_ne_bytes();
                bytes[16..24].copy_from_slice(&len);
            }
            _ => {}
        }
    }
    if bytes.len() >= HEADER {
        if u.arbitrary()? {
            let rows = crc32fast::hash(&bytes[HEADER..]);
            bytes[120..124].copy_from_slice(&rows.to_ne_bytes());
        }
        if u.ratio(7, 8)? {
            let header = crc32fast::hash(&bytes[..HEADER - 4]);
            bytes[HEADER - 4..HEADER].copy_from_slice(&header.to_ne_bytes());
        }
    }
    Ok(())
}

/// However bytes are loaded, it comes to the same.
fn load(bytes: &[u8]) -> Option<PointwiseConv> {
    let [all, header] = [Verify::All, Verify::Header].map(|verify| {
        let borrowed = PointwiseConv::from_packed(Aligned::new(bytes), verify);
        let copied = PointwiseConv::from_packed_copy(bytes, verify);
        match (borrowed, copied) {
            (Ok(borrowed), Ok(copied)) => {
                assert_eq!(borrowed.to_packed_bytes(), copied.to_packed_bytes());
                Some(borrowed)
            }
            (Err(borrowed), Err(copied)) => {
                assert_eq!(borrowed.to_string(), copied.to_string());
                None
            }
            (borrowed, copied) => panic!("{borrowed:?}, but {copied:?}"),
        }
    });
    if let Some(conv) = &all {
        assert!(header.is_some());
        assert_eq!(conv.to_packed_bytes(), bytes);
    }
    // Rows may be damaged: what they are is what is computed.
    header
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// `bytes` are those of `conv`.
fn check(conv: &PointwiseConv, bytes: &[u8], random: &mut Random) {
    let (all_k, all_f, groups) = (conv.in_channels(), conv.out_channels(), conv.groups());
    // Bytes limit the product only.
    if all_k > 4096 || all_f > 4096 {
        return;
    }
    let (k, f) = (all_k / groups, all_f / groups);
    let panels = f.div_ceil(16);
    let rows: Vec<[f32; 16]> = bytes[HEADER..].chunks_exact(64).map(bytemuck::pod_read_unaligned).collect();
    let channels = || (0..groups).flat_map(|group| (0..f).map(move |f| (group * panels + f / 16, f % 16)));
    let weights: Vec<f32> = channels()
        .flat_map(|(panel, l)| (0..k).map(move |k| (panel, l, k)))
        .map(|(panel, l, i)| rows[panel * (k + 1) + 1 + i][l])
        .collect();
    let bias: Vec<f32> = channels().map(|(panel, l)| rows[panel * (k + 1)][l]).collect();
    let by_channel = |i: usize| -> Vec<f32> {
        channels().map(|(panel, l)| rows[groups * panels * (k + 1) + 3 * panel + i][l]).collect()
    };
    let prelu = conv.activation() == Activation::Prelu;
    let slopes = if prelu { by_channel(2) } else { vec![] };
    let (scale, shift) = if conv.has_scale_shift() { (by_channel(0), by_channel(1)) } else { (vec![], vec![]) };
    let reference = Reference {
        out_channels: all_f,
        stride: conv.stride(),
        groups,
        weights: &weights,
        bias: Some(&bias),
        scale_shift: conv.has_scale_shift().then_some((&scale, &shift)),
        activation: conv.activation(),
        slopes: prelu.then_some(&slopes),
        residual: conv.residual_order(),
    };

    let input = [1, 2, 1 + random.next() as usize % 20, all_k];
    let output = conv.output_shape(input).expect("the channels are the convolution's");
    let x = random.values(input.iter().product());
    let residual = random.values(output.iter().product());
    let (x, residual) = (Nhwc::new(&x, input).expect("a view"), Nhwc::new(&residual, output).expect("a view"));
    let mut expected = vec![0.0; output.iter().product()];
    reference
        .run(x, Some(residual), NhwcMut::new(&mut expected, output).expect("a view"))
        .expect("the reference runs what loads");
    for &isa in Isa::available() {
        let conv = conv.clone().with_isa(isa).expect("the CPU has it");
        let mut actual = vec![f32::NAN; expected.len()];
        conv.run_residual(x, residual, NhwcMut::new(&mut actual, output).expect("a view")).expect("what loads runs");
        for (i, (&actual, &expected)) in actual.iter().zip(&expected).enumerate() {
            assert!(same(actual, expected), "{isa}, {reference:?}, value {i}: expected {expected:?}, got {actual:?}");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    load(input);
    // libFuzzer starts with inputs of four bytes, and takes long to grow them.
    let mut random = Random(input.iter().fold(0, |seed, byte| Random(seed ^ u64::from(*byte)).next().into()));
    let more = std::iter::repeat_with(|| random.next() as u8).take(128usize.saturating_sub(input.len()));
    let bytes: Vec<u8> = input.iter().copied().chain(more).collect();
    let mut u = Unstructured::new(&bytes);
    let Ok(mut bytes) = packed(&mut u) else { return };
    let conv = load(&bytes).expect("what was packed is loaded");
    check(&conv, &bytes, &mut random);
    if change(&mut bytes, &mut u).is_ok()
        && let Some(conv) = load(&bytes)
    {
        check(&conv, &bytes, &mut random);
    }
});
