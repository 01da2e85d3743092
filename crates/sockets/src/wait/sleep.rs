//! Sleeping, race-free: announce under the lock that we sleep, and whoever raises an event after that sends a byte to
//! our wake socket; whatever was raised before made the announcement answer "ready". A leader also watches the
//! V-NICs' descriptors and handles the packets itself.
//!
//! Nothing is held across the sleep or while an application's signal handler runs: a handler may `siglongjmp` away.

use core::cell::Cell;
use core::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flyover_core::ev;
use flyover_core::sock::{Kind, OS_DATA, flag};
use flyover_core::stack::wake::{Bell, ItemId, ItemMode, SetId, Wait, WaiterId};
use flyover_core::{Error, SHUT_RD, Sock, SockRef, TcpState};
use flyover_shm::Idx;

use crate::attach::{Attachment, wake_name};
use crate::enter;
use crate::errno::Errno;
use crate::os::{PollFd, Ran, move_high};
use crate::wait::Deadline;
use crate::wait::spin::{PollFn, just_poll};

/// A socket and the poll bits that it is watched for.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The socket.
    pub sock: SockRef,
    /// `POLLIN` ..; errors and hang-ups always count. [`ev::BACK`]: nothing but that the mark is one no longer.
    pub events: u32,
}

/// What a sleep is on.
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// These sockets, watched for this sleep only.
    Socks(&'a [Want]),
    /// One socket, by a thread that takes what comes: one event wakes one such thread.
    Sock(Want),
    /// One socket of which so many bytes or datagrams are known to be queued: what is ready already says nothing, see
    /// [`has_moved_on`].
    More(Want, u32),
    /// A standing set.
    Set(SetId),
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// An event, a time-out, or no reason at all: look.
    Woken,
    /// Handlers of the application ran.
    Signal(Ran),
}

/// What a thread needs to sleep. As many exist as threads have ever slept at the same time.
#[derive(Debug)]
struct Sleeper {
    waiter: WaiterId,
    set: SetId,
    /// Wake socket.
    rx: i32,
    /// Written by the signal handler.
    bell: i32,
    items: Vec<ItemId>,
    fds: Vec<PollFd>,
}

/// The sleepers that are not asleep, and the bells of all that there are.
#[derive(Debug)]
pub struct Sleepers(Mutex<Vec<Sleeper>>, Mutex<Vec<i32>>);

impl Default for Sleepers {
    fn default() -> Self {
        Self::new()
    }
}

impl Sleepers {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()), Mutex::new(Vec::new()))
    }

    fn take(&self) -> Option<Sleeper> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, s: Sleeper) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(s);
    }

    fn bells(&self) -> MutexGuard<'_, Vec<i32>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True when a socket on which `known` bytes or datagrams were queued has others now, or will get no more.
pub(crate) fn has_moved_on(s: &Sock, known: u32) -> bool {
    s.rq_available() != known
        || s.shut.load(Ordering::Acquire) & SHUT_RD != 0
        || s.err.load(Ordering::Acquire) != 0
        || s.os_ready.load(Ordering::Acquire) & OS_DATA != 0
        || (s.kind() == Kind::Tcp && matches!(s.tcp_state(), TcpState::Closed | TcpState::Listen))
}

/// Longest sleep of one system call, ns: a lost wake costs no more than this.
const NAP: u64 = 1_000_000_000;

/// Sleep without a waiter, ns.
const NAP_BLIND: u64 = 1_000_000;

thread_local! {
    /// While this thread last slept, somebody else polled all the time: every packet would wake both. Until then, ns, it
    /// leaves the V-NICs to him.
    static ASIDE_UNTIL: Cell<u64> = const { Cell::new(0) };
    /// How long it then sleeps at most, ns.
    static ASIDE_SPAN: Cell<u64> = const { Cell::new(ASIDE_NS) };
}

/// How long a thread sleeps when it first leaves the V-NICs to another, ns, ..
const ASIDE_NS: u64 = 500_000;
/// .. and later on: so late it may be when the other stops to poll and does not sleep either.
const ASIDE_MOST: u64 = 2_000_000;

/// So many polls by others in so many nanoseconds of a sleep are those of a thread that spins: at least one in 20 us.
fn is_spinning(polls: u64, ns: u64) -> bool {
    polls >= 8 && polls.saturating_mul(20_000) >= ns
}

impl Attachment {
    fn sleeper(&self) -> Result<Sleeper, Errno> {
        if let Some(s) = self.sleepers.take() {
            return Ok(s);
        }
        let set = self.locked(|l| l.set_alloc())?;
        let (waiter, rx) = match self.wake_socket() {
            Ok(w) => w,
            Err(e) => {
                self.locked(|l| l.set_free(set));
                return Err(e);
            }
        };
        let os = self.os;
        match os.eventfd().and_then(|fd| move_high(os, fd)) {
            Ok(bell) => {
                self.sleepers.bells().push(bell);
                let known = Bell {
                    pid: os.getpid(),
                    fd: bell,
                    id: os.eventfd_id(bell),
                };
                self.locked(|l| l.waiter_has_bell(waiter, known));
                Ok(Sleeper {
                    waiter,
                    set,
                    rx,
                    bell,
                    items: Vec::new(),
                    fds: Vec::new(),
                })
            }
            Err(e) => {
                let _: Result<(), Errno> = os.close(rx);
                self.locked(|l| {
                    l.waiter_free(waiter);
                    l.set_free(set);
                });
                Err(e)
            }
        }
    }

    /// A waiter of the stack, and the socket on which it is woken.
    pub(super) fn wake_socket(&self) -> Result<(WaiterId, i32), Errno> {
        let waiter = self.locked(|l| l.waiter_alloc())?;
        let os = self.os;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let rx = os
            .socket(libc::AF_UNIX, kind, 0)
            .and_then(|fd| move_high(os, fd));
        let bound = rx.and_then(|fd| os.bind(fd, &wake_name(self.stack_id, waiter)));
        match (rx, bound) {
            (Ok(fd), Ok(())) => Ok((waiter, fd)),
            (rx, bound) => {
                if let Ok(fd) = rx {
                    let _: Result<(), Errno> = os.close(fd);
                }
                self.locked(|l| l.waiter_free(waiter));
                Err(bound.err().unwrap_or(Errno::EADDRINUSE))
            }
        }
    }

    /// Sleeps once. `kernel` descriptors are watched as well, and their `revents` filled in. The caller looks
    /// at the sockets afterwards, and loops. A cancelled thread ends here, so the caller may hold nothing.
    pub fn sleep(&self, on: On<'_>, kernel: &mut [PollFd], deadline: Deadline) -> Slept {
        self.os.test_cancel();
        self.rest(on, kernel, deadline, &|_| true);
        if enter::has_signal() {
            return Slept::Signal(self.os.run_signals());
        }
        Slept::Woken
    }

    /// Sleeps in a call on the mark `sock` until its kernel socket shows `events`, or the stack has it. Meanwhile the socket is held, as
    /// by a call in the kernel: `fd` may be closed, or replaced. Returns what it shows, too.
    pub(crate) fn sleep_away(
        &self,
        sock: SockRef,
        fd: i32,
        events: i16,
        deadline: Deadline,
    ) -> (Slept, i16) {
        if enter::cancel_is_new() {
            // The thread may end here: nothing may be held.
            let _ = self.unpin();
        }
        self.os.test_cancel();
        let home = Want {
            sock,
            events: ev::BACK,
        };
        self.pin(sock, u32::from(events as u16));
        let mut one = [PollFd {
            fd: self.kept_fd(sock, fd),
            events,
            revents: 0,
        }];
        self.rest(On::Socks(&[home]), &mut one, deadline, &|_| true);
        let shown = one[0].revents;
        if enter::has_signal() {
            // Handlers may jump away.
            let _ = self.unpin();
            return (Slept::Signal(self.os.run_signals()), shown);
        }
        (Slept::Woken, shown)
    }

    /// [`sleep`](Self::sleep) without the handlers of noted signals: the caller runs them. `watch` is asked, once the
    /// sleep is announced, whether the `kernel` descriptors are to be watched; it is told whether this thread leads.
    pub(super) fn rest(
        &self,
        on: On<'_>,
        kernel: &mut [PollFd],
        deadline: Deadline,
        watch: &dyn Fn(bool) -> bool,
    ) {
        self.rest_with(on, kernel, deadline, watch, &mut just_poll);
    }

    /// The same; a leader looks at the V-NICs with `poll` when it wakes.
    pub(super) fn rest_with(
        &self,
        on: On<'_>,
        kernel: &mut [PollFd],
        deadline: Deadline,
        watch: &dyn Fn(bool) -> bool,
        poll: &mut PollFn<'_>,
    ) {
        let Ok(mut s) = self.sleeper() else {
            // No descriptors or waiters left: short naps have to do.
            return self.nap(kernel, deadline);
        };
        let (start, mut began) = (self.os.now(), 0);
        let aside = start < ASIDE_UNTIL.get();
        let deadline = match aside {
            true => deadline.min(Deadline::after(start, ASIDE_SPAN.get())),
            false => deadline,
        };
        let wait = self.locked(|l| {
            let (set, list, exclusive, known) = match &on {
                On::Set(set) => (*set, [].as_slice(), false, None),
                On::Socks(list) => (s.set, *list, false, None),
                On::Sock(one) => (s.set, core::slice::from_ref(one), true, None),
                On::More(one, n) => (s.set, core::slice::from_ref(one), true, Some(*n)),
            };
            for w in list {
                let how = ItemMode {
                    private: true,
                    exclusive,
                    quiet: known.is_some() || w.events == ev::BACK,
                    ..ItemMode::default()
                };
                let added = match l.stack().get(w.sock) {
                    Some(_) => l.item_add(s.set, w.sock.id, w.events, 0, how),
                    None => Err(Error::Invalid),
                };
                match added {
                    Ok(item) => s.items.push(item),
                    Err(e) => {
                        s.items.drain(..).for_each(|i| l.item_del_in(i, s.set));
                        return Err(e);
                    }
                }
            }
            // Nothing is queued without the lock.
            let moved_on = |n| {
                list.iter()
                    .any(|w| has_moved_on(l.stack().sock(w.sock.id), n))
            };
            let back = |w: &Want| {
                w.events == ev::BACK && !l.stack().sock(w.sock.id).has(flag::HANDED_OVER)
            };
            if known.is_some_and(moved_on) || list.iter().any(back) {
                return Ok(Wait::Ready);
            }
            began = l.stack().poll_seq();
            Ok(match aside {
                true => l.wait_aside(set, s.waiter),
                false => l.wait_begin(set, s.waiter),
            })
        });
        let wait = match wait {
            Ok(w) => w,
            Err(_) => {
                self.sleepers.put(s);
                return self.nap(kernel, deadline);
            }
        };
        if let Wait::Sleep { leader } = wait {
            let watched = if watch(leader) { kernel } else { &mut [] };
            self.doze(&mut s, leader, watched, deadline);
        }
        let polls = self.stack.poll_seq().wrapping_sub(began);
        let now = self.os.now();
        if is_spinning(polls, now.saturating_sub(start)) {
            let span = if aside {
                ASIDE_SPAN.get() * 2
            } else {
                ASIDE_NS
            };
            ASIDE_SPAN.set(span.min(ASIDE_MOST));
            ASIDE_UNTIL.set(now.saturating_add(ASIDE_NS));
        }
        self.locked(|l| {
            if matches!(wait, Wait::Sleep { leader: true }) {
                // What we raise ourselves must not wake us.
                l.wait_awake(s.waiter);
                poll(l);
            }
            l.wait_end(s.waiter);
            s.items.drain(..).for_each(|i| l.item_del_in(i, s.set));
        });
        self.sleepers.put(s);
    }

    /// A sleep without the means to be woken: a millisecond at most.
    fn nap(&self, kernel: &mut [PollFd], deadline: Deadline) {
        let span = deadline
            .left(self.os.now())
            .map_or(NAP_BLIND, |left| left.min(NAP_BLIND));
        let _: Result<usize, Errno> = self.os.ppoll(kernel, Some(span));
        let _: bool = self.poll(64);
    }

    /// The system call itself.
    fn doze(&self, s: &mut Sleeper, leader: bool, kernel: &mut [PollFd], deadline: Deadline) {
        let now = self.os.now();
        let mut until = deadline.0.unwrap_or(u64::MAX).min(now.saturating_add(NAP));
        if leader {
            let timer = self.stack.next_deadline().map_or(u64::MAX, |t| t.0);
            until = until.min(timer);
        }
        s.fds.clear();
        s.fds.push(PollFd::input(s.rx));
        s.fds.push(PollFd::input(s.bell));
        s.fds
            .extend(kernel.iter().map(|k| PollFd { revents: 0, ..*k }));
        if leader {
            s.fds
                .extend(self.nic_fds.iter().map(|fd| PollFd::input(*fd)));
        }
        // From here on a signal rings the bell, so that it cannot slip in between the look and the sleep.
        let signalled = enter::arm_doorbell(s.bell) || enter::cancel_is_new();
        if !signalled && self.stack.still_asleep(s.waiter) {
            let _: Result<usize, Errno> =
                self.os.ppoll(&mut s.fds, Some(until.saturating_sub(now)));
        }
        enter::disarm_doorbell();
        for (to, from) in kernel.iter_mut().zip(s.fds.iter().skip(2)) {
            to.revents = from.revents;
        }
        self.drain(s);
    }

    /// Takes the bytes out of the wake socket and the bell, so that they do not end the next sleep.
    fn drain(&self, s: &Sleeper) {
        let mut buf = [0u8; 8];
        if s.fds.first().is_some_and(|p| p.revents != 0) {
            // One message as a rule; a second one costs a look without need.
            let _: Result<usize, Errno> = self.os.read(s.rx, &mut buf);
        }
        if enter::has_signal() || s.fds.get(1).is_some_and(|p| p.revents != 0) {
            let _: Result<usize, Errno> = self.os.read(s.bell, &mut buf);
        }
        core::sync::atomic::fence(Ordering::Acquire);
    }

    /// Wakes all threads that sleep, for whatever reason.
    pub fn ring_all(&self) {
        for bell in self.sleepers.bells().iter() {
            let _: Result<usize, Errno> = self.os.write(*bell, &1u64.to_ne_bytes());
        }
    }

    /// Frees what this process's sleepers hold, at an orderly end.
    pub fn free_sleepers(&self) {
        self.sleepers.bells().clear();
        while let Some(s) = self.sleepers.take() {
            self.locked(|l| {
                l.waiter_free(Idx::new(s.waiter.raw()));
                l.set_free(s.set);
            });
            for fd in [s.rx, s.bell] {
                let _: Result<(), Errno> = self.os.close(fd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_polls_all_the_time_spins() {
        assert!(is_spinning(1_000, 300_000));
        assert!(is_spinning(8, 3_000));
        assert!(!is_spinning(3, 3_000), "a request was handled");
        assert!(!is_spinning(100, 10_000_000), "one every 100 us");
        assert!(!is_spinning(0, 0));
    }
}
