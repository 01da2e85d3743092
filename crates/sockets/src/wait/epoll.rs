//! Epoll sets. The application's epoll descriptor is a real one and holds the kernel members. Accelerated members are
//! in a ready set of the stack, which exists from the first such member on. A fresh socket starts as a kernel member
//! and moves over when it gets an endpoint: an unconnected kernel socket would report `EPOLLHUP` at once.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use flyover_core::stack::wake::{ItemId, ItemMode, Ready, SetId};
use flyover_core::{Error, SockRef};
use flyover_shm::Idx;

use crate::attach::Attachment;
use crate::entry::{Entry, Fresh};
use crate::errno::Errno;
use crate::os::{EpollEvent, Os, PollFd, Ran};
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;
use crate::wait::sleep::{On, Slept};

/// Epoll descriptors that can have accelerated members; further ones stay with the kernel.
const SETS: usize = 1024;
/// The application's word of the library's own member, see [`EpollSet::kick`].
pub const KICK: u64 = u64::from_be_bytes(*b"FLYOVER!");
/// While accelerated events are plentiful, one call in so many looks at the kernel members.
const KERNEL_TURN: u32 = 8;
/// Events taken from a ready set at a time.
const BATCH: usize = 64;

const FLAGS: u32 =
    (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP) as u32;

/// A member that is, or may become, accelerated.
#[derive(Clone, Copy, Debug)]
struct Member {
    event: EpollEvent,
    /// None: a fresh socket, still in the kernel's set.
    ours: Option<(SockRef, ItemId)>,
}

/// Descriptor numbers are their own hash.
#[derive(Default)]
struct FdHasher(u64);

impl Hasher for FdHasher {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0 << 8 | u64::from(*b);
        }
    }

    fn write_i32(&mut self, fd: i32) {
        self.0 = fd as u64;
    }
}

type Members = HashMap<i32, Member, BuildHasherDefault<FdHasher>>;

/// One epoll descriptor.
#[derive(Default)]
struct EpollSet {
    /// The stack's ready set: 1 + index, 0 while there is none.
    set: AtomicU32,
    /// A descriptor number of the kernel's set.
    epfd: AtomicI32,
    /// Kernel members added and not removed. More than the truth when members were closed; never less.
    kernel_members: AtomicU32,
    /// Threads that wait in the kernel because there were no accelerated members when they began.
    in_kernel: AtomicU32,
    /// An eventfd in the kernel's set that makes those come out, 1 + number; 0 when there is none.
    kick: AtomicI32,
    turn: AtomicU32,
    members: Mutex<Members>,
}

impl EpollSet {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self) -> Option<SetId> {
        self.set
            .load(Ordering::Acquire)
            .checked_sub(1)
            .map(Idx::new)
    }
}

/// A lock without owner: may be taken before `fork` and released on both sides of it.
#[derive(Default)]
struct Gate(AtomicU32);

impl Gate {
    fn lock(&self, os: &dyn Os) {
        let mut spins = 0u32;
        while self
            .0
            .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            spins += 1;
            if spins > 100 {
                os.futex_wait(&self.0, 1, 1_000_000);
            }
            core::hint::spin_loop();
        }
    }

    fn unlock(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// All epoll sets of the process.
pub struct EpollTable {
    sets: Box<[OnceLock<Box<EpollSet>>]>,
    used: AtomicU32,
    free: Mutex<Vec<u32>>,
    /// Held for every change of membership, so that `fork` finds the tables whole.
    gate: Gate,
}

impl core::fmt::Debug for EpollTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EpollTable")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Default for EpollTable {
    fn default() -> Self {
        Self::new()
    }
}

fn mode(events: u32) -> ItemMode {
    ItemMode {
        edge: events & libc::EPOLLET as u32 != 0,
        oneshot: events & libc::EPOLLONESHOT as u32 != 0,
        exclusive: events & libc::EPOLLEXCLUSIVE as u32 != 0,
    }
}

impl EpollTable {
    /// No sets.
    pub fn new() -> Self {
        Self {
            sets: (0..SETS).map(|_| OnceLock::new()).collect(),
            used: AtomicU32::new(0),
            free: Mutex::new(Vec::new()),
            gate: Gate::default(),
        }
    }

    fn at(&self, index: u32) -> Option<&EpollSet> {
        self.sets.get(index as usize)?.get().map(Box::as_ref)
    }

    fn each(&self) -> impl Iterator<Item = &EpollSet> {
        let n = self.used.load(Ordering::Acquire) as usize;
        self.sets
            .iter()
            .take(n)
            .filter_map(|s| s.get().map(Box::as_ref))
    }

    fn allocate(&self, epfd: i32) -> Option<u32> {
        let recycled = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let index = recycled.unwrap_or_else(|| self.used.fetch_add(1, Ordering::AcqRel));
        let set = self.sets.get(index as usize)?.get_or_init(Box::default);
        set.epfd.store(epfd, Ordering::Release);
        Some(index)
    }

    /// The set has accelerated members, or had some.
    pub fn has_ours(&self, index: u32) -> bool {
        self.at(index).is_some_and(|s| s.id().is_some())
    }

    /// An accelerated member of the set is ready, or was when it was last looked at.
    pub fn is_ready(&self, sockets: &Sockets, index: u32) -> bool {
        let set = self.at(index).and_then(EpollSet::id);
        set.zip(sockets.attached())
            .is_some_and(|(set, att)| att.stack.set_has_ready(set))
    }

    /// `fork` begins: no change of membership may be under way.
    pub fn before_fork(&self, os: &dyn Os) {
        self.gate.lock(os);
    }

    /// `fork` is over, in the parent or in the child.
    pub fn after_fork(&self) {
        self.gate.unlock();
    }

    /// The epoll descriptor `fd` is being closed.
    pub(crate) fn close(&self, sockets: &Sockets, index: u32, fd: i32) {
        let Some(set) = self.at(index) else { return };
        if !sockets.is_sole_holder(fd) {
            return;
        }
        self.gate.lock(sockets.os);
        set.members().clear();
        if let Some((id, att)) = set.id().zip(sockets.attached()) {
            att.locked(|l| l.set_free(id));
        }
        set.set.store(0, Ordering::Release);
        set.kernel_members.store(0, Ordering::Release);
        set.turn.store(0, Ordering::Relaxed);
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(index);
        self.gate.unlock();
    }

    /// The fresh socket `fd` got an endpoint: its memberships move from the kernel to the stack.
    pub(crate) fn fd_became_endpoint(&self, sockets: &Sockets, fd: i32, ep: &Ep) {
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            let Some(m) = members.get_mut(&fd).filter(|m| m.ours.is_none()) else {
                continue;
            };
            let epfd = set.epfd.load(Ordering::Acquire);
            let _: Result<(), Errno> = sockets.os.epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, None);
            if let Ok(item) = self.join(sockets, set, ep, m.event) {
                m.ours = Some((ep.sock, item));
            }
        }
        self.gate.unlock();
    }

    /// The endpoint of `fd` goes, the descriptor stays: memberships move back. True when there are any.
    pub(crate) fn endpoint_is_leaving(&self, sockets: &Sockets, fd: i32, ep: &Ep) -> bool {
        let mut any = false;
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            let Some(m) = members.get_mut(&fd) else {
                continue;
            };
            any = true;
            if let Some((sock, item)) = m.ours.take().filter(|(s, _)| *s == ep.sock) {
                leave(ep.att, sock, item);
                let epfd = set.epfd.load(Ordering::Acquire);
                let _: Result<(), Errno> =
                    sockets
                        .os
                        .epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, Some(m.event));
            }
        }
        self.gate.unlock();
        any
    }

    /// `fd` was closed; `last`: and with it the endpoint.
    pub(crate) fn forget_closed(&self, sockets: &Sockets, fd: i32, ep: &Ep, last: bool) {
        if !last {
            // As Linux: a membership lives as long as the open socket, not the number.
            return;
        }
        self.gate.lock(sockets.os);
        for set in self.each() {
            if let Some(Member {
                ours: Some((sock, item)),
                ..
            }) = set.members().remove(&fd)
                && sock == ep.sock
            {
                leave(ep.att, sock, item);
            }
        }
        self.gate.unlock();
    }

    /// A fresh socket was closed.
    pub(crate) fn forget_fd(&self, sockets: &Sockets, fd: i32) {
        self.gate.lock(sockets.os);
        for set in self.each() {
            let _: Option<Member> = set.members().remove(&fd);
        }
        self.gate.unlock();
    }

    /// Makes the endpoint a member of the stack's set. The gate is held.
    fn join(
        &self,
        sockets: &Sockets,
        set: &EpollSet,
        ep: &Ep,
        event: EpollEvent,
    ) -> Result<ItemId, Error> {
        let (id, new) = match set.id() {
            Some(id) => (id, false),
            None => (ep.att.locked(|l| l.set_alloc())?, true),
        };
        let events = event.events & !FLAGS;
        let item = ep
            .att
            .locked(|l| l.item_add(id, ep.sock.id, events, event.data, mode(event.events)));
        match item {
            Ok(item) => {
                set.set.store(id.raw() + 1, Ordering::SeqCst);
                if new && set.in_kernel.load(Ordering::SeqCst) != 0 {
                    kick(sockets, set);
                }
                Ok(item)
            }
            Err(e) => {
                if new {
                    ep.att.locked(|l| l.set_free(id));
                }
                Err(e)
            }
        }
    }
}

/// Ends a membership, unless the socket went already and took it along.
fn leave(att: &Attachment, sock: SockRef, item: ItemId) {
    att.locked(|l| {
        if l.stack().get(sock).is_some() {
            l.item_del(item);
        }
    });
}

/// Makes the threads that wait in the kernel come out and wait with us.
fn kick(sockets: &Sockets, set: &EpollSet) {
    let Ok(fd) = sockets
        .os
        .eventfd()
        .and_then(|fd| crate::os::move_high(sockets.os, fd))
    else {
        return;
    };
    let _: bool = sockets.table.store(fd, Entry::Ours);
    set.kick.store(fd + 1, Ordering::Release);
    let _: Result<usize, Errno> = sockets.os.write(fd, &1u64.to_ne_bytes());
    let event = EpollEvent {
        events: libc::EPOLLIN as u32,
        data: KICK,
    };
    let epfd = set.epfd.load(Ordering::Acquire);
    let _: Result<(), Errno> = sockets
        .os
        .epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, Some(event));
}

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
        let Some(id) = set.id() else { return None };
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
            self.os.test_cancel();
            let kernel_fd = if set.kernel_members.load(Ordering::Acquire) != 0 {
                epfd
            } else {
                -1
            };
            match att.sleep(On::Set(id), &mut [PollFd::input(kernel_fd)], until, mask)? {
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
        for (to, from) in out.iter_mut().zip(into.iter().take(n)) {
            *to = EpollEvent {
                events: from.events,
                data: from.data,
            };
        }
        if set.kernel_members.load(Ordering::Acquire) == 0 {
            return n;
        }
        let turn = set.turn.fetch_add(1, Ordering::Relaxed) % KERNEL_TURN == 0;
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
