# The loop of a change. `just ci` is all of it, as it runs before a change is taken.

# All tests, on every ISA that this CPU has
test *args:
    cargo test --all-features {{args}}

# What an ISA's lanes and kernels must do: scalar, avx2, avx512, or neon on an emulated CPU
test-isa name:
    POINTWISE_TEST_ISAS={{name}} {{if name == "neon" { "cargo-aarch64" } else { "cargo" } }} test --lib kernel::{{name}}

# The documentation with the book, without a broken link
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --all-features

# A million random convolutions, or so many, by every ISA and executor: no bit may differ
exact cases="1000000":
    PROPTEST_CASES={{cases}} cargo test --release --all-features --test exact -- --ignored --nocapture

lint:
    cargo fmt --check
    cargo clippy --all-targets --all-features -- -D warnings

# Looks for vectors on the stack and slow k loops; `just asm x86_64 AVX512 7 4` also prints that tile's k loop
asm *args:
    .ci/inner-loops {{args}}

# Times the benchmarks whose name holds this
bench-shape name:
    cargo bench --bench convolution -- '{{name}}'

# Whether the working tree is faster or slower than this commit, where a benchmark's name matches
bench-compare base filter="":
    benches/compare '{{base}}' '{{filter}}'

# Counts instructions as CI does; `just instructions --renew` writes them down
instructions *args:
    .ci/instructions {{args}}

# The lines of src/ that the tests run and those that they do not, by file; needs cargo-llvm-cov and LLVM's tools
coverage *args:
    .ci/coverage {{args}}

# Other Rust crates on the layers of networks
rivals *args:
    cargo run --release --manifest-path benches/rivals/Cargo.toml -- {{args}}

# Makes include/pointwise.h of src/capi.rs
header:
    cargo cinstall --release --prefix "{{justfile_directory()}}/target/capi"
    cp target/capi/include/pointwise.h include/

# What C, C++ and Python do with the library
test-c: header
    tests/c/run target/capi

# Fuzzes these targets, or all, each for so many seconds
fuzz seconds="60" *targets:
    fuzz/run {{seconds}} {{targets}}

# Changes one thing after the other, and lists what no test noticed: hours, or the first of eight parts with `just mutants 0/8`
mutants part="0/1" *args:
    PROPTEST_CASES=16 cargo mutants --sharding round-robin --shard {{part}} {{args}}

ci:
    .ci/run
