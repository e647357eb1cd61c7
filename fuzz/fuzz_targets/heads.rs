//! Heads of one input in one pass, into tensors of their own or side by side in one: what the reference gives for one after
//! the other. Where one of them is wrong nothing is written, and where tasks are left out nothing else than the result.
#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use pointwise::{Error, Executor, Head, Isa, NhwcMut, PointwiseConv, Shape, run_heads};
use pointwise_fuzz::{CANARY, Layer, Shuffled, Values, View, activation, assert_same, check, expected, output_shape};
use std::cell::Cell;

struct Case {
    layer: Layer,
    conv: PointwiseConv,
    residual: Residual,
    output: Shape,
    /// The output's values, one after the other, before and after the run.
    before: Vec<f32>,
    after: Vec<f32>,
    error: Option<Error>,
}

enum Residual {
    None,
    Of(View, Vec<f32>),
    Output,
}

impl Case {
    /// A `wrong` one has one mistake.
    fn new(u: &mut Unstructured<'_>, values: &mut Values, (x, x_data): (View, &[f32]), wrong: bool) -> Result<Self> {
        let mistake = if wrong { Some(u.int_in_range(0..=2)?) } else { None };
        let in_channels = x.shape[3] + usize::from(mistake == Some(0));
        let groups = if in_channels.is_multiple_of(2) { u.int_in_range(1..=2)? } else { 1 };
        let out_channels = *u.choose(&[0, 1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 40, 64, 70])?;
        // Mostly the same stride: others cannot share a pass.
        let alone = u.int_in_range(0..=7)? == 7;
        let stride = if alone { (u.int_in_range(1..=2)?, u.int_in_range(1..=2)?) } else { (1, 1) };
        let activation = activation(u, false)?;
        let layer = Layer::new(u, values, (in_channels / groups, out_channels / groups), groups, stride, activation)?;
        let conv = layer.builder().isa(*u.choose(Isa::available())?).build(&layer.weights).expect("the head builds");

        let right = output_shape(&layer.reference(), x.shape);
        let mut wrong_shape = right;
        wrong_shape[u.choose_index(4)?] += 1;
        let output = if mistake == Some(1) { wrong_shape } else { right };
        let mut of = |u: &mut Unstructured<'_>, shape| {
            let view = View::to_read(u, shape)?;
            Ok(Residual::Of(view, values.vec(view.span().expect("small sizes"))))
        };
        let residual = match u.int_in_range(0..=2)? {
            _ if mistake == Some(2) => of(u, wrong_shape)?,
            0 => of(u, output)?,
            1 => Residual::Output,
            _ => Residual::None,
        };
        let error = mistake.map(|mistake| match (mistake, &residual) {
            (0, _) => Error::Channels { expected: in_channels, actual: x.shape[3] },
            (2, Residual::Of(view, _)) => Error::Shape { what: "residual", expected: right, actual: view.shape },
            _ => Error::Shape { what: "output", expected: right, actual: output },
        });
        let before = values.vec(output.iter().product());
        let y = View::dense(output);
        let added = match &residual {
            Residual::None => None,
            Residual::Of(view, data) => Some((*view, &data[..])),
            Residual::Output => Some((y, &before[..])),
        };
        let after = if wrong { before.clone() } else { expected(&layer.reference(), (x, x_data), added, y, &before) };
        Ok(Self { layer, conv, residual, output, before, after, error })
    }

    fn head<'a>(&'a self, y: NhwcMut<'a>) -> Head<'a> {
        match &self.residual {
            Residual::None => Head::new(&self.conv, y),
            Residual::Of(view, data) => Head::new(&self.conv, y).residual(view.read(data)),
            Residual::Output => Head::new(&self.conv, y).accumulate(),
        }
    }
}

/// Leaves out the last calls, or all of them.
struct Lazy {
    executor: Shuffled,
    left_out: usize,
    idle: Cell<bool>,
}

impl Executor for Lazy {
    fn threads(&self) -> usize {
        self.executor.threads()
    }

    fn work_per_thread(&self) -> usize {
        self.executor.work_per_thread()
    }

    fn run(&self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        match threads.saturating_sub(self.left_out) {
            0 => self.idle.set(true),
            calls if calls == threads => self.executor.run(threads, work),
            calls => (0..calls).for_each(work),
        }
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut values = Values::new(u)?;
    let shape = [u.int_in_range(0..=2)?, u.int_in_range(0..=6)?, u.int_in_range(0..=30)?, u.int_in_range(0..=20)?];
    let x = View::to_read(u, shape)?;
    let x_data = values.vec(x.span().expect("small sizes"));
    let wrong = u.int_in_range(0..=15)?;
    let cases: Vec<Case> = (0..u.int_in_range(0..=10)?)
        .map(|i| Case::new(u, &mut values, (x, &x_data), i == wrong))
        .collect::<Result<_>>()?;
    let left_out = u.int_in_range(0..=20usize)?.saturating_sub(17);
    let executor = Lazy { executor: Shuffled::new(u)?, left_out, idle: Cell::new(false) };

    // Which memory a head's output is in, where it starts there, and how it lies.
    let mut places = vec![];
    let pixels = |case: &Case| case.output[..3].to_vec();
    let beside = u.arbitrary()? && cases.windows(2).all(|pair| pixels(&pair[0]) == pixels(&pair[1]));
    let mut wide = None;
    let mut memories = vec![];
    if let Some(first) = cases.first().filter(|_| beside) {
        let [n, h, w, _] = first.output;
        let channels: usize = cases.iter().map(|case| case.output[3]).sum();
        let more = u.int_in_range(0..=2)?;
        let view = View::to_write(u, [n, h, w, channels + more])?;
        memories.push(vec![CANARY; view.span().expect("small sizes")]);
        let mut start = 0;
        for case in &cases {
            places.push((0, start, View { shape: case.output, ..view }));
            start += case.output[3];
        }
        wide = Some(view);
    } else {
        for (i, case) in cases.iter().enumerate() {
            let view = View::to_write(u, case.output)?;
            memories.push(vec![CANARY; view.span().expect("small sizes")]);
            places.push((i, 0, view));
        }
    }
    for (case, (memory, start, view)) in cases.iter().zip(&places) {
        view.scatter(&case.before, memories[*memory].get_mut(*start..).unwrap_or_default());
    }
    let before = memories.clone();
    let mut expected = memories.clone();
    let error = cases.iter().enumerate().find_map(|(index, case)| {
        let error = Box::new(case.error.clone()?);
        Some(Error::Head { index, error })
    });
    if error.is_none() {
        for (case, (memory, start, view)) in cases.iter().zip(&places) {
            view.scatter(&case.after, expected[*memory].get_mut(*start..).unwrap_or_default());
        }
    }

    let mut heads = vec![];
    match wide {
        Some(view) => {
            let mut rest = view.write(&mut memories[0]);
            for case in &cases {
                let (y, others) = rest.split_channels(case.output[3]).expect("as many channels");
                heads.push(case.head(y));
                rest = others;
            }
        }
        None => {
            let views = memories.iter_mut().zip(&places).map(|(memory, (.., view))| view.write(memory));
            heads.extend(cases.iter().zip(views).map(|(case, y)| case.head(y)));
        }
    }
    let ran = run_heads(&executor, x.read(&x_data), &mut heads);
    drop(heads);
    let layers: Vec<&Layer> = cases.iter().map(|case| &case.layer).collect();
    if executor.idle.get() {
        assert!(matches!(ran, Err(Error::Executor { actual: 0, .. })), "{ran:?}");
        // What was not computed is what it was.
        for (actual, (before, expected)) in
            memories.iter_mut().flatten().zip(before.iter().flatten().zip(expected.iter().flatten()))
        {
            if actual.to_bits() == before.to_bits() {
                *actual = *expected;
            }
        }
    } else {
        assert_eq!(ran, error.map_or(Ok(()), Err), "{layers:?}");
    }
    for (actual, expected) in memories.iter().zip(&expected) {
        assert_same(actual, expected, format_args!("{x:?}, {places:?}, {layers:?}"));
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| check(input, run));
