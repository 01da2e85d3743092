//! The short way through a pair: no stack lock, no clock, no system call while both ends are awake.

use core::sync::atomic::{AtomicU32, Ordering};

use flyover_core::local::Taken;
use flyover_core::sock::flag;
use flyover_core::stack::deferred::work;
use flyover_core::{Kind, SockId};

use crate::attach::Attachment;
use crate::process::{Ep, Sockets};

/// Queues that were read empty lately and kept their last buffer. A process with many idle pairs so holds no more than
/// a megabyte of them.
#[derive(Debug)]
pub struct Drained {
    any: [AtomicU32; PLACES],
    /// Those that kept more than the last one, up to 1.5 MiB.
    fat: [AtomicU32; FAT_PLACES],
}

const PLACES: usize = 256;
const FAT_PLACES: usize = 16;

impl Default for Drained {
    fn default() -> Self {
        Self {
            any: [const { AtomicU32::new(0) }; PLACES],
            fat: [const { AtomicU32::new(0) }; FAT_PLACES],
        }
    }
}

impl Attachment {
    /// Sends through the pair that `ep` is an end of; `None`: the ordinary way is to be taken.
    #[inline]
    pub fn send_paired(&self, ep: &Ep, from: &[&[u8]]) -> Option<usize> {
        let sent = self.stack.local_send_fast(ep.sock, from, self.me)?;
        if let Some(to) = sent.watched {
            self.work(to, work::DATA);
        }
        Some(sent.n)
    }

    /// Reads what is queued at this end of a pair; `None`: the ordinary way is to be taken.
    #[inline]
    pub(crate) fn recv_paired(&self, ep: &Ep, into: &mut [&mut [u8]]) -> Option<usize> {
        let taken = self.stack.local_recv_pieces(ep.sock, into, self.me)?;
        Some(self.has_taken(ep, taken))
    }

    /// The same into one place of at most `most` bytes; `room` gives memory for as many as there are.
    #[inline]
    pub fn recv_plain<'b>(
        &self,
        ep: &Ep,
        most: usize,
        room: impl FnOnce(usize) -> Option<&'b mut [u8]>,
    ) -> Option<usize> {
        if ep.shared().rcvlowat.get() > 1 {
            return None;
        }
        let taken = self.stack.local_recv_plain(ep.sock, most, self.me, room)?;
        Some(self.has_taken(ep, taken))
    }

    #[inline]
    fn has_taken(&self, ep: &Ep, taken: Taken) -> usize {
        if taken.want_update {
            self.work(ep.sock.id, work::WINDOW);
        } else if taken.drained {
            self.note_drained(ep.sock.id, taken.fat);
        }
        taken.n
    }

    /// The queue of `id` was read empty: it keeps its last buffer, and another one loses it. `fat`: it has more than that
    /// one; so many may not rest.
    #[inline]
    pub(crate) fn note_drained(&self, id: SockId, fat: bool) {
        if fat && !self.stack.buf_plenty() {
            self.work(id, work::WINDOW);
        } else if fat {
            self.note_in(&self.drained.fat, id);
        }
        self.note_in(&self.drained.any, id);
    }

    #[inline]
    fn note_in(&self, places: &[AtomicU32], id: SockId) {
        let mark = id.raw() + 1;
        let Some(place) = places.get(id.raw() as usize % places.len()) else {
            return;
        };
        if place.load(Ordering::Relaxed) == mark {
            return;
        }
        if let Some(before) = place.swap(mark, Ordering::Relaxed).checked_sub(1) {
            self.work(flyover_shm::Idx::new(before), work::WINDOW);
        }
    }
}

impl Sockets {
    /// The end of a pair that `fd` is, if nothing stands against the short way.
    #[inline]
    pub fn paired(&self, fd: i32) -> Option<Ep> {
        let h = self.table.tcp(fd)?;
        let att = self.attached()?;
        let sock = att.stack.sock_ref(h.id);
        let ep = Ep {
            att,
            sock,
            v6: h.v6,
        };
        const STATE: u32 = flag::PAIRED | flag::HANDING_OVER | flag::HANDED_OVER;
        let s = ep.shared();
        let stands = h.is_life(sock.generation)
            && s.flags.load(Ordering::Acquire) & STATE == flag::PAIRED
            && s.k_fresh.load(Ordering::Relaxed) == 0
            && s.kind() == Kind::Tcp;
        stands.then_some(ep)
    }
}
