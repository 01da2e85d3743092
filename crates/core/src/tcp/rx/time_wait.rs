//! TIME_WAIT: a new SYN may reopen the port pair (RFC 6191, as Linux's `tcp_timewait_state_process`), the peer's FIN
//! again is acknowledged, an RST at RCV.NXT ends the wait (RFC 9293 section 3.10.7.4; Linux too, unless `tcp_rfc1337` is set).

use super::{Seg, acceptable, closed, count, listen};
use crate::sock::{Sock, SockId, flag};
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::tx;
use flyover_wire::{Seq, TcpFlags};

/// A closed socket in FIN_WAIT_2: Linux keeps as little of it as of one in TIME_WAIT.
pub(super) fn is_alone(s: &Sock) -> bool {
    s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ) && s.linger2.get().cast_signed() <= 60
}

/// FIN_WAIT_2 without a program (the first half of Linux's `tcp_timewait_state_process`).
pub(super) fn fin_wait_2(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: Seg<'_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let (nxt, edge) = (Seq(t.rcv_nxt.get()), Seq(t.rcv_adv.get()));
    let end = seg.seq.add(seg.seq_len());
    let within = seg.seq == nxt
        || end.after(nxt) && seg.seq.before(edge)
        || seg.seq == edge && seg.seq == end;
    if !within || acceptable::is_old(l, s, &seg) {
        count!(l, tcp_drop_window);
        if !acceptable::answered_lately(l, s, &seg) {
            tx::send_ack(l, id);
        }
        return;
    }
    if seg.flags.has(TcpFlags::RST) {
        count!(l, tcp_rst_in);
        l.conn_done(id);
        return;
    }
    let syn = seg.flags.has(TcpFlags::SYN) && !seg.seq.before(nxt);
    if !syn && (!seg.flags.has(TcpFlags::ACK) || !end.after(nxt) || end == seg.seq) {
        return;
    }
    if syn || !seg.flags.has(TcpFlags::FIN) || end != nxt.add(1) {
        // New data after everything was closed (RFC 2525 section 2.17).
        count!(l, tcp_drop_closed);
        l.destroy(id);
        tx::send_rst_for(l, p, &seg);
        return;
    }
    t.rcv_nxt.set(end.0);
    t.rcv_adv.set(edge.latest(end).0);
    acceptable::take_stamp(l, s, &seg);
    s.set_tcp_state(TcpState::TimeWait);
    l.enter_time_wait(id);
    tx::send_ack(l, id);
}

pub(super) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: Seg<'_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if seg.flags.has(TcpFlags::RST) {
        count!(l, tcp_rst_in);
        if seg.seq == Seq(t.rcv_nxt.get()) && !acceptable::is_old(l, s, &seg) {
            // What came before is still the program's to read.
            l.conn_done(id);
        }
        return;
    }
    let old = acceptable::is_old(l, s, &seg);
    if seg.flags.has(TcpFlags::SYN) && !seg.flags.has(TcpFlags::ACK) && !old {
        let newer_ts = t.tflags.get() & tflag::TS != 0
            && seg
                .hdr
                .options
                .ts
                .is_some_and(|(v, _)| Seq(v).after(Seq(t.ts_recent.get())));
        if seg.seq.after(Seq(t.rcv_nxt.get())) || newer_ts {
            let local = s.local();
            let Some(listener) = l.st.find_listener(local) else {
                closed::handle(l, p, seg);
                return;
            };
            count!(l, tw_reopened);
            l.destroy(id);
            listen::handle(l, p, seg, listener);
            return;
        }
    }
    if !old && seg.seq_len() == 0 && seg.seq == Seq(t.rcv_nxt.get()) {
        acceptable::take_stamp(l, s, &seg);
        l.restart_time_wait(id);
        return;
    }
    // Whatever else comes is old or a repeated FIN: say where we are.
    if old || seg.flags.has(TcpFlags::ACK) {
        l.restart_time_wait(id);
    }
    if !acceptable::answered_lately(l, s, &seg) {
        tx::send_ack(l, id);
    }
}
