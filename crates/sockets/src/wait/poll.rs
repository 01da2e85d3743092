//! `poll(2)`: kernel descriptors by the kernel's own, accelerated ones by their readiness, in one sleep.

use core::cell::Cell;

use flyover_core::sock::flag;
use flyover_core::{SockRef, ev};

use crate::attach::Attachment;
use crate::enter;
use crate::errno::Errno;
use crate::life::takeover::is_away;
use crate::os::{PollFd, Ran};
use crate::process::{Fd, Sockets};
use crate::wait::sleep::{On, Want};
use crate::wait::{Deadline, spin};

/// What a member is.
#[derive(Clone, Copy, Debug)]
enum Member {
    Kernel,
    /// The kernel's, for the time being.
    Away(SockRef),
    /// The kernel's, with an error that a connection left.
    Failed,
    /// Index into the wants.
    Ours(usize),
    /// An epoll set with accelerated members.
    Set(u32),
}

/// Linux always reports these.
const ALWAYS: i16 = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
/// An epoll set that could not be given a mirror has no way to wake us: look at it this often, ns.
const BLIND_NAP: u64 = 1_000_000;
/// A kernel member that shows only what `select` does not ask for cannot be slept on; look this often, ns.
const MUTED_NAP: u64 = 10_000_000;

/// The members of one call, sorted.
struct Sorted {
    att: &'static Attachment,
    wants: Vec<Want>,
    members: Vec<Member>,
    kernel: Vec<PollFd>,
    /// All epoll sets with accelerated members have mirrors.
    shown: bool,
    /// How many descriptors had been closed before.
    closes: u64,
}

impl Sockets {
    /// `poll(2)` and `ppoll(2)`; `timeout` in nanoseconds, `None` for ever. `None`: no member is accelerated.
    pub fn poll(&self, fds: &mut [PollFd], timeout: Option<u64>) -> Option<Result<usize, Errno>> {
        self.poll_for(fds, timeout, &Cell::new(false), |_| true)
    }

    /// As [`poll`](Self::poll), where a member counts only if `counts` says so of what it shows. `slept`: not all was
    /// ready at once.
    pub(super) fn poll_for(
        &self,
        fds: &mut [PollFd],
        timeout: Option<u64>,
        slept: &Cell<bool>,
        counts: impl Fn(&PollFd) -> bool,
    ) -> Option<Result<usize, Errno>> {
        // Whoever sleeps in the kernel would not hear that it was paired.
        fds.iter().for_each(|p| self.ripen(p.fd));
        let mut s = self.sort(fds)?;
        let att = s.att;
        let deadline = Deadline(timeout.map(|t| self.os.now().saturating_add(t)));
        let mut signalled = false;
        let mut held = None;
        let mut spun = timeout == Some(0);
        loop {
            follow_handovers(&mut s, fds);
            let has_kernel = s.kernel.iter().any(|k| k.fd >= 0);
            if has_kernel && let Err(e) = self.look_at_kernels(&mut s) {
                return Some(Err(e));
            }
            // What the kernel socket shows of a connection that came back says nothing.
            if follow_returns(&mut s, fds) {
                held = None;
                continue;
            }
            let kernel_ready = s.kernel.iter().any(|k| k.fd >= 0 && k.revents != 0);
            let budget = if spun || kernel_ready {
                spin::Budget::Fixed(0)
            } else {
                self.settings.spin
            };
            let _: bool = att.spin(budget, deadline, || any_ours(&s));
            spun = true;
            let count = fill(fds, &s, &counts);
            if count > 0 && any_left(&s) {
                // What went to the kernel just now shows everything, so that one looks there.
                continue;
            }
            if count > 0 {
                return Some(Ok(count));
            }
            if signalled {
                return Some(Err(Errno::EINTR));
            }
            let now = self.os.now();
            if deadline.is_past(now) {
                return Some(Ok(0));
            }
            // What shows, but does not count, would end every sleep at once.
            let mut muted = false;
            for (k, p) in s.kernel.iter_mut().zip(fds.iter()) {
                if k.fd >= 0 && p.revents != 0 {
                    k.fd = -1;
                    muted = true;
                }
            }
            let nap = match (s.shown, muted) {
                (false, _) => Some(BLIND_NAP),
                (true, true) => Some(MUTED_NAP),
                (true, false) => None,
            };
            let soon = nap.map_or(u64::MAX, |n| now.saturating_add(n));
            let until = match nap {
                Some(_) => Deadline(Some(deadline.0.unwrap_or(u64::MAX).min(soon))),
                None => deadline,
            };
            slept.set(true);
            if enter::cancel_is_new() {
                // The thread may end here: nothing may be held.
                held = None;
            }
            self.os.test_cancel();
            if held.is_none() {
                held = att.hold_all(s.wants.iter().map(|w| w.sock).collect(), s.closes);
            }
            if held.is_some() {
                let watched = s.watched();
                att.rest(On::Socks(&watched), &mut s.kernel, until, &|_| true);
            }
            let woken = held.is_none()
                || any_ours(&s)
                || s.kernel.iter().any(|k| k.fd >= 0 && k.revents != 0);
            if muted {
                s.restore(fds);
            }
            if enter::has_signal() {
                // Handlers may close descriptors, or jump away.
                held = None;
                // poll(2) is never restarted, see signal(7).
                signalled = matches!(self.os.run_signals(), Ran::Restart | Ran::Interrupt);
            }
            let over = woken || signalled || deadline.is_past(self.os.now());
            if over && att.pins.closes() != s.closes {
                // As the kernel, which looks the numbers up anew when it was woken.
                held = None;
                match self.sort(fds) {
                    Some(now) => s = now,
                    None => return Some(self.poll_kernels(fds, deadline, signalled, counts)),
                }
            }
        }
    }

    /// Everything that was accelerated has been closed by other threads: the rest of the wait is the kernel's.
    fn poll_kernels(
        &self,
        fds: &mut [PollFd],
        deadline: Deadline,
        mut signalled: bool,
        counts: impl Fn(&PollFd) -> bool,
    ) -> Result<usize, Errno> {
        loop {
            let left = match (signalled, deadline.left(self.os.now())) {
                (true, _) => 0,
                (false, left) => left.unwrap_or(MUTED_NAP).min(MUTED_NAP),
            };
            match self.os.ppoll(fds, Some(left)) {
                Ok(_) => {}
                Err(Errno::EINTR) => fds.iter_mut().for_each(|p| p.revents = 0),
                Err(e) => return Err(e),
            }
            let ready = fds.iter().filter(|p| p.revents != 0 && counts(p)).count();
            if ready > 0 {
                return Ok(ready);
            }
            if fds.iter().any(|p| p.revents != 0) {
                // Shown, but not asked for: a wait on it would end at once.
                let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(left));
            }
            if signalled {
                return Err(Errno::EINTR);
            }
            if deadline.is_past(self.os.now()) {
                return Ok(0);
            }
            self.os.test_cancel();
            signalled = enter::has_signal()
                && matches!(self.os.run_signals(), Ran::Restart | Ran::Interrupt);
        }
    }

    /// `None`: nothing is accelerated, the kernel can answer.
    fn sort(&self, fds: &[PollFd]) -> Option<Sorted> {
        let closes = self.attached().map_or(0, |a| a.pins.closes());
        let mut wants: Vec<Want> = Vec::new();
        let mut members: Vec<Member> = Vec::with_capacity(fds.len());
        let mut sets: Vec<u32> = Vec::new();
        let mut att = None;
        for p in fds {
            let (looked, mark) = if p.fd < 0 {
                (Fd::Kernel, None)
            } else {
                self.look_and_mark(p.fd)
            };
            members.push(match looked {
                Fd::Fresh(f) if f.error != 0 => {
                    att = att.or(self.attached());
                    Member::Failed
                }
                Fd::Kernel | Fd::Fresh(_) => match mark {
                    Some(ep) => {
                        att = Some(ep.att);
                        Member::Away(ep.sock)
                    }
                    None => Member::Kernel,
                },
                Fd::Tcp(ep) | Fd::Udp(ep) => {
                    att = Some(ep.att);
                    wants.push(Want {
                        sock: ep.sock,
                        events: u32::from(p.events as u16),
                    });
                    Member::Ours(wants.len() - 1)
                }
                Fd::Epoll(i) if self.epolls.has_ours(i) => {
                    att = att.or(self.attached());
                    sets.push(i);
                    Member::Set(i)
                }
                Fd::Epoll(_) => Member::Kernel,
            });
        }
        let att = att?;
        let expose = |i: u32| self.epolls.expose(self, i, att);
        let shown = sets.into_iter().map(expose).fold(true, |a, b| a & b);
        let mut s = Sorted {
            att,
            wants,
            members,
            kernel: Vec::new(),
            shown,
            closes,
        };
        s.restore(fds);
        Some(s)
    }

    /// What the kernel says of its members now, and of epoll sets, whose mirrors are settled before.
    fn look_at_kernels(&self, s: &mut Sorted) -> Result<(), Errno> {
        for m in &s.members {
            if let Member::Set(i) = m {
                self.epolls.settle_all(self, *i, s.att);
            }
        }
        match self.os.ppoll(&mut s.kernel, Some(0)) {
            Ok(_) => Ok(()),
            // The signal is noted, and counts only if nothing is ready.
            Err(Errno::EINTR) => {
                s.kernel.iter_mut().for_each(|k| k.revents = 0);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

impl Sorted {
    /// What a sleep is on: the accelerated members, and the marks that may come back.
    fn watched(&self) -> Vec<Want> {
        let away = |m: &Member| match m {
            Member::Away(sock) => Some(Want {
                sock: *sock,
                events: ev::BACK,
            }),
            _ => None,
        };
        let marks = self.members.iter().filter_map(away);
        self.wants.iter().copied().chain(marks).collect()
    }

    /// Makes the kernel's part of the call anew. A negative member reads as 0, whatever the program left there.
    fn restore(&mut self, fds: &[PollFd]) {
        let part = |(p, m): (&PollFd, &Member)| {
            if matches!(m, Member::Ours(_)) {
                PollFd { fd: -1, ..*p }
            } else {
                PollFd { revents: 0, ..*p }
            }
        };
        self.kernel = fds.iter().zip(&self.members).map(part).collect();
    }
}

/// One of the accelerated members shows what it is watched for.
fn any_ours(s: &Sorted) -> bool {
    let asked = |w: &Want| w.events | ALWAYS as u32;
    s.wants
        .iter()
        .any(|w| s.att.stack.readiness(w.sock.id) & asked(w) != 0)
}

/// One of the accelerated members is the kernel's.
fn any_left(s: &Sorted) -> bool {
    let left = |w: &Want| s.att.stack.sock(w.sock.id).has(flag::HANDED_OVER);
    s.wants.iter().any(left)
}

/// Writes what every member shows, and returns how many count.
fn fill(fds: &mut [PollFd], s: &Sorted, counts: impl Fn(&PollFd) -> bool) -> usize {
    let mut count = 0;
    for ((p, m), k) in fds.iter_mut().zip(&s.members).zip(&s.kernel) {
        p.revents = match m {
            Member::Kernel | Member::Away(_) | Member::Set(_) => k.revents,
            Member::Failed => k.revents | libc::POLLERR,
            Member::Ours(i) => s.wants.get(*i).map_or(0, |w| {
                s.att.stack.readiness(w.sock.id) as i16 & (p.events | ALWAYS)
            }),
        };
        count += usize::from(p.revents != 0 && counts(p));
    }
    count
}

/// Members that were handed over meanwhile are the kernel's from now on.
fn follow_handovers(s: &mut Sorted, fds: &[PollFd]) {
    let Sorted {
        att,
        wants,
        members,
        kernel,
        ..
    } = s;
    for at in 0..members.len() {
        let Some(Member::Ours(i)) = members.get(at).copied() else {
            continue;
        };
        let moved = wants
            .get(i)
            .is_some_and(|w| att.stack.sock(w.sock.id).has(flag::HANDED_OVER));
        if !moved {
            continue;
        }
        let gone = wants.remove(i).sock;
        let away = is_away(att.stack.sock(gone.id));
        for m in members.iter_mut() {
            *m = match *m {
                Member::Ours(j) if j == i && away => Member::Away(gone),
                Member::Ours(j) if j == i => Member::Kernel,
                Member::Ours(j) if j > i => Member::Ours(j - 1),
                other => other,
            };
        }
        if let (Some(k), Some(p)) = (kernel.get_mut(at), fds.get(at)) {
            *k = PollFd { revents: 0, ..*p };
        }
    }
}

/// Members that came back from the kernel are ours from now on; true when there are such.
fn follow_returns(s: &mut Sorted, fds: &[PollFd]) -> bool {
    let mut any = false;
    for (at, p) in fds.iter().enumerate() {
        let Some(Member::Away(sock)) = s.members.get(at).copied() else {
            continue;
        };
        let stack = s.att.stack;
        if stack.get(sock).is_none() || stack.sock(sock.id).has(flag::HANDED_OVER) {
            continue;
        }
        s.wants.push(Want {
            sock,
            events: u32::from(p.events as u16),
        });
        let ours = Member::Ours(s.wants.len() - 1);
        if let (Some(m), Some(k)) = (s.members.get_mut(at), s.kernel.get_mut(at)) {
            *m = ours;
            *k = PollFd { fd: -1, ..*p };
            any = true;
        }
    }
    any
}
