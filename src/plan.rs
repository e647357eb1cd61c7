//! From a shape, an ISA and a number of threads to a register tile, blocks and tasks. The numbers that these are tuned by stand
//! here; those of a kernel stand with it, those of a thread pool in `pool`.

use crate::{
    Error, Isa, IsaChoice, Shape,
    environment::in_default,
    isa::{Token, with_lanes},
    kernel::{Lanes, PANEL, Row, TileKernel, narrow},
    view::{self, Lines},
};
use core::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What things cost a core, in eighths of a cycle: whole numbers, because a small run would feel conversions to floating
/// point.
struct Tuning {
    /// A multiply-add of a vector.
    fma: usize,
    /// A load of a vector.
    load: usize,
    /// A multiply-add from its start to its result: the least that one k of a tile takes.
    latency: usize,
    /// What a shuffle takes from the multiply-adds.
    shuffle: usize,
    /// Each pixel of a tile of interleaved ones, for the first of its values and for what separates the sums.
    interleaved: usize,
    /// Each chain fewer than 12, of 7 and more, for the gaps between them.
    gap: usize,
    /// Three multiply-adds of the narrow kernel behind tiles, which its shuffles hold up.
    narrow_behind: usize,
    /// Two values of a pixel that come from L2.
    far_values: usize,
    /// A vector of a panel that does not stay in L1: the least that its k takes.
    far_vector: usize,
    /// Four values of a pixel that do not stay in L1: what the narrow kernel waits for them, if it does not load ahead.
    far_quad: usize,
    /// An input of more bytes is prefetched by the narrow kernel.
    prefetch_input: usize,
    /// An input of more pixels for each of its channels is prefetched by tiles.
    prefetch_pixels: usize,
    /// Bytes of the panels that tiles run across, which stay in the L1 cache.
    across: usize,
    /// The most accumulators of a tile: what there is to choose from.
    accumulators: &'static [usize],
    /// A tile of any size.
    tile: usize,
    /// As many vectors a tile stores while other multiply-adds go on; each further one costs `store`.
    hidden_stores: usize,
    store: usize,
    /// Two stores of half a vector each are cheaper than one.
    halves_stores: bool,
    /// Each vector of a tile whose output channels are not all there, if it is finished out of line.
    partial: usize,
    /// Each pixel of a tile beyond 8, for their addresses.
    pixel: usize,
    /// What these are at least where a tile is one vector wide and quads are shuffled.
    quads: usize,
    /// A call of a kernel: its setup, and the end that overlaps with nothing.
    call: usize,
    /// LANES pixels of the narrow kernel, whatever K is, and more of that for each of its output channels.
    group: usize,
    channel: usize,
}

/// More accumulators than any tile has, and as many as a memo can hold.
const ANY: usize = 31;

/// More than any tile costs otherwise.
const NEVER: usize = 1 << 30;

/// Of a CPU of which nothing else is known.
const PLAIN: Tuning = Tuning {
    fma: 4,
    load: 4,
    latency: 32,
    shuffle: 0,
    interleaved: 0,
    gap: 1,
    narrow_behind: 16,
    far_values: 1,
    far_vector: 0,
    far_quad: 0,
    prefetch_input: 2 * BLOCK_BYTES,
    prefetch_pixels: 0,
    across: 0,
    accumulators: &[ANY],
    tile: 0,
    hidden_stores: usize::MAX,
    store: 8,
    halves_stores: false,
    partial: 40,
    pixel: 0,
    quads: 0,
    call: 320,
    group: 0,
    channel: 0,
};

/// Two multiply-adds and two loads start in a cycle, as on Zen 5 and on Intel's server cores. Zen 4 starts one and one of 512
/// bits, which scales every tile's cost alike and so leaves the choice as it is. Latency is 4 cycles on all of them, and on
/// Neoverse and Apple's cores, which have 2 to 4 multiply-adds and 2 to 3 loads of 128 bits a cycle. What stores, calls and
/// groups cost was measured on Zen 5, over tiles of all sizes and K from 8 to 512: with AVX-512, 28 accumulators take 14
/// cycles more than their multiply-adds, 16 take 2; with AVX2 no tile is large enough for that.
///
/// Intel's server cores, measured on Sapphire Rapids, shuffle 512 bits in a pipe of the multiply-adds, and get a vector from L2
/// every 2.75 cycles. A call costs more there, and stores hide worse: 4 x 64 tiles beat 5 x 48 and 7 x 32 by 5 to 14 % where
/// few k's lead from few pixels to many channels. Where more k's go by, larger tiles win, for each of them costs something:
/// 28x28x128 to 512 channels by 6 x 64 in place of 5 x 48 take 6 % less time, 14x14x96 to 576 by 6 x 64 in place of 4 x 64 3 %.
/// Tiles run across as long as the panels of two chunks stay in L1: up to K = 63 by 64 channels, and by 32 with AVX2. With AVX-512
/// outputs from 28 KB to 5 MB take 15 % less time so where each run writes another one, and 3 % where all write the same; with
/// AVX2 those of up to 24 input channels take 10 % less, and 1 to 2 % more. At K = 64, by 64 channels, it would cost 3 %. The
/// narrow kernel waits for inputs from L2 too: prefetched, 324 pixels of 64 to 1 channel take a sixth less with AVX-512, a
/// twentieth with AVX2. With ten channels, whose loads cannot run ahead, it still waits longer than tiles, which take a seventh
/// less from K = 480 on. Interleaved pixels pay from K = 48 on; below, tiles of 7 pixels without are up to a third faster, which
/// 11 accumulators lead to.
///
/// Intel's cores before those, measured on Cascade Lake, load two vectors a cycle with prefetches counted, of which later ones
/// have a pipe more. Without any, 14x14x480 and 28x28x192 to 16 channels take 5 to 7 % less time, 14x14x528 to 32 5 %, most
/// others of 160 and more input channels 1 to 3 %, for the hardware prefetches the values of a pixel behind its first lines; but
/// 112x112x32 to 16 takes 13 % more, 56x56x96 and 144 to 24 a fifth. From 49 to 12544 pixels of 32 to 2056 channels, what is
/// faster depends on their ratio. With AVX2 it is the same, by 1 to 3 and 3 to 12 %. Interleaved pixels never pay where they do
/// not begin with a cache line: with 24 channels tiles of 7 pixels take 6 to 10 % less time up to K of about 250, whole vectors
/// a tenth to a quarter from there on. What else differs was fitted to 1200 shapes, and checked on 600 others: of these the plan
/// lost 3.1 % to the best tiles with AVX2, and now 0.9, with AVX-512 2.6, and now 2.5.
fn tuning<L: Lanes>(isa: Isa) -> Tuning {
    match isa {
        Isa::Scalar => Tuning { latency: 4, partial: 0, call: 0, ..PLAIN },
        Isa::Neon => Tuning { group: 40, channel: 4, ..PLAIN },
        Isa::Avx2 => {
            let all = Tuning { group: 80, channel: 8, ..PLAIN };
            let intel = Tuning { prefetch_input: 0, across: 16 << 10, ..all };
            if L::is_older_intel() {
                Tuning { gap: 0, narrow_behind: 26, far_values: 0, prefetch_pixels: 10, ..intel }
            } else if L::is_intel() {
                intel
            } else {
                all
            }
        }
        Isa::Avx512 => {
            let all =
                Tuning { accumulators: &[ANY, 16], hidden_stores: 14, pixel: 16, group: 160, channel: 16, ..PLAIN };
            let intel = Tuning {
                shuffle: 4,
                interleaved: 60,
                far_vector: 22,
                far_quad: 3,
                prefetch_input: 0,
                across: 32 << 10,
                accumulators: &[ANY, 16, 11],
                tile: 128,
                hidden_stores: 6,
                call: 800,
                ..all
            };
            if L::is_older_intel() {
                Tuning { interleaved: NEVER, narrow_behind: 18, prefetch_pixels: 10, ..intel }
            } else if L::is_intel() {
                intel
            } else {
                Tuning { quads: 160, halves_stores: true, ..all }
            }
        }
    }
}

/// Bytes of a chunk's panels, or of pixels, that stay in any L1 cache beside the other.
const L1_BYTES: usize = 24 << 10;

/// Bytes that a block aims at, of its input pixels and of the output channels that one tile writes for them: half of the
/// smallest L2 of the CPUs in question (512 KiB), so that the block and the panels that stream past it stay there. On Zen 5
/// with 1 MiB, half as much and twice as much are up to 3 % slower. With all output channels where tiles run across them.
const BLOCK_BYTES: usize = 256 << 10;

/// Panels of more bytes come from beyond the L2 cache, of 1 MiB on Zen and 2 MiB on Intel's server cores, each time that a block
/// needs them: those of the next chunk are prefetched while one is computed. On the latter, 49 pixels of 2048 to 512 channels
/// gain 10 %; where panels of 1 MiB do stay in the cache, prefetching them instead of pixels loses 3 %.
const NEAR_PANEL_BYTES: usize = 1 << 20;

/// Pixels of a block at least where panels are that far: each block fetches them anew. On Sapphire Rapids, 49 pixels of 2048 to
/// 512 channels gain 15 % in one block in place of two, of 4096 to 1024 in place of four 37 %.
const FAR_PANEL_PIXELS: usize = 64;

/// Tasks a thread, so that it can be helped if it comes late or is held up. With four, layers of 20 to 60 us lose 1 % on two
/// threads.
const TASKS_PER_THREAD: usize = 2;

/// Pixels at least of each of those tasks, if they share channels: with two of 49 pixels in place of one of 98, which have lower
/// tiles and read all panels twice, 14x14 layers take up to 5 % longer on two threads.
const HELP_PIXELS: usize = 128;

/// Pixels a thread, two of the tallest tiles, from which on threads share the pixels rather than the channels. Those who share
/// channels write to the same cache lines where an output is not aligned to them: 196 pixels of 64 to 384 channels take 12 %
/// longer so.
const PIXELS_PER_THREAD: usize = 28;

/// Rows whose distance is a multiple of 4 KiB share one set of an L1 cache of 64 sets; more of them than it has ways (8 on
/// Zen 4, 12 on Zen 5) push each other out. One way is left for the panels.
const ROWS_OF_A_SET: usize = 7;

/// Which kind of kernel computes some output channels.
///
/// # Example
/// ```
/// use pointwise::{Isa, Kernel, PointwiseConv, Serial};
/// let mask = PointwiseConv::builder(32, 1).isa(Isa::Scalar).build(&[0.0; 32])?;
/// assert_eq!(mask.plan([1, 36, 36, 32], &Serial)?.kernel, Kernel::Narrow);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Kernel {
    /// Register tiles of pixels by output channels, lanes along output channels.
    Tile,
    /// The same, one and a half vectors wide: two pixels share a vector for the half.
    HalfTile,
    /// For few output channels: lanes along pixels.
    Narrow,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kernel::Tile => "tile",
            Kernel::HalfTile => "half tile",
            Kernel::Narrow => "narrow",
        })
    }
}

/// How to cut a convolution into register tiles, where the plan shall not choose: to find out what its choices lose on a CPU,
/// as the example `tune` does. The bits are the same.
///
/// # Example
/// ```
/// use pointwise::{Isa, PointwiseConv, Serial, Tail, Tile};
/// let tile = Tile { pixels: 1, channels: 16, tail: Tail::Panel };
/// let conv = PointwiseConv::builder(8, 40).isa(Isa::Scalar).tile(tile).build(&[0.0; 320])?;
/// assert_eq!(conv.plan([1, 4, 4, 8], &Serial)?.tile, (1, 16));
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tile {
    /// The most pixels of a tile; no more than the ISA has a kernel for are taken.
    pub pixels: usize,
    /// The most output channels of a tile, in full panels of 16; at least one panel and no more than the ISA has a kernel for
    /// are taken.
    pub channels: usize,
    /// What computes the channels behind the last full panel, where the ISA has a kernel of that kind for them.
    pub tail: Tail,
}

/// What computes the output channels that are left when panels of 16 are full.
///
/// # Example
/// ```
/// use pointwise::{Isa, Kernel, PointwiseConv, Serial, Tail, Tile};
/// for (tail, kernel) in [(Tail::Panel, Kernel::Tile), (Tail::Narrow, Kernel::Narrow)] {
///     let tile = Tile { pixels: 1, channels: 16, tail };
///     let conv = PointwiseConv::builder(8, 3).isa(Isa::Scalar).tile(tile).build(&[0.0; 24])?;
///     assert_eq!(conv.plan([1, 4, 4, 8], &Serial)?.kernel, kernel);
/// }
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Tail {
    /// Tiles, as of one more panel, though partly empty.
    #[default]
    Panel,
    /// Tiles one and a half vectors wide, which take the last full panel as well. AVX-512 has them, for up to 8 channels.
    Half,
    /// A narrow kernel, for up to 8 channels or a few more.
    Narrow,
}

impl Tail {
    const ALL: [Self; 3] = [Tail::Panel, Tail::Half, Tail::Narrow];

    /// Whether there is a kernel for the channels behind the last full panel of `f`.
    fn exists<L: Lanes>(self, f: usize) -> bool {
        match self {
            Tail::Panel => true,
            Tail::Half => !L::half_tiles(false).is_empty() && f > PANEL && (1..=PANEL / 2).contains(&(f % PANEL)),
            Tail::Narrow => (1..=L::narrow().len()).contains(&(f % PANEL)),
        }
    }

    /// The panels before it.
    fn panels(self, f: usize) -> usize {
        match self {
            Tail::Panel => f.div_ceil(PANEL),
            Tail::Half => (f / PANEL).saturating_sub(1),
            Tail::Narrow => f / PANEL,
        }
    }
}

/// How one run is cut into tasks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub threads: usize,
    /// Of all convolutions and groups.
    all_chunks: usize,
    chunk_blocks: usize,
    lines: usize,
    line_blocks: usize,
    pixels: usize,
    pixel_blocks: usize,
    /// Blocks of pixels are multiples of this, but for the first.
    tile_rows: usize,
}

/// How the output channels of a convolution are cut: each group's into chunks, each computed by one kernel. Some panels by
/// tiles, in chunks of nearly equal width, and what is left by a kernel of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cut {
    /// Channels of a group.
    in_channels: usize,
    out_channels: usize,
    groups: usize,
    /// Of a group.
    panels: usize,
    /// Chunks of these panels, how many panels each has, and how many chunks, the first ones, have one more.
    chunks: usize,
    chunk_panels: usize,
    wider_chunks: usize,
    tail: Tail,
    /// The panels do not fit in the L2 cache.
    pub far_panels: bool,
    /// The narrow kernel prefetches its input, and tiles do.
    narrow_prefetches: bool,
    tiles_prefetch: bool,
    /// Across how many chunks tiles run before they go down the pixels.
    side_by_side: usize,
    /// Tiles store vectors by halves.
    pub halves_stores: bool,
    /// No tile should have more pixels, or more accumulators.
    most_rows: usize,
    most_accumulators: usize,
}

/// What is chosen for a number of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    /// The most panels of a chunk, 1 to 4.
    panels: usize,
    tail: Tail,
    /// No tile has more.
    accumulators: usize,
}

/// The last choice, and for which number of pixels: choosing takes as long as a small run. It only ever repeats what would be
/// chosen, so that a race decides nothing.
#[derive(Debug, Default)]
pub(crate) struct Memo(AtomicUsize);

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self(AtomicUsize::new(self.0.load(Ordering::Relaxed)))
    }
}

/// Some output channels of a group, and the kernel that computes them.
pub(crate) struct Chunk {
    pub group: usize,
    pub channels: Range<usize>,
    pub kernel: Kernel,
}

impl Chunk {
    /// The kernels of its tiles, for 1, 2, 3 and so on pixels.
    pub fn tiles<L: Lanes>(&self) -> &'static [TileKernel<L>] {
        match self.kernel {
            Kernel::HalfTile => L::half_tiles(L::is_intel()),
            _ => L::tiles(self.channels.len().div_ceil(L::LANES), L::is_intel()),
        }
    }
}

/// What a task covers: all of these lines, of each these pixels, of each these chunks of output channels.
pub(crate) struct Block {
    pub chunks: Range<usize>,
    pub lines: Range<usize>,
    pub pixels: Range<usize>,
}

/// `(a / b, a % b)`. A small run is one of everything, and its dozen divisions took as long as all else.
fn divide(a: usize, b: usize) -> (usize, usize) {
    if b == 1 {
        (a, 0)
    } else if a < b {
        (0, a)
    } else {
        (a / b, a % b)
    }
}

/// [`usize::div_ceil`], likewise.
pub(crate) fn divide_up(a: usize, b: usize) -> usize {
    let (quotient, rest) = divide(a, b);
    quotient + usize::from(rest > 0)
}

/// The `i`-th of `parts` nearly equal parts of `0..total`, the larger ones spread evenly: it starts at `i * total / parts`,
/// rounded down.
pub(crate) fn part(total: usize, parts: usize, i: usize) -> Range<usize> {
    let (size, rest) = divide(total, parts);
    let start = |i| i * size + if rest == 0 { 0 } else { (i as u128 * rest as u128 / parts as u128) as usize };
    start(i)..start(i + 1)
}

/// Which of these parts `x` lies in.
fn part_of(total: usize, parts: usize, x: usize) -> usize {
    (((x as u128 + 1) * parts as u128 - 1) / total as u128) as usize
}

impl Schedule {
    /// For convolutions of the same input, and their lines, of which there are some. `work` is what an executor's thread is
    /// worth waking for, `tile_rows` the most pixels of their tiles.
    pub fn new<'a>(
        cuts: impl Iterator<Item = &'a Cut> + Clone,
        lines: &Lines,
        (threads, work): (usize, usize),
        tile_rows: impl FnOnce() -> usize,
    ) -> Self {
        let (count, pixels) = (lines.count(), lines.line.size);
        // Blocks of pixels that fit in the cache.
        let pixel_values = cuts.clone().map(|cut| cut.in_channels.saturating_add(cut.block_channels())).max();
        let pixel_bytes = pixel_values.unwrap_or(0).saturating_mul(size_of::<f32>());
        let least = if cuts.clone().any(|cut| cut.far_panels) { FAR_PANEL_PIXELS } else { ROWS_OF_A_SET };
        let block = (BLOCK_BYTES / pixel_bytes.max(1)).max(least);
        let mut schedule = Self {
            threads: 1,
            all_chunks: cuts.clone().map(Cut::chunks).sum(),
            chunk_blocks: 1,
            lines: count,
            line_blocks: divide_up(count, divide(block, pixels).0.max(1)),
            pixels,
            pixel_blocks: divide_up(pixels, block),
            tile_rows: 1,
        };
        if threads > 1 {
            let of_a_pixel = |cut: &Cut| cut.in_channels.saturating_mul(cut.out_channels * cut.groups);
            let multiply_adds =
                cuts.clone().map(of_a_pixel).fold(0, usize::saturating_add).saturating_mul(pixels * count);
            schedule.threads = threads.min(multiply_adds / work.max(1)).max(1);
        }
        if schedule.threads > 1 {
            let unequal =
                cuts.clone().count() > 1 || cuts.clone().any(|cut| cut.wider_chunks > 0 || cut.tail != Tail::Panel);
            schedule.spread(unequal, cuts.clone().any(|cut| cut.side_by_side > 1));
            schedule.threads = schedule.threads.min(schedule.tasks());
        } else if schedule.pixel_blocks > 1 {
            // Full tiles, for each reads all panels: 196 pixels of 1024 to 256 or 512 channels take 2 % less time on an Intel core
            // with 1 MiB of L2. Threads are better off with as many pixels each.
            schedule.pixel_blocks = schedule.pixel_blocks.min(divide(pixels, least).0.max(1));
            let rows = tile_rows();
            schedule.tile_rows = if divide_up(pixels, rows) < schedule.pixel_blocks { 1 } else { rows };
        }
        schedule
    }

    /// Cuts finer until there is a task for each thread, and as many for each: first between pixels, if there are enough of them,
    /// or if `unequal` chunks are all that there is. Then once more, so that a thread can be helped, where that costs next to
    /// nothing: between chunks, unless tiles run `across` them, or between many pixels.
    fn spread(&mut self, unequal: bool, across: bool) {
        let few_pixels = self.lines.saturating_mul(self.pixels) < self.threads.saturating_mul(PIXELS_PER_THREAD);
        let (chunks, rest) = divide(self.all_chunks, self.threads);
        if few_pixels && (chunks >= 4 || rest == 0 && !unequal) {
            self.cut_channels();
        }
        self.cut_pixels(1, 2 * ROWS_OF_A_SET);
        self.cut_channels();
        if !across {
            self.chunk_blocks = self.finer(self.chunk_blocks, TASKS_PER_THREAD, self.all_chunks);
        }
        self.cut_pixels(TASKS_PER_THREAD, HELP_PIXELS);
    }

    /// So many blocks or more, up to `most`, so that each thread has `per_thread` tasks or more, and as many as the others if
    /// that can be. An odd one out does not matter among many.
    fn finer(&self, blocks: usize, per_thread: usize, most: usize) -> usize {
        let (tasks, threads) = (self.tasks(), self.threads);
        if tasks / threads >= 8 * TASKS_PER_THREAD {
            return blocks;
        }
        let (others, wanted) = (tasks / blocks, threads.saturating_mul(per_thread));
        // As many for each thread are multiples of the threads without their common divisor with the other blocks.
        let (mut divisor, mut rest) = (threads, others);
        while rest > 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        let step = threads / divisor;
        let finer = blocks.max(wanted.div_ceil(others));
        let finer = finer.checked_next_multiple_of(step).unwrap_or(finer).min(most).max(blocks);
        let even = finer - finer % step;
        if even >= blocks { even } else { finer }
    }

    fn cut_channels(&mut self) {
        // Chunks do not divide: nearly as many blocks as chunks would be uneven.
        let blocks = self.finer(self.chunk_blocks, 1, self.all_chunks);
        self.chunk_blocks = if blocks > 1 && self.all_chunks / 2 <= blocks { self.all_chunks } else { blocks };
    }

    /// First between lines, then each line, into blocks of at least so many pixels.
    fn cut_pixels(&mut self, per_thread: usize, least: usize) {
        let most = divide_up(self.lines.saturating_mul(self.pixels), least).min(self.lines);
        self.line_blocks = self.finer(self.line_blocks, per_thread, most);
        self.pixel_blocks = self.finer(self.pixel_blocks, per_thread, self.pixels / least);
    }

    pub fn tasks(&self) -> usize {
        self.chunk_blocks * self.line_blocks * self.pixel_blocks
    }

    pub fn block(&self, task: usize) -> Block {
        let (rest, chunk_block) = divide(task, self.chunk_blocks);
        let (line_block, pixel_block) = divide(rest, self.pixel_blocks);
        Block {
            chunks: part(self.all_chunks, self.chunk_blocks, chunk_block),
            lines: part(self.lines, self.line_blocks, line_block),
            pixels: match self.tile_rows {
                1 => part(self.pixels, self.pixel_blocks, pixel_block),
                _ => self.whole_tiles(pixel_block),
            },
        }
    }

    /// The pixels of a block. Out of line: a small run has one block, and would feel more code.
    #[inline(never)]
    fn whole_tiles(&self, pixel_block: usize) -> Range<usize> {
        let (tiles, missing) = self.tiles();
        let tiles = part(tiles, self.pixel_blocks, pixel_block);
        (tiles.start * self.tile_rows).saturating_sub(missing)..tiles.end * self.tile_rows - missing
    }

    /// Of a line, and how many pixels its first one has less than the others.
    fn tiles(&self) -> (usize, usize) {
        let tiles = divide_up(self.pixels, self.tile_rows);
        (tiles, tiles * self.tile_rows - self.pixels)
    }

    /// The task whose block has this chunk of this pixel of a line.
    fn task_of(&self, chunk: usize, line: usize, pixel: usize) -> usize {
        let line_block = part_of(self.lines, self.line_blocks, line);
        let (tiles, missing) = self.tiles();
        let pixel_block = part_of(tiles, self.pixel_blocks, (pixel + missing) / self.tile_rows);
        let chunk_block = part_of(self.all_chunks, self.chunk_blocks, chunk);
        (line_block * self.pixel_blocks + pixel_block) * self.chunk_blocks + chunk_block
    }
}

/// `pixels` is 1 or more.
fn split(max_rows: usize, pixels: usize) -> [(usize, usize); 2] {
    let tiles = divide_up(pixels, max_rows);
    let (rows, larger) = divide(pixels, tiles);
    if larger == 0 { [(rows, tiles), (0, 0)] } else { [(rows + 1, larger), (rows, tiles - larger)] }
}

/// The widest chunk of panels that has a kernel: four vectors, or one panel.
const fn widest<L: Lanes>() -> usize {
    if L::LANES < PANEL / 4 { 1 } else { 4 * L::LANES / PANEL }
}

impl Choice {
    /// As near to the tile as there are kernels.
    fn forced<L: Lanes>(tile: Tile, f: usize) -> Self {
        let panels = (tile.channels / PANEL).clamp(1, widest::<L>());
        let tail = if tile.tail.exists::<L>(f) { tile.tail } else { Tail::Panel };
        Self { panels, tail, accumulators: ANY }
    }
}

impl Memo {
    /// Of a choice and whether rows conflict, below the number of pixels.
    const BITS: u32 = 11;

    fn get(&self, pixels: usize, conflict: bool) -> Option<Choice> {
        let memo = self.0.load(Ordering::Relaxed);
        (memo >> Self::BITS == pixels && (memo >> 10 & 1 == 1) == conflict).then(|| Choice {
            panels: memo & 7,
            tail: Tail::ALL[(memo >> 3 & 3).min(2)],
            accumulators: memo >> 5 & 31,
        })
    }

    fn set(&self, pixels: usize, conflict: bool, choice: Choice) {
        if pixels <= usize::MAX >> Self::BITS {
            let Choice { panels, tail, accumulators } = choice;
            let bits = panels | (tail as usize) << 3 | accumulators << 5 | usize::from(conflict) << 10;
            self.0.store(pixels << Self::BITS | bits, Ordering::Relaxed);
        }
    }
}

impl Cut {
    /// For the lines of a run, of which there are some. The channels are those of one group.
    pub fn new((token, tile, memo): (Token, Option<Tile>, &Memo), sizes: [usize; 3], lines: &Lines) -> Self {
        with_lanes!(token, simd => Self::of_lanes(simd, (token.isa(), tile, memo), sizes, lines))
    }

    fn of_lanes<L: Lanes>(
        _: L,
        (isa, tile, memo): (Isa, Option<Tile>, &Memo),
        [k, f, groups]: [usize; 3],
        lines: &Lines,
    ) -> Self {
        let pixels = lines.line.size;
        let conflict = lines.line.x > 0 && (lines.line.x * size_of::<f32>()).is_multiple_of(4096);
        let most_rows = match tile {
            Some(tile) => tile.pixels.max(1),
            None if conflict => ROWS_OF_A_SET,
            None => usize::MAX,
        };
        let tuning = tuning::<L>(isa);
        let Choice { panels: widest, tail, accumulators: most_accumulators } = match tile {
            Some(tile) => Choice::forced::<L>(tile, f),
            None => memo.get(pixels, conflict).unwrap_or_else(|| {
                let choice = choose::<L>(&tuning, most_rows, k, f, pixels);
                memo.set(pixels, conflict, choice);
                choice
            }),
        };
        let panels = tail.panels(f);
        // Of so many channels a group, of all pixels.
        let bytes =
            |channels: usize| channels.saturating_mul(groups * pixels * size_of::<f32>()).saturating_mul(lines.count());
        let chunks = divide_up(panels, widest);
        let (chunk_panels, wider_chunks) = divide(panels, chunks.max(1));
        let side_by_side = if chunks > 1 && tile.is_none() {
            let widest = chunk_panels + wider_chunks.min(1);
            divide(tuning.across, widest * (k + 1) * size_of::<Row>()).0
        } else {
            1
        };
        Self {
            in_channels: k,
            out_channels: f,
            groups,
            panels,
            chunks,
            chunk_panels,
            wider_chunks,
            tail,
            side_by_side: side_by_side.max(1),
            halves_stores: tuning.halves_stores,
            narrow_prefetches: bytes(k) > tuning.prefetch_input,
            tiles_prefetch: pixels.saturating_mul(lines.count()) > tuning.prefetch_pixels.saturating_mul(k),
            far_panels: k * f * groups * size_of::<f32>() > NEAR_PANEL_BYTES,
            most_rows,
            most_accumulators,
        }
    }

    /// Output channels that have to stay in the L2 cache with a block's pixels: those of a tile; or all, where tiles run across
    /// them. Else those are written in stripes, and the cache lines on which two of these meet, of outputs that are not aligned
    /// to lines, are fetched twice.
    fn block_channels(&self) -> usize {
        if self.side_by_side > 1 { self.out_channels } else { self.out_channels.min(4 * PANEL) }
    }

    /// Whether this chunk's kernel prefetches pixels; the narrow one those that no chunk before it has read.
    pub fn prefetches(&self, chunk: &Chunk, first: bool) -> bool {
        match chunk.kernel {
            Kernel::Narrow => self.narrow_prefetches && first && chunk.channels.start == 0,
            Kernel::Tile | Kernel::HalfTile => self.tiles_prefetch,
        }
    }

    /// Chunks of a group.
    fn group_chunks(&self) -> usize {
        self.chunks + usize::from(self.tail != Tail::Panel)
    }

    /// Chunks of all groups.
    pub fn chunks(&self) -> usize {
        self.groups * self.group_chunks()
    }

    pub fn chunk(&self, chunk: usize) -> Chunk {
        let (group, i) = divide(chunk, self.group_chunks());
        let tiles = self.panels * PANEL;
        if i == self.chunks {
            let kernel = if self.tail == Tail::Half { Kernel::HalfTile } else { Kernel::Narrow };
            return Chunk { group, channels: tiles..self.out_channels, kernel };
        }
        // The last is one of the narrower ones: a single vector is finished in part for nothing.
        let start = |i: usize| i * self.chunk_panels + i.min(self.wider_chunks);
        let channels = start(i) * PANEL..self.out_channels.min(start(i + 1) * PANEL);
        Chunk { group, channels, kernel: Kernel::Tile }
    }

    /// How many of so many chunks, from this one on, are of the same group and as wide, so that one kernel computes them all.
    pub fn alike(&self, first: &Chunk, chunks: usize) -> usize {
        if first.kernel != Kernel::Tile {
            return 1;
        }
        let wider = self.wider_chunks * (self.chunk_panels + 1) * PANEL;
        // The last one of a group may not be full, and is left to itself.
        let all = self.out_channels.min(self.panels * PANEL);
        let end = if first.channels.start < wider { wider } else { all };
        chunks.min((end - first.channels.start) / first.channels.len()).max(1)
    }

    /// How many chunks like this one tiles run across: of a single pixel alone they would be slow.
    pub fn side_by_side<L: Lanes>(&self, chunk: &Chunk) -> usize {
        let may = self.side_by_side > 1 && chunk.kernel == Kernel::Tile && most_across(chunk.tiles::<L>()) > 1;
        if may { self.side_by_side } else { 1 }
    }

    /// `(MR, tiles)` for a chunk's tiles down `pixels` pixels: as few tiles as can be, as equal as can be. The narrow kernel,
    /// which sees to that itself, takes a vector of pixels at a time.
    pub fn split<L: Lanes>(&self, chunk: &Chunk, pixels: usize) -> [(usize, usize); 2] {
        if chunk.kernel == Kernel::Narrow {
            let (tiles, rest) = divide(pixels, L::LANES);
            return [(L::LANES, tiles), (rest, rest.min(1))];
        }
        split(self.tile_rows::<L>(chunk), pixels)
    }

    /// The most pixels of any tile.
    pub fn most_tile_rows(&self, token: Token) -> usize {
        fn of_lanes<L: Lanes>(_: L, cut: &Cut) -> usize {
            if cut.chunks() == 0 { 1 } else { cut.tile_rows::<L>(&cut.chunk(0)) }
        }
        with_lanes!(token, simd => of_lanes(simd, self))
    }

    /// The most pixels of a chunk's tiles.
    fn tile_rows<L: Lanes>(&self, chunk: &Chunk) -> usize {
        let halves = match chunk.kernel {
            Kernel::Narrow => return L::LANES,
            Kernel::HalfTile => 3,
            Kernel::Tile => 2 * chunk.channels.len().div_ceil(L::LANES),
        };
        let kernels = chunk.tiles::<L>();
        let most_rows = rows(kernels, halves, self.most_accumulators).min(self.most_rows);
        if self.side_by_side::<L>(chunk) > 1 { most_rows.min(most_across(kernels)) } else { most_rows }
    }
}

/// The most pixels of one of these tiles, so many half vectors wide, that has no more than `most_accumulators`.
fn rows<L>(tiles: &[TileKernel<L>], halves: usize, most_accumulators: usize) -> usize {
    // No division where nothing is to be divided, for a small run.
    if most_accumulators >= ANY { tiles.len() } else { tiles.len().min(2 * most_accumulators / halves) }
}

/// The most pixels of one of these tiles that runs across the output channels.
fn most_across<L: Lanes>(tiles: &[TileKernel<L>]) -> usize {
    tiles.partition_point(TileKernel::runs_across)
}

/// The cheapest cut.
fn choose<L: Lanes>(tuning: &Tuning, most_rows: usize, k: usize, f: usize, pixels: usize) -> Choice {
    let all_panels = f.div_ceil(PANEL);
    let mut best = (usize::MAX, Choice { panels: 1, tail: Tail::Panel, accumulators: ANY });
    // Large tiles, and where their stores cost something, smaller ones.
    for &accumulators in tuning.accumulators {
        let cost = |kernels: &[TileKernel<L>], halves| {
            split(rows(kernels, halves, accumulators).min(most_rows), pixels)
                .into_iter()
                .filter(|(_, tiles)| *tiles > 0)
                .map(|(mr, tiles)| {
                    let tile = tile_cost(tuning, [k, pixels], (mr, halves), &kernels[mr - 1]);
                    tiles.saturating_mul(tile).saturating_add(tuning.call)
                })
                .fold(0, usize::saturating_add)
        };
        // What a chunk of 1, 2, 3 and so on panels costs.
        let widest = const { widest::<L>() }.min(all_panels);
        let mut costs = [0; 4];
        for (chunk, panels) in costs.iter_mut().zip(1..=widest) {
            let nv = divide_up(f.min(panels * PANEL), L::LANES);
            *chunk = cost(L::tiles(nv, L::is_intel()), 2 * nv);
        }
        for tail in Tail::ALL.into_iter().filter(|tail| tail.exists::<L>(f)) {
            let panels = tail.panels(f);
            let partial = |nv: usize, full: usize| partial_cost::<L>(tuning, f, nv, full, pixels);
            let tail_cost = match tail {
                Tail::Panel => 0,
                Tail::Half => cost(L::half_tiles(L::is_intel()), 3).saturating_add(partial(2, PANEL / 2)),
                Tail::Narrow => narrow_cost::<L>(tuning, k, f, pixels),
            };
            for width in (1..=widest.min(panels.max(1))).rev() {
                let chunks = divide_up(panels, width);
                let (equal, wider) = if chunks > 0 { divide(panels, chunks) } else { (1, 0) };
                let mut cost = tail_cost.saturating_add((chunks - wider).saturating_mul(costs[equal - 1]));
                if wider > 0 {
                    cost = cost.saturating_add(wider.saturating_mul(costs[equal]));
                }
                if tail == Tail::Panel {
                    // The last chunk is one of the narrower ones.
                    cost = cost.saturating_add(partial(divide_up(equal * PANEL, L::LANES), L::LANES));
                }
                if cost < best.0 {
                    best = (cost, Choice { panels: width, tail, accumulators });
                }
            }
        }
    }
    best.1
}

/// The cost of a tile of `mr` pixels by so many half vectors: its k's are bound by multiply-adds, by loads, or by the chains'
/// latency.
fn tile_cost<L: Lanes>(
    tuning: &Tuning,
    [k, pixels]: [usize; 2],
    (mr, halves): (usize, usize),
    kernel: &TileKernel<L>,
) -> usize {
    let (accumulators, nv) = ((mr * halves).div_ceil(2), halves.div_ceil(2));
    // A quad is one load in place of four, and interleaved values are loaded two by two.
    let (values, weights) = if kernel.paired { (mr.div_ceil(2), halves) } else { (mr, nv) };
    let loads = (values + weights) * tuning.load - kernel.quads * tuning.load * 3 / 4;
    // Of two pixels that share a vector; or of the half panel's weights, and two for 16 values of two pixels that are interleaved,
    // which cost twice that. Quads are held only where shuffles cost nothing.
    let shuffles =
        halves % 2 * if kernel.paired { tuning.shuffle + mr * tuning.shuffle / 8 } else { mr / 2 * tuning.shuffle };
    let mut step = (accumulators * tuning.fma + shuffles).max(loads).max(tuning.latency);
    // Chains that hardly cover the latency leave gaps where the CPU does not start them in the best order.
    if (7..12).contains(&accumulators) {
        step += (12 - accumulators) * tuning.gap;
    }
    let panels = k.saturating_mul(nv * L::LANES * size_of::<f32>());
    // Tiles behind the first read them again.
    if pixels > mr {
        step = step.max(far(panels, nv * tuning.far_vector));
    }
    // Half an eighth of a cycle for a value of a pixel that comes from L2, a quarter of an eighth for a vector of a panel.
    let pixels_far = far(k.saturating_mul(pixels * size_of::<f32>()), k / 2 * mr * tuning.far_values);
    let panels_far = far(panels, k / 4 * nv);
    let addresses = (mr.saturating_sub(8) * tuning.pixel).max(if nv == 1 { tuning.quads } else { 0 });
    let stores = accumulators.saturating_sub(tuning.hidden_stores) * tuning.store;
    let interleaved = if kernel.paired { mr * tuning.interleaved } else { 0 };
    let rest = pixels_far + panels_far + addresses + stores + interleaved;
    k.saturating_mul(step).saturating_add(tuning.tile + rest)
}

/// What tiles `nv` vectors wide cost more where `f` output channels do not fill vectors of `full`.
fn partial_cost<L: Lanes>(tuning: &Tuning, f: usize, nv: usize, full: usize, pixels: usize) -> usize {
    let free = f.is_multiple_of(full) || TileKernel::<L>::finishes_parts(nv);
    if free { 0 } else { pixels.saturating_mul(nv * tuning.partial) }
}

/// The cost of reading so many bytes again and again, unless they stay in the L1 cache.
fn far(bytes: usize, cost: usize) -> usize {
    if bytes > L1_BYTES { cost } else { 0 }
}

/// The narrow kernel's cost for the last of `f` output channels.
fn narrow_cost<L: Lanes>(tuning: &Tuning, k: usize, f: usize, pixels: usize) -> usize {
    let three = if f > PANEL { tuning.narrow_behind } else { 4 * tuning.fma };
    let f = f % PANEL;
    let most = narrow::most_groups::<L>(f);
    let groups = divide_up(pixels, L::LANES);
    // Of some groups at a time: columns cost a load for every four values, weights one each.
    let step = |groups: usize| {
        let loads = (groups * L::LANES.div_ceil(4) + f) * tuning.load;
        // Shuffles hold up some of three multiply-adds: eight channels reach 83 % of the peak alone, and less behind tiles.
        (groups * f * three / 3 + groups * 4 * tuning.shuffle).max(loads).max(tuning.latency)
    };
    let steps = (groups / most).saturating_mul(step(most)).saturating_add((groups % most).saturating_mul(step(1)));
    let rest = groups.saturating_mul(tuning.group + f * tuning.channel);
    // Few channels wait for their loads anyway, and more load ahead if they can.
    let far_quad = if f <= 4 || narrow::loads_ahead::<L>(f, most) { 0 } else { tuning.far_quad };
    let pixels_far = far(k.saturating_mul(pixels * size_of::<f32>()), (k / 4 * far_quad).saturating_mul(pixels));
    k.saturating_mul(steps).saturating_add(rest).saturating_add(pixels_far).saturating_add(tuning.call)
}

/// All that a run decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    token: Token,
    pub schedule: Schedule,
    pub cut: Cut,
}

impl Decision {
    fn new((token, tile): (Token, Option<Tile>), sizes: [usize; 3], lines: &Lines, threads: (usize, usize)) -> Self {
        let cut = Cut::new((token, tile, &Memo::default()), sizes, lines);
        let schedule = Schedule::new([&cut].into_iter(), lines, threads, || cut.most_tile_rows(token));
        Self { token, schedule, cut }
    }

    /// Output pixels, of all lines.
    pub fn pixels(&self) -> usize {
        self.schedule.lines * self.schedule.pixels
    }

    /// Output channels, of all groups.
    pub fn out_channels(&self) -> usize {
        self.cut.out_channels * self.cut.groups
    }

    /// The first output channel of a chunk, counted through all groups.
    pub fn first_channel(&self, chunk: usize) -> usize {
        let chunk = self.cut.chunk(chunk);
        chunk.group * self.cut.out_channels + chunk.channels.start
    }

    /// The task and the pixels of the register tile that computes this chunk of an output pixel.
    pub fn tile(&self, chunk: usize, pixel: usize) -> (usize, Range<usize>) {
        fn split<L: Lanes>(_: L, cut: &Cut, chunk: &Chunk, pixels: usize) -> [(usize, usize); 2] {
            cut.split::<L>(chunk, pixels)
        }
        let (line, pixel) = divide(pixel, self.schedule.pixels);
        let task = self.schedule.task_of(chunk, line, pixel);
        let pixels = self.schedule.block(task).pixels;
        let chunk = self.cut.chunk(chunk);
        let [(rows, tiles), (rest, _)] = with_lanes!(self.token, simd => split(simd, &self.cut, &chunk, pixels.len()));
        let (first, i) = (line * self.schedule.pixels + pixels.start, pixel - pixels.start);
        let (start, rows) = if i < rows * tiles { (i - i % rows, rows) } else { (i - (i - rows * tiles) % rest, rest) };
        (task, first + start..first + start + rows)
    }
}

/// How a run is computed, for people and programs: what was decided, and what it amounts to.
///
/// Printed, it is a table of aligned lines.
///
/// # Example
/// ```
/// use pointwise::{IsaChoice, Isa, PointwiseConv};
/// let conv = PointwiseConv::builder(8, 8).isa(Isa::Scalar).build(&[0.0; 64])?;
/// let plan = conv.plan([1, 1, 1, 8], &pointwise::Serial)?;
/// assert_eq!((plan.isa_choice, plan.threads, plan.tasks), (IsaChoice::Forced, 1, 1));
/// assert!(plan.to_string().starts_with("ISA      scalar (forced)"));
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Plan {
    /// The ISA that runs.
    pub isa: Isa,
    /// Why that one.
    pub isa_choice: IsaChoice,
    /// The kernel that computes the first output channels, or all.
    pub kernel: Kernel,
    /// Pixels (MR) and output channels of its largest register tile.
    pub tile: (usize, usize),
    /// Output pixels and output channels that a task covers at most.
    pub block: (usize, usize),
    /// Tasks that the run is split into.
    pub tasks: usize,
    /// Threads that share them; fewer than were offered where there is too little work.
    pub threads: usize,
    /// Floating-point operations: two for each multiply-add.
    pub flops: usize,
    /// Bytes of the input pixels that are read, once each.
    pub input_bytes: usize,
    /// Bytes of the packed weights and biases.
    pub weight_bytes: usize,
    /// Bytes of the output.
    pub output_bytes: usize,
    /// What [`drawing`](Self::drawing) draws: `None` where there is no output.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) decision: Option<Decision>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = match self.kernel {
            Kernel::Tile | Kernel::HalfTile => "output channels",
            Kernel::Narrow => "pixels",
        };
        let Self { input_bytes, weight_bytes, output_bytes, .. } = self;
        let bytes = input_bytes.saturating_add(*weight_bytes).saturating_add(*output_bytes);
        let flops_per_byte = in_default(|| self.flops as f64 / bytes.max(1) as f64);
        writeln!(f, "ISA      {} ({})", self.isa, self.isa_choice)?;
        writeln!(f, "kernel   {}, lanes along {lanes}", self.kernel)?;
        writeln!(f, "tile     {} pixels x {} output channels", self.tile.0, self.tile.1)?;
        writeln!(f, "tasks    {} of up to {} pixels x {} output channels", self.tasks, self.block.0, self.block.1)?;
        writeln!(f, "threads  {}", self.threads)?;
        writeln!(f, "FLOPs    {}, {flops_per_byte:.1} a byte", self.flops)?;
        write!(f, "bytes    {bytes}: input {input_bytes}, weights {weight_bytes}, output {output_bytes}")
    }
}

/// The plan of a dense input.
pub(crate) fn explain(
    (token, isa_choice, tile): (Token, IsaChoice, Option<Tile>),
    [k, f, groups]: [usize; 3],
    stride: (usize, usize),
    input: Shape,
    output: Shape,
    threads: (usize, usize),
) -> Result<Plan, Error> {
    view::span("input", input, view::dense(input))?;
    let output_values = view::span("output", output, view::dense(output))?;
    let pixels = output_values.checked_div(output[3]).unwrap_or(0);
    let mut plan = Plan {
        isa: token.isa(),
        isa_choice,
        kernel: Kernel::Tile,
        tile: (0, 0),
        block: (0, 0),
        tasks: 0,
        threads: 1,
        flops: output_values.saturating_mul(k).saturating_mul(2),
        input_bytes: pixels * k * groups * size_of::<f32>(),
        weight_bytes: groups * f.div_ceil(PANEL) * PANEL * (k + 1) * size_of::<f32>(),
        output_bytes: output_values * size_of::<f32>(),
        decision: None,
    };
    if output_values == 0 {
        return Ok(plan);
    }
    let lines = Lines::dense(stride, input, output);
    let decision = Decision::new((token, tile), [k, f, groups], &lines, threads);
    let (schedule, cut) = (&decision.schedule, &decision.cut);
    let chunk = cut.chunk(0);
    plan.kernel = chunk.kernel;
    plan.tasks = schedule.tasks();
    // Of pixels, the first task has fewest and the last one most, and one or the other the largest tile.
    let last = schedule.block(plan.tasks - 1);
    let rows = [0, last.pixels.start].map(|pixel| decision.tile(0, pixel).1.len());
    plan.tile = (rows[0].max(rows[1]), chunk.channels.len());
    // Of channels, that depends on how wide their chunks are.
    let width = |task| schedule.block(task).chunks.map(|chunk| cut.chunk(chunk).channels.len()).sum();
    plan.block = (last.lines.len() * last.pixels.len(), (0..schedule.chunk_blocks).map(width).max().unwrap_or(0));
    plan.threads = schedule.threads;
    plan.decision = Some(decision);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Nhwc, NhwcMut, PointwiseConv,
        kernel::{AS_IF_INTEL, Scalar},
    };
    use alloc::vec;

    /// Calls `check(simd, token)` for each ISA, as it is planned for on Intel's CPUs and on others.
    macro_rules! on_every_isa {
        ($check:expr) => {
            for intel in [[false, false], [true, false], [true, true]] {
                AS_IF_INTEL.set(Some(intel));
                for isa in Isa::available() {
                    let token = Token::new(*isa).unwrap();
                    with_lanes!(token, simd => $check(simd, token));
                }
            }
        };
    }

    #[test]
    fn every_plan_gives_the_same_bits() {
        for (pixels, k, f) in [(1, 300, 100), (7, 64, 10), (49, 50, 24), (200, 16, 70), (200, 480, 16), (324, 64, 1)] {
            let weights: Vec<f32> = (0..k * f).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let x: Vec<f32> = (0..pixels * k).map(|i| (i * 53 % 97) as f32 / 48.0 - 1.0).collect();
            let run = |isa| {
                let conv = PointwiseConv::builder(k, f).isa(isa).build(&weights).unwrap();
                let mut y = vec![f32::NAN; pixels * f];
                let out = NhwcMut::new(&mut y, [1, 1, pixels, f]).unwrap();
                conv.run(Nhwc::new(&x, [1, 1, pixels, k]).unwrap(), out).unwrap();
                y
            };
            let expected = run(Isa::Scalar);
            on_every_isa!(|_, token: Token| assert!(run(token.isa()) == expected, "{token:?}: {pixels}x{k}>{f}"));
        }
    }

    /// Every output value is in one tile of one task, for all sorts of shapes, and it is that tile which is drawn.
    #[test]
    fn tiles_cover_the_output_once() {
        fn check<L: Lanes>(_: L, token: Token) {
            for (pixels, k, f, groups, lines) in [
                (1, 8, 8, 1, 1),
                (1, 4096, 1000, 1, 1),
                (49, 2048, 512, 1, 1),
                (3, 16, 24, 3, 7),
                (5000, 64, 64, 1, 1),
                (5000, 3, 1, 5, 2),
                (14, 1024, 100, 2, 14),
                (6000, 16, 122, 1, 1),
                (1, 1, 1, 1, 1000),
                // Work for more threads than there are tasks.
                (1, 1 << 15, 16, 1, 1),
                (49, 2048, 16, 1, 1),
            ] {
                for threads in 1..=5 {
                    let shape = [1, lines, pixels, groups * f];
                    let mut lines = Lines::dense((1, 1), [1, lines, pixels, groups * k], shape);
                    // As if rows were padded: lines of their own.
                    if shape[1] > 1 {
                        lines.outer[1] = view::Axis { size: shape[1], ..lines.line };
                        lines.line.size = pixels;
                    }
                    let decision = Decision::new((token, None), [k, f, groups], &lines, (threads, 1000));
                    let (schedule, cut) = (&decision.schedule, &decision.cut);
                    assert!(schedule.threads <= threads && schedule.threads <= schedule.tasks());
                    assert!(schedule.chunk_blocks <= cut.chunks());
                    assert_eq!(decision.pixels() * decision.out_channels(), shape.iter().product());
                    let mut times = vec![0u8; shape.iter().product()];
                    for task in 0..schedule.tasks() {
                        let block = schedule.block(task);
                        for i in block.chunks {
                            let chunk = cut.chunk(i);
                            assert_eq!(decision.first_channel(i), chunk.group * f + chunk.channels.start);
                            for line in block.lines.clone() {
                                let mut end = line * pixels + block.pixels.start;
                                for (rows, tiles) in cut.split::<L>(&chunk, block.pixels.len()) {
                                    for _ in 0..tiles {
                                        let tile = end..end + rows;
                                        end = tile.end;
                                        for pixel in tile.clone() {
                                            assert_eq!(decision.tile(i, pixel), (task, tile.clone()));
                                            let first = (pixel * groups + chunk.group) * f;
                                            for channel in chunk.channels.clone() {
                                                times[first + channel] += 1;
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                    assert!(times.iter().all(|times| *times == 1), "{pixels} pixels, K {k}, F {f}, {threads} threads");
                }
            }
        }
        on_every_isa!(check);
    }

    /// No task covers more than a plan says, one covers as many pixels, one as many channels, and one has such a tile.
    #[test]
    fn a_plan_says_what_the_largest_task_covers() {
        for (pixels, k, f, threads) in [
            // Blocks of 6, 7 and 7 pixels: tiles as well.
            (20, 8192, 16, 1),
            (12544, 32, 16, 1),
            // Chunks of 64, 64 and 8 channels, and of 64, 64 and 24, for two threads.
            (4, 512, 136, 2),
            (4, 512, 152, 2),
            (100, 16, 16, 3),
        ] {
            for &isa in Isa::available() {
                let token = Token::new(isa).unwrap();
                let how = (token, IsaChoice::Forced, None);
                let plan = explain(how, [k, f, 1], (1, 1), [1, 1, pixels, k], [1, 1, pixels, f], (threads, 1)).unwrap();
                let Decision { schedule, cut, .. } = plan.decision.as_ref().unwrap();
                let blocks = || (0..plan.tasks).map(|task| schedule.block(task));
                let channels = |block: Block| block.chunks.map(|chunk| cut.chunk(chunk).channels.len()).sum();
                let most = (blocks().map(|block| block.pixels.len()).max(), blocks().map(channels).max());
                assert_eq!((Some(plan.block.0), Some(plan.block.1)), most, "{isa}: {pixels} pixels, K {k}, F {f}");
                let rows = (0..pixels).map(|pixel| plan.decision.as_ref().unwrap().tile(0, pixel).1.len());
                assert_eq!(Some(plan.tile.0), rows.max(), "{isa}: {pixels} pixels, K {k}, F {f}");
            }
        }
    }

    #[test]
    fn threads_have_equal_shares_of_pixels_or_channels() {
        for (count, pixels, k, f) in [
            (1, 3136, 64, 64),
            (1, 3136, 256, 64),
            (1, 784, 512, 128),
            (1, 784, 256, 64),
            (1, 784, 96, 16),
            // 17 blocks.
            (1, 8600, 64, 64),
            (28, 28, 64, 512),
            (1, 196, 256, 1024),
            (1, 1, 2048, 4096),
        ] {
            let mut lines = Lines::dense((1, 1), [1, 1, pixels, k], [1, 1, pixels, f]);
            lines.outer[1].size = count;
            let all = count * pixels;
            let cut = Cut::new((Token::Scalar(Scalar), None, &Memo::default()), [k, f, 1], &lines);
            let schedule = |threads| Schedule::new([&cut].into_iter(), &lines, (threads, 1 << 10), || 1);
            let pixel_blocks = |schedule: &Schedule| schedule.line_blocks * schedule.pixel_blocks;
            let one = schedule(1);
            let block = one.block(0).lines.len() * one.block(0).pixels.len();
            let bytes = block * (k + f.min(4 * PANEL)) * size_of::<f32>();
            let least = if cut.far_panels { FAR_PANEL_PIXELS } else { 1 };
            let fits = bytes <= BLOCK_BYTES || block < 2 * least;
            assert!(fits && (block >= all.min(least)) && (block == all || 2 * bytes > BLOCK_BYTES), "{one:?}");
            for threads in 2..=8 {
                let schedule = schedule(threads);
                let tasks = schedule.tasks();
                assert_eq!((schedule.threads, tasks % threads), (threads, 0), "{schedule:?}");
                let least = if cut.chunks() > 1 { 2 * threads } else { threads };
                assert!(tasks >= least && tasks <= (10 * threads).max(2 * one.tasks()), "{schedule:?}");
                // Of pixels, beyond blocks that fit in the cache, and channels only one is cut; or both, that threads can help.
                if all < threads * PIXELS_PER_THREAD {
                    assert_eq!(pixel_blocks(&schedule), pixel_blocks(&one), "{schedule:?}");
                } else {
                    assert!(schedule.chunk_blocks <= TASKS_PER_THREAD, "{schedule:?}");
                    assert!(pixel_blocks(&schedule).is_multiple_of(threads), "{schedule:?}");
                }
            }
        }
    }

    /// Of all values of the output, where chunks are not equal, too.
    #[test]
    fn threads_have_equal_shares_of_the_output() {
        fn check<L: Lanes>(_: L, token: Token) {
            for (pixels, k, f) in
                [(49, 576, 160), (49, 960, 160), (49, 512, 40), (49, 832, 384), (64, 192, 192), (196, 64, 384)]
            {
                let lines = Lines::dense((1, 1), [1, 1, pixels, k], [1, 1, pixels, f]);
                let Decision { schedule, cut, .. } = Decision::new((token, None), [k, f, 1], &lines, (2, 1));
                let values = |task| {
                    let Block { chunks, pixels, .. } = schedule.block(task);
                    pixels.len() * chunks.map(|chunk| cut.chunk(chunk).channels.len()).sum::<usize>()
                };
                let share = |thread| part(schedule.tasks(), 2, thread).map(values).sum::<usize>();
                assert_eq!(share(0) + share(1), pixels * f);
                assert!(share(0).abs_diff(share(1)) * 20 < pixels * f, "{token:?}: {schedule:?}");
            }
        }
        on_every_isa!(check);
    }

    #[test]
    fn blocks_of_one_thread_are_whole_tiles() {
        fn check<L: Lanes>(_: L, token: Token) {
            for (pixels, k, f) in [(196, 1040, 256), (196, 1024, 256), (784, 512, 128), (3137, 256, 64), (9000, 64, 1)]
            {
                let lines = Lines::dense((1, 1), [1, 1, pixels, k], [1, 1, pixels, f]);
                let Decision { schedule, cut, .. } = Decision::new((token, None), [k, f, 1], &lines, (1, 1));
                let blocks = || (0..schedule.tasks()).map(|task| schedule.block(task).pixels.len());
                assert!(
                    !cut.far_panels || blocks().all(|pixels| pixels + cut.most_tile_rows(token) > FAR_PANEL_PIXELS)
                );
                let tiles = blocks().map(|pixels| cut.split::<L>(&cut.chunk(0), pixels).map(|(_, tiles)| tiles));
                assert!(schedule.tasks() > 1);
                assert_eq!(tiles.flatten().sum::<usize>(), pixels.div_ceil(cut.most_tile_rows(token)), "{schedule:?}");
            }
        }
        on_every_isa!(check);
    }

    #[test]
    fn parts_are_spread_evenly() {
        // As many for the first four as for the others.
        assert_eq!(part(20, 8, 3).end, 10);
        for (total, parts) in [(1, 1), (7, 3), (20, 8), (3, 5), (1000, 7)] {
            let all = (0..parts).flat_map(|i| part(total, parts, i).map(move |x| (i, x)));
            assert!(all.eq((0..total).map(|x| (part_of(total, parts, x), x))), "{total} in {parts}");
        }
        // Whatever the size.
        assert_eq!(part(usize::MAX, usize::MAX - 1, usize::MAX - 2).end, usize::MAX);
    }

    #[test]
    fn what_is_not_cut_further() {
        let schedule = |count, pixels, f, threads| {
            let mut lines = Lines::dense((1, 1), [1, 1, pixels, 64], [1, 1, pixels, f]);
            lines.outer[1].size = count;
            let cut = Cut::new((Token::Scalar(Scalar), None, &Memo::default()), [64, f, 1], &lines);
            Schedule::new([&cut].into_iter(), &lines, (threads, 1), || 1)
        };
        // An odd one out does not matter among many: blocks of 512 pixels.
        assert_eq!(schedule(1, 99_999, 64, 8).tasks(), 196);
        // Two tiles or more of each line.
        assert_eq!(schedule(1, 100, 16, 8).tasks(), 100 / (2 * ROWS_OF_A_SET));
        // Rather uneven than a thread without a task.
        assert_eq!(schedule(2, 28, 16, 3).tasks(), 4);
    }

    /// No other choice costs less, and no tile is larger than the largest kernel.
    #[test]
    fn the_cheapest_cut_is_chosen() {
        /// Summed over the tiles of each chunk.
        fn cost<L: Lanes>(tuning: &Tuning, cut: &Cut, pixels: usize) -> usize {
            let of_chunk = |i| {
                let chunk = cut.chunk(i);
                let f = chunk.channels.len();
                let (halves, full) = match chunk.kernel {
                    Kernel::Narrow => return narrow_cost::<L>(tuning, cut.in_channels, cut.out_channels, pixels),
                    Kernel::HalfTile => (3, PANEL / 2),
                    Kernel::Tile => (2 * f.div_ceil(L::LANES), L::LANES),
                };
                let kernels = chunk.tiles::<L>();
                let tiles = cut.split::<L>(&chunk, pixels).into_iter().filter(|(_, tiles)| *tiles > 0);
                let tiles = tiles.map(|(mr, tiles)| {
                    assert!(mr <= kernels.len());
                    tiles * tile_cost(tuning, [cut.in_channels, pixels], (mr, halves), &kernels[mr - 1]) + tuning.call
                });
                tiles.sum::<usize>() + partial_cost::<L>(tuning, f, halves.div_ceil(2), full, pixels)
            };
            (0..cut.chunks()).map(of_chunk).sum()
        }
        fn check<L: Lanes>(_: L, token: Token) {
            let (isa, tuning) = (token.isa(), tuning::<L>(token.isa()));
            assert!(tuning.accumulators.iter().all(|most| *most <= ANY), "a memo holds them");
            // Where a vector is less than a panel, the plan takes a last chunk that is not full for a full one.
            let sizes = [1, 3, 16, 19, 24, 32, 36, 48, 64, 72, 80, 128];
            for f in sizes.into_iter().filter(|f: &usize| L::LANES == PANEL || f.is_multiple_of(PANEL)) {
                for (k, pixels) in
                    [8, 64, 300].into_iter().flat_map(|k| [1, 6, 7, 15, 49, 200].map(|pixels| (k, pixels)))
                {
                    let lines = Lines::dense((1, 1), [1, 1, pixels, k], [1, 1, pixels, f]);
                    // Costs are those of tiles that run down.
                    let cut = Cut { side_by_side: 1, ..Cut::new((token, None, &Memo::default()), [k, f, 1], &lines) };
                    let least = cost::<L>(&tuning, &cut, pixels);
                    for tail in Tail::ALL.into_iter().filter(|tail| tail.exists::<L>(f)) {
                        let panels = tail.panels(f);
                        for &most_accumulators in tuning.accumulators {
                            for chunks in 0..=panels {
                                if panels.div_ceil(chunks.max(1)) <= widest::<L>() && (chunks > 0 || panels == 0) {
                                    let (chunk_panels, wider_chunks) = divide(panels, chunks.max(1));
                                    let cut = cut.clone();
                                    let other = Cut {
                                        panels,
                                        chunks,
                                        chunk_panels,
                                        wider_chunks,
                                        tail,
                                        most_accumulators,
                                        ..cut
                                    };
                                    let cost = cost::<L>(&tuning, &other, pixels);
                                    assert!(
                                        least <= cost,
                                        "{isa}: {pixels} pixels, K {k}, F {f}: {cut:?} costs {least}, {other:?} {cost}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
        on_every_isa!(check);
    }

    #[test]
    fn pixels_are_split_into_tiles_evenly() {
        assert_eq!(split(7, 49), [(7, 7), (0, 0)]);
        assert_eq!(split(14, 50), [(13, 2), (12, 2)]);
        assert_eq!(split(14, 15), [(8, 1), (7, 1)]);
        assert_eq!(split(6, 1), [(1, 1), (0, 0)]);
        for pixels in 1..200 {
            for max_rows in 1..=16 {
                let [(a, m), (b, n)] = split(max_rows, pixels);
                assert_eq!(a * m + b * n, pixels);
                assert!(a <= max_rows && (n == 0 || a == b + 1) && m + n == pixels.div_ceil(max_rows));
            }
        }
    }

    #[test]
    fn a_memo_knows_what_it_is_about() {
        let memo = Memo::default();
        let choice = Choice { panels: 4, tail: Tail::Narrow, accumulators: ANY };
        assert_eq!(memo.get(49, false), None);
        memo.set(49, false, choice);
        assert_eq!(memo.clone().get(49, false), Some(choice));
        assert_eq!((memo.get(49, true), memo.get(48, false)), (None, None));
        let other = Choice { panels: 1, tail: Tail::Half, accumulators: 9 };
        memo.set(1, true, other);
        assert_eq!((memo.get(1, true), memo.get(49, false)), (Some(other), None));
        // More pixels than it can hold.
        for pixels in [usize::MAX, (usize::MAX >> Memo::BITS) + 1] {
            memo.set(pixels, false, choice);
            assert_eq!((memo.get(pixels, false), memo.get(1, true)), (None, Some(other)));
        }
    }

    #[test]
    fn few_rows_share_a_cache_set() {
        let lines = |k| Lines::dense((1, 1), [1, 1, 50, k], [1, 1, 50, 64]);
        let how = (Token::Scalar(Scalar), None, &Memo::default());
        let rows = |k| Cut::new(how, [k, 64, 1], &lines(k)).most_rows;
        assert_eq!((rows(1024), rows(4096), rows(1025), rows(512)), (7, 7, usize::MAX, usize::MAX));
        // Pixels without channels take no cache.
        assert_eq!(rows(0), usize::MAX);
    }

    /// Of all lines, for each channel.
    #[test]
    fn tiles_prefetch_many_pixels() {
        fn check<L: Lanes>(_: L, token: Token) {
            let most = tuning::<L>(token.isa()).prefetch_pixels;
            let prefetch = |lines: usize, pixels| {
                let mut all = Lines::dense((1, 1), [1, 1, pixels, 64], [1, 1, pixels, 32]);
                all.outer[1].size = lines;
                let cut = Cut::new((token, None, &Memo::default()), [64, 32, 1], &all);
                cut.prefetches(&cut.chunk(0), true)
            };
            assert!(prefetch(1, most * 64 + 1) && prefetch(2, most * 32 + 1), "{token:?}");
            assert!(most == 0 || !prefetch(1, most * 64) && !prefetch(2, most * 32), "{token:?}");
        }
        on_every_isa!(check);
    }

    /// Of all groups and lines.
    #[test]
    fn large_panels_and_inputs_are_far() {
        let decision = |[k, f, groups]: [usize; 3], lines: usize, pixels: usize| {
            let mut all = Lines::dense((1, 1), [1, 1, pixels, k * groups], [1, 1, pixels, f * groups]);
            all.outer[1].size = lines;
            Decision::new((Token::Scalar(Scalar), None), [k, f, groups], &all, (1, 1))
        };
        let side = (NEAR_PANEL_BYTES / size_of::<f32>()).isqrt();
        for (sizes, far) in [
            ([side, side, 1], false),
            ([side + 1, side, 1], true),
            ([side / 4, side, 4], false),
            ([side / 4, side, 5], true),
        ] {
            assert_eq!(decision(sizes, 1, 1).cut.far_panels, far, "{sizes:?}");
        }
        let pixels = 2 * BLOCK_BYTES / size_of::<f32>() / 64;
        for (groups, lines, pixels, far) in [
            (1, 1, pixels, false),
            (1, 1, pixels + 1, true),
            (4, 1, pixels / 4, false),
            (4, 1, pixels / 4 + 1, true),
            (1, 4, pixels / 4, false),
            (1, 5, pixels / 4, true),
        ] {
            assert_eq!(
                decision([64, 8, groups], lines, pixels).cut.narrow_prefetches,
                far,
                "{groups}, {lines}, {pixels}"
            );
        }
    }
}
