//! The short way through a pair: no stack lock, no clock, no system call while both ends are awake.

use core::sync::atomic::{AtomicU32, Ordering};

use flyover_core::SockId;
use flyover_core::stack::deferred::work;

use crate::attach::Attachment;
use crate::process::Ep;

/// Queues that were read empty lately and kept their last buffer. A process with many idle pairs so holds no more than
/// a megabyte of them.
#[derive(Debug)]
pub struct Drained([AtomicU32; PLACES]);

const PLACES: usize = 256;

impl Default for Drained {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; PLACES])
    }
}

impl Attachment {
    /// Sends through the pair that `ep` is an end of; `None`: the ordinary way is to be taken.
    #[inline]
    pub(crate) fn send_paired(&self, ep: &Ep, from: &[&[u8]]) -> Option<usize> {
        let sent = self.stack.local_send_fast(ep.sock, from, self.me)?;
        if let Some(to) = sent.watched {
            self.work(to, work::DATA);
        }
        Some(sent.n)
    }

    /// Reads what is queued at this end of a pair; `None`: the ordinary way is to be taken.
    #[inline]
    pub(crate) fn recv_paired(&self, ep: &Ep, into: &mut [&mut [u8]]) -> Option<usize> {
        let got = self.stack.local_recv_fast(ep.sock, into, self.me)?;
        if got.want_update {
            self.work(ep.sock.id, work::WINDOW);
        } else if ep.shared().rq_available() == 0 {
            self.note_drained(ep.sock.id);
        }
        Some(got.n)
    }

    /// The queue of `id` was read empty: it keeps its last buffer, and another one loses it.
    #[inline]
    pub(crate) fn note_drained(&self, id: SockId) {
        let mark = id.raw() + 1;
        let Some(place) = self.drained.0.get(id.raw() as usize % PLACES) else {
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
