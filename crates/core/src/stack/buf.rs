//! Data buffers: 4 KiB each, chained by index. They hold what sockets queue; V-NIC frames are separate, so a socket
//! that is slow to read never starves a V-NIC.

use super::Stack;
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
            let want = left.div_ceil(BUF_SIZE).clamp(1, BATCH);
            self.at = 0;
            self.n = 0;
            for slot in self.ids.iter_mut().take(want) {
                let Some(id) = st.alloc_buf() else { break };
                *slot = id;
                self.n += 1;
            }
            if let Some(taken) = self.ids.get_mut(..self.n) {
                taken.sort_unstable_by_key(|id| id.raw());
            }
        }
        let id = self.ids.get(self.at).filter(|_| self.at < self.n)?;
        self.at += 1;
        Some(*id)
    }

    /// Gives back what was not used.
    pub(crate) fn free(&mut self, st: Stack<'_>) {
        for id in self.ids.iter().take(self.n).skip(self.at) {
            st.free_buf(*id);
        }
        self.at = self.n;
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
        let b = self.buf(id);
        b.next.set(OptIdx::NONE);
        b.more.set(OptIdx::NONE);
        b.off.set(0);
        b.len.set(0);
        let _: u32 = self.state.bufs_used.fetch_add(1, Relaxed);
        Some(id)
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
        while let Some(id) = cur.opt() {
            guard = guard.saturating_sub(1);
            if guard == 0 {
                return;
            }
            let b = self.buf(id);
            cur = b.next.get();
            let mut part = b.more.get();
            self.free_buf(id);
            while let Some(p) = part.opt() {
                guard = guard.saturating_sub(1);
                if guard == 0 {
                    return;
                }
                part = self.buf(p).more.get();
                self.free_buf(p);
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
        used > all - all / 8
    }
}
