//! The accept queue.

use crate::error::Error;
use crate::sock::{SockId, SockRef, flag};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::rtx;
use crate::tcp::{rtt, timers};
use crate::time::Instant;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use flyover_shm::OptIdx;

impl Locked<'_, '_, '_> {
    /// Takes the oldest established connection of a listener. The caller then tells which kernel socket stands for it
    /// ([`set_cookie`](Self::set_cookie)).
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the queue is empty, [`Error::Invalid`] when the socket does not listen.
    pub fn tcp_accept(&mut self, id: SockId) -> Result<SockRef, Error> {
        let st = self.st;
        let p = st.net(id);
        if p.tcp_state() != TcpState::Listen {
            return Err(Error::Invalid);
        }
        let child = p.net.acc_head.get().opt().ok_or(Error::WouldBlock)?;
        let s = st.sock(child);
        p.net.acc_head.set(s.acc_next.get());
        if p.net.acc_head.get().is_none() {
            p.net.acc_tail.set(OptIdx::NONE);
        }
        p.net
            .acc_len
            .store(p.net.acc_len.load(Relaxed).saturating_sub(1), Release);
        crate::stretch::place();
        s.acc_next.set(OptIdx::NONE);
        s.holder.set(u32::from(self.env.me) + 1);
        s.clear_flag(flag::IN_ACCEPTQ | flag::ORPHAN);
        crate::stretch::place();
        Ok(st.sock_ref(child))
    }

    /// Gives an accepted connection back to the front of the queue: its descriptor could not be made.
    pub fn unaccept(&mut self, listener: SockId, child: SockId) {
        let st = self.st;
        let (p, s) = (st.net(listener), st.sock(child));
        if p.tcp_state() != TcpState::Listen {
            self.abort(child);
            return;
        }
        s.holder.set(0);
        s.acc_next.set(p.net.acc_head.get());
        if p.net.acc_head.get().is_none() {
            p.net.acc_tail.set(child.into());
        }
        p.net.acc_head.set(child.into());
        p.net
            .acc_len
            .store(p.net.acc_len.load(Relaxed).wrapping_add(1), Release);
        s.set_flag(flag::IN_ACCEPTQ | flag::ORPHAN);
    }
}

impl Stack<'_> {
    /// Connections of a listener that wait to be accepted. Needs no lock.
    #[inline]
    pub fn to_accept(self, listener: SockId) -> u32 {
        self.net_of(listener)
            .map_or(0, |p| p.net.acc_len.load(Acquire))
    }
}

/// A half-open child whose listener listens no longer.
pub(crate) fn is_bereft(st: Stack<'_>, child: SockId) -> bool {
    let s = st.sock(child);
    if s.tcp_state() != TcpState::SynRcvd || !s.has(flag::CHILD) || s.has(flag::IN_ACCEPTQ) {
        return false;
    }
    let Some(parent) = s.parent.get().opt() else {
        return false;
    };
    let p = st.sock(parent);
    p.gen_.load(Relaxed) != s.parent_gen.get() || p.tcp_state() != TcpState::Listen
}

/// The handshake of a child is complete: into the accept queue. False: it is full, the child stays half-open.
pub(crate) fn establish_child(l: &mut Locked<'_, '_, '_>, child: SockId) -> bool {
    let st = l.st;
    let s = st.sock(child);
    let Some(parent) = s.parent.get().opt() else {
        return true;
    };
    let p = st.net(parent);
    let alive = p.gen_.load(Relaxed) == s.parent_gen.get() && p.tcp_state() == TcpState::Listen;
    if !alive {
        // The listener closed meanwhile: as Linux, the child is reset.
        crate::tcp::tx::send_rst(l, child);
        l.destroy(child);
        return false;
    }
    if p.net.acc_len.load(Relaxed) > p.net.backlog.get() {
        if st.opts.abort_on_overflow {
            crate::tcp::tx::send_rst(l, child);
            l.destroy(child);
        }
        return false;
    }
    if s.has(flag::IN_SYNQ) {
        s.clear_flag(flag::IN_SYNQ);
        p.net.syn_len.set(p.net.syn_len.get().saturating_sub(1));
    }
    s.acc_next.set(OptIdx::NONE);
    match p.net.acc_tail.get().opt() {
        Some(t) => st.sock(t).acc_next.set(child.into()),
        None => p.net.acc_head.set(child.into()),
    }
    p.net.acc_tail.set(child.into());
    p.net
        .acc_len
        .store(p.net.acc_len.load(Relaxed).wrapping_add(1), Release);
    s.set_flag(flag::IN_ACCEPTQ);
    l.raise(parent, ev::DATA);
    true
}

/// `Sock::defer_accept` of a child: its bare ACK was passed over.
const PUT_OFF: u32 = 1;
/// The time is over: the next ACK counts.
const OVERDUE: u32 = 2;

/// `TCP_DEFER_ACCEPT`: the ACK that ends the handshake is passed over, so that the program sees the connection with its
/// first data. When none comes in the time that the listener gives, the SYN-ACK is sent again, and the answer to it
/// counts (`tcp_check_req` of Linux).
pub(crate) fn is_put_off(l: &mut Locked<'_, '_, '_>, child: SockId, data: bool) -> bool {
    let st = l.st;
    let s = st.net(child);
    let Some(parent) = s.parent.get().opt() else {
        return false;
    };
    let seconds = st.sock(parent).defer_accept.get();
    if data || seconds == 0 || s.defer_accept.get() == OVERDUE {
        return false;
    }
    if s.defer_accept.get() != PUT_OFF {
        s.defer_accept.set(PUT_OFF);
        let t = &s.net.tcb;
        if t.backoff.get() == 0 && t.rtt_at.get() != 0 {
            let ns = l.env.now.since(Instant(t.rtt_at.get()));
            rtt::sample(t, ns, &st.opts, l.env.now);
        }
        t.rtt_at.set(0);
        let wait = u64::from(seconds).saturating_mul(1_000_000_000);
        t.t_rtx.set(l.env.now.0.saturating_add(wait));
        t.rtx_kind.set(rtx::RTO);
        timers::rearm(l, child);
    }
    true
}

/// The SYN-ACK goes out again: whatever was put off is so no longer.
pub(crate) fn is_due(s: &crate::sock::Sock) {
    if s.defer_accept.get() == PUT_OFF {
        s.defer_accept.set(OVERDUE);
    }
}
