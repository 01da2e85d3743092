//! Buffers of large writes between two uses. The free list gives back the last freed first, from queues of all kinds, so that
//! neighbours in memory soon lie apart. What a large write has used is kept beside it instead and taken in the order in which it
//! came: neighbours stay neighbours, a write of 64 KiB is one copy, and the kernel gets one or two long parts.
//!
//! Everything here needs the stack lock. A kept buffer is tagged as free. After a death nothing is kept, and the free list is made
//! anew from the tags (`recover/buffers.rs`). When buffers become scarce everybody gets them.

use super::Stack;
use super::buf::{BUF_SIZE, BufId};
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::{Idx, SharedCell, shm_struct};

/// Most that are kept: twice what a connection to a near peer has in flight.
const KEPT: usize = 512;
/// So many takes at least lie between two sorts. A prime: with a number that the ring goes round
/// in, the same half of the buffers would be in flight each time.
const TAKES: u32 = 37;
/// More gaps than these within a take are too many.
const SCATTERED: usize = 2;
/// Of all buffers at most one in so many.
const SHARE: u32 = 16;
/// A send queue of so many bytes is one of large writes.
pub(crate) const LARGE: u32 = 16 << 10;

shm_struct! {
    /// What is kept, as a ring.
    pub struct Bulk {
        /// The buffers.
        pub ids: [SharedCell<u32>; KEPT],
        /// The one that is taken next.
        pub at: SharedCell<u32>,
        /// How many there are.
        pub n: SharedCell<u32>,
        /// Takes since the ring was sorted.
        pub takes: SharedCell<u32>,
        /// Padding, always 0.
        pub pad: SharedCell<u32>,
    }
}

impl<'m> Stack<'m> {
    /// Keeps what a large write has used, as far as there is room. Returns how many, from the first on.
    pub(super) fn keep_bufs(self, ids: &[BufId]) -> usize {
        let bulk = &self.state.bulk;
        let most = KEPT.min((self.limits().bufs / SHARE) as usize);
        let n = bulk.n.get() as usize;
        if self.buf_pressure() || n + ids.len() > most {
            return 0;
        }
        let (mut at, mut kept) = (bulk.at.get() as usize + n, 0);
        for id in ids {
            // One that is free already is in the list.
            crate::stretch::place();
            if self.state.buf_slots.set_aside(self.bufs, *id)
                && let Some(cell) = bulk.ids.get(at % KEPT)
            {
                cell.set(id.raw());
                at += 1;
                kept += 1;
            }
        }
        bulk.n.set((n + kept) as u32);
        let _: u32 = self.state.bufs_used.fetch_sub(kept as u32, Relaxed);
        ids.len()
    }

    /// Fills `ids` with kept buffers, those kept longest first; returns how many.
    pub(super) fn take_kept(self, ids: &mut [BufId]) -> usize {
        let bulk = &self.state.bulk;
        let (at, n) = (bulk.at.get() as usize, (bulk.n.get() as usize).min(KEPT));
        let want = ids.len().min(n);
        if want == 0 {
            return 0;
        }
        // First: who dies here must not have them taken twice.
        bulk.at.set(((at + want) % KEPT) as u32);
        bulk.n.set((n - want) as u32);
        crate::stretch::place();
        let mut taken = 0;
        for i in at..at + want {
            let id = bulk.ids.get(i % KEPT).map_or(0, SharedCell::get);
            let id = Idx::new(id & (self.limits().bufs - 1));
            if self.state.buf_slots.retake(self.bufs, id, 1)
                && let Some(slot) = ids.get_mut(taken)
            {
                self.buf(id).begin();
                *slot = id;
                taken += 1;
            }
        }
        let _: u32 = self.state.bufs_used.fetch_add(taken as u32, Relaxed);
        self.tidy_kept(ids.get(..taken).unwrap_or_default());
        taken
    }

    /// Puts the ring in order now and then, when what was taken from it lies scattered, as it came from the free list at first.
    fn tidy_kept(self, taken: &[BufId]) {
        let bulk = &self.state.bulk;
        let takes = bulk.takes.get().saturating_add(1);
        bulk.takes.set(takes);
        if takes < TAKES {
            return;
        }
        let follows = |(a, b): (&BufId, &BufId)| b.raw() == a.raw().wrapping_add(1);
        let ends = taken.iter().zip(taken.iter().skip(1));
        if ends.filter(|pair| !follows(*pair)).count() <= SCATTERED {
            return;
        }
        bulk.takes.set(0);
        let (at, n) = (bulk.at.get() as usize, (bulk.n.get() as usize).min(KEPT));
        let mut all = [0u32; KEPT];
        let cell = |i: usize| bulk.ids.get((at + i) % KEPT);
        for (i, slot) in all.iter_mut().take(n).enumerate() {
            *slot = cell(i).map_or(0, SharedCell::get);
        }
        let all = all.get_mut(..n).unwrap_or_default();
        in_groups(all);
        for (i, id) in all.iter().enumerate() {
            crate::stretch::place();
            if let Some(cell) = cell(i) {
                cell.set(*id);
            }
        }
    }

    /// How many are kept: free, but not for everybody.
    #[inline]
    pub(super) fn kept_bufs(self) -> u32 {
        self.state.bulk.n.get().min(KEPT as u32)
    }

    /// Gives what is kept to everybody when buffers become scarce.
    #[inline]
    pub(super) fn share_kept(self) {
        if self.kept_bufs() > 0 && self.buf_pressure() {
            self.give_kept_back();
        }
    }

    #[cold]
    fn give_kept_back(self) {
        let mut ids = [Idx::new(0); 16];
        for _ in 0..=KEPT / 16 {
            let n = self.take_kept(&mut ids);
            self.free_bufs(ids.get(..n).unwrap_or_default());
        }
    }

    /// Nothing is kept: the free list, which is made anew, has what was.
    pub(super) fn forget_kept(self) {
        self.state.bulk.n.set(0);
    }

    /// Where a buffer lies among the bytes of all.
    #[inline]
    pub(crate) fn buf_at(self, id: BufId) -> usize {
        (id.raw() & (self.limits().bufs - 1)) as usize * BUF_SIZE
    }
}

/// Puts buffers in the order of their memory: first all groups of sixteen neighbours that are complete, then the others, those
/// first that lack most. What the fullest of them lack is in flight, and has come back when it is their turn.
fn in_groups(ids: &mut [u32]) {
    const GROUP: usize = 16;
    ids.sort_unstable();
    // There are at most 2^20 buffers (`FLYOVER_BUFFERS`).
    let group = |id: &u32| id / GROUP as u32;
    let mut at = 0;
    while let Some(first) = ids.get(at).map(group) {
        let rest = ids.get_mut(at..).unwrap_or_default();
        let n = rest.iter().take_while(|id| group(id) == first).count();
        let rank = if n >= GROUP { 0 } else { n as u32 };
        for id in rest.iter_mut().take(n) {
            *id |= rank << 24;
        }
        at += n;
    }
    ids.sort_unstable();
    for id in ids {
        *id &= (1 << 24) - 1;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::stack::buf::Batch;
    use crate::stack::layout;
    use crate::time::Instant;
    use flyover_config::StackOpts;
    use flyover_shm::HeapMap;
    use std::vec::Vec;

    fn with(f: impl FnOnce(Stack<'_>)) {
        let opts = StackOpts {
            buffers: 4096,
            ..StackOpts::default()
        };
        let map = HeapMap::new(layout::layout_len(&opts) as usize);
        let st = Stack::new(map.region(), &opts).expect("a stack");
        st.init(Instant(1), [1, 2, 3, 4]);
        f(st);
    }

    /// Buffers of a write of 64 KiB, and the parts that they lie in.
    fn write(st: Stack<'_>) -> (Vec<BufId>, usize) {
        let (mut ids, mut parts, mut batch) = (Vec::new(), 0, Batch::new());
        while ids.len() < 16 {
            let left = 16 - ids.len();
            let (first, n) = batch.run(st, left * BUF_SIZE, left).expect("a buffer");
            ids.extend((0..n as u32).map(|i| BufId::new(first.raw() + i)));
            parts += 1;
        }
        (ids, parts)
    }

    fn give_back(st: Stack<'_>, ids: &[BufId]) {
        let mut freed = super::super::buf::Freed::sent(st, LARGE);
        ids.iter().for_each(|id| freed.add(*id));
    }

    #[test]
    fn scattered_buffers_become_neighbours_again_and_none_is_lost() {
        with(|st| {
            let mut all: Vec<BufId> = (0..256).filter_map(|_| st.alloc_buf()).collect();
            assert_eq!(all.len(), 256);
            // As far apart as can be.
            all.sort_by_key(|id| (id.raw() * 7919) % 251);
            give_back(st, &all);
            assert_eq!(st.buf_usage().0, 0);
            let (first, parts) = write(st);
            assert!(parts > 10, "{parts}");
            give_back(st, &first);
            let mut in_flight = Vec::new();
            let mut last = 0;
            for _ in 0..2000 {
                let (ids, parts) = write(st);
                last = parts;
                in_flight.push(ids);
                if in_flight.len() > 8 {
                    give_back(st, &in_flight.remove(0));
                }
            }
            assert!(last <= 2, "{last} parts");
            in_flight.iter().for_each(|ids| give_back(st, ids));
            assert_eq!(st.buf_usage().0, 0);
            assert_eq!(st.audit().bufs_tagged, 0);
        });
    }

    #[test]
    fn what_is_kept_is_for_all_when_buffers_are_scarce() {
        with(|st| {
            let (ids, _) = write(st);
            give_back(st, &ids);
            assert_eq!(st.kept_bufs(), 16);
            let mut all = 0;
            while st.alloc_buf().is_some() {
                all += 1;
            }
            assert_eq!(all, 4096 - 16);
            st.share_kept();
            assert_eq!(st.kept_bufs(), 0);
            assert_eq!((0..20).filter_map(|_| st.alloc_buf()).count(), 16);
        });
    }

    #[test]
    fn what_is_kept_is_free_after_a_death_and_is_not_given_twice() {
        with(|st| {
            let (ids, parts) = write(st);
            assert_eq!(parts, 1, "fresh ones are neighbours");
            give_back(st, &ids);
            give_back(st, &ids);
            assert_eq!(st.buf_usage().0, 0);
            st.forget_kept();
            st.state.buf_slots.rebuild(st.bufs);
            let mut again: Vec<u32> = (0..16)
                .filter_map(|_| st.alloc_buf())
                .map(|id| id.raw())
                .collect();
            again.sort_unstable();
            again.dedup();
            assert_eq!(again.len(), 16);
            assert!(ids.iter().all(|id| again.contains(&id.raw())));
        });
    }
}
