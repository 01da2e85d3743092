//! Data buffers: 4 KiB each, chained by index. They hold what sockets queue; V-NIC frames are separate, so a socket
//! that is slow to read never starves a V-NIC.

use super::{Stack, bulk};
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::{Idx, OptIdx, SharedCell, ShmBytes, SlotHdr, SlotObject, shm_struct};

/// Bytes in a buffer.
pub const BUF_SIZE: usize = 4096;

shm_struct! {
    /// What is known of one data buffer.
    pub struct Buf {
        /// Free-list link and owner tag.
        pub hdr: SlotHdr,
        /// Next buffer of the queue.
        pub next: SharedCell<OptIdx<Buf>>,
        /// Next buffer of the same datagram.
        pub more: SharedCell<OptIdx<Buf>>,
        /// First byte in use.
        pub off: SharedCell<u32>,
        /// Bytes in use.
        pub len: SharedCell<u32>,
        /// Sequence number of the first byte (out-of-order TCP data).
        pub seq: SharedCell<u32>,
        /// Bytes of the whole datagram.
        pub total: SharedCell<u32>,
        /// Source address of a datagram, high half.
        pub from_hi: SharedCell<u64>,
        /// Source address, low half.
        pub from_lo: SharedCell<u64>,
        /// Destination address, high half.
        pub to_hi: SharedCell<u64>,
        /// Destination address, low half.
        pub to_lo: SharedCell<u64>,
        /// Arrival time of a datagram, ns.
        pub at: SharedCell<u64>,
        /// Source port.
        pub port: SharedCell<u32>,
        /// Arrival interface.
        pub ifindex: SharedCell<u32>,
        /// TTL in the low byte, TOS in the next.
        pub ttl_tos: SharedCell<u32>,
        /// GSO size of merged datagrams; 0 is a single one.
        pub gso: SharedCell<u32>,
    }
}

impl Buf {
    pub(super) fn begin(&self) {
        self.next.set(OptIdx::NONE);
        self.more.set(OptIdx::NONE);
        self.off.set(0);
        self.len.set(0);
    }
}

impl SlotObject for Buf {
    fn slot(&self) -> &SlotHdr {
        &self.hdr
    }
}

/// Index of a buffer.
pub type BufId = Idx<Buf>;

/// Buffers for one large copy, taken several at a time and used in the order of their memory: the free list gives the last
/// freed first, so that neighbours come in reverse, and the kernel copies one long part faster than many short ones.
#[derive(Debug)]
pub(crate) struct Batch {
    ids: [BufId; BATCH],
    at: usize,
    n: usize,
}

/// 64 KiB.
const BATCH: usize = 16;

impl Batch {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self {
            ids: [Idx::new(0); BATCH],
            at: 0,
            n: 0,
        }
    }

    /// A buffer for the next of `left` bytes, or None when all are in use. The caller holds the stack lock and goes on
    /// until no bytes are left, or gives back the rest with [`Batch::free`].
    pub(crate) fn next(&mut self, st: Stack<'_>, left: usize) -> Option<BufId> {
        if self.at >= self.n {
            if left <= BUF_SIZE {
                return st.alloc_buf();
            }
            let want = left.div_ceil(BUF_SIZE).clamp(1, BATCH);
            self.at = 0;
            self.n = 0;
            self.n = st.alloc_bufs(self.ids.get_mut(..want).unwrap_or_default());
            if let Some(taken) = self.ids.get_mut(..self.n) {
                taken.sort_unstable_by_key(|id| id.raw());
            }
        }
        let id = self.ids.get(self.at).filter(|_| self.at < self.n)?;
        self.at += 1;
        Some(*id)
    }

    /// As [`next`](Self::next), with up to `most` buffers that follow one another in memory: the first and how many. For large
    /// writes; see `bulk.rs`.
    pub(crate) fn run(
        &mut self,
        st: Stack<'_>,
        left: usize,
        most: usize,
    ) -> Option<(BufId, usize)> {
        if self.at >= self.n && left > (BATCH / 2) * BUF_SIZE {
            let want = left.div_ceil(BUF_SIZE).min(BATCH);
            self.at = 0;
            self.n = st.take_kept(self.ids.get_mut(..want).unwrap_or_default());
        }
        let first = self.next(st, left)?;
        let mut n = 1;
        while n < most
            && let Some(id) = self.ids.get(self.at).filter(|_| self.at < self.n)
            && st.buf_at(*id) == st.buf_at(first) + n * BUF_SIZE
        {
            self.at += 1;
            n += 1;
        }
        Some((first, n))
    }

    /// Gives back what was not used.
    pub(crate) fn free(&mut self, st: Stack<'_>) {
        st.free_bufs(self.ids.get(self.at..self.n).unwrap_or_default());
        self.at = self.n;
    }
}

/// Buffers to be given back together.
#[derive(Debug)]
pub(crate) struct Freed<'m> {
    st: Stack<'m>,
    ids: [BufId; BATCH],
    n: usize,
    /// They are kept for the next large write.
    keeps: bool,
}

impl<'m> Freed<'m> {
    /// None yet.
    pub(crate) const fn new(st: Stack<'m>) -> Self {
        Self {
            st,
            ids: [Idx::new(0); BATCH],
            n: 0,
            keeps: false,
        }
    }

    /// The same, of a send queue of `len` bytes: the caller holds the stack lock.
    pub(crate) fn sent(st: Stack<'m>, len: u32) -> Self {
        Self {
            keeps: len >= bulk::LARGE,
            ..Self::new(st)
        }
    }

    /// One more, which nothing refers to.
    pub(crate) fn add(&mut self, id: BufId) {
        if self.n == BATCH {
            self.flush();
        }
        if let Some(slot) = self.ids.get_mut(self.n) {
            *slot = id;
            self.n += 1;
        }
    }

    fn flush(&mut self) {
        let ids = self.ids.get(..self.n).unwrap_or_default();
        self.n = 0;
        let kept = match self.keeps {
            true => self.st.keep_bufs(ids),
            false => 0,
        };
        self.st.free_bufs(ids.get(kept..).unwrap_or_default());
    }
}

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<'m> Stack<'m> {
    /// What is known of a buffer.
    #[inline]
    pub(crate) fn buf(self, id: BufId) -> &'m Buf {
        self.bufs.at(id)
    }

    /// The bytes of a buffer.
    #[inline]
    pub(crate) fn buf_bytes(self, id: BufId) -> ShmBytes<'m> {
        let i = (id.raw() & (self.limits().bufs - 1)) as usize;
        self.data.sub(i * BUF_SIZE, BUF_SIZE)
    }

    /// A fresh buffer, or None when all are in use. The caller holds the stack lock.
    pub(crate) fn alloc_buf(self) -> Option<BufId> {
        let id = self.state.buf_slots.alloc(self.bufs, 1)?;
        self.buf(id).begin();
        let _: u32 = self.state.bufs_used.fetch_add(1, Relaxed);
        Some(id)
    }

    /// Fills `ids` with fresh buffers and returns how many there were. The caller holds the stack lock.
    pub(crate) fn alloc_bufs(self, ids: &mut [BufId]) -> usize {
        let mut n = match ids.len() {
            // Not worth the walk.
            0 | 1 => 0,
            _ => self.state.buf_slots.alloc_many(self.bufs, 1, ids),
        };
        ids.iter().take(n).for_each(|id| self.buf(*id).begin());
        let _: u32 = self.state.bufs_used.fetch_add(n as u32, Relaxed);
        for slot in ids.iter_mut().skip(n) {
            let Some(id) = self.alloc_buf() else { break };
            *slot = id;
            n += 1;
        }
        n
    }

    /// Gives buffers back together. Needs no lock.
    pub(crate) fn free_bufs(self, ids: &[BufId]) {
        match ids {
            [] => {}
            [one] => self.free_buf(*one),
            many => {
                let n = self.state.buf_slots.free_many(self.bufs, many);
                let _: u32 = self.state.bufs_used.fetch_sub(n as u32, Relaxed);
            }
        }
    }

    /// Gives a buffer back. Needs no lock.
    pub(crate) fn free_buf(self, id: BufId) {
        if self.state.buf_slots.free(self.bufs, id) {
            let _: u32 = self.state.bufs_used.fetch_sub(1, Relaxed);
        }
    }

    /// Gives back a whole queue of buffers, datagram chains included.
    pub(crate) fn free_chain(self, head: OptIdx<Buf>) {
        let mut cur = head;
        let mut guard = self.limits().bufs;
        let mut freed = Freed::new(self);
        while let Some(id) = cur.opt() {
            guard = guard.saturating_sub(1);
            if guard == 0 {
                return;
            }
            let b = self.buf(id);
            cur = b.next.get();
            let mut part = b.more.get();
            freed.add(id);
            while let Some(p) = part.opt() {
                guard = guard.saturating_sub(1);
                if guard == 0 {
                    return;
                }
                part = self.buf(p).more.get();
                freed.add(p);
            }
        }
    }

    /// Buffers in use, and in all.
    pub fn buf_usage(self) -> (u32, u32) {
        (self.state.bufs_used.load(Relaxed), self.limits().bufs)
    }

    /// True when three quarters of the buffers are free: those that hold no data may rest where they are.
    pub fn buf_plenty(self) -> bool {
        let (used, all) = self.buf_usage();
        used < all / 4
    }

    /// True when fewer than an eighth of the buffers are free: queues stop growing.
    pub(crate) fn buf_pressure(self) -> bool {
        let (used, all) = self.buf_usage();
        used + self.kept_bufs() > all - all / 8
    }
}
