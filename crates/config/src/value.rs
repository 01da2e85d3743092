//! What can be an option's value, and how it is read from text and from words.

use core::fmt;

use crate::problem::Problem;
use crate::table::{Kind, Unit};
use crate::text::{IfName, Names, Text};

/// A value of an option.
pub trait Value: Copy {
    /// Reads a value of the given kind.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn parse(text: &str, kind: &Kind) -> Result<Self, Problem>;

    /// Writes the value as [`Value::parse`] takes it back.
    ///
    /// # Errors
    /// The formatter's.
    fn show(&self, kind: &Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// A value that one word can carry.
pub trait Word: Value {
    /// Encodes.
    fn to_word(self) -> u64;

    /// Decodes and checks.
    ///
    /// # Errors
    /// The word is no value of this kind.
    fn from_word(word: u64, kind: &Kind) -> Result<Self, Problem>;
}

impl Value for u32 {
    fn parse(text: &str, kind: &Kind) -> Result<Self, Problem> {
        let text = text.trim();
        let number = match *kind {
            Kind::Octal { .. } => u64::from_str_radix(text, 8).map_err(|_| Problem::NotANumber)?,
            Kind::Int {
                unit: Unit::Bytes, ..
            } => bytes(text)?,
            _ => decimal(text)?,
        };
        let number = match *kind {
            Kind::Pow2 { .. } => number
                .checked_next_power_of_two()
                .ok_or(Problem::OutOfRange)?,
            _ => number,
        };
        Self::from_word(number, kind)
    }

    fn show(&self, kind: &Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match kind {
            Kind::Octal { .. } => write!(f, "{self:04o}"),
            _ => write!(f, "{self}"),
        }
    }
}

impl Word for u32 {
    fn to_word(self) -> u64 {
        u64::from(self)
    }

    fn from_word(word: u64, kind: &Kind) -> Result<Self, Problem> {
        let number = Self::try_from(word).map_err(|_| Problem::OutOfRange)?;
        let (min, max) = match *kind {
            Kind::Pow2 { min, max } if number.is_power_of_two() => (min, max),
            Kind::Pow2 { .. } => return Err(Problem::NotPow2),
            Kind::Int { min, max, .. } => (min, max),
            Kind::Octal { max } => (0, max),
            _ => (0, Self::MAX),
        };
        if (min..=max).contains(&number) {
            Ok(number)
        } else {
            Err(Problem::OutOfRange)
        }
    }
}

fn decimal(text: &str) -> Result<u64, Problem> {
    // `parse` would take a leading plus sign.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::NotANumber);
    }
    text.parse().map_err(|_| Problem::OutOfRange)
}

fn bytes(text: &str) -> Result<u64, Problem> {
    let body = text
        .strip_suffix("iB")
        .or_else(|| text.strip_suffix('B'))
        .unwrap_or(text);
    let shift = match body.bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => return decimal(body),
    };
    let number = body
        .get(..body.len() - 1)
        .ok_or(Problem::NotANumber)
        .and_then(decimal)?;
    number.checked_mul(1 << shift).ok_or(Problem::OutOfRange)
}

/// `None` is "decided by something else", written `auto`.
impl Value for Option<u32> {
    fn parse(text: &str, kind: &Kind) -> Result<Self, Problem> {
        if text.trim() == "auto" {
            Ok(None)
        } else {
            u32::parse(text, kind).map(Some)
        }
    }

    fn show(&self, kind: &Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(number) => number.show(kind, f),
            None => f.write_str("auto"),
        }
    }
}

impl Value for bool {
    fn parse(text: &str, _: &Kind) -> Result<Self, Problem> {
        match text.trim() {
            "1" | "on" | "yes" | "true" => Ok(true),
            // A variable that is set to nothing is how shells unset it.
            "" | "0" | "off" | "no" | "false" => Ok(false),
            _ => Err(Problem::NotASwitch),
        }
    }

    fn show(&self, _: &Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self { "on" } else { "off" })
    }
}

impl Word for bool {
    fn to_word(self) -> u64 {
        u64::from(self)
    }

    fn from_word(word: u64, _: &Kind) -> Result<Self, Problem> {
        match word {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Problem::OutOfRange),
        }
    }
}

impl<const N: usize> Value for Text<N> {
    fn parse(text: &str, _: &Kind) -> Result<Self, Problem> {
        // Values go back into environments and paths.
        if text.contains('\0') {
            return Err(Problem::BadName);
        }
        Self::new(text).ok_or(Problem::TooLong)
    }

    fn show(&self, _: &Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Value for Names {
    fn parse(text: &str, _: &Kind) -> Result<Self, Problem> {
        let mut names = Self::EMPTY;
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            // dev_valid_name() of Linux: no slash, colon or space, not "." or ".."
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
            if part == "." || part == ".." || part.contains(bad) {
                return Err(Problem::BadName);
            }
            let name = IfName::new(part).ok_or(Problem::TooLong)?;
            if !names.push(name) {
                return Err(Problem::TooMany);
            }
        }
        Ok(names)
    }

    fn show(&self, _: &Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An enum whose variants are words of an option.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every choice, at the position of its numeric value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The words, in the same order.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];

            /// The word that selects it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.word())
            }
        }

        impl $crate::value::Value for $name {
            fn parse(text: &str, _: &$crate::table::Kind) -> Result<Self, $crate::problem::Problem> {
                let text = text.trim();
                Self::ALL
                    .iter()
                    .copied()
                    .find(|c| c.word().eq_ignore_ascii_case(text))
                    .ok_or($crate::problem::Problem::NotAChoice)
            }

            fn show(
                &self,
                _: &$crate::table::Kind,
                f: &mut core::fmt::Formatter<'_>,
            ) -> core::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl $crate::value::Word for $name {
            fn to_word(self) -> u64 {
                self as u64
            }

            fn from_word(
                word: u64,
                _: &$crate::table::Kind,
            ) -> Result<Self, $crate::problem::Problem> {
                usize::try_from(word)
                    .ok()
                    .and_then(|i| Self::ALL.get(i).copied())
                    .ok_or($crate::problem::Problem::NotAChoice)
            }
        }
    };
}
pub(crate) use choices;
