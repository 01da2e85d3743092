//! CUBIC (RFC 9438) in integers: windows in bytes, time in milliseconds.

use crate::tcp::tcb::Tcb;
use crate::time::{Instant, MS};

/// beta_cubic = 0.7, in 1024ths.
const BETA: u64 = 717;

/// A loss: remembers W_max (with fast convergence, section 4.7) and lowers ssthresh.
pub(crate) fn on_loss(t: &Tcb, mss: u32) {
    let cwnd = t.cwnd.get();
    let w_max = if cwnd < t.w_max.get() {
        (u64::from(cwnd) * (1024 + BETA) / 2048) as u32
    } else {
        cwnd
    };
    t.w_max.set(w_max);
    let ss = ((u64::from(cwnd) * BETA) >> 10) as u32;
    t.ssthresh.set(ss.max(mss.saturating_mul(2)));
    t.epoch.set(0);
    t.cwnd_acc.set(0);
}

/// Congestion avoidance (sections 4.2 to 4.5).
pub(crate) fn on_ack(t: &Tcb, acked: u32, mss: u32, now: Instant) {
    let cwnd = t.cwnd.get().max(mss);
    if t.epoch.get() == 0 {
        start_epoch(t, cwnd, mss, now);
    }
    let rtt_ms = t.srtt.get() / MS;
    let elapsed = now.since(Instant(t.epoch.get())) / MS + rtt_ms;
    let target = w_cubic(t, elapsed, mss).clamp(u64::from(cwnd), u64::from(cwnd) * 3 / 2);
    // Reno-friendly region (section 4.3): alpha = 3 (1 - beta) / (1 + beta), about 0.53, per window of ACKs.
    let grow = u64::from(acked) * u64::from(mss) * 542 / 1024 / u64::from(cwnd);
    let w_est = t.w_est.get().saturating_add(grow as u32);
    t.w_est.set(w_est);
    let want = target.max(u64::from(w_est));
    // Grow by (want - cwnd) / cwnd per acknowledged byte.
    let inc = u64::from(acked) * want.saturating_sub(u64::from(cwnd)) / u64::from(cwnd);
    let acc = u64::from(t.cwnd_acc.get()) + inc;
    let step = acc.min(u64::from(acked));
    t.cwnd_acc.set(0);
    t.cwnd.set(cwnd.saturating_add(step as u32).min(1 << 30));
}

fn start_epoch(t: &Tcb, cwnd: u32, mss: u32, now: Instant) {
    t.epoch.set(now.0.max(1));
    t.w_est.set(cwnd);
    if cwnd < t.w_max.get() {
        // K = cubic root of (W_max - cwnd) / C, C = 0.4 segments per s^3; in ms: root of (segments * 2.5e9).
        let segs = u64::from(t.w_max.get() - cwnd) / u64::from(mss.max(1));
        t.k_ms.set(cbrt(segs.saturating_mul(2_500_000_000)) as u32);
        t.w_origin.set(t.w_max.get());
    } else {
        t.k_ms.set(0);
        t.w_origin.set(cwnd);
    }
}

/// W_cubic(t) = C (t - K)^3 + origin, in bytes.
fn w_cubic(t: &Tcb, ms: u64, mss: u32) -> u64 {
    let k = u64::from(t.k_ms.get());
    let d = ms.abs_diff(k).min(1_000_000);
    // C = 0.4 per s^3 = 4e-10 per ms^3.
    let delta = u128::from(d).pow(3) * 4 * u128::from(mss) / 10_000_000_000;
    let delta = u64::try_from(delta).unwrap_or(u64::MAX);
    let origin = u64::from(t.w_origin.get());
    if ms >= k {
        origin.saturating_add(delta)
    } else {
        origin.saturating_sub(delta)
    }
}

/// Integer cubic root, rounded down.
pub(crate) fn cbrt(n: u64) -> u64 {
    let mut r = 0u64;
    let mut bit = 1u64 << 21;
    while bit != 0 {
        let c = r | bit;
        if c.checked_mul(c)
            .and_then(|x| x.checked_mul(c))
            .is_some_and(|x| x <= n)
        {
            r = c;
        }
        bit >>= 1;
    }
    r
}
