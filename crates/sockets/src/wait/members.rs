//! How members move between the kernel's set and the stack's: a fresh socket gets an endpoint, an endpoint goes, a
//! descriptor is closed.

use core::sync::atomic::Ordering;

use flyover_core::stack::wake::{ItemId, ItemMode, SetId};
use flyover_core::{Error, SockRef};

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::os::EpollEvent;
use crate::process::{Ep, Sockets};
use crate::wait::sets::{EpollSet, EpollTable, FLAGS, Member, Members, mode};

impl EpollTable {
    /// The fresh socket `fd` got an endpoint: its memberships move from the kernel to the stack, those under other
    /// numbers of the same socket as well.
    pub(crate) fn fd_became_endpoint(&self, sockets: &Sockets, fd: i32, ep: &Ep) {
        let cookie = shared_cookie(sockets, fd);
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            for n in fresh_numbers(sockets, &members, fd, cookie) {
                let Some(m) = members.get_mut(&n).filter(|m| m.ours.is_none()) else {
                    continue;
                };
                let epfd = set.epfd.load(Ordering::Acquire);
                let gone = sockets.os.epoll_ctl(epfd, libc::EPOLL_CTL_DEL, n, None);
                if gone.is_ok() {
                    set.kernel_left();
                }
                match self.join(sockets, set, ep, m.event) {
                    Ok(item) => m.ours = Some((ep.sock, item)),
                    Err(_) => to_kernel(sockets, set, n, m.event),
                }
            }
        }
        self.gate.unlock();
    }

    /// The kernel connects the fresh socket `fd`, for which there is a place in the stack: its memberships in the kernel's
    /// sets are noted there, also those under other numbers.
    pub(crate) fn fresh_became_mark(&self, sockets: &Sockets, fd: i32, ep: &Ep) {
        let cookie = shared_cookie(sockets, fd);
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            for n in fresh_numbers(sockets, &members, fd, cookie) {
                let Some(m) = members.get_mut(&n).filter(|m| m.ours.is_none()) else {
                    continue;
                };
                if let Ok(item) = self.join_away(sockets, set, ep, m.event) {
                    m.ours = Some((ep.sock, item));
                }
            }
        }
        self.gate.unlock();
    }

    /// The endpoint goes, its descriptors stay: all memberships of it move into the kernel's sets, under the numbers
    /// and with the words that they were made with. To be called when the kernel socket is what the program shall see
    /// from now on. True when there are any, or such as a fresh socket of the number `fd` has.
    pub(crate) fn endpoint_is_leaving(&self, sockets: &Sockets, fd: i32, ep: &Ep) -> bool {
        let mut any = false;
        self.gate.lock(sockets.os);
        for set in self.each() {
            for (n, m) in set.members().iter_mut() {
                match m.ours {
                    Some((sock, item)) if sock == ep.sock => {
                        any = true;
                        m.ours = None;
                        leave(ep.att, set.id(), sock, item);
                        to_kernel(sockets, set, *n, m.event);
                    }
                    None if *n == fd => any = true,
                    _ => {}
                }
            }
        }
        self.gate.unlock();
        any
    }

    /// `fd` was closed, and with it the endpoint. `copied`: it may be a member under other numbers, too.
    pub(crate) fn forget_closed(&self, sockets: &Sockets, fd: i32, ep: &Ep, copied: bool) {
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            let ours = members.get(&fd).and_then(|m| m.ours);
            if let Some((sock, item)) = ours.filter(|(sock, _)| *sock == ep.sock) {
                let _: Option<Member> = members.remove(&fd);
                leave(ep.att, set.id(), sock, item);
            }
            if copied {
                members.retain(|_, m| match m.ours {
                    Some((sock, item)) if sock == ep.sock => {
                        leave(ep.att, set.id(), sock, item);
                        false
                    }
                    _ => true,
                });
            }
        }
        self.gate.unlock();
    }

    /// `fd`, whose connection the kernel has, is being closed.
    pub(crate) fn forget_away(&self, sockets: &Sockets, fd: i32, ep: &Ep) {
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            let ours = members.get(&fd).and_then(|m| m.ours);
            if let Some((sock, item)) = ours.filter(|(sock, _)| *sock == ep.sock) {
                let _: Option<Member> = members.remove(&fd);
                leave(ep.att, set.id(), sock, item);
                set.kernel_left();
            }
        }
        self.gate.unlock();
    }

    /// A fresh socket was closed.
    pub(crate) fn forget_fd(&self, sockets: &Sockets, fd: i32) {
        self.gate.lock(sockets.os);
        for set in self.each() {
            let mut members = set.members();
            if members.get(&fd).is_some_and(|m| m.ours.is_none()) {
                let _: Option<Member> = members.remove(&fd);
                set.kernel_left();
            }
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
        self.join_as(sockets, set, ep, event, mode(event.events))
    }

    /// The same for a member of the kernel's set, whose connection the kernel has. The gate is held.
    pub(super) fn join_away(
        &self,
        sockets: &Sockets,
        set: &EpollSet,
        ep: &Ep,
        event: EpollEvent,
    ) -> Result<ItemId, Error> {
        let how = ItemMode {
            away: true,
            ..mode(event.events)
        };
        self.join_as(sockets, set, ep, event, how)
    }

    fn join_as(
        &self,
        sockets: &Sockets,
        set: &EpollSet,
        ep: &Ep,
        event: EpollEvent,
        how: ItemMode,
    ) -> Result<ItemId, Error> {
        let id = self.own(sockets, set, ep.att)?;
        let events = event.events & !FLAGS;
        ep.att
            .locked(|l| l.item_add(id, ep.sock.id, events, event.data, how))
    }

    /// Threads wait for the set in the library from now on, and those that are in the kernel come out. The gate is
    /// held.
    pub(super) fn own(
        &self,
        sockets: &Sockets,
        set: &EpollSet,
        att: &'static Attachment,
    ) -> Result<SetId, Error> {
        if let Some(id) = set.id() {
            return Ok(id);
        }
        let id = att.locked(|l| l.set_alloc())?;
        set.life.store(att.stack.set_life(id), Ordering::Release);
        set.set.store(id.raw() + 1, Ordering::SeqCst);
        if set.in_kernel.load(Ordering::SeqCst) != 0 {
            self.kick(sockets, set);
        }
        self.show_outside(sockets, set, att);
        Ok(id)
    }

    /// Makes the threads that wait in the kernel come out and wait with us.
    fn kick(&self, sockets: &Sockets, set: &EpollSet) {
        let Ok(fd) = sockets.own_eventfd() else {
            return;
        };
        set.kick.store(fd + 1, Ordering::Release);
        let _: Result<usize, Errno> = sockets.os.write(fd, &1u64.to_ne_bytes());
        self.add_own(sockets, set, fd);
    }

    /// Makes a descriptor of the library a member of the kernel's set.
    pub(super) fn add_own(&self, sockets: &Sockets, set: &EpollSet, fd: i32) {
        let event = EpollEvent {
            events: libc::EPOLLIN as u32,
            data: self.own_word(sockets.os),
        };
        let epfd = set.epfd.load(Ordering::Acquire);
        let _: Result<(), Errno> = sockets
            .os
            .epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, Some(event));
    }
}

/// The cookie of a socket that has other numbers, too.
fn shared_cookie(sockets: &Sockets, fd: i32) -> Option<u64> {
    let shared = !sockets.is_sole_holder(fd);
    shared.then(|| sockets.cookie(fd).ok()).flatten()
}

/// The numbers under which the fresh socket `fd`, whose cookie that is, may be a member.
fn fresh_numbers(sockets: &Sockets, members: &Members, fd: i32, cookie: Option<u64>) -> Vec<i32> {
    let same = |n: i32| n != fd && !sockets.is_sole_holder(n) && sockets.cookie(n).ok() == cookie;
    let others = members.iter().filter(|(_, m)| m.ours.is_none());
    let also = others
        .map(|(n, _)| *n)
        .filter(|n| cookie.is_some() && same(*n));
    also.chain([fd]).collect()
}

fn to_kernel(sockets: &Sockets, set: &EpollSet, fd: i32, event: EpollEvent) {
    let epfd = set.epfd.load(Ordering::Acquire);
    let added = sockets
        .os
        .epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, Some(event));
    if added.is_ok() {
        set.kernel_joined();
    }
}

/// Ends a membership, unless the socket went already and took it along.
pub(super) fn leave(att: &Attachment, set: Option<SetId>, sock: SockRef, item: ItemId) {
    if let Some(set) = set {
        att.locked(|l| l.item_leave(item, set, sock));
    }
}

impl Sockets {
    /// An eventfd of the library's own.
    pub(super) fn own_eventfd(&self) -> Result<i32, Errno> {
        let fd = crate::os::move_high(self.os, self.os.eventfd()?)?;
        let _: bool = self.table.store(fd, Entry::Ours);
        Ok(fd)
    }

    /// Closes one of the library's own descriptors.
    pub(crate) fn close_own(&self, fd: i32) {
        let _: bool = self.table.store(fd, Entry::Unknown);
        let _: Result<(), Errno> = self.os.close(fd);
    }
}
