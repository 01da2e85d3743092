//! CUBIC (RFC 9438) and HyStart, in integers and in Linux's units: windows in segments, the curve's time in 1024ths of a
//! second, samples in microseconds.

use crate::tcp::tcb::{Tcb, tflag};
use crate::time::{Instant, MS, US};
use flyover_wire::Seq;

/// beta_cubic = 0.7, in 1024ths.
const BETA: u64 = 717;
/// C = 0.4, times 1024: of the curve, per cube of 1024ths of a second, in 2^40ths.
const CURVE: u64 = 410;
/// In eighths: segments acknowledged for one of the Reno-friendly window's.
const FRIENDLY: u32 = 15;
/// A window below is too small to say anything (HyStart).
const HYSTART_LEAST: u32 = 16;
/// ACKs that are closer, us, are of one train.
const TRAIN: u32 = 2_000;

/// Everything that was learnt is forgotten: a new connection, or a timeout.
pub(crate) fn reset(t: &Tcb) {
    for cell in [
        &t.w_max,
        &t.w_est,
        &t.k,
        &t.w_origin,
        &t.epoch,
        &t.epoch_acked,
        &t.cubic_cnt,
        &t.cubic_cwnd,
        &t.cubic_at,
        &t.delay_min,
    ] {
        cell.set(0);
    }
    t.tflags.set(t.tflags.get() & !tflag::HYSTART);
    new_round(t, t.train_at.get());
}

/// A loss: remembers W_max (with fast convergence, section 4.7); returns the new threshold.
pub(crate) fn on_loss(t: &Tcb) -> u32 {
    let cwnd = t.cwnd.get();
    t.epoch.set(0);
    t.w_max.set(if cwnd < t.w_max.get() {
        (u64::from(cwnd) * (1024 + BETA) / 2048) as u32
    } else {
        cwnd
    });
    ((u64::from(cwnd) * BETA / 1024) as u32).max(2)
}

/// Congestion avoidance (sections 4.2 to 4.5): the window grows by one for how many acknowledged segments.
pub(crate) fn per_segment(t: &Tcb, acked: u32, now: Instant) -> u32 {
    let cwnd = t.cwnd.get().max(1);
    let ms = now.ms32();
    t.epoch_acked.set(t.epoch_acked.get().saturating_add(acked));
    let since = ms.wrapping_sub(t.cubic_at.get());
    if t.cubic_cwnd.get() == cwnd && since <= 1000 / 32 {
        return t.cubic_cnt.get().max(2);
    }
    if t.epoch.get() == 0 || since != 0 {
        t.cubic_cwnd.set(cwnd);
        t.cubic_at.set(ms);
        if t.epoch.get() == 0 {
            start_epoch(t, cwnd, acked, ms);
        }
        t.cubic_cnt.set(by_curve(t, cwnd, ms));
    }
    t.cubic_cnt.set(by_reno(t, cwnd).max(2));
    t.cubic_cnt.get()
}

fn start_epoch(t: &Tcb, cwnd: u32, acked: u32, ms: u32) {
    t.epoch.set(ms.max(1));
    t.epoch_acked.set(acked);
    t.w_est.set(cwnd);
    let below = t.w_max.get().saturating_sub(cwnd);
    t.w_origin.set(t.w_max.get().max(cwnd));
    t.k.set(cbrt((1 << 40) / CURVE * u64::from(below)) as u32);
}

/// What the curve asks for.
fn by_curve(t: &Tcb, cwnd: u32, ms: u32) -> u32 {
    let elapsed = u64::from(ms.wrapping_sub(t.epoch.get())) + u64::from(t.delay_min.get() / 1000);
    let (at, k) = ((elapsed << 10) / 1000, u64::from(t.k.get()));
    let off = at.abs_diff(k).min(1 << 17);
    let delta = ((u128::from(CURVE) * u128::from(off).pow(3)) >> 40) as u64;
    let origin = u64::from(t.w_origin.get());
    let target = if at < k {
        origin.saturating_sub(delta)
    } else {
        origin.saturating_add(delta)
    };
    let above = target.saturating_sub(u64::from(cwnd));
    let slowly = u64::from(cwnd) * 100;
    let n = u64::from(cwnd).checked_div(above).unwrap_or(slowly);
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    // Nothing was lost yet: the curve would begin too gently.
    if t.w_max.get() == 0 { n.min(20) } else { n }
}

/// At least as fast as Reno (section 4.3).
fn by_reno(t: &Tcb, cwnd: u32) -> u32 {
    let per = ((u64::from(cwnd) * u64::from(FRIENDLY)) >> 3).max(1) as u32;
    // As Linux's loop: one for every `per`, and the last `per` stays.
    let steps = t.epoch_acked.get().saturating_sub(1) / per;
    t.epoch_acked.set(t.epoch_acked.get() - steps * per);
    t.w_est.set(t.w_est.get().saturating_add(steps));
    let ahead = t.w_est.get().saturating_sub(cwnd);
    match cwnd.checked_div(ahead) {
        Some(n) => t.cubic_cnt.get().min(n),
        None => t.cubic_cnt.get(),
    }
}

/// The program starts sending again after `idle`: the curve does not go on meanwhile.
pub(crate) fn after_idle(t: &Tcb, now: Instant) {
    let idle = now.since(Instant(t.last_tx.get())) / MS;
    if t.epoch.get() != 0 && t.last_tx.get() != 0 {
        let moved = u64::from(t.epoch.get()).saturating_add(idle) as u32;
        t.epoch.set(moved.min(now.ms32()).max(1));
    }
}

/// A round-trip sample. During slow start HyStart's two criteria (RFC 9406 has the second) end it before the queue
/// overflows.
pub(crate) fn on_rtt(t: &Tcb, ns: u64, now: Instant) {
    let since = now.ms32().wrapping_sub(t.epoch.get());
    if t.epoch.get() != 0 && since < 1000 {
        return;
    }
    let delay = u32::try_from(ns / US).unwrap_or(u32::MAX).max(1);
    if t.delay_min.get() == 0 || delay < t.delay_min.get() {
        t.delay_min.set(delay);
    }
    if t.cwnd.get() < t.ssthresh.get() && t.tflags.get() & tflag::HYSTART == 0 {
        hystart(t, delay, (now.0 / US) as u32);
    }
}

fn new_round(t: &Tcb, us: u32) {
    t.round_at.set(us);
    t.train_at.set(us);
    t.round_end.set(t.snd_nxt.get());
    t.round_min.set(u32::MAX);
    t.set_round_n(0);
}

fn hystart(t: &Tcb, delay: u32, us: u32) {
    if Seq(t.snd_una.get()).after(Seq(t.round_end.get())) {
        new_round(t, us);
    }
    if t.cwnd.get() < HYSTART_LEAST {
        return;
    }
    let mut found = false;
    if us.wrapping_sub(t.train_at.get()) <= TRAIN {
        t.train_at.set(us);
        let most = t.delay_min.get().saturating_add(burst_time(t)) / 2;
        found = us.wrapping_sub(t.round_at.get()) > most;
    }
    t.round_min.set(t.round_min.get().min(delay));
    if t.round_n() < 8 {
        t.set_round_n(t.round_n() + 1);
    } else {
        let slack = (t.delay_min.get() / 8).clamp(4_000, 16_000);
        found |= t.round_min.get() > t.delay_min.get().saturating_add(slack);
    }
    if found {
        t.tflags.set(t.tflags.get() | tflag::HYSTART);
        t.ssthresh.set(t.cwnd.get());
    }
}

/// How long four super-frames take at the present rate, us, a millisecond at most.
fn burst_time(t: &Tcb) -> u32 {
    let window = u64::from(t.cwnd.get()) * u64::from(t.mss.get().max(1)) * 2;
    let rtt = t.srtt.get() / US;
    (rtt.saturating_mul(4 * 65_536) / window.max(1)).min(1_000) as u32
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
