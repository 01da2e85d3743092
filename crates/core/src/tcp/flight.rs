//! What is in flight: SND.UNA to SND.NXT as runs of segments that share a fate. One is sent, SACKed, taken for lost and
//! sent again by itself, so that what is known of each segment is what a list of segments would know, at the price of a
//! few words for many of them.
//!
//! The table has a fixed size. When it is full, neighbours of the same marks become one: of their times the later one
//! stays, which makes loss detection slower and nothing wrong.

use super::tcb::Tcb;
use flyover_shm::{SharedCell, shm_struct};
use flyover_wire::Seq;

/// Runs that one connection has room for.
pub(crate) const RUNS: usize = 64;

shm_struct! {
    /// The runs of one connection: a ring of four words each. Apart from the socket, so that one that only receives, or has
    /// its other end in this host, never touches it.
    pub struct Table {
        /// Start, end, time, and marks with the unit.
        pub words: [SharedCell<u32>; 256],
    }
}

/// Marks of a [`Run`].
pub(crate) mod mark {
    /// The peer holds it.
    pub const SACKED: u32 = 1;
    /// It counts as lost.
    pub const LOST: u32 = 2;
    /// It was sent again, and that one counts as being in the network.
    pub const RETRANS: u32 = 4;
    /// It was sent again at any time.
    pub const EVER: u32 = 8;
    /// The FIN is its last number.
    pub const FIN: u32 = 16;
    /// Its time is only the latest of several.
    pub const VAGUE: u32 = 32;
    /// Where the runs differ in these, they are not one.
    pub const FATE: u32 = SACKED | LOST | RETRANS | EVER | FIN;
}

/// Segments `[start, end)` of `unit` bytes each, the last one shorter or as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub start: Seq,
    pub end: Seq,
    /// When it was last sent, us.
    pub at: u32,
    pub unit: u32,
    pub marks: u32,
}

impl Run {
    pub fn has(&self, marks: u32) -> bool {
        self.marks & marks != 0
    }

    /// Payload bytes.
    pub fn bytes(&self) -> u32 {
        self.end
            .since(self.start)
            .saturating_sub(u32::from(self.has(mark::FIN)))
    }

    /// Segments.
    pub fn count(&self) -> u32 {
        self.bytes().div_ceil(self.unit.max(1)).max(1)
    }

    /// End of its first `n` segments.
    pub fn end_of(&self, n: u32) -> Seq {
        if n >= self.count() {
            return self.end;
        }
        self.start.add(n.saturating_mul(self.unit))
    }

    /// Its segments are all of `unit` bytes.
    fn is_whole(&self) -> bool {
        !self.has(mark::FIN) && self.bytes().is_multiple_of(self.unit.max(1))
    }

    /// `next` goes on where this one ends, and the segments of both can be counted together.
    fn joins(&self, next: &Self) -> bool {
        self.end == next.start
            && self.is_whole()
            && self.marks & mark::FATE & !mark::FIN == next.marks & mark::FATE & !mark::FIN
            && (self.unit == next.unit || next.count() == 1 && next.unit < self.unit)
    }
}

/// A connection's control block with its table, in place.
#[derive(Clone, Copy)]
pub(crate) struct Flight<'a> {
    pub tcb: &'a Tcb,
    pub table: &'a Table,
}

impl core::ops::Deref for Flight<'_> {
    type Target = Tcb;

    fn deref(&self) -> &Tcb {
        self.tcb
    }
}

impl core::fmt::Debug for Flight<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list()
            .entries((0..self.len()).filter_map(|i| self.get(i)))
            .finish()
    }
}

impl Flight<'_> {
    pub fn len(&self) -> usize {
        (self.tcb.runs_n.get() as usize).min(RUNS)
    }

    fn cells(&self, i: usize) -> Option<&[SharedCell<u32>]> {
        let at = (self.tcb.runs_first.get() as usize + i) % RUNS;
        self.table.words.get(4 * at..4 * at + 4)
    }

    /// The `i`-th run from SND.UNA on.
    pub fn get(&self, i: usize) -> Option<Run> {
        let [start, end, at, meta] = self.cells(i).filter(|_| i < self.len())? else {
            return None;
        };
        let meta = meta.get();
        Some(Run {
            start: Seq(start.get()),
            end: Seq(end.get()),
            at: at.get(),
            unit: (meta & 0xffff).max(1),
            marks: meta >> 16,
        })
    }

    pub fn first(&self) -> Option<Run> {
        self.get(0)
    }

    pub fn last(&self) -> Option<Run> {
        self.get(self.len().checked_sub(1)?)
    }

    fn write(&self, i: usize, r: &Run) {
        if let Some([start, end, at, meta]) = self.cells(i) {
            start.set(r.start.0);
            end.set(r.end.0);
            at.set(r.at);
            meta.set(r.marks << 16 | r.unit & 0xffff);
        }
    }

    fn account(&self, r: &Run, sign: fn(u32, u32) -> u32) {
        let t = self.tcb;
        let n = r.count();
        for (cell, counts) in [
            (&t.packets_out, true),
            (&t.sacked_out, r.has(mark::SACKED)),
            (&t.lost_out, r.has(mark::LOST)),
            (&t.retrans_out, r.has(mark::RETRANS)),
        ] {
            if counts {
                cell.set(sign(cell.get(), n));
            }
        }
    }

    /// Changes the `i`-th run.
    pub fn set(&self, i: usize, r: &Run) {
        if let Some(old) = self.get(i) {
            self.account(&old, u32::saturating_sub);
            self.account(r, u32::saturating_add);
            self.write(i, r);
        }
    }

    /// Forgets the first one.
    pub fn pop(&self) {
        if let Some(old) = self.first() {
            self.account(&old, u32::saturating_sub);
            let t = self.tcb;
            t.runs_first.set((t.runs_first.get() + 1) % RUNS as u32);
            t.runs_n.set(self.len() as u32 - 1);
        }
    }

    fn insert(&self, i: usize, r: &Run) {
        let n = self.len();
        for k in (i..n).rev() {
            self.copy(k, k + 1);
        }
        self.tcb.runs_n.set(n as u32 + 1);
        self.write(i, r);
        self.account(r, u32::saturating_add);
    }

    fn remove(&self, i: usize) {
        let Some(old) = self.get(i) else { return };
        self.account(&old, u32::saturating_sub);
        let n = self.len();
        for k in i + 1..n {
            self.copy(k, k - 1);
        }
        self.tcb.runs_n.set(n as u32 - 1);
    }

    fn copy(&self, from: usize, to: usize) {
        if let (Some(from), Some(to)) = (self.cells(from), self.cells(to)) {
            for (a, b) in from.iter().zip(to) {
                b.set(a.get());
            }
        }
    }

    /// Cuts the `i`-th run in two at `at`. False: there is no room.
    pub fn split(&self, i: usize, at: Seq) -> bool {
        let Some(r) = self.get(i) else { return false };
        if !at.after(r.start) || !at.before(r.end) {
            return true;
        }
        if self.len() >= RUNS {
            return false;
        }
        let head = Run {
            end: at,
            marks: r.marks & !mark::FIN,
            ..r
        };
        self.set(i, &head);
        self.insert(i + 1, &Run { start: at, ..r });
        true
    }

    /// Makes room by taking neighbours together. Not called while somebody counts runs.
    pub fn make_room(&self) {
        self.join_all(|a, b| a.joins(b));
        if self.len() < RUNS {
            return;
        }
        // Their segments are of different sizes: from now on they are counted roughly.
        self.join_all(|a, b| (a.marks ^ b.marks) & mark::FATE & !mark::FIN == 0);
        let n = self.len();
        if n < RUNS {
            return;
        }
        if let (Some(a), Some(b)) = (self.get(n - 2), self.get(n - 1)) {
            // Nothing is alike: what is known of the last ones is lost, not their bytes.
            let a = Run {
                marks: a.marks & !(mark::SACKED | mark::RETRANS),
                ..a
            };
            let b = Run {
                marks: b.marks & !(mark::SACKED | mark::RETRANS),
                ..b
            };
            self.join(n - 2, &a, &b, true);
        }
    }

    fn join_all(&self, alike: fn(&Run, &Run) -> bool) {
        let mut i = self.len();
        while i > 1 && self.len() + 8 > RUNS {
            i -= 1;
            let (Some(a), Some(b)) = (self.get(i - 1), self.get(i)) else {
                return;
            };
            if alike(&a, &b) {
                self.join(i - 1, &a, &b, true);
            }
        }
    }

    fn join(&self, i: usize, a: &Run, b: &Run, vague: bool) {
        let later = (b.at.wrapping_sub(a.at)).cast_signed() > 0;
        self.remove(i + 1);
        self.set(
            i,
            &Run {
                end: b.end,
                unit: a.unit.max(b.unit),
                at: if vague && later { b.at } else { a.at },
                marks: a.marks | b.marks | if vague { mark::VAGUE } else { 0 },
                ..*a
            },
        );
    }

    /// The one behind the `i`-th run becomes part of its only segment.
    pub fn absorb(&self, i: usize) {
        let (Some(a), Some(b)) = (self.get(i), self.get(i + 1)) else {
            return;
        };
        self.remove(i + 1);
        self.set(
            i,
            &Run {
                end: b.end,
                unit: a.bytes() + b.bytes(),
                marks: a.marks | b.marks & (mark::EVER | mark::FIN),
                ..a
            },
        );
    }

    /// Takes the `i`-th run together with the one before it when nothing tells them apart.
    pub fn tidy(&self, i: usize) -> bool {
        let before = i.checked_sub(1).and_then(|k| self.get(k));
        let (Some(a), Some(b)) = (before, self.get(i)) else {
            return false;
        };
        let sacked = a.has(mark::SACKED) && !a.has(mark::RETRANS);
        if !a.joins(&b) || !sacked && b.at.wrapping_sub(a.at) > self.tolerance() {
            return false;
        }
        self.join(i - 1, &a, &b, false);
        true
    }

    /// Sent at times that are no further apart than this (us), segments are one run.
    fn tolerance(&self) -> u32 {
        let shift = match RUNS - self.len() {
            0..=8 => 4,
            9..=24 => 6,
            _ => 8,
        };
        u32::try_from((self.tcb.srtt.get() / 1000) >> shift).unwrap_or(u32::MAX)
    }

    /// New segments were sent.
    pub fn push(&self, r: &Run) {
        if self.len() >= RUNS {
            self.make_room();
        }
        let n = self.len();
        self.insert(n, r);
        self.tidy(n);
    }

    /// The runs follow one another from SND.UNA (the first may have begun before it) to SND.NXT, and are counted right.
    pub fn is_sound(&self) -> bool {
        let t = self.tcb;
        let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
        let mut at = una;
        let mut counted = [0u32; 4];
        for i in 0..self.len() {
            let Some(r) = self.get(i) else { return false };
            let follows = r.start == at || i == 0 && una.after(r.start);
            if !follows || !r.end.after(at) {
                return false;
            }
            at = r.end;
            let marks = [
                true,
                r.has(mark::SACKED),
                r.has(mark::LOST),
                r.has(mark::RETRANS),
            ];
            for (sum, counts) in counted.iter_mut().zip(marks) {
                *sum = sum.saturating_add(if counts { r.count() } else { 0 });
            }
        }
        let cells = [&t.packets_out, &t.sacked_out, &t.lost_out, &t.retrans_out];
        at == nxt
            && cells
                .iter()
                .zip(counted)
                .all(|(cell, sum)| cell.get() == sum)
    }

    /// End of the highest run that the peer holds (Linux's `tcp_highest_sack_seq` says where it begins).
    pub fn highest_sacked(&self) -> Option<Run> {
        if self.tcb.sacked_out.get() == 0 {
            return None;
        }
        (0..self.len())
            .rev()
            .filter_map(|i| self.get(i))
            .find(|r| r.has(mark::SACKED))
    }
}

/// Nothing is in flight.
pub(crate) fn forget(t: &Tcb) {
    t.runs_n.set(0);
    t.runs_first.set(0);
    for cell in [&t.packets_out, &t.sacked_out, &t.lost_out, &t.retrans_out] {
        cell.set(0);
    }
}

/// Segments in the network, as far as one can know (Linux's `tcp_packets_in_flight`).
pub(crate) fn in_network(t: &Tcb) -> u32 {
    let left = t.sacked_out.get().saturating_add(t.lost_out.get());
    t.packets_out
        .get()
        .saturating_sub(left)
        .saturating_add(t.retrans_out.get())
}

#[cfg(test)]
mod tests;
