//! Packed weights: panels of 16 output channels, the same on every ISA.
//!
//! Each group of channels has `ceil(out_channels / 16)` panels, one after the other. A panel is `1 + in_channels` rows of
//! 16 values: the biases, then for each input channel the weights of the 16 output channels. Where there are fewer than
//! 16 channels left, the rest of the last panel is zero. Because the layout does not know the register tile, the tile can
//! be chosen at each call.

use crate::{
    Activation, Error,
    kernel::{Channels, Lanes, PANEL, Row},
};
use alloc::vec::Vec;

/// Weights and biases in panels.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    rows: Vec<Row>,
    /// Rows of a group's panels.
    group: usize,
    /// One for each panel, or none.
    channels: Vec<Channels>,
}

impl Packed {
    /// `weights` is `[out_channels, in_channels]`, `bias` has `out_channels` values or none; both are cut into `groups`
    /// along `out_channels`. `in_channels` and `out_channels` are those of one group.
    pub fn new<L: Lanes>(
        simd: L,
        weights: &[f32],
        bias: Option<&[f32]>,
        [in_channels, out_channels, groups]: [usize; 3],
    ) -> Result<Self, Error> {
        let panels = out_channels.div_ceil(PANEL);
        let too_large = || Error::TooLarge {
            what: "packed weights",
            shape: [groups, panels, in_channels.saturating_add(1), PANEL],
            strides: [0; 3],
        };
        let panel = in_channels.checked_add(1).ok_or_else(too_large)?;
        let group = panel.checked_mul(panels).ok_or_else(too_large)?;
        let len = group.checked_mul(groups).ok_or_else(too_large)?;
        let mut rows = Vec::new();
        rows.try_reserve_exact(len).map_err(|_| too_large())?;
        rows.resize(len, Row([0.0; PANEL]));
        if out_channels > 0 {
            let channels = |group: usize, p: usize| {
                let first = group * out_channels + p * PANEL;
                first..first + (out_channels - p * PANEL).min(PANEL)
            };
            for (i, panel) in rows.chunks_exact_mut(panel).enumerate() {
                let channels = channels(i / panels, i % panels);
                let weights = &weights[channels.start * in_channels..channels.end * in_channels];
                pack_panel(simd, panel, weights, bias.map_or(&[], |bias| &bias[channels]), in_channels);
            }
        }
        Ok(Self { rows, group, channels: Vec::new() })
    }

    /// With values for each output channel of all groups, where one of them is given. A leaky relu has equal slopes.
    pub fn with_channels(
        mut self,
        scale_shift: Option<(&[f32], &[f32])>,
        (activation, slopes): (Activation, Option<&[f32]>),
        [out_channels, groups]: [usize; 2],
    ) -> Result<Self, Error> {
        if scale_shift.is_none() && !matches!(activation, Activation::Prelu | Activation::LeakyRelu { .. }) {
            return Ok(self);
        }
        let panels = out_channels.div_ceil(PANEL);
        let too_large =
            |_| Error::TooLarge { what: "packed weights", shape: [groups, panels, 3, PANEL], strides: [0; 3] };
        self.channels.try_reserve_exact(groups * panels).map_err(too_large)?;
        for group in 0..groups {
            for first in (0..out_channels).step_by(PANEL) {
                let range = group * out_channels + first..group * out_channels + (first + PANEL).min(out_channels);
                let row = |values: Option<&[f32]>| {
                    let mut row = Row([0.0; PANEL]);
                    if let Some(values) = values {
                        row.0[..range.len()].copy_from_slice(&values[range.clone()]);
                    }
                    row
                };
                let (scale, shift) = scale_shift.unzip();
                let slope = match activation {
                    Activation::LeakyRelu { slope } => Row([slope; PANEL]),
                    _ => row(slopes),
                };
                self.channels.push(Channels { scale: row(scale), shift: row(shift), slope });
            }
        }
        Ok(self)
    }

    /// What is given for each channel of a group's panels, from the `panel`-th on: empty where nothing is.
    pub fn channels(&self, group: usize, panel: usize, in_channels: usize) -> &[Channels] {
        if self.channels.is_empty() {
            return &[];
        }
        let panels = self.group / (in_channels + 1);
        &self.channels[group * panels + panel..]
    }

    /// The panels of a group from the `panel`-th on.
    pub fn panels(&self, group: usize, panel: usize, in_channels: usize) -> &[Row] {
        &self.rows[group * self.group..][..self.group][panel * (in_channels + 1)..]
    }
}

/// `weights` holds up to 16 rows of `in_channels` values.
fn pack_panel<L: Lanes>(simd: L, panel: &mut [Row], weights: &[f32], bias: &[f32], in_channels: usize) {
    let Some((biases, rows)) = panel.split_first_mut() else { return };
    biases.0[..bias.len()].copy_from_slice(bias);
    if in_channels == 0 {
        return;
    }
    let mut transposed = 0;
    if weights.len() == PANEL * in_channels {
        transposed = in_channels / 4 * 4;
        transpose(simd, &mut rows[..transposed], weights, in_channels);
    }
    for (channel, weights) in weights.chunks_exact(in_channels).enumerate() {
        for (row, weight) in rows[transposed..].iter_mut().zip(&weights[transposed..]) {
            row.0[channel] = *weight;
        }
    }
}

/// The first `rows.len()` input channels, a multiple of 4, of 16 output channels.
fn transpose<L: Lanes>(simd: L, rows: &mut [Row], weights: &[f32], in_channels: usize) {
    struct Transpose<'a, L>(L, &'a mut [Row], &'a [f32], usize);
    impl<L: Lanes> pulp::NullaryFnOnce for Transpose<'_, L> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, rows, weights, in_channels) = self;
            for part in 0..PANEL / L::LANES {
                let mut channels: [&[[f32; 4]]; 16] = [&[]; 16];
                for (l, channel) in channels.iter_mut().enumerate().take(L::LANES) {
                    let from = &weights[(part * L::LANES + l) * in_channels..][..in_channels];
                    *channel = &from.as_chunks().0[..rows.len() / 4];
                }
                for (four, rows) in rows.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let columns = simd.transpose(
                        #[inline(always)]
                        |l| &channels[l][four],
                    );
                    for (row, column) in rows.iter_mut().zip(columns) {
                        simd.store(column, row, part);
                    }
                }
            }
        }
    }
    simd.vectorize(Transpose(simd, rows, weights, in_channels));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Isa,
        isa::{Token, with_lanes},
    };

    /// The definition of the layout, value by value, on every ISA.
    #[test]
    fn panels_hold_every_weight_and_bias_in_its_place() {
        for &isa in Isa::available() {
            for (k, f, groups) in
                [(0, 3, 1), (1, 1, 1), (3, 16, 1), (4, 17, 2), (9, 33, 1), (64, 48, 3), (7, 0, 1), (6, 15, 4)]
            {
                let weights: Vec<f32> = (0..groups * f * k).map(|i| i as f32 + 1.0).collect();
                let bias: Vec<f32> = (0..groups * f).map(|i| -(i as f32) - 1.0).collect();
                let token = Token::new(isa).unwrap();
                let packed =
                    with_lanes!(token, simd => Packed::new(simd, &weights, Some(&bias), [k, f, groups])).unwrap();
                for (group, p, lane) in lanes(groups, f.div_ceil(PANEL)) {
                    let panel = &packed.panels(group, p, k)[..k + 1];
                    let channel = p * PANEL + lane;
                    let expect = |value: f32| if channel < f { value } else { 0.0 };
                    let channel = group * f + channel.min(f - 1);
                    assert_eq!(panel[0].0[lane], expect(bias[channel]), "{isa}: bias of {channel}, K {k}, F {f}");
                    for i in 0..k {
                        let weight = expect(weights[channel * k + i]);
                        assert_eq!(panel[i + 1].0[lane], weight, "{isa}: k {i} of {channel}, K {k}, F {f}");
                    }
                }
            }
        }
    }

    /// Every (group, panel, lane).
    fn lanes(groups: usize, panels: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..groups * panels * PANEL).map(move |i| (i / PANEL / panels, i / PANEL % panels, i % PANEL))
    }

    #[test]
    fn absurd_sizes_are_an_error() {
        let error = Packed::new(crate::kernel::Scalar, &[], None, [0, usize::MAX, 1]).unwrap_err();
        assert!(matches!(error, Error::TooLarge { what: "packed weights", .. }), "{error}");
        assert!(Packed::new(crate::kernel::Scalar, &[], None, [usize::MAX, 0, 1]).is_err());
    }
}
