//! Eighth: FIN.

use super::{Seg, count, data};
use crate::sock::net::NetSock;
use crate::sock::{SHUT_RD, SockId, flag};
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::{reasm, sack, tx};
use core::sync::atomic::Ordering::Release;
use flyover_wire::{Seq, TcpFlags};

pub(super) fn step(l: &mut Locked<'_, '_, '_>, seg: &Seg<'_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if seg.flags.has(TcpFlags::FIN) {
        let at = seg.seq.add(seg.len);
        if at.after(Seq(t.rcv_nxt.get())) {
            // Ahead of a hole: remembered.
            t.rcv_fin.set(at.0);
            if t.tflags.get() & tflag::SACK != 0 {
                sack::note_received(t, at, at.add(1));
            }
            t.tflags
                .set(t.tflags.get() | tflag::FIN_SEEN | tflag::ACK_NOW);
            return;
        }
        if at == Seq(t.rcv_nxt.get()) {
            take(l, id);
            return;
        }
    }
    if t.tflags.get() & tflag::FIN_SEEN == 0 {
        return;
    }
    if t.rcv_fin.get() == t.rcv_nxt.get() {
        take(l, id);
    } else if Seq(t.rcv_fin.get()).before(Seq(t.rcv_nxt.get())) {
        // Data came where it was said to be: it was none.
        t.tflags.set(t.tflags.get() & !tflag::FIN_SEEN);
    }
}

/// The FIN that was ahead of a hole is in order now, after our own. As Linux, its acknowledgment still says what was out
/// of order (`tcp_fin` sends it from within `tcp_ofo_queue`).
pub(super) fn is_next_while_closing(s: NetSock<'_>) -> bool {
    let t = &s.net.tcb;
    t.tflags.get() & tflag::FIN_SEEN != 0
        && t.rcv_fin.get() == t.rcv_nxt.get()
        && matches!(s.tcp_state(), TcpState::FinWait1 | TcpState::FinWait2)
}

/// The FIN is in order.
fn take(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let next = match s.tcp_state() {
        TcpState::SynRcvd | TcpState::Established => TcpState::CloseWait,
        TcpState::FinWait1 if t.tflags.get() & tflag::FIN_ACKED != 0 => TcpState::TimeWait,
        TcpState::FinWait1 => TcpState::Closing,
        TcpState::FinWait2 => TcpState::TimeWait,
        _ => {
            count!(l, tcp_drop_state);
            return;
        }
    };
    let closing = matches!(s.tcp_state(), TcpState::FinWait1 | TcpState::FinWait2);
    t.rcv_nxt.set(t.rcv_nxt.get().wrapping_add(1));
    if closing {
        t.rcv_adv
            .set(Seq(t.rcv_adv.get()).latest(Seq(t.rcv_nxt.get())).0);
        tx::send_ack(l, id);
    }
    sack::prune_received(t, Seq(t.rcv_nxt.get()));
    // The window never seems to shrink because of the FIN.
    t.rcv_adv
        .set(Seq(t.rcv_adv.get()).latest(Seq(t.rcv_nxt.get())).0);
    if next == TcpState::CloseWait {
        // As Linux: the program probably answers with its own end, and nothing else can come.
        // And what it came with does not hurry either, unless it has filled a hole.
        let hurry = match t.tflags.get() & tflag::FIN_SEEN {
            0 => tflag::DSACK | tflag::ACK_AT_ONCE,
            _ => tflag::DSACK,
        };
        t.tflags.set(t.tflags.get() & !hurry | tflag::ANSWERS);
        reasm::free_all(l.st, s);
        data::ack_policy(l, id, 1, 0);
    } else if !closing {
        t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
    }
    t.tflags.set(t.tflags.get() & !tflag::FIN_SEEN);
    s.set_flag(flag::PEER_FIN);
    let _: u32 = s.shut.fetch_or(SHUT_RD, Release);
    s.set_tcp_state(next);
    if next == TcpState::TimeWait {
        l.enter_time_wait(id);
    }
    let hup = if s.shut.load(core::sync::atomic::Ordering::Relaxed) == 3 {
        ev::HUP
    } else {
        0
    };
    l.raise(id, ev::IN | ev::RDNORM | ev::RDHUP | hup);
}
