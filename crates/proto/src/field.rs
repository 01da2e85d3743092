//! What a message field can be: numbers, addresses, optional values, bounded texts and lists.

use flyover_wire::{Endpoint, Ip, Mac};

use crate::{CodecError, Reader, Writer};

/// A value that can stand in a message.
pub trait Field: Sized {
    /// Appends the value.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] when the message is full.
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError>;
    /// Reads the value.
    ///
    /// # Errors
    /// [`CodecError::Short`], [`CodecError::TooLong`] or [`CodecError::Value`].
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError>;
}

macro_rules! number_fields {
    ($($ty:ty),*) => { $(
        impl Field for $ty {
            fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
                w.bytes(&self.to_le_bytes())
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
                Ok(Self::from_le_bytes(r.array()?))
            }
        }
    )* };
}

number_fields!(u8, u16, u32, u64, i32);

impl Field for bool {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        w.bytes(&[u8::from(*self)])
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        match u8::take(r)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Value),
        }
    }
}

impl Field for Ip {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        self.hi().put(w)?;
        self.lo().put(w)
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let hi = u64::take(r)?;
        Ok(Self::from_halves(hi, u64::take(r)?))
    }
}

impl Field for Mac {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        self.to_u64().put(w)
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let bits = u64::take(r)?;
        if bits >> 48 == 0 {
            Ok(Self::from_u64(bits))
        } else {
            Err(CodecError::Value)
        }
    }
}

impl Field for Endpoint {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        self.ip.put(w)?;
        self.port.put(w)
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let ip = Ip::take(r)?;
        Ok(Self {
            ip,
            port: u16::take(r)?,
        })
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        self.is_some().put(w)?;
        match self {
            Some(value) => value.put(w),
            None => Ok(()),
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        if bool::take(r)? {
            T::take(r).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// A text of at most `MAX` bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// `text`, cut at the last character border that fits.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> std::fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> Field for Text<MAX> {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        let len = u16::try_from(self.0.len()).map_err(|_| CodecError::TooLong)?;
        len.put(w)?;
        w.bytes(self.0.as_bytes())
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let len = usize::from(u16::take(r)?);
        if len > MAX {
            return Err(CodecError::TooLong);
        }
        let text = std::str::from_utf8(r.bytes(len)?).map_err(|_| CodecError::Value)?;
        Ok(Self(text.to_owned()))
    }
}

/// A list of at most `MAX` values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// The first `MAX` of `values`.
    pub fn new(values: impl IntoIterator<Item = T>) -> Self {
        Self(values.into_iter().take(MAX).collect())
    }

    /// The values themselves.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> std::ops::Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Field, const MAX: usize> Field for List<T, MAX> {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        let len = u16::try_from(self.0.len()).map_err(|_| CodecError::TooLong)?;
        len.put(w)?;
        self.0.iter().try_for_each(|value| value.put(w))
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        let len = usize::from(u16::take(r)?);
        if len > MAX {
            return Err(CodecError::TooLong);
        }
        // Grows with what is really there: a lying length costs nothing.
        let mut list = Vec::new();
        for _ in 0..len {
            list.push(T::take(r)?);
        }
        Ok(Self(list))
    }
}
