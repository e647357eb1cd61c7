//! The C interface as C calls it, in any sequence, with pointers right and wrong: the status is the model's, what is
//! computed are the reference's bits, and a failure writes nothing. All memory is as long as it must be: the address
//! sanitizer sees an access beyond it, or of what was only lent.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::{
    Isa, PointwiseConv, ResidualOrder, Serial, Verify,
    capi::{pw_status::*, *},
};
use pointwise_fuzz::{Aligned, Layer, Values, View, activation_of, assert_same, check, expected, number, output_shape};
use std::{
    collections::HashSet,
    ffi::{CStr, c_char, c_void},
    mem::{MaybeUninit, offset_of},
    ops::Range,
    ptr::{self, null, null_mut},
    slice,
};

const ISAS: [Option<Isa>; 5] = [None, Some(Isa::Scalar), Some(Isa::Avx2), Some(Isa::Avx512), Some(Isa::Neon)];

/// One mistake of so many kinds, now and then.
fn mistake(u: &mut Unstructured<'_>, kinds: usize) -> Result<Option<usize>> {
    if u.int_in_range(0..=2)? == 2 { u.choose_index(kinds).map(Some) } else { Ok(None) }
}

/// A failure has words, and a status that the model knows of.
fn assert_status(actual: pw_status, expected: pw_status, what: impl std::fmt::Debug) {
    // SAFETY: a string that lives until the next call.
    let words = unsafe { CStr::from_ptr(pw_last_error()) }.to_str().expect("UTF-8");
    assert_eq!(actual, expected, "{words}: {what:?}");
    assert!(actual == PW_OK || !words.is_empty());
}

fn holds<T>(pointer: *const T, len: usize) -> bool {
    len == 0 || !pointer.is_null() && pointer.is_aligned() && len <= isize::MAX as usize / size_of::<T>()
}

fn misaligned<T>(pointer: *const T) -> *const T {
    pointer.wrapping_byte_add(2)
}

fn apart(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.is_empty() || b.is_empty() || a.end <= b.start || b.end <= a.start
}

/// Structs that grow, in as much memory as their size says; those structs as this version sees them; and whether all is
/// right. The fields behind `least` are words.
fn growing<T>(u: &mut Unstructured<'_>, values: &[T], least: usize) -> Result<(Aligned, Vec<T>, bool)> {
    let known = size_of::<T>();
    let size = match u.int_in_range(0..=15)? {
        0 => number(u)?,
        1 => least + 8 * u.int_in_range(0..=(known - least) / 8)?,
        2 => known + u.int_in_range(0..=40)?,
        _ => known,
    };
    let mut right = (least..=4096).contains(&size) && size.is_multiple_of(align_of::<T>());
    let each = if right { size } else { known };
    let mut bytes = Aligned::from_iter(64, std::iter::repeat_n(0, each * values.len()));
    let mut seen = vec![];
    for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(each)) {
        let len = each.min(known);
        let mut as_seen = MaybeUninit::<T>::zeroed();
        // SAFETY: as long as the type, which has no padding.
        let all = unsafe { slice::from_raw_parts((&raw const *value).cast::<u8>(), known) };
        bytes[..len].copy_from_slice(&all[..len]);
        bytes[..8].copy_from_slice(&size.to_ne_bytes());
        // SAFETY: no more bytes than either has; zeros are a value of each field.
        seen.push(unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), as_seen.as_mut_ptr().cast(), len);
            as_seen.assume_init()
        });
    }
    if right && size > known && !bytes.is_empty() && u.arbitrary()? {
        bytes[u.int_in_range(known..=size - 1)?] = 1;
        right = false;
    }
    Ok((bytes, seen, right))
}

/// A convolution that C made. `memory` is what it was loaded of.
struct Conv {
    handle: *mut pw_conv,
    layer: Layer,
    /// A `pw_isa`.
    isa: i32,
    _memory: Option<Aligned>,
}

impl Drop for Conv {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used again.
        unsafe { pw_conv_destroy(self.handle) }
    }
}

struct Pool(*mut pw_pool);

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: as above, or null.
        unsafe { pw_pool_destroy(self.0) }
    }
}

unsafe extern "C" fn backwards(context: *mut c_void, tasks: usize, task: pw_task, task_context: *mut c_void) {
    assert!(context.is_null());
    // SAFETY: every task once, with its context.
    (0..tasks).rev().for_each(|i| unsafe { task(task_context, i) });
}

fn pool(u: &mut Unstructured<'_>) -> Result<Pool> {
    let mut pool = ptr::dangling_mut();
    let place = if u.int_in_range(0..=31)? == 31 { null_mut() } else { &raw mut pool };
    let (status, right) = match u.int_in_range(0..=15)? {
        0 => {
            let threads = if u.arbitrary()? { u.int_in_range(0..=3)? } else { 4097 + number(u)? / 2 };
            // SAFETY: null or room for a pointer.
            (unsafe { pw_pool_create(threads, place) }, (1..=4096).contains(&threads))
        }
        1..=7 => {
            let run = if u.int_in_range(0..=15)? == 15 { None } else { Some(backwards as _) };
            let threads = u.int_in_range(0..=4)?;
            let work_per_thread = *u.choose(&[0, 1, 10, 99])?;
            let executor = pw_executor { struct_size: 0, threads, run, context: null_mut(), work_per_thread };
            let (bytes, seen, right) = growing(u, &[executor], size_of::<pw_executor>())?;
            let executor: *const pw_executor =
                if u.int_in_range(0..=15)? == 15 { null() } else { bytes.as_ptr().cast() };
            let right = right && !executor.is_null() && seen[0].threads > 0 && seen[0].run.is_some();
            // SAFETY: null or as the types say.
            (unsafe { pw_pool_create_with(executor, place) }, right)
        }
        _ => return Ok(Pool(null_mut())),
    };
    assert_status(status, self::status(right && !place.is_null(), 0, false), "pool");
    if place.is_null() {
        return Ok(Pool(null_mut()));
    }
    assert_eq!(pool.is_null(), status != PW_OK);
    Ok(Pool(pool))
}

/// The model's status.
fn status(right: bool, isa: i32, too_large: bool) -> pw_status {
    let isa = ISAS.get(isa as usize).copied().flatten();
    match right {
        false => PW_INVALID_ARGUMENT,
        true if isa.is_some_and(|isa| !Isa::available().contains(&isa)) => PW_UNAVAILABLE,
        true if too_large => PW_OUT_OF_RESOURCES,
        true => PW_OK,
    }
}

fn create(u: &mut Unstructured<'_>, values: &mut Values) -> Result<Option<Conv>> {
    let mut parameter = || match u.int_in_range(0..=31)? {
        31 => u.choose(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]).copied(),
        other => Ok(other as f32 / 8.0),
    };
    let (param_a, more) = (parameter()?, parameter()?);
    let param_b = if u.int_in_range(0..=7)? == 7 { more } else { param_a + more };
    let code = u.int_in_range(0..=14)?;
    let activation = activation_of(code, [param_a, param_b]).expect("a value of the enum");
    let (groups, stride) = (u.int_in_range(1..=2)?, (u.int_in_range(1..=2)?, u.int_in_range(1..=2)?));
    let channels = (*u.choose(&[0, 1, 3, 8])?, *u.choose(&[0, 1, 4, 7, 16, 17, 24, 40])?);
    // Lent for the call only.
    let lent = Layer::new(u, values, channels, groups, stride, activation)?;
    let (mut layer, others) = (lent.clone(), values.vec(lent.out_channels));

    let pointer = |values: Option<&Vec<f32>>| values.map_or(null(), |values| values.as_ptr());
    let default = u.arbitrary()?;
    let or_default = |value: usize| if default && value == 1 { 0 } else { value };
    let mut desc = pw_conv_desc {
        struct_size: 0,
        in_channels: lent.in_channels,
        out_channels: lent.out_channels,
        groups: or_default(groups),
        stride_h: or_default(stride.0),
        stride_w: or_default(stride.1),
        activation: code,
        param_a,
        param_b,
        isa: u.int_in_range(0..=3)?,
        scale: pointer(lent.scale_shift.as_ref().map(|(scale, _)| scale)),
        shift: pointer(lent.scale_shift.as_ref().map(|(_, shift)| shift)),
        slopes: pointer(lent.slopes.as_ref()),
        flags: (lent.residual == ResidualOrder::AfterActivation).into(),
    };
    let (mut weights, mut bias) = (lent.weights.as_ptr(), pointer(lent.bias.as_ref()));
    let (mut without_desc, mut handle) = (false, ptr::dangling_mut());
    let mut place = &raw mut handle;
    match mistake(u, 16)? {
        Some(0) => without_desc = true,
        Some(1) => weights = null(),
        Some(2) => weights = misaligned(weights),
        Some(3) => bias = misaligned(bias),
        Some(4) => place = null_mut(),
        Some(5) => desc.activation = u.int_in_range(-1..=16)?,
        Some(6) => desc.isa = u.int_in_range(-1..=6)?,
        Some(7) => desc.flags = number(u)?,
        // More groups have fewer weights.
        Some(8) => desc.groups = groups.saturating_mul(number(u)?.max(1)),
        Some(9) => desc.scale = null(),
        Some(10) => desc.shift = misaligned(desc.shift),
        Some(11) => desc.slopes = if desc.slopes.is_null() { others.as_ptr() } else { null() },
        Some(12) => desc.isa = 4,
        Some(13) => desc.in_channels = usize::MAX - u.int_in_range(0..=1)?,
        Some(14) => desc.out_channels = usize::MAX - u.int_in_range(0..=1)?,
        Some(_) => desc.slopes = misaligned(desc.slopes),
        None => {}
    }
    let (bytes, seen, mut right) = growing(u, &[desc], offset_of!(pw_conv_desc, scale))?;
    // SAFETY: each pointer is null, misaligned, or to as many values as are read.
    let created = unsafe {
        let desc = if without_desc { null() } else { bytes.as_ptr().cast() };
        pw_conv_f32_create(desc, weights, bias, place)
    };

    let desc = seen[0];
    let (k, f, groups) = (desc.in_channels, desc.out_channels, desc.groups.max(1));
    let optional = |pointer: *const f32| pointer.is_null() || holds(pointer, f);
    right &= !without_desc && !place.is_null();
    right &= (0..15).contains(&desc.activation) && (0..5).contains(&desc.isa) && desc.flags < 2;
    right &= k.is_multiple_of(groups) && f.is_multiple_of(groups);
    right &= [bias, desc.scale, desc.shift, desc.slopes].into_iter().all(optional);
    right &= desc.scale.is_null() == desc.shift.is_null();
    right &= holds(weights, (k / groups).saturating_mul(f));
    right &= match desc.activation {
        2 => desc.param_a <= desc.param_b,
        5 | 9 | 12 => desc.param_a.is_finite(),
        7 => desc.param_a.is_finite() && desc.param_b.is_finite(),
        _ => true,
    };
    right &= f == 0 || desc.slopes.is_null() == (desc.activation != 6);
    assert_status(created, status(right, desc.isa, f > 1 << 20 || k / groups == usize::MAX), (desc, weights, bias));
    assert!(place.is_null() || handle.is_null() == (created != PW_OK));
    if created != PW_OK {
        return Ok(None);
    }
    // What it was told, where that was a mistake that makes sense, or to a version that knew less.
    layer.activation = activation_of(desc.activation, [desc.param_a, desc.param_b]).expect("checked");
    layer.slopes = layer.slopes.or(Some(others)).filter(|_| !desc.slopes.is_null());
    layer.scale_shift = layer.scale_shift.filter(|_| !desc.scale.is_null());
    layer.residual = [ResidualOrder::BeforeActivation, ResidualOrder::AfterActivation][desc.flags];
    layer.weights.truncate(k / groups * f);
    (layer.in_channels, layer.groups) = (k, groups);
    let conv = Conv { handle, layer, isa: desc.isa, _memory: None };
    // There is no such input.
    Ok(Some(conv).filter(|_| k < 1 << 20))
}

/// A view as C has it.
fn describe(u: &mut Unstructured<'_>, view: View, data: *mut f32) -> Result<pw_nhwc_f32> {
    let (dense, [n, h, w, c]) = (u.arbitrary()?, view.shape);
    let [batch_stride, row_stride, pixel_stride] = if dense { [0; 3] } else { view.strides };
    Ok(pw_nhwc_f32 { data, n, h, w, c, batch_stride, row_stride, pixel_stride })
}

/// And what it is.
fn view(described: &pw_nhwc_f32) -> View {
    let &pw_nhwc_f32 { n, h, w, c, batch_stride, row_stride, pixel_stride, .. } = described;
    let or = |stride, dense| if stride == 0 { dense } else { stride };
    let pixel = or(pixel_stride, c);
    let row = or(row_stride, w.saturating_mul(pixel));
    View { shape: [n, h, w, c], strides: [or(batch_stride, h.saturating_mul(row)), row, pixel] }
}

/// Its memory, if there can be any. Where that were much, the tensor is a dense one.
fn memory(values: &mut Values, described: &mut pw_nhwc_f32) -> Vec<f32> {
    if view(described).span().is_ok_and(|span| span > 1 << 18) {
        (described.batch_stride, described.row_stride, described.pixel_stride) = (0, 0, 0);
    }
    let mut memory = values.vec(view(described).span().unwrap_or_default());
    described.data = memory.as_mut_ptr();
    memory
}

fn is_held(described: &pw_nhwc_f32) -> bool {
    view(described).span().is_ok_and(|span| holds(described.data, span))
}

fn addresses(described: &pw_nhwc_f32) -> Range<usize> {
    let span = view(described).span().unwrap_or_default();
    described.data.addr()..described.data.addr() + 4 * span
}

/// A convolution of a run.
struct Head<'a> {
    conv: &'a Conv,
    output: pw_nhwc_f32,
    /// Which memory the output is in, and where it starts there.
    memory: usize,
    start: usize,
    residual: Option<pw_nhwc_f32>,
    residual_memory: Vec<f32>,
}

impl Head<'_> {
    fn is_in_place(&self) -> bool {
        self.residual.is_some_and(|other| other.data == self.output.data && view(&other) == view(&self.output))
    }

    /// Alone.
    fn is_right(&self, x: &pw_nhwc_f32) -> bool {
        let shape = output_shape(&self.conv.layer.reference(), view(x).shape);
        let is_apart = |other: &pw_nhwc_f32| apart(&addresses(&self.output), &addresses(other));
        is_held(&self.output)
            && view(&self.output).check_apart().is_ok()
            && view(&self.output).shape == shape
            && x.c == self.conv.layer.in_channels
            && is_apart(x)
            && self.residual.is_none_or(|residual| {
                is_held(&residual) && view(&residual).shape == shape && (self.is_in_place() || is_apart(&residual))
            })
    }

    /// Whether this output may be beside another head.
    fn is_right_beside(&self, other: &Self) -> bool {
        let [a, b] = [&self.output, &other.output];
        let (first, second) = if a.data < b.data { (view(a), view(b)) } else { (view(b), view(a)) };
        let distance = a.data.addr().abs_diff(b.data.addr()) / 4;
        let [n, h, w, channels] = second.shape;
        let wide = View { shape: [n, h, w, distance.saturating_add(channels)], ..second };
        let channels_of_one = first.strides == second.strides
            && first.shape[..3] == second.shape[..3]
            && distance >= first.shape[3]
            && wide.check_apart().is_ok();
        let right = apart(&addresses(a), &addresses(b)) || channels_of_one;
        if right {
            // The model against no model at all.
            let values = |output: &pw_nhwc_f32| {
                let (view, data) = (view(output), output.data.addr());
                view.pixels()
                    .flat_map(move |pixel| view.range(pixel))
                    .map(move |i| data + 4 * i)
                    .collect::<HashSet<_>>()
            };
            assert!(values(a).is_disjoint(&values(b)));
        }
        let residual = other.residual.filter(|_| !other.is_in_place());
        right && residual.is_none_or(|residual| apart(&addresses(a), &addresses(&residual)))
    }
}

fn run(u: &mut Unstructured<'_>, values: &mut Values, convs: &[Conv], pool: &Pool) -> Result<()> {
    let in_channels = u.choose(convs)?.layer.in_channels;
    let convs: Vec<&Conv> = convs.iter().filter(|conv| conv.layer.in_channels == in_channels).collect();
    let wrong = mistake(u, 15)?;
    let shape = [u.int_in_range(0..=2)?, u.int_in_range(0..=3)?, u.int_in_range(0..=12)?, in_channels];
    let mut input = View::to_read(u, shape)?;
    match wrong {
        Some(0) => input.shape[u.choose_index(4)?] += 1,
        Some(1) => input.strides[u.choose_index(3)?] = number(u)?,
        _ => {}
    }
    let mut x = describe(u, input, null_mut())?;
    let x_memory = memory(values, &mut x);

    let (count, beside) = (u.int_in_range(0..=3)?, u.arbitrary()?);
    let (mut heads, mut memories): (Vec<Head<'_>>, Vec<Vec<f32>>) = (vec![], vec![]);
    let chosen = (0..count).map(|_| u.choose(&convs).copied()).collect::<Result<Vec<_>>>()?;
    let shapes: Vec<_> = chosen.iter().map(|conv| output_shape(&conv.layer.reference(), shape)).collect();
    let mut wide = None;
    if beside
        && let Some(&[n, h, w, _]) = shapes.first()
        && shapes.iter().all(|shape| shape[..3] == [n, h, w])
    {
        let view = View::to_write(u, [n, h, w, shapes.iter().map(|shape| shape[3]).sum()])?;
        memories.push(values.vec(view.span().expect("small sizes")));
        wide = Some((view, 0usize));
    }
    for (conv, shape) in chosen.into_iter().zip(shapes) {
        let mut place = View::to_write(u, shape)?;
        match wrong {
            Some(2) => place.shape[u.choose_index(4)?] += 1,
            Some(3) => place.strides[u.choose_index(3)?] = number(u)?,
            _ => {}
        }
        let mut output = describe(u, place, null_mut())?;
        let mut head_memory = (memories.len(), 0);
        if let Some((view, start)) = &mut wide {
            // One value too early, and it shares values with its neighbour.
            let at = if wrong == Some(4) { start.saturating_sub(1) } else { *start };
            let [batch_stride, row_stride, pixel_stride] = view.strides;
            let [n, h, w, c] = shape;
            let data = memories[0].as_mut_ptr().wrapping_add(at);
            output = pw_nhwc_f32 { data, n, h, w, c, batch_stride, row_stride, pixel_stride };
            head_memory = (0, at.min(memories[0].len()));
            *start += c;
        } else {
            memories.push(memory(values, &mut output));
        }
        let (mut residual, mut residual_memory) = (None, vec![]);
        match u.int_in_range(0..=2)? {
            0 => residual = Some(output),
            1 => {
                let mut view = View::to_read(u, shape)?;
                if wrong == Some(5) {
                    view.shape[u.choose_index(4)?] += 1;
                }
                let mut described = describe(u, view, null_mut())?;
                residual_memory = memory(values, &mut described);
                residual = Some(described);
            }
            _ => {}
        }
        heads.push(Head { conv, output, memory: head_memory.0, start: head_memory.1, residual, residual_memory });
    }
    // What is not read but by a library that does not look, may lie anywhere.
    let mut pool = pool.0.cast_const();
    let (mut without_input, mut without_heads, mut without) = (false, false, [false; 2]);
    if let Some(head) = heads.first_mut() {
        let output = head.output;
        let shares =
            !addresses(&output).is_empty() && !view(&x).is_empty() && x_memory.len() <= memories[head.memory].len();
        match wrong {
            Some(6) => x.data = null_mut(),
            Some(7) => head.output.data = misaligned(output.data).cast_mut(),
            Some(8) if shares => x.data = output.data,
            Some(9) => {
                head.residual =
                    head.residual.map(|other| pw_nhwc_f32 { data: misaligned(other.data).cast_mut(), ..other })
            }
            Some(10) => head.residual = Some(pw_nhwc_f32 { n: 1, h: 1, w: 1, c: 1, ..output }),
            Some(11) => without_input = true,
            Some(12) => without = [true, false],
            Some(13) => without = [false, true],
            Some(14) => without_heads = true,
            _ => {}
        }
    }
    if wrong == Some(4) && u.arbitrary()? {
        pool = misaligned(if pool.is_null() { ptr::dangling() } else { pool });
    }

    let one = heads.len() == 1 && u.arbitrary()?;
    let described: Vec<pw_head> = heads
        .iter()
        .map(|head| pw_head {
            struct_size: 0,
            conv: if without[0] { null() } else { head.conv.handle },
            residual: head.residual.as_ref().map_or(null(), |residual| residual),
            output: if without[1] { null() } else { &head.output },
        })
        .collect();
    let (bytes, _, sized) = growing(u, &described, size_of::<pw_head>())?;
    let before = memories.clone();
    let x_pointer: *const pw_nhwc_f32 = if without_input { null() } else { &x };
    let bytes_pointer = if without_heads { null() } else { bytes.as_ptr().cast() };
    // SAFETY: each pointer is null, misaligned, or to what its type says; where data is shorter than the model's span,
    // the call fails before it is read.
    let ran = unsafe {
        match &described[..] {
            [head] if one => pw_conv_f32_run(head.conv, x_pointer, head.residual, head.output, pool),
            _ => pw_heads_f32_run(x_pointer, bytes_pointer, heads.len(), pool),
        }
    };

    let right = !without_input
        && is_held(&x)
        && pool.is_aligned()
        && (one || heads.is_empty() || sized && !without_heads)
        && without == [false; 2]
        && heads.iter().all(|head| head.is_right(&x))
        && (0..heads.len()).all(|i| (0..heads.len()).all(|j| i == j || heads[i].is_right_beside(&heads[j])));
    let layers: Vec<_> = heads.iter().map(|head| (head.output, head.residual, &head.conv.layer)).collect();
    assert_status(ran, status(right, 0, false), (wrong, x, &layers));
    let mut after = before;
    if right {
        for head in &heads {
            let memory = &mut after[head.memory][head.start..];
            let residual = head.residual.map(|residual| {
                (view(&residual), if head.is_in_place() { &memory[..] } else { &head.residual_memory[..] })
            });
            let reference = head.conv.layer.reference();
            let new = expected(&reference, (view(&x), &x_memory), residual, view(&head.output), memory);
            memory.copy_from_slice(&new);
        }
    }
    for (actual, expected) in memories.iter().zip(&after) {
        assert_same(actual, expected, format_args!("{x:?}, {layers:?}"));
    }
    Ok(())
}

/// What is asked of a convolution.
fn ask(u: &mut Unstructured<'_>, conv: &Conv) -> Result<()> {
    let mut size = || if u.arbitrary()? { number(u) } else { u.int_in_range(0..=9) };
    let shape = Box::new([size()?, size()?, size()?, conv.layer.in_channels]);
    let wrong = mistake(u, 6)?;
    let handle = if wrong == Some(0) { null() } else { conv.handle.cast_const() };
    let mut input = shape.as_ptr();
    match wrong {
        Some(1) => input = null(),
        Some(2) => input = misaligned(input),
        _ => {}
    }
    let mut output = Box::new([7; 4]);
    // SAFETY: each pointer is null, misaligned, or to four values.
    let told =
        unsafe { pw_conv_output_shape(handle, input, if wrong == Some(3) { null_mut() } else { output.as_mut_ptr() }) };
    let right = !matches!(wrong, Some(0..=3));
    assert_status(told, status(right, 0, false), &shape);
    assert_eq!(*output, if right { output_shape(&conv.layer.reference(), *shape) } else { [7; 4] });

    let isa = ISAS[conv.isa as usize];
    let builder = conv.layer.builder();
    let ours = isa.map_or(builder, |isa| builder.isa(isa)).build(&conv.layer.weights).expect("C built it");
    let text = ours.plan(*shape, &Serial).map(|plan| plan.to_string());
    let mut buffer: Vec<c_char> = vec![7; u.int_in_range(0..=400)?];
    let (mut length, wants_length) = (7, u.arbitrary()?);
    let place = if wrong == Some(4) { null_mut() } else { buffer.as_mut_ptr() };
    let length_place = match wrong {
        Some(5) => misaligned(&raw const length).cast_mut(),
        _ if wants_length => &raw mut length,
        _ => null_mut(),
    };
    // SAFETY: each pointer is null, misaligned, or to what is said of it.
    let explained = unsafe { pw_conv_explain(handle, input, null(), place, buffer.len(), length_place) };
    let right = !matches!(wrong, Some(0..=2 | 5)) && text.is_ok() && (wrong != Some(4) || buffer.is_empty());
    assert_status(explained, status(right, 0, false), &shape);
    let mut expected: Vec<c_char> = vec![7; buffer.len()];
    if let Some(text) = text.as_ref().ok().filter(|_| right) {
        assert_eq!(length, if wants_length { text.len() } else { 7 });
        if let Some(room) = buffer.len().checked_sub(1) {
            let len = text.len().min(room);
            expected[..len]
                .copy_from_slice(&text.as_bytes()[..len].iter().map(|byte| *byte as c_char).collect::<Vec<_>>());
            expected[len] = 0;
        }
    }
    assert_eq!(buffer, expected);
    Ok(())
}

/// Packs a convolution, and loads it.
fn pack(u: &mut Unstructured<'_>, conv: &Conv) -> Result<Option<Conv>> {
    let wrong = mistake(u, 12)?;
    let ours = conv.layer.builder().build(&conv.layer.weights).expect("C built it").to_packed_bytes();
    let handle = if wrong == Some(0) { null() } else { conv.handle.cast_const() };
    let mut size = 7;
    // SAFETY: null or as the types say.
    let told = unsafe { pw_conv_packed_size(handle, if wrong == Some(1) { null_mut() } else { &mut size }) };
    assert_status(told, status(!matches!(wrong, Some(0 | 1)), 0, false), ());
    assert_eq!(size, if matches!(wrong, Some(0 | 1)) { 7 } else { ours.len() });

    let offset = *u.choose(&[0, 0, 0, 1, 4, 32])?;
    let len = match wrong {
        Some(2) => ours.len() - 1,
        Some(3) => ours.len() + 64,
        _ => ours.len(),
    };
    let mut memory = Aligned::from_iter(64, std::iter::repeat_n(7, offset + len));
    let buffer = memory[offset..].as_mut_ptr();
    // SAFETY: null, or so many bytes.
    let packed = unsafe { pw_conv_pack(handle, if wrong == Some(4) { null_mut() } else { buffer.cast() }, len) };
    let right = !matches!(wrong, Some(0 | 2..=4));
    assert_status(packed, status(right, 0, false), ());
    assert!(if right { memory[offset..] == ours } else { memory.iter().all(|byte| *byte == 7) });
    if !right {
        memory = Aligned::from_slice(64, &[&vec![7; offset], &ours[..]].concat());
    }

    let (mut flags, mut isa) = (u.int_in_range(0..=3)?, u.int_in_range(0..=3)?);
    match wrong {
        Some(5) => flags = u.int_in_range(4..=9)?,
        Some(6) => isa = u.int_in_range(-1..=6)?,
        Some(7) => isa = 4,
        Some(8) => memory.truncate(u.int_in_range(offset..=memory.len() - 1)?),
        Some(9) => memory[offset + u.choose_index(ours.len())?] ^= 1 << u.int_in_range(0..=7)?,
        _ => {}
    }
    // In memory of its own once more, for it may have become shorter.
    let memory = Aligned::from_slice(64, &memory);
    let bytes = &memory[offset..];
    let mut handle = ptr::dangling_mut();
    let place = if wrong == Some(10) { null_mut() } else { &raw mut handle };
    let pointer = if wrong == Some(11) { null() } else { bytes.as_ptr() };
    // SAFETY: null or as the types say; the memory is kept as long as the convolution.
    let created = unsafe { pw_conv_f32_create_packed(pointer.cast(), bytes.len(), flags, isa, place) };
    let verify = if flags & PW_PACKED_HEADER_ONLY == 0 { Verify::All } else { Verify::Header };
    let right = flags <= 3
        && (0..5).contains(&isa)
        && !place.is_null()
        && !pointer.is_null()
        && (flags & PW_PACKED_COPY != 0 || pointer.addr().is_multiple_of(64))
        && PointwiseConv::from_packed_copy(bytes, verify).is_ok();
    assert_status(created, status(right, isa, false), (flags, isa, offset));
    assert!(place.is_null() || handle.is_null() == (created != PW_OK));
    if created != PW_OK {
        return Ok(None);
    }
    let as_it_was = bytes == ours;
    let memory = Some(memory).filter(|_| flags & PW_PACKED_COPY == 0);
    let conv = Conv { handle, layer: conv.layer.clone(), isa, _memory: memory };
    Ok(Some(conv).filter(|_| as_it_was))
}

/// What needs no convolution.
fn names(u: &mut Unstructured<'_>) -> Result<()> {
    let number = if u.arbitrary()? { u.int_in_range(-1..=5)? } else { u.arbitrary()? };
    let of = |names: [&'static str; 5]| {
        usize::try_from(number).ok().and_then(|i| names.get(i)).copied().unwrap_or("unknown")
    };
    // SAFETY: strings that live for ever.
    let [status, isa] = unsafe { [CStr::from_ptr(pw_status_name(number)), CStr::from_ptr(pw_isa_name(number))] }
        .map(|name| name.to_str());
    let statuses = ["PW_OK", "PW_INVALID_ARGUMENT", "PW_UNAVAILABLE", "PW_OUT_OF_RESOURCES", "PW_INTERNAL"];
    assert_eq!((status, isa), (Ok(of(statuses)), Ok(of(["auto", "scalar", "avx2", "avx512", "neon"]))));
    assert_eq!(pw_version(), PW_VERSION);

    let mut isas = vec![pw_isa::PW_ISA_AUTO; u.int_in_range(0..=5)?];
    let (mut count, null_isas) = (7, u.int_in_range(0..=7)? == 7);
    let place = if null_isas { null_mut() } else { isas.as_mut_ptr() };
    // SAFETY: null or as much room as is said.
    let listed = unsafe { pw_isa_available(place, isas.len(), &mut count) };
    assert_status(listed, self::status(!null_isas || isas.is_empty(), 0, false), ());
    let available = Isa::available();
    assert_eq!(count, if listed == PW_OK { available.len() } else { 7 });
    if listed == PW_OK {
        let listed: Vec<_> = isas.iter().map(|isa| ISAS[*isa as usize]).collect();
        let expected: Vec<_> = (0..isas.len()).map(|i| available.get(i).copied()).collect();
        assert_eq!(listed, expected);
    }
    let mut detected = pw_isa::PW_ISA_AUTO;
    // SAFETY: room for one.
    assert_status(unsafe { pw_isa_detect(&mut detected) }, PW_OK, ());
    assert_eq!(ISAS[detected as usize], available.last().copied());
    Ok(())
}

fn calls(u: &mut Unstructured<'_>) -> Result<()> {
    let mut values = Values::new(u)?;
    let mut convs = vec![];
    convs.extend(create(u, &mut values)?);
    let mut pool = pool(u)?;
    for _ in 0..u.int_in_range(1..=8)? {
        match u.int_in_range(0..=15)? {
            0..=2 => convs.extend(create(u, &mut values)?),
            3 => pool = self::pool(u)?,
            4 => names(u)?,
            _ if convs.is_empty() => {}
            5 => drop(convs.swap_remove(u.choose_index(convs.len())?)),
            6 => {
                let at = u.choose_index(convs.len())?;
                ask(u, &convs[at])?;
            }
            7 | 8 => {
                let at = u.choose_index(convs.len())?;
                convs.extend(pack(u, &convs[at])?);
            }
            _ => run(u, &mut values, &convs, &pool)?,
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| check(input, calls));
