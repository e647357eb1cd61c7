//! Several convolutions of one input in one pass give what they give one after the other, also side by side in one tensor.

mod common;

use common::{CANARY, Threads, Values, assert_same};
use pointwise::{
    Activation, Error, Head, Nhwc, NhwcMut, PointwiseConv, ResidualOrder, Serial, Shape, reference::Reference,
    run_heads,
};
use proptest::{prelude::*, test_runner::Config};

/// One of the heads, and what it makes of an input.
struct Case {
    conv: PointwiseConv,
    residual: Option<Vec<f32>>,
    output: Shape,
    expected: Vec<f32>,
}

/// What a head may be: F, groups, stride, activation, whether there is a residual, and which of the ISAs.
type Options = (usize, usize, (usize, usize), Activation, bool, usize);

fn options() -> impl Strategy<Value = Options> {
    let activation = prop_oneof![Just(Activation::Identity), Just(Activation::Relu), Just(Activation::Tanh)];
    // Mostly the same stride: other heads cannot share a pass.
    let stride = prop_oneof![5 => Just((1, 1)), 1 => (1..=2usize, 1..=2usize)];
    (0..=60usize, 1..=2usize, stride, activation, any::<bool>(), 0..=9usize)
}

fn case((f, groups, stride, activation, residual, isa): Options, x: Nhwc<'_>, seed: u64) -> Case {
    let (k, out_channels) = (x.shape()[3], f / groups * groups);
    let mut rng = common::rng(seed);
    let mut fill = |len| common::fill(len, Values::Ordinary, &mut rng);
    let weights = fill(out_channels * k / groups);
    let conv = PointwiseConv::builder(k, out_channels)
        .groups(groups)
        .stride(stride.0, stride.1)
        .activation(activation)
        .residual_order(ResidualOrder::AfterActivation)
        .isa(common::isas()[isa % common::isas().len()])
        .build(&weights)
        .expect("the head builds");
    let output = conv.output_shape(x.shape()).expect("the channels fit");
    let residual = residual.then(|| fill(output.iter().product()));
    let mut expected = vec![f32::NAN; output.iter().product()];
    let reference = Reference {
        out_channels,
        groups,
        stride,
        weights: &weights,
        activation,
        residual: ResidualOrder::AfterActivation,
        ..Reference::default()
    };
    let view = residual.as_ref().map(|residual| Nhwc::new(residual, output).expect("a view"));
    reference.run(x, view, NhwcMut::new(&mut expected, output).expect("a view")).expect("the reference runs");
    Case { conv, residual, output, expected }
}

impl Case {
    fn head<'a>(&'a self, y: NhwcMut<'a>) -> Head<'a> {
        let head = Head::new(&self.conv, y);
        match &self.residual {
            Some(residual) => head.residual(Nhwc::new(residual, self.output).expect("a view")),
            None => head,
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 1000, ..Config::default() })]

    #[test]
    fn heads_give_the_bits_of_the_reference(
        heads in [options(), options(), options()],
        (n, h, w, k) in (0..=3usize, 0..=9usize, 0..=30usize, 0..=20usize),
        gap in 0..=3usize,
        threads in 1..=4usize,
        seed in any::<u64>(),
    ) {
        let shape = [n, h, w, 2 * k];
        let x = common::fill(shape.iter().product(), Values::Ordinary, &mut common::rng(seed));
        let x = Nhwc::new(&x, shape).unwrap();
        let [a, b, c] = heads.map(|options| case(options, x, seed ^ 1));

        // Into tensors of their own.
        let mut ys = [&a, &b, &c].map(|case| vec![CANARY; case.expected.len()]);
        let [ya, yb, yc] = &mut ys;
        let view = |case: &Case, y| NhwcMut::new(y, case.output).unwrap();
        run_heads(&Threads(threads), x, &mut [a.head(view(&a, ya)), b.head(view(&b, yb)), c.head(view(&c, yc))]).unwrap();
        for (case, y) in [&a, &b, &c].into_iter().zip(&ys) {
            assert_same(y, &case.expected, format_args!("{:?}", case.conv));
        }

        // Side by side in one tensor, with a gap behind.
        let [fa, fb, fc] = [&a, &b, &c].map(|case| case.output[3]);
        let pixels = |case: &Case| case.output[..3].to_vec();
        if pixels(&a) == pixels(&b) && pixels(&a) == pixels(&c) {
            let [n, h, w, _] = a.output;
            let wide = fa + fb + fc + gap;
            let mut all = vec![CANARY; n * h * w * wide];
            let y = NhwcMut::new(&mut all, [n, h, w, wide]).unwrap();
            let (ya, rest) = y.split_channels(fa).unwrap();
            let (yb, rest) = rest.split_channels(fb).unwrap();
            let (yc, _) = rest.split_channels(fc).unwrap();
            run_heads(&Threads(threads), x, &mut [a.head(ya), b.head(yb), c.head(yc)]).unwrap();
            for (p, pixel) in all.chunks_exact(wide.max(1)).enumerate() {
                let of = |case: &Case| case.expected[p * case.output[3]..][..case.output[3]].to_vec();
                assert_same(pixel, &[of(&a), of(&b), of(&c), vec![CANARY; gap]].concat(), format_args!("pixel {p}"));
            }
        }
    }
}

#[test]
fn an_error_of_one_head_stops_all_before_anything_is_written() {
    let conv = PointwiseConv::builder(2, 1).build(&[1.0, 1.0]).unwrap();
    let other = PointwiseConv::builder(3, 1).build(&[1.0; 3]).unwrap();
    let x = Nhwc::new(&[1.0; 4], [1, 1, 2, 2]).unwrap();
    let (mut y, mut wrong) = ([7.0; 2], [7.0; 3]);
    fn view(y: &mut [f32]) -> NhwcMut<'_> {
        let shape = [1, 1, y.len(), 1];
        NhwcMut::new(y, shape).unwrap()
    }
    let error = run_heads(&Serial, x, &mut [Head::new(&conv, view(&mut y)), Head::new(&conv, view(&mut wrong))]);
    let of_second = |error| Err(Error::Head { index: 1, error: Box::new(error) });
    assert_eq!(error, of_second(Error::Shape { what: "output", expected: [1, 1, 2, 1], actual: [1, 1, 3, 1] }));
    assert_eq!(error.unwrap_err().to_string(), "head 1: output: expected shape [1, 1, 2, 1], got [1, 1, 3, 1]");
    let error = run_heads(&Serial, x, &mut [Head::new(&conv, view(&mut y)), Head::new(&other, view(&mut wrong[..2]))]);
    assert_eq!(error, of_second(Error::Channels { expected: 3, actual: 2 }));
    assert_eq!((y, wrong), ([7.0; 2], [7.0; 3]));
    assert_eq!(run_heads(&Serial, x, &mut []), Ok(()));

    let error = NhwcMut::new(&mut y, [1, 1, 1, 2]).unwrap().split_channels(3).unwrap_err();
    assert_eq!(error, Error::Split { channels: 2, at: 3 });
    assert_eq!(error.to_string(), "split: expected at most 2 channels, got 3");
}

#[test]
fn a_head_accumulates() {
    let conv = PointwiseConv::builder(1, 1).build(&[2.0]).unwrap();
    let (mut a, mut b) = ([0.5], [0.5]);
    let x = Nhwc::new(&[3.0], [1, 1, 1, 1]).unwrap();
    let mut heads = [
        Head::new(&conv, NhwcMut::new(&mut a, [1, 1, 1, 1]).unwrap()).accumulate(),
        Head::new(&conv, NhwcMut::new(&mut b, [1, 1, 1, 1]).unwrap()),
    ];
    run_heads(&Serial, x, &mut heads).unwrap();
    assert_eq!((a, b), ([6.5], [6.0]));
}

#[test]
fn more_heads_than_share_a_pass() {
    let convs: Vec<_> = (0..20).map(|i| PointwiseConv::builder(1, 1).build(&[i as f32]).unwrap()).collect();
    let mut ys = vec![[0.0]; convs.len()];
    let mut heads: Vec<_> =
        convs.iter().zip(&mut ys).map(|(conv, y)| Head::new(conv, NhwcMut::new(y, [1, 1, 1, 1]).unwrap())).collect();
    run_heads(&Serial, Nhwc::new(&[2.0], [1, 1, 1, 1]).unwrap(), &mut heads).unwrap();
    for (i, y) in ys.iter().enumerate() {
        assert_eq!(*y, [2.0 * i as f32]);
    }
}
