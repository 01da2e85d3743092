//! How a pair ends: what the other end sees of a FIN, a reset, or a death. The kernel connection beside it goes through the
//! same by itself; what its sockets report of that nobody looks at.

use super::fast::settle;
use crate::error::Error;
use crate::sock::{SHUT_RD, SockId, flag};
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::state::TcpState;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use flyover_shm::OptIdx;

/// Takes the two ends apart; the other one, if it is there.
fn part(l: &mut Locked<'_, '_, '_>, id: SockId) -> Option<SockId> {
    let st = l.st;
    let s = st.sock(id);
    let other = st.peer_of(s);
    s.peer.set(OptIdx::NONE);
    if let Some(p) = other {
        st.sock(p).peer.set(OptIdx::NONE);
    }
    other
}

/// The program has closed its sending direction: the peer reads what is queued, then the end. On the loopback the FIN is
/// acknowledged before `shutdown` returns.
pub(crate) fn fin(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let st = l.st;
    let s = st.sock(id);
    let other = st.peer_of(s);
    let last = match s.tcp_state() {
        TcpState::Established => false,
        TcpState::CloseWait => true,
        _ => return,
    };
    if let Some(p) = other {
        // Whoever sends at this moment is done, or sees that the direction is shut.
        settle(l, p);
        take_fin(l, p, last);
    }
    if last {
        let _: Option<SockId> = part(l, id);
        l.conn_done(id);
        return;
    }
    s.set_tcp_state(TcpState::FinWait2);
    if other.is_none() {
        // Nobody is there to answer.
        l.conn_done(id);
    }
}

fn take_fin(l: &mut Locked<'_, '_, '_>, p: SockId, both: bool) {
    let s = l.st.sock(p);
    s.set_flag(flag::PEER_FIN);
    let _: u32 = s.shut.fetch_or(SHUT_RD, AcqRel);
    if both {
        let _: Option<SockId> = part(l, p);
        l.conn_done(p);
        return;
    }
    s.set_tcp_state(TcpState::CloseWait);
    l.raise(p, ev::IN | ev::RDNORM | ev::RDHUP | ev::STATE);
}

/// RST to the peer: `id` was closed with unread data, aborted, or broke.
pub(crate) fn reset_peer(l: &mut Locked<'_, '_, '_>, id: SockId) {
    if let Some(p) = part(l, id) {
        reset_by_peer(l, p);
    }
}

/// `id` takes a RST (`tcp_reset`).
pub(crate) fn reset_by_peer(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.sock(id);
    s.peer.set(OptIdx::NONE);
    let why = match s.tcp_state() {
        TcpState::CloseWait => Error::BrokenPipe,
        TcpState::Closed => return,
        _ => Error::Reset,
    };
    l.reset_conn(id, why);
}

/// `id` is being taken apart: an end that still stands is reset, one that has heard the FIN stays alone.
pub(crate) fn gone(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let st = l.st;
    let s = st.sock(id);
    if !s.has(flag::PAIRED) {
        return;
    }
    let heard = matches!(s.tcp_state(), TcpState::FinWait2 | TcpState::Closed);
    let Some(p) = part(l, id) else { return };
    if heard && st.sock(p).shut.load(Relaxed) & SHUT_RD != 0 {
        return;
    }
    reset_by_peer(l, p);
}
