//! Views of any shape and strides: constructors and runs refuse what the model refuses, and in its words. What they take
//! they read and write where the model says, and nowhere else.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::{Error, Isa, Nhwc, NhwcMut, Shape};
use pointwise_fuzz::{
    CANARY, Layer, Shuffled, Values, View, activation, assert_same, check, expected, number, output_shape,
};
use std::collections::HashSet;

fn shape(u: &mut Unstructured<'_>, channels: usize) -> Result<Shape> {
    let any = u.int_in_range(0..=7)? == 7;
    let mut size = || if any { number(u) } else { u.choose(&[1, 1, 2, 2, 3, 4, 5, 9, 0]).copied() };
    Ok([size()?, size()?, size()?, channels])
}

/// That shape, or nearly.
fn like(u: &mut Unstructured<'_>, mut shape: Shape) -> Result<Shape> {
    if u.int_in_range(0..=15)? == 15 {
        shape[u.choose_index(4)?] = number(u)?;
    }
    Ok(shape)
}

fn view(u: &mut Unstructured<'_>, shape: Shape) -> Result<View> {
    let large = shape.iter().any(|size| *size > 100);
    let kind = u.int_in_range(0..=9)?;
    if kind > 2 && !large {
        return if kind == 3 { View::to_read(u, shape) } else { View::to_write(u, shape) };
    }
    let mut strides = [0; 3];
    for (stride, size) in strides.iter_mut().zip(shape) {
        *stride = match kind {
            0 => u.int_in_range(0..=20)?,
            1 => number(u)?,
            // About as much as memory can hold.
            2 => (isize::MAX as usize / 4 / size.max(2)).saturating_add(u.int_in_range(0..=40)?).saturating_sub(20),
            _ if size > 100 => 0,
            _ => u.int_in_range(0..=40)?,
        };
    }
    Ok(View { shape, strides })
}

/// As many values as the view spans, or some more, or too few.
fn data(u: &mut Unstructured<'_>, values: &mut Values, view: View) -> Result<Vec<f32>> {
    let span = view.span().ok().filter(|span| *span <= 1 << 17).unwrap_or(u.int_in_range(0..=99)?);
    let len = match u.int_in_range(0..=15)? {
        0 => span.saturating_sub(1),
        more @ 1..=4 => span + more,
        _ => span,
    };
    Ok(values.vec(len))
}

/// The view, if the model has one too.
fn read(view: View, data: &[f32]) -> Option<Nhwc<'_>> {
    let dense = View::dense(view.shape);
    let expected = dense.span().and_then(|expected| match data.len() {
        actual if actual == expected => Ok((dense.shape, dense.strides)),
        actual => Err(Error::Length { what: "view", expected, actual }),
    });
    assert_eq!(Nhwc::new(data, view.shape).map(|view| (view.shape(), view.strides())), expected);
    assert_eq!(NhwcMut::new(&mut data.to_vec(), view.shape).map(|view| (view.shape(), view.strides())), expected);

    let expected = view.check_length(data.len()).map(|()| (view.shape, view.strides));
    let result = Nhwc::with_strides(data, view.shape, view.strides);
    assert_eq!(result.as_ref().map(|view| (view.shape(), view.strides())), expected.as_ref().copied());
    result.ok()
}

/// As [`read`].
fn write(view: View, data: &mut [f32]) -> Option<NhwcMut<'_>> {
    let expected = view.check_length(data.len()).and_then(|()| view.check_apart());
    let count = view.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    if view.check_length(data.len()).is_ok() && count.is_some_and(|count| count <= 1 << 13) {
        // The model against no model at all.
        let mut seen = HashSet::new();
        let apart = view.pixels().flat_map(|pixel| view.range(pixel)).all(|value| seen.insert(value));
        assert!(apart || expected.is_err(), "{view:?}: pixels share a value");
    }
    let result = NhwcMut::with_strides(data, view.shape, view.strides);
    assert_eq!(
        result.as_ref().map(|view| (view.shape(), view.strides())),
        expected.as_ref().map(|()| (view.shape, view.strides))
    );
    result.ok()
}

/// Inside and outside.
fn pixel(u: &mut Unstructured<'_>, view: View) -> Result<([usize; 3], bool)> {
    let mut pixel = [0; 3];
    for (i, size) in pixel.iter_mut().zip(view.shape) {
        *i = match u.int_in_range(0..=9)? {
            0 => number(u)?,
            1 => size,
            _ => u.int_in_range(0..=size.saturating_sub(1))?,
        };
    }
    Ok((pixel, pixel.iter().zip(view.shape).all(|(i, size)| *i < size)))
}

fn pixels(u: &mut Unstructured<'_>, view: View, values: &[f32], x: Nhwc<'_>) -> Result<()> {
    for _ in 0..4 {
        let ([n, h, w], inside) = pixel(u, view)?;
        let expected = inside.then(|| values[view.range([n, h, w])].as_ptr_range());
        assert_eq!(x.pixel(n, h, w).map(|pixel| pixel.len()), inside.then_some(view.shape[3]));
        assert!(view.shape[3] == 0 || x.pixel(n, h, w).map(<[f32]>::as_ptr_range) == expected);
    }
    Ok(())
}

/// Numbers, written through the two parts of a view that is split.
fn split(u: &mut Unstructured<'_>, view: View, before: &[f32]) -> Result<()> {
    let [n, h, w, channels] = view.shape;
    let at = if u.int_in_range(0..=7)? == 7 { number(u)? } else { u.int_in_range(0..=channels)? };
    let mut data = before.to_vec();
    let y = view.write(&mut data);
    let (mut first, mut rest) = match y.split_channels(at) {
        Ok(parts) => parts,
        Err(error) => {
            assert_eq!(error, Error::Split { channels, at });
            assert!(at > channels);
            return Ok(());
        }
    };
    assert_eq!((first.shape(), rest.shape()), ([n, h, w, at], [n, h, w, channels - at]));
    assert_eq!((first.strides(), rest.strides()), (view.strides, view.strides));
    let numbers: Vec<f32> = (0..view.pixels().count() * channels).map(|i| i as f32).collect();
    for ([n, h, w], numbers) in view.pixels().zip(numbers.chunks_exact(channels.max(1))) {
        rest.pixel_mut(n, h, w).expect("a pixel").copy_from_slice(&numbers[at..]);
        first.pixel_mut(n, h, w).expect("a pixel").copy_from_slice(&numbers[..at]);
    }
    for _ in 0..4 {
        let ([n, h, w], inside) = pixel(u, view)?;
        assert_eq!(first.pixel_mut(n, h, w).map(|pixel| pixel.len()), inside.then_some(at));
        assert_eq!(rest.reborrow().pixel_mut(n, h, w).map(|pixel| pixel.len()), inside.then_some(channels - at));
    }
    let mut expected = before.to_vec();
    view.scatter(&numbers, &mut expected);
    assert_same(&data, &expected, format_args!("{view:?} split at {at}"));
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let stride = |u: &mut Unstructured<'_>| match u.int_in_range(0..=7)? {
        7 => Ok(number(u)?.max(1)),
        other => Ok(1 + other % 3),
    };
    let (stride, channels) = ((stride(u)?, stride(u)?), (u.int_in_range(0..=20)?, u.int_in_range(0..=20)?));
    let (activation, mut values) = (activation(u, false)?, Values::new(u)?);
    let layer = Layer::new(u, &mut values, channels, 1, stride, activation)?;
    let input = shape(u, layer.in_channels)?;
    let output = output_shape(&layer.reference(), input);
    let [input, residual, output] = [like(u, input)?, like(u, output)?, like(u, output)?];
    let (x, residual, y) = (view(u, input)?, view(u, residual)?, view(u, output)?);
    let (x_data, residual_data) = (data(u, &mut values, x)?, data(u, &mut values, residual)?);
    let before = vec![CANARY; data(u, &mut values, y)?.len()];
    let kind = u.int_in_range(0..=2)?;
    let executor = Shuffled::new(u)?;

    let mut actual = before.clone();
    let views = (read(x, &x_data), read(residual, &residual_data), write(y, &mut actual).map(|_| ()));
    if let Some(input) = views.0 {
        pixels(u, x, &x_data, input)?;
    }
    if views.2.is_some() {
        split(u, y, &before)?;
    }
    let (Some(input), Some(added), Some(())) = views else { return Ok(()) };

    let output = output_shape(&layer.reference(), x.shape);
    let shape =
        |what, actual| if actual == output { Ok(()) } else { Err(Error::Shape { what, expected: output, actual }) };
    let channels =
        |expected, actual| if actual == expected { Ok(()) } else { Err(Error::Channels { expected, actual }) };
    let valid = channels(layer.in_channels, x.shape[3])
        .and_then(|()| shape("output", y.shape))
        .and_then(|()| if kind == 1 { shape("residual", residual.shape) } else { Ok(()) });
    let residual = match kind {
        0 => None,
        1 => Some((residual, &residual_data[..])),
        _ => Some((y, &before[..])),
    };
    let expected =
        if valid.is_ok() { expected(&layer.reference(), (x, &x_data), residual, y, &before) } else { before.clone() };
    for &isa in Isa::available() {
        let conv = layer.builder().isa(isa).build(&layer.weights).expect("it builds");
        let output = y.write(&mut actual);
        let ran = match kind {
            0 => conv.run_with(&executor, input, output),
            1 => conv.run_residual_with(&executor, input, added, output),
            _ => conv.run_accumulate_with(&executor, input, output),
        };
        assert_eq!(ran, valid, "{isa}, {x:?}, {y:?}");
        assert_same(&actual, &expected, format_args!("{isa}, {x:?}, {residual:?}, {y:?}, {layer:?}"));
        actual.copy_from_slice(&before);
    }
    // The reference goes pixel by pixel, also where they have no channels.
    if valid.is_ok() && !y.is_empty() && kind < 2 {
        layer.reference().run(input, residual.map(|_| added), y.write(&mut actual)).expect("the reference runs");
        assert_same(&actual, &expected, format_args!("reference, {x:?}, {residual:?}, {y:?}, {layer:?}"));
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| check(input, run));
