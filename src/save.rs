//! Convolutions as bytes, and back: `docs/packed-format.md` draws them.
//!
//! A header, and then the rows of [`pack`](crate::pack) as they are in memory. They know neither ISA nor tile, so a file is
//! written once and mapped anywhere, and nothing of it is copied.
//!
//! Memory safety hangs on the header alone: it is checked whole before anything is believed, and the rows are numbers, of
//! which any bits will do. So the checksum of the rows may be left out.
//!
//! Both checksums are CRC-32, as in gzip, PNG and `zlib.crc32`: every language has it, it finds all errors within 32
//! neighbouring bits whatever the length, and CPUs have instructions for it. It guards against accidents, not against
//! an adversary.

use crate::{
    Activation, Error, Isa, PointwiseConv, ResidualOrder,
    conv::{check_channels, check_stride},
    isa,
    kernel::Row,
    pack::{Packed, PackedSizes, Rows, reserve},
    plan::Memo,
};
use alloc::vec::Vec;

/// How much of packed bytes is checked when they are loaded. Whatever is chosen, no bytes make a run unsafe.
///
/// # Example
/// ```
/// use pointwise::{PointwiseConv, Verify};
/// let mut bytes = PointwiseConv::builder(1, 1).build(&[2.0])?.to_packed_bytes();
/// *bytes.last_mut().unwrap() ^= 1;
/// assert!(PointwiseConv::from_packed_copy(&bytes, Verify::All).is_err());
/// assert!(PointwiseConv::from_packed_copy(&bytes, Verify::Header).is_ok());
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Everything: reads all bytes.
    #[default]
    All,
    /// All but the checksum of the weights, which are not read: mapped ones come from the disk when they are first used.
    /// Where they are damaged, outputs are wrong.
    Header,
}

const MAGIC: [u8; 8] = *b"\x89PWC\r\n\x1a\n";
/// Bytes 1, 2, 3, 4 say big-endian.
const ORDER: u32 = 0x0102_0304;
const VERSION: u32 = 1;
/// Bytes of the header; a multiple of [`ALIGN`], so that the rows behind it are aligned with it.
const HEADER: usize = 128;
const ALIGN: usize = align_of::<Row>();

/// What the header says.
struct Header {
    /// Of header and rows, in bytes.
    length: u64,
    in_channels: usize,
    out_channels: usize,
    groups: usize,
    stride: (usize, usize),
    activation: Activation,
    residual: ResidualOrder,
    scaled: bool,
    /// The checksum of the rows.
    rows: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let (activation, [a, b]) = activation_code(self.activation);
        let mut header = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &ORDER.to_ne_bytes());
        put(12, &VERSION.to_ne_bytes());
        put(16, &self.length.to_ne_bytes());
        for (i, size) in
            [self.in_channels, self.out_channels, self.groups, self.stride.0, self.stride.1].into_iter().enumerate()
        {
            put(24 + 8 * i, &(size as u64).to_ne_bytes());
        }
        put(64, &activation.to_ne_bytes());
        put(68, &a.to_ne_bytes());
        put(72, &b.to_ne_bytes());
        put(76, &u32::from(self.residual == ResidualOrder::AfterActivation).to_ne_bytes());
        put(80, &u32::from(self.scaled).to_ne_bytes());
        put(120, &self.rows.to_ne_bytes());
        let checksum = crc32fast::hash(&header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&checksum.to_ne_bytes());
        header
    }

    fn decode(header: &[u8; HEADER]) -> Result<Self, Error> {
        let up_to = |what, expected, actual| {
            if actual <= expected { Ok(()) } else { Err(Error::Packed { what, expected, actual }) }
        };
        let word = |at| u32::from_ne_bytes(bytes_at(header, at));
        let long = |at| u64::from_ne_bytes(bytes_at(header, at));
        let size = |what, at| {
            up_to(what, usize::MAX as u64, long(at))?;
            Ok(long(at) as usize)
        };
        same_bits("magic number", u64::from_be_bytes(MAGIC), u64::from_be_bytes(bytes_at(header, 0)))?;
        same_bits("byte order mark", ORDER.into(), word(8).into())?;
        same_number("format version", VERSION.into(), word(12).into())?;
        same_bits("checksum of the header", crc32fast::hash(&header[..HEADER - 4]).into(), word(HEADER - 4).into())?;

        let (in_channels, out_channels) = (size("in_channels up to", 24)?, size("out_channels up to", 32)?);
        let groups = size("groups up to", 40)?;
        check_channels(in_channels, out_channels, groups)?;
        let stride = (size("vertical stride up to", 48)?, size("horizontal stride up to", 56)?);
        check_stride(stride)?;
        up_to("activation up to", ACTIVATIONS - 1, word(64).into())?;
        let activation = activation_of(word(64), [f32::from_bits(word(68)), f32::from_bits(word(72))]);
        activation.check()?;
        up_to("residual order up to", 1, word(76).into())?;
        up_to("scale and shift up to", 1, word(80).into())?;
        let residual = match word(76) {
            0 => ResidualOrder::BeforeActivation,
            _ => ResidualOrder::AfterActivation.around(activation),
        };
        let (length, scaled, rows) = (long(16), word(80) == 1, word(120));
        let decoded = Self { length, in_channels, out_channels, groups, stride, activation, residual, scaled, rows };

        // Zeros, so that a later version may use them.
        let used = decoded.encode();
        for (expected, actual) in used.into_iter().zip(*header) {
            same_bits("unused byte of the header", expected.into(), actual.into())?;
        }
        Ok(decoded)
    }

    /// With the bytes of the rows, as many as there must be.
    fn read(bytes: &[u8]) -> Result<(Self, PackedSizes, &[u8]), Error> {
        let Some((header, rows)) = bytes.split_first_chunk() else {
            let (expected, actual) = (HEADER as u64, bytes.len() as u64);
            return Err(Error::Packed { what: "length of at least", expected, actual });
        };
        let header = Self::decode(header)?;
        same_number("length", header.length, bytes.len() as u64)?;
        let sizes = PackedSizes::new(header.sizes(), header.by_channel())?;
        same_number(
            "length for these channels",
            HEADER as u64 + (sizes.rows * size_of::<Row>()) as u64,
            header.length,
        )?;
        Ok((header, sizes, rows))
    }

    fn verify(&self, rows: &[u8], verify: Verify) -> Result<(), Error> {
        match verify {
            Verify::Header => Ok(()),
            Verify::All => same_bits("checksum of the weights", self.rows.into(), crc32fast::hash(rows).into()),
        }
    }

    /// Of one group. The header was checked.
    fn sizes(&self) -> [usize; 3] {
        [self.in_channels / self.groups, self.out_channels / self.groups, self.groups]
    }

    fn by_channel(&self) -> bool {
        self.scaled || self.activation == Activation::Prelu
    }

    fn with(self, sizes: PackedSizes, rows: Rows, isa: Option<Isa>) -> Result<PointwiseConv, Error> {
        let [in_channels, out_channels, groups] = self.sizes();
        let (token, choice) = isa.map_or_else(isa::detect, isa::force)?;
        Ok(PointwiseConv {
            packed: Packed::from_rows(rows, sizes),
            token,
            choice,
            tile: None,
            memo: Memo::default(),
            scaled: self.scaled,
            activation: self.activation,
            residual: self.residual,
            stride: self.stride,
            groups,
            in_channels,
            out_channels,
        })
    }
}

fn same_bits(what: &'static str, expected: u64, actual: u64) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::PackedBits { what, expected, actual }) }
}

fn same_number(what: &'static str, expected: u64, actual: u64) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::Packed { what, expected, actual }) }
}

/// The `N` bytes at an offset.
fn bytes_at<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    core::array::from_fn(|i| header[at + i])
}

/// How many there are in a file.
const ACTIVATIONS: u64 = 14;

/// An activation's number in a file, and its parameters.
fn activation_code(activation: Activation) -> (u32, [f32; 2]) {
    match activation {
        Activation::Identity => (0, [0.0; 2]),
        Activation::Relu => (1, [0.0; 2]),
        Activation::Clamp { min, max } => (2, [min, max]),
        Activation::Sigmoid => (3, [0.0; 2]),
        Activation::Tanh => (4, [0.0; 2]),
        // A leaky relu was built as the other.
        Activation::Prelu | Activation::LeakyRelu { .. } => (5, [0.0; 2]),
        Activation::HardSigmoid { alpha, beta } => (6, [alpha, beta]),
        Activation::HardSwish => (7, [0.0; 2]),
        Activation::Swish { beta } => (8, [beta, 0.0]),
        Activation::Gelu => (9, [0.0; 2]),
        Activation::GeluTanh => (10, [0.0; 2]),
        Activation::Elu { alpha } => (11, [alpha, 0.0]),
        Activation::Softplus => (12, [0.0; 2]),
        Activation::Mish => (13, [0.0; 2]),
    }
}

/// The other way; `code` is less than [`ACTIVATIONS`].
fn activation_of(code: u32, [a, b]: [f32; 2]) -> Activation {
    match code {
        0 => Activation::Identity,
        1 => Activation::Relu,
        2 => Activation::Clamp { min: a, max: b },
        3 => Activation::Sigmoid,
        4 => Activation::Tanh,
        5 => Activation::Prelu,
        6 => Activation::HardSigmoid { alpha: a, beta: b },
        7 => Activation::HardSwish,
        8 => Activation::Swish { beta: a },
        9 => Activation::Gelu,
        10 => Activation::GeluTanh,
        11 => Activation::Elu { alpha: a },
        12 => Activation::Softplus,
        _ => Activation::Mish,
    }
}

/// Packed weights as bytes, which any machine of the same byte order loads, on whatever ISA it has.
impl PointwiseConv {
    /// All that the convolution is, in the format of `docs/packed-format.md`; but for the ISA and the
    /// [`tile`](crate::Builder::tile), which are chosen where it is loaded.
    ///
    /// A `Vec<u8>` may start anywhere: [`from_packed_copy`](Self::from_packed_copy) takes it, and
    /// [`from_packed`](Self::from_packed) what lies at a multiple of 64, such as a mapped file.
    ///
    /// # Example
    /// ```
    /// use pointwise::{Nhwc, NhwcMut, PointwiseConv, Verify};
    /// let bytes = PointwiseConv::builder(1, 2).bias(&[0.5, 0.0]).build(&[1.0, 2.0])?.to_packed_bytes();
    /// let conv = PointwiseConv::from_packed_copy(&bytes, Verify::All)?;
    /// let mut y = [0.0; 2];
    /// conv.run(Nhwc::new(&[3.0], [1, 1, 1, 1])?, NhwcMut::new(&mut y, [1, 1, 1, 2])?)?;
    /// assert_eq!(y, [3.5, 6.0]);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn to_packed_bytes(&self) -> Vec<u8> {
        let (header, rows) = self.packed_parts();
        [&header, rows].concat()
    }

    /// Bytes of [`to_packed_bytes`](Self::to_packed_bytes): a multiple of 64.
    ///
    /// # Example
    /// ```
    /// let conv = pointwise::PointwiseConv::builder(7, 20).build(&[0.0; 140])?;
    /// // A header, and two panels of a row of biases and seven of weights.
    /// assert_eq!(conv.packed_len(), 128 + 2 * (1 + 7) * 64);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn packed_len(&self) -> usize {
        HEADER + size_of_val(self.packed.rows())
    }

    /// Writes [`to_packed_bytes`](Self::to_packed_bytes), without a copy of them.
    ///
    /// # Errors
    /// Those of the writer.
    ///
    /// # Example
    /// ```
    /// let conv = pointwise::PointwiseConv::builder(1, 1).build(&[2.0])?;
    /// let mut written = vec![];
    /// conv.write_packed(&mut written)?;
    /// assert_eq!(written, conv.to_packed_bytes());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "std")]
    pub fn write_packed(&self, mut writer: impl std::io::Write) -> std::io::Result<()> {
        let (header, rows) = self.packed_parts();
        writer.write_all(&header)?;
        writer.write_all(rows)
    }

    pub(crate) fn packed_parts(&self) -> ([u8; HEADER], &[u8]) {
        let rows = bytemuck::cast_slice(self.packed.rows());
        let header = Header {
            length: self.packed_len() as u64,
            in_channels: self.in_channels(),
            out_channels: self.out_channels(),
            groups: self.groups,
            stride: self.stride,
            activation: self.activation,
            residual: self.residual,
            scaled: self.scaled,
            rows: crc32fast::hash(rows),
        };
        (header.encode(), rows)
    }

    /// Loads packed bytes where they are: nothing is copied. The convolution and its clones keep `bytes`, which may be a
    /// memory map (memmap2's `Mmap`), a `&'static [u8]`, an `Arc`, or a type of your own that names a part of such:
    ///
    /// ```
    /// # use std::{ops::Range, sync::Arc};
    /// struct Part(Arc<Vec<u8>>, Range<usize>);
    /// impl AsRef<[u8]> for Part {
    ///     fn as_ref(&self) -> &[u8] {
    ///         &self.0[self.1.clone()]
    ///     }
    /// }
    /// ```
    ///
    /// They must start at an address divisible by 64, as a mapped file does, and in it all that starts at such an offset.
    /// Bytes that are part of the program need to be told:
    ///
    /// ```
    /// #[repr(align(64))]
    /// struct Aligned<T>(T);
    /// # macro_rules! include_bytes { ($file:literal) => { &[0u8; 128] } }
    /// static LAYER: &Aligned<[u8; 128]> = &Aligned(*include_bytes!("layer.pw")); // the file's length
    /// # assert!(pointwise::PointwiseConv::from_packed(LAYER.0.as_slice(), pointwise::Verify::All).is_err());
    /// ```
    ///
    /// It runs on [`Isa::detect`](crate::Isa::detect)'s choice; [`with_isa`](Self::with_isa) takes another. With
    /// [`Verify::Header`] the time does not depend on the length.
    ///
    /// # Errors
    /// [`Error::Packed`] and [`Error::PackedBits`] where the bytes are not what was written, the format's version is another,
    /// or the address is not divisible by 64; the errors of [`build`](crate::Builder::build) for values that it refuses, and
    /// [`Error::UnknownIsa`] for what `POINTWISE_MAX_ISA` says.
    ///
    /// # Example
    /// ```
    /// use pointwise::{PointwiseConv, Verify};
    /// let error = PointwiseConv::from_packed(*b"not a packed one", Verify::All).unwrap_err();
    /// assert_eq!(error.to_string(), "packed: expected length of at least 128, got 16");
    /// ```
    pub fn from_packed(bytes: impl AsRef<[u8]> + Send + Sync + 'static, verify: Verify) -> Result<Self, Error> {
        Self::load_packed(bytes, verify, None)
    }

    /// As [`from_packed`](Self::from_packed), on this ISA, whatever `POINTWISE_MAX_ISA` says.
    pub(crate) fn load_packed(
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
        verify: Verify,
        isa: Option<Isa>,
    ) -> Result<Self, Error> {
        let ((header, sizes), rows) = Rows::new(bytes, |bytes| {
            let bytes = bytes.as_ref();
            let (header, sizes, rows) = Header::read(bytes)?;
            let aligned = bytemuck::try_cast_slice(rows).map_err(|_| Error::Packed {
                what: "an address divisible by",
                expected: ALIGN as u64,
                actual: bytes.as_ptr().addr() as u64,
            })?;
            header.verify(rows, verify)?;
            Ok(((header, sizes), aligned))
        })?;
        header.with(sizes, rows, isa)
    }

    /// As [`from_packed`](Self::from_packed), from a copy, so that the bytes may lie anywhere and need not stay.
    ///
    /// # Errors
    /// As [`from_packed`](Self::from_packed), at any address; [`Error::OutOfMemory`] where there is no memory for the copy.
    ///
    /// # Example
    /// ```
    /// use pointwise::{PointwiseConv, Verify};
    /// let mut bytes = vec![0];
    /// bytes.extend(PointwiseConv::builder(3, 1).build(&[0.0; 3])?.to_packed_bytes());
    /// assert_eq!(PointwiseConv::from_packed_copy(&bytes[1..], Verify::All)?.in_channels(), 3);
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn from_packed_copy(bytes: &[u8], verify: Verify) -> Result<Self, Error> {
        Self::load_packed_copy(bytes, verify, None)
    }

    /// As [`from_packed_copy`](Self::from_packed_copy), likewise.
    pub(crate) fn load_packed_copy(bytes: &[u8], verify: Verify, isa: Option<Isa>) -> Result<Self, Error> {
        let (header, sizes, rows) = Header::read(bytes)?;
        header.verify(rows, verify)?;
        let mut copy = reserve(sizes.rows, header.sizes())?;
        copy.extend(rows.as_chunks::<{ size_of::<Row>() }>().0.iter().map(|row| -> Row { bytemuck::must_cast(*row) }));
        header.with(sizes, copy.into(), isa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_copies_no_rows() {
        let built = PointwiseConv::builder(5, 40).activation(Activation::Prelu).slopes(&[0.5; 40]).build(&[1.0; 200]);
        let built = built.unwrap();
        let rows = alloc::vec![Row([0.0; 16]); built.packed_len() / ALIGN];
        let memory: &'static mut [u8] = bytemuck::must_cast_slice_mut(rows.leak());
        memory.copy_from_slice(&built.to_packed_bytes());
        let memory: &'static [u8] = memory;
        let loaded = PointwiseConv::from_packed(memory, Verify::All).unwrap();
        assert_eq!(loaded.packed.rows().as_ptr().addr(), memory[HEADER..].as_ptr().addr());
        assert_eq!(loaded.packed.rows(), built.packed.rows());
        assert_eq!(loaded.clone().packed.rows().as_ptr(), loaded.packed.rows().as_ptr());
    }

    #[test]
    fn activations_have_numbers() {
        for code in 0..ACTIVATIONS as u32 {
            let parameters = activation_code(activation_of(code, [0.25, 0.5])).1;
            assert_eq!(activation_code(activation_of(code, parameters)), (code, parameters));
        }
    }
}
