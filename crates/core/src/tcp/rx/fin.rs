//! Eighth: FIN.

use super::{Seg, count};
use crate::sock::{SHUT_RD, SockId, flag};
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::sack;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use core::sync::atomic::Ordering::Release;
use flyover_wire::{Seq, TcpFlags};

pub(super) fn step(l: &mut Locked<'_, '_, '_>, seg: &Seg<'_>, id: SockId) {
    let s = l.st.sock(id);
    let t = &s.tcb;
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
    if t.tflags.get() & tflag::FIN_SEEN != 0 && t.rcv_fin.get() == t.rcv_nxt.get() {
        take(l, id);
    }
}

/// The FIN is in order.
fn take(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.sock(id);
    let t = &s.tcb;
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
    t.rcv_nxt.set(t.rcv_nxt.get().wrapping_add(1));
    sack::prune_received(t, Seq(t.rcv_nxt.get()));
    // The window never seems to shrink because of the FIN.
    t.rcv_adv
        .set(Seq(t.rcv_adv.get()).latest(Seq(t.rcv_nxt.get())).0);
    t.tflags
        .set((t.tflags.get() & !tflag::FIN_SEEN) | tflag::ACK_NOW);
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
