//! An attention mask over a picture, by a stack of two 1x1 convolutions: colour (3) to 32 features with relu, to one map
//! with sigmoid.
//!
//! Camera heart-rate models (Chen and McDuff, "DeepPhys: Video-Based Physiological Measurement Using Convolutional
//! Attention Networks", 2018) learn such a map: the pulse shows only where there is skin, so a 1x1 convolution with a
//! sigmoid weighs each pixel before the signal is taken. Here the weights are not learned but written: [`skin_weights`].
//!
//! The sigmoid is the convolution's own. That the mask is multiplied into another tensor is not: that tensor comes from other
//! layers, DeepPhys divides the mask by its sum over the picture first, and the multiplication reads and writes a tensor that
//! the convolution has no part in. It is a pass of its own, wherever it stands.
//!
//! ```text
//! cargo run --release --example attention_mask -- IN.png OUT.png
//! cargo run --release --example attention_mask                     # draws a picture of its own
//! ```

use anyhow::{Context, Result};
use clap::Parser;
use image::{ImageReader, Rgb, Rgb32FImage, RgbImage};
use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    env,
    f32::consts::TAU,
    path::{Path, PathBuf},
    time::Instant,
};

/// Lays an attention mask over a picture: what has the colour of skin stays, all else turns grey and dark.
#[derive(Parser)]
struct Args {
    /// A picture, PNG or JPEG [default: one that is drawn for the purpose]
    #[arg(requires = "output")]
    input: Option<PathBuf>,
    /// Where to write the result, PNG or JPEG
    output: Option<PathBuf>,
    /// Where to write the picture that is drawn, and its result [default: the system's folder for temporary files]
    #[arg(long, value_name = "FOLDER", conflicts_with = "input")]
    sample: Option<PathBuf>,
}

const FEATURES: usize = 32;

/// Weights and biases of both layers.
struct Weights {
    features: [[f32; 3]; FEATURES],
    feature_bias: [f32; FEATURES],
    mask: [f32; FEATURES],
    mask_bias: [f32; 1],
}

/// Skin of all tones fills an ellipse in the plane of the chroma components Cb and Cr (Hsu, Abdel-Mottaleb and Jain, "Face
/// Detection in Color Images", 2002), and chroma is linear in red, green and blue. So each feature is a half-plane that
/// touches the ellipse: how far a colour lies beyond it, and nothing on this side, which is what relu is for. The map is
/// high where no feature sees the colour outside. Colour is all that it goes by: wood or fur of such a colour passes.
fn skin_weights() -> Weights {
    // JPEG's conversion from red, green and blue in 0..=1 to Cb and Cr in 0..=255.
    const CHROMA: [[f32; 3]; 2] = [[-43.028, -84.472, 127.5], [127.5, -106.765, -20.735]];
    const GREY: f32 = 128.0;
    // The ellipse: its centre, how far its first axis is turned, its half-axes.
    const CENTRE: [f32; 2] = [109.38, 152.02];
    const ANGLE: f32 = 2.53;
    const OFFSET: [f32; 2] = [1.60, 2.41];
    const RADII: [f32; 2] = [25.39, 14.03];
    // Only its inner part: at the edge lie the warm greys of walls, too.
    const REACH: f32 = 0.6;

    let (sin, cos) = ANGLE.sin_cos();
    let mut weights = Weights {
        features: [[0.0; 3]; FEATURES],
        feature_bias: [0.0; FEATURES],
        mask: [-5.0; FEATURES],
        mask_bias: [4.0],
    };
    for (i, (feature, bias)) in weights.features.iter_mut().zip(&mut weights.feature_bias).enumerate() {
        // The half-plane's normal: on the unit circle, on the ellipse, turned into the plane.
        let (y, x) = (TAU * i as f32 / FEATURES as f32).sin_cos();
        let [x, y] = [x / RADII[0], y / RADII[1]];
        let [cb, cr] = [x * cos - y * sin, x * sin + y * cos];
        *feature = [0, 1, 2].map(|colour| cb * CHROMA[0][colour] + cr * CHROMA[1][colour]);
        *bias = cb * (GREY - CENTRE[0]) + cr * (GREY - CENTRE[1]) - x * OFFSET[0] - y * OFFSET[1] - REACH;
    }
    weights
}

/// One value in 0..=1 for each pixel.
fn attention_mask(picture: &Rgb32FImage) -> Result<Vec<f32>, pointwise::Error> {
    let weights = skin_weights();
    let features = PointwiseConv::builder(3, FEATURES)
        .bias(&weights.feature_bias)
        .activation(Activation::Relu)
        .build(weights.features.as_flattened())?;
    let mask = PointwiseConv::builder(FEATURES, 1)
        .bias(&weights.mask_bias)
        .activation(Activation::Sigmoid)
        .build(&weights.mask)?;

    let width = picture.width() as usize;
    let mut out = vec![0.0; picture.pixels().len()];
    // Row by row: the features of a row stay in the cache, those of a whole picture would be ten times its size.
    let mut row = vec![0.0; width * FEATURES];
    for (colours, out) in picture.chunks_exact(width * 3).zip(out.chunks_exact_mut(width)) {
        let row_shape = [1, 1, width, FEATURES];
        features.run(Nhwc::new(colours, [1, 1, width, 3])?, NhwcMut::new(&mut row, row_shape)?)?;
        mask.run(Nhwc::new(&row, row_shape)?, NhwcMut::new(out, [1, 1, width, 1])?)?;
    }
    Ok(out)
}

/// A portrait of ellipses in front of a woven cloth. Only the skin is the colour of skin: neither hair nor lips nor shirt.
fn draw_sample() -> RgbImage {
    const SKIN: [f32; 3] = [226.0, 172.0, 142.0];
    const HAIR: [f32; 3] = [38.0, 34.0, 36.0];
    const WHITE: [f32; 3] = [236.0, 236.0, 238.0];
    const IRIS: [f32; 3] = [52.0, 84.0, 92.0];
    // Centre, half-axes, colour; the later lie in front.
    const ELLIPSES: [([f32; 2], [f32; 2], [f32; 3]); 12] = [
        ([320.0, 205.0], [142.0, 160.0], HAIR),
        ([320.0, 520.0], [225.0, 150.0], [52.0, 92.0, 150.0]),
        ([320.0, 375.0], [52.0, 80.0], SKIN),
        ([205.0, 245.0], [20.0, 34.0], SKIN),
        ([435.0, 245.0], [20.0, 34.0], SKIN),
        ([320.0, 240.0], [115.0, 145.0], SKIN),
        ([276.0, 220.0], [21.0, 11.0], WHITE),
        ([364.0, 220.0], [21.0, 11.0], WHITE),
        ([276.0, 220.0], [10.0, 10.0], IRIS),
        ([364.0, 220.0], [10.0, 10.0], IRIS),
        ([320.0, 118.0], [100.0, 36.0], HAIR),
        ([320.0, 318.0], [38.0, 12.0], [186.0, 66.0, 84.0]),
    ];
    let mut rng = StdRng::seed_from_u64(1);
    RgbImage::from_fn(640, 480, |x, y| {
        let [x, y] = [x as f32, y as f32];
        let weave = 18.0 * ((x * 0.35).sin() * (y * 0.35).sin() + (x * 0.02 + y * 0.03).sin());
        let cloth = [88.0, 124.0, 112.0].map(|channel| channel + weave);
        let colour = ELLIPSES.iter().fold(cloth, |behind, (centre, radii, colour)| {
            let distance = f32::hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1]);
            // An edge about two pixels wide.
            let cover = ((1.0 - distance) * radii[0].min(radii[1]) / 2.0 + 0.5).clamp(0.0, 1.0);
            [0, 1, 2].map(|i| behind[i] + cover * (colour[i] - behind[i]))
        });
        let light = 1.1 - 0.45 * x / 640.0;
        let grain = rng.random_range(-6.0..6.0);
        Rgb(colour.map(|channel| (channel * light + grain) as u8))
    })
}

fn overlay(Rgb(colour): Rgb<f32>, mask: f32) -> Rgb<f32> {
    let dark_grey = 0.25 * (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]);
    Rgb(colour.map(|channel| dark_grey + mask * (channel - dark_grey)))
}

fn read(path: &Path) -> Result<Rgb32FImage> {
    Ok(ImageReader::open(path)?.with_guessed_format()?.decode()?.into_rgb32f())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cannot_write = |path: &Path| format!("cannot write {}", path.display());
    let (input, output) = match (args.input, args.output) {
        (Some(input), Some(output)) => (input, output),
        _ => {
            let folder = args.sample.unwrap_or_else(env::temp_dir);
            let input = folder.join("attention_mask_in.png");
            draw_sample().save(&input).with_context(|| cannot_write(&input))?;
            println!("drawn   {}", input.display());
            (input, folder.join("attention_mask_out.png"))
        }
    };

    let mut picture = read(&input).with_context(|| format!("cannot read {}", input.display()))?;
    let start = Instant::now();
    let mask = attention_mask(&picture)?;
    let seconds = start.elapsed().as_secs_f64();
    for (colour, mask) in picture.pixels_mut().zip(&mask) {
        *colour = overlay(*colour, *mask);
    }
    let (width, height) = picture.dimensions();
    image::DynamicImage::from(picture).into_rgb8().save(&output).with_context(|| cannot_write(&output))?;

    let skin = mask.iter().filter(|mask| **mask > 0.5).count();
    println!("written {}", output.display());
    println!(
        "{width} x {height} pixels in {:.2} ms, {:.1} % of them with the colour of skin",
        seconds * 1e3,
        100.0 * skin as f64 / mask.len() as f64
    );
    Ok(())
}
