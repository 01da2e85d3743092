//! Spinning before a sleep: worth it only when what is waited for comes soon.

use core::cell::Cell;

use flyover_core::stack::locked::Locked;

use crate::attach::Attachment;
use crate::enter;
use crate::wait::Deadline;

/// What is done with the stack lock whenever a waiting thread looks at the V-NICs.
pub type PollFn<'a> = dyn FnMut(&mut Locked<'_, '_, 'static>) + 'a;

/// Handles what came.
pub(super) fn just_poll(l: &mut Locked<'_, '_, 'static>) {
    let _: u32 = l.poll(64);
}

/// How long to spin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// As the recent past of this thread suggests, 20 us at most.
    Adaptive,
    /// So many nanoseconds, always.
    Fixed(u64),
}

thread_local! {
    /// How well spinning paid off lately: 0 never, `SCORE_MAX` always. One up for a spin that was enough, two down for
    /// one in vain: it has to be enough in two cases of three.
    static SCORE: Cell<u32> = const { Cell::new(SCORE_START) };
    static WAITS: Cell<u32> = const { Cell::new(0) };
}

const SCORE_MAX: u32 = 16;
const SCORE_START: u32 = 6;

/// The score after a spin that was enough, or in vain.
fn rated(score: u32, enough: bool) -> u32 {
    match enough {
        true => (score + 1).min(SCORE_MAX),
        false => score.saturating_sub(2),
    }
}

/// At or above this score a wait begins with a spin.
const SCORE_SPIN: u32 = 5;
/// One in so many waits spins whatever the score, to notice that times have changed.
const RETRY: u32 = 64;
/// Longest adaptive spin, ns: about what a sleep and a wake cost.
const ADAPTIVE_NS: u64 = 20_000;

/// The clock is looked at once in so many rounds.
const CLOCK_ROUNDS: u32 = 8;
/// The same when a round is nothing but a look at shared memory.
const CLOCK_ROUNDS_SHORT: u32 = 64;
/// A thread that waits for the other end of a pair looks at the V-NICs, for others, once in so many rounds.
const FAVOUR_ROUNDS: u32 = 256;

/// How often a spin looks at the V-NICs: once in so many rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Every(u32);

impl Every {
    /// In a wait for packets.
    pub(super) const ROUND: Self = Self(1);
    /// In a wait for something else.
    pub(super) const NOW_AND_THEN: Self = Self(FAVOUR_ROUNDS);
}

impl Attachment {
    /// Polls the stack until `ready`, the budget is used up, the deadline passed or a signal waits. True: ready.
    pub fn spin(&self, budget: Budget, deadline: Deadline, ready: impl Fn() -> bool) -> bool {
        self.spin_with(budget, deadline, &mut just_poll, Every::ROUND, ready)
    }

    /// The same with a poll of the caller's own.
    pub(super) fn spin_with(
        &self,
        budget: Budget,
        deadline: Deadline,
        poll: &mut PollFn<'_>,
        every: Every,
        ready: impl Fn() -> bool,
    ) -> bool {
        let polls = self.has_nics();
        let clock = match every.0 {
            1 if polls => CLOCK_ROUNDS,
            _ => CLOCK_ROUNDS_SHORT,
        };
        let span = match budget {
            Budget::Fixed(ns) => ns,
            Budget::Adaptive => {
                let n = WAITS.with(|w| w.replace(w.get().wrapping_add(1)));
                let worth = SCORE.with(Cell::get) >= SCORE_SPIN || n.is_multiple_of(RETRY);
                if worth { ADAPTIVE_NS } else { 0 }
            }
        };
        let start = self.os.now();
        let mut rounds = 0u32;
        loop {
            if polls && rounds % every.0 == every.0 - 1 {
                let _: Option<()> = self.try_locked(|l| poll(l));
            }
            if ready() {
                // What was there at the first look says nothing. What came while this thread did not run would have come
                // in its sleep as well, and sooner.
                if span != 0 && rounds > 0 {
                    let took = self.os.now().saturating_sub(start);
                    SCORE.with(|s| s.set(rated(s.get(), took < span)));
                }
                return true;
            }
            rounds = rounds.wrapping_add(1);
            if span != 0 && !rounds.is_multiple_of(clock) {
                core::hint::spin_loop();
                continue;
            }
            let now = self.os.now();
            if now.saturating_sub(start) >= span || deadline.is_past(now) || enter::has_signal() {
                if span != 0 {
                    SCORE.with(|s| s.set(rated(s.get(), false)));
                }
                return false;
            }
            core::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_to_be_enough_in_two_cases_of_three() {
        let after = |spins: &[bool]| spins.iter().fold(SCORE_START, |s, e| rated(s, *e));
        assert!(after(&[true, true, false].repeat(20)) >= SCORE_SPIN);
        assert!(after(&[true, false].repeat(20)) < SCORE_SPIN);
        assert_eq!(after(&[true; 100]), SCORE_MAX);
        assert_eq!(after(&[false; 100]), 0);
    }
}
