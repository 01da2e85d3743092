//! RACK (RFC 8985): a segment is lost when one that was sent sufficiently later has arrived.

use super::super::cc::Phase;
use super::super::flight::{Flight, RUNS, Run, mark};
use super::super::tcb::{Tcb, rtx, tflag};
use super::super::{cc, timers, tx};
use super::{alert, mark_lost, micros, sent_after};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::time::{MS, US};
use flyover_wire::Seq;

/// Recoveries after which a widened reordering window is narrow again.
const PERSIST: u32 = 16;

/// `r` was delivered.
pub(super) fn advance(t: Flight<'_>, r: &Run, now: u32) {
    let rtt = now.wrapping_sub(r.at);
    if u64::from(rtt) < t.min_rtt.get() / US && r.has(mark::RETRANS | mark::EVER) {
        // Rather the first transmission than the second.
        return;
    }
    t.tflags.set(t.tflags.get() | tflag::RACK_NEWS);
    t.rack_rtt.set(rtt);
    if sent_after((r.at, r.end), (t.rack_at.get(), Seq(t.rack_end.get()))) {
        t.rack_at.set(r.at);
        t.rack_end.set(r.end.0);
    }
}

/// The clock of microseconds goes round in an hour: what lies further back than a quarter of that says nothing any more, and must
/// not look as if it were to come.
pub(crate) fn forget_age(t: &Tcb, now: u32) {
    const QUARTER: u32 = 1 << 30;
    if now.wrapping_sub(t.rack_at.get()) > QUARTER {
        t.rack_at.set(now.wrapping_sub(QUARTER));
    }
}

/// How much later, us.
fn reo_window(t: Flight<'_>) -> u32 {
    if t.reord_seen.get() == 0
        && (t.cc_phase() >= Phase::Recovery || t.sacked_out.get() >= t.reordering.get())
    {
        return 0;
    }
    let quarters = t.min_rtt.get() / US / 4 * u64::from(t.reo_steps.get());
    u32::try_from(quarters.min(t.srtt.get() / US / 8)).unwrap_or(u32::MAX)
}

/// Time until the run counts as lost, us; not positive: it does.
pub(crate) fn remaining(t: Flight<'_>, r: &Run, window: u32, now: u32) -> i64 {
    i64::from(t.rack_rtt.get()) + i64::from(window) - i64::from(now.wrapping_sub(r.at))
}

/// Marks what is lost; returns how long to wait for the next one, us.
fn detect(t: Flight<'_>, now: u32) -> u32 {
    if t.len() + 4 > RUNS {
        t.make_room();
    }
    let window = reo_window(t);
    let latest = (t.rack_at.get(), Seq(t.rack_end.get()));
    let mut wait = 0;
    let mut i = 0;
    while let Some(r) = t.get(i) {
        i += 1;
        let pending = r.has(mark::LOST) && !r.has(mark::RETRANS);
        if r.has(mark::SACKED) || pending || !sent_after(latest, (r.at, r.end)) {
            continue;
        }
        match remaining(t, &r, window, now) {
            left if left > 0 => wait = wait.max(u32::try_from(left).unwrap_or(u32::MAX)),
            _ => mark_lost(t, i - 1),
        }
    }
    wait
}

/// After an acknowledgment. True: the timer of the reordering window runs now.
pub(super) fn mark(l: &mut Locked<'_, '_, '_>, id: SockId, now: u32) -> bool {
    let t = l.st.flight(id);
    if t.tflags.get() & tflag::RACK_NEWS == 0 {
        return false;
    }
    t.tflags.set(t.tflags.get() & !tflag::RACK_NEWS);
    let wait = detect(t, now);
    if wait > 0 {
        // As Linux: at least two milliseconds more.
        timers::arm(l, id, rtx::REO, u64::from(wait) * US + 2 * MS);
    }
    wait > 0
}

/// The timer of the reordering window.
pub(crate) fn detect_late(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.flight(id);
    let (before, lost) = (super::in_network(&t), t.lost.get());
    let _: u32 = detect(t, micros(l.env.now));
    if before != super::in_network(&t) {
        if t.cc_phase() != Phase::Recovery {
            alert::enter_recovery(l, id, false);
            cc::reduce(&t, 1, t.lost.get() == lost);
        }
        tx::send_lost(l, id);
    }
    if t.rtx_kind.get() != rtx::RTO {
        timers::rearm_rto(l, id);
    }
}

/// The reordering window follows what the peer says came twice.
pub(super) fn update_window(t: Flight<'_>) {
    let f = t.tflags.get();
    if f & tflag::RACK_DSACK == 0 {
        if t.reo_persist.get() == 0 {
            t.reo_steps.set(1);
        }
        return;
    }
    t.tflags.set(f & !tflag::RACK_DSACK);
    if Seq(t.snd_una.get()).before(Seq(t.rack_round.get())) {
        // Less than a round trip ago it was widened.
        return;
    }
    t.reo_steps.set(t.reo_steps.get() + 1);
    t.rack_round.set(t.snd_nxt.get());
    t.reo_persist.set(PERSIST);
}

/// Recovery ended, and the reductions were needed.
pub(super) fn persist_less(t: Flight<'_>) {
    t.reo_persist.set(t.reo_persist.get().saturating_sub(1));
}

/// It was a mistake.
pub(super) fn persist_more(t: Flight<'_>) {
    t.reo_persist.set((t.reo_persist.get() + 1).min(PERSIST));
}
