//! Selective acknowledgments (RFC 2018): the ranges that the peer holds, and the ranges that we report.

use super::tcb::{RSACK, SACKED, Tcb, tflag};
use flyover_wire::Seq;

/// A half-open range of sequence numbers.
pub type Range = (Seq, Seq);

/// The peer's ranges above SND.UNA, as a private copy: ascending, disjoint.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    list: [Range; SACKED],
    n: usize,
}

impl Board {
    /// Loads the board.
    pub fn load(t: &Tcb) -> Self {
        let n = (t.sacked_n.get() as usize).min(SACKED);
        let mut list = [(Seq(0), Seq(0)); SACKED];
        for (i, r) in list.iter_mut().enumerate().take(n) {
            *r = (word(&t.sacked, 2 * i), word(&t.sacked, 2 * i + 1));
        }
        Self { list, n }
    }

    /// Stores the board.
    pub fn store(&self, t: &Tcb) {
        for (i, r) in self.list.iter().enumerate().take(self.n) {
            put(&t.sacked, 2 * i, r.0);
            put(&t.sacked, 2 * i + 1, r.1);
        }
        t.sacked_n.set(self.n as u32);
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range] {
        self.list.get(..self.n).unwrap_or(&[])
    }

    /// True when nothing is SACKed.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// End of the highest range.
    pub fn highest(&self) -> Option<Seq> {
        self.ranges().last().map(|r| r.1)
    }

    /// Bytes SACKed.
    pub fn bytes(&self) -> u32 {
        self.ranges()
            .iter()
            .fold(0u32, |a, r| a.wrapping_add(r.1.since(r.0)))
    }

    /// Bytes SACKed inside `[from, to)`.
    pub fn bytes_in(&self, from: Seq, to: Seq) -> u32 {
        let mut n = 0u32;
        for r in self.ranges() {
            let a = r.0.latest(from);
            let b = r.1.earliest(to);
            if b.after(a) {
                n = n.wrapping_add(b.since(a));
            }
        }
        n
    }

    /// The first byte at or after `at` that is not SACKed, and the end of the hole that starts there (None: open end).
    pub fn hole(&self, at: Seq) -> (Seq, Option<Seq>) {
        let mut at = at;
        for r in self.ranges() {
            if at.before(r.0) {
                return (at, Some(r.0));
            }
            if at.before(r.1) {
                at = r.1;
            }
        }
        (at, None)
    }

    /// Forgets what is acknowledged by now.
    pub fn prune(&mut self, una: Seq) {
        let mut kept = 0;
        for i in 0..self.n {
            let Some(mut r) = self.list.get(i).copied() else {
                break;
            };
            if r.1.before_eq(una) {
                continue;
            }
            r.0 = r.0.latest(una);
            if let Some(slot) = self.list.get_mut(kept) {
                *slot = r;
                kept += 1;
            }
        }
        self.n = kept;
    }

    /// Adds a range; true when it told something new. When the table is full, the highest range is forgotten: a loss
    /// of knowledge, not of data.
    pub fn add(&mut self, r: Range) -> bool {
        if !r.1.after(r.0) || self.bytes_in(r.0, r.1) == r.1.since(r.0) {
            return false;
        }
        let mut new = r;
        let mut out = [(Seq(0), Seq(0)); SACKED + 1];
        let mut n = 0;
        let mut placed = false;
        for old in self.list.iter().take(self.n) {
            if old.1.before(new.0) {
                push(&mut out, &mut n, *old);
            } else if new.1.before(old.0) {
                if !placed {
                    push(&mut out, &mut n, new);
                    placed = true;
                }
                push(&mut out, &mut n, *old);
            } else {
                new = (new.0.earliest(old.0), new.1.latest(old.1));
            }
        }
        if !placed {
            push(&mut out, &mut n, new);
        }
        self.n = n.min(SACKED);
        for (slot, r) in self.list.iter_mut().zip(out.iter()) {
            *slot = *r;
        }
        true
    }
}

fn push(out: &mut [Range; SACKED + 1], n: &mut usize, r: Range) {
    if let Some(slot) = out.get_mut(*n) {
        *slot = r;
        *n += 1;
    }
}

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
