//! What can be wrong with an option, in words that name the option and the value.

use core::fmt;

use crate::table::{Kind, Spec};
use crate::text::Text;

/// What is wrong with a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// There is no such option.
    Unknown,
    /// Not a number.
    NotANumber,
    /// A number outside the range.
    OutOfRange,
    /// Not a power of two where only one can be (encoded options).
    NotPow2,
    /// Not one of the words.
    NotAChoice,
    /// Neither on nor off.
    NotASwitch,
    /// Too long.
    TooLong,
    /// Too many names in a list.
    TooMany,
    /// A character that cannot be in this kind of name, or an empty name.
    BadName,
    /// Not UTF-8.
    NotUtf8,
    /// A wrong number of encoded words: the other side has another version.
    WordCount,
}

/// An option that could not be set.
#[derive(Clone, Copy, Debug)]
pub struct OptError {
    /// The option; `None` when there is no such option.
    pub spec: Option<&'static Spec>,
    /// What is wrong.
    pub problem: Problem,
    /// The value given (or the name, when the option is unknown), cut to a readable length.
    pub given: Text<64>,
}

impl OptError {
    pub(crate) fn new(spec: &'static Spec, text: &str, problem: Problem) -> Self {
        Self {
            spec: Some(spec),
            problem,
            given: Text::truncated(text),
        }
    }

    /// There is no option of this name.
    #[must_use]
    pub fn unknown(name: &str) -> Self {
        Self {
            spec: None,
            problem: Problem::Unknown,
            given: Text::truncated(name),
        }
    }

    pub(crate) fn word_count() -> Self {
        Self {
            spec: None,
            problem: Problem::WordCount,
            given: Text::EMPTY,
        }
    }

    pub(crate) fn of_word(spec: &'static Spec, word: u64, problem: Problem) -> Self {
        // u64::MAX has 20 digits
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = word;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let text = core::str::from_utf8(digits.get(at..).unwrap_or(&[])).unwrap_or("");
        Self::new(spec, text, problem)
    }
}

impl fmt::Display for OptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(spec) = self.spec else {
            return match self.problem {
                Problem::WordCount => f.write_str("the encoded options are of another version"),
                _ => write!(f, "unknown option {}", self.given),
            };
        };
        write!(f, "{}={}: ", spec.env, self.given)?;
        match self.problem {
            Problem::NotUtf8 => return f.write_str("not valid UTF-8"),
            Problem::TooMany => f.write_str("too many names")?,
            Problem::TooLong => f.write_str("too long")?,
            Problem::BadName => f.write_str("not a valid name")?,
            Problem::OutOfRange => f.write_str("out of range")?,
            Problem::NotPow2 => f.write_str("not a power of two")?,
            Problem::NotANumber => f.write_str("not a number")?,
            Problem::NotAChoice => f.write_str("not one of the choices")?,
            Problem::NotASwitch => f.write_str("neither on nor off")?,
            Problem::Unknown | Problem::WordCount => {}
        }
        write!(f, " (takes {})", Takes(&spec.kind))
    }
}

impl core::error::Error for OptError {}

/// What an option takes, in words.
pub(crate) struct Takes<'k>(pub(crate) &'k Kind);

impl fmt::Display for Takes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Kind::Pow2 { min, max } => {
                write!(f, "{min} to {max}, rounded up to a power of two")
            }
            Kind::Int { min, max, unit } => write!(f, "{min} to {max}{}", unit.suffix()),
            Kind::Octal { max } => write!(f, "an octal mode up to {max:04o}"),
            Kind::Switch => f.write_str("on or off"),
            Kind::Choice(words) => {
                for (i, word) in words.iter().enumerate() {
                    f.write_str(match i {
                        0 => "",
                        _ if i + 1 == words.len() => " or ",
                        _ => ", ",
                    })?;
                    f.write_str(word)?;
                }
                Ok(())
            }
            Kind::Text { what, max } => write!(f, "{what}, up to {max} bytes"),
            Kind::List { what, max } => {
                write!(f, "{what}[,{what}...], up to {max} names of up to 15 bytes")
            }
        }
    }
}
