//! Sets that several processes hold, after `fork` or `exec`: a set ends with its last holder. The first one is the
//! slot's tag; the others are bits. A slot that is used again has another life, which is how a process finds that its
//! set went before it could say that it holds it, too.

use super::objects::{HOLDER_WORDS, SetId};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::Idx;

impl Stack<'_> {
    /// Which life of the slot this is; of a set that the caller holds.
    pub fn set_life(self, set: SetId) -> u32 {
        self.sets.at(set).life.get()
    }

    /// Calls `f` with every owner slot that something belongs to which [`Locked::owner_gone`] would free; with some of
    /// them several times.
    pub fn each_owner(self, mut f: impl FnMut(u16)) {
        let mut tagged = |tag: u32| {
            let owner = tag.checked_sub(1).and_then(|t| u16::try_from(t).ok());
            owner.into_iter().for_each(&mut f);
        };
        for i in 0..self.state.waiter_slots.touched(self.waiters) {
            tagged(self.waiters.at(Idx::new(i)).hdr.tag.load(Relaxed));
        }
        for r in self.each_sock() {
            tagged(self.sock(r.id).rlock.load(Relaxed));
            tagged(self.sock(r.id).holder.get());
        }
        for i in 0..self.state.set_slots.touched(self.sets) {
            let set = self.sets.at(Idx::new(i));
            tagged(set.hdr.tag.load(Relaxed));
            if set.others.get() == 0 {
                continue;
            }
            for (word, bits) in set.holders.iter().map(|w| w.get()).enumerate() {
                let held = (0..64).filter(|b| bits & (1 << b) != 0);
                held.for_each(|b| tagged(word as u32 * 64 + b + 1));
            }
        }
    }
}

/// Word and bit of an owner slot.
fn place(owner: u16) -> (usize, u64) {
    (
        usize::from(owner) / 64 % HOLDER_WORDS,
        1 << (u32::from(owner) % 64),
    )
}

impl Locked<'_, '_, '_> {
    /// This process holds the set, too. False: that life of the set is over.
    pub fn set_hold(&mut self, set: SetId, life: u32) -> bool {
        let s = self.st.sets.at(set);
        let tag = s.hdr.tag.load(Relaxed);
        if tag == 0 || s.life.get() != life {
            return false;
        }
        if tag != u32::from(self.env.me) + 1 {
            let (word, bit) = place(self.env.me);
            if let Some(w) = s.holders.get(word).filter(|w| w.get() & bit == 0) {
                w.set(w.get() | bit);
                s.others.set(s.others.get().wrapping_add(1));
            }
        }
        true
    }

    /// This process holds the set no longer; without another holder it ends.
    pub fn set_let_go(&mut self, set: SetId, life: u32) {
        if self.st.set_life(set) == life {
            let me = self.env.me;
            self.set_loses(set, me);
        }
    }

    /// `owner` is no holder of the set any more.
    pub(crate) fn set_loses(&mut self, set: SetId, owner: u16) {
        let s = self.st.sets.at(set);
        let tag = s.hdr.tag.load(Relaxed);
        if tag == u32::from(owner) + 1 {
            match self.next_holder(set) {
                Some(heir) => {
                    self.drop_bit(set, heir);
                    s.hdr.tag.store(u32::from(heir) + 1, Release);
                }
                None => self.set_free(set),
            }
        } else if tag != 0 && s.others.get() != 0 {
            self.drop_bit(set, owner);
        }
    }

    fn next_holder(&self, set: SetId) -> Option<u16> {
        let s = self.st.sets.at(set);
        if s.others.get() == 0 {
            return None;
        }
        let some = |(i, w): (usize, u64)| (w != 0).then(|| i * 64 + w.trailing_zeros() as usize);
        let words = s.holders.iter().map(|w| w.get()).enumerate();
        u16::try_from(words.into_iter().find_map(some)?).ok()
    }

    fn drop_bit(&mut self, set: SetId, owner: u16) {
        let s = self.st.sets.at(set);
        let (word, bit) = place(owner);
        if let Some(w) = s.holders.get(word).filter(|w| w.get() & bit != 0) {
            w.set(w.get() & !bit);
            s.others.set(s.others.get().saturating_sub(1));
        }
    }

    /// Nobody is left: for the next life of the slot.
    pub(super) fn forget_holders(&mut self, set: SetId) {
        let s = self.st.sets.at(set);
        if s.others.get() != 0 {
            s.holders.iter().for_each(|w| w.set(0));
            s.others.set(0);
        }
    }
}
