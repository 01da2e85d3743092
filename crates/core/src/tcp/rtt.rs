//! Round-trip time and retransmission timeout (RFC 6298).

use super::tcb::Tcb;
use crate::time::MS;
use flyover_config::StackOpts;

/// Largest timeout, ns.
fn largest(o: &StackOpts) -> u64 {
    u64::from(o.rto_max_ms) * MS
}

/// Takes one sample, in nanoseconds.
pub(crate) fn sample(t: &Tcb, ns: u64, o: &StackOpts) {
    let r = ns.clamp(1, largest(o));
    let srtt = t.srtt.get();
    if srtt == 0 {
        t.srtt.set(r);
        t.rttvar.set(r / 2);
    } else {
        let dev = srtt.abs_diff(r);
        let var = t.rttvar.get();
        t.rttvar.set(var - var / 4 + dev / 4);
        t.srtt.set(srtt - srtt / 8 + r / 8);
    }
    let min = t.min_rtt.get();
    if min == 0 || r < min {
        t.min_rtt.set(r);
    }
    // As Linux: the variance term is at least the minimum timeout, so that a delayed ACK is not taken for a loss.
    let var = t
        .rttvar
        .get()
        .saturating_mul(4)
        .max(u64::from(o.rto_min_ms) * MS);
    t.rto.set(t.srtt.get().saturating_add(var).min(largest(o)));
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
