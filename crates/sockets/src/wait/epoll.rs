//! The epoll calls. The application's epoll descriptor is a real one and holds the kernel members. Accelerated members
//! are in a ready set of the stack, which exists from the first such member on. A fresh socket starts as a kernel member
//! and moves over when it gets an endpoint: an unconnected kernel socket would report `EPOLLHUP` at once.

use core::sync::atomic::Ordering;

use flyover_core::ev;
use flyover_core::stack::wake::{Ready, SetId};
use flyover_shm::Idx;

use crate::attach::Attachment;
use crate::entry::{Entry, Fresh};
use crate::errno::Errno;
use crate::os::{EpollEvent, PollFd, Ran};
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;
use crate::wait::sets::{EpollSet, FLAGS, Member, leave, mode};
pub use crate::wait::sets::{EpollTable, KICK};
use crate::wait::sleep::{On, Slept};

/// While accelerated events are plentiful, one call in so many looks at the kernel members.
const KERNEL_TURN: u32 = 8;
/// Events taken from a ready set at a time.
const BATCH: usize = 64;

impl Sockets {
    /// `epoll_create` made `fd`.
    pub fn on_epoll_create(&self, fd: i32) {
        self.epolls.gate.lock(self.os);
        let index = self.epolls.allocate(fd);
        self.epolls.gate.unlock();
        let entry = index.map_or(Entry::Kernel(0), Entry::Epoll);
        let _: bool = self.table.store(fd, entry);
        self.table.set_made(fd, self.fork_generation());
    }

    /// `epoll_ctl(2)`.
    pub fn epoll_ctl(&self, epfd: i32, op: i32, fd: i32, event: Option<EpollEvent>) -> Answer {
        let Fd::Epoll(index) = self.look(epfd) else {
            return Answer::Kernel;
        };
        let Some(set) = self.epolls.at(index) else {
            return Answer::Kernel;
        };
        let target = if epfd == fd {
            Fd::Kernel
        } else {
            self.look(fd)
        };
        self.epolls.gate.lock(self.os);
        let answer = match target {
            Fd::Tcp(ep) | Fd::Udp(ep) => self.ctl_ours(set, op, fd, &ep, event),
            Fd::Fresh(f) => self.ctl_fresh(set, epfd, op, fd, f, event),
            Fd::Kernel | Fd::Epoll(_) => self.ctl_kernel(set, epfd, op, fd, event),
        };
        self.epolls.gate.unlock();
        answer
    }

    fn ctl_kernel(
        &self,
        set: &EpollSet,
        epfd: i32,
        op: i32,
        fd: i32,
        event: Option<EpollEvent>,
    ) -> Answer {
        if event.is_none() && op != libc::EPOLL_CTL_DEL {
            return Answer::Error(Errno::EFAULT);
        }
        self.epolls.bring_over(self, set, fd);
        let r = self.os.epoll_ctl(epfd, op, fd, event);
        match (op, &r) {
            (libc::EPOLL_CTL_ADD, Ok(())) => {
                let _: u32 = set.kernel_members.fetch_add(1, Ordering::AcqRel);
            }
            (libc::EPOLL_CTL_DEL, Ok(())) => {
                let _: Option<Member> = set.members().remove(&fd);
                let n = set.kernel_members.load(Ordering::Acquire);
                set.kernel_members
                    .store(n.saturating_sub(1), Ordering::Release);
            }
            _ => {}
        }
        r.into()
    }

    fn ctl_fresh(
        &self,
        set: &EpollSet,
        epfd: i32,
        op: i32,
        fd: i32,
        fresh: Fresh,
        event: Option<EpollEvent>,
    ) -> Answer {
        let a = self.ctl_kernel(set, epfd, op, fd, event);
        if let (Answer::Value(_), Some(event)) = (a, event)
            && op != libc::EPOLL_CTL_DEL
        {
            let _: Option<Member> = set.members().insert(fd, Member { event, ours: None });
            let noted = Fresh {
                in_epoll: true,
                ..fresh
            };
            let _: bool = self
                .table
                .replace(fd, Entry::Fresh(fresh), Entry::Fresh(noted));
        }
        a
    }

    fn ctl_ours(
        &self,
        set: &EpollSet,
        op: i32,
        fd: i32,
        ep: &Ep,
        event: Option<EpollEvent>,
    ) -> Answer {
        let mut members = set.members();
        // A record of another socket that had the number before, or of one that is gone, counts for nothing.
        let known = members
            .get(&fd)
            .and_then(|m| m.ours)
            .filter(|(s, _)| *s == ep.sock);
        match (op, known, event) {
            (libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD, _, None) => Answer::Error(Errno::EFAULT),
            (libc::EPOLL_CTL_ADD, Some(_), _) => Answer::Error(Errno::EEXIST),
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, None, _) => Answer::Error(Errno::ENOENT),
            (libc::EPOLL_CTL_ADD, None, Some(event)) => {
                match self.epolls.join(self, set, ep, event) {
                    Ok(item) => {
                        let _: Option<Member> = members.insert(
                            fd,
                            Member {
                                event,
                                ours: Some((ep.sock, item)),
                            },
                        );
                        Answer::Value(0)
                    }
                    Err(_) => Answer::Error(Errno::ENOMEM),
                }
            }
            (libc::EPOLL_CTL_MOD, Some((_, item)), Some(event)) => {
                let exclusive = (libc::EPOLLEXCLUSIVE as u32) & event.events != 0;
                if exclusive {
                    return Answer::Error(Errno::EINVAL);
                }
                let events = event.events & !FLAGS;
                ep.att
                    .locked(|l| l.item_mod(item, events, event.data, mode(event.events)));
                let _: Option<Member> = members.insert(fd, Member { event, ours: known });
                Answer::Value(0)
            }
            (libc::EPOLL_CTL_DEL, Some((sock, item)), _) => {
                let _: Option<Member> = members.remove(&fd);
                leave(ep.att, sock, item);
                Answer::Value(0)
            }
            _ => Answer::Error(Errno::EINVAL),
        }
    }

    /// `epoll_wait` and its variants; `timeout` in nanoseconds, `None` for ever. `None`: wait in the kernel, and then
    /// ask [`Sockets::after_kernel_wait`].
    pub fn epoll_wait(
        &self,
        epfd: i32,
        out: &mut [EpollEvent],
        timeout: Option<u64>,
        mask: Option<u64>,
    ) -> Option<Result<usize, Errno>> {
        let Fd::Epoll(index) = self.look(epfd) else {
            return None;
        };
        let set = self.epolls.at(index)?;
        let _: u32 = set.in_kernel.fetch_add(1, Ordering::SeqCst);
        let id = set.id()?;
        self.left_kernel(set);
        let att = match self.attach() {
            Ok(a) => a,
            Err(_) => return Some(Err(Errno::EIO)),
        };
        Some(self.wait_ours(att, set, id, epfd, out, timeout, mask))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the call's own six, and what they stand for"
    )]
    fn wait_ours(
        &self,
        att: &'static Attachment,
        set: &EpollSet,
        id: SetId,
        epfd: i32,
        out: &mut [EpollEvent],
        timeout: Option<u64>,
        mask: Option<u64>,
    ) -> Result<usize, Errno> {
        let mut deadline = None;
        let mut signalled = false;
        let mut look_in_kernel = false;
        loop {
            let n = self.collect(att, set, id, epfd, out, look_in_kernel);
            if n > 0 {
                return Ok(n);
            }
            if signalled {
                return Err(Errno::EINTR);
            }
            if timeout == Some(0) {
                return Ok(0);
            }
            let now = self.os.now();
            let until =
                *deadline.get_or_insert_with(|| Deadline(timeout.map(|t| now.saturating_add(t))));
            if until.is_past(now) {
                return Ok(0);
            }
            let first = !look_in_kernel;
            look_in_kernel = true;
            if first && att.spin(self.settings.spin, until, || att.stack.set_has_ready(id)) {
                look_in_kernel = false;
                continue;
            }
            let kernel_fd = if set.kernel_members.load(Ordering::Acquire) != 0 {
                epfd
            } else {
                -1
            };
            match att.sleep(On::Set(id), &mut [PollFd::input(kernel_fd)], until, mask) {
                Slept::Woken | Slept::Signal(Ran::None) => {}
                // epoll_wait(2) is never restarted, see signal(7).
                Slept::Signal(Ran::Restart | Ran::Interrupt) => signalled = true,
            }
        }
    }

    /// What is ready now. The kernel members are looked at when nothing else is there, and every so often.
    fn collect(
        &self,
        att: &'static Attachment,
        set: &EpollSet,
        id: SetId,
        epfd: i32,
        out: &mut [EpollEvent],
        polled: bool,
    ) -> usize {
        let mut ready = [Ready {
            item: Idx::new(0),
            data: 0,
            events: 0,
        }; BATCH];
        let room = out.len().min(BATCH);
        let Some(into) = ready.get_mut(..room) else {
            return 0;
        };
        let mut n = att.locked(|l| {
            if !polled || !l.stack().set_has_ready(id) {
                let _: u32 = l.poll(64);
            }
            l.set_collect(id, into)
        });
        let mut kept = 0;
        for from in into.iter().take(n) {
            if from.events & ev::MOVED != 0 {
                self.epolls.item_moved(self, att, set, from.item);
            } else if let Some(to) = out.get_mut(kept) {
                *to = EpollEvent {
                    events: from.events,
                    data: from.data,
                };
                kept += 1;
            }
        }
        n = kept;
        if set.kernel_members.load(Ordering::Acquire) == 0 {
            return n;
        }
        let turn = set
            .turn
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(KERNEL_TURN);
        if (n == 0 || turn)
            && let Some(rest) = out.get_mut(n..)
        {
            n += self.collect_kernels(epfd, rest);
        }
        n
    }

    fn collect_kernels(&self, epfd: i32, out: &mut [EpollEvent]) -> usize {
        if out.is_empty() {
            return 0;
        }
        let n = self.os.epoll_collect(epfd, out).unwrap_or(0);
        without_kick(out, n)
    }

    fn left_kernel(&self, set: &EpollSet) {
        if set.in_kernel.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        // The last one out takes the kick away.
        let Some(fd) = set
            .kick
            .swap(0, Ordering::AcqRel)
            .checked_sub(1)
            .filter(|fd| *fd >= 0)
        else {
            return;
        };
        let epfd = set.epfd.load(Ordering::Acquire);
        let _: Result<(), Errno> = self.os.epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, None);
        let _: bool = self.table.store(fd, Entry::Unknown);
        let _: Result<(), Errno> = self.os.close(fd);
    }

    /// A wait in the kernel is over; its events may hold one with [`KICK`] as data. True: the set has accelerated
    /// members now, wait with us.
    pub fn after_kernel_wait(&self, epfd: i32) -> bool {
        let Entry::Epoll(index) = self.table.load(epfd) else {
            return false;
        };
        let Some(set) = self.epolls.at(index) else {
            return false;
        };
        self.left_kernel(set);
        set.id().is_some()
    }
}

fn without_kick(events: &mut [EpollEvent], n: usize) -> usize {
    let mut kept = 0;
    for i in 0..n.min(events.len()) {
        let Some(e) = events.get(i).copied() else {
            break;
        };
        if e.data == KICK {
            continue;
        }
        if let Some(to) = events.get_mut(kept) {
            *to = e;
        }
        kept += 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kick_is_taken_out_in_place() {
        let e = |data| EpollEvent { events: 1, data };
        let mut list = [e(1), e(KICK), e(2), e(KICK)];
        assert_eq!(without_kick(&mut list, 4), 2);
        assert_eq!(list[..2], [e(1), e(2)]);
        assert_eq!(without_kick(&mut list, 0), 0);
    }
}
