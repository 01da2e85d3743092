//! Time as the stack sees it: nanoseconds of the caller's monotonic clock. Nothing here reads a clock.

/// A point in time, in nanoseconds since the clock's start (`CLOCK_MONOTONIC` in production).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

/// One microsecond in nanoseconds.
pub const US: u64 = 1_000;
/// One millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// One second in nanoseconds.
pub const SEC: u64 = 1_000_000_000;

impl Instant {
    /// The point `ns` nanoseconds later; saturates.
    #[inline]
    pub const fn after(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to `self`; 0 when `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds.
    #[inline]
    pub const fn secs32(self) -> u32 {
        (self.0 / SEC) as u32
    }

    /// Milliseconds, as the TCP timestamp clock counts them (RFC 7323 section 5.4: 1 ms ticks).
    #[inline]
    pub const fn ms32(self) -> u32 {
        (self.0 / MS) as u32
    }
}
