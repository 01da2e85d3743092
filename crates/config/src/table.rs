//! The macro that turns a table of options into a struct, and what is known of each option.

use core::fmt;

use crate::problem::OptError;

/// Whose option it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Category {
    /// Fixed when a stack is made.
    Stack,
    /// One process's use of its stack.
    Process,
    /// `flyoverd`'s own.
    Daemon,
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes; `K`, `M` and `G` (powers of 1024) are understood.
    Bytes,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// For help texts: `" ms"`; empty for plain counts.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => " bytes",
            Self::Micros => " µs",
            Self::Millis => " ms",
            Self::Seconds => " s",
        }
    }
}

/// What values an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A table size: rounded up to a power of two, then range-checked. Both ends are powers of two.
    Pow2 {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// A number.
    Int {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
        /// What it counts.
        unit: Unit,
    },
    /// A file mode, in octal.
    Octal {
        /// Largest.
        max: u32,
    },
    /// On or off.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Free text of limited length.
    Text {
        /// Placeholder in help texts, e.g. `PATH`.
        what: &'static str,
        /// Longest, bytes.
        max: usize,
    },
    /// Comma-separated names; as a flag it can be repeated.
    List {
        /// Placeholder in help texts, e.g. `IF`.
        what: &'static str,
        /// Most names.
        max: usize,
    },
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Field of the option struct.
    pub name: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Command line flag without the dashes.
    pub flag: &'static str,
    /// Whose option it is.
    pub category: Category,
    /// What values it takes.
    pub kind: Kind,
    /// One line for `--help`.
    pub short: &'static str,
    /// Documentation, possibly of several lines, each starting with a blank.
    pub long: &'static str,
}

/// A struct made by `options!`.
pub trait Options: Copy {
    /// The rows of the table, in order.
    const SPECS: &'static [Spec];

    /// All defaults.
    const DEFAULT: Self;

    /// Sets the option of row `index` from text. An index out of range is reported as unknown.
    ///
    /// # Errors
    /// The value does not parse, or is out of range; the option keeps its value.
    fn set_at(&mut self, index: usize, text: &str) -> Result<(), OptError>;

    /// Writes the value of row `index` as text that [`Options::set_at`] takes back.
    ///
    /// # Errors
    /// The formatter's.
    fn show_at(&self, index: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Sets the option with this field name.
    ///
    /// # Errors
    /// No such option, or as for [`Options::set_at`].
    fn set(&mut self, name: &str, text: &str) -> Result<(), OptError> {
        match Self::SPECS.iter().position(|s| s.name == name) {
            Some(index) => self.set_at(index, text),
            None => Err(OptError::unknown(name)),
        }
    }

    /// The value of row `index` for display.
    fn shown(&self, index: usize) -> Shown<'_, Self> {
        Shown {
            options: self,
            index,
        }
    }
}

/// A value that displays as text; made by [`Options::shown`].
#[derive(Clone, Copy)]
pub struct Shown<'o, O> {
    options: &'o O,
    index: usize,
}

impl<O: Options> fmt::Display for Shown<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.show_at(self.index, f)
    }
}

/// One row per option:
///
/// ```text
/// /// Long documentation.
/// field: Type = default, kind, "FLYOVER_ENV", "flag", "one line for --help";
/// ```
///
/// `as words` after the category adds `to_words`/`from_words`.
macro_rules! options {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, $category:ident $(as $words:ident)? {
            $(
                $(#[doc = $long:literal])+
                $field:ident: $ty:ty = $default:expr, $kind:expr, $env:literal, $flag:literal,
                $short:literal;
            )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name {
            $($(#[doc = $long])+ pub $field: $ty,)+
        }

        impl $crate::table::Options for $name {
            const SPECS: &'static [$crate::table::Spec] = &[
                $($crate::table::Spec {
                    name: stringify!($field),
                    env: $env,
                    flag: $flag,
                    category: $crate::table::Category::$category,
                    kind: $kind,
                    short: $short,
                    long: concat!($($long, "\n",)+),
                },)+
            ];

            const DEFAULT: Self = Self { $($field: $default,)+ };

            fn set_at(&mut self, index: usize, text: &str) -> Result<(), $crate::problem::OptError> {
                let mut specs = Self::SPECS.iter().enumerate();
                $(
                    // One step of the iterator per row keeps field and spec together.
                    if let Some((at, spec)) = specs.next() && at == index {
                        self.$field = $crate::value::Value::parse(text, &spec.kind)
                            .map_err(|p| $crate::problem::OptError::new(spec, text, p))?;
                        return Ok(());
                    }
                )+
                Err($crate::problem::OptError::unknown(text))
            }

            fn show_at(&self, index: usize, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut specs = Self::SPECS.iter().enumerate();
                $(
                    if let Some((at, spec)) = specs.next() && at == index {
                        return $crate::value::Value::show(&self.$field, &spec.kind, f);
                    }
                )+
                Ok(())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                <Self as $crate::table::Options>::DEFAULT
            }
        }

        $crate::table::options!(@encode [$($words)?] $name { $($field)+ });
    };
    (@encode [] $name:ident { $($field:ident)+ }) => {};
    (@encode [words] $name:ident { $($field:ident)+ }) => {
        impl $name {
            /// Number of words of the encoded form.
            pub const WORDS: usize = [$(stringify!($field)),+].len();

            /// One word per option, in the order of the table.
            #[must_use]
            pub fn to_words(&self) -> [u64; Self::WORDS] {
                [$($crate::value::Word::to_word(self.$field)),+]
            }

            /// Inverse of `to_words`, for words from anywhere: everything is range-checked, and
            /// table sizes must be powers of two already.
            ///
            /// # Errors
            /// The number of words is wrong, or a value is out of range.
            pub fn from_words(words: &[u64]) -> Result<Self, $crate::problem::OptError> {
                let words: &[u64; Self::WORDS] =
                    words.try_into().map_err(|_| $crate::problem::OptError::word_count())?;
                let [$($field),+] = *words;
                let mut specs = <Self as $crate::table::Options>::SPECS.iter();
                Ok(Self {
                    $($field: {
                        let spec = specs.next().ok_or_else($crate::problem::OptError::word_count)?;
                        $crate::value::Word::from_word($field, &spec.kind)
                            .map_err(|p| $crate::problem::OptError::of_word(spec, $field, p))?
                    },)+
                })
            }
        }
    };
}
pub(crate) use options;
