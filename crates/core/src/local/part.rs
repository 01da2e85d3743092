//! The way back: a pair goes apart, and both ends go on in the kernel's connection beside it. Both are frozen, as on a
//! handover; what waits in their queues is sent through the kernel by whoever has the descriptors; then both are marks.

use super::{fast, fresh};
use crate::error::Error;
use crate::sock::{SHUT_RD, SHUT_WR, SockId, SockRef, flag, recvq};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use crate::tcp::user::oob;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::OptIdx;

/// One frozen end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parting {
    /// The end.
    pub sock: SockRef,
    /// `SO_COOKIE` of its kernel socket.
    pub cookie: u64,
    /// Bytes that wait to be read there.
    pub unread: u32,
    /// Its program has closed the sending direction.
    pub fin: bool,
    /// Its program reads no more.
    pub deaf: bool,
}

/// How often a reader that is just copying is waited for.
const READER_SPINS: u32 = 100_000;

impl Stack<'_> {
    /// Copies up to the length of `into` out of a frozen end's queue; the bytes stay. Needs no lock: nobody changes them.
    pub fn local_copy(self, id: SockId, into: &mut [u8]) -> usize {
        let s = self.sock(id);
        if !s.has(flag::HANDING_OVER) {
            return 0;
        }
        recvq::read(self, s, &mut [into], true, 0).unwrap_or(0)
    }
}

impl Stack<'_> {
    /// The next bytes of a frozen end's queue are about to be sent through the kernel; [`Locked::local_moved`] follows. If it
    /// does not, because the process ended, nobody knows where they are.
    pub fn local_moving(self, id: SockId) {
        self.sock(id).k_doubt.store(1, Release);
    }
}

impl Locked<'_, '_, '_> {
    /// Freezes the pair that `id` is an end of: that end, and the other one if it is still there. The caller then moves what
    /// is queued and says [`local_parted`](Self::local_parted), or gives it up
    /// ([`local_rejoin`](Self::local_rejoin)).
    ///
    /// # Errors
    /// [`Error::Moved`]: it is a mark. [`Error::Already`]: somebody else is at it. [`Error::Invalid`]: the connection is
    /// over. [`Error::NotSupported`]: an urgent byte is on its way. [`Error::WouldBlock`]: a reader or a sender does not let go.
    pub fn local_part(&mut self, id: SockId) -> Result<(Parting, Option<Parting>), Error> {
        let st = self.st;
        let s = st.sock(id);
        if s.has(flag::HANDED_OVER) {
            return Err(Error::Moved);
        }
        if s.has(flag::HANDING_OVER) {
            return Err(Error::Already);
        }
        if !s.has(flag::PAIRED) || s.has(flag::ORPHAN) || s.tcp_state() == TcpState::Closed {
            return Err(Error::Invalid);
        }
        let other = st.peer_of(s);
        let ends = [Some(id), other];
        for end in ends.into_iter().flatten() {
            if oob::pending(st.sock(end)) {
                return Err(Error::NotSupported);
            }
        }
        let mut held: [Option<SockId>; 2] = [None; 2];
        for (slot, end) in held.iter_mut().zip(ends) {
            let Some(end) = end else { continue };
            if !self.close_to_readers(end) {
                held.into_iter()
                    .flatten()
                    .for_each(|h| recvq::unlock(st.sock(h)));
                return Err(Error::WouldBlock);
            }
            *slot = Some(end);
        }
        let mut settled = true;
        for end in ends.into_iter().flatten() {
            st.sock(end).set_flag(flag::HANDING_OVER);
            settled &= fast::settle_soon(self, end);
        }
        if !settled {
            // A sender has lost its CPU with half of its bytes in the queue.
            for end in ends.into_iter().flatten() {
                let s = st.sock(end);
                s.clear_flag(flag::HANDING_OVER);
                recvq::unlock(s);
                self.raise(end, st.readiness(end));
            }
            return Err(Error::WouldBlock);
        }
        Ok((self.parting(id), other.map(|o| self.parting(o))))
    }

    fn close_to_readers(&self, id: SockId) -> bool {
        for _ in 0..READER_SPINS {
            if recvq::lock(self.st.sock(id), self.env.me) {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }

    fn parting(&self, id: SockId) -> Parting {
        let s = self.st.sock(id);
        let shut = s.shut.load(Relaxed);
        Parting {
            sock: self.st.sock_ref(id),
            cookie: s.cookie.load(Relaxed),
            unread: s.rq_available(),
            fin: shut & SHUT_WR != 0,
            deaf: shut & SHUT_RD != 0 && !s.has(flag::PEER_FIN),
        }
    }

    /// The first `n` bytes of a frozen end's queue are in the kernel's now, where they are read before what is left.
    pub fn local_moved(&mut self, id: SockId, n: u32) {
        let st = self.st;
        let s = st.sock(id);
        if !s.has(flag::HANDING_OVER) {
            return;
        }
        let n = recvq::discard(st, s, n as usize).unwrap_or(0) as u32;
        if n > 0 {
            s.k_pend
                .store(s.k_pend.load(Relaxed).saturating_add(n), Release);
            s.k_fresh.store(fresh::THERE, Release);
        }
        s.k_doubt.store(0, Release);
    }

    /// Everything is in the kernel: both ends are marks from now on, and are not paired again before somebody
    /// [allows](Self::local_allow) it. `reason` is kept for `id`, `others` for the other end.
    pub fn local_parted(&mut self, id: SockId, reason: u32, others: u32) {
        let other = self.st.peer_of(self.st.sock(id));
        count!(self, local_parted);
        if let Some(o) = other {
            self.becomes_mark(o, others);
        }
        self.becomes_mark(id, reason);
    }

    fn becomes_mark(&mut self, id: SockId, reason: u32) {
        let st = self.st;
        let s = st.sock(id);
        s.reason.set(reason);
        s.peer.set(OptIdx::NONE);
        s.k_pend.store(0, Relaxed);
        s.k_fresh.store(0, Relaxed);
        // The mark first: who finds an empty queue after it looks at the mark again.
        s.set_flag(flag::HANDED_OVER);
        s.clear_flag(flag::HANDING_OVER | flag::PAIRED | flag::NOSPACE | flag::LOCAL);
        recvq::free_all(st, s);
        recvq::unlock(s);
        self.raise(id, ev::STATE);
        if s.has(flag::ORPHAN) {
            self.destroy(id);
        }
    }

    /// It cannot be: the pair goes on. What was moved is read out of the kernel again. Where that is in doubt, the connection
    /// is reset.
    pub fn local_rejoin(&mut self, id: SockId) {
        let st = self.st;
        count!(self, handover_failed);
        let ends = [Some(id), st.peer_of(st.sock(id))];
        let mut doubt = false;
        for end in ends.into_iter().flatten() {
            let s = st.sock(end);
            s.clear_flag(flag::HANDING_OVER);
            recvq::unlock(s);
            doubt |= s.k_doubt.swap(0, Relaxed) != 0;
        }
        if doubt {
            super::reset_peer(self, id);
            self.reset_conn(id, Error::Reset);
            return;
        }
        for end in ends.into_iter().flatten() {
            let s = st.sock(end);
            if s.has(flag::ORPHAN) {
                // Closed meanwhile.
                s.clear_flag(flag::ORPHAN);
                self.close(end);
            } else {
                let mask = st.readiness(end);
                self.raise(end, mask);
            }
        }
    }
}
