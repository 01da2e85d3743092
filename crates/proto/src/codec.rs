//! Bytes to values and back: little-endian, no padding, every length checked. Decoding is total: any bytes give a
//! value or a [`CodecError`], never a panic, and never allocate more than the message is long.

/// Why bytes are not a message, or a message does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodecError {
    /// The message ends before its last field.
    Short,
    /// Bytes are left after the last field.
    Trailing,
    /// The message, or a list or text in it, is longer than its limit.
    TooLong,
    /// No message has this tag.
    Tag(u8),
    /// A field holds a value that its type does not have.
    Value,
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => f.write_str("message ends too early"),
            Self::Trailing => f.write_str("message has bytes after its end"),
            Self::TooLong => f.write_str("message or list longer than its limit"),
            Self::Tag(t) => write!(f, "no message has tag {t}"),
            Self::Value => f.write_str("field holds an impossible value"),
        }
    }
}

impl std::error::Error for CodecError {}

/// Appends fields to a caller's buffer.
#[derive(Debug)]
pub struct Writer<'b> {
    buf: &'b mut [u8],
    at: usize,
}

impl<'b> Writer<'b> {
    /// Starts at the beginning of `buf`.
    pub fn new(buf: &'b mut [u8]) -> Self {
        Self { buf, at: 0 }
    }

    /// Appends bytes as they are.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] when the buffer is full.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        let end = self
            .at
            .checked_add(bytes.len())
            .ok_or(CodecError::TooLong)?;
        self.buf
            .get_mut(self.at..end)
            .ok_or(CodecError::TooLong)?
            .copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.at
    }

    /// True when nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }
}

/// Takes fields off the front of a received message.
#[derive(Clone, Debug)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Reads from the beginning of `bytes`.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`CodecError::Short`] when fewer are left.
    pub fn bytes(&mut self, n: usize) -> Result<&'b [u8], CodecError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(CodecError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`CodecError::Short`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(CodecError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`CodecError::Trailing`] when bytes are left.
    pub fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing)
        }
    }
}

/// Declares a message enum: numbered variants with named fields, `encode` and `decode`.
macro_rules! messages {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $tag:literal $variant:ident {
        $( $(#[$fmeta:meta])* $field:ident : $ty:ty ),* $(,)? } )* }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum $name { $( $(#[$vmeta])* $variant { $( $(#[$fmeta])* $field: $ty ),* } ),* }

        impl $name {
            /// Writes the message with sequence number `seq`; returns its length in bytes.
            ///
            /// # Errors
            /// [`CodecError::TooLong`](crate::CodecError) when it does not fit in `buf`.
            pub fn encode(&self, seq: u32, buf: &mut [u8]) -> Result<usize, $crate::CodecError> {
                let mut w = $crate::Writer::new(buf);
                $crate::Field::put(&seq, &mut w)?;
                match self {
                    $( Self::$variant { $($field),* } => {
                        $crate::Field::put(&($tag as u8), &mut w)?;
                        $( $crate::Field::put($field, &mut w)?; )*
                    } )*
                }
                Ok(w.len())
            }

            /// Reads a whole message: its sequence number and itself.
            ///
            /// # Errors
            /// Any [`CodecError`](crate::CodecError); unknown tags, short and overlong messages included.
            pub fn decode(bytes: &[u8]) -> Result<(u32, Self), $crate::CodecError> {
                let mut r = $crate::Reader::new(bytes);
                let seq = <u32 as $crate::Field>::take(&mut r)?;
                let message = match <u8 as $crate::Field>::take(&mut r)? {
                    $( $tag => Self::$variant { $( $field: $crate::Field::take(&mut r)? ),* }, )*
                    other => return Err($crate::CodecError::Tag(other)),
                };
                r.end()?;
                Ok((seq, message))
            }
        }
    };
}

/// Declares a struct that is a [`Field`](crate::Field): its fields one after the other.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $( $(#[$fmeta:meta])* pub $field:ident : $ty:ty ),* $(,)? }) => {
        $(#[$meta])*
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty ),* }

        impl $crate::Field for $name {
            fn put(&self, w: &mut $crate::Writer<'_>) -> Result<(), $crate::CodecError> {
                let Self { $($field),* } = self;
                $( $crate::Field::put($field, w)?; )*
                Ok(())
            }
            fn take(r: &mut $crate::Reader<'_>) -> Result<Self, $crate::CodecError> {
                Ok(Self { $( $field: $crate::Field::take(r)? ),* })
            }
        }
    };
}

/// Declares a field-less enum that is one byte in a message; unknown bytes are refused.
macro_rules! coded {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $code:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $( $(#[$vmeta])* $variant = $code ),* }

        impl $crate::Field for $name {
            fn put(&self, w: &mut $crate::Writer<'_>) -> Result<(), $crate::CodecError> {
                w.bytes(&[*self as u8])
            }
            fn take(r: &mut $crate::Reader<'_>) -> Result<Self, $crate::CodecError> {
                match <u8 as $crate::Field>::take(r)? {
                    $( $code => Ok(Self::$variant), )*
                    _ => Err($crate::CodecError::Value),
                }
            }
        }
    };
}

pub(crate) use {coded, messages, record};
