//! [`StackLock`]: one word that says who holds the stack and what he owes.
//!
//! Somebody who cannot get the lock leaves his wish as a bit *in the same word*, in one atomic step: either he gets
//! the lock, or the holder is guaranteed to see the bit before he lets go. So work is never lost between a check and
//! an unlock.
//!
//! Word: bit 0 locked; bit 1 somebody sleeps on it; bits 8..24 the holder's owner slot + 1; bits 32..64 deferred work.

use crate::atomic::{Shared32, Shared64};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

const LOCKED: u64 = 1;
const WAITERS: u64 = 2;
const OWNER_SHIFT: u32 = 8;
const OWNER_MASK: u64 = 0xffff << OWNER_SHIFT;
const WORK_SHIFT: u32 = 32;
const WORK_MASK: u64 = 0xffff_ffff << WORK_SHIFT;

crate::shm_struct! {
    /// The stack lock.
    pub struct StackLock {
        word: Shared64,
        /// Futex on which contenders sleep; counts releases that somebody waited for.
        pub seq: Shared32,
        /// Times that somebody had to wait.
        pub contended: Shared32,
    }
}

/// What an attempt to unlock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Unlock {
    /// The lock is free.
    Released {
        /// Somebody sleeps on [`StackLock::seq`]: wake *all* who do. The word no longer says that there are sleepers, so
        /// one who was left asleep would miss the next release too.
        wake: bool,
    },
    /// Still held: do this work first. The bits are cleared.
    Deferred(u32),
}

impl Default for StackLock {
    fn default() -> Self {
        Self {
            word: Shared64::new(0),
            seq: Shared32::new(0),
            contended: Shared32::new(0),
        }
    }
}

impl StackLock {
    /// Takes the lock for this owner slot, if it is free.
    #[inline]
    pub fn try_lock(&self, owner: u16) -> bool {
        let mine = LOCKED | (u64::from(owner) + 1) << OWNER_SHIFT;
        if self
            .word
            .compare_exchange(0, mine, Acquire, Relaxed)
            .is_ok()
        {
            return true;
        }
        self.try_lock_slow(mine)
    }

    fn try_lock_slow(&self, mine: u64) -> bool {
        let mut w = self.word.load(Relaxed);
        while w & LOCKED == 0 {
            match self
                .word
                .compare_exchange(w, (w & !OWNER_MASK) | mine, Acquire, Relaxed)
            {
                Ok(_) => return true,
                Err(now) => w = now,
            }
        }
        false
    }

    /// Either takes the lock (true), or leaves `work` for the holder (false): one atomic step decides.
    pub fn lock_or_defer(&self, owner: u16, work: u32) -> bool {
        let mine = LOCKED | (u64::from(owner) + 1) << OWNER_SHIFT;
        let bits = u64::from(work) << WORK_SHIFT;
        let mut w = self.word.load(Relaxed);
        loop {
            let (new, got) = if w & LOCKED == 0 {
                // The work stays visible in the word: the caller, now the holder, does it before he unlocks.
                ((w & !OWNER_MASK) | mine | bits, true)
            } else {
                (w | bits, false)
            };
            match self.word.compare_exchange(w, new, AcqRel, Relaxed) {
                Ok(_) => return got,
                Err(now) => w = now,
            }
        }
    }

    /// Takes the deferred bits out of the word. Only the holder calls this.
    pub fn take_deferred(&self) -> u32 {
        let w = self.word.fetch_and(!WORK_MASK, AcqRel);
        (w >> WORK_SHIFT) as u32
    }

    /// Releases the lock, unless there is deferred work: then the bits are returned and the lock stays held.
    #[inline]
    pub fn try_unlock(&self) -> Unlock {
        let mut w = self.word.load(Relaxed);
        loop {
            if w & WORK_MASK != 0 {
                return Unlock::Deferred(self.take_deferred());
            }
            match self.word.compare_exchange(w, 0, Release, Relaxed) {
                Ok(_) => {
                    return Unlock::Released {
                        wake: self.released(w),
                    };
                }
                Err(now) => w = now,
            }
        }
    }

    /// Releases the lock whatever was deferred; the bits stay in the word for the next holder. True: wake all
    /// waiters.
    pub fn force_unlock(&self) -> bool {
        let w = self.word.fetch_and(WORK_MASK, AcqRel);
        self.released(w)
    }

    fn released(&self, w: u64) -> bool {
        if w & WAITERS == 0 {
            return false;
        }
        let _: u32 = self.seq.fetch_add(1, Release);
        true
    }

    /// Announces that the caller is about to sleep on [`seq`](Self::seq) while it has the value that is returned.
    /// None: the lock is free now; try again instead of sleeping.
    pub fn note_waiter(&self) -> Option<u32> {
        let seq = self.seq.load(Acquire);
        let mut w = self.word.load(Relaxed);
        loop {
            if w & LOCKED == 0 {
                return None;
            }
            match self.word.compare_exchange(w, w | WAITERS, AcqRel, Relaxed) {
                Ok(_) => {
                    let _: u32 = self.contended.fetch_add(1, Relaxed);
                    return Some(seq);
                }
                Err(now) => w = now,
            }
        }
    }

    /// The holder's owner slot, if the lock is held.
    pub fn owner(&self) -> Option<u16> {
        let w = self.word.load(Acquire);
        (w & LOCKED != 0).then(|| (((w & OWNER_MASK) >> OWNER_SHIFT) as u16).wrapping_sub(1))
    }

    /// Takes the lock from a dead holder. False when he does not hold it.
    pub fn take_over(&self, dead: u16, new: u16) -> bool {
        let mut w = self.word.load(Acquire);
        loop {
            let owner = (((w & OWNER_MASK) >> OWNER_SHIFT) as u16).wrapping_sub(1);
            if w & LOCKED == 0 || owner != dead {
                return false;
            }
            let n = (w & !OWNER_MASK) | (u64::from(new) + 1) << OWNER_SHIFT;
            match self.word.compare_exchange(w, n, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => w = now,
            }
        }
    }
}
