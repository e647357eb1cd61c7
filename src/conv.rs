//! Build once, run many: the convolution and its builder.

use crate::{
    Activation, Error, Executor, Isa, IsaChoice, Plan, ResidualOrder, Shape,
    isa::{self, Token, with_lanes},
    pack::{ByChannel, Packed},
    plan::{self, Memo, Tile, divide_up},
};

/// A 1x1 convolution of NHWC tensors: packed weights, and everything that can be decided before an input is seen.
///
/// It is immutable: share it between threads. Running it allocates nothing; rayon's pools allocate a job for each of their
/// threads. A clone shares the packed weights.
///
/// # Example
/// ```
/// use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};
///
/// // Two colours to one: half of each, and no light below zero.
/// let conv = PointwiseConv::builder(2, 1).activation(Activation::Relu).build(&[0.5, 0.5])?;
/// let x = [1.0, 3.0, -4.0, 2.0];
/// let mut y = [0.0; 2];
/// conv.run(Nhwc::new(&x, [1, 1, 2, 2])?, NhwcMut::new(&mut y, [1, 1, 2, 1])?)?;
/// assert_eq!(y, [2.0, 0.0]);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PointwiseConv {
    pub(crate) packed: Packed,
    pub(crate) token: Token,
    pub(crate) choice: IsaChoice,
    pub(crate) tile: Option<Tile>,
    pub(crate) memo: Memo,
    pub(crate) scaled: bool,
    pub(crate) activation: Activation,
    pub(crate) residual: ResidualOrder,
    pub(crate) stride: (usize, usize),
    pub(crate) groups: usize,
    /// Of one group.
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
}

/// Collects what a [`PointwiseConv`] is made of.
///
/// # Example
/// ```
/// use pointwise::{Activation, Isa, PointwiseConv};
///
/// let conv = PointwiseConv::builder(4, 2)
///     .bias(&[0.1, 0.2])
///     .activation(Activation::Clamp { min: 0.0, max: 6.0 })
///     .stride(2, 2)
///     .groups(2)
///     .isa(Isa::Scalar)
///     .build(&[1.0, 2.0, 3.0, 4.0])?;
/// assert_eq!(conv.output_shape([1, 7, 8, 4])?, [1, 4, 4, 2]);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Builder<'a> {
    in_channels: usize,
    out_channels: usize,
    bias: Option<&'a [f32]>,
    scale_shift: Option<(&'a [f32], &'a [f32])>,
    activation: Activation,
    slopes: Option<&'a [f32]>,
    residual: ResidualOrder,
    stride: (usize, usize),
    groups: usize,
    isa: Option<Isa>,
    tile: Option<Tile>,
}

impl<'a> Builder<'a> {
    /// One value added to each output channel before anything else; `out_channels` of them. Default: zeros.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 2).bias(&[0.5, -0.5]).build(&[1.0, 2.0])?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[3.0], [1, 1, 1, 1])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)?;
    /// assert_eq!(y, [3.5, 5.5]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn bias(self, bias: &'a [f32]) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// Two values for each output channel: the sum, which starts at the bias, becomes `scale * sum + shift`, fused, before
    /// anything else. For a batch norm that [`fold_batch_norm`](crate::fold_batch_norm) shall not fold, or to take a
    /// quantisation back. Default: none.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 2).scale_shift(&[0.5, 2.0], &[1.0, -1.0]).build(&[1.0, 1.0])?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[3.0], [1, 1, 1, 1])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)?;
    /// assert_eq!(y, [2.5, 5.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn scale_shift(self, scale: &'a [f32], shift: &'a [f32]) -> Self {
        Self { scale_shift: Some((scale, shift)), ..self }
    }

    /// The slope of each output channel below zero, for [`Activation::Prelu`], and only for it.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 2).activation(Activation::Prelu).slopes(&[0.5, 0.25]).build(&[1.0, -1.0])?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[4.0], [1, 1, 1, 1])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)?;
    /// assert_eq!(y, [4.0, -1.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn slopes(self, slopes: &'a [f32]) -> Self {
        Self { slopes: Some(slopes), ..self }
    }

    /// Where a residual is added, in runs that have one. Default: before the activation.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv, ResidualOrder};
    /// let relu = PointwiseConv::builder(1, 1).activation(Activation::Relu);
    /// for (order, expected) in [(ResidualOrder::BeforeActivation, 0.0), (ResidualOrder::AfterActivation, 2.0)] {
    ///     let mut y = [2.0];
    ///     let conv = relu.residual_order(order).build(&[1.0])?;
    ///     conv.run_accumulate(Nhwc::new(&[-3.0], [1, 1, 1, 1])?, NhwcMut::new(&mut y, [1, 1, 1, 1])?)?;
    ///     assert_eq!(y, [expected]);
    /// }
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn residual_order(self, residual: ResidualOrder) -> Self {
        Self { residual, ..self }
    }

    /// What is applied to each output value. Default: [`Activation::Identity`].
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Activation, Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 2).activation(Activation::RELU6).build(&[-1.0, 4.0])?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[3.0], [1, 1, 1, 1])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)?;
    /// assert_eq!(y, [0.0, 6.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Reads every `vertical`-th row and every `horizontal`-th pixel of it, from the first on. Default: 1, 1.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Nhwc, NhwcMut, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 1).stride(1, 2).build(&[1.0])?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[1.0, 2.0, 3.0], [1, 1, 3, 1])?, NhwcMut::new(&mut y, [1, 1, 2, 1])?)?;
    /// assert_eq!(y, [1.0, 3.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn stride(self, vertical: usize, horizontal: usize) -> Self {
        Self { stride: (vertical, horizontal), ..self }
    }

    /// Cuts the channels into `groups` equal parts; each part of the output sees only its part of the input. Default: 1.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Nhwc, NhwcMut, PointwiseConv};
    /// // Two input channels, each scaled to an output channel of its own.
    /// let conv = PointwiseConv::builder(2, 2).groups(2).build(&[10.0, 100.0])?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[1.0, 2.0], [1, 1, 1, 2])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)?;
    /// assert_eq!(y, [10.0, 200.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// The ISA to run on. Default: [`Isa::detect`]. `POINTWISE_MAX_ISA` does not limit it.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Isa, PointwiseConv};
    /// for isa in Isa::available() {
    ///     assert!(PointwiseConv::builder(1, 1).isa(*isa).build(&[1.0]).is_ok());
    /// }
    /// ```
    pub fn isa(self, isa: Isa) -> Self {
        Self { isa: Some(isa), ..self }
    }

    /// Register tiles to cut into, in place of the plan's choice for each shape. The bits are the same.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{PointwiseConv, Tail, Tile};
    /// let tile = Tile { pixels: 4, channels: 32, tail: Tail::Panel };
    /// assert!(PointwiseConv::builder(1, 1).tile(tile).build(&[1.0]).is_ok());
    /// ```
    pub fn tile(self, tile: Tile) -> Self {
        Self { tile: Some(tile), ..self }
    }

    /// Packs `weights`, which are `[out_channels, in_channels / groups]`, row-major (OHWI with H = W = 1).
    ///
    /// Memory: `64 * groups * ceil(out_channels / groups / 16) * rows` bytes in one piece, where `rows` is
    /// `in_channels / groups + 1`, and 3 more where there are a scale and a shift, or the activation is a prelu or a leaky relu;
    /// and five words. All that may be wrong is looked at before. A run takes none.
    ///
    /// # Errors
    /// [`Error::Groups`], [`Error::Stride`], [`Error::Clamp`], [`Error::Parameter`], [`Error::Length`] for weights or values
    /// by channel, [`Error::IsaUnavailable`], [`Error::UnknownIsa`] where `POINTWISE_MAX_ISA` is not a name,
    /// [`Error::OutOfMemory`] where the packed weights cannot be allocated.
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// assert!(PointwiseConv::builder(3, 2).build(&[0.0; 6]).is_ok());
    /// let error = PointwiseConv::builder(3, 2).build(&[0.0; 5]).unwrap_err();
    /// assert_eq!(error.to_string(), "weights: expected 6 values, got 5");
    /// ```
    pub fn build(self, weights: &[f32]) -> Result<PointwiseConv, Error> {
        let (in_channels, out_channels) = check_channels(self.in_channels, self.out_channels, self.groups)?;
        check_stride(self.stride)?;
        self.activation.check()?;
        check_weights(weights, self.out_channels, in_channels)?;
        check_per_channel(self.out_channels, self.bias, self.scale_shift, (self.activation, self.slopes))?;
        let (token, choice) = self.isa.map_or_else(isa::detect, isa::force)?;
        let sizes = [in_channels, out_channels, self.groups];
        let by_channel = ByChannel { scale_shift: self.scale_shift, activation: self.activation, slopes: self.slopes };
        let packed = with_lanes!(token, simd => Packed::new(simd, weights, self.bias, by_channel, sizes))?;
        Ok(PointwiseConv {
            packed,
            token,
            choice,
            tile: self.tile,
            memo: Memo::default(),
            scaled: self.scale_shift.is_some(),
            activation: match self.activation {
                // Whose slopes were packed.
                Activation::LeakyRelu { .. } => Activation::Prelu,
                other => other,
            },
            residual: self.residual.around(self.activation),
            stride: self.stride,
            groups: self.groups,
            in_channels,
            out_channels,
        })
    }
}

impl PointwiseConv {
    /// Starts a convolution from `in_channels` (K) to `out_channels` (F) channels, each 0 or more.
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// let conv = PointwiseConv::builder(3, 2).build(&[0.0; 6])?;
    /// assert_eq!((conv.in_channels(), conv.out_channels()), (3, 2));
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn builder<'a>(in_channels: usize, out_channels: usize) -> Builder<'a> {
        Builder {
            in_channels,
            out_channels,
            bias: None,
            scale_shift: None,
            activation: Activation::Identity,
            slopes: None,
            residual: ResidualOrder::BeforeActivation,
            stride: (1, 1),
            groups: 1,
            isa: None,
            tile: None,
        }
    }

    /// K, the channels of the input.
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// assert_eq!(PointwiseConv::builder(3, 1).build(&[0.0; 3])?.in_channels(), 3);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn in_channels(&self) -> usize {
        self.in_channels * self.groups
    }

    /// F, the channels of the output.
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// assert_eq!(PointwiseConv::builder(3, 1).build(&[0.0; 3])?.out_channels(), 1);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn out_channels(&self) -> usize {
        self.out_channels * self.groups
    }

    /// Groups that the channels are cut into.
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// assert_eq!(PointwiseConv::builder(4, 2).groups(2).build(&[0.0; 4])?.groups(), 2);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Vertical and horizontal stride.
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// assert_eq!(PointwiseConv::builder(1, 1).stride(2, 3).build(&[0.0])?.stride(), (2, 3));
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn stride(&self) -> (usize, usize) {
        self.stride
    }

    /// The activation. A leaky relu is packed as the [`Activation::Prelu`] whose slopes are equal.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Activation, PointwiseConv};
    /// let conv = PointwiseConv::builder(1, 1).activation(Activation::RELU6).build(&[0.0])?;
    /// assert_eq!(conv.activation(), Activation::RELU6);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Where a residual is added: before the activation, where that is the identity, whatever the builder was told.
    ///
    /// # Example
    /// ```
    /// # use pointwise::{PointwiseConv, ResidualOrder};
    /// assert_eq!(PointwiseConv::builder(1, 1).build(&[0.0])?.residual_order(), ResidualOrder::BeforeActivation);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn residual_order(&self) -> ResidualOrder {
        self.residual
    }

    /// Whether it has a [`scale_shift`](Builder::scale_shift).
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// assert!(PointwiseConv::builder(1, 1).scale_shift(&[2.0], &[0.5]).build(&[0.0])?.has_scale_shift());
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn has_scale_shift(&self) -> bool {
        self.scaled
    }

    /// The same convolution on another ISA. The bits are the same.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`].
    ///
    /// # Example
    /// ```
    /// # use pointwise::{Isa, PointwiseConv, Serial};
    /// let conv = PointwiseConv::builder(1, 1).build(&[0.0])?.with_isa(Isa::Scalar)?;
    /// assert_eq!(conv.plan([1, 1, 1, 1], &Serial)?.isa, Isa::Scalar);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn with_isa(self, isa: Isa) -> Result<Self, Error> {
        let (token, choice) = isa::force(isa)?;
        Ok(Self { token, choice, memo: Memo::default(), ..self })
    }

    /// The shape of the output for an input `[batch, height, width, in_channels]`:
    /// `[batch, ceil(height / vertical stride), ceil(width / horizontal stride), out_channels]`.
    ///
    /// # Errors
    /// [`Error::Channels`] where the input's channels are not `in_channels`.
    ///
    /// # Example
    /// ```
    /// # use pointwise::PointwiseConv;
    /// let conv = PointwiseConv::builder(2, 1).stride(2, 3).build(&[0.0; 2])?;
    /// assert_eq!(conv.output_shape([8, 5, 9, 2])?, [8, 3, 3, 1]);
    /// assert!(conv.output_shape([8, 5, 9, 1]).is_err());
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn output_shape(&self, [n, h, w, channels]: Shape) -> Result<Shape, Error> {
        if channels != self.in_channels() {
            return Err(Error::Channels { expected: self.in_channels(), actual: channels });
        }
        Ok([n, divide_up(h, self.stride.0), divide_up(w, self.stride.1), self.out_channels()])
    }

    /// How a dense input of this shape is computed with an executor: what [`run_with`](Self::run_with) decides.
    ///
    /// # Errors
    /// [`Error::Channels`] where the input's channels are not `in_channels`; [`Error::TooLarge`] for a shape that no tensor
    /// can have.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Isa, PointwiseConv, Serial};
    /// let conv = PointwiseConv::builder(64, 256).isa(Isa::Scalar).build(&[0.0; 64 * 256])?;
    /// let plan = conv.plan([1, 56, 56, 64], &Serial)?;
    /// assert_eq!((plan.isa, plan.flops), (Isa::Scalar, 2 * 56 * 56 * 64 * 256));
    /// println!("{plan}");
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn plan(&self, input: Shape, executor: &(impl Executor + ?Sized)) -> Result<Plan, Error> {
        let output = self.output_shape(input)?;
        let sizes = [self.in_channels, self.out_channels, self.groups];
        let threads = (executor.threads(), executor.work_per_thread());
        plan::explain((self.token, self.choice, self.tile), sizes, self.stride, input, output, threads)
    }
}

/// The channels of one group.
pub(crate) fn check_channels(in_channels: usize, out_channels: usize, groups: usize) -> Result<(usize, usize), Error> {
    if groups == 0 || !in_channels.is_multiple_of(groups) || !out_channels.is_multiple_of(groups) {
        return Err(Error::Groups { in_channels, out_channels, groups });
    }
    Ok((in_channels / groups, out_channels / groups))
}

pub(crate) fn check_stride(stride: (usize, usize)) -> Result<(), Error> {
    if stride.0 == 0 || stride.1 == 0 {
        return Err(Error::Stride { actual: stride });
    }
    Ok(())
}

/// `in_channels` are those of one group, `out_channels` all.
pub(crate) fn check_weights(weights: &[f32], out_channels: usize, in_channels: usize) -> Result<(), Error> {
    // A product that saturates is no slice's length.
    let expected = out_channels.saturating_mul(in_channels);
    if weights.len() != expected {
        return Err(Error::Length { what: "weights", expected, actual: weights.len() });
    }
    Ok(())
}

/// What is given for each output channel.
pub(crate) fn check_per_channel(
    out_channels: usize,
    bias: Option<&[f32]>,
    scale_shift: Option<(&[f32], &[f32])>,
    (activation, slopes): (Activation, Option<&[f32]>),
) -> Result<(), Error> {
    let (scale, shift) = scale_shift.unzip();
    let slopes_expected = if activation == Activation::Prelu { out_channels } else { 0 };
    for (what, values, expected) in [
        ("bias", bias, out_channels),
        ("scale", scale, out_channels),
        ("shift", shift, out_channels),
        ("slopes", Some(slopes.unwrap_or_default()), slopes_expected),
    ] {
        if let Some(values) = values
            && values.len() != expected
        {
            return Err(Error::Length { what, expected, actual: values.len() });
        }
    }
    Ok(())
}
