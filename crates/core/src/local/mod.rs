//! The local path: both ends of a connection are in this stack.
//!
//! The connection is one of the kernel's, established as ever, and stays so: names, credentials, `ss` and the end of a
//! process are the kernel's business. Each end first has a mark (as a connection that was handed over), entered under its
//! addresses. When both are there they are *paired*: from then on what one end sends is put straight into the receive
//! queue of the other. There are no segments, no sequence numbers and no timers; of TCP's state the two ends keep what a
//! program can see.
//!
//! Exactness. Whoever makes a call of the kernel's that moves bytes on a mark counts itself in and out
//! ([`Stack::kernel_enter`]). Two ends are paired while nobody is inside and those who come wait
//! ([`Locked::local_ends`]), with the kernel's own numbers of bytes sent and read. What the kernel still holds then is read
//! before anything else ([`Locked::local_bring_in`]).
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | marks, pairing |
//! | `part.rs` | the way back to the kernel |
//! | `send.rs` | sending, room |
//! | `fast.rs` | sending without the stack lock |
//! | `end.rs` | FIN, reset, and an end that is gone |

mod end;
mod fast;
mod part;
mod send;

pub(crate) use end::{fin, gone, reset_peer};
pub(crate) use fast::settle;
pub use fast::{Sent, Taken};
pub use part::Parting;
pub(crate) use send::{after_read, has_space, unacked, wants_update};

use crate::error::Error;
use crate::sock::{Kind, Sock, SockId, SockRef, flag, recvq};
use crate::stack::Stack;
use crate::stack::buf::BUF_SIZE;
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use flyover_shm::{OptIdx, gate};
use flyover_wire::Endpoint;

/// A mark, and how many calls of the kernel's had come back when it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The mark.
    pub sock: SockRef,
    /// `SO_COOKIE` of its kernel socket.
    pub cookie: u64,
    /// Calls that moved bytes; 0: none, so the kernel holds nothing.
    pub calls: u32,
}

/// Whether a call of the kernel's may be made on a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enter {
    /// Yes; it is counted.
    Kernel,
    /// Somebody is just about to pair it: ask again in a moment.
    Wait,
    /// It is a mark no longer: make the call here.
    Here,
}

/// What the kernel says of one end, at a moment at which nobody moved bytes on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Bytes that the program ever gave to the kernel.
    pub sent: u64,
    /// Bytes that it ever got from it.
    pub read: u64,
    /// Bytes that wait in the kernel's receive queue.
    pub waiting: u32,
}

/// Values of [`Sock::k_fresh`] of an end that nobody has looked at since it was paired; 0: somebody has.
pub(crate) mod fresh {
    /// All that the kernel holds for it waits to be read there.
    pub(crate) const THERE: u32 = 1;
    /// Some of it was still on its way.
    pub(crate) const COMING: u32 = 2;
}

/// So much may be in the kernel at the pairing, read by nobody, bytes: what a busy stream has in its two buffers. It comes into
/// the queue at the reader's next call.
const MOST_WAITING: u64 = 8 << 20;

impl Stack<'_> {
    /// A call of the kernel's that moves bytes on the mark is about to be made. After [`Enter::Kernel`],
    /// [`kernel_leave`](Self::kernel_leave) has to follow.
    pub fn kernel_enter(self, id: SockId) -> Enter {
        let s = self.sock(id);
        match gate::enter(&s.kbusy, &s.k_hold, || s.has(flag::HANDED_OVER)) {
            gate::Entry::Inside => Enter::Kernel,
            gate::Entry::Shut => Enter::Wait,
            gate::Entry::Over => Enter::Here,
        }
    }

    /// The call came back; returns how many have by now.
    pub fn kernel_leave(self, id: SockId) -> u32 {
        let s = self.sock(id);
        let n = s.kseq.fetch_add(1, AcqRel).wrapping_add(1);
        gate::leave(&s.kbusy);
        n
    }

    /// Takes the receive lock of an end that was just paired. False: somebody reads, or is at this very thing.
    pub fn local_welcome(self, id: SockId, me: u16) -> bool {
        recvq::lock(self.sock(id), me)
    }

    /// Gives it back.
    pub fn local_welcomed(self, id: SockId) {
        recvq::unlock(self.sock(id));
    }

    /// Bytes that the kernel held when the end was paired and that nobody has read.
    pub fn kernel_bytes(self, id: SockId) -> u32 {
        self.kernel_bytes_of(self.sock(id))
    }

    pub(crate) fn kernel_bytes_of(self, s: &Sock) -> u32 {
        if s.has(flag::PAIRED) {
            s.k_pend.load(Acquire)
        } else {
            0
        }
    }

    /// Of a pair: no bytes of either end were on their way in the kernel when it was made, or they are here now. So the
    /// kernel has told, or is about to, of all that it has.
    pub(crate) fn has_all_come(self, id: SockId) -> bool {
        let s = self.sock(id);
        let come = |s: &Sock| s.has(flag::PAIRED) && s.k_fresh.load(Acquire) != fresh::COMING;
        come(s) && self.peer_of(s).is_some_and(|p| come(self.sock(p)))
    }

    /// The other end of a pair, while there is one.
    pub fn local_peer(self, id: SockId) -> Option<SockRef> {
        self.peer_of(self.sock(id)).map(|p| self.sock_ref(p))
    }

    /// True when all that was sent to this end of a pair is what a receiver acknowledges, read or not; or when it takes
    /// nothing any more.
    pub fn local_has_taken(self, id: SockId) -> bool {
        let s = self.sock(id);
        send::beyond_window(s) == 0 || s.tcp_state() == TcpState::Closed
    }

    /// The other end, while there is one.
    pub(crate) fn peer_of(self, s: &Sock) -> Option<SockId> {
        let id = s.peer.get().opt()?;
        let p = self.sock(id);
        let live = p.gen_.load(Relaxed) == s.peer_gen.get() && p.has(flag::PAIRED);
        (live && p.kind() == Kind::Tcp).then_some(id)
    }
}

impl Locked<'_, '_, '_> {
    /// A mark for a connection of the kernel's within this host; `reason` is kept for the socket layer.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] when all slots are in use, [`Error::AddressInUse`] when the stack has such a connection.
    pub fn local_mark(
        &mut self,
        v6: bool,
        cookie: u64,
        local: Endpoint,
        remote: Endpoint,
        reason: u32,
    ) -> Result<SockRef, Error> {
        let st = self.st;
        if let Some(old) = st.find_conn(local, remote) {
            // The kernel has one such connection only: that mark's socket has ended, and nobody heard of it yet.
            let s = st.sock(old);
            if s.k_near.load(Relaxed) == 0 {
                return Err(Error::AddressInUse);
            }
            st.unhash(old);
            s.clear_flag(flag::LOCAL);
        }
        let r = self.mark_alloc(v6, cookie, local, remote, reason)?;
        let s = st.sock(r.id);
        s.k_near.store(1, Relaxed);
        s.set_flag(flag::LOCAL);
        // Whether `connect` has told the program, its caller knows.
        s.clear_flag(flag::CONNECTED_SEEN);
        st.hash_conn(r.id);
        count!(self, local_marks);
        Ok(r)
    }

    /// This mark and that of the other end of its connection, if both may be paired now. Whoever wants to make a call of the
    /// kernel's on one of them waits until [`local_pair`](Self::local_pair) or [`local_release`](Self::local_release).
    pub fn local_ends(&mut self, id: SockId) -> Option<(Seen, Seen)> {
        let st = self.st;
        let s = st.sock(id);
        let other = st.find_conn(s.remote(), s.local()).filter(|o| *o != id)?;
        let ends = (self.seen(id)?, self.seen(other)?);
        let tag = u32::from(self.env.me) + 1;
        let gates = [id, other].map(|end| {
            let s = st.sock(end);
            (&s.kbusy, &s.k_hold)
        });
        if !gate::shut(gates, tag) {
            self.local_release(ends.0.sock);
            self.local_release(ends.1.sock);
            return None;
        }
        // What came out since.
        Some((self.seen_held(id), self.seen_held(other)))
    }

    /// Those who wait for a call on the mark go on.
    pub fn local_release(&mut self, mark: SockRef) {
        let tag = u32::from(self.env.me) + 1;
        if let Some(s) = self.st.get(mark) {
            gate::open(&s.k_hold, tag);
        }
    }

    /// The same, whoever holds it: he was given time enough, or is gone.
    pub fn local_break_hold(&mut self, mark: SockRef) {
        if let Some(s) = self.st.get(mark) {
            s.k_hold.store(0, Release);
        }
    }

    /// The mark stays one for `reason`. False: it is none any more.
    pub fn mark_stays(&mut self, mark: SockRef, reason: u32) -> bool {
        let away = self.st.get(mark).filter(|s| s.has(flag::HANDED_OVER));
        if let Some(s) = away {
            s.clear_flag(flag::LOCAL);
            s.reason.set(reason);
        }
        away.is_some()
    }

    /// The marks of `id`'s connection may be paired again, after an order had sent them to the kernel.
    pub fn local_allow(&mut self, id: SockId) {
        let st = self.st;
        let s = st.sock(id);
        let other = st.find_conn(s.remote(), s.local());
        for end in [Some(id), other].into_iter().flatten() {
            let s = st.sock(end);
            if s.has(flag::HANDED_OVER) && s.k_near.load(Relaxed) != 0 {
                s.set_flag(flag::LOCAL);
            }
        }
    }

    fn seen(&self, id: SockId) -> Option<Seen> {
        let s = self.st.sock(id);
        let no = flag::HANDING_OVER | flag::ORPHAN | flag::RETURNING;
        let may = s.has(flag::LOCAL | flag::HANDED_OVER)
            && s.flags.load(Relaxed) & no == 0
            && s.k_hold.load(Relaxed) == 0;
        may.then(|| self.seen_held(id))
    }

    fn seen_held(&self, id: SockId) -> Seen {
        let s = self.st.sock(id);
        Seen {
            sock: self.st.sock_ref(id),
            cookie: s.cookie.load(Acquire),
            calls: s.kseq.load(Acquire),
        }
    }

    /// Pairs two ends that are [held](Self::local_ends) and of which the kernel has said what it holds, and lets everybody go
    /// on.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]: too much is on its way in the kernel, or one of them is a mark no longer: look again later.
    pub fn local_pair(&mut self, a: (Seen, Facts), b: (Seen, Facts)) -> Result<(), Error> {
        let done = self.pair_held(a, b);
        self.local_release(a.0.sock);
        self.local_release(b.0.sock);
        done
    }

    fn pair_held(&mut self, a: (Seen, Facts), b: (Seen, Facts)) -> Result<(), Error> {
        let st = self.st;
        let tag = u32::from(self.env.me) + 1;
        let pend = |from: &Facts, to: &Facts| {
            let left = from.sent.checked_sub(to.read)?;
            (left >= u64::from(to.waiting) && left <= MOST_WAITING).then_some(left as u32)
        };
        let held = |seen: &Seen| {
            st.get(seen.sock).is_some_and(|s| {
                // Somebody may have opened the gate, and another thread of this process shut it again.
                s.k_hold.load(Acquire) == tag
                    && s.kseq.load(Acquire) == seen.calls
                    && s.has(flag::LOCAL | flag::HANDED_OVER)
                    && s.flags.load(Relaxed) & (flag::HANDING_OVER | flag::ORPHAN) == 0
            })
        };
        let (Some(to_a), Some(to_b)) = (pend(&b.1, &a.1), pend(&a.1, &b.1)) else {
            return Err(Error::WouldBlock);
        };
        if !held(&a.0) || !held(&b.0) {
            return Err(Error::WouldBlock);
        }
        let coming = |pend: u32, waiting: u32| match pend > waiting {
            true => fresh::COMING,
            false => fresh::THERE,
        };
        let ends = [
            (a.0.sock, b.0.sock, to_a, coming(to_a, a.1.waiting)),
            (b.0.sock, a.0.sock, to_b, coming(to_b, b.1.waiting)),
        ];
        for (me, other, pend, fresh) in ends {
            let s = st.sock(me.id);
            s.peer.set(other.id.into());
            s.peer_gen.set(other.generation);
            s.k_pend.store(pend, Relaxed);
            s.k_fresh.store(fresh, Relaxed);
            s.set_flag(flag::PAIRED);
            s.clear_flag(flag::HANDED_OVER);
            // After the flags: a mark without a reason would be one that never comes back.
            s.reason.set(0);
        }
        for (me, ..) in ends {
            self.raise(me.id, ev::BACK);
        }
        count!(self, local_pairs);
        Ok(())
    }

    /// What the kernel held at the pairing comes before all else in the receive queue. The caller has read it, holds the
    /// receive lock, and has brought the rest of the endpoint up to date. False: there is no room, or less came than there
    /// was; bytes are lost, so the connection is reset.
    pub fn local_bring_in(&mut self, id: SockId, bytes: &[u8]) -> bool {
        let st = self.st;
        let s = st.sock(id);
        let mut ok = bytes.len() >= s.k_pend.load(Acquire) as usize;
        if !fast::hold_long(s, self.env.me) {
            count!(self, local_stuck);
        }
        for piece in bytes.rchunks(BUF_SIZE) {
            let Some(b) = st.alloc_buf() else {
                ok = false;
                break;
            };
            let n = st.buf_bytes(b).copy_in(piece) as u32;
            st.buf(b).len.set(n);
            recvq::prepend(st, s, b);
            recvq::publish(s, n);
        }
        fast::let_go(s);
        // The time of what came without one: nobody had said before that it is wanted.
        s.last_rx.set(self.env.now.0);
        s.k_pend.store(0, Release);
        s.k_fresh.store(0, Release);
        if !bytes.is_empty() {
            // What a set has not heard of them from the kernel it will not hear there any more.
            self.note_news(id);
        }
        if !ok {
            count!(self, local_lost);
            reset_peer(self, id);
            self.reset_conn(id, Error::Reset);
        }
        ok
    }
}

impl Locked<'_, '_, '_> {
    /// After a death: an end whose other end does not point back is reset.
    pub(crate) fn mend_pairs(&mut self) {
        let st = self.st;
        for r in st.each_sock() {
            let s = st.sock(r.id);
            if !s.has(flag::PAIRED) || s.peer.get().is_none() || s.tcp_state() == TcpState::Closed {
                continue;
            }
            let back = st
                .peer_of(s)
                .is_some_and(|p| st.sock(p).peer.get().opt() == Some(r.id));
            if !back {
                s.peer.set(OptIdx::NONE);
                self.reset_conn(r.id, Error::Reset);
            }
        }
    }
}
