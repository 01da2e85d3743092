//! Loss detection and recovery: what an acknowledgment tells of the segments in flight (`sacktag`, `clean`), which of them
//! are lost (`rack`: RFC 8985; RFC 6582 without SACK), what follows from it (`alert`), and what to take back when it was
//! a mistake (`undo`: RFC 3522, RFC 3708, RFC 5682).
//!
//! The order of steps is Linux's (`tcp_ack`), because the order is what a peer sees.

mod alert;
mod clean;
mod rack;
mod sacktag;
mod tail;
mod undo;

pub(crate) use alert::enter_loss;
pub(crate) use rack::{detect_late, forget_age, remaining};
pub(crate) use tail::send_probe;

use super::cc::{self, MAX_REORDERING, Phase};
use super::flight::{Flight, Run, in_network, mark};
use super::tcb::{Tcb, tflag};
use super::{timers, tx};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::time::{Instant, US};
use flyover_wire::Seq;

/// What one acknowledgment says.
pub(crate) mod tell {
    /// It carries data.
    pub const DATA: u32 = 1;
    /// It may have changed the window.
    pub const WINDOW: u32 = 2;
    /// It acknowledges segments cumulatively.
    pub const ACKED: u32 = 4;
    /// Some of which were sent more than once.
    pub const RETRANS_ACKED: u32 = 8;
    /// It SACKs something new.
    pub const SACKED: u32 = 0x20;
    /// The network is congested.
    pub const ECE: u32 = 0x40;
    /// Retransmissions were lost as well.
    pub const LOST_RETRANS: u32 = 0x80;
    /// Something that was in flight when the phase began, and sent once, has arrived.
    pub const ORIGINAL: u32 = 0x200;
    /// SND.UNA moves.
    pub const ADVANCED: u32 = 0x400;
    /// Something came twice.
    pub const DSACK: u32 = 0x800;
    /// The timer is to be set.
    pub const TIMER: u32 = 0x1000;
    /// The peer has forgotten what it had SACKed.
    pub const RENEGED: u32 = 0x2000;
    /// What came twice is the tail-loss probe.
    pub const DSACK_TLP: u32 = 0x8000;
    /// Whatever makes it no duplicate.
    pub const NOT_DUP: u32 = DATA | WINDOW | ACKED;
    /// Progress.
    pub const FORWARD: u32 = ACKED | SACKED;
}

/// What is to be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rexmit {
    Nothing,
    /// What counts as lost.
    Lost,
    /// New data, to see whether the timeout was spurious.
    New,
}

/// One acknowledgment on its way through the steps.
#[derive(Debug)]
pub(crate) struct Ack {
    /// [`tell`] bits.
    pub told: u32,
    /// SND.UNA before it.
    pub una: Seq,
    /// SND.UNA of now, or the end of what was SACKed before.
    fack: Seq,
    /// Segments in flight before it.
    packets: u32,
    delivered: u32,
    lost: u32,
    /// When the first and the last of the segments that it SACKs were sent, us; of those sent once.
    sack_times: Option<(u32, u32)>,
    /// Duplicates that it counts for.
    dups: u32,
    rexmit: Rexmit,
    /// The clock, us.
    now: u32,
}

impl Ack {
    pub fn new(t: Flight<'_>, now: Instant) -> Self {
        let una = Seq(t.snd_una.get());
        let sacked = t.highest_sacked().map_or(una, |r| r.end);
        Self {
            told: 0,
            una,
            fack: sacked,
            packets: t.packets_out.get(),
            delivered: t.delivered.get(),
            lost: t.lost.get(),
            sack_times: None,
            dups: 0,
            rexmit: Rexmit::Nothing,
            now: micros(now),
        }
    }

    pub fn has(&self, told: u32) -> bool {
        self.told & told != 0
    }
}

/// The clock of sent segments.
pub(crate) fn micros(now: Instant) -> u32 {
    (now.0 / US) as u32
}

/// The segment's SACK blocks; before anything else looks at the t.
pub(crate) use sacktag::take_sacks;

/// A segment whose acknowledgment number is not before SND.UNA; its window was taken, SND.UNA moved, its blocks noted.
pub(crate) fn acknowledged(l: &mut Locked<'_, '_, '_>, id: SockId, echo: Option<u32>, a: &mut Ack) {
    let t = l.st.flight(id);
    if a.packets == 0 {
        if a.has(tell::DSACK) {
            alert::alert(l, id, a);
        }
        tail::process(l, t, a);
        return;
    }
    clean::run(l, t, echo, a);
    rack::update_window(t);
    tail::process(l, t, a);
    let dubious = !a.has(tell::NOT_DUP)
        || a.has(tell::SACKED | tell::ECE | tell::DSACK)
        || t.cc_phase() != Phase::Open;
    if dubious {
        if !a.has(tell::ADVANCED | tell::NOT_DUP | tell::DSACK) {
            a.dups = 1;
        }
        alert::alert(l, id, a);
    }
    if a.has(tell::TIMER) {
        timers::set_xmit(l, id);
    }
    control(l, t, a);
    recover(l, id, a.rexmit);
}

/// A segment with a number from before SND.UNA: only its blocks count.
pub(crate) fn overtaken(l: &mut Locked<'_, '_, '_>, id: SockId, a: &mut Ack) {
    alert::alert(l, id, a);
    recover(l, id, a.rexmit);
}

/// How the window changes (`tcp_cong_control`).
fn control(l: &Locked<'_, '_, '_>, t: Flight<'_>, a: &Ack) {
    let delivered = t.delivered.get().wrapping_sub(a.delivered);
    if t.is_reducing() {
        let lost = t.lost.get().wrapping_sub(a.lost);
        cc::reduce(&t, delivered, a.has(tell::ADVANCED) && lost == 0);
        return;
    }
    let progress = match t.reordering.get() > cc::REORDERING {
        true => tell::FORWARD,
        false => tell::ACKED,
    };
    if a.has(progress) {
        cc::grow(&t, delivered, l.env.now);
    }
}

fn recover(l: &mut Locked<'_, '_, '_>, id: SockId, what: Rexmit) {
    let t = l.st.flight(id);
    match what {
        Rexmit::Nothing => {}
        Rexmit::Lost => tx::send_lost(l, id),
        Rexmit::New => {
            tx::send_new_now(l, id);
            if !Seq(t.snd_nxt.get()).after(Seq(t.recover.get())) {
                t.tflags.set(t.tflags.get() & !tflag::FRTO);
                tx::send_lost(l, id);
            }
        }
    }
}

/// Later than anything that the peer has told of (`tcp_highest_sack_seq`).
fn highest(t: Flight<'_>) -> Seq {
    t.highest_sacked().map_or(Seq(t.snd_una.get()), |r| r.end)
}

/// Something arrived that was sent once and lies below what had arrived before: the network changes the order.
fn reordered(t: Flight<'_>, low: Seq) {
    let high = highest(t);
    if !low.before(high) {
        return;
    }
    let (metric, mss) = (high.since(low), t.mss.get().max(1));
    if metric > t.reordering.get().saturating_mul(mss) {
        t.reordering.set(metric.div_ceil(mss).min(MAX_REORDERING));
    }
    t.reord_seen.set(t.reord_seen.get().saturating_add(1));
}

/// The `i`-th run counts as lost.
pub(crate) fn mark_lost(t: Flight<'_>, i: usize) {
    let Some(r) = t.get(i).filter(|r| !r.has(mark::SACKED)) else {
        return;
    };
    let marks = if r.has(mark::LOST) {
        if !r.has(mark::RETRANS) {
            return;
        }
        r.marks & !mark::RETRANS
    } else {
        r.marks | mark::LOST
    };
    t.lost.set(t.lost.get().wrapping_add(r.count()));
    t.set(i, &Run { marks, ..r });
}

/// Something in flight was sent more than once.
fn any_again(t: Flight<'_>) -> bool {
    t.retrans_out.get() > 0 || t.first().is_some_and(|r| r.has(mark::EVER))
}

fn delivered(t: Flight<'_>, n: u32) {
    t.delivered.set(t.delivered.get().wrapping_add(n));
}

/// `a` was sent after `b`: by time, then by number.
fn sent_after(a: (u32, Seq), b: (u32, Seq)) -> bool {
    let d = a.0.wrapping_sub(b.0).cast_signed();
    d > 0 || d == 0 && a.1.after(b.1)
}

/// The path takes smaller segments now: larger ones are lost, and nobody is to blame (`tcp_simple_retransmit`).
pub(crate) fn too_large(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.flight(id);
    let mss = t.mss.get();
    for i in 0..t.len() {
        if t.get(i).is_some_and(|r| r.unit > mss && r.bytes() > mss) {
            mark_lost(t, i);
        }
    }
    if t.lost_out.get() == 0 {
        return;
    }
    if t.tflags.get() & tflag::SACK == 0 {
        alert::limit_reno(t);
    }
    if t.cc_phase() != Phase::Loss {
        t.recover.set(t.snd_nxt.get());
        t.ssthresh.set(cc::threshold(&t));
        t.prior_ssthresh.set(0);
        t.tflags.set(t.tflags.get() & !tflag::UNDO);
        t.set_phase(Phase::Loss);
    }
    tx::send_lost(l, id);
}

/// Segments that may go out now.
pub(crate) fn room(t: &Tcb) -> u32 {
    t.cwnd.get().saturating_sub(in_network(t))
}
