//! TIME_WAIT: a new SYN may reopen the port pair (RFC 6191, as Linux's `tcp_timewait_state_process`), the peer's FIN
//! again is acknowledged, an RST at RCV.NXT ends the wait (RFC 9293 section 3.10.7.4; Linux too, unless `tcp_rfc1337` is set).

use super::{Seg, acceptable, closed, count, listen};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::tcp::tcb::tflag;
use crate::tcp::tx;
use flyover_wire::{Seq, TcpFlags};

pub(super) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: Seg<'_>, id: SockId) {
    let s = l.st.sock(id);
    let t = &s.tcb;
    if seg.flags.has(TcpFlags::RST) {
        count!(l, tcp_rst_in);
        if seg.seq == Seq(t.rcv_nxt.get()) && !acceptable::is_old(l, s, &seg) {
            // What came before is still the program's to read.
            l.conn_done(id);
        }
        return;
    }
    if seg.flags.has(TcpFlags::SYN) && !seg.flags.has(TcpFlags::ACK) {
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
    // Whatever else comes is old or a repeated FIN: say where we are.
    if seg.seq_len() > 0 || seg.seq != Seq(t.rcv_nxt.get()) {
        if seg.flags.has(TcpFlags::FIN) {
            l.restart_time_wait(id);
        }
        if acceptable::answered_lately(l, s, &seg) {
            return;
        }
        tx::send_ack(l, id);
    }
}
