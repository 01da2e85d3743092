//! TCP sequence numbers (RFC 9293 section 3.4): arithmetic modulo 2^32, comparison by distance.

use core::fmt;
use core::ops;

/// A sequence number. Deliberately without `Ord`: "less" is meaningless on a circle; use
/// [`Seq::before`] and its kin, which are right while the two are less than 2^31 apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `n` octets later.
    #[must_use]
    #[inline]
    #[allow(
        clippy::should_implement_trait,
        reason = "also implemented; const and always in scope"
    )]
    pub const fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The number `n` octets earlier.
    #[must_use]
    #[inline]
    pub const fn back(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// Signed distance `self - other`: positive when `self` is later.
    #[must_use]
    #[inline]
    pub const fn diff(self, other: Self) -> i32 {
        // Reinterpreting the wrapped difference gives the short way round the circle.
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// Octets from `earlier` up to `self`, modulo 2^32; meaningful when `self` is not before it.
    #[must_use]
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// `self < other` on the circle.
    #[must_use]
    #[inline]
    pub const fn before(self, other: Self) -> bool {
        self.diff(other) < 0
    }

    /// `self <= other` on the circle.
    #[must_use]
    #[inline]
    pub const fn before_eq(self, other: Self) -> bool {
        self.diff(other) <= 0
    }

    /// `self > other` on the circle.
    #[must_use]
    #[inline]
    pub const fn after(self, other: Self) -> bool {
        self.diff(other) > 0
    }

    /// `self >= other` on the circle.
    #[must_use]
    #[inline]
    pub const fn after_eq(self, other: Self) -> bool {
        self.diff(other) >= 0
    }

    /// `start <= self < start + len`. Exact for any `len`, also beyond 2^31; empty for `len == 0`.
    #[must_use]
    #[inline]
    pub const fn in_window(self, start: Self, len: u32) -> bool {
        self.since(start) < len
    }

    /// The earlier of the two.
    #[must_use]
    #[inline]
    pub const fn earliest(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }

    /// The later of the two.
    #[must_use]
    #[inline]
    pub const fn latest(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }
}

impl ops::Add<u32> for Seq {
    type Output = Self;

    #[inline]
    fn add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }
}

impl ops::Sub<u32> for Seq {
    type Output = Self;

    #[inline]
    fn sub(self, n: u32) -> Self {
        self.back(n)
    }
}

impl ops::Sub for Seq {
    type Output = i32;

    #[inline]
    fn sub(self, other: Self) -> i32 {
        self.diff(other)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wraps() {
        let top = Seq(u32::MAX);
        assert_eq!(top.add(2), Seq(1));
        assert_eq!(Seq(1).back(2), top);
        assert!(top.before(Seq(0)) && Seq(0).after(top));
        assert_eq!(Seq(1).diff(top), 2);
        assert_eq!(top - Seq(1), -2);
        assert_eq!(top + 1 - 1, top);
        assert_eq!(top.latest(Seq(5)), Seq(5));
        assert_eq!(top.earliest(Seq(5)), top);
        assert!(Seq(3).in_window(top, 5) && !Seq(4).in_window(top, 5));
        assert!(!top.in_window(top, 0));
    }

    proptest! {
        #[test]
        fn order_within_half_circle(a: u32, d in 1u32..0x8000_0000) {
            let (a, b) = (Seq(a), Seq(a).add(d));
            prop_assert!(a.before(b) && a.before_eq(b) && b.after(a) && b.after_eq(a));
            prop_assert!(!b.before(a) && !a.after(b));
            prop_assert_eq!(b.since(a), d);
            prop_assert_eq!(b.diff(a), d as i32);
        }

        #[test]
        fn window_is_exact(start: u32, len: u32, off: u32) {
            prop_assert_eq!(Seq(start).add(off).in_window(Seq(start), len), off < len);
        }
    }
}
