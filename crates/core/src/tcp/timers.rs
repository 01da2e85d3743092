//! The timers of a connection: retransmission and its relatives, delayed ACK, keep-alive, the life-time of closing
//! states. Each is a deadline in the control block; the socket hangs on the wheel at the earliest.

use super::cc::Phase;
use super::flight::Flight;
use super::patience::{given_up, is_deaf, remaining_patience};
use super::rx::count;
use super::state::TcpState;
use super::tcb::{Tcb, rtx, tflag};
use super::user::connect::LINEAR_SYNS;
use super::{loss, rtt, tx, user};
use crate::error::Error;
use crate::sock::{Kind, SockId, flag};
use crate::stack::locked::Locked;
use crate::stack::wheel;
use crate::time::{Instant, MS, SEC, US};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// How long an unresolved neighbour is waited for while connecting (Linux: 3 probes, 1 s apart).
const NEIGH_PATIENCE: u64 = 3 * SEC;

/// Hangs the socket at its earliest deadline.
pub(crate) fn rearm(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    if user::handover::is_frozen(&s) {
        return;
    }
    let t = &s.net.tcb;
    let mut min = u64::MAX;
    for d in [
        t.t_rtx.get(),
        t.t_delack.get(),
        t.t_keep.get(),
        t.t_life.get(),
    ] {
        if d != 0 && d < min {
            min = d;
        }
    }
    if min != u64::MAX {
        wheel::arm(l.st, id, min);
    }
}

/// Hangs the socket for one more deadline: it hangs for the others already.
#[inline]
pub(crate) fn hang(l: &mut Locked<'_, '_, '_>, id: SockId, deadline: u64) {
    if !user::handover::is_frozen(l.st.sock(id)) {
        wheel::arm(l.st, id, deadline);
    }
}

/// Starts the timer of retransmissions and their relatives.
pub(crate) fn arm(l: &mut Locked<'_, '_, '_>, id: SockId, kind: u32, wait: u64) {
    let t = l.st.tcb(id);
    let deadline = l.env.now.0.saturating_add(wait);
    t.rtx_kind.set(kind);
    t.t_rtx.set(deadline);
    hang(l, id, deadline);
}

/// Something was acknowledged: the tail-loss probe comes before the timeout where it may (`tcp_set_xmit_timer`).
pub(crate) fn set_xmit(l: &mut Locked<'_, '_, '_>, id: SockId) {
    if !schedule_probe(l, id, true) {
        rearm_rto(l, id);
    }
}

/// The retransmission timer starts anew, or stops when nothing is in flight. Where a probe or the reordering window had
/// the timer, the time since the first segment was sent is taken off.
pub(crate) fn rearm_rto(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.tcb(id);
    if t.packets_out.get() == 0 {
        if t.rtx_kind.get() != rtx::RETRY {
            t.t_rtx.set(0);
            t.rtx_kind.set(rtx::NONE);
        }
        return;
    }
    let rto = rtt::rto(t, &l.st.opts);
    let wait = match t.rtx_kind.get() {
        rtx::TLP | rtx::REO => until_timeout(l, l.st.flight(id), rto).unwrap_or(1),
        _ => rto,
    };
    arm(l, id, rtx::RTO, wait);
}

/// How long until the first segment in flight is `rto` old; None: it is.
fn until_timeout(l: &Locked<'_, '_, '_>, t: Flight<'_>, rto: u64) -> Option<u64> {
    let head = t.first()?;
    let age = loss::micros(l.env.now).wrapping_sub(head.at);
    rto.checked_sub(u64::from(age) * US).filter(|n| *n > 0)
}

/// RFC 8985 section 7.2: after two round trips; with a single segment in flight, the peer's delayed ACK on top. Never
/// later than the timeout, which `advancing` would put off. False: no probe now.
pub(crate) fn schedule_probe(l: &mut Locked<'_, '_, '_>, id: SockId, advancing: bool) -> bool {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let open = matches!(t.cc_phase(), Phase::Open | Phase::Cwr);
    let out = t.packets_out.get();
    if out == 0 || !open || t.tflags.get() & tflag::SACK == 0 || !s.tcp_state().transmits() {
        return false;
    }
    let mut wait = match t.srtt.get() {
        0 => SEC,
        n if out == 1 => {
            let delayed = u64::from(l.st.opts.rto_min_ms) * MS;
            n.saturating_mul(2).saturating_add(delayed)
        }
        n => n.saturating_mul(2).saturating_add(2 * MS),
    };
    let rto = rtt::rto(t, &l.st.opts);
    let left = if advancing {
        Some(rto)
    } else {
        until_timeout(l, l.st.flight(id), rto)
    };
    if let Some(left) = left {
        wait = wait.min(left);
    }
    arm(l, id, rtx::TLP, wait);
    true
}

/// There is a way again.
pub(crate) fn way_is_there(t: &Tcb) {
    if t.tflags.get() & tflag::BLOCKED != 0 {
        t.tflags.set(t.tflags.get() & !tflag::BLOCKED);
        t.set_waits(0);
    }
}

/// Something could not be sent for a reason that passes: look again after `ns`, doubled each time.
pub(crate) fn retry(l: &mut Locked<'_, '_, '_>, id: SockId, ns: u64) {
    let t = l.st.tcb(id);
    let kind = t.rtx_kind.get();
    if t.t_rtx.get() != 0 && kind != rtx::RETRY && t.tflags.get() & tflag::BLOCKED == 0 {
        return;
    }
    let n = t.waits().min(8);
    if t.tflags.get() & tflag::BLOCKED != 0 {
        t.set_waits(n + 1);
    }
    t.rtx_kind.set(rtx::RETRY);
    t.t_rtx.set(l.env.now.0.saturating_add(ns << n));
    if t.first_rtx.get() == 0 {
        t.first_rtx.set(l.env.now.0.max(1));
    }
    rearm(l, id);
}

/// After transmission: data waits, nothing is in flight and the window is closed: the persist timer.
pub(crate) fn after_output(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let flight = Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get()));
    if flight != 0 || t.t_rtx.get() != 0 || s.net.sq_len.load(Relaxed) == 0 {
        return;
    }
    let corked = s.has(flag::CORK) || t.tflags.get() & tflag::MORE != 0;
    if corked && t.snd_wnd.get() != 0 {
        // The cork gives way after 200 ms (tcp(7)).
        t.rtx_kind.set(rtx::RETRY);
        t.t_rtx.set(l.env.now.0.saturating_add(200 * MS));
        rearm(l, id);
        return;
    }
    t.rtx_kind.set(rtx::PERSIST);
    t.t_rtx
        .set(l.env.now.0.saturating_add(rtt::rto(t, &l.st.opts)));
    rearm(l, id);
}

/// A deadline passed (or the wheel fired early: then nothing is due and the socket is hung up again).
pub(crate) fn expire(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    if s.kind() != Kind::Tcp || user::handover::is_frozen(&s) {
        return;
    }
    let t = &s.net.tcb;
    let now = l.env.now.0;
    let due = |d: u64| d != 0 && d <= now;
    if due(t.t_delack.get()) {
        t.t_delack.set(0);
        // No answer came to carry it.
        t.tflags
            .set(t.tflags.get() & !tflag::ANSWERS | tflag::ACK_NOW);
        l.post(id);
    }
    if due(t.t_rtx.get()) {
        t.t_rtx.set(0);
        retransmission(l, id);
    }
    if s.kind() == Kind::Tcp && due(t.t_keep.get()) {
        t.t_keep.set(0);
        keepalive(l, id);
    }
    if s.kind() == Kind::Tcp && due(t.t_life.get()) {
        t.t_life.set(0);
        end_of_life(l, id);
    }
    if s.kind() == Kind::Tcp {
        rearm(l, id);
    }
}

fn retransmission(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let kind = t.rtx_kind.get();
    t.rtx_kind.set(rtx::NONE);
    match s.tcp_state() {
        TcpState::SynSent | TcpState::SynRcvd => syn_timeout(l, id, kind),
        st if !st.transmits() => {}
        _ => match kind {
            rtx::TLP => {
                t.rtx_kind.set(rtx::TLP);
                loss::send_probe(l, id);
            }
            rtx::REO => {
                t.rtx_kind.set(rtx::REO);
                loss::detect_late(l, id);
            }
            rtx::PERSIST => persist(l, id),
            rtx::RETRY => retry_now(l, id),
            _ => timeout(l, id),
        },
    }
}

/// The neighbour may be resolved by now, the V-NIC have room, or the cork's time be up.
fn retry_now(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.tcb(id);
    if t.tflags.get() & tflag::MORE != 0 {
        t.tflags
            .set(t.tflags.get() & !(tflag::MORE | tflag::NO_PUSH));
    }
    if l.st.sock(id).has(flag::CORK) && t.tflags.get() & tflag::BLOCKED == 0 {
        uncork_once(l, id);
        return;
    }
    if Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get())) > 0 && t.tflags.get() & tflag::BLOCKED != 0
    {
        // What was lost on the unresolved way comes again by the retransmission path.
        timeout(l, id);
        return;
    }
    l.post(id);
}

fn uncork_once(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.sock(id);
    s.clear_flag(flag::CORK);
    tx::output(l, id);
    s.set_flag(flag::CORK);
}

fn syn_timeout(l: &mut Locked<'_, '_, '_>, id: SockId, kind: u32) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let active = s.tcp_state() == TcpState::SynSent;
    if user::accept::is_bereft(l.st, id) {
        l.destroy(id);
        return;
    }
    if kind == rtx::RETRY {
        let since = t.first_rtx.get();
        if since != 0 && l.env.now.since(Instant(since)) > NEIGH_PATIENCE {
            count!(l, tcp_failed);
            if active || !s.has(flag::CHILD) {
                l.reset_conn(id, Error::HostUnreachable);
            } else {
                l.destroy(id);
            }
            return;
        }
        resend_syn(l, id, active);
        if t.t_rtx.get() == 0 {
            user::connect::arm_syn_timer(l, id);
        }
        return;
    }
    let n = t.backoff.get() + 1;
    let limit = match (active, s.syncnt.get()) {
        (true, 0) => l.st.opts.syn_retries.saturating_add(LINEAR_SYNS),
        (true, n) => n.saturating_add(LINEAR_SYNS),
        (false, _) => l.st.opts.synack_retries,
    };
    let user = u64::from(s.user_timeout.get()) * MS;
    let since = t.first_rtx.get();
    let late = active && user != 0 && since != 0 && l.env.now.since(Instant(since)) >= user;
    if n > limit || late {
        count!(l, tcp_failed);
        if active || !s.has(flag::CHILD) {
            l.reset_conn(id, Error::TimedOut);
        } else {
            l.destroy(id);
        }
        return;
    }
    if since == 0 {
        t.first_rtx.set(l.env.now.0.max(1));
    }
    t.backoff.set(n);
    resend_syn(l, id, active);
    user::connect::arm_syn_timer(l, id);
}

fn resend_syn(l: &mut Locked<'_, '_, '_>, id: SockId, active: bool) {
    if active {
        tx::send_syn(l, id)
    } else {
        user::accept::is_due(l.st.sock(id));
        tx::send_syn_ack(l, id)
    }
}

/// RFC 6298 section 5.4 to 5.6 (`tcp_retransmit_timer`).
fn timeout(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if t.packets_out.get() == 0 {
        return;
    }
    count!(l, tcp_rto);
    let shut = t.snd_wnd.get() == 0 && !s.has(flag::ORPHAN);
    if if shut { is_deaf(l, s) } else { given_up(l, s) } {
        give_up(l, id);
        return;
    }
    loss::enter_loss(l.st.flight(id), loss::micros(l.env.now));
    if !shut {
        t.retransmits.set(t.retransmits.get() + 1);
    }
    // The route may be the reason, or a neighbour that went away without a word: the kernel, which never sees our
    // packets go unanswered, is asked to look after it (RFC 1122 section 2.3.2.1).
    s.net.rt_valid.set(0);
    crate::ip::tx::doubt_neighbour(l, &s);
    let sent = tx::send_first_again(l, id);
    if s.kind() != Kind::Tcp || !s.tcp_state().transmits() {
        return;
    }
    if sent {
        t.backoff.set((t.backoff.get() + 1).min(255));
    } else if t.rtx_kind.get() == rtx::RETRY && t.t_rtx.get() != 0 {
        return;
    }
    let rto = rtt::rto(t, &l.st.opts);
    let wait = match remaining_patience(l, s) {
        Some(left) => rto.min(left.max(MS)),
        None => rto,
    };
    arm(l, id, rtx::RTO, wait);
}

/// The end by time; what ICMP said is the reason, if nothing was acknowledged since.
fn give_up(l: &mut Locked<'_, '_, '_>, id: SockId) {
    count!(l, tcp_failed);
    let why = match l.st.tcb(id).soft_error.get() {
        0 => Error::TimedOut,
        n => Error::Errno(n.cast_signed()),
    };
    l.reset_conn(id, why);
}

/// There is no way for what the timer sent again: it is sent again as soon as if it had not been sent (RFC 6069).
pub(crate) fn take_step_back(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.tcb(id);
    if t.retransmits.get() == 0 || t.backoff.get() == 0 || t.rtx_kind.get() != rtx::RTO {
        return;
    }
    t.backoff.set(t.backoff.get() - 1);
    let rto = rtt::rto(t, &l.st.opts);
    let wait = until_timeout(l, l.st.flight(id), rto).unwrap_or(1);
    arm(l, id, rtx::RTO, wait);
}

/// Zero-window probe. It goes on as long as the peer answers (RFC 9293 section 3.8.6.1).
fn persist(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if s.net.sq_len.load(Relaxed) == 0 {
        return;
    }
    if tx::next_piece(l.st, id, l.env).is_some() {
        l.post(id);
        return;
    }
    if tx::send_what_fits(l, id) {
        return;
    }
    let n = t.probes.get() + 1;
    t.probes.set(n);
    let limit = if s.has(flag::ORPHAN) {
        l.st.opts.orphan_retries
    } else {
        l.st.opts.retries2
    };
    let silent = l.env.now.since(Instant(s.last_rx.get()));
    let user = u64::from(s.user_timeout.get()) * MS;
    if n > limit || (user != 0 && n > 1 && silent >= user) {
        give_up(l, id);
        return;
    }
    count!(l, tcp_persist);
    t.backoff.set((t.backoff.get() + 1).min(16));
    let _: bool = tx::send_probe(l, id);
    t.rtx_kind.set(rtx::PERSIST);
    t.t_rtx
        .set(l.env.now.0.saturating_add(rtt::rto(t, &l.st.opts)));
}

/// A keep-alive probe that finds no neighbour is tried again so often, in such steps (ns), before it counts as unanswered.
const PROBE_WAITS: u32 = 4;
const PROBE_AGAIN: u64 = 200 * MS;

fn keepalive(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if !s.has(flag::KEEPALIVE) || !keeps_alive(s.tcp_state()) {
        return;
    }
    let idle = u64::from(s.keepidle.get()) * SEC;
    let silent = l.env.now.since(Instant(s.last_rx.get()));
    let busy = t.snd_nxt.get() != t.snd_una.get() || s.net.sq_len.load(Relaxed) > 0;
    if silent < idle || busy {
        let wait = if busy { idle } else { idle - silent };
        t.t_keep.set(l.env.now.0.saturating_add(wait.max(MS)));
        return;
    }
    let user = u64::from(s.user_timeout.get()) * MS;
    let n = t.probes.get();
    let dead = if user != 0 {
        n > 0 && silent >= user
    } else {
        n >= s.keepcnt.get().max(1)
    };
    if dead {
        count!(l, tcp_failed);
        tx::send_rst(l, id);
        l.reset_conn(id, Error::TimedOut);
        return;
    }
    let sent = tx::send_probe(l, id);
    let wait = if sent || t.waits() > PROBE_WAITS {
        // Without a neighbour it counts in the end, as in Linux, where it waits for one.
        t.probes.set(n + 1);
        u64::from(s.keepintvl.get().max(1)) * SEC
    } else {
        PROBE_AGAIN
    };
    t.t_keep.set(l.env.now.0.saturating_add(wait));
}

fn keeps_alive(s: TcpState) -> bool {
    matches!(
        s,
        TcpState::Established | TcpState::CloseWait | TcpState::FinWait1 | TcpState::FinWait2
    )
}

fn end_of_life(l: &mut Locked<'_, '_, '_>, id: SockId) {
    match l.st.sock(id).tcp_state() {
        TcpState::TimeWait | TcpState::FinWait2 => l.conn_done(id),
        _ => {}
    }
}

impl Locked<'_, '_, '_> {
    /// Starts the keep-alive timer when the option is on and the state has one.
    pub(crate) fn start_keepalive(&mut self, id: SockId) {
        let Some(s) = self.st.net_of(id) else { return };
        let t = &s.net.tcb;
        if !s.has(flag::KEEPALIVE) || !keeps_alive(s.tcp_state()) {
            t.t_keep.set(0);
            return;
        }
        let last = s.last_rx.get().max(1);
        let at = Instant(last).after(u64::from(s.keepidle.get()) * SEC);
        t.t_keep.set(at.0.max(self.env.now.0 + MS));
        rearm(self, id);
    }
}
