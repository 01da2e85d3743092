//! One direction of a wire: latency, rate, queue, loss in bursts, reordering, duplication, corruption. Seeded.

use crate::rng::Rng;
use flyover_vnic::{Csum, MemFrame};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What a wire does to frames. Chances are in hundred-thousandths; times in nanoseconds of the virtual clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impair {
    /// Time that every frame takes.
    pub latency: u64,
    /// A random time up to this is added, without changing the order.
    pub jitter: u64,
    /// Bits per second; 0 is unlimited.
    pub rate: u64,
    /// Time that frames may wait for the rate before they are dropped (the queue's length in time).
    pub queue: u64,
    /// Chance that a frame is lost.
    pub loss: u32,
    /// Frames lost together once one is.
    pub burst: u32,
    /// Chance that a frame is held back by up to `reorder_by`, so that others overtake it.
    pub reorder: u32,
    /// Longest time that a frame is held back.
    pub reorder_by: u64,
    /// Chance that a frame comes twice, the second one late.
    pub duplicate: u32,
    /// Chance that one bit of a frame flips.
    pub corrupt: u32,
}

impl Impair {
    /// A wire that only takes time: 50 microseconds.
    pub const CLEAN: Self = Self {
        latency: 50_000,
        jitter: 0,
        rate: 0,
        queue: 0,
        loss: 0,
        burst: 1,
        reorder: 0,
        reorder_by: 0,
        duplicate: 0,
        corrupt: 0,
    };
}

/// What happened to a frame, for traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// On its way.
    Sent,
    /// Lost by chance.
    Lost,
    /// Lost because the queue was full.
    Full,
    /// On its way, held back.
    Late,
    /// On its way twice.
    Twice,
    /// On its way with a flipped bit.
    Corrupt,
}

#[derive(Debug)]
struct InFlight {
    due: u64,
    /// Breaks ties, so that the order is defined.
    order: u64,
    frame: MemFrame,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// One direction.
#[derive(Debug)]
pub struct Link {
    /// May be changed at any time.
    pub impair: Impair,
    rng: Rng,
    flight: BinaryHeap<Reverse<InFlight>>,
    order: u64,
    /// When the line is free again.
    free_at: u64,
    /// Frames in order never arrive before this.
    last_due: u64,
    burst_left: u32,
    burst_end: u64,
}

/// A burst of losses lasts no longer, ns: retransmissions with back-off are not part of it.
const BURST: u64 = 300_000_000;

impl Link {
    /// An idle wire.
    pub fn new(impair: Impair, rng: Rng) -> Self {
        Self {
            impair,
            rng,
            flight: BinaryHeap::new(),
            order: 0,
            free_at: 0,
            last_due: 0,
            burst_left: 0,
            burst_end: 0,
        }
    }

    /// A frame enters at time `now`.
    pub fn send(&mut self, now: u64, mut frame: MemFrame) -> Fate {
        let i = self.impair;
        if self.burst_left > 0 && now < self.burst_end {
            self.burst_left -= 1;
            return Fate::Lost;
        }
        if self.rng.chance(i.loss) {
            self.burst_left = self.rng.below(u64::from(i.burst.max(1))) as u32;
            self.burst_end = now + BURST;
            return Fate::Lost;
        }
        let start = self.free_at.max(now);
        if i.rate != 0 {
            if start - now > i.queue {
                return Fate::Full;
            }
            let bits = frame.bytes.len() as u64 * 8;
            let time = bits.saturating_mul(1_000_000_000).checked_div(i.rate);
            self.free_at = start + time.unwrap_or(0);
        }
        let left = if i.rate == 0 { now } else { self.free_at };
        let due = (left + i.latency + self.rng.below(i.jitter)).max(self.last_due);
        let mut fate = Fate::Sent;
        if self.rng.chance(i.corrupt) && !frame.bytes.is_empty() {
            let bit = self.rng.below(frame.bytes.len() as u64 * 8) as usize;
            frame.bytes[bit / 8] ^= 1 << (bit % 8);
            // A device that verified the sum would have seen it.
            frame.csum = Csum::Unknown;
            fate = Fate::Corrupt;
        }
        if self.rng.chance(i.duplicate) {
            let late = due + self.rng.below(i.reorder_by.max(i.latency));
            self.put(late, frame.clone());
            fate = Fate::Twice;
        }
        if self.rng.chance(i.reorder) {
            let held = due + self.rng.below(i.reorder_by);
            self.put(held, frame);
            return Fate::Late;
        }
        self.last_due = due;
        self.put(due, frame);
        fate
    }

    fn put(&mut self, due: u64, frame: MemFrame) {
        self.order += 1;
        self.flight.push(Reverse(InFlight {
            due,
            order: self.order,
            frame,
        }));
    }

    /// When the next frame arrives.
    pub fn next(&self) -> Option<u64> {
        self.flight.peek().map(|f| f.0.due)
    }

    /// The next frame that has arrived by `now`.
    pub fn arrived(&mut self, now: u64) -> Option<MemFrame> {
        if self.next()? > now {
            return None;
        }
        self.flight.pop().map(|f| f.0.frame)
    }

    /// Frames on their way.
    pub fn len(&self) -> usize {
        self.flight.len()
    }

    /// True when nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(impair: Impair, seed: u64) -> (Vec<(u64, u8)>, Vec<Fate>) {
        let mut link = Link::new(impair, Rng::new(seed, 0));
        let mut fates = Vec::new();
        for i in 0..100u8 {
            fates.push(link.send(u64::from(i) * 1000, MemFrame::plain(vec![i; 100])));
        }
        let mut got = Vec::new();
        while let Some(t) = link.next() {
            while let Some(f) = link.arrived(t) {
                got.push((t, f.bytes[0]));
            }
        }
        (got, fates)
    }

    #[test]
    fn a_clean_wire_only_delays() {
        let (got, fates) = run(
            Impair {
                jitter: 5000,
                ..Impair::CLEAN
            },
            1,
        );
        assert!(fates.iter().all(|f| *f == Fate::Sent));
        assert!(got.iter().map(|g| g.1).eq(0..100), "order is kept");
        assert!(got[0].0 >= 50_000);
    }

    #[test]
    fn a_rate_spreads_and_its_queue_overflows() {
        let impair = Impair {
            rate: 80_000_000,
            queue: 100_000,
            latency: 0,
            ..Impair::CLEAN
        };
        let (got, fates) = run(impair, 1);
        // 100 bytes at 80 Mb/s take 10 us; they come every microsecond.
        assert!(got.windows(2).all(|w| w[1].0 - w[0].0 == 10_000));
        assert!(fates.contains(&Fate::Full));
    }

    #[test]
    fn the_seed_decides() {
        let impair = Impair {
            loss: 10_000,
            burst: 3,
            reorder: 20_000,
            reorder_by: 20_000,
            duplicate: 5000,
            corrupt: 5000,
            ..Impair::CLEAN
        };
        assert_eq!(run(impair, 7), run(impair, 7));
        let (got, fates) = run(impair, 7);
        assert_ne!((got, fates.clone()), run(impair, 8));
        for f in [
            Fate::Sent,
            Fate::Lost,
            Fate::Late,
            Fate::Twice,
            Fate::Corrupt,
        ] {
            assert!(fates.contains(&f), "{f:?} never happened");
        }
    }
}
