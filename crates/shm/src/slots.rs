//! [`Slots`]: a free-list allocator by index. The holder of the stack lock allocates, last in first out; anybody may
//! free. Every slot carries the owner's tag, so that the slots of a dead process can be found without trusting lists.
//!
//! Slots that were never used are not on the list: a watermark says where they begin. A table may so be sized for the
//! largest load, and costs memory only for as many slots as were ever in use at the same time.

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
        /// Slots from here on were never taken; their memory was never touched.
        pub fresh: Shared32,
        /// Padding, always 0.
        pub pad: Shared32,
    }
}

/// An object that starts a free slot with a [`SlotHdr`].
pub trait SlotObject: Object {
    /// The header.
    fn slot(&self) -> &SlotHdr;
}

/// Where the headers are: a table of objects, or a plain slice of headers (model checking).
trait Headers {
    /// How many there are; a power of two.
    fn count(&self) -> u32;
    /// The header at this index, which is taken modulo the count.
    fn header(&self, i: u32) -> &SlotHdr;
}

impl<T: SlotObject> Headers for Arena<'_, T> {
    #[inline]
    fn count(&self) -> u32 {
        Arena::count(self)
    }
    #[inline]
    fn header(&self, i: u32) -> &SlotHdr {
        self.at(Idx::new(i)).slot()
    }
}

impl Slots {
    /// Makes every slot free. The table is zeroed memory, or was one of slots before: what the watermark says was
    /// touched is cleared.
    pub fn init<T: SlotObject>(&self, arena: Arena<'_, T>) {
        self.fill(&arena);
    }

    /// How many slots were ever in use at the same time: whoever walks the table need not look further.
    pub fn touched<T: SlotObject>(&self, arena: Arena<'_, T>) -> u32 {
        self.fresh.load(Acquire).min(arena.count())
    }

    /// A free slot, now tagged. `tag` must not be 0. None: all are in use, or the list is corrupt.
    pub fn alloc<T: SlotObject>(&self, arena: Arena<'_, T>, tag: u32) -> Option<Idx<T>> {
        self.pop(&arena, tag).map(Idx::new)
    }

    /// Fills `ids` with free slots, as far as the list has any, and returns how many it was: many for the price of one
    /// step on the list. What is missing may be had by [`alloc`](Self::alloc).
    pub fn alloc_many<T: SlotObject>(
        &self,
        arena: Arena<'_, T>,
        tag: u32,
        ids: &mut [Idx<T>],
    ) -> usize {
        let mut n = 0;
        self.pop_many(&arena, tag, ids.len(), |i| {
            if let Some(slot) = ids.get_mut(n) {
                *slot = Idx::new(i);
                n += 1;
            }
        });
        n
    }

    /// Gives slots back, in one step on the list. Returns how many: those that were free already are left alone.
    pub fn free_many<T: SlotObject>(&self, arena: Arena<'_, T>, ids: &[Idx<T>]) -> usize {
        self.push_many(&arena, ids.iter().map(|id| id.raw()))
    }

    /// Gives a slot back. False: it was free already; nothing is changed.
    pub fn free<T: SlotObject>(&self, arena: Arena<'_, T>, id: Idx<T>) -> bool {
        self.push(&arena, id.raw())
    }

    /// Marks a slot as free without putting it on the list: the caller, who alone has it, keeps it for [`retake`](Self::retake).
    /// False: it was free already.
    pub fn set_aside<T: SlotObject>(&self, arena: Arena<'_, T>, id: Idx<T>) -> bool {
        let h = arena.at(id).slot();
        if h.tag.load(Relaxed) == 0 {
            let _: u32 = self.faults.fetch_add(1, Relaxed);
            return false;
        }
        h.tag.store(0, Release);
        let _: u32 = self.used.fetch_sub(1, Relaxed);
        true
    }

    /// Takes a slot that was set aside. False: somebody has it; it is left to him.
    pub fn retake<T: SlotObject>(&self, arena: Arena<'_, T>, id: Idx<T>, tag: u32) -> bool {
        let h = arena.at(id).slot();
        if h.tag.compare_exchange(0, tag, AcqRel, Relaxed).is_err() {
            let _: u32 = self.faults.fetch_add(1, Relaxed);
            return false;
        }
        let _: u32 = self.used.fetch_add(1, Relaxed);
        true
    }

    /// Makes the list anew from the tags: after the owner of the lock died, or after an audit found a fault. Nobody
    /// else may allocate or free meanwhile.
    pub fn rebuild<T: SlotObject>(&self, arena: Arena<'_, T>) {
        self.relink(&arena);
    }

    /// Slots on the list, for an audit: `None` when it does not end. Nobody may allocate or free meanwhile.
    pub fn listed<T: SlotObject>(&self, arena: Arena<'_, T>) -> Option<u32> {
        let (mut next, mut n) = (self.head.load(Acquire) as u32, 0);
        while let Some(i) = next.checked_sub(1) {
            if n >= Arena::count(&arena) {
                return None;
            }
            n += 1;
            next = arena.at(Idx::new(i)).slot().next.load(Relaxed);
        }
        Some(n)
    }

    fn fill<H: Headers + ?Sized>(&self, table: &H) {
        for i in 0..self.fresh.load(Acquire).min(table.count()) {
            let h = table.header(i);
            h.next.store(0, Relaxed);
            h.tag.store(0, Relaxed);
        }
        self.used.store(0, Relaxed);
        self.fresh.store(0, Relaxed);
        self.head.store(0, Release);
    }

    fn pop<H: Headers + ?Sized>(&self, table: &H, tag: u32) -> Option<u32> {
        let mut head = self.head.load(Acquire);
        // Bounded: each failed exchange means that somebody else succeeded.
        for _ in 0..1024 {
            let Some(first) = (head as u32).checked_sub(1) else {
                return self.take_fresh(table, tag);
            };
            if first >= table.count() {
                let _: u32 = self.faults.fetch_add(1, Relaxed);
                return None;
            }
            let h = table.header(first);
            let next = h.next.load(Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            match self.head.compare_exchange(head, new, AcqRel, Acquire) {
                Ok(_) => {
                    if h.tag.compare_exchange(0, tag, AcqRel, Relaxed).is_err() {
                        // On the list and in use at once: leave the slot to its user, and try the next one.
                        let _: u32 = self.faults.fetch_add(1, Relaxed);
                        head = self.head.load(Acquire);
                        continue;
                    }
                    let _: u32 = self.used.fetch_add(1, Relaxed);
                    return Some(first);
                }
                Err(now) => head = now,
            }
        }
        None
    }

    fn pop_many<H: Headers + ?Sized>(
        &self,
        table: &H,
        tag: u32,
        most: usize,
        mut give: impl FnMut(u32),
    ) {
        let mut head = self.head.load(Acquire);
        for _ in 0..1024 {
            let first = head as u32;
            // Others may change the list under this walk: then the exchange fails, and nothing of it counts.
            let (mut next, mut found) = (first, 0);
            while found < most && next != 0 && next <= table.count() {
                next = table.header(next - 1).next.load(Relaxed);
                found += 1;
            }
            if found == 0 {
                return;
            }
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            let Err(now) = self.head.compare_exchange(head, new, AcqRel, Acquire) else {
                return self.take_run(table, tag, first, found, &mut give);
            };
            head = now;
        }
    }

    /// `found` slots from `first` on have left the list.
    fn take_run<H: Headers + ?Sized>(
        &self,
        table: &H,
        tag: u32,
        first: u32,
        found: usize,
        mut give: impl FnMut(u32),
    ) {
        let (mut at, mut taken) = (first, 0);
        for _ in 0..found {
            let Some(i) = at.checked_sub(1) else { break };
            let h = table.header(i);
            at = h.next.load(Relaxed);
            if h.tag.compare_exchange(0, tag, AcqRel, Relaxed).is_err() {
                // On the list and in use at once: leave the slot to its user.
                let _: u32 = self.faults.fetch_add(1, Relaxed);
                continue;
            }
            taken += 1;
            give(i & (table.count() - 1));
        }
        let _: u32 = self.used.fetch_add(taken, Relaxed);
    }

    /// The list is empty: a slot that was never used.
    fn take_fresh<H: Headers + ?Sized>(&self, table: &H, tag: u32) -> Option<u32> {
        // Bounded by the size of the table: the watermark only rises.
        loop {
            let i = self.fresh.load(Acquire);
            if i >= table.count() {
                return None;
            }
            let risen = self
                .fresh
                .compare_exchange(i, i + 1, AcqRel, Acquire)
                .is_ok();
            if !risen {
                continue;
            }
            let h = table.header(i);
            if h.tag.compare_exchange(0, tag, AcqRel, Relaxed).is_err() {
                // In use although never taken: leave the slot to its user.
                let _: u32 = self.faults.fetch_add(1, Relaxed);
                continue;
            }
            let _: u32 = self.used.fetch_add(1, Relaxed);
            return Some(i);
        }
    }

    fn push<H: Headers + ?Sized>(&self, table: &H, i: u32) -> bool {
        let i = i & (table.count() - 1);
        let h = table.header(i);
        if h.tag.swap(0, AcqRel) == 0 {
            let _: u32 = self.faults.fetch_add(1, Relaxed);
            return false;
        }
        let _: u32 = self.used.fetch_sub(1, Relaxed);
        let mut head = self.head.load(Acquire);
        loop {
            h.next.store(head as u32, Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(i + 1);
            match self.head.compare_exchange(head, new, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    fn push_many<H: Headers + ?Sized>(&self, table: &H, ids: impl Iterator<Item = u32>) -> usize {
        // The run is linked from its end to its beginning; only the end depends on the list.
        let (mut run, mut end, mut n) = (0u32, None, 0);
        for i in ids {
            let i = i & (table.count() - 1);
            let h = table.header(i);
            if h.tag.swap(0, AcqRel) == 0 {
                let _: u32 = self.faults.fetch_add(1, Relaxed);
                continue;
            }
            h.next.store(run, Relaxed);
            run = i + 1;
            end = end.or(Some(i));
            n += 1;
        }
        let Some(end) = end else { return 0 };
        let _: u32 = self.used.fetch_sub(n, Relaxed);
        let mut head = self.head.load(Acquire);
        loop {
            table.header(end).next.store(head as u32, Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(run);
            match self.head.compare_exchange(head, new, AcqRel, Acquire) {
                Ok(_) => return n as usize,
                Err(now) => head = now,
            }
        }
    }

    fn relink<H: Headers + ?Sized>(&self, table: &H) {
        let mut first = 0u32;
        let mut used = 0u32;
        for i in (0..self.fresh.load(Acquire).min(table.count())).rev() {
            let h = table.header(i);
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

/// The algorithms over a slice of headers, for the model checker.
#[cfg(loom)]
pub mod model {
    use super::{Headers, SlotHdr, Slots};
    use crate::atomic::{Shared32, Shared64};

    impl Headers for [SlotHdr] {
        fn count(&self) -> u32 {
            self.len() as u32
        }
        fn header(&self, i: u32) -> &SlotHdr {
            &self[i as usize % self.len()]
        }
    }

    /// A table of slots outside any mapping.
    #[derive(Debug)]
    pub struct Table {
        /// The free list.
        pub slots: Slots,
        headers: Vec<SlotHdr>,
    }

    impl Table {
        /// `n` free slots, a power of two.
        pub fn new(n: usize) -> Self {
            let headers = (0..n).map(|_| SlotHdr {
                next: Shared32::new(0),
                tag: Shared32::new(0),
            });
            let slots = Slots {
                head: Shared64::new(0),
                used: Shared32::new(0),
                faults: Shared32::new(0),
                fresh: Shared32::new(0),
                pad: Shared32::new(0),
            };
            let table = Self {
                slots,
                headers: headers.collect(),
            };
            table.slots.fill(table.headers.as_slice());
            table
        }

        /// As [`Slots::alloc`].
        pub fn alloc(&self, tag: u32) -> Option<u32> {
            self.slots.pop(self.headers.as_slice(), tag)
        }

        /// As [`Slots::free`].
        pub fn free(&self, i: u32) -> bool {
            self.slots.push(self.headers.as_slice(), i)
        }

        /// As [`Slots::alloc_many`].
        pub fn alloc_many(&self, tag: u32, most: usize) -> Vec<u32> {
            let mut ids = Vec::new();
            let table = self.headers.as_slice();
            self.slots.pop_many(table, tag, most, |i| ids.push(i));
            ids
        }

        /// As [`Slots::free_many`].
        pub fn free_many(&self, ids: &[u32]) -> usize {
            let table = self.headers.as_slice();
            self.slots.push_many(table, ids.iter().copied())
        }
    }
}
