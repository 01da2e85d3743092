//! Round-trip time and retransmission timeout (RFC 6298), with the variance as Linux takes it.

use super::tcb::Tcb;
use crate::time::{Instant, MS, SEC};
use flyover_config::StackOpts;
use flyover_wire::Seq;

/// The smallest sample counts for so long (`net.ipv4.tcp_min_rtt_wlen`).
const MIN_RTT_LIFE: u64 = 300 * SEC;

/// Largest timeout, ns.
pub(crate) fn largest(o: &StackOpts) -> u64 {
    u64::from(o.rto_max_ms) * MS
}

fn least(o: &StackOpts) -> u64 {
    u64::from(o.rto_min_ms) * MS
}

/// Takes one sample, in nanoseconds.
pub(crate) fn sample(t: &Tcb, ns: u64, o: &StackOpts, now: Instant) {
    let r = ns.clamp(1, largest(o));
    let srtt = t.srtt.get();
    if srtt == 0 {
        t.srtt.set(r);
        t.mdev.set(r / 2);
        t.rttvar.set((r * 2).max(least(o)));
        t.mdev_max.set(t.rttvar.get());
        t.rtt_seq.set(t.snd_nxt.get());
    } else {
        t.srtt.set((srtt - srtt / 8 + r / 8).max(1));
        deviate(t, srtt, r, o);
    }
    note_min(t, r, now);
    // The variance term is at least the minimum timeout, so that a delayed ACK is not taken for a loss.
    t.rto
        .set(t.srtt.get().saturating_add(t.rttvar.get()).min(largest(o)));
    t.backoff.set(0);
}

/// `rttvar` is four deviations: it rises at once and falls once in a round trip.
fn deviate(t: &Tcb, srtt: u64, r: u64, o: &StackOpts) {
    let mdev = t.mdev.get();
    let off = srtt.abs_diff(r);
    t.mdev.set(if off <= mdev {
        mdev - (mdev - off) / 4
    } else if r < srtt {
        // A sudden drop is no reason for a longer timeout.
        mdev + (off - mdev) / 32
    } else {
        mdev + (off - mdev) / 4
    });
    let four = t.mdev.get().saturating_mul(4);
    if four > t.mdev_max.get() {
        t.mdev_max.set(four);
        t.rttvar.set(t.rttvar.get().max(four));
    }
    if Seq(t.snd_una.get()).after(Seq(t.rtt_seq.get())) {
        let (most, var) = (t.mdev_max.get(), t.rttvar.get());
        if most < var {
            t.rttvar.set(var - (var - most) / 4);
        }
        t.rtt_seq.set(t.snd_nxt.get());
        t.mdev_max.set(least(o));
    }
}

/// The smallest sample of the last minutes.
pub(crate) fn note_min(t: &Tcb, ns: u64, now: Instant) {
    let min = t.min_rtt.get();
    if min == 0 || ns <= min || now.since(Instant(t.min_rtt_at.get())) > MIN_RTT_LIFE {
        t.min_rtt.set(ns.max(1));
        t.min_rtt_at.set(now.0);
    }
}

/// The timeout now, back-off included, in nanoseconds.
pub(crate) fn rto(t: &Tcb, o: &StackOpts) -> u64 {
    backed_off(t, t.backoff.get(), o)
}

/// The same with a back-off of the caller's own.
pub(crate) fn backed_off(t: &Tcb, backoff: u32, o: &StackOpts) -> u64 {
    let most = largest(o);
    let base = t.rto.get().clamp(MS, most);
    base.saturating_mul(1u64 << backoff.min(16)).min(most)
}
