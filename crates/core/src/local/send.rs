//! Sending within a pair: straight into the other end's receive queue.

use super::{end, fast};
use crate::error::Error;
use crate::sock::{SHUT_RD, Sock, SockId, flag, supply};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use crate::tcp::user::oob;
use crate::tcp::user::send::SendFlags;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::fence;

/// Bytes that wait for the reader at the most, unless the program set the buffers' sizes. Small enough to stay in the
/// cache between the two copies.
pub(super) const LIMIT: u32 = 1 << 20;
/// The same when the stack is short of buffers.
pub(super) const LIMIT_SHORT: u32 = 64 << 10;
/// A write of so many bytes is taken whole while there is any room, as Linux does with a segment of the loopback's size.
const WHOLE: u32 = 65_483;

/// What the two buffers of this direction hold: the sender's `SO_SNDBUF` and the receiver's `SO_RCVBUF`.
fn limit(st: Stack<'_>, s: &Sock, p: &Sock) -> u32 {
    let set = s.has(flag::SNDBUF_SET) || p.has(flag::RCVBUF_SET);
    let most = if set {
        s.sndbuf.get().saturating_add(p.rcvbuf.get())
    } else {
        LIMIT
    };
    if st.buf_pressure() {
        most.min(LIMIT_SHORT)
    } else {
        most
    }
}

/// What one write to a peer that takes nothing comes to, bytes: whoever writes more has to hear of the reset.
fn alone(s: &Sock) -> usize {
    let most = match s.has(flag::SNDBUF_SET) {
        true => s.sndbuf.get(),
        false => LIMIT,
    };
    most.max(WHOLE) as usize
}

/// A receiver acknowledges so much that nobody has read, bytes, unless the program set its buffer's size: the window at
/// the beginning of a connection.
const WINDOW: u32 = 65_535;

/// Bytes in the queue of an end of a pair that would still be the sender's, waiting for the window to open.
pub(super) fn beyond_window(p: &Sock) -> u32 {
    // Linux counts twice what a program asks for, for its own overhead.
    let window = match p.has(flag::RCVBUF_SET) {
        true => p.rcvbuf.get() / 2,
        false => WINDOW,
    };
    p.rq_available().saturating_sub(window)
}

/// `SIOCOUTQ` for one end of a pair.
pub(crate) fn unacked(st: Stack<'_>, s: &Sock) -> u32 {
    st.peer_of(s).map_or(0, |p| beyond_window(st.sock(p)))
}

/// `sk_stream_is_writeable` for one end of a pair.
pub(crate) fn has_space(st: Stack<'_>, s: &Sock) -> bool {
    let Some(p) = st.peer_of(s) else { return true };
    let p = st.sock(p);
    let (queued, limit) = (p.rq_available(), limit(st, s, p));
    queued < limit && limit - queued >= queued / 2
}

/// True when a reader has something to do under the stack lock: a writer waits for room, or the queue's last buffer lies
/// idle.
pub(crate) fn wants_update(st: Stack<'_>, s: &Sock) -> bool {
    fence(SeqCst);
    s.rq_available() == 0 || st.peer_of(s).is_some_and(|p| st.sock(p).has(flag::NOSPACE))
}

/// The second half of a read: the writer hears of the room.
pub(crate) fn after_read(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let st = l.st;
    let Some(p) = st.peer_of(st.sock(id)) else {
        return;
    };
    let w = st.sock(p);
    if w.has(flag::NOSPACE) && has_space(st, w) {
        w.clear_flag(flag::NOSPACE);
        l.raise(p, ev::SPACE);
    }
}

impl Locked<'_, '_, '_> {
    /// [`Locked::tcp_send`] on one end of a pair, which has found that it may send.
    pub(crate) fn local_send(
        &mut self,
        id: SockId,
        data: &[&[u8]],
        total: usize,
        flags: SendFlags,
    ) -> Result<usize, Error> {
        let st = self.st;
        let s = st.sock(id);
        let Some(to) = st.peer_of(s) else {
            // The peer is gone: the kernel takes what the send buffer holds, and its RST follows.
            end::reset_by_peer(self, id);
            return Ok(total.min(alone(s)));
        };
        let p = st.sock(to);
        let half = matches!(p.tcp_state(), TcpState::FinWait1 | TcpState::FinWait2);
        if half && p.shut.load(Relaxed) & SHUT_RD != 0 && !p.has(flag::PEER_FIN) {
            // It reads no more and has said all: new data resets the connection (RFC 2525 section 2.17).
            end::reset_peer(self, to);
            self.reset_conn(to, Error::Reset);
            return Ok(total.min(alone(s)));
        }
        let room = self.room(s, p);
        if room == 0 {
            return Err(Error::WouldBlock);
        }
        let most = room.max(WHOLE.min(total as u32)) as usize;
        if !fast::hold(p, self.env.me) {
            count!(self, local_stuck);
            return Err(Error::WouldBlock);
        }
        supply::rewind(st, p, most, self.env.me);
        let n = supply::append_bytes(st, p, data, most);
        fast::let_go(p);
        if n == 0 {
            count!(self, no_buffer);
            s.set_flag(flag::NOSPACE);
            return Err(Error::WouldBlock);
        }
        if n < total {
            s.set_flag(flag::NOSPACE);
        }
        p.last_rx.set(self.env.now.0);
        if flags.oob && n == total {
            oob::local_urgent(self, to);
        }
        self.raise(to, ev::DATA);
        Ok(n)
    }

    /// Room for the writer; when there is none, the reader is asked to tell.
    fn room(&self, s: &Sock, p: &Sock) -> u32 {
        let most = limit(self.st, s, p);
        let room = most.saturating_sub(p.rq_available());
        if room > 0 {
            return room;
        }
        s.set_flag(flag::NOSPACE);
        // The reader stores what he read, then looks at the flag.
        fence(SeqCst);
        most.saturating_sub(p.rq_available())
    }
}
