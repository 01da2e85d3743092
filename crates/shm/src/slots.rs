//! [`Slots`]: a free-list allocator by index. The holder of the stack lock allocates, last in first out; anybody may
//! free. Every slot carries the owner's tag, so that the slots of a dead process can be found without trusting lists.

use crate::arena::Arena;
use crate::atomic::{Shared32, Shared64};
use crate::idx::Idx;
use crate::object::Object;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

crate::shm_struct! {
    /// What an object needs to live in a free list.
    pub struct SlotHdr {
        /// Next free slot: 1 + index; 0 is the end.
        pub next: Shared32,
        /// Owner tag; 0 is free.
        pub tag: Shared32,
    }
}

crate::shm_struct! {
    /// A free list. The head word: low half 1 + index of the first free slot, high half a count against ABA.
    pub struct Slots {
        head: Shared64,
        /// Slots in use.
        pub used: Shared32,
        /// Frees of slots that were free already, or lists that were found corrupt.
        pub faults: Shared32,
    }
}

/// An object that starts a free slot with a [`SlotHdr`].
pub trait SlotObject: Object {
    /// The header.
    fn slot(&self) -> &SlotHdr;
}

impl Slots {
    /// Puts every slot on the list, lowest first.
    pub fn init<T: SlotObject>(&self, arena: Arena<'_, T>) {
        let n = arena.count();
        for i in 0..n {
            let h = arena.at(Idx::new(i)).slot();
            h.next.store(if i + 1 < n { i + 2 } else { 0 }, Relaxed);
            h.tag.store(0, Relaxed);
        }
        self.used.store(0, Relaxed);
        self.head.store(1, Release);
    }

    /// A free slot, now tagged. `tag` must not be 0. None: all are in use, or the list is corrupt.
    pub fn alloc<T: SlotObject>(&self, arena: Arena<'_, T>, tag: u32) -> Option<Idx<T>> {
        let mut head = self.head.load(Acquire);
        // Bounded: each failed exchange means that somebody else succeeded.
        for _ in 0..1024 {
            let first = (head as u32).checked_sub(1)?;
            let id = Idx::new(first);
            let Some(obj) = arena.get(id) else {
                let _: u32 = self.faults.fetch_add(1, Relaxed);
                return None;
            };
            let next = obj.slot().next.load(Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self.head.compare_exchange(head, new, AcqRel, Acquire) {
                Ok(_) => {
                    if obj
                        .slot()
                        .tag
                        .compare_exchange(0, tag, AcqRel, Relaxed)
                        .is_err()
                    {
                        // On the list and in use at once: leave the slot to its user, and try the next one.
                        let _: u32 = self.faults.fetch_add(1, Relaxed);
                        head = self.head.load(Acquire);
                        continue;
                    }
                    let _: u32 = self.used.fetch_add(1, Relaxed);
                    return Some(id);
                }
                Err(now) => head = now,
            }
        }
        None
    }

    /// Gives a slot back. False: it was free already; nothing is changed.
    pub fn free<T: SlotObject>(&self, arena: Arena<'_, T>, id: Idx<T>) -> bool {
        let id = Idx::<T>::new(id.raw() & (arena.count() - 1));
        let h = arena.at(id).slot();
        if h.tag.swap(0, AcqRel) == 0 {
            let _: u32 = self.faults.fetch_add(1, Relaxed);
            return false;
        }
        let _: u32 = self.used.fetch_sub(1, Relaxed);
        let mut head = self.head.load(Acquire);
        loop {
            h.next.store(head as u32, Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(id.raw() + 1);
            match self.head.compare_exchange(head, new, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Makes the list anew from the tags: after the owner of the lock died, or after an audit found a fault. Nobody
    /// else may allocate or free meanwhile.
    pub fn rebuild<T: SlotObject>(&self, arena: Arena<'_, T>) {
        let mut first = 0u32;
        let mut used = 0u32;
        for i in (0..arena.count()).rev() {
            let h = arena.at(Idx::new(i)).slot();
            if h.tag.load(Acquire) == 0 {
                h.next.store(first, Relaxed);
                first = i + 1;
            } else {
                used += 1;
            }
        }
        self.used.store(used, Relaxed);
        let old = self.head.load(Acquire);
        self.head.store(
            (old >> 32).wrapping_add(1) << 32 | u64::from(first),
            Release,
        );
    }
}
