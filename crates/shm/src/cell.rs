//! [`SharedCell`]: a field that belongs to the holder of a lock. One relaxed load or store per access, so that a
//! writer who ignores the lock causes a wrong value and nothing worse.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

mod sealed {
    pub trait Sealed {}
}

/// The atomics that a cell can be made of.
///
/// # Safety
/// Every bit pattern, all zeroes included, is a valid value; there is no padding; shared access is atomic.
pub unsafe trait Word: sealed::Sealed + 'static {
    /// The plain integer.
    type Int: Copy;
    /// Relaxed load.
    fn load(&self) -> Self::Int;
    /// Relaxed store.
    fn store(&self, v: Self::Int);
    /// Relaxed store of zero.
    fn zero(&self);
}

macro_rules! word {
    ($($atomic:ty => $int:ty),+) => {$(
        impl sealed::Sealed for $atomic {}
        // SAFETY: the standard's atomics have the integer's size, any bit pattern is valid, access is atomic.
        unsafe impl Word for $atomic {
            type Int = $int;
            #[inline]
            fn load(&self) -> $int {
                <$atomic>::load(self, Relaxed)
            }
            #[inline]
            fn store(&self, v: $int) {
                <$atomic>::store(self, v, Relaxed);
            }
            #[inline]
            fn zero(&self) {
                <$atomic>::store(self, 0, Relaxed);
            }
        }
        impl Scalar for $int {
            type Word = $atomic;
            #[inline]
            fn from_word(w: $int) -> Self {
                w
            }
            #[inline]
            fn to_word(self) -> $int {
                self
            }
        }
    )+};
}

/// A value that fits one word. Decoding is total: every word means something.
pub trait Scalar: Copy {
    /// The atomic that stores it.
    type Word: Word;
    /// From the stored word.
    fn from_word(w: <Self::Word as Word>::Int) -> Self;
    /// To the stored word.
    fn to_word(self) -> <Self::Word as Word>::Int;
}

word!(AtomicU8 => u8, AtomicU16 => u16, AtomicU32 => u32, AtomicU64 => u64);

impl Scalar for i32 {
    type Word = AtomicU32;
    #[inline]
    fn from_word(w: u32) -> Self {
        w.cast_signed()
    }
    #[inline]
    fn to_word(self) -> u32 {
        self.cast_unsigned()
    }
}

impl Scalar for bool {
    type Word = AtomicU8;
    #[inline]
    fn from_word(w: u8) -> Self {
        w != 0
    }
    #[inline]
    fn to_word(self) -> u8 {
        u8::from(self)
    }
}

/// Makes a newtype over an integer a [`Scalar`].
#[macro_export]
macro_rules! scalar_newtype {
    ($name:ty, $int:ty) => {
        impl $crate::Scalar for $name {
            type Word = <$int as $crate::Scalar>::Word;
            #[inline]
            fn from_word(w: $int) -> Self {
                Self(w)
            }
            #[inline]
            fn to_word(self) -> $int {
                self.0
            }
        }
    };
}

/// A field of a shared object, for the holder of the lock that protects it.
#[repr(transparent)]
pub struct SharedCell<T: Scalar>(T::Word, PhantomData<T>);

// SAFETY: the only storage is an atomic word (`Word` says so); `T` itself is never stored.
unsafe impl<T: Scalar> Sync for SharedCell<T> where T::Word: Sync {}

impl<T: Scalar> SharedCell<T> {
    /// One relaxed load.
    #[inline]
    pub fn get(&self) -> T {
        T::from_word(self.0.load())
    }

    pub(crate) fn zero(&self) {
        self.0.zero();
    }

    /// One relaxed store.
    #[inline]
    pub fn set(&self, v: T) {
        self.0.store(v.to_word());
    }
}

impl<T: Scalar + core::fmt::Debug> core::fmt::Debug for SharedCell<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}

macro_rules! narrow {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[repr(transparent)]
        pub struct $name(SharedCell<$int>);

        impl $name {
            /// One relaxed load.
            #[inline]
            pub fn get(&self) -> u32 {
                u32::from(self.0.get())
            }

            /// One relaxed store; of a value that is too large, the largest one.
            #[inline]
            pub fn set(&self, v: u32) {
                self.0.set(<$int>::try_from(v).unwrap_or(<$int>::MAX));
            }
        }

        // SAFETY: one cell, which is one atomic word.
        unsafe impl crate::CellField for $name {
            fn clear(&self) {
                self.0.zero();
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.get().fmt(f)
            }
        }
    };
}

narrow! {
    /// As [`SharedCell`], of numbers up to 255, which others take for words: where memory counts.
    ByteCell, u8
}
narrow! {
    /// The same up to 65,535.
    HalfCell, u16
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_for_a_narrow_cell_is_kept_as_the_largest() {
        let byte = ByteCell(SharedCell(AtomicU8::new(0), PhantomData));
        let half = HalfCell(SharedCell(AtomicU16::new(0), PhantomData));
        for (v, b, h) in [
            (7, 7, 7),
            (255, 255, 255),
            (300, 255, 300),
            (70_000, 255, 65_535),
        ] {
            byte.set(v);
            half.set(v);
            assert_eq!((byte.get(), half.get()), (b, h));
        }
    }
}
