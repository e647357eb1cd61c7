//! What every ISA's lanes and kernels must do, instantiated at the foot of each ISA's file.

use super::{Channels, Lanes, PANEL, Pixels, Residual, Row, Scalar, Strip, TileKernel, pair_at};
use crate::{
    Activation, ResidualOrder,
    epilogue::{self, Epilogue, WithActivation},
    output::{OutputPixels, OutputValues},
    reference::Value,
};
use core::ops::Range;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    vec::Vec,
};

/// Instantiates the suite for `$token`, an `Option` of lanes.
macro_rules! suite {
    ($token:expr, $isa:literal) => {
        mod conformance {
            use super::*;
            use crate::kernel::conformance as suite;

            #[test]
            fn operations_are_those_of_scalar_code() {
                suite::tested($token, $isa).map(suite::operations);
            }

            #[test]
            fn partial_loads_and_stores_stay_inside() {
                suite::tested($token, $isa).map(suite::partial);
            }

            #[test]
            fn halves() {
                suite::tested($token, $isa).map(suite::halves);
            }

            #[test]
            fn transposition() {
                suite::tested($token, $isa).map(suite::transposition);
            }

            #[test]
            fn every_tile_gives_the_chain_of_multiply_adds() {
                suite::tested($token, $isa).map(suite::tiles);
            }

            #[test]
            fn many_tiles_are_finished_in_parts() {
                suite::tested($token, $isa).map(suite::many_tiles);
            }

            #[test]
            fn tiles_side_by_side_give_it_too() {
                suite::tested($token, $isa).map(suite::tiles_across);
            }

            #[test]
            fn tiles_outside_a_strip_are_refused() {
                suite::tested($token, $isa).map(suite::tiles_outside);
            }

            #[test]
            fn every_narrow_kernel_gives_the_chain_of_multiply_adds() {
                suite::tested($token, $isa).map(suite::narrow_kernels);
            }

            #[test]
            fn activations_are_those_of_scalar_code() {
                suite::tested($token, $isa).map(suite::activations);
            }
        }
    };
}
pub(super) use suite;

/// The lanes, or `None` where the CPU lacks them; a failure where `POINTWISE_TEST_ISAS` lists them.
pub(super) fn tested<L>(token: Option<L>, isa: &str) -> Option<L> {
    let required = std::env::var("POINTWISE_TEST_ISAS").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == isa);
    assert!(token.is_some() || !required, "POINTWISE_TEST_ISAS asks for {isa}, which this CPU has not");
    std::println!("{isa}: {}", if token.is_some() { "tested" } else { "not on this CPU, not tested" });
    token
}

/// Zeros, ordinary values, the edges of the format, and what is no number.
const SPECIAL: [f32; 24] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    -2.75,
    6.0,
    1e-3,
    -1e-3,
    123.456,
    -88.5,
    104.5,
    3e38,
    -3e38,
    f32::MAX,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-40,
    -1e-45,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
    16_777_217.0,
];

pub(super) fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// A row whose value at lane `l` is `values(l)`.
fn row(values: impl Fn(usize) -> f32) -> Row {
    Row(core::array::from_fn(values))
}

pub(super) fn operations<L: Lanes>(simd: L) {
    for i in 0..SPECIAL.len() {
        for j in 0..SPECIAL.len() {
            let value = |shift: usize| move |l: usize| SPECIAL[(shift + l) % SPECIAL.len()];
            let (a, b, c) = (value(i), value(j), value(i + j));
            let [va, vb, vc] = [row(a), row(b), row(c)].map(|row| simd.load(&row, 0));
            let check = |name: &str, vector: L::Vector, scalar: &dyn Fn(f32, f32, f32) -> f32| {
                let mut got = Row([0.0; PANEL]);
                simd.store(vector, &mut got, 0);
                for l in 0..L::LANES {
                    let expected = scalar(a(l), b(l), c(l));
                    assert!(
                        same(got.0[l], expected),
                        "{name}({:?}, {:?}, {:?}), lane {l}: expected {expected:?}, got {:?}",
                        a(l),
                        b(l),
                        c(l),
                        got.0[l]
                    );
                }
            };
            check("mul_add", simd.mul_add(va, vb, vc), &|a, b, c| Scalar.mul_add(a, b, c));
            check("add", simd.add(va, vb), &|a, b, _| a + b);
            check("sub", simd.sub(va, vb), &|a, b, _| a - b);
            check("mul", simd.mul(va, vb), &|a, b, _| a * b);
            check("div", simd.div(va, vb), &|a, b, _| a / b);
            check("select_less", simd.select_less(va, vb, vc, va), &|a, b, c| if a < b { c } else { a });
            check("lesser", simd.lesser(va, vb), &|a, b, _| if a < b { a } else { b });
            check("greater", simd.greater(va, vb), &|a, b, _| if a > b { a } else { b });
            check("abs", simd.abs(va), &|a, _, _| a.abs());
            check("copy_sign", simd.copy_sign(va, vb), &|a, b, _| a.copysign(b));
            check("shift_left_23", simd.shift_left_23(va), &|a, _, _| f32::from_bits(a.to_bits() << 23));
            check("splat", simd.splat(a(0)), &|_, _, _| a(0));
            check("pin", simd.pin(va), &|a, _, _| a);
            let quad = simd.quad(&[a(0), a(1), a(2), a(3)]);
            check("mul_add_quad 0", simd.mul_add_quad::<0>(quad, vb, vc), &|_, b, c| Scalar.mul_add(a(0), b, c));
            check("mul_add_quad 1", simd.mul_add_quad::<1>(quad, vb, vc), &|_, b, c| Scalar.mul_add(a(1), b, c));
            check("mul_add_quad 2", simd.mul_add_quad::<2>(quad, vb, vc), &|_, b, c| Scalar.mul_add(a(2), b, c));
            check("mul_add_quad 3", simd.mul_add_quad::<3>(quad, vb, vc), &|_, b, c| Scalar.mul_add(a(3), b, c));
        }
    }
}

pub(super) fn halves<L: Lanes>(simd: L) {
    if L::half_tiles(false).is_empty() {
        return;
    }
    let half = L::LANES / 2;
    let (a, b) = (row(|l| l as f32), row(|l| 100.0 + l as f32));
    let [va, vb] = [&a, &b].map(|row| simd.load(row, 0));
    let values = |vector| {
        let mut row = Row([0.0; PANEL]);
        simd.store(vector, &mut row, 0);
        row.0
    };
    let [twice, blended, upper] =
        [simd.load_half_twice(&a), simd.blend_halves(va, vb), simd.upper_half(va)].map(values);
    for l in 0..L::LANES {
        assert_eq!(twice[l], a.0[l % half]);
        assert_eq!(blended[l], if l < half { a.0[l] } else { b.0[l] });
    }
    assert_eq!(upper[..L::LANES - half], a.0[half..L::LANES]);
    let [pair, twice, even, odd] = [
        simd.splat_pair(&[1.0, 2.0]),
        simd.load_each_twice(&a),
        simd.every_second(va, false),
        simd.every_second(va, true),
    ]
    .map(values);
    for l in 0..L::LANES {
        assert_eq!((pair[l], twice[l]), ([1.0, 2.0][l % 2], a.0[l / 2]));
        if l < half {
            assert_eq!((even[l], odd[l]), (a.0[2 * l], a.0[2 * l + 1]));
        }
    }
    for odd in [false, true] {
        let [twice, both] = [simd.load_every_second_twice(&a, odd), simd.every_second_of_both(va, vb, odd)].map(values);
        for l in 0..L::LANES {
            let of = |row: &Row| row.0[l & !1 | usize::from(odd)];
            assert_eq!((twice[l], both[l]), (of(&a), of(if l % 2 == 0 { &a } else { &b })));
        }
    }
    for len in 1..=PANEL {
        let mut pairs = [Row([0.0; PANEL]); 2];
        simd.store_pairs(&a.0[..len], &b.0[..len], &mut pairs);
        for c in 0..len {
            let at = pair_at(c);
            assert_eq!(pairs[at / PANEL].0[at % PANEL..][..2], [a.0[c], b.0[c]]);
        }
    }
}

pub(super) fn partial<L: Lanes>(simd: L) {
    let all = row(|l| l as f32 + 1.0);
    for part in 0..PANEL / L::LANES {
        let vector = simd.load(&all, part);
        for len in 1..=L::LANES {
            let expected = &all.0[part * L::LANES..][..len];
            let mut out = [0.0; 2 * PANEL];
            for halved in [true, false] {
                out = [-1.0; 2 * PANEL];
                let to = &mut out[3..3 + len];
                if halved {
                    simd.store_first_halved(vector, to)
                } else {
                    simd.store_first(vector, to)
                }
                assert_eq!(&out[3..3 + len], expected);
                assert!(out[..3].iter().chain(&out[3 + len..]).all(|value| *value == -1.0), "wrote outside");
            }
            let mut back = Row([-1.0; PANEL]);
            simd.store(simd.load_first(&out[3..3 + len]), &mut back, part);
            let back = &back.0[part * L::LANES..][..L::LANES];
            assert_eq!(&back[..len], expected);
            assert!(back[len..].iter().all(|value| *value == 0.0));
        }
    }
}

pub(super) fn transposition<L: Lanes>(simd: L) {
    let pixels: [[f32; 4]; 16] = core::array::from_fn(|p| core::array::from_fn(|k| (10 * p + k) as f32));
    for (k, column) in simd.transpose(|l| &pixels[l]).into_iter().enumerate() {
        let mut got = Row([0.0; PANEL]);
        simd.store(column, &mut got, 0);
        for (got, pixel) in got.0.iter().zip(&pixels).take(L::LANES) {
            assert_eq!(*got, pixel[k]);
        }
    }
}

/// The activations to try: one of each kind, and swish with its gate turned round.
const ACTIVATIONS: [Activation; 16] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Clamp { min: -1.0, max: 6.0 },
    Activation::Prelu,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::LeakyRelu { slope: 0.01 },
    Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Activation::HardSwish,
    Activation::Swish { beta: 1.702 },
    Activation::Swish { beta: -0.3 },
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Elu { alpha: 1.5 },
    Activation::Softplus,
    Activation::Mish,
];

/// One vector through an activation, with the slope 0.25.
struct Vector<L: Lanes>(L, L::Vector);
impl<L: Lanes> WithActivation<L> for Vector<L> {
    type Output = L::Vector;

    fn call(self, activation: impl Fn(L::Vector, L::Vector) -> L::Vector) -> L::Vector {
        activation(self.1, self.0.splat(0.25))
    }
}

pub(super) fn activations<L: Lanes>(simd: L) {
    // Every 65521st float (a prime, so that all parts of the bits vary), and the special ones.
    let values = SPECIAL.into_iter().chain((0..=u32::MAX / 65_521).map(|i| f32::from_bits(i * 65_521)));
    let values: Vec<f32> = values.collect();
    for activation in ACTIVATIONS {
        for values in values.chunks_exact(L::LANES) {
            let mut got = row(|l| values.get(l).copied().unwrap_or_default());
            let vector = epilogue::with_activation(simd, activation, Vector(simd, simd.load(&got, 0)));
            simd.store(vector, &mut got, 0);
            for (x, got) in values.iter().zip(got.0) {
                let expected = epilogue::with_activation(Scalar, activation, Vector(Scalar, *x));
                assert!(same(got, expected), "{activation:?}({x:?}): expected {expected:?}, got {got:?}");
            }
        }
    }
}

/// Runs `kernel` on a strip of two lines of `pixels` pixels, and compares with plain loops, and what it must not touch with
/// itself. What follows the sum is the `variant`-th of all there is.
fn check_strip<L: Lanes>(
    pixels: usize,
    k: usize,
    channels: usize,
    variant: usize,
    kernel: impl Fn(&Strip<'_>),
    what: &str,
) {
    let activation = ACTIVATIONS[variant % ACTIVATIONS.len()];
    // 5 and 7 have no factor in common with the number of activations.
    let (with_residual, in_place) =
        [(false, false), (true, false), (false, false), (true, true), (true, false)][variant % 5];
    let scaled = variant.is_multiple_of(7);
    let order = if variant % 7 > 4 { ResidualOrder::AfterActivation } else { ResidualOrder::BeforeActivation };

    let value = |seed: usize, i: usize| ((i * 37 + seed * 101) % 23) as f32 * 0.17 - 1.9;
    let (x_stride, y_stride, residual_stride) = (k + 3, channels + 2, channels + 1);
    // Behind each line are two pixels that are not the strip's, one in the residual.
    let (line, residual_line) = (pixels + 2, pixels + 1);
    let x: Vec<f32> = (0..2 * line * x_stride).map(|i| value(1, i)).collect();
    let residual: Vec<f32> = (0..2 * residual_line * residual_stride).map(|i| value(2, i)).collect();
    let panels: Vec<Row> = (0..channels.div_ceil(PANEL) * (k + 1)).map(|r| row(|l| value(3, r * PANEL + l))).collect();
    let given: Vec<Channels> = (0..channels.div_ceil(PANEL))
        .map(|p| Channels {
            scale: row(|l| value(4, p * PANEL + l)),
            shift: row(|l| value(5, p * PANEL + l)),
            slope: row(|l| value(6, p * PANEL + l)),
        })
        .collect();
    const CANARY: f32 = -777.0;
    let mut y = std::vec![CANARY; 2 * line * y_stride];
    let of_pixel = |p: usize| &residual[(p / line * residual_line + p % line) * residual_stride..][..channels];
    let inside = |p: usize| p % line < pixels;
    if in_place {
        for (p, pixel) in y.chunks_exact_mut(y_stride).enumerate().filter(|(p, _)| inside(*p)) {
            pixel[..channels].copy_from_slice(of_pixel(p));
        }
    }
    let output = OutputPixels { values: OutputValues::new(&mut y), stride: y_stride, line_stride: line * y_stride };
    let residual_pixels = match (with_residual, in_place) {
        (false, _) => Residual::None,
        (true, false) => {
            let line_stride = residual_line * residual_stride;
            Residual::Of(Pixels { data: &residual, stride: residual_stride, line_stride })
        }
        (true, true) => Residual::Output,
    };
    let per_channel: &[Channels] = if scaled || activation == Activation::Prelu { &given } else { &[] };
    let epilogue = Epilogue { activation, residual: order, scaled, channels: per_channel };
    let input = (Pixels { data: &x, stride: x_stride, line_stride: line * x_stride }, k);
    // SAFETY: the buffer is this function's, and one strip's.
    kernel(&unsafe { Strip::new(input, (output, channels), residual_pixels, &panels, (2, pixels), epilogue) });
    for (p, y) in y.chunks_exact(y_stride).enumerate() {
        for (f, got) in y.iter().enumerate() {
            let expected = if f < channels && inside(p) {
                let panel = &panels[f / PANEL * (k + 1)..][..k + 1];
                let weight = |r: usize| panel[r].0[f % PANEL];
                let mut sum = weight(0);
                for i in 0..k {
                    sum = Scalar.mul_add(x[p * x_stride + i], weight(i + 1), sum);
                }
                let given = &given[f / PANEL];
                let value = Value {
                    sum,
                    scale_shift: scaled.then(|| [given.scale.0[f % PANEL], given.shift.0[f % PANEL]]),
                    residual: (with_residual.then(|| of_pixel(p)[f]), order),
                    slope: given.slope.0[f % PANEL],
                };
                epilogue::with_activation(Scalar, activation, value)
            } else {
                CANARY
            };
            assert!(
                same(*got, expected),
                "{what}, {pixels} pixels, K {k}, F {channels}, {epilogue:?}, {residual_pixels:?}: \
                 pixel {p}, channel {f}: expected {expected:?}, got {got:?}"
            );
        }
    }
}

/// The tiles of whole vectors by their width, those that this CPU does not choose too.
fn tables<L: Lanes>() -> impl Iterator<Item = (usize, &'static [TileKernel<L>])> {
    (1..=4).flat_map(|nv| [false, true].map(|intel| (nv, L::tiles(nv, intel))))
}

pub(super) fn tiles<L: Lanes>(simd: L) {
    let mut variant = 0;
    let mut check = |kernels: &[TileKernel<L>], nv: usize, channels: Range<usize>| {
        for (mr, kernel) in (1..).zip(kernels) {
            let what = std::format!("tile of {mr} pixels x {nv} vectors");
            for channels in channels.clone() {
                for k in [0, 1, 3, 4, 6, 11, 16, 18, 37] {
                    for halves_stores in [false, true] {
                        let run = |strip: &Strip<'_>| kernel.run(simd, &strip.halving_stores(halves_stores), 2);
                        check_strip::<L>(2 * mr, k, channels, variant, run, &what);
                    }
                    variant += 1;
                }
            }
        }
    };
    for (nv, kernels) in tables::<L>() {
        check(kernels, nv, (nv - 1) * L::LANES + 1..nv * L::LANES + 1);
    }
    for intel in [false, true] {
        check(L::half_tiles(intel), 2, L::LANES + 1..L::LANES + L::LANES / 2 + 1);
    }
}

/// What follows the sums out of line, for more tiles than stand in a cache at once.
pub(super) fn many_tiles<L: Lanes>(simd: L) {
    let sigmoid = ACTIVATIONS.iter().position(|activation| *activation == Activation::Sigmoid).unwrap();
    for (nv, kernels) in tables::<L>() {
        for (mr, kernel) in (1..).zip(kernels).filter(|(mr, _)| L::LANES > 1 && mr % 3 == 2) {
            // Sums in the output, and elsewhere: of a tile that is not full, and where the output holds the residual.
            for (less, variant) in [(0, sigmoid), (1, sigmoid), (0, sigmoid + 4 * ACTIVATIONS.len())] {
                let tiles = 300 / mr;
                let run = |strip: &Strip<'_>| kernel.run(simd, strip, tiles);
                let what = std::format!("{tiles} tiles of {mr} pixels x {nv} vectors");
                check_strip::<L>(tiles * mr, 3, nv * L::LANES - less, variant, run, &what);
                if kernel.runs_across() {
                    // Several columns of tiles at once, and not all.
                    for columns in [3, 12] {
                        check_strip::<L>(tiles * mr, 3, columns * nv * L::LANES - less, variant, run, &what);
                    }
                }
            }
        }
    }
}

pub(super) fn tiles_across<L: Lanes>(simd: L) {
    let mut variant = 0;
    for (nv, kernels) in tables::<L>() {
        for (mr, kernel) in (1..).zip(kernels).filter(|(_, kernel)| kernel.runs_across()) {
            let what = std::format!("tiles of {mr} pixels x {nv} vectors side by side");
            for channels in [1, 2, 3].into_iter().flat_map(|n| [n * nv * L::LANES, n * nv * L::LANES - 5]) {
                for k in [0, 1, 4, 11, 18] {
                    let run = |strip: &Strip<'_>| kernel.run(simd, strip, 2);
                    check_strip::<L>(2 * mr, k, channels, variant, run, &what);
                    variant += 1;
                }
            }
        }
    }
}

/// By the assertion that the kernels' unsafe code counts on, in every build.
pub(super) fn tiles_outside<L: Lanes>(simd: L) {
    let check = |kernels: &[TileKernel<L>], nv: usize, width: usize| {
        let last_panel = (nv - 1) * L::LANES / PANEL;
        for (mr, kernel) in (1..).zip(kernels) {
            let refused = |[pixels, channels, tiles]: [usize; 3],
                           activation: Activation,
                           run: &dyn Fn(&Strip<'_>, usize),
                           expected: &str| {
                let mut y = std::vec![0.0; pixels * channels];
                let input = (Pixels { data: &[], stride: 0, line_stride: 0 }, 0);
                let panels = std::vec![row(|_| 0.0); last_panel + 2];
                let output = OutputPixels { values: OutputValues::new(&mut y), stride: channels, line_stride: 0 };
                let residual = ResidualOrder::BeforeActivation;
                let epilogue = Epilogue { activation, residual, scaled: false, channels: &[] };
                // SAFETY: the buffer is this function's, and one strip's.
                let strip =
                    unsafe { Strip::new(input, (output, channels), Residual::None, &panels, (1, pixels), epilogue) };
                let panic = catch_unwind(AssertUnwindSafe(|| run(&strip, tiles))).unwrap_err();
                assert_eq!(panic.downcast_ref::<&str>(), Some(&expected), "tile of {mr} pixels x {nv} vectors");
            };
            let run = |strip: &Strip<'_>, tiles| kernel.run(simd, strip, tiles);
            // What takes long is another's to finish, who must refuse it too.
            for activation in [Activation::Identity, Activation::Sigmoid] {
                refused([2 * mr - 1, width, 2], activation, &run, "tiles lie inside a line");
            }
            let down = |strip: &Strip<'_>, tiles| (kernel.down)(simd, strip, tiles);
            let refused_as_wide = |channels, run: &dyn Fn(&Strip<'_>, usize)| {
                refused([mr, channels, 1], Activation::Identity, run, "the strip is as wide as its tiles");
            };
            if last_panel > 0 {
                refused_as_wide(last_panel * PANEL, &down);
                // Who finishes tiles that are not full has no panel for this either.
                if mr > 1 {
                    let expected = "a part lies inside its strip, and there is room for its sums";
                    refused([mr, last_panel * PANEL, 1], Activation::Identity, &run, expected);
                }
            }
            if L::LANES > 1 && mr > 1 && !TileKernel::<L>::finishes_parts(nv) {
                refused_as_wide(width - 1, &down);
            }
            // Scalar code has one width, and tiles of one pixel go across wider strips.
            if L::LANES > 1 && (mr > 1 || kernel.across.is_none()) {
                refused_as_wide(width + 1, &down);
                if !kernel.runs_across() {
                    refused_as_wide(width + 1, &run);
                }
            }
        }
    };
    tables::<L>().for_each(|(nv, kernels)| check(kernels, nv, nv * L::LANES));
    for intel in [false, true] {
        check(L::half_tiles(intel), 2, L::LANES + L::LANES / 2);
    }
}

pub(super) fn narrow_kernels<L: Lanes>(simd: L) {
    let mut variant = 0;
    for channels in 1..=L::narrow().len() {
        for pixels in 1..=3 * L::LANES + 1 {
            for k in [0, 1, 3, 4, 6, 11] {
                let run = |strip: &Strip<'_>| L::narrow()[channels - 1](simd, strip);
                check_strip::<L>(pixels, k, channels, variant, run, "narrow kernel");
                variant += 1;
            }
        }
    }
}
