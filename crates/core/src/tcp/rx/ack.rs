//! Fifth: ACK. What it acknowledges leaves the send queue; SACK, duplicate ACKs and recovery; the state changes that
//! the ACK of our FIN brings.

use super::{Seg, Step, acceptable, challenge, count, may_challenge};
use crate::sock::net::NetSock;
use crate::sock::{Kind, SHUT_WR, Sock, SockId, flag, sendq};
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::stack::wake::ev;
use crate::tcp::cc;
use crate::tcp::loss::{self, Ack, tell};
use crate::tcp::state::TcpState;
use crate::tcp::tcb::{Tcb, rtx, tflag};
use crate::tcp::{ecn, rtt, tx, user};
use crate::time::Instant;
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::{Seq, TcpFlags};

pub(super) fn step(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, id: SockId) -> Step {
    if !seg.flags.has(TcpFlags::ACK) {
        count!(l, tcp_drop_no_ack);
        return Step::Done;
    }
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if s.tcp_state() == TcpState::SynRcvd && syn_rcvd(l, p, seg, id) == Step::Done {
        return Step::Done;
    }
    let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
    if seg.ack.after(nxt) {
        count!(l, tcp_drop_bad_ack);
        challenge(l, id);
        return Step::Done;
    }
    if is_ancient(s, seg) {
        // RFC 5961 section 5.2: an ACK from too long ago.
        count!(l, tcp_drop_bad_ack);
        return too_old(l, id, s, seg);
    }
    ecn::arrived(t, p, seg.flags, seg.seq_len());
    if seg.ack.before(una) {
        return old(l, id, s, seg);
    }
    // As Linux, whose header prediction looks for nothing to send when the next data acknowledges nothing.
    let silent = seg.len > 0 && seg.ack == una && is_predicted(s, seg);
    acceptable::take_stamp(l, s, seg);
    // The peer answers: zero-window and keep-alive probes may go on (RFC 9293 section 3.8.6.1, RFC 1122 section 4.2.3.6).
    t.probes.set(0);
    t.soft_error.set(0);
    let mut a = Ack::new(l.st.flight(id), l.env.now);
    let echo = echo_of(t, seg);
    if seg.seq_len() > 0 {
        a.told |= tell::DATA;
    }
    if update_window(l, s, seg) {
        a.told |= tell::WINDOW;
    }
    if seg.ack.after(una) {
        a.told |= tell::ADVANCED;
        advance(l, s, seg);
    }
    loss::take_sacks(l.st.flight(id), seg.hdr, &mut a);
    if ecn::is_echoed(t, seg.flags) {
        a.told |= tell::ECE;
    }
    loss::acknowledged(l, id, echo, &mut a);
    if a.has(tell::ADVANCED) {
        has_room(l, id, &s);
        if finish_states(l, p, id, seg) == Step::Done {
            return Step::Done;
        }
    }
    if t.snd_wnd.get() != 0 && t.rtx_kind.get() == rtx::PERSIST {
        // The window opened: transmit, and let the retransmission timer start anew.
        t.t_rtx.set(0);
        t.rtx_kind.set(rtx::NONE);
        t.backoff.set(0);
        t.probes.set(0);
    }
    if !silent {
        // What `MSG_MORE` held back goes when the peer says anything else.
        t.tflags.set(t.tflags.get() & !tflag::MORE);
    }
    if s.shut.load(Relaxed) != 3 || s.tcp_state() != TcpState::Closed {
        // Data may follow, the window may have opened: `output` decides.
        l.post_if_due(id);
    }
    Step::Next
}

/// It acknowledges what was acknowledged before the last window, or was never sent.
fn is_ancient(s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    let una = Seq(t.snd_una.get());
    if !seg.ack.before(una) {
        return false;
    }
    let few = s.bytes_out.load(Relaxed) < 1 << 30;
    let ever = if few {
        una.since(Seq(t.iss.get()).add(1))
    } else {
        u32::MAX
    };
    seg.ack.before(una.back(t.max_wnd.get().min(ever)))
}

/// The time that the segment echoes, without our offset.
fn echo_of(t: &Tcb, seg: &Seg<'_>) -> Option<u32> {
    let echo = seg.hdr.options.ts.map(|(_, echo)| echo);
    let echo = echo.filter(|n| *n != 0 && t.tflags.get() & tflag::TS != 0);
    t.echo
        .set(echo.map_or(0, |n| n.wrapping_sub(t.ts_off.get())));
    echo
}

/// An ACK from before SND.UNA: its SACK blocks are news at the most, neither its window nor its time count.
fn old(l: &mut Locked<'_, '_, '_>, id: SockId, s: NetSock<'_>, seg: &Seg<'_>) -> Step {
    let t = &s.net.tcb;
    if seg.hdr.options.sack_n > 0 && t.tflags.get() & tflag::SACK != 0 {
        let mut a = Ack::new(l.st.flight(id), l.env.now);
        let _: Option<u32> = echo_of(t, seg);
        loss::take_sacks(l.st.flight(id), seg.hdr, &mut a);
        loss::overtaken(l, id, &mut a);
    }
    if is_predicted(s, seg) {
        acceptable::take_stamp(l, s, seg);
    }
    t.tflags.set(t.tflags.get() & !tflag::MORE);
    Step::Next
}

/// The segment is discarded with a challenge ACK. Not so, as in Linux, when it is the next data and nothing else: whoever
/// knows all that its header prediction compares is no blind attacker.
fn too_old(l: &mut Locked<'_, '_, '_>, id: SockId, s: NetSock<'_>, seg: &Seg<'_>) -> Step {
    let t = &s.net.tcb;
    let predicted = is_predicted(s, seg);
    if predicted {
        acceptable::take_stamp(l, s, seg);
    }
    if !predicted || seg.len == 0 {
        challenge(l, id);
        return Step::Done;
    }
    if may_challenge(l, id) {
        t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
    }
    Step::Next
}

/// Linux's header prediction: the next data, and nothing else is new.
fn is_predicted(s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    let o = &seg.hdr.options;
    s.tcp_state() == TcpState::Established
        && seg.flags.without(TcpFlags::PSH) == TcpFlags::ACK
        && seg.seq == Seq(t.rcv_nxt.get())
        // Memory for the first data has to be asked for.
        && (seg.len == 0 || s.bytes_in.load(Relaxed) > 0)
        && window_of(t, seg) == t.snd_wnd.get()
        && t.ooo.get().is_none()
        && t.tflags.get() & tflag::FIN_SEEN == 0
        && s.urg.load(Relaxed) == 0
        && (t.tflags.get() & tflag::TS == 0 || o.ts.is_some() && o.sack_n == 0)
}

/// SYN_RCVD: the ACK of our SYN establishes the connection.
fn syn_rcvd(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, id: SockId) -> Step {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if seg.ack != Seq(t.iss.get()).add(1)
        && !seg.ack.in_window(
            Seq(t.iss.get()).add(1),
            Seq(t.snd_nxt.get()).since(Seq(t.iss.get())),
        )
    {
        count!(l, tcp_drop_bad_ack);
        tx::send_rst_for(l, p, seg);
        return Step::Done;
    }
    if s.has(flag::CHILD)
        && user::accept::is_put_off(l, id, seg.len > 0 || seg.flags.has(TcpFlags::FIN))
    {
        count!(l, tcp_put_off);
        return Step::Done;
    }
    if s.has(flag::CHILD) && !user::accept::establish_child(l, id) {
        // The accept queue is full: as Linux, the ACK is ignored and the peer's data brings it again.
        count!(l, tcp_drop_backlog);
        return Step::Done;
    }
    if t.backoff.get() == 0 && t.rtt_at.get() != 0 {
        let ns = l.env.now.since(Instant(t.rtt_at.get()));
        rtt::sample(t, ns, &l.st.opts, l.env.now);
    }
    t.rtt_at.set(0);
    t.backoff.set(0);
    t.t_rtx.set(0);
    t.rtx_kind.set(rtx::NONE);
    t.first_rtx.set(0);
    t.snd_una.set(Seq(t.iss.get()).add(1).0);
    t.snd_wnd.set(window_of(t, seg));
    user::connect::larger_window(l, s, t.snd_wnd.get());
    cc::init(t, l.st.opts.initial_cwnd, l.env.now);
    t.snd_wl1.set(seg.seq.0);
    s.set_tcp_state(TcpState::Established);
    user::connect::begins(l, s);
    // As Linux, which counts for a connection what comes after its SYN-ACK, and the SYN.
    s.segs_out.store(0, Relaxed);
    s.segs_in
        .store(s.segs_in.load(Relaxed).wrapping_add(1), Relaxed);
    l.start_keepalive(id);
    l.raise(id, ev::SPACE | ev::STATE);
    if s.shut.load(Relaxed) & SHUT_WR != 0 {
        // Shut down before it was connected, or a child of such a listener.
        l.queue_fin(id);
    }
    Step::Next
}

/// The window that a segment offers; that of a SYN is not scaled (RFC 7323 section 2.2).
fn window_of(t: &Tcb, seg: &Seg<'_>) -> u32 {
    let scale = if seg.flags.has(TcpFlags::SYN) {
        0
    } else {
        t.snd_scale.get().min(14)
    };
    u32::from(seg.hdr.window) << scale
}

/// Linux's `tcp_may_update_window`.
pub(super) fn may_update_window(s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    let wl1 = Seq(t.snd_wl1.get());
    let larger = window_of(t, seg) > t.snd_wnd.get() || seg.hdr.window == 0;
    seg.ack.after(Seq(t.snd_una.get())) || seg.seq.after(wl1) || seg.seq == wl1 && larger
}

/// SND.WND, guarded by WL1 against old segments. As Linux, a segment that acknowledges something new counts
/// whatever its sequence number: it may be repeated data with the peer's present window, and a window that was kept
/// would reach as far beyond its edge as SND.UNA moves. True: it was taken.
fn update_window(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) -> bool {
    let t = &s.net.tcb;
    let wl1 = Seq(t.snd_wl1.get());
    let may = may_update_window(s, seg);
    if may {
        let wnd = window_of(t, seg);
        let changed = wnd != t.snd_wnd.get();
        t.snd_wnd.set(wnd);
        if changed && s.net.sq_len.load(Relaxed) > 0 {
            user::send::after_idle(l, s);
        }
        if wnd > t.max_wnd.get() {
            user::connect::larger_window(l, s, wnd);
        }
        t.snd_wl1.set(wl1.latest(seg.seq).0);
    }
    may
}

/// SND.UNA moves.
fn advance(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) {
    let t = &s.net.tcb;
    let una = Seq(t.snd_una.get());
    let acked = seg.ack.since(una);
    let fin = t.tflags.get() & tflag::FIN_SENT != 0 && seg.ack == Seq(t.snd_nxt.get());
    sendq::consume(l.st, s, acked.wrapping_sub(u32::from(fin)));
    t.snd_una.set(seg.ack.0);
    t.retransmits.set(0);
    t.first_rtx.set(0);
    if fin {
        t.tflags.set(t.tflags.get() | tflag::FIN_ACKED);
    }
}

/// Room for the program to write.
fn has_room(l: &mut Locked<'_, '_, '_>, id: SockId, s: &Sock) {
    if s.has(flag::NOSPACE) && user::send::has_space(l.st, id) {
        s.clear_flag(flag::NOSPACE);
        l.raise(id, ev::SPACE);
    }
}

/// What the acknowledgment of our FIN changes. Done: nothing else of the segment counts.
fn finish_states(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, id: SockId, seg: &Seg<'_>) -> Step {
    let s = l.st.net(id);
    if s.net.tcb.tflags.get() & tflag::FIN_ACKED == 0 {
        return Step::Next;
    }
    match s.tcp_state() {
        TcpState::FinWait1 => {
            s.set_tcp_state(TcpState::FinWait2);
            // Linux tells everybody of this change, for the sake of a lingering close.
            l.raise(id, ev::STATE);
            if s.has(flag::ORPHAN) && s.linger2.get().cast_signed() < 0 {
                // Nobody is to wait for the peer's end.
                l.destroy(id);
                tx::send_rst_for(l, p, seg);
                return Step::Done;
            }
            l.enter_fin_wait2(id);
            let end = seg.seq.add(seg.len);
            let news = seg.flags.has(TcpFlags::FIN) || end.after(Seq(s.net.tcb.rcv_nxt.get()));
            if super::time_wait::is_alone(&s) && !news {
                return Step::Done;
            }
        }
        TcpState::Closing => {
            s.set_tcp_state(TcpState::TimeWait);
            l.enter_time_wait(id);
            return Step::Done;
        }
        TcpState::LastAck => l.conn_done(id),
        _ => {}
    }
    if s.kind() != Kind::Tcp || s.tcp_state() == TcpState::Closed {
        return Step::Done;
    }
    Step::Next
}
