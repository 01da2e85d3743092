//! What an acknowledgment takes out of flight (`tcp_clean_rtx_queue`), and the round trips that it measures.

use super::super::flight::{Flight, Run, mark};
use super::super::tcb::tflag;
use super::super::{cc::cubic, rtt};
use super::{Ack, alert, delivered, rack, reordered, tell};
use crate::stack::locked::Locked;
use crate::time::{Instant, MS, US};
use flyover_wire::Seq;

/// What was found on the way.
struct Found {
    /// When the first and the last of the segments sent once were sent, us.
    times: Option<(u32, u32)>,
    /// The lowest of them.
    low: Seq,
    segments: u32,
}

/// `echo`: the time that the peer echoes.
pub(super) fn run(l: &Locked<'_, '_, '_>, t: Flight<'_>, echo: Option<u32>, a: &mut Ack) {
    let mut found = Found {
        times: None,
        low: Seq(t.snd_nxt.get()),
        segments: 0,
    };
    while let Some(r) = t.first() {
        if !take(t, &r, &mut found, a) {
            break;
        }
    }
    if t.first().is_some_and(|r| r.has(mark::SACKED)) {
        a.told |= tell::RENEGED;
    }
    let measured = measure(l, t, echo, &found, a);
    if a.has(tell::ACKED) {
        a.told |= tell::TIMER;
        if t.tflags.get() & tflag::SACK == 0 {
            alert::remove_reno(t, found.segments);
            if a.has(tell::RETRANS_ACKED) {
                a.told &= !tell::ORIGINAL;
            }
        } else if found.low.before(a.fack) {
            reordered(t, found.low);
        }
    } else if let (Some(head), Some((first, _))) = (t.first(), a.sack_times)
        && measured
        && first.wrapping_sub(head.at).cast_signed() < 0
    {
        // What was SACKed is older than the last transmission of what is missing: the timer may start anew.
        a.told |= tell::TIMER;
    }
}

/// Takes what is acknowledged of the first run; false: nothing, or not all of it.
fn take(t: Flight<'_>, first: &Run, found: &mut Found, a: &mut Ack) -> bool {
    let una = Seq(t.snd_una.get());
    if !first.start.before(una) {
        return false;
    }
    let mut r = *first;
    let whole = !r.end.after(una);
    if !whole {
        let n = una.since(r.start) / r.unit;
        if n == 0 || n >= r.count() || !t.split(0, r.end_of(n)) {
            trim(t, &r, una);
            return false;
        }
        let Some(head) = t.first() else {
            return false;
        };
        r = head;
    }
    let n = r.count();
    if r.has(mark::RETRANS | mark::EVER) {
        a.told |= tell::RETRANS_ACKED;
    } else if !r.has(mark::SACKED) {
        if !r.has(mark::VAGUE) {
            found.times = Some((found.times.map_or(r.at, |(first, _)| first), r.at));
        }
        found.low = found.low.earliest(r.start);
        if !r.end.after(Seq(t.recover.get())) {
            a.told |= tell::ORIGINAL;
        }
    }
    if !r.has(mark::SACKED) && t.tflags.get() & tflag::SACK != 0 {
        delivered(t, n);
        rack::advance(t, &r, a.now);
    }
    found.segments = found.segments.saturating_add(n);
    a.told |= tell::ACKED;
    t.pop();
    true
}

/// The acknowledgment ends within a segment: what is left of it is sent again from there.
fn trim(t: Flight<'_>, r: &Run, una: Seq) {
    let end = r.end_of(1);
    if end.before(r.end) && !t.split(0, end) {
        return;
    }
    if let Some(head) = t.first() {
        t.set(0, &Run { start: una, ..head });
    }
}

/// Round-trip samples (`tcp_ack_update_rtt`); true: there was one.
fn measure(
    l: &Locked<'_, '_, '_>,
    t: Flight<'_>,
    echo: Option<u32>,
    found: &Found,
    a: &mut Ack,
) -> bool {
    let since = |at: u32| u64::from(a.now.wrapping_sub(at)) * US;
    let opts = &l.st.opts;
    let mut sample = None;
    // Of the last segment: it waited least for its acknowledgment.
    let mut least = None;
    if let Some((first, last)) = found.times.filter(|_| !a.has(tell::RETRANS_ACKED)) {
        sample = Some(since(first));
        least = Some(since(last));
    }
    if let Some((first, last)) = a.sack_times {
        sample = sample.or(Some(since(first)));
        least = Some(since(last));
    }
    if sample.is_none()
        && a.has(tell::ACKED)
        && let Some(echo) = echo
    {
        let ms = l.env.now.ms32().wrapping_add(t.ts_off.get());
        let ms = ms.wrapping_sub(echo);
        if u64::from(ms) * MS < rtt::largest(opts) {
            sample = Some(u64::from(ms.max(1)) * MS);
            least = sample;
        }
    }
    if let Some(ns) = least {
        rtt::note_min(&t, ns, l.env.now);
    }
    if let Some(ns) = sample {
        rtt::sample(&t, ns.max(1), opts, l.env.now);
    }
    if a.has(tell::ACKED)
        && let Some(ns) = least
    {
        cubic::on_rtt(&t, ns, Instant(l.env.now.0));
    }
    sample.is_some()
}
