//! Instruction set architectures: which there are, which the CPU has, which one is taken.

use crate::{Error, error::IsaList, kernel::Scalar};
use core::{fmt, str::FromStr};

/// An instruction set that kernels are written for. The wider its vectors are, the greater it is.
///
/// # Example
/// ```
/// use pointwise::Isa;
/// assert!(Isa::Scalar < Isa::Avx2 && Isa::Avx2 < Isa::Avx512);
/// assert_eq!(Isa::available().iter().max(), Isa::available().last());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Isa {
    /// No vector instructions: runs on every CPU that Rust compiles for.
    Scalar,
    /// NEON on aarch64: 128-bit vectors.
    Neon,
    /// AVX2 with FMA on x86: 256-bit vectors.
    Avx2,
    /// AVX-512 F, BW, CD, DQ and VL on x86: 512-bit vectors.
    Avx512,
}

/// Every ISA, by the width of its vectors.
const ALL: [Isa; 4] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = Error;

    /// Takes the names that [`Isa::name`] gives.
    fn from_str(name: &str) -> Result<Self, Error> {
        parse("ISA", name)
    }
}

fn parse(what: &'static str, name: &str) -> Result<Isa, Error> {
    let isa = ALL.into_iter().find(|isa| isa.name() == name);
    isa.ok_or_else(|| Error::UnknownIsa { what, allowed: IsaList(&ALL), value: name.into() })
}

// Whether the operating system saves the vectors, too. Without the standard library, pulp asks the CPU alone.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
cpufeatures::new!(saves_ymm, "avx2");
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
cpufeatures::new!(saves_zmm, "avx512f");

/// Proof that the CPU has an ISA: what a kernel is called with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Token {
    Scalar(Scalar),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    Avx2(pulp::x86::V3),
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    Avx512(pulp::x86::V4),
}

/// A token holds nothing but its ISA.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.isa() == other.isa()
    }
}

impl Token {
    /// `None` where the CPU has not the ISA.
    pub fn new(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Scalar => Some(Token::Scalar(Scalar)),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => pulp::aarch64::Neon::try_new().map(Token::Neon),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Isa::Avx2 => pulp::x86::V3::try_new().filter(|_| saves_ymm::get()).map(Token::Avx2),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Isa::Avx512 => pulp::x86::V4::try_new().filter(|_| saves_zmm::get()).map(Token::Avx512),
            #[allow(unreachable_patterns, reason = "no target has all ISAs")]
            _ => None,
        }
    }

    pub fn isa(self) -> Isa {
        match self {
            Token::Scalar(_) => Isa::Scalar,
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => Isa::Neon,
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Token::Avx2(_) => Isa::Avx2,
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            Token::Avx512(_) => Isa::Avx512,
        }
    }
}

/// Runs `$body` with `$simd` bound to the token's lanes: dispatch, in one place.
macro_rules! with_lanes {
    ($token:expr, $simd:ident => $body:expr) => {
        match $token {
            $crate::isa::Token::Scalar($simd) => $body,
            #[cfg(target_arch = "aarch64")]
            $crate::isa::Token::Neon($simd) => $body,
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            $crate::isa::Token::Avx2($simd) => $body,
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            $crate::isa::Token::Avx512($simd) => $body,
        }
    };
}
pub(crate) use with_lanes;

/// Why an ISA was taken.
///
/// # Example
/// ```
/// use pointwise::{Isa, IsaChoice, PointwiseConv, Serial};
/// let conv = PointwiseConv::builder(1, 1).isa(Isa::Scalar).build(&[1.0])?;
/// assert_eq!(conv.plan([1, 1, 1, 1], &Serial)?.isa_choice, IsaChoice::Forced);
/// # Ok::<(), pointwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum IsaChoice {
    /// The best that the CPU has.
    Detected,
    /// The best that the CPU has and `POINTWISE_MAX_ISA` allows.
    Capped,
    /// Asked for with [`Builder::isa`](crate::Builder::isa) or [`PointwiseConv::with_isa`](crate::PointwiseConv::with_isa).
    Forced,
}

impl fmt::Display for IsaChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            IsaChoice::Detected => "detected",
            IsaChoice::Capped => "capped by POINTWISE_MAX_ISA",
            IsaChoice::Forced => "forced",
        })
    }
}

impl Isa {
    /// The ISA that a convolution takes unless it is forced to another: the best that the CPU has, or the best up to
    /// the one that the environment variable `POINTWISE_MAX_ISA` names (`scalar`, `neon`, `avx2` or `avx512`). Without the
    /// feature `std` there is no environment, and no cap.
    ///
    /// The CPU and the variable are asked once, at the first call in the process.
    ///
    /// # Errors
    /// [`Error::UnknownIsa`] where the variable names no ISA.
    ///
    /// # Example
    /// ```
    /// let isa = pointwise::Isa::detect()?;
    /// assert!(pointwise::Isa::available().contains(&isa));
    /// # Ok::<(), pointwise::Error>(())
    /// ```
    pub fn detect() -> Result<Isa, Error> {
        detect().map(|(token, _)| token.isa())
    }

    /// The ISAs that the CPU has, the best last. `POINTWISE_MAX_ISA` does not shorten it: it limits what is chosen, not
    /// what can be asked for.
    ///
    /// # Example
    /// ```
    /// assert_eq!(pointwise::Isa::available()[0], pointwise::Isa::Scalar);
    /// ```
    pub fn available() -> &'static [Isa] {
        let has = |isa| Token::new(isa).is_some();
        match (has(Isa::Neon), has(Isa::Avx2), has(Isa::Avx512)) {
            (true, ..) => &[Isa::Scalar, Isa::Neon],
            (_, true, true) => &[Isa::Scalar, Isa::Avx2, Isa::Avx512],
            (_, true, false) => &[Isa::Scalar, Isa::Avx2],
            _ => &[Isa::Scalar],
        }
    }

    /// `"scalar"`, `"neon"`, `"avx2"` or `"avx512"`.
    ///
    /// # Example
    /// ```
    /// use pointwise::Isa;
    /// assert_eq!(Isa::Avx512.name(), "avx512");
    /// assert_eq!("avx512".parse(), Ok(Isa::Avx512));
    /// ```
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// f32 values in a vector.
    ///
    /// # Example
    /// ```
    /// assert_eq!(pointwise::Isa::Avx2.lanes(), 8);
    /// ```
    pub fn lanes(self) -> usize {
        match self {
            Isa::Scalar => 1,
            Isa::Neon => 4,
            Isa::Avx2 => 8,
            Isa::Avx512 => 16,
        }
    }
}

/// The best ISA up to the cap.
fn choose(cap: Option<&str>) -> Result<(Token, IsaChoice), Error> {
    let cap = cap.map(|name| parse("POINTWISE_MAX_ISA", name)).transpose()?;
    // The best last.
    let available = Isa::available();
    let isa = available.iter().rfind(|isa| cap.is_none_or(|cap| **isa <= cap));
    let token = isa.and_then(|isa| Token::new(*isa)).unwrap_or(Token::Scalar(Scalar));
    Ok((token, if isa == available.last() { IsaChoice::Detected } else { IsaChoice::Capped }))
}

cfg_if::cfg_if! {
    if #[cfg(feature = "std")] {
        pub(crate) fn detect() -> Result<(Token, IsaChoice), Error> {
            static CHOSEN: std::sync::OnceLock<Result<(Token, IsaChoice), Error>> = std::sync::OnceLock::new();
            CHOSEN
                .get_or_init(|| {
                    let cap = std::env::var_os("POINTWISE_MAX_ISA");
                    choose(cap.as_ref().map(|value| value.to_string_lossy()).as_deref())
                })
                .clone()
        }
    } else {
        pub(crate) fn detect() -> Result<(Token, IsaChoice), Error> {
            choose(None)
        }
    }
}

/// The ISA asked for, where the CPU has it.
pub(crate) fn force(isa: Isa) -> Result<(Token, IsaChoice), Error> {
    let token = Token::new(isa)
        .ok_or_else(|| Error::IsaUnavailable { requested: isa, available: IsaList(Isa::available()) })?;
    Ok((token, IsaChoice::Forced))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Lanes;

    #[test]
    fn a_cap_limits_the_choice() {
        let (token, choice) = choose(None).unwrap();
        assert_eq!(Some(&token.isa()), Isa::available().last());
        assert_eq!(choice, IsaChoice::Detected);
        for isa in ALL {
            let (token, choice) = choose(Some(&isa.to_string())).unwrap();
            assert!(token.isa() <= isa);
            assert_eq!(choice == IsaChoice::Capped, Some(&token.isa()) != Isa::available().last());
        }
        let (token, _) = choose(Some("scalar")).unwrap();
        assert_eq!(token.isa(), Isa::Scalar);
    }

    #[test]
    fn an_unknown_cap_is_an_error_that_names_the_isas() {
        let error = choose(Some("avx")).unwrap_err();
        assert_eq!(error.to_string(), r#"POINTWISE_MAX_ISA: expected one of scalar, neon, avx2, avx512, got "avx""#);
        assert!(choose(Some("")).is_err());
    }

    #[test]
    fn the_wider_its_vectors_the_greater_an_isa() {
        fn lanes<L: Lanes>(_: L) -> usize {
            L::LANES
        }
        assert!(ALL.windows(2).all(|pair| pair[0] < pair[1] && pair[0].lanes() <= pair[1].lanes()));
        for isa in Isa::available() {
            let token = Token::new(*isa).unwrap();
            assert_eq!(with_lanes!(token, simd => lanes(simd)), isa.lanes());
        }
    }

    #[test]
    fn a_token_is_its_isa() {
        for (a, b) in Isa::available().iter().flat_map(|a| Isa::available().iter().map(move |b| (a, b))) {
            assert_eq!(Token::new(*a) == Token::new(*b), a == b);
        }
    }

    #[test]
    fn names_round_trip() {
        for isa in ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
            assert_eq!(Token::new(isa).map(Token::isa), Isa::available().contains(&isa).then_some(isa));
        }
    }
}
