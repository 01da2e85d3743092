//! Selective acknowledgments (RFC 2018): the ranges that we report.

use super::tcb::{RSACK, Tcb, tflag};
use flyover_wire::Seq;

/// A half-open range of sequence numbers.
pub type Range = (Seq, Seq);

fn word(cells: &[flyover_shm::SharedCell<u32>], i: usize) -> Seq {
    Seq(cells.get(i).map_or(0, flyover_shm::SharedCell::get))
}

fn put(cells: &[flyover_shm::SharedCell<u32>], i: usize, v: Seq) {
    if let Some(c) = cells.get(i) {
        c.set(v.0);
    }
}

/// Notes a range that arrived out of order: it is reported first (RFC 2018 section 4), merged with its neighbours.
pub(crate) fn note_received(t: &Tcb, start: Seq, end: Seq) {
    let n = (t.rsack_n.get() as usize).min(RSACK);
    let mut new = (start, end);
    let mut rest = [(Seq(0), Seq(0)); RSACK];
    let mut kept = 0;
    for i in 0..n {
        let r = (word(&t.rsack, 2 * i), word(&t.rsack, 2 * i + 1));
        if r.1.before(new.0) || new.1.before(r.0) {
            if let Some(slot) = rest.get_mut(kept) {
                *slot = r;
                kept += 1;
            }
        } else {
            new = (new.0.earliest(r.0), new.1.latest(r.1));
        }
    }
    put(&t.rsack, 0, new.0);
    put(&t.rsack, 1, new.1);
    let kept = kept.min(RSACK - 1);
    for (i, r) in rest.iter().enumerate().take(kept) {
        put(&t.rsack, 2 * i + 2, r.0);
        put(&t.rsack, 2 * i + 3, r.1);
    }
    t.rsack_n.set(kept as u32 + 1);
}

/// Drops the reported ranges that RCV.NXT has passed.
pub(crate) fn prune_received(t: &Tcb, rcv_nxt: Seq) {
    let n = (t.rsack_n.get() as usize).min(RSACK);
    let mut kept = 0;
    for i in 0..n {
        let r = (word(&t.rsack, 2 * i), word(&t.rsack, 2 * i + 1));
        if r.1.after(rcv_nxt) {
            put(&t.rsack, 2 * kept, r.0);
            put(&t.rsack, 2 * kept + 1, r.1);
            kept += 1;
        }
    }
    t.rsack_n.set(kept as u32);
}

/// The ranges to report, at most `max`; returns how many. What came twice is the first one, and the range that it lies in the
/// second (RFC 2883 section 4).
pub(crate) fn blocks(t: &Tcb, out: &mut [Range; 4], max: usize) -> usize {
    let n = (t.rsack_n.get() as usize).min(RSACK);
    let held = |i: usize| (word(&t.rsack, 2 * i), word(&t.rsack, 2 * i + 1));
    let mut used = 0;
    let mut say = |r: Range| {
        if let Some(slot) = out.get_mut(used).filter(|_| used < max) {
            *slot = r;
            used += 1;
        }
    };
    let mut around = n;
    if t.tflags.get() & tflag::DSACK != 0 {
        let twice = (Seq(t.dsack_lo.get()), Seq(t.dsack_hi.get()));
        say(twice);
        let within = |r: Range| r.0.before_eq(twice.0) && twice.1.before_eq(r.1);
        around = (0..n).find(|i| within(held(*i))).unwrap_or(n);
        if around < n {
            say(held(around));
        }
    }
    (0..n).filter(|i| *i != around).map(held).for_each(say);
    used
}

/// How many [`blocks`] there are to report.
pub(crate) fn block_count(t: &Tcb) -> u32 {
    t.rsack_n
        .get()
        .saturating_add(u32::from(t.tflags.get() & tflag::DSACK != 0))
}

/// `[start, end)` came a second time: the next ACK says so (RFC 2883), once. As Linux, what does not touch the range that
/// waits to be said is left out.
pub(crate) fn note_twice(t: &Tcb, start: Seq, end: Seq) {
    let f = t.tflags.get();
    if f & tflag::SACK == 0 || !end.after(start) {
        return;
    }
    let (mut lo, mut hi) = (start, end);
    if f & tflag::DSACK != 0 {
        let (l, h) = (Seq(t.dsack_lo.get()), Seq(t.dsack_hi.get()));
        if start.after(h) || l.after(end) {
            return;
        }
        (lo, hi) = (lo.earliest(l), hi.latest(h));
    }
    t.dsack_lo.set(lo.0);
    t.dsack_hi.set(hi.0);
    t.tflags.set(f | tflag::DSACK);
}

/// End of the highest range that is reported to the peer.
pub(crate) fn highest_received(t: &Tcb) -> Option<Seq> {
    let n = (t.rsack_n.get() as usize).min(RSACK);
    (0..n)
        .map(|i| word(&t.rsack, 2 * i + 1))
        .reduce(Seq::latest)
}
