//! Writes the tables of micro-kernel instances, so that a tile shape is named once: here.

use std::{env, fmt::Write as _, fs, path::Path};

/// (table, token, the most pixels (MR) of a tile of 1, 2, 3 and 4 vectors (NV)). What limits them: the registers of each
/// ISA, explained at the head of its file in `src/kernel`.
const TILES: [(&str, &str, &str, [usize; 4]); 3] = [
    ("AVX512", "any(target_arch = \"x86\", target_arch = \"x86_64\")", "pulp::x86::V4", [16, 14, 9, 7]),
    ("AVX2", "any(target_arch = \"x86\", target_arch = \"x86_64\")", "pulp::x86::V3", [10, 6, 4, 3]),
    ("NEON", "target_arch = \"aarch64\"", "pulp::aarch64::Neon", [12, 8, 6, 5]),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut out = String::new();
    for (table, target, token, max_rows) in TILES {
        writeln!(out, "/// By NV - 1, then MR - 1.\n#[cfg({target})]").unwrap();
        writeln!(out, "pub(super) static {table}: [&[TileKernel<{token}>]; {}] = [", max_rows.len()).unwrap();
        for (i, max) in max_rows.into_iter().enumerate() {
            let row: Vec<String> = (1..=max).map(|mr| format!("kernel::<{token}, {mr}, {}>", i + 1)).collect();
            writeln!(out, "    &[{}],", row.join(", ")).unwrap();
        }
        writeln!(out, "];").unwrap();
    }
    let dir = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&dir).join("tiles.rs"), out).expect("OUT_DIR can be written");
}
