//! The pictures: SVG, and PNG rendered from it.
//!
//! Both bring their background, for pages that are dark, and the PNG its font, for machines that have none.

use crate::{Panel, Point};
use anyhow::{Context, Result};
use resvg::{tiny_skia, usvg};
use std::path::Path;
use svg::{
    Document, Node,
    node::element::{self, Group, Line, Rectangle, Text, Title},
};

const WIDTH: f64 = 1200.0;
const FONT_SIZE: f64 = 13.0;
/// Of a letter on average, in DejaVu Sans and Verdana; most fonts that a viewer has in their place are narrower.
const LETTER: f64 = 0.62 * FONT_SIZE;
const INK: &str = "#222";
const GRID: &str = "#e4e4e4";

/// A network's colour, of those that colour-blind readers tell apart (Okabe and Ito, "Color Universal Design", 2008),
/// and its shape around the origin.
const NETS: [(&str, &str); 5] = [
    ("#0072b2", "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z"),
    ("#d55e00", "M-4.5,-4.5h9v9h-9z"),
    ("#009e73", "M0,-5.8L5.8,4.4H-5.8z"),
    ("#cc79a7", "M0,-6.4L6.4,0L0,6.4L-6.4,0z"),
    ("#e69f00", "M0,5.8L5.8,-4.4H-5.8z"),
];

/// x and y in pixels, from the top left.
type Place = [f64; 2];

/// One decimal, so that files stay small.
fn px(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Two digits at least.
pub fn figure(value: f64) -> String {
    format!("{value:.*}", if value < 10.0 { 1 } else { 0 })
}

fn text(content: impl Into<String>, [x, y]: Place, anchor: &str) -> Text {
    Text::new(content).set("x", px(x)).set("y", px(y)).set("text-anchor", anchor)
}

fn title(panel: &Panel<'_>, at: Place) -> Text {
    let threads = if panel.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", panel.threads) };
    text(format!("{}, {threads}", panel.isa), at, "middle").set("font-weight", "bold").set("font-size", 16)
}

fn rotate(text: Text, degrees: f64, [x, y]: Place) -> Text {
    text.set("transform", format!("rotate({:.2},{},{})", degrees, px(x), px(y)))
}

fn line(from: Place, to: Place, colour: &str) -> Line {
    let [x1, y1, x2, y2] = [from[0], from[1], to[0], to[1]].map(px);
    Line::new().set("x1", x1).set("y1", y1).set("x2", x2).set("y2", y2).set("stroke", colour)
}

fn marker(net: usize, [x, y]: Place) -> element::Path {
    let (colour, shape) = NETS[net % NETS.len()];
    let path = element::Path::new().set("d", shape).set("fill", colour).set("stroke", "#fff");
    path.set("transform", format!("translate({},{})", px(x), px(y)))
}

/// What a mouse that rests on a point is told.
fn tooltip(point: &Point<'_>, percent: f64) -> Title {
    Title::new(format!("{}: {:.1} GFLOP/s, {percent:.0} % of the attainable", point.layer, point.gflops()))
}

/// The networks, in the order of their layers.
fn nets<'a>(panels: &'a [Panel<'_>]) -> Vec<&'a str> {
    let mut nets: Vec<_> = panels[0].points.iter().map(|point| point.layer.net.as_str()).collect();
    nets.dedup();
    nets
}

fn net(nets: &[&str], point: &Point<'_>) -> usize {
    nets.iter().position(|net| *net == point.layer.net).expect("every panel has the same layers")
}

/// A picture with its background and legend.
fn document(height: f64, nets: &[&str], legend_y: f64) -> Document {
    let background = Rectangle::new().set("width", WIDTH).set("height", height).set("rx", 8).set("fill", "#fff");
    let mut picture = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "DejaVu Sans, Verdana, sans-serif")
        .set("font-size", FONT_SIZE)
        .set("fill", INK)
        .add(background);
    let width = |net: &str| 40.0 + net.len() as f64 * LETTER;
    let mut x = (WIDTH - nets.iter().map(|net| width(net)).sum::<f64>()) / 2.0;
    for (i, net) in nets.iter().enumerate() {
        picture.append(marker(i, [x + 10.0, legend_y - 4.5]));
        picture.append(text(*net, [x + 22.0, legend_y], "start"));
        x += width(net);
    }
    picture
}

/// What one axis of a roofline shows: powers of 2.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    /// Where those are.
    pixels: [f64; 2],
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        self.pixels[0] + (value / self.low).log2() / (self.high / self.low).log2() * (self.pixels[1] - self.pixels[0])
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        (self.low.log2().ceil() as i32..=self.high.log2().floor() as i32).map(|exponent| {
            let value = 2f64.powi(exponent);
            (self.at(value), if exponent < 0 { format!("1/{}", 1.0 / value) } else { value.to_string() })
        })
    }
}

/// Left, right, top, bottom.
type Area = [f64; 4];

fn around([x, y]: Place, half: f64) -> Area {
    [x - half, x + half, y - half, y + half]
}

/// Squares from here to there, for what is not upright.
fn along(from: Place, to: Place, half: f64) -> Vec<Area> {
    let steps = ((to[0] - from[0]).hypot(to[1] - from[1]) / half).ceil().max(1.0);
    let step = |i| [0, 1].map(|axis| from[axis] + f64::from(i) / steps * (to[axis] - from[axis]));
    (0..=steps as u32).map(|i| around(step(i), half)).collect()
}

/// A panel for each ISA: the roofs, and a point for each layer.
pub fn roofline(panels: &[Panel<'_>]) -> Document {
    const HEIGHT: f64 = 580.0;
    // Two side by side can be compared, and leave each enough room.
    let columns = if panels.len() == 2 { 2 } else { 1 };
    let bottom = panels.len().div_ceil(columns) as f64 * HEIGHT;

    let points = || panels.iter().flat_map(|panel| &panel.points);
    let ridges = panels.iter().flat_map(|panel| panel.levels.iter().map(|(_, bandwidth)| panel.peak / bandwidth));
    let (mut x_low, mut x_high) = (f64::MAX, 0.0f64);
    for x in points().map(Point::flop_per_byte).chain(ridges) {
        (x_low, x_high) = (x_low.min(x / 2.5), x_high.max(x * 1.5));
    }
    let y_high = panels.iter().map(|panel| panel.peak).fold(0.0, f64::max) * 1.4;
    let y_low = points().map(Point::gflops).fold(y_high / 16.0, f64::min) / 1.5;

    let nets = nets(panels);
    let mut picture = document(bottom + 48.0, &nets, bottom + 12.0);
    for (i, panel) in panels.iter().enumerate() {
        let width = WIDTH / columns as f64;
        let (left, top) = ((i % columns) as f64 * width, (i / columns) as f64 * HEIGHT);
        let x = Axis { low: x_low, high: x_high, pixels: [left + 62.0, left + width - 20.0] };
        let y = Axis { low: y_low, high: y_high, pixels: [top + HEIGHT - 56.0, top + 44.0] };
        let mut roofline = Roofline { panel, x, y, taken: vec![], group: Group::new() };
        roofline.grid();
        roofline.roofs_and_points(&nets);
        roofline.name_roofs();
        roofline.name_points();
        picture.append(roofline.group);
    }
    let note = "Named: the layers furthest below what is attainable, and how much of it they reach";
    picture.add(text(note, [WIDTH / 2.0, bottom + 34.0], "middle"))
}

/// A panel of that picture.
struct Roofline<'a> {
    panel: &'a Panel<'a>,
    x: Axis,
    y: Axis,
    /// What labels must not hide.
    taken: Vec<Area>,
    group: Group,
}

impl Roofline<'_> {
    fn grid(&mut self) {
        let ([left, right], [bottom, top]) = (self.x.pixels, self.y.pixels);
        for (x, name) in self.x.ticks() {
            self.group.append(line([x, bottom], [x, top], GRID));
            self.group.append(text(name, [x, bottom + 18.0], "middle"));
        }
        for (y, name) in self.y.ticks() {
            self.group.append(line([left, y], [right, y], GRID));
            self.group.append(text(name, [left - 6.0, y + 4.5], "end"));
        }
        let (middle, beside) = ((left + right) / 2.0, [left - 46.0, (top + bottom) / 2.0]);
        self.group.append(title(self.panel, [middle, top - 16.0]));
        self.group.append(text("FLOP per byte of input, weights and output", [middle, bottom + 40.0], "middle"));
        self.group.append(rotate(text("GFLOP/s", beside, "middle"), -90.0, beside));
    }

    /// From the lowest value that both axes have to the FMA peak.
    fn slope(&self, bandwidth: f64) -> (Place, Place) {
        let (low, ridge) = (self.x.low.max(self.y.low / bandwidth), self.panel.peak / bandwidth);
        ([self.x.at(low), self.y.at(low * bandwidth)], [self.x.at(ridge), self.y.at(self.panel.peak)])
    }

    fn place(&self, point: &Point<'_>) -> Place {
        [self.x.at(point.flop_per_byte()), self.y.at(point.gflops())]
    }

    fn roofs_and_points(&mut self, nets: &[&str]) {
        let mut roofs: Vec<_> = self.panel.levels.iter().map(|(_, bandwidth)| self.slope(*bandwidth)).collect();
        let peak = self.y.at(self.panel.peak);
        let ridge = roofs.iter().map(|(_, ridge)| ridge[0]).reduce(f64::min).unwrap_or(self.x.pixels[0]);
        roofs.push(([ridge, peak], [self.x.pixels[1], peak]));
        for (from, to) in roofs {
            self.group.append(line(from, to, INK).set("stroke-width", 1.5));
            self.taken.extend(along(from, to, 1.5));
        }
        for (point, percent) in self.panel.sorted() {
            let place = self.place(point);
            self.group.append(marker(net(nets, point), place).add(tooltip(point, percent)));
            self.taken.push(around(place, 6.0));
        }
    }

    /// Takes the place unless some of it is taken.
    fn take(&mut self, areas: &[Area]) -> bool {
        let overlap = |a: &Area, b: &Area| a[0] < b[1] && b[0] < a[1] && a[2] < b[3] && b[2] < a[3];
        let free = !areas.iter().any(|area| self.taken.iter().any(|taken| overlap(area, taken)));
        if free {
            self.taken.extend(areas);
        }
        free
    }

    fn name_roofs(&mut self) {
        let name = format!("FMA peak {} GFLOP/s", figure(self.panel.peak));
        let [end, base] = [self.x.pixels[1] - 4.0, self.y.at(self.panel.peak) - 7.0];
        self.taken.push([end - name.len() as f64 * LETTER, end, base - FONT_SIZE, base]);
        self.group.append(text(name, [end, base], "end"));
        for (i, (name, bandwidth)) in self.panel.levels.iter().enumerate() {
            let name = format!("{name} {} GB/s", figure(*bandwidth));
            // Above its line, but memory's below: the two last lines may lie close to each other.
            let above = if i + 1 < self.panel.levels.len() { 10.0 } else { -10.0 };
            let (from, to) = self.slope(*bandwidth);
            let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
            let (length, width) = (dx.hypot(dy), name.len() as f64 * LETTER);
            let beside = |start: f64, above: f64| {
                [from[0] + (dx * start + dy * above) / length, from[1] + (dy * start - dx * above) / length]
            };
            let mut starts = (2..).map(|tens| 10.0 * f64::from(tens)).take_while(|start| start + width < length);
            let area = |start: f64| along(beside(start, above), beside(start + width, above), FONT_SIZE / 3.0);
            if let Some(start) = starts.find(|start| self.take(&area(*start))) {
                let at = beside(start, above - 4.5);
                self.group.append(rotate(text(name, at, "start"), dy.atan2(dx).to_degrees(), at));
            }
        }
    }

    /// The dozen furthest below what is attainable, as far as there is room: beside its point or, with a line to it,
    /// below.
    fn name_points(&mut self) {
        let ([left, right], [bottom, _]) = (self.x.pixels, self.y.pixels);
        for (point, percent) in self.panel.sorted().into_iter().rev().take(12) {
            let name = format!("{} {percent:.0} %", point.layer.name);
            let ([x, y], half) = (self.place(point), name.len() as f64 * LETTER / 2.0);
            let beside = [(half + 9.0, 4.5), (-half - 9.0, 4.5), (0.0, 20.0), (0.0, -10.0)];
            let below = (2..8).flat_map(|row| [0, -30, 30, -60, 60].map(|dx| (f64::from(dx), f64::from(row) * 20.0)));
            for (dx, dy) in beside.into_iter().chain(below) {
                let at = [x + dx, y + dy];
                let mut areas = vec![[at[0] - half, at[0] + half, at[1] - FONT_SIZE + 2.0, at[1] + 2.0]];
                if areas[0][0] < left || areas[0][1] > right || areas[0][3] > bottom {
                    continue;
                }
                let (from, to) = ([x, y + 8.0], [at[0], at[1] - FONT_SIZE]);
                let apart = to[1] > from[1];
                if apart {
                    areas.extend(along(from, to, 1.0));
                }
                if self.take(&areas) {
                    if apart {
                        self.group.append(line(from, to, INK).set("stroke-width", 0.7));
                    }
                    // White behind its letters, where a line of the grid crosses.
                    let name = text(name, at, "middle").set("stroke", "#fff").set("stroke-width", 3);
                    self.group.append(name.set("paint-order", "stroke"));
                    break;
                }
            }
        }
    }
}

/// A column for each ISA: how much of what is attainable each layer reaches, the best first.
pub fn efficiency(panels: &[Panel<'_>]) -> Document {
    const ROW: f64 = 17.0;
    const TOP: f64 = 98.0;
    const NAMES: f64 = 186.0;
    let nets = nets(panels);
    let bottom = TOP + panels[0].points.len() as f64 * ROW + 4.0;
    let mut picture = document(bottom + 48.0, &nets, 28.0);

    let column = WIDTH / panels.len() as f64;
    let most = panels.iter().flat_map(Panel::sorted).map(|(_, percent)| percent).fold(100.0, f64::max);
    for (i, panel) in panels.iter().enumerate() {
        let left = i as f64 * column + NAMES;
        let right = (i + 1) as f64 * column - 54.0;
        let at = |percent: f64| left + percent / most * (right - left);
        picture.append(title(panel, [at(50.0), 62.0]));
        picture.append(text("% of the attainable GFLOP/s", [at(50.0), bottom + 36.0], "middle"));
        for percent in (0..=100).step_by(20) {
            let x = at(f64::from(percent));
            picture.append(line([x, TOP - 6.0], [x, bottom], if percent == 100 { INK } else { GRID }));
            for y in [TOP - 12.0, bottom + 16.0] {
                picture.append(text(percent.to_string(), [x, y], "middle"));
            }
        }
        for (row, (point, percent)) in panel.sorted().into_iter().enumerate() {
            let net = net(&nets, point);
            let y = TOP + row as f64 * ROW;
            let base = y + ROW - 4.0;
            let bar = Rectangle::new().set("x", px(left)).set("y", px(y + 2.0)).set("height", ROW - 4.0);
            let bar = bar.set("width", px(at(percent) - left)).set("fill", NETS[net % NETS.len()].0);
            picture.append(bar.add(tooltip(point, percent)));
            picture.append(marker(net, [left - 11.0, y + ROW / 2.0]));
            picture.append(text(format!("{} {}", point.layer.net, point.layer.name), [left - 22.0, base], "end"));
            picture.append(text(format!("{percent:.0}"), [right + 34.0, base], "end"));
        }
    }
    picture
}

/// Writes `.svg`, and `.png` with two pixels for one.
pub fn save(picture: &Document, path: &Path) -> Result<()> {
    let (svg, png) = (path.with_extension("svg"), path.with_extension("png"));
    svg::save(&svg, picture).with_context(|| format!("cannot write {}", svg.display()))?;

    let mut options = usvg::Options::default();
    for font in [dejavu::sans::regular(), dejavu::sans::bold()] {
        options.fontdb_mut().load_font_data(font.to_vec());
    }
    let tree = usvg::Tree::from_str(&picture.to_string(), &options)?;
    let size = tree.size().to_int_size();
    let mut pixels = tiny_skia::Pixmap::new(2 * size.width(), 2 * size.height()).context("a picture without pixels")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(2.0, 2.0), &mut pixels.as_mut());
    pixels.save_png(&png).with_context(|| format!("cannot write {}", png.display()))
}
