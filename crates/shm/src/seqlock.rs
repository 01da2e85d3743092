//! [`SeqCount`]: one writer, many readers who never block him. The protected fields are cells, so a torn read is
//! harmless; the count tells that it was torn.

use crate::atomic::Shared32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Tries of a reader before it gives up: a writer that died in the middle must not hang anybody.
pub const TRIES: u32 = 64;

crate::shm_struct! {
    /// Odd while the writer is at work.
    pub struct SeqCount {
        n: Shared32,
    }
}

impl Default for SeqCount {
    fn default() -> Self {
        Self {
            n: Shared32::new(0),
        }
    }
}

fn fence_acquire() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Acquire);
    #[cfg(not(loom))]
    core::sync::atomic::fence(Acquire);
}

fn fence_release() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Release);
    #[cfg(not(loom))]
    core::sync::atomic::fence(Release);
}

impl SeqCount {
    /// Starts at an even count near `n`, in memory that nobody reads yet: counts shall not be those of earlier memory in
    /// the same place.
    pub fn start(&self, n: u32) {
        self.n.store(n & !1, Relaxed);
    }

    /// The present count: changes with every write.
    #[inline]
    pub fn version(&self) -> u32 {
        self.n.load(Acquire)
    }

    /// Writes under the count. There is one writer.
    pub fn write<R>(&self, f: impl FnOnce() -> R) -> R {
        let n = self.n.load(Relaxed);
        // An odd count is a predecessor's that died while writing: stay odd, end even.
        self.n.store(n | 1, Relaxed);
        fence_release();
        let r = f();
        self.n.store((n | 1).wrapping_add(1), Release);
        r
    }

    /// Reads consistently, or gives up after [`TRIES`] tries.
    #[inline]
    pub fn read<R>(&self, mut f: impl FnMut() -> R) -> Option<R> {
        for _ in 0..TRIES {
            let before = self.n.load(Acquire);
            if before & 1 == 0 {
                let r = f();
                fence_acquire();
                if self.n.load(Relaxed) == before {
                    return Some(r);
                }
            }
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            core::hint::spin_loop();
        }
        None
    }
}
