//! Urgent data, as Linux does it (tcp(7)): one byte out of band, a read stops at its mark, `SIOCATMARK`.

use super::recv::RecvFlags;
use crate::error::Error;
use crate::sock::net::NetSock;
use crate::sock::{Sock, SockId, SockRef, flag, recvq, urg};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::tcb::{Tcb, tflag};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use flyover_wire::{Seq, TcpFlags};

/// The byte just queued last is urgent.
pub(super) fn queue_urgent(t: &Tcb, s: NetSock<'_>) {
    t.snd_up
        .set(Seq(t.snd_una.get()).add(s.net.sq_len.load(Relaxed)).0);
    t.tflags.set(t.tflags.get() | tflag::URG_OUT);
}

/// There is urgent data that the peer did not acknowledge (Linux's `tcp_urg_mode`).
pub(crate) fn is_sending(t: &Tcb) -> bool {
    t.tflags.get() & tflag::URG_OUT != 0 && Seq(t.snd_up.get()).after(Seq(t.snd_una.get()))
}

/// URG flag and pointer of an outgoing segment; the pointer is one past the urgent byte (RFC 793, tcp_stdurg 0).
pub(crate) fn mark(t: &Tcb, seq: Seq, flags: TcpFlags) -> (TcpFlags, u16) {
    let up = Seq(t.snd_up.get());
    if !up.after(seq) {
        if up.before_eq(Seq(t.snd_una.get())) {
            t.tflags.set(t.tflags.get() & !tflag::URG_OUT);
        }
        return (flags, 0);
    }
    let ahead = up.since(seq);
    if ahead > 0xffff {
        return (flags.with(TcpFlags::URG), 0xffff);
    }
    (flags.with(TcpFlags::URG), ahead as u16)
}

/// Queue count at which the urgent byte lies, if it has arrived and is still in the stream.
fn position(s: NetSock<'_>) -> Option<u32> {
    if s.urg.load(Relaxed) & urg::ANNOUNCED == 0 {
        return None;
    }
    let nxt = Seq(s.net.tcb.rcv_nxt.get());
    let up = Seq(s.rcv_up.get());
    let back = nxt.diff(up);
    // A FIN takes a number of its own behind the data.
    (back > 0).then(|| s.rq_in.load(Relaxed).wrapping_sub(back.cast_unsigned()))
}

/// The byte that came last from the other end of a pair is urgent. Its number is that of the queue.
pub(crate) fn local_urgent(l: &mut Locked<'_, '_, '_>, id: SockId) {
    crate::tcp::rx::pass_over(l, id);
    let s = l.st.sock(id);
    let at = s.rq_in.load(Relaxed).wrapping_sub(1);
    s.rcv_up.set(at);
    s.urg_mark.set(at);
    s.urg.store(urg::ANNOUNCED | urg::HERE, Release);
    l.raise(id, ev::PRI);
}

/// New in-order data came: was the urgent byte in it?
pub(crate) fn note_arrival(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    if s.urg.load(Relaxed) & (urg::ANNOUNCED | urg::HERE) != urg::ANNOUNCED {
        return;
    }
    if let Some(at) = position(s) {
        s.urg_mark.set(at);
        let _: u32 = s.urg.fetch_or(urg::HERE, Release);
        l.raise(id, ev::DATA);
    }
}

/// In-order data from `seq` on is about to be published: a reader who sees the bytes has to see the mark among them.
pub(crate) fn place_mark(s: NetSock<'_>, seq: Seq, n: u32) {
    if s.urg.load(Relaxed) & (urg::ANNOUNCED | urg::HERE) != urg::ANNOUNCED {
        return;
    }
    let at = Seq(s.rcv_up.get());
    if !at.before(seq) && at.before(seq.add(n)) {
        s.urg_mark
            .set(s.rq_in.load(Relaxed).wrapping_add(at.since(seq)));
        let _: u32 = s.urg.fetch_or(urg::HERE, Release);
    }
}

/// The urgent byte is here, and neither taken out of band nor read past (`POLLPRI`; Linux's `TCP_URG_VALID`).
pub(crate) fn pending(s: &Sock) -> bool {
    if s.urg.load(Acquire) & (urg::HERE | urg::TAKEN) != urg::HERE {
        return false;
    }
    let out = s.rq_out.load(Relaxed);
    s.urg_mark.get().wrapping_sub(out) < 1 << 31
}

/// The next byte of the stream is the urgent one, out of line: it does not count as data (`tcp_poll`).
pub(crate) fn next_is_urgent(s: &Sock) -> bool {
    s.urg.load(Acquire) & urg::HERE != 0
        && !s.has(flag::OOBINLINE)
        && s.urg_mark.get() == s.rq_out.load(Relaxed)
}

/// Where a read has to stop: the mark that lies ahead or right here.
pub(super) fn stop_at(s: &Sock) -> Option<u32> {
    (s.urg.load(Acquire) & urg::HERE != 0).then(|| s.urg_mark.get())
}

/// True while a read may have to stop at an urgent mark: it is here, or comes with the next segment.
pub(crate) fn is_pending(s: &Sock) -> bool {
    s.urg.load(Acquire) & (urg::ANNOUNCED | urg::HERE) != 0
}

/// Bytes that a read can bring: an urgent byte that it begins with is not one of them.
pub(super) fn readable(s: &Sock) -> u32 {
    let queued = s.rq_available();
    match stop_at(s) {
        Some(mark) if !s.has(flag::OOBINLINE) && mark == s.rq_out.load(Relaxed) => {
            queued.saturating_sub(1)
        }
        _ => queued,
    }
}

/// Reads up to the mark; a read that begins at the mark passes over the urgent byte unless it is in line. The caller
/// holds the receive lock.
pub(super) fn read_to_mark(
    st: Stack<'_>,
    s: &Sock,
    bufs: &mut [&mut [u8]],
    flags: RecvFlags,
    mark: u32,
) -> Result<usize, Error> {
    let out = s.rq_out.load(Relaxed);
    let ahead = mark.wrapping_sub(out);
    if ahead >= 1 << 31 {
        // Read past it long ago.
        return st.read_some(s, bufs, flags);
    }
    if ahead == 0 {
        // A read of nothing moves past nothing.
        if flags.discard == 0 && bufs.iter().all(|b| b.is_empty()) {
            return Ok(0);
        }
        let mut flags = flags;
        if !s.has(flag::OOBINLINE) {
            if flags.peek {
                flags.skip = flags.skip.saturating_add(1);
            } else {
                let _: usize = recvq::discard(st, s, 1)?;
            }
        }
        return st.read_some(s, bufs, flags);
    }
    let mut left = ahead as usize;
    if flags.discard > 0 {
        let flags = RecvFlags {
            discard: flags.discard.min(left),
            ..flags
        };
        return st.read_some(s, bufs, flags);
    }
    let mut done = 0;
    for b in bufs.iter_mut() {
        let n = b.len().min(left);
        let Some(part) = b.get_mut(..n) else { break };
        // What was peeked at is still there.
        let seen = if flags.peek { done as u32 } else { 0 };
        let skip = flags.skip.saturating_add(seen);
        let got = recvq::read(st, s, &mut [part], flags.peek, skip)?;
        done += got;
        left -= got;
        if got < n || left == 0 {
            break;
        }
    }
    Ok(done)
}

impl Stack<'_> {
    /// `SIOCATMARK`: the next byte to be read is the urgent one.
    pub fn at_mark(self, id: SockId) -> bool {
        let s = self.net(id);
        let f = s.urg.load(Acquire);
        if f & urg::HERE != 0 {
            return s.urg_mark.get() == s.rq_out.load(Relaxed);
        }
        // As Linux, announced and not here counts as well.
        f & urg::ANNOUNCED != 0
            && Seq(s.rcv_up.get()) == Seq(s.net.tcb.rcv_nxt.get()).back(s.rq_available())
    }

    /// The out-of-band byte (`MSG_OOB`). With `peek` it stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none or it is in line, [`Error::WouldBlock`] when it is announced but has not
    /// arrived.
    pub fn tcp_recv_oob(self, sock: SockRef, peek: bool, me: u16) -> Result<u8, Error> {
        let s = self.get(sock).ok_or(Error::Stale)?;
        let f = s.urg.load(Acquire);
        if s.tcp_state() == crate::tcp::state::TcpState::Listen {
            return Err(Error::NotConnected);
        }
        if f & urg::ANNOUNCED == 0 || s.has(flag::OOBINLINE) {
            return Err(Error::Invalid);
        }
        let here = f & urg::HERE != 0;
        let ahead = s.urg_mark.get().wrapping_sub(s.rq_out.load(Relaxed));
        if here && (ahead >= 1 << 31 || f & urg::TAKEN != 0) {
            return Err(Error::Invalid);
        }
        if s.tcp_state() == crate::tcp::state::TcpState::Closed && !s.has(flag::PEER_FIN) {
            return Err(Error::NotConnected);
        }
        if !here {
            return Err(Error::WouldBlock);
        }
        if !recvq::lock(s, me) {
            return Err(Error::WouldBlock);
        }
        if let Some(e) = self.is_another(sock, s) {
            recvq::unlock(s);
            return Err(e);
        }
        let mut b = [0u8; 1];
        let r = recvq::read(self, s, &mut [&mut b[..]], true, ahead);
        recvq::unlock(s);
        if r? == 0 {
            return Err(Error::WouldBlock);
        }
        if !peek {
            // It leaves the stream when the program reads up to it. If another one was announced meanwhile, it is no longer
            // the one that counts.
            let _: Result<u32, u32> = s.urg.compare_exchange(f, f | urg::TAKEN, AcqRel, Relaxed);
        }
        Ok(b[0])
    }
}
