//! A plan as a drawing: which register tile of which task computes what.

use crate::plan::{Decision, Plan};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{fmt, iter};

/// What no drawing exceeds.
const COLUMNS: usize = 100;
const LINES: usize = 40;

impl Plan {
    /// A drawing of how the output is cut into tasks, and tasks into register tiles: pixels down, output channels across. Of
    /// what is too large for 100 columns and 40 lines, it shows the beginning and the end.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Isa, PointwiseConv, Pool, Tail, Tile};
    /// let tile = Tile { pixels: 4, channels: 16, tail: Tail::Narrow };
    /// let conv = PointwiseConv::builder(4096, 40).tile(tile);
    /// // On a CPU without AVX2 this is an error.
    /// if let Ok(conv) = conv.isa(Isa::Avx2).build(&[0.0; 40 * 4096]) {
    ///     let plan = conv.plan([1, 2, 5, 4096], &Pool::new(2)?)?;
    ///     let expected = "
    /// channels  0           16          32          40
    /// kernel    | tile      | tile      | narrow    |
    /// pixels  0 +-----------+-----------+-----------+
    ///           | task 0    | task 1    | task 2    |
    ///         4 +-----------+-----------+           +
    ///           | task 0    | task 1    |           |
    ///         7 +-----------+-----------+           +
    ///           | task 0    | task 1    |           |
    ///         8 +           +           +-----------+
    ///           |           |           | task 2    |
    ///        10 +-----------+-----------+-----------+";
    ///     assert_eq!(plan.drawing().to_string(), expected.trim_start());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drawing(&self) -> impl fmt::Display + '_ {
        Drawing(self.decision.as_ref())
    }
}

struct Drawing<'a>(Option<&'a Decision>);

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(decision) = self.0 else { return f.write_str("no output") };
        let (pixels, chunks) = (decision.pixels(), decision.cut.chunks());
        let (digits, out_channels) = (pixels.to_string().len(), decision.out_channels().to_string());
        let margin = "channels ".len().max("pixels ".len() + digits + 1);
        // Of a column and of a gap, with the edge at the left.
        let width = "| half tile ".len().max(format!("| task {} ", decision.schedule.tasks()).len());
        let gap_width = "| ... ".len();

        let most = (COLUMNS - margin - gap_width - out_channels.len()) / width;
        let columns = elided(0..chunks, most, chunks - 1);
        let tiles = |pixel| columns.iter().flatten().map(move |chunk| decision.tile(*chunk, pixel).1);
        // A row starts wherever a tile of some column does. The head takes two lines, a gap two, a row two, the last edge one.
        let next = |start: &usize| tiles(*start).map(|tile| tile.end).min().filter(|end| *end < pixels);
        let last = tiles(pixels - 1).map(|tile| tile.start).max().unwrap_or(0);
        let rows = elided(iter::successors(Some(0), next), (LINES - 5) / 2, last);

        let mut text = String::new();
        // What is at its left, in each column, in a gap, and at its end.
        let mut line = |left: &str, column: &dyn Fn(usize) -> String, gap: &str, end: &str| {
            let mut line = format!("{left:margin$}");
            for chunk in &columns {
                line += &match chunk {
                    Some(chunk) => format!("{:width$}", column(*chunk)),
                    None => format!("{gap:gap_width$}"),
                };
            }
            text += (line + end).trim_end();
            text.push('\n');
        };
        line("channels", &|chunk| decision.first_channel(chunk).to_string(), "", &out_channels);
        line("kernel", &|chunk| format!("| {}", decision.cut.chunk(chunk).kernel), "| ...", "|");
        let edge = format!("+{:-<1$}", "", width - 1);
        for row in rows {
            let Some(pixel) = row else {
                line("", &|_| "| ...".into(), "| ...", "|");
                continue;
            };
            // The task of a tile that starts here.
            let task = |chunk| Some(decision.tile(chunk, pixel)).filter(|(_, tile)| tile.start == pixel);
            let edge = |chunk| task(chunk).map_or("+".into(), |_| edge.clone());
            let inside = |chunk| task(chunk).map_or("|".into(), |(task, _)| format!("| task {task}"));
            line(&format!("{:7}{pixel:digits$}", if pixel == 0 { "pixels" } else { "" }), &edge, "+", "+");
            line("", &inside, "| ...", "|");
        }
        line(&format!("{:7}{pixels}", ""), &|_| edge.clone(), "+", "+");
        f.write_str(text.trim_end())
    }
}

/// All of them, or where there are more than `most` the first ones, a gap, and the last one.
fn elided<T>(all: impl Iterator<Item = T>, most: usize, last: T) -> Vec<Option<T>> {
    let mut shown: Vec<_> = all.map(Some).take(most + 1).collect();
    if shown.len() > most {
        shown.truncate(most - 1);
        shown.extend([None, Some(last)]);
    }
    shown
}
