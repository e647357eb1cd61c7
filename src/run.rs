//! Every call: from views to tasks, one convolution or several of the same input.

use crate::{
    Error, Executor, Nhwc, NhwcMut, PointwiseConv, Serial, Shape,
    environment::in_default,
    epilogue::Epilogue,
    isa::with_lanes,
    kernel::{Lanes, PANEL, Pixels, Residual, Row, Strip},
    output::{OutputPixels, OutputValues},
    plan::{Block, Chunk, Cut, Kernel, Schedule},
    view::Lines,
};
use alloc::boxed::Box;
use core::{array, ops::Range};

impl PointwiseConv {
    /// Computes `y = act(b + w x)` on the calling thread, or `act(scale * (b + w x) + shift)` where there is a
    /// [`scale_shift`](crate::Builder::scale_shift).
    ///
    /// # Errors
    /// [`Error::Channels`] where `x` has not `in_channels`, [`Error::Shape`] where `y` has not the output's shape. Then
    /// nothing is written.
    ///
    /// # Example
    /// A fully connected layer is a convolution of one pixel:
    /// ```
    /// use pointwise::{Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(3, 2).bias(&[10.0, 20.0]).build(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[1.0, 1.0, 1.0], [1, 1, 1, 3])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)?;
    /// assert_eq!(y, [16.0, 35.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn run(&self, x: Nhwc<'_>, mut y: NhwcMut<'_>) -> Result<(), Error> {
        run_one(&Serial, self, &x, Residual::None, &mut y)
    }

    /// Computes `y = act(residual + (b + w x))` on the calling thread; `residual` has the shape of `y`. It is added after the
    /// activation where the [`residual_order`](crate::Builder::residual_order) says so.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Shape`] for the residual.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 1).build(&[2.0])?;
    /// let mut y = [0.0; 2];
    /// let shape = [1, 1, 2, 1];
    /// conv.run_residual(Nhwc::new(&[1.0, 2.0], shape)?, Nhwc::new(&[0.5, 0.25], shape)?, NhwcMut::new(&mut y, shape)?)?;
    /// assert_eq!(y, [2.5, 4.25]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn run_residual(&self, x: Nhwc<'_>, residual: Nhwc<'_>, mut y: NhwcMut<'_>) -> Result<(), Error> {
        run_one(&Serial, self, &x, Residual::Of(&residual), &mut y)
    }

    /// [`run_residual`](Self::run_residual), where the residual is what `y` holds: `y = act(y + (b + w x))`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Example
    /// ```
    /// use pointwise::{Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 1).build(&[2.0])?;
    /// let mut y = [0.5, 0.25];
    /// conv.run_accumulate(Nhwc::new(&[1.0, 2.0], [1, 1, 2, 1])?, NhwcMut::new(&mut y, [1, 1, 2, 1])?)?;
    /// assert_eq!(y, [2.5, 4.25]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn run_accumulate(&self, x: Nhwc<'_>, mut y: NhwcMut<'_>) -> Result<(), Error> {
        run_one(&Serial, self, &x, Residual::Output, &mut y)
    }

    /// [`run`](Self::run), with the work split over an executor's threads. The bits are the same. A panic in the executor
    /// reaches the caller; each value of the output is then as it was, or as it should be.
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`Error::Executor`] where the executor returned too early.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Nhwc, NhwcMut, PointwiseConv, Pool};
    /// let (conv, pool) = (PointwiseConv::builder(1, 1).build(&[2.0])?, Pool::new(2)?);
    /// let (mut y, shape) = ([0.0; 3], [1, 1, 3, 1]);
    /// conv.run_with(&pool, Nhwc::new(&[1.0, 2.0, 3.0], shape)?, NhwcMut::new(&mut y, shape)?)?;
    /// assert_eq!(y, [2.0, 4.0, 6.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_with(&self, executor: &(impl Executor + ?Sized), x: Nhwc<'_>, mut y: NhwcMut<'_>) -> Result<(), Error> {
        run_one(executor, self, &x, Residual::None, &mut y)
    }

    /// [`run_residual`](Self::run_residual), with the work split over an executor's threads.
    ///
    /// # Errors
    /// As [`run_residual`](Self::run_residual), and [`Error::Executor`] where the executor returned too early.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Nhwc, NhwcMut, PointwiseConv, Serial};
    /// let conv = PointwiseConv::builder(1, 1).build(&[2.0])?;
    /// let (mut y, shape) = ([0.0], [1, 1, 1, 1]);
    /// conv.run_residual_with(&Serial, Nhwc::new(&[1.0], shape)?, Nhwc::new(&[0.5], shape)?, NhwcMut::new(&mut y, shape)?)?;
    /// assert_eq!(y, [2.5]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn run_residual_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Nhwc<'_>,
        residual: Nhwc<'_>,
        mut y: NhwcMut<'_>,
    ) -> Result<(), Error> {
        run_one(executor, self, &x, Residual::Of(&residual), &mut y)
    }

    /// [`run_accumulate`](Self::run_accumulate), with the work split over an executor's threads.
    ///
    /// # Errors
    /// As [`run_accumulate`](Self::run_accumulate), and [`Error::Executor`] where the executor returned too early.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Nhwc, NhwcMut, PointwiseConv, Serial};
    /// let conv = PointwiseConv::builder(1, 1).build(&[2.0])?;
    /// let mut y = [0.5];
    /// conv.run_accumulate_with(&Serial, Nhwc::new(&[1.0], [1, 1, 1, 1])?, NhwcMut::new(&mut y, [1, 1, 1, 1])?)?;
    /// assert_eq!(y, [2.5]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn run_accumulate_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Nhwc<'_>,
        mut y: NhwcMut<'_>,
    ) -> Result<(), Error> {
        run_one(executor, self, &x, Residual::Output, &mut y)
    }
}

/// One of several convolutions of the same input, and where its output goes: for [`run_heads`].
///
/// # Example
/// ```
/// use pointwise::{Head, Nhwc, NhwcMut, PointwiseConv, Serial, run_heads};
/// let (conv, mut y) = (PointwiseConv::builder(2, 1).build(&[1.0, 10.0])?, [0.0]);
/// let head = Head::new(&conv, NhwcMut::new(&mut y, [1, 1, 1, 1])?);
/// run_heads(&Serial, Nhwc::new(&[1.0, 2.0], [1, 1, 1, 2])?, &mut [head])?;
/// assert_eq!(y, [21.0]);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Debug)]
pub struct Head<'a> {
    pub(crate) conv: &'a PointwiseConv,
    pub(crate) residual: Residual<Nhwc<'a>>,
    pub(crate) y: NhwcMut<'a>,
}

impl<'a> Head<'a> {
    /// `y = act(b + w x)`, as [`PointwiseConv::run`].
    ///
    /// # Example
    /// ```
    /// use pointwise::{Head, NhwcMut, PointwiseConv};
    /// let (conv, mut y) = (PointwiseConv::builder(2, 1).build(&[1.0, 10.0])?, [0.0]);
    /// let head = Head::new(&conv, NhwcMut::new(&mut y, [1, 1, 1, 1])?);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn new(conv: &'a PointwiseConv, y: NhwcMut<'a>) -> Self {
        Self { conv, residual: Residual::None, y }
    }

    /// With a residual, as [`PointwiseConv::run_residual`].
    ///
    /// # Example
    /// ```
    /// use pointwise::{Head, Nhwc, NhwcMut, PointwiseConv};
    /// let (conv, mut y) = (PointwiseConv::builder(2, 1).build(&[1.0, 10.0])?, [0.0]);
    /// let head = Head::new(&conv, NhwcMut::new(&mut y, [1, 1, 1, 1])?).residual(Nhwc::new(&[0.5], [1, 1, 1, 1])?);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    #[must_use]
    pub fn residual(self, residual: Nhwc<'a>) -> Self {
        Self { residual: Residual::Of(residual), ..self }
    }

    /// With what `y` holds as the residual, as [`PointwiseConv::run_accumulate`].
    ///
    /// # Example
    /// ```
    /// use pointwise::{Head, NhwcMut, PointwiseConv};
    /// let (conv, mut y) = (PointwiseConv::builder(2, 1).build(&[1.0, 10.0])?, [0.5]);
    /// let head = Head::new(&conv, NhwcMut::new(&mut y, [1, 1, 1, 1])?).accumulate();
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    #[must_use]
    pub fn accumulate(self) -> Self {
        Self { residual: Residual::Output, ..self }
    }
}

/// Runs several convolutions of the same input in one pass, which reads it from memory once: Inception's reductions, the
/// heads of a detector, q, k and v. The bits are those of one run after the other.
///
/// Up to eight neighbours share a pass, where their strides are equal and the rows of their outputs lie alike: one behind the
/// other, or with gaps. They may write side by side into one tensor: [`NhwcMut::split_channels`].
///
/// # Errors
/// [`Error::Head`] with that of [`PointwiseConv::run_residual_with`] for one of them: before anything is written.
/// [`Error::Executor`]: then some may have been written.
///
/// # Example
/// ```
/// use pointwise::{Head, Nhwc, NhwcMut, PointwiseConv, Serial, run_heads};
/// let sum = PointwiseConv::builder(2, 1).build(&[1.0, 1.0])?;
/// let swapped = PointwiseConv::builder(2, 2).build(&[0.0, 1.0, 1.0, 0.0])?;
/// let mut y = [0.0; 6];
/// let (first, rest) = NhwcMut::new(&mut y, [1, 1, 2, 3])?.split_channels(1)?;
/// let x = Nhwc::new(&[1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2])?;
/// run_heads(&Serial, x, &mut [Head::new(&sum, first), Head::new(&swapped, rest)])?;
/// assert_eq!(y, [3.0, 2.0, 1.0, 7.0, 4.0, 3.0]);
/// # Ok::<(), pointwise::Error>(())
/// ```
pub fn run_heads(executor: &(impl Executor + ?Sized), x: Nhwc<'_>, heads: &mut [Head<'_>]) -> Result<(), Error> {
    for (index, Head { conv, residual, y }) in heads.iter().enumerate() {
        check(conv, &x, residual.values(), y).map_err(|error| Error::Head { index, error: Box::new(error) })?;
    }
    heads.chunks_mut(HEADS_OF_A_PASS).try_for_each(|heads| run_pass(executor, &x, heads))
}

/// So that what is decided for them has its place on the stack.
const HEADS_OF_A_PASS: usize = 8;

/// `heads` are 1 to [`HEADS_OF_A_PASS`].
fn run_pass(executor: &(impl Executor + ?Sized), x: &Nhwc<'_>, heads: &mut [Head<'_>]) -> Result<(), Error> {
    // Nothing is decided for places without a head; their jobs, the last head's once more, are not run.
    let (heads, last) = (&*heads, heads.len() - 1);
    let lines: [Lines; HEADS_OF_A_PASS] = array::from_fn(|i| match heads.get(i) {
        Some(Head { conv, residual, y }) => Lines::new(conv.stride, x, y, residual.values()),
        None => Lines::default(),
    });
    let cuts: [Cut; HEADS_OF_A_PASS] = array::from_fn(|i| cut(heads[i.min(last)].conv, &lines[i]));
    let jobs: [Job<'_>; HEADS_OF_A_PASS] = array::from_fn(|i| {
        let Head { conv, residual, y } = &heads[i.min(last)];
        Job { conv, cut: &cuts[i], lines: &lines[i], residual: residual.map(|view| view.data()), y: y.values() }
    });
    // Heads that do not go through the pixels in the same steps cannot share a pass.
    let steps = |job: &Job<'_>| (job.conv.stride, job.lines.count(), job.lines.line.size);
    jobs[..=last].chunk_by(|a, b| steps(a) == steps(b)).try_for_each(|jobs| run_jobs(executor, x.data(), jobs))
}

/// By reference all the way down: a small run would feel copies, which read what was just written.
pub(crate) fn run_one(
    executor: &(impl Executor + ?Sized),
    conv: &PointwiseConv,
    x: &Nhwc<'_>,
    residual: Residual<&Nhwc<'_>>,
    y: &mut NhwcMut<'_>,
) -> Result<(), Error> {
    check(conv, x, residual.values().copied(), y)?;
    let mut lines = Lines::default();
    lines.set(conv.stride, x, y, residual.values().copied());
    let cut = cut(conv, &lines);
    let job = Job { conv, cut: &cut, lines: &lines, residual: residual.map(Nhwc::data), y: y.values() };
    run_jobs(executor, x.data(), &[job])
}

fn check(conv: &PointwiseConv, x: &Nhwc<'_>, residual: Option<&Nhwc<'_>>, y: &NhwcMut<'_>) -> Result<(), Error> {
    check_shapes(conv.output_shape(x.shape())?, y, residual)
}

pub(crate) fn check_shapes(expected: Shape, y: &NhwcMut<'_>, residual: Option<&Nhwc<'_>>) -> Result<(), Error> {
    // One by one, for the same reason as above: they were just written.
    let same = |actual: Shape| actual.iter().zip(expected).all(|(actual, expected)| *actual == expected);
    let check = |what, actual| if same(actual) { Ok(()) } else { Err(Error::Shape { what, expected, actual }) };
    check("output", y.shape())?;
    residual.map_or(Ok(()), |residual| check("residual", residual.shape()))
}

fn cut(conv: &PointwiseConv, lines: &Lines) -> Cut {
    if lines.count() == 0 {
        return Cut::default();
    }
    let sizes = [conv.in_channels, conv.out_channels, conv.groups];
    Cut::new((conv.token, conv.tile, &conv.memo), sizes, lines)
}

/// A convolution of a run.
struct Job<'a> {
    conv: &'a PointwiseConv,
    cut: &'a Cut,
    lines: &'a Lines,
    residual: Residual<&'a [f32]>,
    y: OutputValues<'a>,
}

/// Jobs whose lines are as many and as long.
fn run_jobs(executor: &(impl Executor + ?Sized), x: &[f32], jobs: &[Job<'_>]) -> Result<(), Error> {
    let Some(first) = jobs.first().filter(|job| job.lines.count() > 0) else { return Ok(()) };
    let threads = (executor.threads(), executor.work_per_thread());
    let tile_rows = || jobs.iter().map(|job| job.cut.most_tile_rows(job.conv.token)).max().unwrap_or(1);
    let schedule = Schedule::new(jobs.iter().map(|job| job.cut), first.lines, threads, tile_rows);
    let task = |task| {
        let block = schedule.block(task);
        // Chunks are numbered through all jobs.
        let mut before = 0;
        for job in jobs {
            let all = job.cut.chunks();
            let of_job = |chunk: usize| chunk.saturating_sub(before).min(all);
            let chunks = of_job(block.chunks.start)..of_job(block.chunks.end);
            let first = before == 0;
            with_lanes!(job.conv.token, simd => job.run(simd, x, &block, chunks, first));
            before += all;
        }
    };
    if schedule.threads == 1 {
        in_default(|| (0..schedule.tasks()).for_each(task));
        return Ok(());
    }
    // Each thread has an environment of its own.
    crate::exec::run_each_once(executor, schedule.threads, schedule.tasks(), |i| in_default(|| task(i)))
}

impl Job<'_> {
    fn panels(&self, group: usize, channels: &Range<usize>) -> &[Row] {
        self.conv.packed.panels(group, channels.start / PANEL, channels.len().div_ceil(PANEL))
    }

    /// These chunks of a block. The first job's first chunk brings the pixels into the cache. Inlined always: a call makes a run
    /// of one pixel of 8 to 8 channels 4 % longer.
    #[inline(always)]
    fn run<L: Lanes>(&self, simd: L, x: &[f32], block: &Block, chunks: Range<usize>, first: bool) {
        let Self { conv, cut, lines, residual, y } = self;
        let mut rest = chunks;
        while !rest.is_empty() {
            let chunk = cut.chunk(rest.start);
            // Of several pieces, all meet a chunk's panels before the next chunk, while they are in the L1 cache: but for tiles that
            // run across the chunks.
            let is_one_piece = || lines.pieces(block.lines.clone()).nth(1).is_none();
            let is_one_strip = rest.len() > 1 && (cut.side_by_side::<L>(&chunk) > 1 || is_one_piece());
            let alike = if is_one_strip { cut.alike(&chunk, rest.len()) } else { 1 };
            let (group, width) = (chunk.group, chunk.channels.len());
            let channels = chunk.channels.start..chunk.channels.end + (alike - 1) * width;
            debug_assert_eq!(channels.end, cut.chunk(rest.start + alike - 1).channels.end);
            rest.start += alike;
            let out_channels = channels.len();
            let (k_start, f_start) = (group * conv.in_channels, group * conv.out_channels + channels.start);
            let panels = self.panels(group, &channels);
            let epilogue = Epilogue {
                activation: conv.activation,
                residual: conv.residual,
                scaled: conv.scaled,
                channels: conv.packed.channels(group, channels.start / PANEL),
            };
            let mut next_panels: &[Row] = if cut.far_panels && !rest.is_empty() {
                let next = cut.chunk(rest.start);
                self.panels(next.group, &next.channels)
            } else {
                &[]
            };
            for (first_line, count) in lines.pieces(block.lines.clone()) {
                let [x_start, y_start, residual_start] = lines.start(first_line);
                let (line, [_, next]) = (lines.line, lines.outer);
                let pixels = |data, start: usize, stride, line_stride, channel| {
                    Pixels { data, stride, line_stride }.from(start + block.pixels.start * stride + channel)
                };
                let x = pixels(x, x_start, line.x, next.x, k_start);
                let y = OutputPixels { values: *y, stride: line.y, line_stride: next.y };
                let y = y.from(y_start + block.pixels.start * line.y + f_start);
                let residual = residual.map(|data| pixels(data, residual_start, line.residual, next.residual, f_start));
                // SAFETY: the view has refused pixels that overlap, and tasks, chunks and lines are apart from each other: each
                // value of the output is in one strip of one task, and a task runs once.
                let strip = unsafe {
                    let (input, output) = ((x, conv.in_channels), (y, out_channels));
                    Strip::new(input, output, residual, panels, (count, block.pixels.len()), epilogue)
                };
                let strip = strip
                    .prefetching(next_panels)
                    .halving_stores(cut.halves_stores)
                    .prefetching_input(cut.prefetches(&chunk, first));
                next_panels =
                    next_panels.get(count * block.pixels.len() * conv.in_channels / PANEL..).unwrap_or_default();
                match chunk.kernel {
                    Kernel::Narrow => L::narrow()[out_channels - 1](simd, &strip),
                    Kernel::Tile | Kernel::HalfTile => run_tiles(simd, cut, &chunk, &strip),
                }
            }
        }
    }
}

/// Runs the tiles of a strip that is as wide as this chunk, or as some like it. By reference: a small run would feel a copy.
#[inline(always)]
fn run_tiles<L: Lanes>(simd: L, cut: &Cut, chunk: &Chunk, strip: &Strip<'_>) {
    let (kernels, width) = (chunk.tiles::<L>(), chunk.channels.len());
    let [(mr, tiles), (last_mr, last_tiles)] = cut.split::<L>(chunk, strip.pixels());
    let run = |strip: &Strip<'_>| {
        kernels[mr - 1].run(simd, strip, tiles);
        if last_tiles > 0 {
            kernels[last_mr - 1].run(simd, &strip.skip(mr * tiles), last_tiles);
        }
    };
    let is_one_tile = strip.lines() * strip.pixels() == mr && kernels[mr - 1].runs_across();
    let side_by_side = if is_one_tile { strip.out_channels() } else { cut.side_by_side::<L>(chunk) * width };
    let mut strip = strip;
    let mut rest;
    while strip.out_channels() > side_by_side {
        let [now, behind] = strip.split_channels(side_by_side, cut.far_panels);
        run(&now);
        rest = behind;
        strip = &rest;
    }
    run(strip);
}
