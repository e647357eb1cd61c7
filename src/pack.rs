//! Packed weights: panels of 16 output channels, the same on every ISA.
//!
//! Each group of channels has `ceil(out_channels / 16)` panels, one after the other. A panel is `1 + in_channels` rows of
//! 16 values: the biases, then for each input channel the weights of the 16 output channels. Where there are fewer than
//! 16 channels left, the rest of the last panel is zero. Where values are given for each channel, scale, shift and slope, three
//! rows of them for each panel follow behind all panels.
//!
//! Because the layout does not know the register tile, the tile can be chosen at each call, and because it does not know the
//! ISA, [`save`](crate::save) can keep the rows in a file as they are.

use crate::{
    Activation, Error,
    kernel::{Channels, Lanes, PANEL, Row},
};
use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

/// Weights and biases in panels, and what else is given for each channel.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    rows: Rows,
    sizes: PackedSizes,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedSizes {
    /// Rows of a panel.
    panel: usize,
    /// Panels of a group.
    group_panels: usize,
    /// Rows of all panels. Behind them are the [`Channels`], three rows for each panel, or none.
    panel_rows: usize,
    /// All rows.
    pub rows: usize,
}

impl PackedSizes {
    /// The channels are those of one group; `by_channel` tells whether there are [`Channels`].
    pub fn new([in_channels, out_channels, groups]: [usize; 3], by_channel: bool) -> Result<Self, Error> {
        let group_panels = out_channels.div_ceil(PANEL);
        let sizes = || {
            let (panel, panels) = (in_channels.checked_add(1)?, group_panels.checked_mul(groups)?);
            let panel_rows = panel.checked_mul(panels)?;
            let rows = panel_rows.checked_add(if by_channel { panels.checked_mul(3)? } else { 0 })?;
            rows.checked_mul(size_of::<Row>()).filter(|bytes| *bytes <= isize::MAX as usize)?;
            Some(Self { panel, group_panels, panel_rows, rows })
        };
        sizes().ok_or_else(|| out_of_memory([in_channels, out_channels, groups]))
    }
}

/// The channels are those of one group.
fn out_of_memory([in_channels, out_channels, groups]: [usize; 3]) -> Error {
    let [in_channels, out_channels] = [in_channels, out_channels].map(|channels| channels.saturating_mul(groups));
    Error::OutOfMemory { in_channels, out_channels, groups }
}

/// An empty vector with place for so many rows.
pub(crate) fn reserve(rows: usize, sizes: [usize; 3]) -> Result<Vec<Row>, Error> {
    let mut reserved = Vec::new();
    reserved.try_reserve_exact(rows).map_err(|_| out_of_memory(sizes))?;
    Ok(reserved)
}

impl Packed {
    /// `weights` is `[out_channels, in_channels]`, `bias` has `out_channels` values or none; both are cut into `groups`
    /// along `out_channels`, and so is `by_channel`. `in_channels` and `out_channels` are those of one group.
    pub fn new<L: Lanes>(
        simd: L,
        weights: &[f32],
        bias: Option<&[f32]>,
        by_channel: ByChannel<'_>,
        [in_channels, out_channels, groups]: [usize; 3],
    ) -> Result<Self, Error> {
        let sizes = PackedSizes::new([in_channels, out_channels, groups], by_channel.is_given())?;
        let panels = sizes.group_panels;
        let mut rows = reserve(sizes.rows, [in_channels, out_channels, groups])?;
        let range = |i: usize| {
            let (group, p) = (i / panels, i % panels);
            let first = group * out_channels + p * PANEL;
            first..first + (out_channels - p * PANEL).min(PANEL)
        };
        for range in (0..groups * panels).map(range) {
            let (start, end) = (rows.len(), rows.len() + in_channels + 1);
            // One panel after the other, so that its rows are still in the cache when the weights replace their zeros.
            rows.resize(end, Row([0.0; PANEL]));
            let weights = &weights[range.start * in_channels..range.end * in_channels];
            pack_panel(simd, &mut rows[start..], weights, bias.map_or(&[], |bias| &bias[range]), in_channels);
        }
        if by_channel.is_given() {
            for range in (0..groups * panels).map(range) {
                rows.extend_from_slice(bytemuck::must_cast_slice(&[by_channel.pack(range)]));
            }
        }
        Ok(Self::from_rows(rows.into(), sizes))
    }

    /// As many rows as `sizes` says.
    pub fn from_rows(rows: Rows, sizes: PackedSizes) -> Self {
        assert_eq!(rows.len(), sizes.rows);
        Self { rows, sizes }
    }

    /// All of it: the panels, and then the [`Channels`].
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What is given for each channel of a group's panels, from the `panel`-th on: empty where nothing is.
    pub fn channels(&self, group: usize, panel: usize) -> &[Channels] {
        let channels = &self.rows[self.sizes.panel_rows..];
        if channels.is_empty() {
            return &[];
        }
        &bytemuck::must_cast_slice(channels.as_chunks::<3>().0)[group * self.sizes.group_panels + panel..]
    }

    /// So many panels of a group, from the `panel`-th on.
    pub fn panels(&self, group: usize, panel: usize, count: usize) -> &[Row] {
        let PackedSizes { panel: rows, group_panels, .. } = self.sizes;
        &self.rows[(group * group_panels + panel) * rows..][..count * rows]
    }
}

/// What is given for each output channel, of all groups.
#[derive(Clone, Copy, Default)]
pub(crate) struct ByChannel<'a> {
    pub scale_shift: Option<(&'a [f32], &'a [f32])>,
    /// A leaky relu has equal slopes.
    pub activation: Activation,
    pub slopes: Option<&'a [f32]>,
}

impl ByChannel<'_> {
    fn is_given(&self) -> bool {
        self.scale_shift.is_some() || matches!(self.activation, Activation::Prelu | Activation::LeakyRelu { .. })
    }

    fn pack(&self, range: Range<usize>) -> Channels {
        let row = |values: Option<&[f32]>| {
            let mut row = Row([0.0; PANEL]);
            if let Some(values) = values {
                row.0[..range.len()].copy_from_slice(&values[range.clone()]);
            }
            row
        };
        let (scale, shift) = self.scale_shift.unzip();
        let slope = match self.activation {
            Activation::LeakyRelu { slope } => Row([slope; PANEL]),
            Activation::Prelu => row(self.slopes),
            _ => row(None),
        };
        Channels { scale: row(scale), shift: row(shift), slope }
    }
}

pub(crate) use rows::Rows;

/// The one place that knows why rows which are borrowed from their owner may be kept beside it.
mod rows {
    use super::{Arc, Error, Row, Vec};
    use core::{
        fmt,
        ops::Deref,
        panic::{RefUnwindSafe, UnwindSafe},
        ptr::NonNull,
    };

    /// Rows, and the owner of the memory where they are. A clone shares them.
    #[derive(Clone)]
    pub(crate) struct Rows {
        rows: NonNull<[Row]>,
        /// Never looked at: it is kept so that the memory stays.
        _owner: Arc<dyn Send + Sync>,
    }

    impl Rows {
        /// Of `owner`, borrowed once, and with what else `borrow` finds there.
        pub fn new<O: Send + Sync + 'static, T>(
            owner: O,
            borrow: impl FnOnce(&O) -> Result<(T, &[Row]), Error>,
        ) -> Result<(T, Self), Error> {
            // There it stays, so that rows within the owner itself do not move either.
            let owner = Arc::new(owner);
            let (found, rows) = borrow(&owner)?;
            Ok((found, Self { rows: NonNull::from(rows), _owner: owner }))
        }
    }

    impl From<Vec<Row>> for Rows {
        fn from(rows: Vec<Row>) -> Self {
            let owner = Arc::new(rows);
            Self { rows: NonNull::from(owner.as_slice()), _owner: owner }
        }
    }

    impl Deref for Rows {
        type Target = [Row];

        #[inline(always)]
        fn deref(&self) -> &[Row] {
            // SAFETY: `borrow`, or a vector, gives rows that are valid for as long as its owner is borrowed, however long that is. It is,
            // for as long as `self` lives: the owner does not move, nothing drops it, and nobody can borrow it mutably, for
            // its `Arc` is private and no function takes a reference from it. The rows given here do not outlive `self`.
            // (A reference in place of the pointer would not do: it would have to be valid while the owner is dropped.)
            unsafe { self.rows.as_ref() }
        }
    }

    // SAFETY: a `&[Row]`, which may be sent, and an owner, which may, too.
    unsafe impl Send for Rows {}
    // SAFETY: as above, and shared.
    unsafe impl Sync for Rows {}
    // Nobody sees the owner, in whatever state a panic leaves it.
    impl UnwindSafe for Rows {}
    impl RefUnwindSafe for Rows {}

    impl fmt::Debug for Rows {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} rows at {:p}", self.len(), self.as_ptr())
        }
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
    fn every_value_is_in_its_place() {
        for &isa in Isa::available() {
            for (k, f, groups) in [
                (0, 3, 1),
                (1, 1, 1),
                (3, 16, 1),
                (4, 1, 1),
                (4, 5, 1),
                (4, 17, 2),
                (9, 33, 1),
                (20, 16, 1),
                (64, 48, 3),
                (7, 0, 1),
                (6, 15, 4),
            ] {
                let weights: Vec<f32> = (0..groups * f * k).map(|i| i as f32 + 1.0).collect();
                let bias: Vec<f32> = (0..groups * f).map(|i| -(i as f32) - 1.0).collect();
                let by_channel =
                    [0.25, 0.5, 0.75].map(|part| bias.iter().map(|bias| part - bias).collect::<Vec<f32>>());
                let [scale, shift, slopes] = &by_channel;
                let given = ByChannel {
                    scale_shift: Some((scale, shift)),
                    activation: Activation::Prelu,
                    slopes: Some(slopes),
                };
                let token = Token::new(isa).unwrap();
                let packed =
                    with_lanes!(token, simd => Packed::new(simd, &weights, Some(&bias), given, [k, f, groups]))
                        .unwrap();
                for (group, p, lane) in lanes(groups, f.div_ceil(PANEL)) {
                    let panel = packed.panels(group, p, 1);
                    let channel = p * PANEL + lane;
                    let expect = |value: f32| if channel < f { value } else { 0.0 };
                    let channel = group * f + channel.min(f - 1);
                    assert_eq!(panel[0].0[lane], expect(bias[channel]), "{isa}: bias of {channel}, K {k}, F {f}");
                    let Channels { scale, shift, slope } = &packed.channels(group, p)[0];
                    let got = [scale, shift, slope].map(|row| row.0[lane]);
                    assert_eq!(
                        got,
                        by_channel.each_ref().map(|values| expect(values[channel])),
                        "{isa}: {channel}, F {f}"
                    );
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
        let error =
            Packed::new(crate::kernel::Scalar, &[], None, ByChannel::default(), [0, usize::MAX, 1]).unwrap_err();
        assert_eq!(error, Error::OutOfMemory { in_channels: 0, out_channels: usize::MAX, groups: 1 });
        assert!(Packed::new(crate::kernel::Scalar, &[], None, ByChannel::default(), [usize::MAX, 0, 1]).is_err());
    }
}
