//! Epoll sets as members of epoll sets, and in `poll`. The kernel knows who is in whom and wakes through all levels;
//! what it lacks is that something accelerated is ready in the innermost set. So that set gets a *mirror*: a waiter of
//! the stack whose wake socket is a member of the kernel's set, readable while something accelerated may be ready.
//! Whoever raises an event tells the mirror, be it in another process. Before the kernel's word on an outer set is
//! taken, the mirrors inside are settled: what was read meanwhile is not ready any more.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flyover_core::stack::wake::WaiterId;
use flyover_shm::Idx;

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::os::PollFd;
use crate::process::Sockets;
use crate::wait::sets::{EpollSet, EpollTable};

/// The kernel allows five levels of sets in sets.
const DEPTH: u32 = 6;

/// What connects a set with others.
#[derive(Default)]
pub(super) struct Links {
    /// Sets that are members of this one.
    inner: Mutex<Vec<u32>>,
    /// Sets that this one is a member of.
    outer: Mutex<Vec<u32>>,
    /// How many there are in `inner`, to be looked at without the lock.
    inners: AtomicU32,
    /// The mirror: 1 + waiter, 0 for none, and its wake socket.
    mirror: AtomicU32,
    socket: AtomicI32,
}

fn list(l: &Mutex<Vec<u32>>) -> MutexGuard<'_, Vec<u32>> {
    l.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Links {
    fn mirror(&self) -> Option<WaiterId> {
        self.mirror
            .load(Ordering::Acquire)
            .checked_sub(1)
            .map(Idx::new)
    }
}

impl EpollTable {
    /// The kernel made the set `inner` a member of the set `outer`. The gate is held.
    pub(super) fn link(&self, sockets: &Sockets, outer: u32, inner: u32) {
        let (Some(o), Some(i)) = (self.at(outer), self.at(inner)) else {
            return;
        };
        list(&o.links.inner).push(inner);
        list(&i.links.outer).push(outer);
        let _: u32 = o.links.inners.fetch_add(1, Ordering::AcqRel);
        if i.id().is_some()
            && let Some(att) = sockets.attached()
        {
            self.show_outside(sockets, i, att);
        }
    }

    /// `inner` is no member of `outer` any more. The gate is held.
    pub(super) fn part(&self, outer: u32, inner: u32) {
        let (Some(o), Some(i)) = (self.at(outer), self.at(inner)) else {
            return;
        };
        take_one(&mut list(&o.links.inner), inner);
        take_one(&mut list(&i.links.outer), outer);
        let n = list(&o.links.inner).len() as u32;
        o.links.inners.store(n, Ordering::Release);
    }

    /// The set is closed. The gate is held.
    pub(super) fn unlink(&self, sockets: &Sockets, index: u32, set: &EpollSet) {
        let inner = list(&set.links.inner).clone();
        let outer = list(&set.links.outer).clone();
        inner.into_iter().for_each(|i| self.part(index, i));
        outer.into_iter().for_each(|o| self.part(o, index));
        let mirror = set.links.mirror();
        set.links.mirror.store(0, Ordering::Release);
        let fd = set.links.socket.swap(0, Ordering::AcqRel) - 1;
        if let Some((w, att)) = mirror.zip(sockets.attached()) {
            att.locked(|l| {
                if let Some(id) = set.id() {
                    l.set_mirror(id, None);
                }
                l.waiter_free(w);
            });
            sockets.close_own(fd);
        }
    }

    /// The set has accelerated members: the sets around it must be told, and wait in the library, too. The gate is
    /// held.
    pub(super) fn show_outside(&self, sockets: &Sockets, set: &EpollSet, att: &'static Attachment) {
        let outer = list(&set.links.outer).clone();
        if outer.is_empty() {
            return;
        }
        self.reflect(sockets, set, att);
        for o in outer {
            if let Some(o) = self.at(o) {
                // Without a set of its own its threads wait in the kernel: later, but they wake.
                let _ = self.own(sockets, o, att);
            }
        }
    }

    /// Gives the set a mirror. The gate is held.
    fn reflect(&self, sockets: &Sockets, set: &EpollSet, att: &'static Attachment) {
        let Some(id) = set.id().filter(|_| set.links.mirror().is_none()) else {
            return;
        };
        let Ok((waiter, fd)) = att.wake_socket() else {
            return;
        };
        let _: bool = sockets.table.store(fd, Entry::Ours);
        set.links.socket.store(fd + 1, Ordering::Release);
        self.add_own(sockets, set, fd);
        att.locked(|l| {
            l.set_mirror(id, Some(waiter));
            l.mirror_arm(id);
        });
        set.links.mirror.store(waiter.raw() + 1, Ordering::Release);
    }

    /// The kernel is about to be asked about the set at `index`, as a member of something. False: there was no means to
    /// give it a mirror, so that its accelerated members have to be looked at by and by.
    pub(super) fn expose(&self, sockets: &Sockets, index: u32, att: &'static Attachment) -> bool {
        let Some(set) = self.at(index) else {
            return true;
        };
        if set.id().is_some() && set.links.mirror().is_none() {
            self.gate.lock(sockets.os);
            self.reflect(sockets, set, att);
            self.gate.unlock();
        }
        set.id().is_none() || set.links.mirror().is_some()
    }

    /// True when all accelerated sets inside have mirrors.
    pub(super) fn inner_shown(&self, set: &EpollSet) -> bool {
        set.links.inners.load(Ordering::Acquire) == 0
            || list(&set.links.inner)
                .iter()
                .filter_map(|i| self.at(*i))
                .all(|i| i.id().is_none() || i.links.mirror().is_some())
    }

    /// Settles the mirrors of all sets inside `set`.
    pub(super) fn settle_inner(&self, sockets: &Sockets, set: &EpollSet, att: &Attachment) {
        self.settle_below(sockets, set, att, DEPTH);
    }

    fn settle_below(&self, sockets: &Sockets, set: &EpollSet, att: &Attachment, depth: u32) {
        if set.links.inners.load(Ordering::Acquire) == 0 || depth == 0 {
            return;
        }
        let inner = list(&set.links.inner).clone();
        for i in inner.into_iter().filter_map(|i| self.at(i)) {
            self.settle_below(sockets, i, att, depth - 1);
            self.settle(sockets, i, att);
        }
    }

    /// Makes the mirror of `set`, if it was told of something, show what is true now.
    pub(super) fn settle(&self, sockets: &Sockets, set: &EpollSet, att: &Attachment) {
        let Some((mirror, id)) = set.links.mirror().zip(set.id()) else {
            return;
        };
        self.follow_returns(sockets, att, set, |_| {
            let epfd = set.epfd.load(Ordering::Acquire);
            sockets.os.ppoll(&mut [PollFd::input(epfd)], Some(0)) == Ok(0)
        });
        if att.stack.still_asleep(mirror) && !att.stack.set_mirror_told(id) {
            return;
        }
        let found = att.locked(|l| l.set_settle(id));
        let fd = set.links.socket.load(Ordering::Acquire) - 1;
        let mut byte = [0u8; 8];
        let mut left = found.messages;
        while left > 0 && sockets.os.read(fd, &mut byte).is_ok() {
            left -= 1;
        }
        if left > 0 || !found.some {
            att.locked(|l| {
                l.mirror_late(id, left);
                if !found.some {
                    l.mirror_arm(id);
                }
            });
        }
    }

    /// [`settle`](Self::settle) for the set at `index` and all inside.
    pub(super) fn settle_all(&self, sockets: &Sockets, index: u32, att: &Attachment) {
        if let Some(set) = self.at(index) {
            self.settle_inner(sockets, set, att);
            self.settle(sockets, set, att);
        }
    }
}

fn take_one(l: &mut Vec<u32>, n: u32) {
    if let Some(at) = l.iter().position(|x| *x == n) {
        let _: u32 = l.swap_remove(at);
    }
}
