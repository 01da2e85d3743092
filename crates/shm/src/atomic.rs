//! Fields that are used without a lock. Every call names its ordering. The loom build swaps the atomics.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64};

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};

use core::sync::atomic::Ordering;

macro_rules! shared {
    ($(#[$doc:meta])* $name:ident, $atomic:ident, $int:ty) => {
        $(#[$doc])*
        #[cfg_attr(not(loom), repr(transparent))]
        pub struct $name($atomic);

        impl $name {
            /// A field outside a mapping, for tests.
            #[cfg(not(loom))]
            pub const fn new(v: $int) -> Self {
                Self($atomic::new(v))
            }

            /// A field outside a mapping, for tests.
            #[cfg(loom)]
            pub fn new(v: $int) -> Self {
                Self($atomic::new(v))
            }

            /// Atomic load.
            #[inline]
            pub fn load(&self, o: Ordering) -> $int {
                self.0.load(o)
            }

            /// Atomic store.
            #[inline]
            pub fn store(&self, v: $int, o: Ordering) {
                self.0.store(v, o);
            }

            /// Atomic exchange; returns the old value.
            #[inline]
            pub fn swap(&self, v: $int, o: Ordering) -> $int {
                self.0.swap(v, o)
            }

            /// Atomic compare-and-exchange.
            ///
            /// # Errors
            /// The value found, when it is not `current`.
            #[inline]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                ok: Ordering,
                err: Ordering,
            ) -> Result<$int, $int> {
                self.0.compare_exchange(current, new, ok, err)
            }

            /// Atomic OR; returns the old value.
            #[inline]
            pub fn fetch_or(&self, v: $int, o: Ordering) -> $int {
                self.0.fetch_or(v, o)
            }

            /// Atomic AND; returns the old value.
            #[inline]
            pub fn fetch_and(&self, v: $int, o: Ordering) -> $int {
                self.0.fetch_and(v, o)
            }

            /// Atomic addition; returns the old value.
            #[inline]
            pub fn fetch_add(&self, v: $int, o: Ordering) -> $int {
                self.0.fetch_add(v, o)
            }

            /// Atomic subtraction; returns the old value.
            #[inline]
            pub fn fetch_sub(&self, v: $int, o: Ordering) -> $int {
                self.0.fetch_sub(v, o)
            }

            /// The atomic itself, for futexes.
            #[cfg(not(loom))]
            #[inline]
            pub fn as_atomic(&self) -> &core::sync::atomic::$atomic {
                &self.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.load(Ordering::Relaxed).fmt(f)
            }
        }
    };
}

shared! {
    /// A 32-bit field that is used without a lock.
    Shared32, AtomicU32, u32
}
shared! {
    /// A 64-bit field that is used without a lock.
    Shared64, AtomicU64, u64
}
