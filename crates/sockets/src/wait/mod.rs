//! Waiting: first spin, then sleep. Here the wait for one socket; `poll`, `select` and `epoll` build on [`sleep`].

mod ctl;
pub mod epoll;
pub mod heirs;
mod members;
mod moved;
mod nested;
pub(crate) mod pins;
pub mod poll;
pub mod select;
mod sets;
pub(crate) use sets::Gate;
pub mod sleep;
pub mod spin;

use core::cell::Cell;

use flyover_core::SockRef;
use flyover_core::ev;

use crate::attach::Attachment;
use crate::enter;
use crate::errno::Errno;
use crate::os::{PollFd, Ran};
use crate::wait::sleep::{On, Want};

/// A point of `CLOCK_MONOTONIC` in nanoseconds, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Option<u64>);

impl Deadline {
    /// Never.
    pub const NEVER: Self = Self(None);

    /// `span` nanoseconds after `now`; 0 means never, as in `SO_RCVTIMEO`.
    pub fn after_or_never(now: u64, span: u64) -> Self {
        Self((span != 0).then(|| now.saturating_add(span)))
    }

    /// `span` nanoseconds after `now`.
    pub fn after(now: u64, span: u64) -> Self {
        Self(Some(now.saturating_add(span)))
    }

    /// True when it has come.
    pub fn is_past(self, now: u64) -> bool {
        self.0.is_some_and(|d| d <= now)
    }

    /// The earlier of two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// Nanoseconds left, `None` for ever.
    pub fn left(self, now: u64) -> Option<u64> {
        self.0.map(|d| d.saturating_sub(now))
    }
}

/// One wait of [`Attachment::block`].
struct Block<'a, 'p> {
    want: Want,
    /// Only what comes beyond so many bytes or datagrams counts.
    known: Option<u32>,
    /// A kernel descriptor whose input counts as well; -1: none.
    beside: i32,
    deadline: Deadline,
    spin: spin::Budget,
    /// Handlers with `SA_RESTART` do not end it.
    restarts: bool,
    poll: &'a mut spin::PollFn<'p>,
    /// `poll` has brought what is waited for.
    got: &'a dyn Fn() -> bool,
}

impl Attachment {
    /// Blocks until one of `events`, an error or a hang-up shows on `sock`, or input on the kernel descriptor
    /// `beside` (-1: none).
    ///
    /// # Errors
    /// `EAGAIN` at the deadline; `EINTR` when a handler ran that does not restart the call (`signal(7)`: with a
    /// deadline no call is restarted).
    pub fn block_on(
        &self,
        sock: SockRef,
        events: u32,
        beside: i32,
        deadline: Deadline,
        spin: spin::Budget,
    ) -> Result<(), Errno> {
        self.block(Block {
            want: Want { sock, events },
            known: None,
            beside,
            deadline,
            spin,
            restarts: deadline.0.is_none(),
            poll: &mut spin::just_poll,
            got: &|| false,
        })
    }

    /// Also when the socket is gone: whoever waits looks at that first.
    fn is_ready(&self, want: Want) -> bool {
        self.stack.get(want.sock).is_none()
            || self.stack.readiness(want.sock.id) & (want.events | ev::ERR | ev::HUP) != 0
    }

    /// Blocks until `sock`, on which `known` bytes or datagrams are queued, has others, or will get no more. What is
    /// ready already does not count.
    ///
    /// # Errors
    /// As [`Attachment::block_on`].
    pub fn block_for_more(
        &self,
        sock: SockRef,
        known: u32,
        deadline: Deadline,
        spin: spin::Budget,
    ) -> Result<(), Errno> {
        self.block(Block {
            want: Want {
                sock,
                events: ev::IN | ev::RDHUP,
            },
            known: Some(known),
            beside: -1,
            deadline,
            spin,
            restarts: deadline.0.is_none(),
            poll: &mut spin::just_poll,
            got: &|| false,
        })
    }

    /// Blocks until something can be received, with a poll of the caller's own, which may bring it: `got` says so.
    ///
    /// # Errors
    /// As [`Attachment::block_on`].
    pub(crate) fn block_polling(
        &self,
        sock: SockRef,
        deadline: Deadline,
        spin: spin::Budget,
        poll: &mut spin::PollFn<'_>,
        got: &dyn Fn() -> bool,
    ) -> Result<(), Errno> {
        self.block(Block {
            want: Want {
                sock,
                events: ev::IN | ev::RDHUP,
            },
            known: None,
            beside: -1,
            deadline,
            spin,
            restarts: deadline.0.is_none(),
            poll,
            got,
        })
    }

    /// As [`Attachment::block_on`], for a call that has moved bytes already: any handler ends it.
    ///
    /// # Errors
    /// `EAGAIN`, `EINTR`: what was moved is the result of the call.
    pub fn block_on_rest(
        &self,
        sock: SockRef,
        events: u32,
        deadline: Deadline,
        spin: spin::Budget,
    ) -> Result<(), Errno> {
        self.block(Block {
            want: Want { sock, events },
            known: None,
            beside: -1,
            deadline,
            spin,
            restarts: false,
            poll: &mut spin::just_poll,
            got: &|| false,
        })
    }

    fn block(&self, b: Block<'_, '_>) -> Result<(), Errno> {
        let Block {
            want,
            deadline,
            got,
            ..
        } = b;
        let me = want.sock;
        let on = b.known.map_or(On::Sock(want), |n| On::More(want, n));
        let ready = || match b.known {
            None => got() || self.is_ready(want),
            Some(n) => self.stack.get(me).is_none_or(|s| sleep::has_moved_on(s, n)),
        };
        let paired = self.stack.is_paired(me.id);
        let every = match paired {
            true => spin::Every::NOW_AND_THEN,
            false => spin::Every::ROUND,
        };
        // For bytes of the other end of a pair it is enough to look again when one of a few words has changed.
        let seen = Cell::new(None);
        let at_once = || {
            if paired && want.events & ev::OUT == 0 {
                let now = self.stack.signs_of_life(me.id);
                if seen.replace(Some(now)) == Some(now) {
                    return false;
                }
            }
            ready()
        };
        if self.spin_with(b.spin, deadline, b.poll, every, at_once) {
            return Ok(());
        }
        // Of many threads on one socket those that lead watch the kernel's half; for the others the keeper does.
        let watch = |leader: bool| leader || b.beside < 0;
        loop {
            if ready() {
                return Ok(());
            }
            if deadline.is_past(self.os.now()) {
                return Err(Errno::EAGAIN);
            }
            if enter::cancel_is_new() {
                // The thread may end here: nothing may be held.
                let _ = self.unpin();
            }
            self.os.test_cancel();
            if self.stack.get(me).is_none() {
                return Err(Errno::EBADF);
            }
            self.pin(me, want.events);
            let mut kernel = [PollFd::input(self.kept_fd(me, b.beside))];
            self.rest_with(on, &mut kernel, deadline, &watch, b.poll);
            // What was placed in the caller's memory is his before any handler runs, which might jump away.
            if got() || kernel.iter().any(|k| k.revents != 0) {
                return Ok(());
            }
            if !enter::has_signal() {
                continue;
            }
            // Handlers may close the descriptor, or jump away.
            let _ = self.unpin();
            let ran = self.os.run_signals();
            if self.stack.get(me).is_none() {
                return Err(Errno::EBADF);
            }
            match ran {
                _ if ready() => return Ok(()),
                Ran::Restart if b.restarts => {}
                Ran::None => {}
                Ran::Restart | Ran::Interrupt => return Err(Errno::EINTR),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_never_only_for_socket_timeouts() {
        assert_eq!(Deadline::after_or_never(5, 0), Deadline::NEVER);
        assert!(Deadline::after(5, 0).is_past(5));
        assert!(!Deadline::NEVER.is_past(u64::MAX));
        assert_eq!(Deadline::after(5, 10).left(7), Some(8));
        assert_eq!(Deadline::after(5, 10).left(70), Some(0));
    }
}
