//! Packed bytes: nothing that is not a convolution is loaded, and what is gives the reference's bits on every ISA.
//!
//! The input is loaded as it is. Then it chooses a convolution, whose packed bytes are changed here and there, in part with
//! checksums that fit, so that what stands behind them is reached. What loads is unpacked by the drawing in
//! `docs/packed-format.md` and given to the reference. The address sanitizer sees an access beyond the bytes.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::{Activation, Isa, Nhwc, NhwcMut, PointwiseConv, Verify};
use pointwise_fuzz::{Aligned, Layer, Values, View, activation, assert_same, check, expected, output_shape};

const HEADER: usize = 128;
const FIELDS: [usize; 15] = [0, 8, 12, 16, 24, 32, 40, 48, 56, 64, 68, 72, 76, 80, 84];

fn packed(u: &mut Unstructured<'_>, values: &mut Values) -> Result<Vec<u8>> {
    let groups = u.int_in_range(1..=3)?;
    let channels = (u.int_in_range(0..=20)?, u.int_in_range(0..=40)?);
    let stride = (u.int_in_range(1..=3)?, u.int_in_range(1..=3)?);
    let activation = activation(u, false)?;
    let layer = Layer::new(u, values, channels, groups, stride, activation)?;
    Ok(layer.builder().build(&layer.weights).expect("it builds").to_packed_bytes())
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
        let borrowed = PointwiseConv::from_packed(Aligned::from_slice(64, bytes), verify);
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

/// `bytes` are those of `conv`.
fn run(conv: &PointwiseConv, bytes: &[u8], u: &mut Unstructured<'_>, values: &mut Values) -> Result<()> {
    let (in_channels, out_channels, groups) = (conv.in_channels(), conv.out_channels(), conv.groups());
    // Bytes limit the product only.
    if in_channels > 4096 || out_channels > 4096 {
        return Ok(());
    }
    let (k, f) = (in_channels / groups, out_channels / groups);
    let panels = f.div_ceil(16);
    let rows: Vec<[f32; 16]> = bytes[HEADER..].chunks_exact(64).map(bytemuck::pod_read_unaligned).collect();
    let channels = || (0..groups).flat_map(|group| (0..f).map(move |f| (group * panels + f / 16, f % 16)));
    let by_channel = |i: usize| -> Vec<f32> {
        channels().map(|(panel, l)| rows[groups * panels * (k + 1) + 3 * panel + i][l]).collect()
    };
    let layer = Layer {
        in_channels,
        out_channels,
        groups,
        stride: conv.stride(),
        weights: channels()
            .flat_map(|(panel, l)| (0..k).map(move |k| (panel, l, k)))
            .map(|(panel, l, i)| rows[panel * (k + 1) + 1 + i][l])
            .collect(),
        bias: Some(channels().map(|(panel, l)| rows[panel * (k + 1)][l]).collect()),
        scale_shift: conv.has_scale_shift().then(|| (by_channel(0), by_channel(1))),
        activation: conv.activation(),
        slopes: (conv.activation() == Activation::Prelu).then(|| by_channel(2)),
        residual: conv.residual_order(),
    };

    let x = View::dense([1, 2, u.int_in_range(1..=20)?, in_channels]);
    let y = View::dense(output_shape(&layer.reference(), x.shape));
    let mut vec = |view: View| values.vec(view.shape.iter().product());
    let (input, residual) = (vec(x), vec(y));
    let before = vec![f32::NAN; residual.len()];
    let expected = expected(&layer.reference(), (x, &input), Some((y, &residual)), y, &before);
    for &isa in Isa::available() {
        let conv = conv.clone().with_isa(isa).expect("the CPU has it");
        let mut actual = before.clone();
        let [input, residual] = [(x, &input), (y, &residual)].map(|(view, data)| Nhwc::new(data, view.shape));
        let output = NhwcMut::new(&mut actual, y.shape).expect("a view");
        conv.run_residual(input.expect("a view"), residual.expect("a view"), output).expect("what loads runs");
        assert_same(&actual, &expected, format_args!("{isa}, {x:?}, {layer:?}"));
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    load(input);
    check(input, |u| {
        let mut values = Values::new(u)?;
        let mut bytes = packed(u, &mut values)?;
        let conv = load(&bytes).expect("what was packed is loaded");
        run(&conv, &bytes, u, &mut values)?;
        change(&mut bytes, u)?;
        load(&bytes).map_or(Ok(()), |conv| run(&conv, &bytes, u, &mut values))
    });
});
