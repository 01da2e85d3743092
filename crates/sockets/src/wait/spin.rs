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
/// At or above this score a wait begins with a spin.
const SCORE_SPIN: u32 = 5;
/// One in so many waits spins whatever the score, to notice that times have changed.
const RETRY: u32 = 64;
/// Longest adaptive spin, ns: about what a sleep and a wake cost.
const ADAPTIVE_NS: u64 = 20_000;

/// The clock is looked at once in so many rounds.
const CLOCK_ROUNDS: u32 = 8;

impl Attachment {
    /// Polls the stack until `ready`, the budget is used up, the deadline passed or a signal waits. True: ready.
    pub fn spin(&self, budget: Budget, deadline: Deadline, ready: impl Fn() -> bool) -> bool {
        self.spin_with(budget, deadline, &mut just_poll, ready)
    }

    /// The same with a poll of the caller's own.
    pub(super) fn spin_with(
        &self,
        budget: Budget,
        deadline: Deadline,
        poll: &mut PollFn<'_>,
        ready: impl Fn() -> bool,
    ) -> bool {
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
            let _: Option<()> = self.try_locked(|l| poll(l));
            if ready() {
                SCORE.with(|s| s.set((s.get() + 1).min(SCORE_MAX)));
                return true;
            }
            rounds = rounds.wrapping_add(1);
            if span != 0 && !rounds.is_multiple_of(CLOCK_ROUNDS) {
                core::hint::spin_loop();
                continue;
            }
            let now = self.os.now();
            if now.saturating_sub(start) >= span || deadline.is_past(now) || enter::has_signal() {
                if span != 0 {
                    SCORE.with(|s| s.set(s.get().saturating_sub(2)));
                }
                return false;
            }
            core::hint::spin_loop();
        }
    }
}
