//! When the keeper works and when it sleeps. Pure: time and what is seen are arguments.
//!
//! - *Idle*: sleeps on the V-NICs' descriptors until the stack's next deadline. A packet or a poke makes it active.
//! - *Active*: somebody seems to be attending. Looks every 5 ms, without the V-NICs' descriptors, so that a busy
//!   application never wakes it. When nobody polled for a whole tick although there was something to do, it attends;
//!   when nothing happened for 100 ms, it is idle again.
//! - *Attending*: nobody else works. Handles everything at once, until somebody else polls.

/// Time between two looks while somebody attends, ns.
const TICK: u64 = 5_000_000;
/// Quiet time after which it is idle again, ns.
const QUIET: u64 = 100_000_000;
/// How long after a deadline the keeper looks whether a sleeping application saw to it, ns.
const GRACE: u64 = 1_000_000;
/// Pause after a poll that left a deadline in the past (a timer wheel's bound need not be exact), ns.
const PAUSE: u64 = 500_000;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Sleeps until something comes.
    Idle,
    /// Looks now and then.
    Active,
    /// Does the work.
    Attending,
}

/// What is seen at one moment. Times are ns of the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// The time.
    pub now: u64,
    /// How often the stack was polled so far, by anybody.
    pub poll_seq: u64,
    /// A V-NIC has a frame.
    pub pending: bool,
    /// The stack's next deadline.
    pub deadline: Option<u64>,
    /// A V-NIC's descriptor was readable, or somebody poked, since the last look.
    pub woken: bool,
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Poll the stack, tell [`Machine::polled`], look again.
    Poll,
    /// Sleep, look again.
    Sleep {
        /// Until when; `None` is until something comes.
        until: Option<u64>,
        /// On the V-NICs' descriptors too, and so that whoever arms an earlier deadline has to poke.
        all: bool,
    },
}

/// The state between two looks.
#[derive(Debug)]
pub struct Machine {
    mode: Mode,
    /// Polls seen so far.
    poll_seq: u64,
    /// Active: when to look next.
    tick_at: u64,
    /// Active: when something last happened.
    moved_at: u64,
    /// When the keeper itself polled last.
    polled_at: u64,
}

impl Machine {
    /// Idle; `poll_seq` is the present count of polls.
    pub fn new(poll_seq: u64) -> Self {
        Self {
            mode: Mode::Idle,
            poll_seq,
            tick_at: 0,
            moved_at: 0,
            polled_at: 0,
        }
    }

    /// The mode.
    #[cfg(test)]
    fn mode(&self) -> Mode {
        self.mode
    }

    /// The keeper itself has polled, and the count is now this.
    pub fn polled(&mut self, now: u64, poll_seq: u64) {
        self.poll_seq = poll_seq;
        self.polled_at = now;
    }

    /// The keeper wanted to poll, but somebody else has the lock: he attends.
    pub fn busy(&mut self, now: u64, poll_seq: u64) {
        let _: Step = self.activate(Look {
            now,
            poll_seq,
            ..Look::default()
        });
    }

    /// Decides what to do.
    pub fn step(&mut self, look: Look) -> Step {
        let others = look.poll_seq != self.poll_seq;
        match self.mode {
            Mode::Idle if look.woken => self.activate(look),
            Mode::Idle => self.idle(look, others),
            Mode::Active if look.now < self.tick_at => self.sleep_tick(),
            Mode::Active => self.active(look, others),
            Mode::Attending if others => self.activate(look),
            Mode::Attending if look.woken || look.pending => Step::Poll,
            Mode::Attending => self.attend(look),
        }
    }

    fn idle(&mut self, look: Look, others: bool) -> Step {
        let due = look
            .deadline
            .is_some_and(|at| at.saturating_add(GRACE) <= look.now);
        self.poll_seq = look.poll_seq;
        if due && !others {
            self.mode = Mode::Attending;
            return Step::Poll;
        }
        if due {
            return self.activate(look);
        }
        Step::Sleep {
            until: look.deadline.map(|at| at.saturating_add(GRACE)),
            all: true,
        }
    }

    fn activate(&mut self, look: Look) -> Step {
        self.mode = Mode::Active;
        self.poll_seq = look.poll_seq;
        self.moved_at = look.now;
        self.tick_at = look.now.saturating_add(TICK);
        self.sleep_tick()
    }

    fn active(&mut self, look: Look, others: bool) -> Step {
        self.poll_seq = look.poll_seq;
        self.tick_at = look.now.saturating_add(TICK);
        if others {
            self.moved_at = look.now;
            return self.sleep_tick();
        }
        if look.pending || is_due(look) {
            self.mode = Mode::Attending;
            return Step::Poll;
        }
        if look.now.saturating_sub(self.moved_at) >= QUIET {
            self.mode = Mode::Idle;
            return self.idle(look, false);
        }
        self.sleep_tick()
    }

    fn attend(&self, look: Look) -> Step {
        let earliest = self.polled_at.saturating_add(PAUSE);
        match look.deadline.map(|at| at.max(earliest)) {
            Some(at) if at <= look.now => Step::Poll,
            until => Step::Sleep { until, all: true },
        }
    }

    fn sleep_tick(&self) -> Step {
        Step::Sleep {
            until: Some(self.tick_at),
            all: false,
        }
    }
}

fn is_due(look: Look) -> bool {
    look.deadline.is_some_and(|at| at <= look.now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn look(now_ms: u64, poll_seq: u64) -> Look {
        Look {
            now: now_ms * MS,
            poll_seq,
            ..Look::default()
        }
    }

    fn tick(until_ms: u64) -> Step {
        Step::Sleep {
            until: Some(until_ms * MS),
            all: false,
        }
    }

    const FOREVER: Step = Step::Sleep {
        until: None,
        all: true,
    };

    #[test]
    fn an_idle_stack_sleeps_until_its_deadline() {
        let mut m = Machine::new(7);
        assert_eq!(m.step(look(0, 7)), FOREVER);
        let with = Look {
            deadline: Some(50 * MS),
            ..look(0, 7)
        };
        assert_eq!(
            m.step(with),
            Step::Sleep {
                until: Some(51 * MS),
                all: true
            }
        );
        // Nobody saw to it.
        assert_eq!(
            m.step(Look {
                now: 51 * MS,
                ..with
            }),
            Step::Poll
        );
        assert_eq!(m.mode(), Mode::Attending);
    }

    #[test]
    fn a_deadline_that_the_application_met_needs_no_poll() {
        let mut m = Machine::new(7);
        m.step(Look {
            deadline: Some(50 * MS),
            ..look(0, 7)
        });
        let next = Look {
            deadline: Some(90 * MS),
            ..look(51, 8)
        };
        assert_eq!(
            m.step(next),
            Step::Sleep {
                until: Some(91 * MS),
                all: true
            }
        );
        assert_eq!(m.mode(), Mode::Idle);
    }

    #[test]
    fn a_packet_gives_the_application_one_tick() {
        let mut m = Machine::new(0);
        assert_eq!(
            m.step(Look {
                woken: true,
                ..look(10, 0)
            }),
            tick(15)
        );
        // Woken early by something else: the tick is not over.
        assert_eq!(
            m.step(Look {
                pending: true,
                ..look(12, 0)
            }),
            tick(15)
        );
        assert_eq!(
            m.step(Look {
                pending: true,
                ..look(15, 0)
            }),
            Step::Poll
        );
        m.polled(15 * MS, 1);
        assert_eq!(m.step(look(15, 1)), FOREVER);
        assert_eq!(m.mode(), Mode::Attending);
        // From now on packets are handled at once.
        assert_eq!(
            m.step(Look {
                woken: true,
                ..look(16, 1)
            }),
            Step::Poll
        );
        m.polled(16 * MS, 2);
        // Until somebody else polls.
        assert_eq!(m.step(look(17, 3)), tick(22));
        assert_eq!(m.mode(), Mode::Active);
    }

    #[test]
    fn a_polling_application_is_left_alone() {
        let mut m = Machine::new(0);
        m.step(Look {
            woken: true,
            ..look(0, 0)
        });
        for i in 1..100 {
            let now = i * 5;
            let busy = Look {
                pending: true,
                deadline: Some(0),
                ..look(now, i)
            };
            assert_eq!(m.step(busy), tick(now + 5));
        }
        // It stops, and nothing is left to do: idle after 100 ms.
        let stopped = 99;
        for i in 100..=118 {
            assert_eq!(m.step(look(i * 5, stopped)), tick(i * 5 + 5), "{i}");
        }
        assert_eq!(m.step(look(595, stopped)), FOREVER);
        assert_eq!(m.mode(), Mode::Idle);
    }

    #[test]
    fn a_deadline_that_stays_in_the_past_does_not_spin() {
        let mut m = Machine::new(0);
        let due = Look {
            deadline: Some(MS),
            ..look(2, 0)
        };
        assert_eq!(m.step(due), Step::Poll);
        m.polled(2 * MS, 1);
        let again = Look { poll_seq: 1, ..due };
        assert_eq!(
            m.step(again),
            Step::Sleep {
                until: Some(2 * MS + PAUSE),
                all: true
            }
        );
        assert_eq!(
            m.step(Look {
                now: 3 * MS,
                ..again
            }),
            Step::Poll
        );
    }

    #[test]
    fn a_taken_lock_means_that_somebody_attends() {
        let mut m = Machine::new(0);
        m.step(Look {
            deadline: Some(0),
            ..look(2, 0)
        });
        m.busy(2 * MS, 0);
        assert_eq!(
            m.step(Look {
                pending: true,
                ..look(3, 0)
            }),
            tick(7)
        );
    }

    #[test]
    fn a_stopped_application_is_replaced_within_a_tick() {
        let mut m = Machine::new(0);
        m.step(Look {
            woken: true,
            ..look(0, 0)
        });
        m.step(look(5, 1));
        assert_eq!(
            m.step(Look {
                deadline: Some(9 * MS),
                ..look(10, 1)
            }),
            Step::Poll
        );
    }
}
