//! Indices: how shared objects name one another. No arithmetic, and absence is a type of its own.

use crate::cell::Scalar;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU32;

/// The index of a `T` in its arena.
pub struct Idx<T>(u32, PhantomData<fn() -> T>);

/// An index that may be absent. Stored as index + 1, so that zeroed memory reads as absent.
pub struct OptIdx<T>(u32, PhantomData<fn() -> T>);

impl<T> Idx<T> {
    /// The index with this number.
    #[inline]
    pub const fn new(n: u32) -> Self {
        Self(n, PhantomData)
    }

    /// The number.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl<T> OptIdx<T> {
    /// No index.
    pub const NONE: Self = Self(0, PhantomData);

    /// This index.
    #[inline]
    pub const fn some(i: Idx<T>) -> Self {
        Self(i.0.wrapping_add(1), PhantomData)
    }

    /// The index, if there is one.
    #[inline]
    pub const fn opt(self) -> Option<Idx<T>> {
        match self.0 {
            0 => None,
            n => Some(Idx::new(n - 1)),
        }
    }

    /// True when there is none.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl<T> From<Idx<T>> for OptIdx<T> {
    #[inline]
    fn from(i: Idx<T>) -> Self {
        Self::some(i)
    }
}

impl<T> From<Option<Idx<T>>> for OptIdx<T> {
    #[inline]
    fn from(i: Option<Idx<T>>) -> Self {
        i.map_or(Self::NONE, Self::some)
    }
}

macro_rules! index_traits {
    ($($name:ident),+) => {$(
        impl<T> Clone for $name<T> {
            #[inline]
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T> Copy for $name<T> {}
        impl<T> PartialEq for $name<T> {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }
        impl<T> Eq for $name<T> {}
        impl<T> core::hash::Hash for $name<T> {
            fn hash<H: core::hash::Hasher>(&self, h: &mut H) {
                self.0.hash(h);
            }
        }
        impl<T> Scalar for $name<T> {
            type Word = AtomicU32;
            #[inline]
            fn from_word(w: u32) -> Self {
                Self(w, PhantomData)
            }
            #[inline]
            fn to_word(self) -> u32 {
                self.0
            }
        }
    )+};
}

index_traits!(Idx, OptIdx);

impl<T> core::fmt::Debug for Idx<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl<T> core::fmt::Debug for OptIdx<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.opt() {
            Some(i) => i.fmt(f),
            None => f.write_str("-"),
        }
    }
}
