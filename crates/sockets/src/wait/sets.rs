//! The epoll sets of a process: which descriptors are members of which set, and how a member moves between the kernel's
//! set and the stack's.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use flyover_core::sock::flag;
use flyover_core::stack::wake::{ItemId, ItemMode, SetId};
use flyover_core::{Error, ItemView, SockRef};
use flyover_shm::Idx;

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::os::{EpollEvent, Os};
use crate::process::{Ep, Sockets};

/// Epoll descriptors that can have accelerated members; further ones stay with the kernel.
const SETS: usize = 1024;
/// The application's word of the library's own member, see [`EpollSet::kick`].
pub const KICK: u64 = u64::from_be_bytes(*b"FLYOVER!");
/// Bits of the events that say how, not what, to watch.
pub(super) const FLAGS: u32 =
    (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP) as u32;

/// A member that is, or may become, accelerated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) event: EpollEvent,
    /// None: a fresh socket, still in the kernel's set.
    pub(super) ours: Option<(SockRef, ItemId)>,
}

/// Descriptor numbers are their own hash.
#[derive(Default)]
pub(super) struct FdHasher(u64);

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

pub(super) type Members = HashMap<i32, Member, BuildHasherDefault<FdHasher>>;

/// One epoll descriptor.
#[derive(Default)]
pub(super) struct EpollSet {
    /// The stack's ready set: 1 + index, 0 while there is none.
    set: AtomicU32,
    /// A descriptor number of the kernel's set.
    pub(super) epfd: AtomicI32,
    /// Kernel members added and not removed. More than the truth when members were closed; never less.
    pub(super) kernel_members: AtomicU32,
    /// Threads that wait in the kernel because there were no accelerated members when they began.
    pub(super) in_kernel: AtomicU32,
    /// An eventfd in the kernel's set that makes those come out, 1 + number; 0 when there is none.
    pub(super) kick: AtomicI32,
    pub(super) turn: AtomicU32,
    members: Mutex<Members>,
}

impl EpollSet {
    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> Option<SetId> {
        self.set
            .load(Ordering::Acquire)
            .checked_sub(1)
            .map(Idx::new)
    }
}

/// A lock without owner: may be taken before `fork` and released on both sides of it.
#[derive(Default)]
pub(super) struct Gate(AtomicU32);

impl Gate {
    pub(super) fn lock(&self, os: &dyn Os) {
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

    pub(super) fn unlock(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// All epoll sets of the process.
pub struct EpollTable {
    sets: Box<[OnceLock<Box<EpollSet>>]>,
    used: AtomicU32,
    free: Mutex<Vec<u32>>,
    /// Held for every change of membership, so that `fork` finds the tables whole.
    pub(super) gate: Gate,
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

pub(super) fn mode(events: u32) -> ItemMode {
    ItemMode {
        edge: events & libc::EPOLLET as u32 != 0,
        oneshot: events & libc::EPOLLONESHOT as u32 != 0,
        exclusive: events & libc::EPOLLEXCLUSIVE as u32 != 0,
        private: false,
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

    pub(super) fn at(&self, index: u32) -> Option<&EpollSet> {
        self.sets.get(index as usize)?.get().map(Box::as_ref)
    }

    fn each(&self) -> impl Iterator<Item = &EpollSet> {
        let n = self.used.load(Ordering::Acquire) as usize;
        self.sets
            .iter()
            .take(n)
            .filter_map(|s| s.get().map(Box::as_ref))
    }

    pub(super) fn allocate(&self, epfd: i32) -> Option<u32> {
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

    /// The kernel has the socket of `ep` now: its memberships move to the kernel's sets, under all numbers.
    pub(crate) fn socket_became_kernels(&self, sockets: &Sockets, ep: &Ep) {
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            let fds: Vec<i32> = members
                .iter()
                .filter(|(_, m)| m.ours.is_some_and(|(sock, _)| sock == ep.sock))
                .map(|(fd, _)| *fd)
                .collect();
            for fd in fds {
                move_to_kernel(sockets, ep.att, set, &mut members, fd);
            }
        }
        self.gate.unlock();
    }

    /// A membership of a socket that was handed over, perhaps by another process, was found in a ready set.
    pub(super) fn item_moved(
        &self,
        sockets: &Sockets,
        att: &Attachment,
        set: &EpollSet,
        item: ItemId,
    ) {
        self.gate.lock(sockets.os);
        let mut members = set.members();
        let known = members
            .iter()
            .find(|(_, m)| m.ours.is_some_and(|(_, i)| i == item))
            .map(|(fd, _)| *fd);
        match known {
            Some(fd) => move_to_kernel(sockets, att, set, &mut members, fd),
            None => self.adopt_moved(sockets, att, set, item),
        }
        drop(members);
        self.gate.unlock();
    }

    /// A membership that another process made: if we hold the socket, too, it moves under our number.
    fn adopt_moved(&self, sockets: &Sockets, att: &Attachment, set: &EpollSet, item: ItemId) {
        let Some(view) = att.locked(|l| l.item_view(item)) else {
            return;
        };
        let cookie = att.stack.sock(view.sock).cookie.load(Ordering::Acquire);
        let mut found = None;
        sockets.table.for_each(sockets.table.len(), |fd, e| {
            let same = matches!(e, Entry::Tcp(h) | Entry::Udp(h) if h.id == view.sock);
            if same && found.is_none() && sockets.cookie(fd) == Ok(cookie) {
                found = Some(fd);
            }
        });
        if let Some(fd) = found {
            enter_kernel_set(sockets, set, fd, &view);
            att.locked(|l| l.item_del_of(item, view.sock));
        }
    }

    /// `fd` is the kernel's; if its membership is still one of the stack's, it moves first. The gate is held.
    pub(super) fn bring_over(&self, sockets: &Sockets, set: &EpollSet, fd: i32) {
        let Some(att) = sockets.attached() else {
            return;
        };
        let mut members = set.members();
        let Some((sock, _)) = members.get(&fd).and_then(|m| m.ours) else {
            return;
        };
        let s = att.stack.sock(sock.id);
        if att.stack.get(sock).is_some()
            && s.has(flag::HANDED_OVER)
            && sockets.cookie(fd) == Ok(s.cookie.load(Ordering::Acquire))
        {
            move_to_kernel(sockets, att, set, &mut members, fd);
        }
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
    pub(super) fn join(
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

/// Moves the membership of `fd` from the stack's set to the kernel's, armed or not as it is.
fn move_to_kernel(
    sockets: &Sockets,
    att: &Attachment,
    set: &EpollSet,
    members: &mut Members,
    fd: i32,
) {
    let Some((sock, item)) = members.remove(&fd).and_then(|m| m.ours) else {
        return;
    };
    let view = att
        .locked(|l| l.item_view(item))
        .filter(|v| v.sock == sock.id && att.stack.get(sock).is_some());
    // Gone: another process has moved it.
    let Some(view) = view else {
        let _: u32 = set.kernel_members.fetch_add(1, Ordering::AcqRel);
        return;
    };
    enter_kernel_set(sockets, set, fd, &view);
    att.locked(|l| l.item_del_of(item, sock.id));
}

fn enter_kernel_set(sockets: &Sockets, set: &EpollSet, fd: i32, view: &ItemView) {
    let bit = |on: bool, b: i32| if on { b as u32 } else { 0 };
    let how = bit(view.mode.edge, libc::EPOLLET)
        | bit(view.mode.oneshot, libc::EPOLLONESHOT)
        | bit(view.mode.exclusive, libc::EPOLLEXCLUSIVE);
    let event = EpollEvent {
        // A one-shot member that has fired waits to be re-armed: nothing but an error or a hang-up is reported.
        events: if view.armed { view.events | how } else { how },
        data: view.data,
    };
    let epfd = set.epfd.load(Ordering::Acquire);
    // EEXIST: another process was faster.
    let _: Result<(), Errno> = sockets
        .os
        .epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, Some(event));
    let _: u32 = set.kernel_members.fetch_add(1, Ordering::AcqRel);
}

/// Ends a membership, unless the socket went already and took it along.
pub(super) fn leave(att: &Attachment, sock: SockRef, item: ItemId) {
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
