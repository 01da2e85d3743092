//! Places inside critical sections where a build with the feature `stretch` lingers now and then, so that a process that
//! is killed at a random moment often dies there (the kill storm). In every other build a place is nothing.

#[cfg(feature = "stretch")]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// State of the generator that decides where to linger.
#[cfg(feature = "stretch")]
static SEED: AtomicU64 = AtomicU64::new(0x2545_f491_4f6c_dd1d);
/// One in so many places.
#[cfg(feature = "stretch")]
const SELDOM: u64 = 512;
/// How long, pauses of the CPU: some hundred microseconds.
#[cfg(feature = "stretch")]
const LINGER: u32 = 10_000;

/// Such a place: something is half changed here.
#[inline(always)]
pub(crate) fn place() {
    #[cfg(feature = "stretch")]
    {
        let mut x = SEED.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        SEED.store(x, Relaxed);
        if x.is_multiple_of(SELDOM) {
            (0..LINGER).for_each(|_| core::hint::spin_loop());
        }
    }
}
