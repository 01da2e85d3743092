//! First: is the segment acceptable? (RFC 9293 section 3.10.7.4, "first, check sequence number"; PAWS of RFC 7323
//! section 5 comes before it.)

use super::{Seg, Step, count};
use crate::sock::{Sock, SockId};
use crate::stack::locked::Locked;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::{sack, tx};
use crate::time::{Instant, MS, SEC};
use flyover_wire::{Seq, TcpFlags};

/// TS.Recent older than this is not believed (RFC 7323 section 5.5).
const PAWS_IDLE: u64 = 24 * 24 * 3600 * SEC;

pub(super) fn step(l: &mut Locked<'_, '_, '_>, seg: &Seg<'_>, id: SockId) -> Step {
    let s = l.st.sock(id);
    let t = &s.tcb;
    let rst = seg.flags.has(TcpFlags::RST);
    if !rst && is_old(l, s, seg) {
        count!(l, tcp_drop_paws);
        return refuse(l, id, s, seg);
    }
    if crossing_syn_ack(s, seg) {
        return Step::Next;
    }
    let nxt = Seq(t.rcv_nxt.get());
    let wnd = Seq(t.rcv_adv.get()).since(nxt).min(1 << 30);
    if !in_window(seg, nxt, wnd) {
        count!(l, tcp_drop_window);
        if rst {
            return Step::Done;
        }
        return refuse(l, id, s, seg);
    }
    if t.tflags.get() & tflag::TS != 0
        && let Some((val, _)) = seg.hdr.options.ts
        && seg.seq.before_eq(Seq(t.last_ack_sent.get()))
    {
        t.ts_recent.set(val);
        t.ts_recent_at.set(l.env.now.0);
    }
    Step::Next
}

/// Simultaneous open (RFC 9293 section 3.5, figure 7): the peer's SYN-ACK repeats the SYN that we have, and its ACK is
/// the one that we wait for. Answering it with another SYN-ACK would go on for ever.
fn crossing_syn_ack(s: &Sock, seg: &Seg<'_>) -> bool {
    let t = &s.tcb;
    s.tcp_state() == TcpState::SynRcvd
        && t.tflags.get() & tflag::SIMULTANEOUS != 0
        && seg.flags.has(TcpFlags::SYN)
        && seg.flags.has(TcpFlags::ACK)
        && seg.seq == Seq(t.irs.get())
        && seg.ack == Seq(t.snd_nxt.get())
}

/// The four cases of the RFC's table.
fn in_window(seg: &Seg<'_>, nxt: Seq, wnd: u32) -> bool {
    let len = seg.seq_len();
    match (len, wnd) {
        (0, 0) => seg.seq == nxt,
        (0, _) => seg.seq.in_window(nxt, wnd) || seg.seq == nxt.add(wnd),
        // As Linux: with a closed window, what begins at RCV.NXT still carries an acceptable ACK.
        (_, 0) => seg.seq == nxt,
        (_, _) => {
            seg.seq.in_window(nxt, wnd) || seg.seq.add(len.wrapping_sub(1)).in_window(nxt, wnd)
        }
    }
}

pub(super) fn is_old(l: &Locked<'_, '_, '_>, s: &Sock, seg: &Seg<'_>) -> bool {
    let t = &s.tcb;
    if t.tflags.get() & tflag::TS == 0 || t.ts_recent_at.get() == 0 {
        return false;
    }
    let Some((val, _)) = seg.hdr.options.ts else {
        return false;
    };
    if !Seq(val).before(Seq(t.ts_recent.get())) {
        return false;
    }
    l.env.now.since(Instant(t.ts_recent_at.get())) < PAWS_IDLE
}

/// Not acceptable: an ACK tells the peer where we are.
fn refuse(l: &mut Locked<'_, '_, '_>, id: SockId, s: &Sock, seg: &Seg<'_>) -> Step {
    if answered_lately(l, s, seg) {
        return Step::Done;
    }
    let nxt = Seq(s.tcb.rcv_nxt.get());
    if seg.seq.before(nxt) && !seg.flags.has(TcpFlags::SYN) {
        let end = seg.seq.add(seg.seq_len()).earliest(nxt);
        sack::note_twice(&s.tcb, seg.seq, end);
    }
    let again = seg.flags.has(TcpFlags::SYN) && seg.seq == Seq(s.tcb.irs.get());
    if again && s.tcp_state() == TcpState::SynRcvd {
        // The peer did not get our SYN-ACK: its SYN again.
        tx::send_syn_ack(l, id);
    } else {
        tx::send_ack(l, id);
    }
    Step::Done
}

/// Two ends that disagree must not answer one another for ever: segments that carry neither data nor FIN are answered
/// once in 500 ms (as Linux's `tcp_invalid_ratelimit`), window and keep-alive probes somewhat more often.
pub(super) fn answered_lately(l: &Locked<'_, '_, '_>, s: &Sock, seg: &Seg<'_>) -> bool {
    if seg.len > 0 || seg.flags.has(TcpFlags::FIN) {
        return false;
    }
    let t = &s.tcb;
    let probe = seg.seq.add(1) == Seq(t.rcv_nxt.get());
    let quiet = if probe { 100 * MS } else { 500 * MS };
    let last = t.challenge_at.get();
    if last != 0 && l.env.now.since(Instant(last)) < quiet {
        return true;
    }
    t.challenge_at.set(l.env.now.0.max(1));
    false
}
