//! Readiness: the `poll(2)` mask of a socket, computed from its state as Linux's `tcp_poll` and `datagram_poll` do.
//! Pure loads, no lock.

use super::{Kind, OS_DATA, OS_ERROR, SHUT_RD, SHUT_WR, Sock, SockId, flag};
use crate::stack::Stack;
use crate::stack::wake::ev;
use crate::tcp::state::TcpState;
use crate::tcp::user::send::has_space;
use core::sync::atomic::Ordering::Acquire;

impl Stack<'_> {
    /// The `poll` mask now.
    pub fn readiness(self, id: SockId) -> u32 {
        let s = self.sock(id);
        if s.has(flag::HANDED_OVER) {
            // Everything, so that whoever waits here looks, and goes on in the kernel.
            return ev::ALL;
        }
        if s.has(flag::RETURNING) {
            // Whatever the kernel has of it, is not here yet.
            return 0;
        }
        match s.kind() {
            Kind::Tcp => tcp(self, id, s),
            Kind::Udp => udp(s),
            Kind::Free | Kind::Kernel => ev::ERR | ev::HUP,
        }
    }

    /// The mask, and, when `wanted` asks for room to write and there is none, the note that tells the ACK path to
    /// report it (Linux's `SOCK_NOSPACE`). The caller holds the stack lock.
    pub(crate) fn want_space_notice(self, id: SockId, wanted: u32) -> u32 {
        let mask = self.readiness(id);
        if wanted & (ev::OUT | ev::WRNORM) != 0 && mask & ev::OUT == 0 {
            self.sock(id).set_flag(flag::NOSPACE);
            if self.is_paired(id) {
                // The reader, who holds no lock, may have looked at the flag just before.
                core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
                return self.readiness(id);
            }
        }
        mask
    }

    /// Takes the pending error (`SO_ERROR`); 0 is none.
    pub fn take_error(self, id: SockId) -> i32 {
        self.sock(id)
            .err
            .swap(0, core::sync::atomic::Ordering::AcqRel)
            .cast_signed()
    }

    /// As [`Self::take_error`]; without one, what ICMP said of a connection that goes on (as Linux's `SO_ERROR`).
    pub fn take_any_error(self, id: SockId) -> i32 {
        match (self.take_error(id), self.net_of(id)) {
            (0, Some(s)) => {
                let soft = &s.net.tcb.soft_error;
                let e = soft.get();
                if e != 0 {
                    soft.set(0);
                }
                e.cast_signed()
            }
            (e, _) => e,
        }
    }
}

/// A connection fails in two stores, the error first, so that no reader takes the failure for the end of the stream.
/// Who sees the error sees the rest a moment later. (An error that does not end the connection costs this wait.)
fn settled(s: &Sock) {
    if s.err.load(Acquire) == 0 {
        return;
    }
    for _ in 0..200 {
        if s.tcp_state() == TcpState::Closed {
            return;
        }
        core::hint::spin_loop();
    }
}

fn tcp(st: Stack<'_>, id: SockId, s: &Sock) -> u32 {
    settled(s);
    let state = s.tcp_state();
    if state == TcpState::Listen {
        let some = st.to_accept(id) > 0 || s.os_ready.load(Acquire) != 0;
        return if some { ev::IN | ev::RDNORM } else { 0 };
    }
    let shut = s.shut.load(Acquire);
    let mut m = 0;
    if shut == SHUT_RD | SHUT_WR || state == TcpState::Closed {
        m |= ev::HUP;
    }
    if shut & SHUT_RD != 0 {
        m |= ev::IN | ev::RDNORM | ev::RDHUP;
    }
    if state != TcpState::SynSent && state != TcpState::SynRcvd {
        let skipped = u32::from(crate::tcp::user::oob::next_is_urgent(s));
        let queued = s.rq_available().saturating_add(st.kernel_bytes_of(s));
        if queued >= s.rcvlowat.get().max(1).saturating_add(skipped) {
            m |= ev::IN | ev::RDNORM;
        }
        if shut & SHUT_WR != 0 || has_space(st, id) {
            m |= ev::OUT | ev::WRNORM;
        }
        if crate::tcp::user::oob::pending(s) {
            m |= ev::PRI;
        }
    }
    if s.err.load(Acquire) != 0 {
        m |= ev::ERR;
    }
    m
}

fn udp(s: &Sock) -> u32 {
    let shut = s.shut.load(Acquire);
    let mut m = ev::OUT | ev::WRNORM | ev::WRBAND;
    let kernels = s.os_ready.load(Acquire);
    if s.rq_available() > 0 || kernels & OS_DATA != 0 {
        m |= ev::IN | ev::RDNORM;
    }
    if kernels & OS_ERROR != 0 {
        m |= ev::ERR;
    }
    if shut & SHUT_RD != 0 {
        m |= ev::IN | ev::RDNORM | ev::RDHUP;
    }
    if shut == SHUT_RD | SHUT_WR {
        m |= ev::HUP;
    }
    if s.err.load(Acquire) != 0 {
        m |= ev::ERR;
    }
    m
}
