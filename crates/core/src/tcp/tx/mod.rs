//! What to send next. `output` is called once per batch for every socket on the post-poll list: retransmissions
//! first, then new data within the windows, then a bare ACK if one is still owed.

mod build;
mod limits;
mod rexmit;
mod stateless;

pub(crate) use build::{Out, Piece, send_ack, send_probe, send_rst, send_syn, send_syn_ack};
pub(crate) use limits::next_piece;
pub(crate) use rexmit::{send_first_again, send_last_again, send_lost};
pub(crate) use stateless::{send_cookie, send_rst_for};

use super::flight::{Run, mark};
use super::state::TcpState;
use super::tcb::{rtx, tflag};
use super::user::handover::is_frozen;
use super::{cc, loss, timers};
use crate::sock::{Kind, SockId, flag};
use crate::stack::locked::Locked;
use crate::time::MS;
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// Super-frames that one call sends at the most: the rest waits for the ACKs.
const BURST: u32 = 64;

/// Sends what is due on a connection.
pub(crate) fn output(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    if s.kind() != Kind::Tcp || is_frozen(&s) {
        return;
    }
    let state = s.tcp_state();
    let t = &s.net.tcb;
    if state.transmits() {
        let held_up = rexmit::is_held_up(t);
        t.tflags.set(t.tflags.get() & !tflag::TX_FULL);
        if held_up {
            send_lost(l, id);
        }
        let mut budget = BURST;
        let first = t.snd_nxt.get();
        let mut burst = 0;
        let mut timeout = false;
        while budget > 0 {
            match next_piece(l.st, id, l.env) {
                Some(mut piece) => {
                    burst = limits::count_burst(s, burst, &mut piece);
                    let sent = transmit_new(l, id, &piece);
                    timeout |= sent.timeout;
                    if !sent.more {
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
        crate::stretch::place();
        sent_new(l, id, first, timeout);
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
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let flight = Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get()));
    let queued = s.net.sq_len.load(Relaxed);
    let len = queued
        .saturating_sub(flight)
        .min(t.snd_wnd.get().saturating_sub(flight))
        .min(build::segment_room(t));
    if len == 0 || t.tflags.get() & tflag::FIN_SENT != 0 {
        return false;
    }
    t.tflags.set(t.tflags.get() & !tflag::NO_PUSH);
    let piece = Piece {
        seq: Seq(t.snd_nxt.get()),
        off: flight,
        len,
        fin: false,
        push: true,
        burst_end: false,
        again: false,
    };
    let sent = transmit_new(l, id, &piece);
    if sent.timeout {
        timers::rearm_rto(l, id);
    }
    sent.more
}

/// After a round of transmissions that began with SND.NXT at `first`: the probe's timer or, for `timeout`, that of the
/// retransmission, and how far the window is used.
fn sent_new(l: &mut Locked<'_, '_, '_>, id: SockId, first: u32, timeout: bool) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let sent = t.snd_nxt.get() != first;
    let probe = sent && timers::schedule_probe(l, id, false);
    // A neighbour that is being resolved is asked for again sooner.
    if timeout && !probe && t.tflags.get() & tflag::BLOCKED == 0 {
        timers::rearm_rto(l, id);
    }
    if sent || t.packets_out.get() > 0 && loss::room(t) == 0 {
        let o = &l.st.opts;
        let held_up = s.has(flag::NOSPACE);
        let idle = o.slow_start_after_idle;
        cc::validate(t, idle, o.initial_cwnd, held_up, l.env.now);
    }
}

/// One more segment than the congestion window allows, whole. None: there is none, or the peer does not take it.
pub(crate) fn send_beyond_cwnd(l: &mut Locked<'_, '_, '_>, id: SockId) -> Option<()> {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let flight = Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get()));
    let unsent = s.net.sq_len.load(Relaxed).saturating_sub(flight);
    let whole = unsent.min(build::segment_room(t));
    (whole > 0 && t.snd_wnd.get().saturating_sub(flight) >= whole).then(|| {
        let _: bool = send_what_fits(l, id);
    })
}

/// New data within the windows, without waiting for more of it.
pub(crate) fn send_new_now(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.sock(id);
    let nodelay = s.has(flag::NODELAY);
    s.set_flag(flag::NODELAY);
    output(l, id);
    if !nodelay {
        s.clear_flag(flag::NODELAY);
    }
}

/// What became of new data.
#[derive(Clone, Copy)]
struct Sent {
    /// More can go out now.
    more: bool,
    /// The retransmission timer is to start anew, unless a probe's takes its place.
    timeout: bool,
}

/// Sends new data and moves SND.NXT.
fn transmit_new(l: &mut Locked<'_, '_, '_>, id: SockId, piece: &Piece) -> Sent {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    match build::send_piece(l, id, piece) {
        Out::Sent(n) => {
            let end = piece.seq.add(n).add(u32::from(piece.fin));
            if n % build::segment_room(t) != 0 {
                t.snd_sml.set(piece.seq.add(n).0);
            }
            s.bytes_out.store(
                s.bytes_out.load(Relaxed).wrapping_add(u64::from(n)),
                Relaxed,
            );
            let timeout = went(l, id, piece, n, end);
            Sent {
                more: true,
                timeout,
            }
        }
        Out::Later => Sent {
            more: false,
            timeout: false,
        },
        Out::Lost => {
            // As if the network had lost it: SND.NXT moves, the retransmission timer brings it again.
            let end = piece.seq.add(piece.len).add(u32::from(piece.fin));
            let timeout = went(l, id, piece, piece.len, end);
            Sent {
                more: false,
                timeout,
            }
        }
    }
}

/// `n` bytes of `piece` are in flight. True: their timeout is to start.
fn went(l: &mut Locked<'_, '_, '_>, id: SockId, piece: &Piece, n: u32, end: Seq) -> bool {
    let t = l.st.tcb(id);
    let now = loss::micros(l.env.now);
    let before = t.packets_out.get();
    if before == 0 {
        cc::cubic::after_idle(t, l.env.now);
        loss::forget_age(t, now);
    }
    t.snd_nxt.set(end.0);
    if piece.fin {
        t.tflags.set(t.tflags.get() | tflag::FIN_SENT);
    }
    t.last_tx.set(l.env.now.0);
    let room = build::segment_room(t);
    l.st.flight(id).push(&Run {
        start: piece.seq,
        end,
        at: now,
        unit: if n == 0 { room } else { room.min(n) },
        marks: if piece.fin { mark::FIN } else { 0 },
    });
    if t.is_reducing() {
        let sent = t.packets_out.get().saturating_sub(before);
        t.prr_out.set(t.prr_out.get().saturating_add(sent));
    }
    before == 0 || t.rtx_kind.get() == rtx::TLP
}
