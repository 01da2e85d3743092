//! Receiving. Queued data is read under the socket's own lock; what the peer should learn of it follows under the
//! stack lock, at once or deferred.

use crate::error::Error;
use crate::sock::net::NetSock;
use crate::sock::{SHUT_RD, Sock, SockId, SockRef, flag, recvq};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::stack::poll::{DIRECT_WINDOWS, Direct, SPARE};
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::user::handover::is_frozen;
use crate::tcp::window;
use crate::time::{Instant, US};
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::ShmBytes;

/// What the flags of `recv` ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecvFlags {
    /// `MSG_PEEK`: leave the bytes in the queue.
    pub peek: bool,
    /// With `peek`: skip this many bytes (`SO_PEEK_OFF`).
    pub skip: u32,
    /// `MSG_TRUNC` on a stream: throw so many bytes away; with `peek` only count them.
    pub discard: usize,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recv {
    /// Bytes; 0 is the end of the stream.
    pub n: usize,
    /// Call [`Stack::lock_or_defer`] with [`crate::stack::deferred::work::WINDOW`]: a buffer can be freed, or the
    /// peer is to learn of the wider window.
    pub want_update: bool,
}

/// What [`Locked::tcp_poll_into`] placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Bytes.
    pub bytes: usize,
    /// They are in the memory that the caller gave for small payloads: he copies them to where they are wanted. Under the
    /// lock the stack does not touch the program's memory itself.
    pub in_spare: bool,
}

impl Stack<'_> {
    /// Reads queued data. `me` is the caller's owner slot.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when nothing is queued or another thread reads right now, [`Error::NotConnected`], the
    /// pending error, or [`Error::Stale`].
    pub fn tcp_recv(
        self,
        sock: SockRef,
        bufs: &mut [&mut [u8]],
        flags: RecvFlags,
        me: u16,
    ) -> Result<Recv, Error> {
        let id = sock.id;
        let s = self.get(sock).ok_or(Error::Stale)?;
        if s.rq_available() == 0 {
            return end_of_stream(s);
        }
        if !recvq::lock(s, me) && !self.local_lock_reader(s, me) {
            return Err(Error::WouldBlock);
        }
        if let Some(e) = self.is_another(sock, s) {
            recvq::unlock(s);
            return Err(e);
        }
        let r = match super::oob::stop_at(s) {
            None => self.read_some(s, bufs, flags),
            Some(m) => super::oob::read_to_mark(self, s, bufs, flags, m),
        };
        recvq::unlock(s);
        let n = r?;
        if n == 0 && (flags.discard > 0 || bufs.iter().any(|b| !b.is_empty())) {
            return if super::oob::readable(s) == 0 {
                end_of_stream(s)
            } else {
                Err(Error::WouldBlock)
            };
        }
        Ok(Recv {
            n,
            want_update: !flags.peek && wants_update(self, id),
        })
    }

    /// The receive lock is held, and may have been waited for: what the caller has looked up may be gone since. As long as it
    /// is held, the slot is not freed (`release_queues`).
    pub(crate) fn is_another(self, sock: SockRef, s: &Sock) -> Option<Error> {
        if self.get(sock).is_none() {
            return Some(Error::Stale);
        }
        s.has(flag::HANDED_OVER).then_some(Error::Moved)
    }

    /// True when the segment that came last will be followed by more at once, as far as its sender tells. A hint.
    pub fn more_comes(self, id: SockId) -> bool {
        self.net(id).net.tcb.tflags.get() & tflag::MORE_COMES != 0
    }

    pub(crate) fn read_some(
        self,
        s: &Sock,
        bufs: &mut [&mut [u8]],
        flags: RecvFlags,
    ) -> Result<usize, Error> {
        if flags.discard > 0 && flags.peek {
            let there = s.rq_available().saturating_sub(flags.skip);
            return Ok(flags.discard.min(there as usize));
        }
        if flags.discard > 0 {
            return recvq::discard(self, s, flags.discard);
        }
        recvq::read(self, s, bufs, flags.peek, flags.skip)
    }
}

impl Locked<'_, '_, '_> {
    /// [`Locked::poll`] for a thread that waits for data of a connection: what comes for it by system call is placed in
    /// `bufs` at once, or else the first small payload in `spare`. Other data is in the queue as ever.
    pub fn tcp_poll_into(
        &mut self,
        id: SockId,
        bufs: &mut [&mut [u8]],
        spare: &mut [u8; SPARE],
        budget: u32,
    ) -> Placed {
        let s = self.st.sock(id);
        // What nobody holds any more may end in this poll, and its end takes the receive lock.
        let direct = bufs.len() <= DIRECT_WINDOWS
            && s.rq_available() == 0
            && !s.has(flag::ORPHAN)
            && self.has_frames();
        if !direct || !recvq::lock(s, self.env.me) {
            let _: u32 = self.poll(budget);
            return Placed::default();
        }
        let mut windows = [ShmBytes::EMPTY; DIRECT_WINDOWS];
        for (w, b) in windows.iter_mut().zip(bufs.iter_mut()) {
            *w = ShmBytes::private(b);
        }
        let direct = Direct::new(id, &windows, ShmBytes::private(spare));
        let _: u32 = self.poll_for(budget, Some(&direct));
        recvq::unlock(s);
        let placed = Placed {
            bytes: (direct.done() + direct.spared()) as usize,
            in_spare: direct.spared() > 0,
        };
        if placed.bytes > 0 {
            after_read(self, id);
        }
        placed
    }
}

/// Takes the pending error. Hardly ever there is one, and a program that spins asks often.
fn take_error(s: &Sock) -> u32 {
    match s.err.load(Relaxed) {
        0 => 0,
        _ => s.err.swap(0, core::sync::atomic::Ordering::AcqRel),
    }
}

/// Nothing is queued: the end, an error, or nothing yet. The order is that of Linux's `tcp_recvmsg_locked`.
fn end_of_stream(s: &Sock) -> Result<Recv, Error> {
    let eof = Ok(Recv {
        n: 0,
        want_update: false,
    });
    // The queue of a connection that the kernel has is empty, too: what was in it is read there.
    if s.has(flag::HANDED_OVER) {
        return Err(Error::Moved);
    }
    let state = s.tcp_state();
    if state == TcpState::Listen {
        return Err(Error::NotConnected);
    }
    // The end of the stream comes before an error that came after it.
    if s.has(flag::PEER_FIN) && super::oob::readable(s) == 0 {
        return eof;
    }
    let e = take_error(s);
    if e != 0 {
        return Err(Error::Errno(e.cast_signed()));
    }
    // The state is read after the queue: what arrived in between is seen by the caller's next try.
    if s.shut.load(Relaxed) & SHUT_RD != 0 {
        return if super::oob::readable(s) > 0 {
            Err(Error::WouldBlock)
        } else {
            eof
        };
    }
    match state {
        TcpState::Closed if s.has(flag::CONNECTED_SEEN) || s.rport.get() != 0 => eof,
        TcpState::Closed => Err(Error::NotConnected),
        _ => Err(Error::WouldBlock),
    }
}

/// True when the peer may be told of at least twice the window, or everything is read and a buffer lies idle.
fn wants_update(st: Stack<'_>, id: SockId) -> bool {
    if st.is_paired(id) {
        return crate::local::wants_update(st, st.sock(id));
    }
    let s = st.net(id);
    if s.rq_available() == 0 {
        return true;
    }
    window::has_doubled(st, s)
}

/// The second half of a read, under the stack lock.
pub(crate) fn after_read(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let st = l.st;
    let s = st.net(id);
    recvq::trim(st, &s, l.env.me);
    if s.has(flag::PAIRED) {
        return crate::local::after_read(l, id);
    }
    if s.kind() != crate::sock::Kind::Tcp || is_frozen(&s) {
        return;
    }
    tune(l, s);
    if !s.tcp_state().can_receive() {
        return;
    }
    if window::has_doubled(st, s) {
        let t = &s.net.tcb;
        t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
        l.post(id);
    }
}

/// Receive auto-tuning (Linux's dynamic right-sizing): the buffer is at least twice what the program reads in a round
/// trip, so that the window never limits a sender.
fn tune(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>) {
    let t = &s.net.tcb;
    if s.has(flag::RCVBUF_SET) {
        return;
    }
    let elapsed = l.env.now.since(Instant(t.drs_time.get()));
    let rtt = t.srtt.get().max(200 * US);
    if elapsed < rtt {
        return;
    }
    let read = t.rcv_nxt.get().wrapping_sub(s.rq_available());
    let copied = read.wrapping_sub(t.drs_seq.get());
    t.drs_seq.set(read);
    t.drs_time.set(l.env.now.0);
    // More than a few round trips ago: the program was idle, the sample says nothing.
    if elapsed > rtt.saturating_mul(8) || copied > 1 << 30 {
        return;
    }
    if copied > t.drs_space.get() {
        t.drs_space.set(copied);
        let want = copied
            .saturating_mul(2)
            .saturating_add(t.mss.get().saturating_mul(16));
        if !l.st.buf_pressure() {
            window::widen(l.st, s, want);
        }
    }
}
