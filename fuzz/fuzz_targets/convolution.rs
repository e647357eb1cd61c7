//! Every ISA that the CPU has against the reference, bit for bit.
//!
//! Slices hold what a view spans and little more: the address sanitizer sees an access beyond them. Canaries stand between
//! output pixels and behind the last one.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::Isa;
use pointwise_fuzz::{CANARY, Layer, Shuffled, Values, View, activation, assert_same, check, output_shape};
use std::ops::RangeInclusive;

/// Sizes `[K, F, n, h, w]`, channels by group. Each kind leads somewhere else.
type Sizes = [RangeInclusive<usize>; 5];
const SMALL: Sizes = [0..=20, 0..=20, 0..=3, 0..=5, 0..=9];
const PIXELS: Sizes = [0..=9, 0..=17, 0..=2, 0..=40, 0..=40];
const CHANNELS: Sizes = [0..=72, 0..=144, 0..=2, 0..=3, 0..=20];
/// The slowest, and so the rarest: more than one block of pixels, or more input (512 KiB) or weights (1 MiB) than caches hold.
const BLOCKS: Sizes = [48..=72, 48..=72, 1..=1, 30..=40, 30..=40];
const INPUT: Sizes = [56..=72, 1..=17, 1..=1, 44..=50, 44..=50];
const WEIGHTS: Sizes = [504..=540, 504..=540, 1..=1, 1..=2, 1..=9];

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let kinds = [SMALL, SMALL, PIXELS, CHANNELS, SMALL, PIXELS, CHANNELS, SMALL, PIXELS, CHANNELS, SMALL];
    let kind = u.int_in_range(0..=35)?;
    let mut sizes = [0; 5];
    for (size, range) in sizes.iter_mut().zip(kinds.get(kind % 12).unwrap_or(&[BLOCKS, INPUT, WEIGHTS][kind / 12])) {
        *size = u.int_in_range(range.clone())?;
    }
    let [in_channels, out_channels, n, h, w] = sizes;
    let large = in_channels * out_channels * n * h * w > 1 << 18;
    let groups = if large { 1 } else { u.int_in_range(1..=4)? };
    let stride = if large { (1, 1) } else { (u.int_in_range(1..=3)?, u.int_in_range(1..=3)?) };
    let (activation, mut values) = (activation(u, true)?, Values::new(u)?);
    let layer = Layer::new(u, &mut values, (in_channels, out_channels), groups, stride, activation)?;
    let x = View::to_read(u, [n, h, w, in_channels * groups])?;
    let y = View::to_write(u, output_shape(&layer.reference(), x.shape))?;
    let residual = if u.arbitrary()? { Some(View::to_read(u, y.shape)?) } else { None };
    // The residual is what the output holds.
    let in_place = residual.is_some() && u.arbitrary()?;
    let (tail, executor) = (u.int_in_range(0..=3)?, Shuffled::new(u)?);

    let mut vec = |view: View| values.vec(view.span().expect("small sizes"));
    let (x_data, residual_data) = (vec(x), residual.map(|view| (view, vec(view))));
    let (input, residual) = (x.read(&x_data), residual_data.as_ref().map(|(view, data)| view.read(data)));
    let mut before = vec![CANARY; y.span().expect("small sizes") + tail];
    if let Some((view, data)) = residual_data.as_ref().filter(|_| in_place) {
        y.scatter(&view.gather(data), &mut before);
    }
    let (mut expected, mut actual) = (before.clone(), before.clone());
    let defined = layer.reference().run(input, residual, y.write(&mut expected));

    for &isa in Isa::available() {
        let conv = match (layer.builder().isa(isa).build(&layer.weights), &defined) {
            (Ok(conv), Ok(())) => conv,
            // A clamp without order, or a parameter that is not finite. The error may hold a NaN and not equal itself.
            (Err(actual), Err(expected)) => {
                assert_eq!(actual.to_string(), expected.to_string());
                continue;
            }
            (built, _) => panic!("{isa}, {layer:?}: expected {defined:?}, got {built:?}"),
        };
        actual.copy_from_slice(&before);
        let output = y.write(&mut actual);
        let ran = match residual {
            Some(_) if in_place => conv.run_accumulate_with(&executor, input, output),
            Some(residual) => conv.run_residual_with(&executor, input, residual, output),
            None => conv.run_with(&executor, input, output),
        };
        assert_eq!(ran, Ok(()), "{isa}, {layer:?}");
        assert_same(&actual, &expected, format_args!("{isa}, {x:?}, {y:?}, {executor:?}, {layer:?}"));
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| check(input, run));
