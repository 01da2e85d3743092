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
/// A nested epoll set has no way to wake us: look at it this often, ns.
const NESTED_NAP: u64 = 1_000_000;

impl Sockets {
    /// `poll(2)` and `ppoll(2)`; `timeout` in nanoseconds, `None` for ever. `None`: no member is accelerated.
    pub fn poll(
        &self,
        fds: &mut [PollFd],
        timeout: Option<u64>,
        mask: Option<u64>,
    ) -> Option<Result<usize, Errno>> {
        let mut wants: Vec<Want> = Vec::new();
        let mut members: Vec<Member> = Vec::with_capacity(fds.len());
        let mut att = None;
        for p in fds.iter() {
            members.push(
                match if p.fd < 0 {
                    Fd::Kernel
                } else {
                    self.look(p.fd)
                } {
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
                    Fd::Epoll(i) => match self.epolls.has_ours(i) {
                        true => {
                            att = att.or(self.attached());
                            Member::Set(i)
                        }
                        false => Member::Kernel,
                    },
                },
            );
        }
        let att = att?;
        let deadline = Deadline(timeout.map(|t| self.os.now().saturating_add(t)));
        let mut kernel: Vec<PollFd> = fds
            .iter()
            .zip(&members)
            .map(|(p, m)| {
                // A negative member reads as 0, whatever the program left there.
                PollFd {
                    fd: if matches!(m, Member::Ours(_)) {
                        -1
                    } else {
                        p.fd
                    },
                    revents: 0,
                    ..*p
                }
            })
            .collect();
        let nested = members.iter().any(|m| matches!(m, Member::Set(_)));
        let mut signalled = false;
        let mut spun = false;
        loop {
            follow_handovers(att, fds, &mut wants, &mut members, &mut kernel);
            let has_kernel = kernel.iter().any(|k| k.fd >= 0);
            let any_ours = || {
                wants
                    .iter()
                    .any(|w| att.stack.readiness(w.sock) & (w.events | ALWAYS as u32) != 0)
                    || members
                        .iter()
                        .any(|m| matches!(m, Member::Set(i) if self.epolls.is_ready(self, *i)))
            };
            if has_kernel {
                match self.os.ppoll(&mut kernel, Some(0), None) {
                    Ok(_) => {}
                    // The signal is noted, and counts only if nothing is ready.
                    Err(Errno::EINTR) => kernel.iter_mut().for_each(|k| k.revents = 0),
                    Err(e) => return Some(Err(e)),
                }
            }
            let budget = if spun || timeout == Some(0) {
                spin::Budget::Fixed(0)
            } else {
                self.settings.spin
            };
            let kernel_ready = kernel.iter().any(|k| k.fd >= 0 && k.revents != 0);
            let _: bool = att.spin(
                if kernel_ready {
                    spin::Budget::Fixed(0)
                } else {
                    budget
                },
                deadline,
                any_ours,
            );
            spun = true;
            let mut count = 0;
            for ((p, m), k) in fds.iter_mut().zip(&members).zip(&kernel) {
                p.revents = match m {
                    Member::Kernel => k.revents,
                    Member::Failed => k.revents | libc::POLLERR,
                    Member::Ours(i) => {
                        let sock = wants.get(*i).map(|w| w.sock)?;
                        att.stack.readiness(sock) as i16 & (p.events | ALWAYS)
                    }
                    Member::Set(i) => {
                        let ready = self.epolls.is_ready(self, *i);
                        k.revents
                            | if ready {
                                p.events & (libc::POLLIN | libc::POLLRDNORM)
                            } else {
                                0
                            }
                    }
                };
                count += usize::from(p.revents != 0);
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
            let until = if nested {
                Deadline(Some(deadline.0.unwrap_or(u64::MAX).min(now + NESTED_NAP)))
            } else {
                deadline
            };
            match att.sleep(On::Socks(&wants), &mut kernel, until, mask) {
                Slept::Woken | Slept::Signal(Ran::None) => {}
                // poll(2) is never restarted, see signal(7).
                Slept::Signal(Ran::Restart | Ran::Interrupt) => signalled = true,
            }
        }
    }
}

/// Members that were handed over meanwhile are the kernel's from now on.
fn follow_handovers(
    att: &Attachment,
    fds: &[PollFd],
    wants: &mut Vec<Want>,
    members: &mut [Member],
    kernel: &mut [PollFd],
) {
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
