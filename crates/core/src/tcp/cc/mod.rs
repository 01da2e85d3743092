//! Congestion control: how much may be in flight. CUBIC (RFC 9438) over the recovery of RFC 5681 and RFC 6675.

pub mod cubic;

use super::sack::Board;
use super::tcb::Tcb;
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
}

impl Phase {
    /// Decodes a word; anything unknown is [`Phase::Open`].
    pub const fn from_word(w: u32) -> Self {
        match w {
            1 => Self::Recovery,
            2 => Self::Loss,
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
    cubic::on_loss(t, mss);
    t.phase.set(Phase::Recovery as u32);
    t.recover.set(t.snd_nxt.get());
    t.cwnd.set(t.ssthresh.get());
}

/// The retransmission timer expired.
pub(crate) fn enter_loss(t: &Tcb, mss: u32) {
    if t.cc_phase() == Phase::Open || t.backoff.get() == 0 {
        cubic::on_loss(t, mss);
    }
    t.phase.set(Phase::Loss as u32);
    t.recover.set(t.snd_nxt.get());
    t.cwnd.set(mss);
    t.epoch.set(0);
}

/// Recovery ended: everything up to `recover` is acknowledged.
pub(crate) fn exit(t: &Tcb, mss: u32) {
    if t.cc_phase() == Phase::Recovery {
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
    let lost = if t.cc_phase() == Phase::Open {
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
