//! What a plan says, and that asking for one never fails in another way than by an error.

mod common;

use pointwise::{Error, Executor, Isa, IsaChoice, Kernel, Nhwc, NhwcMut, PointwiseConv, Tail, Tile};
use std::time::{Duration, Instant};

fn conv(k: usize, f: usize, isa: Isa) -> PointwiseConv {
    PointwiseConv::builder(k, f).isa(isa).build(&vec![0.0; k * f]).expect("it builds")
}

#[test]
fn numbers_of_a_layer() {
    for isa in common::isas() {
        let plan = conv(64, 256, *isa).plan([1, 56, 56, 64], &pointwise::Serial).unwrap();
        assert_eq!((plan.isa, plan.isa_choice, plan.threads), (*isa, IsaChoice::Forced, 1));
        assert_eq!(plan.flops, 2 * 56 * 56 * 64 * 256);
        assert_eq!(plan.input_bytes, 4 * 56 * 56 * 64);
        assert_eq!(plan.weight_bytes, 4 * 256 * (64 + 1));
        assert_eq!(plan.output_bytes, 4 * 56 * 56 * 256);
        assert_eq!(plan.kernel, Kernel::Tile);
        assert!(plan.tile.0 <= plan.block.0 && plan.tile.1 <= plan.block.1);
        // Chains that hide a multiply-add's latency of four cycles, two of which start in each.
        assert!(plan.tile.0 * plan.tile.1 >= 8 * isa.lanes(), "{plan}");
        assert!(plan.tasks >= 1);
        assert_eq!(conv(64, 256, *isa).plan([1, 56, 56, 64], &pointwise::Serial), Ok(plan));
    }
}

#[test]
fn a_stride_reads_fewer_pixels() {
    let conv = PointwiseConv::builder(8, 4).stride(2, 3).build(&[0.0; 32]).unwrap();
    let plan = conv.plan([2, 5, 7, 8], &pointwise::Serial).unwrap();
    assert_eq!((plan.input_bytes, plan.output_bytes), (4 * 2 * 3 * 3 * 8, 4 * 2 * 3 * 3 * 4));
}

#[test]
fn threads_share_large_runs_only() {
    let isa = Isa::detect().unwrap();
    assert_eq!(conv(16, 16, isa).plan([1, 4, 4, 16], &common::Threads(8)).unwrap().threads, 1);
    // 2^12 multiply-adds are worth a thread here: 16 x 16 for each pixel, or two groups of 8 x 16.
    assert_eq!(conv(16, 16, isa).plan([1, 8, 6, 16], &common::Threads(8)).unwrap().threads, 3);
    let groups = PointwiseConv::builder(16, 32).groups(2).build(&[0.0; 256]).unwrap();
    let plan = groups.plan([1, 8, 6, 16], &common::Threads(8)).unwrap();
    assert_eq!((plan.threads, plan.input_bytes, plan.weight_bytes), (3, 4 * 48 * 16, 4 * 2 * 16 * (8 + 1)));
    let plan = conv(512, 512, isa).plan([1, 28, 28, 512], &common::Threads(3)).unwrap();
    assert_eq!(plan.threads, 3);
    assert!(plan.tasks >= 3, "{plan}");
    // One pixel: only the output channels can be shared.
    let plan = conv(2048, 1024, isa).plan([1, 1, 1, 2048], &pointwise::Pool::new(2).unwrap()).unwrap();
    assert!(plan.threads == 2 && plan.tasks >= 2 && plan.block.1 < 1024, "{plan}");
}

#[test]
fn few_channels_take_the_narrow_kernel() {
    // On NEON's four lanes a tile is as fast.
    for isa in common::isas().iter().filter(|isa| **isa != Isa::Neon) {
        let plan = conv(32, 1, *isa).plan([1, 36, 36, 32], &pointwise::Serial).unwrap();
        assert_eq!(plan.kernel, Kernel::Narrow);
        assert!(plan.to_string().contains("lanes along pixels"), "{plan}");
    }
}

#[test]
fn half_a_vector_is_shared_by_two_pixels() {
    for isa in common::isas().iter().filter(|isa| **isa == Isa::Avx512) {
        let plan = conv(144, 24, *isa).plan([1, 56, 56, 144], &pointwise::Serial).unwrap();
        assert_eq!((plan.kernel, plan.tile.1), (Kernel::HalfTile, 24));
    }
}

#[test]
fn a_forced_tile_is_taken() {
    for isa in common::isas() {
        for tile in
            [Tile { pixels: 2, channels: 16, tail: Tail::Panel }, Tile { pixels: 1, channels: 32, tail: Tail::Panel }]
        {
            let builder = PointwiseConv::builder(8, 64).isa(*isa).tile(tile);
            let plan = builder.build(&[0.0; 512]).unwrap().plan([1, 4, 4, 8], &pointwise::Serial).unwrap();
            let expected =
                if *isa == Isa::Scalar { (1, 16) } else { (tile.pixels, tile.channels.min(4 * isa.lanes())) };
            assert_eq!(plan.tile, expected, "{isa}");
        }
    }
}

#[test]
fn it_prints_as_a_table() {
    let plan = conv(64, 64, Isa::Scalar).plan([1, 2, 2, 64], &pointwise::Serial).unwrap();
    let expected = "\
ISA      scalar (forced)
kernel   tile, lanes along output channels
tile     1 pixels x 16 output channels
tasks    1 of up to 4 pixels x 64 output channels
threads  1
FLOPs    32768, 1.8 a byte
bytes    18688: input 1024, weights 16640, output 1024";
    assert_eq!(plan.to_string(), expected);
}

/// Whatever the size of the output, its drawing fits a page, and shows where it ends.
#[test]
fn drawings_fit_a_page() {
    for isa in common::isas() {
        for (input, f) in [
            ([1, 1, 1, 3], 1),
            ([1, 7, 7, 64], 128),
            ([1, 14, 14, 64], 56),
            ([1, 56, 56, 64], 1000),
            ([1 << 10, 1 << 10, 1 << 10, 1], 40),
        ] {
            for threads in [1, 3] {
                let plan = conv(input[3], f, *isa).plan(input, &common::Threads(threads)).unwrap();
                let drawing = plan.drawing().to_string();
                let lines: Vec<&str> = drawing.lines().collect();
                assert!(lines.len() <= 40 && lines.iter().all(|line| line.len() <= 100), "{drawing}");
                let pixels: usize = input[..3].iter().product();
                assert!(lines[0].ends_with(&format!(" {f}")), "{drawing}");
                assert!(lines[lines.len() - 1].trim_start().starts_with(&format!("{pixels} +-")), "{drawing}");
                assert!(
                    drawing.contains("task 0") && drawing.contains(&format!("task {}", plan.tasks - 1)),
                    "{drawing}"
                );
            }
        }
    }
    let empty = conv(3, 2, Isa::Scalar).plan([0, 1, 1, 3], &pointwise::Serial).unwrap();
    assert_eq!(empty.drawing().to_string(), "no output");
}

/// Of a large output the first rows and columns, a gap, and the last ones, both ways.
#[test]
fn what_a_drawing_leaves_out() {
    let plan = conv(1, 320, Isa::Scalar).plan([1, 1, 100, 1], &pointwise::Serial).unwrap();
    let drawing = plan.drawing().to_string();
    let lines: Vec<&str> = drawing.lines().collect();
    let beginning = "
channels   0           16          32          48          64                304         320
kernel     | tile      | tile      | tile      | tile      | tile      | ... | tile      |
pixels   0 +-----------+-----------+-----------+-----------+-----------+     +-----------+
           | task 0    | task 0    | task 0    | task 0    | task 0    | ... | task 0    |
         1 +-----------+-----------+-----------+-----------+-----------+     +-----------+";
    let end = "
        15 +-----------+-----------+-----------+-----------+-----------+     +-----------+
           | task 0    | task 0    | task 0    | task 0    | task 0    | ... | task 0    |
           | ...       | ...       | ...       | ...       | ...       | ... | ...       |
        99 +-----------+-----------+-----------+-----------+-----------+     +-----------+
           | task 0    | task 0    | task 0    | task 0    | task 0    | ... | task 0    |
       100 +-----------+-----------+-----------+-----------+-----------+     +-----------+";
    assert_eq!(lines.len(), 38, "{drawing}");
    assert_eq!(lines[..5].join("\n"), beginning[1..], "{drawing}");
    assert_eq!(lines[32..].join("\n"), end[1..], "{drawing}");
}

/// Channels are counted through all groups, and each column names its kernel.
#[test]
fn a_drawing_of_groups() {
    let tile = Tile { pixels: 1, channels: 16, tail: Tail::Narrow };
    let builder = PointwiseConv::builder(2, 40).groups(2).isa(Isa::Scalar).tile(tile);
    let plan = builder.build(&[0.0; 40]).unwrap().plan([1, 1, 1, 2], &pointwise::Serial).unwrap();
    let expected = "
channels 0           16          20          36          40
kernel   | tile      | narrow    | tile      | narrow    |
pixels 0 +-----------+-----------+-----------+-----------+
         | task 0    | task 0    | task 0    | task 0    |
       1 +-----------+-----------+-----------+-----------+";
    assert_eq!(plan.drawing().to_string(), expected[1..]);
}

/// The names are those of the documentation.
#[cfg(feature = "serde")]
#[test]
fn plans_isas_and_tiles_are_data() {
    use serde_json::{from_value, json, to_value};

    let plan = conv(64, 64, Isa::Scalar).plan([1, 2, 2, 64], &pointwise::Serial).unwrap();
    let expected = json!({
        "isa": "scalar",
        "isa_choice": "forced",
        "kernel": "tile",
        "tile": [1, 16],
        "block": [4, 64],
        "tasks": 1,
        "threads": 1,
        "flops": 32768,
        "input_bytes": 1024,
        "weight_bytes": 16640,
        "output_bytes": 1024,
    });
    assert_eq!(to_value(&plan).unwrap(), expected);
    for isa in [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512] {
        assert_eq!(to_value(isa).unwrap(), isa.name());
        assert_eq!(from_value::<Isa>(json!(isa.name())).unwrap(), isa);
    }
    let choices = [IsaChoice::Detected, IsaChoice::Capped, IsaChoice::Forced];
    assert_eq!(to_value(choices).unwrap(), json!(["detected", "capped", "forced"]));
    let kernels = [Kernel::Tile, Kernel::HalfTile, Kernel::Narrow];
    assert_eq!(to_value(kernels).unwrap(), json!(["tile", "half_tile", "narrow"]));
    for (tail, name) in [(Tail::Panel, "panel"), (Tail::Half, "half"), (Tail::Narrow, "narrow")] {
        let (tile, data) =
            (Tile { pixels: 7, channels: 64, tail }, json!({ "pixels": 7, "channels": 64, "tail": name }));
        assert_eq!(to_value(tile).unwrap(), data);
        assert_eq!(from_value::<Tile>(data).unwrap(), tile);
    }
}

/// Shapes that no memory could hold, or just, or that a product of sizes would overflow for.
#[test]
fn absurd_shapes() {
    let large = 1usize << (usize::BITS / 2 - 3);
    let most = isize::MAX as usize / size_of::<f32>();
    for isa in common::isas() {
        for (k, f) in [(1, 1), (1, 8), (1, 40), (40, 1), (1024, 24), (0, 3), (3, 0)] {
            let conv = conv(k, f, *isa);
            for [n, h, w] in [
                [0, 1, 1],
                [large, large, 1],
                [1, large, large],
                [usize::MAX, 1, 1],
                [usize::MAX; 3],
                [large, 8, 1],
                [1, 1, most],
                [1, 1, most / 8],
            ] {
                for threads in [0, 1, 7, usize::MAX] {
                    let plan = conv.plan([n, h, w, k], &common::Threads(threads));
                    assert!(plan.is_err() || !plan.as_ref().unwrap().to_string().is_empty());
                    let _ = plan.map(|plan| plan.drawing().to_string());
                }
            }
        }
    }
}

/// Returns without having run anything.
struct Idle;

impl Executor for Idle {
    fn threads(&self) -> usize {
        4
    }

    fn work_per_thread(&self) -> usize {
        1
    }

    fn run(&self, _threads: usize, _work: &(dyn Fn(usize) + Sync)) {}
}

/// A million times as many pixels take as long to decide on, within what a busy machine adds.
#[test]
fn deciding_takes_as_long_for_many_pixels() {
    fn least(mut f: impl FnMut()) -> Duration {
        let time = |_| {
            let start = Instant::now();
            (0..20).for_each(|_| f());
            start.elapsed()
        };
        (0..500).map(time).min().unwrap_or_default()
    }
    // No page of it is ever touched.
    let mut y = vec![0.0; 1 << 26];
    for isa in common::isas() {
        let conv = conv(8, 1, *isa);
        let [few, many] = [[1, 1, 64, 8], [64, 1024, 1024, 8]].map(|shape| {
            let planned = least(|| drop(conv.plan(shape, &Idle)));
            let decided = least(|| {
                let x = Nhwc::with_strides(&[0.0; 8], shape, [0; 3]).unwrap();
                let [n, h, w, _] = shape;
                let y = NhwcMut::new(&mut y[..n * h * w], [n, h, w, 1]).unwrap();
                assert!(matches!(conv.run_with(&Idle, x, y), Err(Error::Executor { actual: 0, .. })));
            });
            [planned, decided]
        });
        println!("{isa}: 20 plans and 20 runs that do nothing: {few:?}; with 2^20 times as many pixels {many:?}");
        assert!(few.into_iter().zip(many).all(|(few, many)| many < 8 * few), "{isa}: {few:?}, {many:?}");
    }
}
