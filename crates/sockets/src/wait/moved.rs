//! Members whose sockets were handed over to the kernel: by this process, or by another one that shares them.

use core::sync::atomic::Ordering;

use flyover_core::ItemView;
use flyover_core::sock::flag;
use flyover_core::stack::wake::ItemId;

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::os::EpollEvent;
use crate::process::{Ep, Sockets};
use crate::wait::sets::{EpollSet, EpollTable, Members};

impl EpollTable {
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
        set.kernel_joined();
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
    set.kernel_joined();
}
