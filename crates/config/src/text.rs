//! Inline strings: option structs stay `Copy`, and reading them never allocates.

use core::fmt;

/// Text of at most `N` bytes (`N` < 256).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    /// Invariant: at most `N`, and the bytes before it are valid UTF-8.
    len: u8,
}

/// An interface name: `IFNAMSIZ` less the terminator.
pub type IfName = Text<15>;

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const EMPTY: Self = Self {
        bytes: [0; N],
        len: 0,
    };

    /// `None` when `s` is longer than `N` bytes.
    #[must_use]
    pub const fn new(s: &str) -> Option<Self> {
        let from = s.as_bytes();
        if from.len() > N || from.len() > u8::MAX as usize {
            return None;
        }
        let mut bytes = [0; N];
        let mut i = 0;
        while i < from.len() {
            bytes[i] = from[i];
            i += 1;
        }
        Some(Self {
            bytes,
            len: from.len() as u8,
        })
    }

    /// As much of `s` as fits, cut at a character.
    #[must_use]
    pub fn truncated(s: &str) -> Self {
        let mut end = s.len().min(N).min(usize::from(u8::MAX));
        while !s.is_char_boundary(end) {
            end -= 1;
        }
        s.get(..end).and_then(Self::new).unwrap_or(Self::EMPTY)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let used = self.bytes.get(..usize::from(self.len)).unwrap_or(&[]);
        core::str::from_utf8(used).unwrap_or("")
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A short list of interface names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Names {
    names: [IfName; Names::MAX],
    /// Invariant: at most `MAX`.
    count: u8,
}

impl Names {
    /// Most names.
    pub const MAX: usize = 16;

    /// No names.
    pub const EMPTY: Self = Self {
        names: [IfName::EMPTY; Self::MAX],
        count: 0,
    };

    /// The names, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .take(usize::from(self.count))
            .map(Text::as_str)
    }

    /// Number of names.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `name` is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|n| n == name)
    }

    /// Appends a name that is not there yet; `false` when the list is full.
    pub fn push(&mut self, name: IfName) -> bool {
        if self.contains(name.as_str()) {
            return true;
        }
        match self.names.get_mut(usize::from(self.count)) {
            Some(slot) => {
                *slot = name;
                self.count += 1;
                true
            }
            None => false,
        }
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
