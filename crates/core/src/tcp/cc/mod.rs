//! Congestion control: how much may be in flight. CUBIC (RFC 9438) over the recovery of RFC 5681 and RFC 6675.

pub mod cubic;

use super::sack::Board;
use super::tcb::{Tcb, tflag};
use crate::time::Instant;
use flyover_wire::Seq;

/// What the sender believes of the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Phase {
    /// No loss known.
    Open = 0,
    /// Fast recovery.
    Recovery = 1,
    /// After a retransmission timeout.
    Loss = 2,
    /// The network told of congestion (ECN): the window goes down without a loss.
    Cwr = 3,
}

impl Phase {
    /// Decodes a word; anything unknown is [`Phase::Open`].
    pub const fn from_word(w: u32) -> Self {
        match w {
            1 => Self::Recovery,
            2 => Self::Loss,
            3 => Self::Cwr,
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
}

/// Sets the window up for a new connection (RFC 6928).
pub(crate) fn init(t: &Tcb, mss: u32, initial: u32) {
    t.cwnd.set(mss.saturating_mul(initial));
    t.ssthresh.set(u32::MAX);
    t.phase.set(Phase::Open as u32);
    t.epoch.set(0);
    t.w_max.set(0);
    t.round_min.set(0);
    t.round_n.set(0);
    t.prr_prior.set(0);
}

/// `acked` new bytes were acknowledged outside recovery.
pub(crate) fn on_ack(t: &Tcb, acked: u32, mss: u32, now: Instant) {
    let cwnd = t.cwnd.get();
    if cwnd < t.ssthresh.get() {
        // Slow start, with Appropriate Byte Counting limited as Linux does: by what was acknowledged.
        t.cwnd
            .set(cwnd.saturating_add(acked).min(t.ssthresh.get().max(cwnd)));
        return;
    }
    cubic::on_ack(t, acked, mss, now);
}

/// An RTT sample during slow start: HyStart's delay criterion (RFC 9406) ends it before the queue overflows.
pub(crate) fn on_rtt(t: &Tcb, ns: u64, una: Seq) {
    if t.cwnd.get() >= t.ssthresh.get() {
        return;
    }
    if una.after(Seq(t.round_end.get())) || t.round_n.get() == 0 {
        t.round_end.set(t.snd_nxt.get());
        t.round_min.set(ns);
        t.round_n.set(1);
        return;
    }
    let n = t.round_n.get().saturating_add(1);
    t.round_n.set(n);
    let min = t.round_min.get().min(ns);
    t.round_min.set(min);
    let base = t.min_rtt.get();
    let slack = (base / 8).clamp(4_000_000, 16_000_000);
    if n >= 8 && base != 0 && min > base.saturating_add(slack) {
        t.ssthresh.set(t.cwnd.get());
    }
}

/// A loss was found by duplicate ACKs or SACK: halves (CUBIC: times 0.7) and enters fast recovery.
pub(crate) fn enter_recovery(t: &Tcb, mss: u32) {
    if t.cc_phase() != Phase::Cwr {
        begin_reduction(t, mss);
        cubic::on_loss(t, mss);
    }
    t.phase.set(Phase::Recovery as u32);
    t.recover.set(t.snd_nxt.get());
    t.cwnd.set(t.ssthresh.get());
    tell_of_reduction(t);
}

/// The peer echoed the network's mark of congestion: the window goes down by and by, without a retransmission.
pub(crate) fn enter_cwr(t: &Tcb, mss: u32) {
    begin_reduction(t, mss);
    cubic::on_loss(t, mss);
    t.phase.set(Phase::Cwr as u32);
    t.recover.set(t.snd_nxt.get());
    tell_of_reduction(t);
}

/// The next new data says CWR, if ECN was agreed.
fn tell_of_reduction(t: &Tcb) {
    let f = t.tflags.get();
    if f & tflag::ECN != 0 {
        t.tflags.set(f | tflag::ECN_CWR);
    }
}

fn begin_reduction(t: &Tcb, mss: u32) {
    t.prr_prior.set((t.cwnd.get() / mss.max(1)).max(1));
    t.prr_delivered.set(0);
    t.prr_out.set(0);
}

/// `n` bytes were sent.
pub(crate) fn on_sent(t: &Tcb, n: u32) {
    let segments = n.div_ceil(t.mss.get().max(1));
    t.prr_out.set(t.prr_out.get().saturating_add(segments));
}

/// RFC 6937 in Linux's form: `delivered` bytes left the network; as many go out as bring what is in it down to ssthresh
/// within a round trip. In whole segments.
pub(crate) fn reduce(t: &Tcb, board: &Board, delivered: u32, advanced: bool, mss: u32) {
    if delivered == 0 || t.prr_prior.get() == 0 {
        return;
    }
    let mss = mss.max(1);
    t.prr_delivered.set(
        t.prr_delivered
            .get()
            .saturating_add(delivered.div_ceil(mss)),
    );
    let (gone, out) = (t.prr_delivered.get(), t.prr_out.get());
    let flight = pipe(t, board);
    let target = t.ssthresh.get() / mss;
    let room = target.saturating_sub(flight.div_ceil(mss));
    let n = if flight.div_ceil(mss) > target {
        let prior = u64::from(t.prr_prior.get().max(1));
        let due = (u64::from(target) * u64::from(gone)).div_ceil(prior);
        (due as u32).saturating_sub(out)
    } else {
        gone.saturating_sub(out)
            .max(delivered.div_ceil(mss))
            .saturating_add(u32::from(advanced))
            .min(room)
    };
    // The first retransmission goes out in any case.
    let n = n.max(u32::from(out == 0));
    t.cwnd.set(flight.saturating_add(n.saturating_mul(mss)));
}

/// The retransmission timer expired.
pub(crate) fn enter_loss(t: &Tcb, mss: u32) {
    let again = Seq(t.recover.get()).after(Seq(t.snd_una.get()));
    let anew = match t.cc_phase() {
        Phase::Open => true,
        Phase::Loss => !again || t.backoff.get() == 0,
        Phase::Recovery | Phase::Cwr => !again,
    };
    if anew {
        cubic::on_loss(t, mss);
    }
    tell_of_reduction(t);
    t.phase.set(Phase::Loss as u32);
    t.recover.set(t.snd_nxt.get());
    t.cwnd.set(mss);
    t.epoch.set(0);
}

/// Recovery ended: everything up to `recover` is acknowledged.
pub(crate) fn exit(t: &Tcb, mss: u32) {
    if matches!(t.cc_phase(), Phase::Recovery | Phase::Cwr) {
        t.cwnd.set(t.ssthresh.get().max(2 * mss));
    }
    t.phase.set(Phase::Open as u32);
    t.dupacks.set(0);
    t.epoch.set(0);
}

/// RFC 6675's estimate of what is in the network, in bytes.
pub(crate) fn pipe(t: &Tcb, board: &Board) -> u32 {
    let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
    let flight = nxt.since(una);
    let sacked = board.bytes();
    let lost = if matches!(t.cc_phase(), Phase::Open | Phase::Cwr) {
        0
    } else {
        lost_unsent(t, board, una)
    };
    flight.saturating_sub(sacked).saturating_sub(lost)
}

/// Bytes that are lost and not yet sent again.
fn lost_unsent(t: &Tcb, board: &Board, una: Seq) -> u32 {
    let from = Seq(t.rtx_nxt.get()).latest(una);
    let to = Seq(t.lost_edge.get());
    if !to.after(from) {
        return 0;
    }
    to.since(from).saturating_sub(board.bytes_in(from, to))
}
