//! Writes the tables of micro-kernel instances, so that a shape is named once: here.

use std::{env, fmt::Write as _, fs, path::Path};

/// The kernels of an ISA. What limits them, its registers, is explained at the head of its file in `src/kernel`.
struct Isa {
    /// Which targets have it.
    target: &'static str,
    /// The type of its lanes.
    lanes: &'static str,
    /// Prefix of its tables.
    name: &'static str,
    /// The most pixels (MR) of a tile of 1, 2, 3 and so on vectors (NV).
    max_rows: &'static [usize],
    /// The most pixels of a tile of one and a half vectors; 0 where there are none.
    max_half_rows: usize,
    /// How two of these pixels, of so many, share a vector.
    half: fn(usize) -> &'static str,
    /// Of how many of its pixels a tile of MR by NV holds quads in registers. The other pixels' values are broadcast from memory,
    /// one load each.
    quads: fn(usize, usize) -> usize,
    /// The most output channels of a narrow kernel; 0 where there are none.
    narrow: usize,
}

const X86: &str = "any(target_arch = \"x86\", target_arch = \"x86_64\")";

/// Of an ISA that has no more than it must.
const PLAIN: Isa = Isa {
    target: "all()",
    lanes: "",
    name: "",
    max_rows: &[],
    max_half_rows: 0,
    half: |_| "BLENDED",
    quads: |_, _| 0,
    narrow: 0,
};

const ISAS: [Isa; 6] = [
    Isa {
        target: X86,
        lanes: "pulp::x86::V4",
        name: "AVX512",
        max_rows: &[14, 14, 9, 7],
        max_half_rows: 14,
        quads: |mr, nv| if nv == 1 && mr >= 10 { 3 } else { 0 },
        narrow: 10,
        ..PLAIN
    },
    // Where shuffles do not pay.
    Isa {
        target: X86,
        lanes: "pulp::x86::V4",
        name: "AVX512_BROADCAST",
        max_rows: &[11],
        max_half_rows: 12,
        half: |mr| if mr < 8 { "BLENDED" } else { "PAIRED" },
        ..PLAIN
    },
    Isa { target: X86, lanes: "pulp::x86::V3", name: "AVX2", max_rows: &[8, 6, 4, 3], narrow: 10, ..PLAIN },
    Isa {
        target: "target_arch = \"aarch64\"",
        lanes: "pulp::aarch64::Neon",
        name: "NEON",
        max_rows: &[12, 8, 6, 5],
        quads: |mr, _| mr,
        narrow: 8,
        ..PLAIN
    },
    Isa { lanes: "super::Scalar", name: "SCALAR", narrow: 15, ..PLAIN },
    Isa { target: "test", lanes: "super::toy::Toy", name: "TOY", max_rows: &[2, 2, 2, 2], narrow: 2, ..PLAIN },
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let (mut tiles, mut narrow) = (String::new(), String::new());
    for Isa { target, lanes, name, max_rows, max_half_rows, half, quads, narrow: channels } in ISAS {
        let row = |max: usize, nv: usize, last: &dyn Fn(usize) -> &'static str| {
            let kernel = |mr| format!("TileKernel::<{lanes}>::new::<{mr}, {nv}, {}, {}>()", quads(mr, nv), last(mr));
            (1..=max).map(kernel).collect::<Vec<_>>().join(", ")
        };
        if !max_rows.is_empty() {
            writeln!(tiles, "/// By NV - 1, then MR - 1.\n#[cfg({target})]").unwrap();
            writeln!(tiles, "pub(super) static {name}: [&[TileKernel<{lanes}>]; {}] = [", max_rows.len()).unwrap();
            for (i, max) in max_rows.iter().enumerate() {
                writeln!(tiles, "    &[{}],", row(*max, i + 1, &|_| "WHOLE")).unwrap();
            }
            writeln!(tiles, "];").unwrap();
        }
        if max_half_rows > 0 {
            writeln!(tiles, "/// By MR - 1.\n#[cfg({target})]").unwrap();
            let row = row(max_half_rows, 2, &half);
            writeln!(tiles, "pub(super) static {name}_HALF: &[TileKernel<{lanes}>] = &[{row}];").unwrap();
        }
        if channels > 0 {
            let row: Vec<String> = (1..=channels).map(|f| format!("kernel::<{lanes}, {f}>")).collect();
            writeln!(narrow, "/// By F - 1.\n#[cfg({target})]").unwrap();
            writeln!(
                narrow,
                "pub(super) static {name}: [super::NarrowKernel<{lanes}>; {channels}] = [{}];",
                row.join(", ")
            )
            .unwrap();
        }
    }
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for (file, text) in [("tiles.rs", tiles), ("narrow.rs", narrow)] {
        fs::write(Path::new(&out).join(file), text).expect("OUT_DIR can be written");
    }
}
