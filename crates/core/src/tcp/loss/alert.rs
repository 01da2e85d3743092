//! What is unusual about an acknowledgment, and the phases that it leads to and from (`tcp_fastretrans_alert`).

use super::super::cc::{self, Phase};
use super::super::flight::{Flight, Run, mark};
use super::super::rx::count;
use super::super::tcb::{rtx, tflag};
use super::super::timers;
use super::{Ack, Rexmit, any_again, delivered, mark_lost, rack, remaining, tell, undo};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::time::MS;
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

pub(super) fn alert(l: &mut Locked<'_, '_, '_>, id: SockId, a: &mut Ack) {
    let t = l.st.flight(id);
    if t.packets_out.get() == 0 {
        t.sacked_out.set(0);
    }
    if a.has(tell::ECE) {
        t.prior_ssthresh.set(0);
    }
    if reneged(l, id, a) || ends(l, t) {
        return;
    }
    match t.cc_phase() {
        Phase::Recovery => {
            if !a.has(tell::ADVANCED) {
                add_reno(t, a.dups);
            } else if undo::partial(l, t, a.una) {
                return;
            }
            if undo::by_dsack(l, t) {
                try_to_open(t, a);
            }
            identify(l, id, a);
            if t.cc_phase() != Phase::Recovery {
                if t.lost_out.get() == 0 {
                    return;
                }
                enter_recovery(l, id, a.has(tell::ECE));
            }
        }
        Phase::Loss => {
            process_loss(l, id, a);
            identify(l, id, a);
            if t.cc_phase() != Phase::Open && !a.has(tell::LOST_RETRANS) {
                return;
            }
            if !usual(l, id, a) {
                return;
            }
        }
        _ => {
            if !usual(l, id, a) {
                return;
            }
        }
    }
    a.rexmit = Rexmit::Lost;
}

/// Phases in which nothing is known to be lost. True: something is now.
fn usual(l: &mut Locked<'_, '_, '_>, id: SockId, a: &mut Ack) -> bool {
    let t = l.st.flight(id);
    if is_reno(t) {
        if a.has(tell::ADVANCED) {
            t.sacked_out.set(0);
        }
        add_reno(t, a.dups);
    }
    if t.cc_phase() <= Phase::Disorder {
        let _: bool = undo::by_dsack(l, t);
    }
    identify(l, id, a);
    if t.lost_out.get() == 0 {
        try_to_open(t, a);
        return false;
    }
    enter_recovery(l, id, a.has(tell::ECE));
    true
}

pub(super) fn is_reno(t: Flight<'_>) -> bool {
    t.tflags.get() & tflag::SACK == 0
}

/// The peer dropped what it had SACKed: after a moment everything counts as lost.
fn reneged(l: &mut Locked<'_, '_, '_>, id: SockId, a: &mut Ack) -> bool {
    if !a.has(tell::RENEGED) || !a.has(tell::ADVANCED) {
        return false;
    }
    let t = l.st.flight(id);
    timers::arm(l, id, rtx::RTO, (t.srtt.get() / 2).max(10 * MS));
    a.told &= !tell::TIMER;
    true
}

/// The end of a phase. True: nothing more is to be done.
fn ends(l: &Locked<'_, '_, '_>, t: Flight<'_>) -> bool {
    let (una, high) = (Seq(t.snd_una.get()), Seq(t.recover.get()));
    match t.cc_phase() {
        Phase::Open => t.retrans_stamp.set(0),
        _ if una.before(high) => {}
        Phase::Cwr if una != high => {
            cc::end_reduction(&t, l.env.now);
            t.set_phase(Phase::Open);
        }
        Phase::Recovery => {
            if is_reno(t) {
                t.sacked_out.set(0);
            }
            if undo::recovery(l, t) {
                return true;
            }
            // The phase is Open by now.
            cc::end_reduction(&t, l.env.now);
        }
        _ => {}
    }
    false
}

/// Marks what is lost.
fn identify(l: &mut Locked<'_, '_, '_>, id: SockId, a: &mut Ack) {
    let t = l.st.flight(id);
    if t.packets_out.get() == 0 {
        return;
    }
    if is_reno(t) {
        newreno(t, a.has(tell::ADVANCED));
        return;
    }
    let before = t.retrans_out.get();
    if rack::mark(l, id, a.now) {
        a.told &= !tell::TIMER;
    }
    if before > t.retrans_out.get() {
        a.told |= tell::LOST_RETRANS;
    }
}

/// RFC 6582: the first segment, after three duplicates, and after every partial acknowledgment.
fn newreno(t: Flight<'_>, advanced: bool) {
    let phase = t.cc_phase();
    let early = phase < Phase::Recovery && t.sacked_out.get() >= t.reordering.get();
    if !(early || phase == Phase::Recovery && advanced) {
        return;
    }
    let Some(r) = t.first().filter(|r| !r.has(mark::LOST)) else {
        return;
    };
    if r.count() > 1 {
        let _: bool = t.split(0, r.end_of(1));
    }
    mark_lost(t, 0);
}

/// Duplicate ACKs stand for segments that have left the network.
pub(crate) fn add_reno(t: Flight<'_>, dups: u32) {
    if !is_reno(t) || dups == 0 {
        return;
    }
    let before = t.sacked_out.get();
    t.sacked_out.set(before.saturating_add(dups));
    reno_reordering(t, 0);
    delivered(t, t.sacked_out.get().saturating_sub(before));
}

/// `n` segments were acknowledged: one filled a hole, the others had been duplicate ACKs.
pub(super) fn remove_reno(t: Flight<'_>, n: u32) {
    if n > 0 {
        let sacked = t.sacked_out.get();
        delivered(t, n.saturating_sub(sacked).max(1));
        t.sacked_out.set(sacked.saturating_sub(n - 1));
    }
    reno_reordering(t, n);
}

fn reno_reordering(t: Flight<'_>, more: u32) {
    if limit_reno(t) {
        let n = t.packets_out.get().saturating_add(more);
        t.reordering.set(n.min(cc::MAX_REORDERING));
        t.reord_seen.set(t.reord_seen.get().saturating_add(1));
    }
}

/// More duplicates than segments: some were none of ours.
pub(super) fn limit_reno(t: Flight<'_>) -> bool {
    let out = t.packets_out.get();
    let holes = t.lost_out.get().max(1).min(out);
    let over = t.sacked_out.get() + holes > out;
    if over {
        t.sacked_out.set(out - holes);
    }
    over
}

fn try_to_open(t: Flight<'_>, a: &Ack) {
    if !any_again(t) {
        t.retrans_stamp.set(0);
    }
    if a.has(tell::ECE) {
        cc::enter_cwr(&t);
    }
    if t.cc_phase() != Phase::Cwr {
        keep_open(t);
    }
}

/// Open, or Disorder while something is missing or was sent again.
pub(super) fn keep_open(t: Flight<'_>) {
    let left = t.sacked_out.get() + t.lost_out.get() > 0;
    let phase = if left || any_again(t) {
        Phase::Disorder
    } else {
        Phase::Open
    };
    if t.cc_phase() != phase {
        t.set_phase(phase);
        t.recover.set(t.snd_nxt.get());
    }
}

/// From now on the reduction of the window can turn out to have been a mistake.
fn begin_undo(t: Flight<'_>) {
    let f = t.tflags.get();
    t.undo_marker.set(t.snd_una.get());
    t.tflags.set(f | tflag::UNDO);
    let probe = f & tflag::TLP != 0 && f & tflag::TLP_AGAIN != 0;
    t.undo_retrans
        .set(match t.retrans_out.get() + u32::from(probe) {
            0 => u32::MAX,
            n => n,
        });
}

pub(super) fn enter_recovery(l: &mut Locked<'_, '_, '_>, id: SockId, ece: bool) {
    count!(l, tcp_recovery);
    let t = l.st.flight(id);
    if !any_again(t) {
        t.retrans_stamp.set(0);
    }
    t.prior_ssthresh.set(0);
    begin_undo(t);
    if !t.is_reducing() {
        if !ece {
            t.prior_ssthresh.set(cc::threshold(&t));
        }
        cc::begin_reduction(&t);
    }
    t.set_phase(Phase::Recovery);
}

/// After a timeout: was it spurious, is the episode over? (`tcp_process_loss`)
fn process_loss(l: &Locked<'_, '_, '_>, id: SockId, a: &mut Ack) {
    let (s, t) = (l.st.net(id), l.st.flight(id));
    let (una, high, nxt) = (
        Seq(t.snd_una.get()),
        Seq(t.recover.get()),
        Seq(t.snd_nxt.get()),
    );
    let recovered = !una.before(high);
    let advanced = a.has(tell::ADVANCED);
    if advanced && undo::loss(l, t, false) {
        return;
    }
    let frto = tflag::FRTO;
    if t.tflags.get() & frto != 0 {
        if a.has(tell::ORIGINAL) && undo::loss(l, t, true) {
            return;
        }
        if nxt.after(high) {
            if a.has(tell::SACKED) || a.dups > 0 {
                t.tflags.set(t.tflags.get() & !frto);
            }
        } else if advanced && !recovered {
            t.recover.set(nxt.0);
            let flight = nxt.since(una);
            let unsent =
                s.net.sq_len.load(Relaxed) > flight && t.tflags.get() & tflag::FIN_SENT == 0;
            if unsent && t.snd_wnd.get() > flight {
                a.rexmit = Rexmit::New;
                return;
            }
            t.tflags.set(t.tflags.get() & !frto);
        }
    }
    if recovered {
        let _: bool = undo::recovery(l, t);
        return;
    }
    if is_reno(t) {
        if nxt.after(Seq(t.recover.get())) && a.dups > 0 {
            add_reno(t, a.dups);
        } else if advanced {
            t.sacked_out.set(0);
        }
    }
    a.rexmit = Rexmit::Lost;
}

/// The retransmission timer expired (RFC 6298 section 5.4; `tcp_enter_loss`).
pub(crate) fn enter_loss(t: Flight<'_>, now: u32) {
    let phase = t.cc_phase();
    // With something in flight for so long this is the only place that is passed often enough.
    super::forget_age(&t, now);
    timeout_lost(t, now);
    let over = !Seq(t.recover.get()).after(Seq(t.snd_una.get()));
    let first = t.retransmits.get() == 0;
    if phase <= Phase::Disorder || over || phase == Phase::Loss && first {
        t.prior_ssthresh.set(cc::threshold(&t));
        t.prior_cwnd.set(t.cwnd.get());
        t.ssthresh.set(cc::cubic::on_loss(&t));
        begin_undo(t);
    }
    t.cwnd.set(super::in_network(&t) + 1);
    t.cwnd_acc.set(0);
    if phase <= Phase::Disorder && t.sacked_out.get() >= cc::REORDERING {
        t.reordering.set(t.reordering.get().min(cc::REORDERING));
    }
    t.set_phase(Phase::Loss);
    cc::cubic::reset(&t);
    t.recover.set(t.snd_nxt.get());
    let f = t.tflags.get() & !(tflag::TLP | tflag::FRTO);
    let frto = phase < Phase::Recovery || !first;
    t.tflags.set(if frto { f | tflag::FRTO } else { f });
    cc::tell_of_reduction(&t);
}

/// Everything but what was sent a moment ago.
fn timeout_lost(t: Flight<'_>, now: u32) {
    let reneged = t.first().is_some_and(|r| r.has(mark::SACKED));
    if is_reno(t) {
        t.sacked_out.set(0);
    }
    for i in 0..t.len() {
        let Some(r) = t.get(i) else { break };
        if reneged {
            let marks = r.marks & !mark::SACKED;
            t.set(i, &Run { marks, ..r });
        } else if i > 0 && !is_reno(t) && remaining(t, &r, 0, now) > 0 {
            continue;
        }
        mark_lost(t, i);
    }
}
