//! First: is the segment acceptable? (RFC 9293 section 3.10.7.4, "first, check sequence number"; PAWS of RFC 7323
//! section 5 comes before it.)

use super::data::QUICK;
use super::{Seg, Step, ack, count};
use crate::sock::net::NetSock;
use crate::sock::{SockId, flag};
use crate::stack::locked::Locked;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::{Tcb, tflag};
use crate::tcp::{rtt, sack, tx};
use crate::time::{Instant, MS, SEC};
use flyover_wire::{Seq, TcpFlags};

/// TS.Recent older than this is not believed (RFC 7323 section 5.5).
const PAWS_IDLE: u64 = 24 * 24 * 3600 * SEC;

pub(super) fn step(l: &mut Locked<'_, '_, '_>, seg: &Seg<'_>, id: SockId) -> Step {
    let s = l.st.net(id);
    let rst = seg.flags.has(TcpFlags::RST);
    if !seg
        .flags
        .any(TcpFlags::ACK.with(TcpFlags::RST).with(TcpFlags::SYN))
    {
        count!(l, tcp_drop_no_ack);
        return Step::Done;
    }
    if !rst && is_old(l, s, seg) && !is_overtaken(l, s, seg) {
        count!(l, tcp_drop_paws);
        let pure = seg.seq_len() == 0 && seg.seq.before(Seq(s.net.tcb.rcv_nxt.get()));
        // As Linux: old acknowledgments are common, and nobody waits for an answer.
        return if pure {
            Step::Done
        } else {
            refuse(l, id, s, seg)
        };
    }
    if crossing_syn_ack(s, seg) {
        return Step::Next;
    }
    if !in_window(s, seg) {
        if rst && is_reset_before_fin(s, seg) {
            return Step::Next;
        }
        count!(l, tcp_drop_window);
        return if rst {
            Step::Done
        } else {
            refuse(l, id, s, seg)
        };
    }
    Step::Next
}

/// As Linux: after the peer's FIN its reset may have the number before it.
pub(super) fn is_reset_before_fin(s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    seg.seq.add(1) == Seq(s.net.tcb.rcv_nxt.get())
        && matches!(
            s.tcp_state(),
            TcpState::CloseWait | TcpState::LastAck | TcpState::Closing
        )
}

/// TS.Recent (RFC 7323 section 4.3), once the segment's ACK is known to be good.
pub(super) fn take_stamp(l: &Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) {
    let t = &s.net.tcb;
    if t.tflags.get() & tflag::TS != 0
        && let Some((val, _)) = seg.hdr.options.ts
        && seg.seq.before_eq(Seq(t.last_ack_sent.get()))
        && (!Seq(val).before(Seq(t.ts_recent.get())) || is_idle(l, s))
    {
        t.ts_recent.set(val);
        t.ts_recent_at.set(l.env.now.0);
    }
}

/// An acknowledgment that says nothing and was overtaken by a later segment is none of an older connection (Linux's
/// `tcp_disordered_ack`).
fn is_overtaken(l: &Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    let behind = |val| Seq(t.ts_recent.get()).since(Seq(val));
    let ms = rtt::rto(t, &l.st.opts) / MS;
    seg.flags.has(TcpFlags::ACK)
        && seg.seq_len() == 0
        && seg.seq == Seq(t.rcv_nxt.get())
        && seg.ack == Seq(t.snd_una.get())
        && !ack::may_update_window(s, seg)
        && seg
            .hdr
            .options
            .ts
            .is_some_and(|(val, _)| u64::from(behind(val)) <= ms * 6 / 5)
}

/// Simultaneous open (RFC 9293 section 3.5, figure 7): the peer's SYN-ACK repeats the SYN that we have, and its ACK is
/// the one that we wait for. Answering it with another SYN-ACK would go on for ever.
fn crossing_syn_ack(s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    s.tcp_state() == TcpState::SynRcvd
        && t.tflags.get() & tflag::SIMULTANEOUS != 0
        && seg.flags.has(TcpFlags::SYN)
        && seg.flags.has(TcpFlags::ACK)
        && seg.seq == Seq(t.irs.get())
        && seg.ack == Seq(t.snd_nxt.get())
}

/// As Linux's `tcp_sequence`: what ends where we are says nothing new and is still heard, what ends beyond the window only
/// while nothing waits to be read, the peer's end included, and a FIN may lie behind the edge.
fn in_window(s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    let end = seg.seq.add(seg.seq_len());
    let edge = Seq(t.rcv_adv.get());
    if s.tcp_state() == TcpState::SynRcvd {
        // As Linux's `tcp_in_window`, for what is no connection yet.
        let nxt = Seq(t.rcv_nxt.get());
        let first = seg.seq == nxt || end.after(nxt) && seg.seq.before(edge);
        return first || seg.seq == edge && seg.seq == end;
    }
    if end.before(Seq(t.last_ack_sent.get())) {
        return false;
    }
    let fin = u32::from(seg.flags.has(TcpFlags::FIN));
    !end.back(fin).after(edge) || !seg.seq.after(edge) && s.rq_available() == 0 && !is_end_unread(s)
}

/// The peer's FIN is the first in the queue. Of one that was there at the close nothing is left.
fn is_end_unread(s: NetSock<'_>) -> bool {
    s.has(flag::PEER_FIN) && s.tcp_state() != TcpState::LastAck
}

/// Older than TS.Recent by more than the one tick that Linux grants (`TCP_PAWS_WINDOW`).
pub(super) fn is_old(l: &Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    if t.tflags.get() & tflag::TS == 0 || t.ts_recent_at.get() == 0 {
        return false;
    }
    let Some((val, _)) = seg.hdr.options.ts else {
        return false;
    };
    Seq(val).add(1).before(Seq(t.ts_recent.get())) && !is_idle(l, s)
}

/// TS.Recent says nothing after so long a time.
fn is_idle(l: &Locked<'_, '_, '_>, s: NetSock<'_>) -> bool {
    l.env.now.since(Instant(s.net.tcb.ts_recent_at.get())) >= PAWS_IDLE
}

/// Not acceptable: an ACK tells the peer where we are.
fn refuse(l: &mut Locked<'_, '_, '_>, id: SockId, s: NetSock<'_>, seg: &Seg<'_>) -> Step {
    if answered_lately(l, s, seg) {
        return Step::Done;
    }
    let nxt = Seq(s.net.tcb.rcv_nxt.get());
    let half_open =
        s.tcp_state() == TcpState::SynRcvd && s.net.tcb.tflags.get() & tflag::SIMULTANEOUS == 0;
    if seg.seq.before(nxt) && seg.seq_len() > 0 && !seg.flags.has(TcpFlags::SYN) && !half_open {
        quick(&s.net.tcb);
        let end = seg.seq.add(seg.seq_len()).earliest(nxt);
        sack::note_twice(&s.net.tcb, seg.seq, end);
    }
    let syn = seg.flags.has(TcpFlags::SYN) && !seg.flags.has(TcpFlags::ACK);
    let again = syn && seg.seq == Seq(s.net.tcb.irs.get());
    if again && s.tcp_state() == TcpState::SynRcvd {
        // The peer did not get our SYN-ACK: its SYN again.
        tx::send_syn_ack(l, id);
    } else {
        tx::send_ack(l, id);
    }
    Step::Done
}

/// What was lost may have been our acknowledgments: the next ones do not wait.
pub(super) fn quick(t: &Tcb) {
    t.quick.set(t.quick.get().max(QUICK));
    t.tflags.set(t.tflags.get() & !tflag::ANSWERS);
}

/// Two ends that disagree must not answer one another for ever: segments that carry neither data nor FIN are answered
/// once in 500 ms (as Linux's `tcp_invalid_ratelimit`).
pub(super) fn answered_lately(l: &Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let syn = seg.flags.has(TcpFlags::SYN);
    if !syn && (seg.len > 0 || seg.flags.has(TcpFlags::FIN)) {
        return false;
    }
    let t = &s.net.tcb;
    let last = t.challenge_at.get();
    if last != 0 && l.env.now.since(Instant(last)) < 500 * MS {
        return true;
    }
    t.challenge_at.set(l.env.now.0.max(1));
    false
}
