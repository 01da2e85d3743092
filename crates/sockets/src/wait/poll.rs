//! `poll(2)`: kernel descriptors by the kernel's own, accelerated ones by their readiness, in one sleep.

use flyover_core::sock::flag;

use crate::attach::Attachment;
use crate::errno::Errno;
use crate::os::{PollFd, Ran};
use crate::process::{Fd, Sockets};
use crate::wait::sleep::{On, Slept, Want};
use crate::wait::{Deadline, spin};

/// What a member is.
#[derive(Clone, Copy, Debug)]
enum Member {
    Kernel,
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
}

impl Sockets {
    /// `poll(2)` and `ppoll(2)`; `timeout` in nanoseconds, `None` for ever. `None`: no member is accelerated.
    pub fn poll(
        &self,
        fds: &mut [PollFd],
        timeout: Option<u64>,
        mask: Option<u64>,
    ) -> Option<Result<usize, Errno>> {
        self.poll_for(fds, timeout, mask, |_| true)
    }

    /// As [`poll`](Self::poll), where a member counts only if `counts` says so of what it shows.
    pub(super) fn poll_for(
        &self,
        fds: &mut [PollFd],
        timeout: Option<u64>,
        mask: Option<u64>,
        counts: impl Fn(&PollFd) -> bool,
    ) -> Option<Result<usize, Errno>> {
        let mut s = self.sort(fds)?;
        let att = s.att;
        let deadline = Deadline(timeout.map(|t| self.os.now().saturating_add(t)));
        let mut signalled = false;
        let mut spun = timeout == Some(0);
        loop {
            follow_handovers(&mut s, fds);
            let has_kernel = s.kernel.iter().any(|k| k.fd >= 0);
            if has_kernel && let Err(e) = self.look_at_kernels(&mut s) {
                return Some(Err(e));
            }
            let kernel_ready = s.kernel.iter().any(|k| k.fd >= 0 && k.revents != 0);
            let budget = if spun || kernel_ready {
                spin::Budget::Fixed(0)
            } else {
                self.settings.spin
            };
            let any_ours = || {
                let asked = |w: &Want| w.events | ALWAYS as u32;
                s.wants
                    .iter()
                    .any(|w| att.stack.readiness(w.sock) & asked(w) != 0)
            };
            let _: bool = att.spin(budget, deadline, any_ours);
            spun = true;
            let count = fill(fds, &s, &counts);
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
            let slept = att.sleep(On::Socks(&s.wants), &mut s.kernel, until, mask);
            if muted {
                s.restore(fds);
            }
            match slept {
                Slept::Woken | Slept::Signal(Ran::None) => {}
                // poll(2) is never restarted, see signal(7).
                Slept::Signal(Ran::Restart | Ran::Interrupt) => signalled = true,
            }
        }
    }

    /// `None`: nothing is accelerated, the kernel can answer.
    fn sort(&self, fds: &[PollFd]) -> Option<Sorted> {
        let mut wants: Vec<Want> = Vec::new();
        let mut members: Vec<Member> = Vec::with_capacity(fds.len());
        let mut sets: Vec<u32> = Vec::new();
        let mut att = None;
        for p in fds {
            let looked = if p.fd < 0 {
                Fd::Kernel
            } else {
                self.look(p.fd)
            };
            members.push(match looked {
                Fd::Fresh(f) if f.error != 0 => {
                    att = att.or(self.attached());
                    Member::Failed
                }
                Fd::Kernel | Fd::Fresh(_) => Member::Kernel,
                Fd::Tcp(ep) | Fd::Udp(ep) => {
                    att = Some(ep.att);
                    wants.push(Want {
                        sock: ep.sock.id,
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
        match self.os.ppoll(&mut s.kernel, Some(0), None) {
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

/// Writes what every member shows, and returns how many count.
fn fill(fds: &mut [PollFd], s: &Sorted, counts: impl Fn(&PollFd) -> bool) -> usize {
    let mut count = 0;
    for ((p, m), k) in fds.iter_mut().zip(&s.members).zip(&s.kernel) {
        p.revents = match m {
            Member::Kernel | Member::Set(_) => k.revents,
            Member::Failed => k.revents | libc::POLLERR,
            Member::Ours(i) => s.wants.get(*i).map_or(0, |w| {
                s.att.stack.readiness(w.sock) as i16 & (p.events | ALWAYS)
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
            .is_some_and(|w| att.stack.sock(w.sock).has(flag::HANDED_OVER));
        if !moved {
            continue;
        }
        let _: Want = wants.remove(i);
        for m in members.iter_mut() {
            *m = match *m {
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
