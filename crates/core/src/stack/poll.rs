//! `stack_poll()`: take what the V-NICs received, in bounded batches; fire timers; send what that released.

use super::locked::Locked;
use crate::ip;
use crate::sock::{Kind, SockId};
use core::cell::Cell;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::{OptIdx, ShmBytes};
use flyover_vnic::{HEAD_LEN, RxMeta};
use flyover_wire::frame::Headers;

/// A received frame on its way through the stack. Headers were parsed from a private copy.
#[derive(Debug)]
pub(crate) struct RxPkt<'p> {
    /// Index of the V-NIC that has it.
    pub nic: usize,
    /// What the V-NIC says of it.
    pub meta: RxMeta,
    /// Parsed headers.
    pub hdr: &'p Headers,
    /// The copy.
    pub head: &'p [u8; HEAD_LEN],
    /// A reader who waits for data of his connection.
    pub direct: Option<&'p Direct<'p>>,
}

/// The memory of a program that reads from an empty receive queue: what a V-NIC delivers by system call goes there
/// without a stay in the stack's buffers; and what it has at hand goes to the caller's own memory, if it is little
/// ([`SPARE`]). Whoever makes one holds the socket's receive lock.
#[derive(Debug)]
pub(crate) struct Direct<'p> {
    id: SockId,
    windows: &'p [ShmBytes<'p>],
    size: u32,
    done: Cell<u32>,
    spare: ShmBytes<'p>,
    spared: Cell<u32>,
}

/// Bytes of a payload that all lie in the copy of a frame's head.
pub const SPARE: usize = 192;

/// From this size of a read on, what comes by system call is placed in the program's memory: for a smaller one the pieces cost
/// more than they save. Bytes.
const BULK: u32 = 16 << 10;
/// Windows of a [`Direct`], at most.
pub(crate) const DIRECT_WINDOWS: usize = 4;

impl<'p> Direct<'p> {
    /// Over `windows`, at most [`DIRECT_WINDOWS`], for the reader of `id`.
    pub(crate) fn new(id: SockId, windows: &'p [ShmBytes<'p>], spare: ShmBytes<'p>) -> Self {
        let size = windows.iter().map(ShmBytes::len).sum::<usize>();
        Self {
            id,
            windows,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            done: Cell::new(0),
            spare,
            spared: Cell::new(0),
        }
    }

    /// True when what comes by system call goes to the reader's memory.
    pub(crate) fn is_bulk(&self) -> bool {
        self.size >= BULK
    }

    /// The socket that is read.
    pub(crate) fn id(&self) -> SockId {
        self.id
    }

    /// True when it is for this socket.
    pub(crate) fn is_for(&self, id: SockId) -> bool {
        self.id == id
    }

    /// Bytes placed in the caller's own memory.
    pub(crate) fn spared(&self) -> u32 {
        self.spared.get()
    }

    /// The caller's own memory for a payload of `n` bytes that is at hand, when it is the first and is wanted whole.
    pub(crate) fn spare(&self, n: u32) -> Option<ShmBytes<'p>> {
        let fits = n as usize <= self.spare.len() && n <= self.size;
        (fits && self.done.get() == 0 && self.spared.get() == 0)
            .then(|| self.spare.sub(0, n as usize))
    }

    /// It was filled.
    pub(crate) fn set_spared(&self, n: u32) {
        self.spared.set(n);
    }

    /// Bytes placed.
    pub(crate) fn done(&self) -> u32 {
        self.done.get()
    }

    /// The windows of the next `n` bytes, as far as there is room; returns how many windows and bytes.
    pub(crate) fn next(&self, n: u32, out: &mut [ShmBytes<'p>]) -> (usize, u32) {
        let mut skip = self.done.get() as usize;
        let mut left = n as usize;
        let mut used = 0;
        for w in self.windows {
            if skip >= w.len() {
                skip -= w.len();
                continue;
            }
            let Some(slot) = out.get_mut(used).filter(|_| left > 0) else {
                break;
            };
            *slot = w.sub(skip, left);
            left -= slot.len();
            skip = 0;
            used += 1;
        }
        (used, n - left as u32)
    }

    /// So many more are filled.
    pub(crate) fn add(&self, n: u32) {
        self.done.set(self.done.get().saturating_add(n));
    }

    /// True when the reader has something and a frame would have to go to the queue: it stays with the V-NIC until he comes
    /// again. `queued`: bytes in his receive queue.
    fn leaves(&self, meta: &RxMeta, queued: u32) -> bool {
        let done = self.done.get();
        let room = self.size.saturating_sub(done);
        meta.by_call && (queued > 0 || self.spared.get() > 0 || (done > 0 && room < meta.frame_len))
    }
}

/// Timers fired in one poll, at most.
const TIMER_BUDGET: u32 = 256;

impl Locked<'_, '_, '_> {
    /// Handles up to `budget` frames of each V-NIC, then timers, then transmission. Returns the frames handled.
    ///
    /// A large super-frame ends the batch: its reader will be here soon, and what follows then goes straight into his
    /// memory ([`Direct`]). Taken now, it would be copied once more, and out of every cache by the time it is read.
    pub fn poll(&mut self, budget: u32) -> u32 {
        self.poll_for(budget, None)
    }

    /// The same for a reader who waits: it ends when he is served.
    pub(crate) fn poll_for(&mut self, budget: u32, direct: Option<&Direct<'_>>) -> u32 {
        let st = self.st;
        st.state.attended.store(self.env.now.0, Release);
        st.state
            .poll_seq
            .store(st.state.poll_seq.load(Relaxed).wrapping_add(1), Release);
        let count = self.env.nics.count();
        let first = st.state.rotor.get() as usize;
        let mut total = 0;
        for k in 0..count {
            // Another V-NIC comes first each time, so that none starves.
            total += self.poll_nic((first + k) % count, budget, direct);
        }
        if count > 1 {
            st.state.rotor.set(((first + 1) % count) as u32);
        }
        self.run_timers(TIMER_BUDGET);
        st.share_kept();
        if total > 0 {
            st.state.stats.polls.fetch_add(1, Relaxed);
            self.run_post();
        }
        total
    }

    /// True when a V-NIC has a frame for this stack.
    pub(crate) fn has_frames(&mut self) -> bool {
        (0..self.env.nics.count()).any(|i| self.env.nics.nic(i).is_some_and(|nic| nic.rx_pending()))
    }

    fn poll_nic(&mut self, i: usize, budget: u32, direct: Option<&Direct<'_>>) -> u32 {
        let mut n = 0;
        let mut head = [0u8; HEAD_LEN];
        let mut by_call = false;
        loop {
            let full = n >= budget || self.env.fx.nearly_full();
            let Some(nic) = self.env.nics.nic(i) else {
                break;
            };
            if n > 0 {
                nic.rx_done();
                if by_call && direct.is_none() && !nic.rx_deep() {
                    break;
                }
            }
            if full {
                break;
            }
            let Some(meta) = nic.rx_next(&mut head) else {
                break;
            };
            let queued = |d: &Direct<'_>| self.st.sock(d.id).rq_available();
            if direct.is_some_and(|d| d.leaves(&meta, queued(d))) {
                break;
            }
            n += 1;
            by_call = meta.by_call;
            self.rx_frame(i, meta, &head, direct);
            crate::stretch::place();
        }
        n
    }

    fn rx_frame(
        &mut self,
        nic: usize,
        meta: RxMeta,
        head: &[u8; HEAD_LEN],
        direct: Option<&Direct<'_>>,
    ) {
        let stats = &self.st.state.stats;
        stats
            .rx_frames
            .store(stats.rx_frames.load(Relaxed).wrapping_add(1), Relaxed);
        let bytes = stats
            .rx_bytes
            .load(Relaxed)
            .wrapping_add(u64::from(meta.frame_len));
        stats.rx_bytes.store(bytes, Relaxed);
        let seen = head.get(..meta.head_len as usize).unwrap_or(head);
        match &flyover_wire::frame::parse(seen, meta.frame_len as usize) {
            Ok(hdr) => ip::rx::handle(
                self,
                &RxPkt {
                    nic,
                    meta,
                    hdr,
                    head,
                    direct,
                },
            ),
            Err(_) => {
                let _: u64 = stats.rx_drop_parse.fetch_add(1, Relaxed);
            }
        }
    }

    /// Puts the socket on the list that is worked through at the end of the batch: many segments, one transmission.
    pub(crate) fn post(&mut self, id: SockId) {
        let st = self.st;
        let s = st.sock(id);
        if s.pqueued.get() != 0 {
            return;
        }
        s.pqueued.set(1);
        s.pnext.set(OptIdx::NONE);
        match st.state.post_tail.get().opt() {
            Some(t) => st.sock(t).pnext.set(id.into()),
            None => st.state.post_head.set(id.into()),
        }
        st.state.post_tail.set(id.into());
    }

    /// Works through that list.
    pub(crate) fn run_post(&mut self) {
        let st = self.st;
        let mut guard = st.limits().socks;
        while let Some(id) = st.state.post_head.get().opt() {
            if guard == 0 {
                break;
            }
            guard -= 1;
            let s = st.sock(id);
            st.state.post_head.set(s.pnext.get());
            if s.pnext.get().opt().is_none() {
                st.state.post_tail.set(OptIdx::NONE);
            }
            s.pqueued.set(0);
            crate::stretch::place();
            if s.kind() == Kind::Tcp {
                crate::tcp::tx::output(self, id);
            }
        }
    }
}
