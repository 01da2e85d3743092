//! Buffers of large writes between two uses. The free list gives back the last freed first, from queues of all kinds, so that
//! neighbours in memory soon lie apart. What a large write has used is kept beside it instead and taken in the order in which it
//! came: neighbours stay neighbours, a write of 64 KiB is one copy, and the kernel gets one or two long parts.
//!
//! Everything here needs the stack lock. A kept buffer is tagged as free; after a death the free list is made anew from the
//! tags, and nothing is kept (`recover/buffers.rs`).

use super::Stack;
use super::buf::{BUF_SIZE, BufId};
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::{Idx, SharedCell, shm_struct};

/// Most that are kept: what a connection to a near peer has in flight.
const KEPT: usize = 256;
/// Of all buffers at most one in so many.
const SHARE: u32 = 16;
/// Fewer, given back at once, were of no large write.
pub(super) const LEAST: usize = 8;

shm_struct! {
    /// What is kept, as a ring.
    pub struct Bulk {
        /// The buffers.
        pub ids: [SharedCell<u32>; KEPT],
        /// The one that is taken next.
        pub at: SharedCell<u32>,
        /// How many there are.
        pub n: SharedCell<u32>,
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
        taken
    }

    /// Nothing is kept: the free list has what was.
    pub(super) fn forget_kept(self) {
        self.state.bulk.n.set(0);
    }

    /// Where a buffer lies among the bytes of all.
    #[inline]
    pub(crate) fn buf_at(self, id: BufId) -> usize {
        (id.raw() & (self.limits().bufs - 1)) as usize * BUF_SIZE
    }
}
