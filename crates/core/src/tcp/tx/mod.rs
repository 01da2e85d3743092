//! What to send next. `output` is called once per batch for every socket on the post-poll list: retransmissions
//! first, then new data within the windows, then a bare ACK if one is still owed.

mod build;
mod limits;
mod rexmit;
mod stateless;

pub(crate) use build::{
    Out, Piece, send_ack, send_probe, send_rst, send_syn, send_syn_ack, window_to_offer,
};
pub(crate) use limits::next_piece;
pub(crate) use rexmit::tail_probe;
pub(crate) use stateless::{send_cookie, send_rst_for};

use super::state::TcpState;
use super::tcb::{rtx, tflag};
use super::user::handover::is_frozen;
use super::{cc, timers};
use crate::sock::{Kind, SockId};
use crate::stack::locked::Locked;
use crate::time::MS;
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// Super-frames that one call sends at the most: the rest waits for the ACKs.
const BURST: u32 = 64;

/// Sends what is due on a connection.
pub(crate) fn output(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.sock(id);
    if s.kind() != Kind::Tcp || is_frozen(s) {
        return;
    }
    let state = s.tcp_state();
    let t = &s.tcb;
    if state.transmits() {
        t.tflags.set(t.tflags.get() & !tflag::TX_FULL);
        let mut budget = BURST;
        while budget > 0 && rexmit::next(l, id) {
            budget -= 1;
        }
        let first = t.snd_nxt.get();
        let mut burst = 0;
        while budget > 0 {
            match next_piece(l.st, s, l.env) {
                Some(mut piece) => {
                    burst = limits::count_burst(s, burst, &mut piece);
                    if !transmit_new(l, id, &piece) {
                        break;
                    }
                }
                None => break,
            }
            budget -= 1;
        }
        if budget == 0 {
            // More is allowed than one burst: go on at once after the next poll.
            timers::retry(l, id, MS);
        }
        if t.snd_nxt.get() != first {
            timers::schedule_probe(l, id);
        }
        timers::after_output(l, id);
    }
    if t.tflags.get() & tflag::ACK_NOW != 0 && acknowledges(state) {
        send_ack(l, id);
    }
}

fn acknowledges(state: TcpState) -> bool {
    !matches!(
        state,
        TcpState::Closed | TcpState::Listen | TcpState::SynSent | TcpState::SynRcvd
    )
}

/// The override of RFC 9293 section 3.8.6.2.1: a window that stays smaller than a segment is used after all. False: it
/// is closed, or nothing could be sent.
pub(crate) fn send_what_fits(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    let s = l.st.sock(id);
    let t = &s.tcb;
    let flight = Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get()));
    let queued = s.sq_len.load(Relaxed);
    let len = queued
        .saturating_sub(flight)
        .min(t.snd_wnd.get().saturating_sub(flight))
        .min(build::segment_room(t));
    if len == 0 || t.tflags.get() & tflag::FIN_SENT != 0 {
        return false;
    }
    let piece = Piece {
        seq: Seq(t.snd_nxt.get()),
        off: flight,
        len,
        fin: false,
        push: true,
        burst_end: false,
        again: false,
    };
    transmit_new(l, id, &piece)
}

/// One more segment than the congestion window allows, whole. False: there is none, or the peer does not take it.
fn send_beyond_cwnd(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    let s = l.st.sock(id);
    let t = &s.tcb;
    let flight = Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get()));
    let unsent = s.sq_len.load(Relaxed).saturating_sub(flight);
    let whole = unsent.min(build::segment_room(t));
    whole > 0 && t.snd_wnd.get().saturating_sub(flight) >= whole && send_what_fits(l, id)
}

/// Sends new data and moves SND.NXT. False: nothing more can go out now.
fn transmit_new(l: &mut Locked<'_, '_, '_>, id: SockId, piece: &Piece) -> bool {
    let s = l.st.sock(id);
    let t = &s.tcb;
    match build::send_piece(l, id, piece) {
        Out::Sent(n) => {
            let end = piece.seq.add(n).add(u32::from(piece.fin));
            t.snd_nxt.set(end.0);
            if n % build::segment_room(t) != 0 {
                t.snd_sml.set(piece.seq.add(n).0);
            }
            if piece.fin {
                t.tflags.set(t.tflags.get() | tflag::FIN_SENT);
            }
            if t.rtt_at.get() == 0 {
                t.rtt_at.set(l.env.now.0.max(1));
                t.rtt_seq.set(end.0);
            }
            t.last_tx.set(l.env.now.0);
            cc::on_sent(t, n);
            s.bytes_out.store(
                s.bytes_out.load(Relaxed).wrapping_add(u64::from(n)),
                Relaxed,
            );
            if t.rtx_kind.get() == rtx::NONE || t.rtx_kind.get() == rtx::RETRY || t.t_rtx.get() == 0
            {
                timers::restart_rtx(l, id);
            }
            true
        }
        Out::Later => false,
        Out::Lost => {
            // As if the network had lost it: SND.NXT moves, the retransmission timer brings it again.
            t.snd_nxt
                .set(piece.seq.add(piece.len).add(u32::from(piece.fin)).0);
            if piece.fin {
                t.tflags.set(t.tflags.get() | tflag::FIN_SENT);
            }
            timers::restart_rtx(l, id);
            false
        }
    }
}
