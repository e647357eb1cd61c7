//! Several convolutions of one input in one pass give what they give one after the other, also side by side in one tensor.

mod common;

use common::{CANARY, Case, Tensors, Threads, assert_same};
use pointwise::{Activation, Error, Head, Nhwc, NhwcMut, PointwiseConv, ResidualOrder, Serial, run_heads};
use proptest::{prelude::*, test_runner::Config};

/// A convolution for any input, and which of the ISAs runs it.
fn head() -> impl Strategy<Value = (Case, usize)> {
    let activation = prop_oneof![
        Just(Activation::Identity),
        Just(Activation::Relu),
        Just(Activation::Tanh),
        Just(Activation::Prelu)
    ];
    let order = prop_oneof![Just(ResidualOrder::BeforeActivation), Just(ResidualOrder::AfterActivation)];
    // Mostly the same stride: other heads cannot share a pass.
    let stride = prop_oneof![5 => Just((1, 1)), 1 => (1..=2usize, 1..=2usize)];
    (0..=60usize, 1..=2usize, stride, activation, order, any::<[bool; 3]>(), any::<u64>(), 0..=9usize).prop_map(
        |(f, groups, stride, activation, residual_order, [bias, scale_shift, residual], seed, isa)| {
            let out_channels = f / groups * groups;
            let case = Case { out_channels, groups, stride, activation, residual_order, ..Case::default() };
            (Case { bias, scale_shift, residual, seed, ..case }, isa)
        },
    )
}

/// A head, and what it makes of its input.
struct Built {
    case: Case,
    tensors: Tensors,
    conv: PointwiseConv,
    expected: Vec<f32>,
}

impl Built {
    fn new(case: Case, isa: usize, x: &[f32]) -> Self {
        let tensors = Tensors { x: x.to_vec(), ..case.tensors() };
        let conv = case.build(&tensors, common::isas()[isa % common::isas().len()]).expect("the head builds");
        let mut expected = case.reference(&tensors);
        expected.truncate(case.output_len());
        Self { case, tensors, conv, expected }
    }

    fn head<'a>(&'a self, y: NhwcMut<'a>) -> Head<'a> {
        let head = Head::new(&self.conv, y);
        if self.case.residual {
            head.residual(Nhwc::new(&self.tensors.residual, self.case.output()).expect("a view"))
        } else {
            head
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 1000, ..Config::default() })]

    #[test]
    fn heads_give_the_bits_of_the_reference(
        heads in [head(), head(), head()],
        (n, h, w, k) in (0..=3usize, 0..=9usize, 0..=30usize, 0..=20usize),
        gap in 0..=3usize,
        threads in 1..=4usize,
        seed in any::<u64>(),
    ) {
        let shape = [n, h, w, 2 * k];
        let values = Case { input: shape, seed, ..Case::default() }.tensors().x;
        let x = Nhwc::new(&values, shape).unwrap();
        let [a, b, c] = heads.map(|(case, isa)| Built::new(Case { input: shape, ..case }, isa, &values));

        // Into tensors of their own.
        let mut ys = [&a, &b, &c].map(|head| vec![CANARY; head.expected.len()]);
        let [ya, yb, yc] = &mut ys;
        let view = |head: &Built, y| NhwcMut::new(y, head.case.output()).unwrap();
        run_heads(&Threads(threads), x, &mut [a.head(view(&a, ya)), b.head(view(&b, yb)), c.head(view(&c, yc))]).unwrap();
        for (head, y) in [&a, &b, &c].into_iter().zip(&ys) {
            assert_same(y, &head.expected, format_args!("{:?}", head.case));
        }

        // Side by side in one tensor, with a gap behind.
        let [fa, fb, fc] = [&a, &b, &c].map(|head| head.case.out_channels);
        let pixels = |head: &Built| head.case.output()[..3].to_vec();
        if pixels(&a) == pixels(&b) && pixels(&a) == pixels(&c) {
            let [n, h, w, _] = a.case.output();
            let wide = fa + fb + fc + gap;
            let mut all = vec![CANARY; n * h * w * wide];
            let y = NhwcMut::new(&mut all, [n, h, w, wide]).unwrap();
            let (ya, rest) = y.split_channels(fa).unwrap();
            let (yb, rest) = rest.split_channels(fb).unwrap();
            let (yc, _) = rest.split_channels(fc).unwrap();
            run_heads(&Threads(threads), x, &mut [a.head(ya), b.head(yb), c.head(yc)]).unwrap();
            for (p, pixel) in all.chunks_exact(wide.max(1)).enumerate() {
                let of = |Built { case, expected, .. }: &Built| expected[p * case.out_channels..][..case.out_channels].to_vec();
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
