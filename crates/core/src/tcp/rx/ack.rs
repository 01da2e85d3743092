//! Fifth: ACK. What it acknowledges leaves the send queue; SACK, duplicate ACKs and recovery; the state changes that
//! the ACK of our FIN brings.

use super::{Seg, Step, acceptable, challenge, count, may_challenge};
use crate::sock::{Kind, SHUT_WR, Sock, SockId, flag, sendq};
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::stack::wake::ev;
use crate::tcp::cc::{self, Phase};
use crate::tcp::sack::Board;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::{Tcb, rtx, tflag};
use crate::tcp::{ecn, rtt, timers, tx, user};
use crate::time::Instant;
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::{Seq, TcpFlags};

pub(super) fn step(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, id: SockId) -> Step {
    if !seg.flags.has(TcpFlags::ACK) {
        count!(l, tcp_drop_no_ack);
        return Step::Done;
    }
    let s = l.st.sock(id);
    let t = &s.tcb;
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
        return old(l, s, seg);
    }
    acceptable::take_stamp(l, s, seg);
    // The peer answers: zero-window and keep-alive probes may go on (RFC 9293 section 3.8.6.1, RFC 1122 section 4.2.3.6).
    t.probes.set(0);
    let mut board = Board::load(t);
    let (held, edge) = (board.bytes(), t.lost_edge.get());
    let news = take_sacks(s, seg, &mut board);
    if t.cc_phase() == Phase::Cwr && seg.ack.after(Seq(t.recover.get())) {
        cc::exit(t, t.mss.get());
    }
    ecn::echoed(t, seg.flags, t.mss.get());
    let old_wnd = t.snd_wnd.get();
    update_window(l, s, seg);
    if seg.ack.after(una) {
        advance(l, id, s, seg, &mut board);
        board.store(t);
        finish_states(l, id, s);
        if s.kind() != Kind::Tcp || s.tcp_state() == TcpState::Closed {
            return Step::Done;
        }
    } else {
        board.prune(una);
        board.store(t);
        let dup = seg.ack == una
            && nxt != una
            && seg.len == 0
            && (news || t.snd_wnd.get() == old_wnd)
            && !seg.flags.any(TcpFlags::SYN.with(TcpFlags::FIN));
        if dup {
            duplicate(l, s, &board, news);
        }
    }
    let delivered = Seq(t.snd_una.get())
        .since(una)
        .wrapping_add(board.bytes())
        .wrapping_sub(held);
    slow_down(
        t,
        &board,
        delivered,
        seg.ack.after(una) && edge == t.lost_edge.get(),
    );
    if t.snd_wnd.get() != 0 && t.rtx_kind.get() == rtx::PERSIST {
        // The window opened: transmit, and let the retransmission timer start anew.
        t.t_rtx.set(0);
        t.rtx_kind.set(rtx::NONE);
        t.backoff.set(0);
        t.probes.set(0);
    }
    // As Linux: what `MSG_MORE` held back goes when the peer says anything.
    t.tflags.set(t.tflags.get() & !tflag::MORE);
    if s.shut.load(Relaxed) != 3 || s.tcp_state() != TcpState::Closed {
        // Data may follow, the window may have opened: `output` decides.
        l.post(id);
    }
    Step::Next
}

/// It acknowledges what was acknowledged before the last window, or was never sent.
fn is_ancient(s: &Sock, seg: &Seg<'_>) -> bool {
    let t = &s.tcb;
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

/// An ACK from before SND.UNA: its SACK blocks are news at the most, neither its window nor its time count.
fn old(l: &mut Locked<'_, '_, '_>, s: &Sock, seg: &Seg<'_>) -> Step {
    let t = &s.tcb;
    let mut board = Board::load(t);
    if take_sacks(s, seg, &mut board) {
        board.store(t);
        maybe_lost(l, s, &board);
    }
    if is_predicted(s, seg) {
        acceptable::take_stamp(l, s, seg);
    }
    t.tflags.set(t.tflags.get() & !tflag::MORE);
    Step::Next
}

/// The segment is discarded with a challenge ACK. Not so, as in Linux, when it is the next data and nothing else: whoever
/// knows all that its header prediction compares is no blind attacker.
fn too_old(l: &mut Locked<'_, '_, '_>, id: SockId, s: &Sock, seg: &Seg<'_>) -> Step {
    let t = &s.tcb;
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
fn is_predicted(s: &Sock, seg: &Seg<'_>) -> bool {
    let t = &s.tcb;
    let o = &seg.hdr.options;
    s.tcp_state() == TcpState::Established
        && seg.flags.without(TcpFlags::PSH) == TcpFlags::ACK
        && seg.seq == Seq(t.rcv_nxt.get())
        // Memory for the first data has to be asked for.
        && (seg.len == 0 || s.bytes_in.load(Relaxed) > 0)
        && window_of(t, seg) == t.snd_wnd.get()
        && t.ooo.get().is_none()
        && t.tflags.get() & (tflag::FIN_SEEN | tflag::URG_IN) == 0
        && (t.tflags.get() & tflag::TS == 0 || o.ts.is_some() && o.sack_n == 0)
}

/// While the window is reduced, every acknowledgment says how much may go out.
fn slow_down(t: &Tcb, board: &Board, delivered: u32, advanced: bool) {
    let sack = t.tflags.get() & tflag::SACK != 0;
    match t.cc_phase() {
        Phase::Cwr => cc::reduce(t, board, delivered, advanced, t.mss.get()),
        Phase::Recovery if sack => cc::reduce(t, board, delivered, advanced, t.mss.get()),
        _ => {}
    }
}

/// SYN_RCVD: the ACK of our SYN establishes the connection.
fn syn_rcvd(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, id: SockId) -> Step {
    let s = l.st.sock(id);
    let t = &s.tcb;
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
        rtt::sample(t, ns, &l.st.opts);
    }
    t.rtt_at.set(0);
    t.backoff.set(0);
    t.t_rtx.set(0);
    t.rtx_kind.set(rtx::NONE);
    t.first_rtx.set(0);
    t.snd_una.set(Seq(t.iss.get()).add(1).0);
    t.snd_wnd.set(window_of(t, seg));
    user::connect::larger_window(l, s, t.snd_wnd.get());
    cc::init(t, t.mss.get(), l.st.opts.initial_cwnd);
    t.snd_wl1.set(seg.seq.0);
    t.snd_wl2.set(seg.ack.0);
    s.set_tcp_state(TcpState::Established);
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
pub(super) fn may_update_window(s: &Sock, seg: &Seg<'_>) -> bool {
    let t = &s.tcb;
    let wl1 = Seq(t.snd_wl1.get());
    let larger = window_of(t, seg) > t.snd_wnd.get() || seg.hdr.window == 0;
    seg.ack.after(Seq(t.snd_una.get())) || seg.seq.after(wl1) || seg.seq == wl1 && larger
}

/// SND.WND, guarded by WL1 and WL2 against old segments. As Linux, a segment that acknowledges something new counts
/// whatever its sequence number: it may be repeated data with the peer's present window, and a window that was kept
/// would reach as far beyond its edge as SND.UNA moves.
fn update_window(l: &mut Locked<'_, '_, '_>, s: &Sock, seg: &Seg<'_>) {
    let t = &s.tcb;
    let wl1 = Seq(t.snd_wl1.get());
    if may_update_window(s, seg) {
        let wnd = window_of(t, seg);
        t.snd_wnd.set(wnd);
        if wnd > t.max_wnd.get() {
            user::connect::larger_window(l, s, wnd);
        }
        t.snd_wl1.set(wl1.latest(seg.seq).0);
        t.snd_wl2.set(seg.ack.0);
    }
}

/// Notes the SACK blocks; true when they told something new.
fn take_sacks(s: &Sock, seg: &Seg<'_>, board: &mut Board) -> bool {
    let t = &s.tcb;
    if t.tflags.get() & tflag::SACK == 0 {
        return false;
    }
    let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
    let mut news = false;
    let n = usize::from(seg.hdr.options.sack_n);
    for (a, b) in seg.hdr.options.sack.iter().take(n) {
        // A block below SND.UNA is a D-SACK (RFC 2883); one beyond SND.NXT is nonsense.
        if a.before(*b) && a.after_eq(una) && b.before_eq(nxt) {
            news |= board.add((*a, *b));
        }
    }
    news
}

/// SND.UNA moves.
fn advance(l: &mut Locked<'_, '_, '_>, id: SockId, s: &Sock, seg: &Seg<'_>, board: &mut Board) {
    let t = &s.tcb;
    let una = Seq(t.snd_una.get());
    let acked = seg.ack.since(una);
    let fin = t.tflags.get() & tflag::FIN_SENT != 0 && seg.ack == Seq(t.snd_nxt.get());
    let bytes = acked.wrapping_sub(u32::from(fin));
    sendq::consume(l.st, s, bytes);
    t.snd_una.set(seg.ack.0);
    t.dupacks.set(0);
    t.probes.set(0);
    t.first_rtx.set(0);
    if fin {
        t.tflags.set(t.tflags.get() | tflag::FIN_ACKED);
    }
    take_rtt(l, s, seg);
    board.prune(seg.ack);
    t.backoff.set(0);
    t.tflags.set(t.tflags.get() & !tflag::TLP);
    let mss = t.mss.get();
    match t.cc_phase() {
        Phase::Open => cc::on_ack(t, bytes, mss, l.env.now),
        Phase::Cwr => {}
        phase => in_recovery(l, s, seg, board, bytes, phase),
    }
    if board.highest().is_some() && matches!(t.cc_phase(), Phase::Open | Phase::Cwr) {
        maybe_lost(l, s, board);
    }
    timers::restart_rtx(l, id);
    // Room for the program to write.
    let queued = s.sq_len.load(Relaxed);
    if s.has(flag::NOSPACE) && user::send::has_space(l.st, s, queued) {
        s.clear_flag(flag::NOSPACE);
        l.raise(id, ev::SPACE);
    }
}

fn take_rtt(l: &mut Locked<'_, '_, '_>, s: &Sock, seg: &Seg<'_>) {
    let t = &s.tcb;
    let at = t.rtt_at.get();
    if at != 0 && seg.ack.after_eq(Seq(t.rtt_seq.get())) {
        let ns = l.env.now.since(Instant(at));
        t.rtt_at.set(0);
        rtt::sample(t, ns, &l.st.opts);
        cc::on_rtt(t, ns, seg.ack);
    }
}

/// An ACK that moves SND.UNA while recovering.
fn in_recovery(
    l: &mut Locked<'_, '_, '_>,
    s: &Sock,
    seg: &Seg<'_>,
    board: &Board,
    bytes: u32,
    phase: Phase,
) {
    let t = &s.tcb;
    let mss = t.mss.get();
    if seg.ack.after_eq(Seq(t.recover.get())) {
        cc::exit(t, mss);
        return;
    }
    if Seq(t.rtx_nxt.get()).before(seg.ack) {
        t.rtx_nxt.set(seg.ack.0);
    }
    if phase == Phase::Loss {
        // After a timeout the window grows again by slow start.
        cc::on_ack(t, bytes, mss, l.env.now);
        return;
    }
    if t.tflags.get() & tflag::SACK == 0 {
        // NewReno (RFC 6582): a partial ACK means that the next segment is lost as well.
        t.rtx_nxt.set(seg.ack.0);
        t.lost_edge.set(seg.ack.add(mss).0);
        return;
    }
    raise_edge(t, board, mss);
    // A partial ACK up to a hole that was sent again already: that retransmission is lost too when it is older
    // than a round trip.
    head_lost_again(l, s, board);
}

/// What lies more than three segments below the highest SACKed byte is lost.
fn raise_edge(t: &crate::tcp::tcb::Tcb, board: &Board, mss: u32) {
    if let Some(high) = board.highest() {
        let edge = high.back(mss.saturating_mul(3));
        if edge.after(Seq(t.lost_edge.get())) {
            t.lost_edge.set(edge.0);
        }
    }
}

/// A retransmission of the first unacknowledged byte is itself lost when data that was sent after it is SACKed (RFC 8985).
fn head_lost_again(l: &mut Locked<'_, '_, '_>, s: &Sock, board: &Board) {
    let t = &s.tcb;
    let at = t.head_rtx_at.get();
    let after = Seq(t.head_rtx_nxt.get());
    if at == 0 || !board.highest().is_some_and(|high| high.after(after)) {
        return;
    }
    let patience = t.srtt.get().saturating_mul(2).max(crate::time::MS);
    if l.env.now.since(Instant(at)) > patience && Seq(t.rtx_nxt.get()).after(Seq(t.snd_una.get())) {
        t.rtx_nxt.set(t.snd_una.get());
        t.head_rtx_at.set(0);
    }
}

/// A duplicate ACK (RFC 5681 section 3.2; with SACK, RFC 6675 section 5).
fn duplicate(l: &mut Locked<'_, '_, '_>, s: &Sock, board: &Board, news: bool) {
    let t = &s.tcb;
    t.dupacks.set(t.dupacks.get().saturating_add(1));
    let mss = t.mss.get();
    match t.cc_phase() {
        Phase::Open | Phase::Cwr => {
            if board.is_empty() || !news {
                if t.dupacks.get() >= 3 && Seq(t.snd_una.get()).after_eq(Seq(t.recover.get())) {
                    enter(l, s, Seq(t.snd_una.get()).add(mss));
                }
            } else {
                maybe_lost(l, s, board);
            }
        }
        Phase::Recovery => {
            if board.is_empty() {
                // NewReno inflates the window: a segment has left the network.
                t.cwnd.set(t.cwnd.get().saturating_add(mss));
            } else {
                raise_edge(t, board, mss);
                head_lost_again(l, s, board);
            }
        }
        Phase::Loss => head_lost_again(l, s, board),
    }
}

/// Enters recovery when the SACKed ranges say that something is lost: more than three segments lie above a hole, or
/// three duplicate ACKs came.
fn maybe_lost(l: &mut Locked<'_, '_, '_>, s: &Sock, board: &Board) {
    let t = &s.tcb;
    let mss = t.mss.get();
    let una = Seq(t.snd_una.get());
    let Some(high) = board.highest() else { return };
    let above = board.bytes();
    if above > mss.saturating_mul(2) || t.dupacks.get() >= 3 {
        let edge = high.back(mss.saturating_mul(3)).latest(una.add(mss));
        enter(l, s, edge);
    } else if board.ranges().len() == 1
        && high == Seq(t.snd_nxt.get())
        && s.sq_len.load(Relaxed) <= t.snd_nxt.get().wrapping_sub(t.snd_una.get())
        && t.dupacks.get() >= 1
        && Seq(t.snd_nxt.get()).since(una) <= mss.saturating_mul(4)
    {
        // Early retransmit (RFC 5827): the flight is too short for three duplicate ACKs.
        let (_, end) = board.hole(una);
        enter(l, s, end.unwrap_or(una.add(mss)));
    }
}

fn enter(l: &mut Locked<'_, '_, '_>, s: &Sock, edge: Seq) {
    let t = &s.tcb;
    count!(l, tcp_recovery);
    let mss = t.mss.get();
    cc::enter_recovery(t, mss);
    t.rtx_nxt.set(t.snd_una.get());
    t.lost_edge.set(edge.earliest(Seq(t.snd_nxt.get())).0);
    t.head_rtx_at.set(0);
    t.rtt_at.set(0);
}

/// What the acknowledgment of our FIN changes.
fn finish_states(l: &mut Locked<'_, '_, '_>, id: SockId, s: &Sock) {
    if s.tcb.tflags.get() & tflag::FIN_ACKED == 0 {
        return;
    }
    match s.tcp_state() {
        TcpState::FinWait1 => {
            s.set_tcp_state(TcpState::FinWait2);
            // Linux tells everybody of this change, for the sake of a lingering close.
            l.raise(id, ev::STATE);
            l.enter_fin_wait2(id);
        }
        TcpState::Closing => {
            s.set_tcp_state(TcpState::TimeWait);
            l.enter_time_wait(id);
        }
        TcpState::LastAck => l.conn_done(id),
        _ => {}
    }
}
