//! Congestion control: how many segments may be in flight. CUBIC (RFC 9438) over the reductions of RFC 5681 and
//! RFC 6937; the window is in segments, as in Linux, so that small ones count as much as full ones.

pub mod cubic;

use super::flight::in_network;
use super::tcb::{Tcb, tflag};
use crate::time::{Instant, MS};
use flyover_wire::Seq;

/// What the sender believes of the network; the numbers are those of `tcpi_ca_state`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Phase {
    /// Nothing unusual.
    Open = 0,
    /// Something is missing or was sent again; not known to be lost.
    Disorder = 1,
    /// The network told of congestion (ECN, a tail-loss probe): the window goes down without a loss.
    Cwr = 2,
    /// Fast recovery.
    Recovery = 3,
    /// After a retransmission timeout.
    Loss = 4,
}

impl Phase {
    /// Decodes a word; anything unknown is [`Phase::Open`].
    pub const fn from_word(w: u32) -> Self {
        match w {
            1 => Self::Disorder,
            2 => Self::Cwr,
            3 => Self::Recovery,
            4 => Self::Loss,
            _ => Self::Open,
        }
    }
}

impl Tcb {
    /// The phase.
    #[inline]
    pub fn cc_phase(&self) -> Phase {
        Phase::from_word(self.phase.get())
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.set(phase as u32);
    }

    /// The window is going down.
    pub(crate) fn is_reducing(&self) -> bool {
        matches!(self.cc_phase(), Phase::Cwr | Phase::Recovery)
    }
}

/// No threshold: slow start until something is lost.
pub(crate) const INFINITE: u32 = 0x7fff_ffff;

/// Sets the window up for a new connection (RFC 6928).
pub(crate) fn init(t: &Tcb, initial: u32, now: Instant) {
    t.cwnd.set(initial.max(1));
    t.ssthresh.set(INFINITE);
    t.set_phase(Phase::Open);
    t.cwnd_acc.set(0);
    t.cwnd_stamp.set(now.ms32());
    t.reordering.set(REORDERING);
    t.reo_steps.set(1);
    t.usage_end.set(t.snd_una.get());
    t.rack_at.set(super::loss::micros(now).wrapping_sub(1));
    t.rack_end.set(t.snd_una.get());
    t.rack_round.set(t.snd_una.get());
    t.tflags
        .set(t.tflags.get() & !(tflag::UNDO | tflag::FRTO | tflag::TLP));
    cubic::reset(t);
}

/// Segments above a hole that mean a loss, to begin with (`net.ipv4.tcp_reordering`).
pub(crate) const REORDERING: u32 = 3;
/// It grows no further (`net.ipv4.tcp_max_reordering`).
pub(crate) const MAX_REORDERING: u32 = 300;

/// The window is as large as the network allowed lately: only then may it grow (RFC 7661; `tcp_is_cwnd_limited`).
fn is_limited(t: &Tcb) -> bool {
    t.tflags.get() & tflag::CWND_LIMITED != 0
        || t.cwnd.get() < t.ssthresh.get() && t.cwnd.get() < t.max_out.get().saturating_mul(2)
}

/// `acked` segments were acknowledged, and the phase lets the window grow.
pub(crate) fn grow(t: &Tcb, acked: u32, now: Instant) {
    if !is_limited(t) || acked == 0 {
        return;
    }
    let cwnd = t.cwnd.get();
    let mut left = acked;
    if cwnd < t.ssthresh.get() {
        let to = cwnd.saturating_add(acked).min(t.ssthresh.get());
        left -= to - cwnd;
        t.cwnd.set(to);
        if left == 0 {
            return;
        }
    }
    let per = cubic::per_segment(t, left, now);
    if t.cwnd_acc.get() >= per {
        // Credit from a time when more was asked for.
        t.cwnd_acc.set(0);
        t.cwnd.set(t.cwnd.get().saturating_add(1));
    }
    let acc = t.cwnd_acc.get().saturating_add(left);
    t.cwnd_acc.set(acc % per);
    t.cwnd.set(t.cwnd.get().saturating_add(acc / per).min(MOST));
}

/// Segments; more are never in flight.
const MOST: u32 = 1 << 22;

/// What slow start would go on from (`tcp_current_ssthresh`).
pub(crate) fn threshold(t: &Tcb) -> u32 {
    let cwnd = t.cwnd.get();
    if t.is_reducing() {
        t.ssthresh.get()
    } else {
        t.ssthresh.get().max((cwnd >> 1) + (cwnd >> 2))
    }
}

/// The window goes down from now on, to the threshold that CUBIC chooses.
pub(crate) fn begin_reduction(t: &Tcb) {
    t.recover.set(t.snd_nxt.get());
    t.tflags.set(t.tflags.get() & !tflag::TLP);
    t.cwnd_acc.set(0);
    t.prior_cwnd.set(t.cwnd.get());
    t.prr_delivered.set(0);
    t.prr_out.set(0);
    t.ssthresh.set(cubic::on_loss(t));
    tell_of_reduction(t);
}

/// The peer echoed the network's mark of congestion: the window goes down by and by, without a retransmission.
pub(crate) fn enter_cwr(t: &Tcb) {
    t.prior_ssthresh.set(0);
    if t.cc_phase() < Phase::Cwr {
        t.tflags.set(t.tflags.get() & !tflag::UNDO);
        begin_reduction(t);
        t.set_phase(Phase::Cwr);
    }
}

/// The next new data says CWR, if ECN was agreed.
pub(crate) fn tell_of_reduction(t: &Tcb) {
    let f = t.tflags.get();
    if f & tflag::ECN != 0 {
        t.tflags.set(f | tflag::ECN_CWR);
    }
}

/// RFC 6937 in Linux's form: `delivered` segments left the network; as many go out as bring what is in it down to
/// the threshold within a round trip. `safe`: SND.UNA moved, and nothing more was lost.
pub(crate) fn reduce(t: &Tcb, delivered: u32, safe: bool) {
    let prior = t.prior_cwnd.get();
    if delivered == 0 || prior == 0 {
        return;
    }
    let gone = t.prr_delivered.get().saturating_add(delivered);
    t.prr_delivered.set(gone);
    let (out, flight, target) = (t.prr_out.get(), in_network(t), t.ssthresh.get());
    let n = if flight > target {
        let due = (u64::from(target) * u64::from(gone)).div_ceil(u64::from(prior));
        u32::try_from(due).unwrap_or(u32::MAX).saturating_sub(out)
    } else {
        gone.saturating_sub(out)
            .max(delivered)
            .saturating_add(u32::from(safe))
            .min(target - flight)
    };
    // The first retransmission goes out in any case.
    let n = n.max(u32::from(out == 0));
    t.cwnd.set(flight.saturating_add(n));
}

/// The reduction is over.
pub(crate) fn end_reduction(t: &Tcb, now: Instant) {
    let undoable = t.tflags.get() & tflag::UNDO != 0;
    if t.ssthresh.get() < INFINITE && (t.cc_phase() == Phase::Cwr || undoable) {
        t.cwnd.set(t.ssthresh.get());
        t.cwnd_stamp.set(now.ms32());
    }
}

/// After a transmission: how far the window was used (RFC 7661; Linux's `tcp_cwnd_validate`).
pub(crate) fn validate(t: &Tcb, after_idle: bool, initial: u32, held_up: bool, now: Instant) {
    let (out, f) = (t.packets_out.get(), t.tflags.get());
    let limited = in_network(t) >= t.cwnd.get();
    let was = f & tflag::CWND_LIMITED != 0;
    let over = !Seq(t.snd_una.get()).before(Seq(t.usage_end.get()));
    if over || limited || !was && out > t.max_out.get() {
        t.tflags.set(if limited {
            f | tflag::CWND_LIMITED
        } else {
            f & !tflag::CWND_LIMITED
        });
        t.max_out.set(out);
        t.usage_end.set(t.snd_nxt.get());
    }
    if is_limited(t) {
        t.cwnd_used.set(0);
        t.cwnd_stamp.set(now.ms32());
        return;
    }
    t.cwnd_used.set(t.cwnd_used.get().max(out));
    let unused = now.ms32().wrapping_sub(t.cwnd_stamp.get());
    if !after_idle || u64::from(unused) * MS < t.rto.get() {
        return;
    }
    if t.cc_phase() == Phase::Open && !held_up {
        // The program or the peer's window sets the pace.
        let used = t.cwnd_used.get().max(initial);
        if used < t.cwnd.get() {
            t.ssthresh.set(threshold(t));
            t.cwnd.set((t.cwnd.get() + used) >> 1);
        }
        t.cwnd_used.set(0);
    }
    t.cwnd_stamp.set(now.ms32());
}

/// RFC 5681 section 4.1: after an idle time the window starts again from the initial one (`tcp_cwnd_restart`).
pub(crate) fn restart(t: &Tcb, idle: u64, initial: u32, now: Instant) {
    let mut cwnd = t.cwnd.get();
    let least = initial.min(cwnd);
    t.ssthresh.set(threshold(t));
    let rto = t.rto.get().max(MS);
    let mut left = idle.saturating_sub(rto);
    while left > 0 && cwnd > least {
        cwnd >>= 1;
        left = left.saturating_sub(rto);
    }
    t.cwnd.set(cwnd.max(least));
    t.cwnd_stamp.set(now.ms32());
    t.cwnd_used.set(0);
}
