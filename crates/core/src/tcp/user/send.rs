//! Sending: into the send queue as far as there is room, then whatever the windows allow goes out at once.

use super::oob;
use crate::error::Error;
use crate::sock::net::NetSock;
use crate::sock::{SHUT_WR, Sock, SockId, flag, sendq};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::tcp::cc;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// What the flags of `send` ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendFlags {
    /// `MSG_MORE`: more follows, hold back a small segment.
    pub more: bool,
    /// `MSG_OOB`: the last byte is urgent.
    pub oob: bool,
    /// `MSG_EOR`: what follows is in another segment.
    pub eor: bool,
    /// The caller will sleep until there is room.
    pub waits: bool,
}

/// Bytes that the send queue may hold: `SO_SNDBUF`, or, auto-tuned, twice the congestion window.
pub(crate) fn limit(st: Stack<'_>, s: NetSock<'_>) -> u32 {
    let base = s.sndbuf.get();
    if s.has(flag::SNDBUF_SET) {
        return base;
    }
    // Linux's `tcp_sndbuf_expand`: twice the window in segments, each with its overhead; at least a few super-frames
    // so that a writer of large blocks is not woken for every segment.
    let window = s.net.tcb.cwnd.get().saturating_mul(s.net.tcb.mss.get());
    let want = window.saturating_mul(2);
    let (least, most) = match s.net.tcb.min_rtt.get() {
        // The window grows only as far as it is used, which would be a circle here.
        1..NEAR if s.net.tcb.cwnd.get() > st.opts.initial_cwnd => (NEAR_MOST, NEAR_MOST),
        1..NEAR => (FLOOR, NEAR_MOST),
        _ => (FLOOR, u32::MAX),
    };
    let most = st.opts.tcp_wmem_max.min(most);
    let want = want.max(least).min(most).max(base);
    if st.buf_pressure() {
        base.min(want)
    } else {
        want
    }
}

/// Auto-tuned send buffers start here.
const FLOOR: u32 = 256 << 10;
/// A path with a shorter round trip than this, ns, is a wire between namespaces or within a rack, ..
const NEAR: u64 = 250_000;
/// .. on which this many bytes keep more than 32 Gb/s in flight. More of them only wait in the peer's queue until they
/// have left every cache on the way (measured over veth: 24-31 Gb/s with 4 MiB, 37 Gb/s with 1 MiB).
const NEAR_MOST: u32 = 1 << 20;

fn unsent(s: NetSock<'_>, queued: u32) -> u32 {
    let flight = Seq(s.net.tcb.snd_nxt.get()).since(Seq(s.net.tcb.snd_una.get()));
    queued.saturating_sub(flight)
}

/// What `TCP_NOTSENT_LOWAT` still allows: below the mark all, beyond it what Linux would put to the packet that is being
/// filled.
fn below_mark(s: NetSock<'_>, queued: u32) -> u32 {
    let (low, unsent) = (s.notsent_lowat.get(), unsent(s, queued));
    if low == 0 || unsent < low {
        return u32::MAX;
    }
    let mss = s.net.tcb.mss.get().max(1);
    let whole = (PACKET - PACKET % mss).max(mss);
    match unsent % whole {
        0 => 0,
        begun => whole - begun,
    }
}

/// Bytes of a packet that Linux fills before it asks for memory again.
const PACKET: u32 = 0xffff - 320;

/// `sk_stream_is_writeable`: at least a third of the buffer is free, and `TCP_NOTSENT_LOWAT` holds.
pub(crate) fn has_space(st: Stack<'_>, id: SockId) -> bool {
    if st.is_paired(id) {
        return crate::local::has_space(st, st.sock(id));
    }
    let s = st.net(id);
    let queued = s.net.sq_len.load(Relaxed);
    // As Linux, which wakes a program when half of that is unsent.
    let low = s.notsent_lowat.get();
    if low != 0 && unsent(s, queued).saturating_mul(2) >= low {
        return false;
    }
    let limit = limit(st, s);
    queued < limit && limit - queued >= queued / 2
}

impl Locked<'_, '_, '_> {
    /// Queues what fits of `data` and transmits what may go. Returns the bytes queued, at least 1.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] without room, [`Error::BrokenPipe`] after shutdown or reset (the caller raises SIGPIPE),
    /// [`Error::NotConnected`], or the pending error.
    pub fn tcp_send(
        &mut self,
        id: SockId,
        data: &[&[u8]],
        flags: SendFlags,
    ) -> Result<usize, Error> {
        let st = self.st;
        let s = st.net(id);
        self.may_send(&s).inspect_err(|_| {
            if flags.waits && s.tcp_state() == TcpState::SynSent {
                // The connection's first segment can carry what he has.
                s.net.tcb.tflags.set(s.net.tcb.tflags.get() | tflag::SENDER);
            }
        })?;
        let total: usize = data.iter().map(|d| d.len()).sum();
        if total == 0 {
            return Ok(0);
        }
        if s.has(flag::PAIRED) {
            return self.local_send(id, data, total, flags);
        }
        let t = &s.net.tcb;
        let queued = s.net.sq_len.load(Relaxed);
        let room = limit(st, s).saturating_sub(queued);
        let room = room.min(below_mark(s, queued));
        if room == 0 {
            s.set_flag(flag::NOSPACE);
            return Err(Error::WouldBlock);
        }
        after_idle(self, s);
        // As Linux, which takes a whole segment as long as the buffer is not full: a small write is never taken in part,
        // so that the lines of several writers do not mix.
        let whole = total.min(t.mss.get() as usize);
        let n = sendq::append(st, s, data, (room as usize).max(whole));
        if n == 0 {
            crate::tcp::rx::count!(self, no_buffer);
            s.set_flag(flag::NOSPACE);
            return Err(Error::WouldBlock);
        }
        let all = n == total;
        if !all {
            s.set_flag(flag::NOSPACE);
        }
        let f = t.tflags.get() & !(tflag::MORE | tflag::NO_PUSH);
        t.tflags.set(if flags.more && all {
            f | tflag::MORE | tflag::NO_PUSH
        } else {
            f
        });
        if flags.eor && all {
            sendq::end_record(st, s);
        }
        if flags.oob && all {
            oob::queue_urgent(t, s);
        }
        self.post(id);
        self.run_post();
        Ok(n)
    }

    fn may_send(&self, s: &Sock) -> Result<(), Error> {
        if s.has(flag::HANDED_OVER) {
            return Err(Error::Moved);
        }
        let e = s.err.swap(0, core::sync::atomic::Ordering::AcqRel);
        if e != 0 {
            return Err(Error::Errno(e.cast_signed()));
        }
        if s.has(flag::HANDING_OVER) {
            return Err(Error::WouldBlock);
        }
        if s.shut.load(Relaxed) & SHUT_WR != 0 {
            return Err(Error::BrokenPipe);
        }
        match s.tcp_state() {
            TcpState::Established | TcpState::CloseWait => Ok(()),
            TcpState::SynSent | TcpState::SynRcvd => Err(Error::WouldBlock),
            TcpState::Listen => Err(Error::BrokenPipe),
            TcpState::Closed if s.rport.get() == 0 => Err(Error::BrokenPipe),
            _ => Err(Error::BrokenPipe),
        }
    }
}

/// RFC 5681 section 4.1: after an idle time the window starts again from the initial one.
pub(crate) fn after_idle(l: &Locked<'_, '_, '_>, s: NetSock<'_>) {
    let t = &s.net.tcb;
    if !l.st.opts.slow_start_after_idle || t.packets_out.get() != 0 {
        return;
    }
    let now = l.env.now;
    let idle = now.since(crate::time::Instant(t.last_tx.get()));
    if idle > t.rto.get().max(1) {
        cc::restart(t, idle, l.st.opts.initial_cwnd, now);
    }
}
