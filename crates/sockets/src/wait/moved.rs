//! Members whose sockets were handed over to the kernel: by this process, or by another one that shares them.

use core::sync::atomic::Ordering;

use flyover_core::sock::flag;
use flyover_core::stack::wake::{Changed, ItemId};
use flyover_core::{ItemView, SockId, ev};

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::life::takeover::is_away;
use crate::os::{EpollEvent, PollFd};
use crate::process::{Ep, Sockets};
use crate::wait::sets::{EpollSet, EpollTable, FLAGS, Member, Members, mode};

/// How often another process that moves a member is waited for, and how long at a time, ns: two system calls, unless it has
/// lost its CPU. After that it is taken for dead.
const CLAIMS: u32 = 2_000;
const CLAIM_NS: u64 = 50_000;

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
            None => adopt_moved(sockets, att, set, item),
        }
        drop(members);
        self.gate.unlock();
    }

    /// The members whose connections came back from the kernel since the last time leave the kernel's set. An edge that it
    /// has told is not told again, if that is sure: `last_word` has the kernel's set tell all it has to, given the words of
    /// the members in question, and says whether that was everything.
    pub(super) fn follow_returns(
        &self,
        sockets: &Sockets,
        att: &Attachment,
        set: &EpollSet,
        last_word: impl FnOnce(&[u64]) -> bool,
    ) {
        let Some(id) = set.id() else { return };
        let returns = att.stack.returned();
        if set.returns.swap(returns, Ordering::Relaxed) == returns {
            return;
        }
        let mut back = Vec::new();
        att.locked(|l| l.set_returned(id, |item, old| back.push((item, old))));
        let mut old = Vec::new();
        let mut words = Vec::new();
        for (item, is_old) in back {
            let view = att.locked(|l| l.item_view(item));
            match view.filter(|v| is_old && self.has_room(sockets, att, set, item, v)) {
                Some(view) => {
                    old.push(item);
                    words.push(view.data);
                }
                None => self.item_back(sockets, att, set, item, false),
            }
        }
        let told = !old.is_empty() && last_word(&words);
        for item in old {
            self.item_back(sockets, att, set, item, told);
        }
    }

    /// Nobody waits for room to write of whom the kernel's set would still have to tell.
    fn has_room(
        &self,
        sockets: &Sockets,
        att: &Attachment,
        set: &EpollSet,
        item: ItemId,
        view: &ItemView,
    ) -> bool {
        if view.events & ev::SPACE == 0 {
            return true;
        }
        let mut one = [PollFd {
            fd: number_in(set, item)
                .or_else(|| number_of(sockets, att, view.sock))
                .unwrap_or(-1),
            events: libc::POLLOUT,
            revents: 0,
        }];
        let asked = sockets.os.ppoll(&mut one, Some(0));
        asked.is_ok() && one[0].revents == libc::POLLOUT
    }

    /// A connection came back from the kernel: its membership leaves the kernel's set, and counts here again. `told`: what is
    /// ready of it is no news, of an edge.
    pub(super) fn item_back(
        &self,
        sockets: &Sockets,
        att: &Attachment,
        set: &EpollSet,
        item: ItemId,
        told: bool,
    ) {
        self.gate.lock(sockets.os);
        let known = number_in(set, item);
        self.bring_back(sockets, att, set, item, known, told);
        self.gate.unlock();
    }

    /// The same, if the connection is back and the membership is not; `fd`: the number of that. The gate is held.
    pub(super) fn bring_back(
        &self,
        sockets: &Sockets,
        att: &Attachment,
        set: &EpollSet,
        item: ItemId,
        fd: Option<i32>,
        told: bool,
    ) {
        let Some(view) = claim(sockets, att, set, item, true) else {
            return;
        };
        let mut armed = view.armed;
        if let Some(fd) = fd.or_else(|| number_of(sockets, att, view.sock)) {
            let epfd = set.epfd.load(Ordering::Acquire);
            armed = !view.mode.oneshot || sockets.os.epoll_is_armed(epfd, fd);
            let _: Result<(), Errno> = sockets.os.epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, None);
            set.kernel_left();
        }
        let _: bool = att.locked(|l| match told {
            true => l.item_back_quietly(item, view.sock, armed),
            false => l.item_away(item, view.sock, false, armed),
        });
    }

    /// `fd` became a member of the kernel's set, and the kernel has its connection for the time being, or had it a moment ago:
    /// then the membership follows at once. The gate is held.
    pub(super) fn note_away(&self, sockets: &Sockets, set: &EpollSet, fd: i32, event: EpollEvent) {
        let Some(ep) = sockets.place(fd) else { return };
        if let Ok(item) = self.join_away(sockets, set, &ep, event) {
            let member = Member {
                event,
                ours: Some((ep.sock, item)),
            };
            let _: Option<Member> = set.members().insert(fd, member);
        }
    }

    /// The kernel's set was asked to watch `fd` for something else. The gate is held.
    pub(super) fn change_away(
        &self,
        sockets: &Sockets,
        set: &EpollSet,
        fd: i32,
        event: EpollEvent,
    ) {
        let Some(ep) = sockets.place(fd) else { return };
        if let Some(m) = set.members().get_mut(&fd)
            && let Some((sock, item)) = m.ours
            && sock == ep.sock
        {
            m.event = event;
            let (events, how) = (event.events & !FLAGS, mode(event.events));
            ep.att
                .locked(|l| l.item_note(item, sock.id, events, event.data, how));
        }
    }

    /// Takes out of what the kernel's set said the hang-ups of kernel sockets whose connections came back: it says them
    /// of every socket that is not connected, until the membership has followed.
    pub(super) fn without_returned(
        &self,
        att: &Attachment,
        set: &EpollSet,
        events: &mut [EpollEvent],
        n: usize,
    ) -> usize {
        let hung = (libc::EPOLLHUP | libc::EPOLLERR) as u32;
        let some = events.iter().take(n).any(|e| e.events & hung != 0);
        if !some || att.stack.takeovers_begun() == 0 {
            return n;
        }
        let members = set.members();
        let back = |data: u64| {
            members.values().any(|m| {
                m.event.data == data
                    && m.ours.is_some_and(|(sock, _)| {
                        att.stack.get(sock).is_some()
                            && !att.stack.sock(sock.id).has(flag::HANDED_OVER)
                    })
            })
        };
        let mut kept = 0;
        for i in 0..n {
            let Some(e) = events.get(i).copied() else {
                break;
            };
            if e.events & hung != 0 && back(e.data) {
                continue;
            }
            if let Some(to) = events.get_mut(kept) {
                *to = e;
            }
            kept += 1;
        }
        kept
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

/// The number under which this process made the membership.
fn number_in(set: &EpollSet, item: ItemId) -> Option<i32> {
    let members = set.members();
    let known = members
        .iter()
        .find(|(_, m)| m.ours.is_some_and(|(_, i)| i == item));
    known.map(|(fd, _)| *fd)
}

/// A number under which this process has the socket.
fn number_of(sockets: &Sockets, att: &Attachment, sock: SockId) -> Option<i32> {
    let cookie = att.stack.sock(sock).cookie.load(Ordering::Acquire);
    let mut found = None;
    sockets.table.for_each(sockets.table.len(), |fd, e| {
        let same = matches!(e, Entry::Tcp(h) | Entry::Udp(h) if h.id == sock);
        if same && found.is_none() && sockets.cookie(fd) == Ok(cookie) {
            found = Some(fd);
        }
    });
    found
}

/// A membership that another process made: if we hold the socket, too, it moves under our number.
fn adopt_moved(sockets: &Sockets, att: &Attachment, set: &EpollSet, item: ItemId) {
    let here = |v: &ItemView| set.id() == Some(v.set);
    let view = att.locked(|l| l.item_view(item)).filter(here);
    if let Some(fd) = view.and_then(|v| number_of(sockets, att, v.sock))
        && let Some(view) = claim(sockets, att, set, item, false)
    {
        enter_kernel_set(sockets, set, fd, &view);
        let _: bool = settle(att, item, &view);
    }
}

/// The member, if it is to leave the kernel's set (`away`) or the stack's: nobody else moves it then. It was found some time
/// ago: another thread may have moved it since, its connection may have come back, and its place in the stack's table may be
/// another member's. Another process that is at it is waited for.
fn claim(
    sockets: &Sockets,
    att: &Attachment,
    set: &EpollSet,
    item: ItemId,
    away: bool,
) -> Option<ItemView> {
    let id = set.id()?;
    for left in (0..CLAIMS).rev() {
        let (claimed, view) = att.locked(|l| {
            let claimed = l.item_claim(item, id, away, left == 0);
            (claimed, l.item_view(item))
        });
        match claimed {
            Changed::Yes => return view,
            Changed::Busy => {
                let _: Result<usize, Errno> = sockets.os.ppoll(&mut [], Some(CLAIM_NS));
            }
            Changed::Away | Changed::Gone => return None,
        }
    }
    None
}

/// The kernel's set has the member: it rests if it may come back, else it ends. True: it rests.
fn settle(att: &Attachment, item: ItemId, view: &ItemView) -> bool {
    let ends = || !is_away(att.stack.sock(view.sock));
    att.locked(|l| l.item_settle(item, view.sock, view.armed, ends))
}

/// Moves the membership of `fd` from the stack's set to the kernel's, armed or not as it is, if that is where it belongs now.
fn move_to_kernel(
    sockets: &Sockets,
    att: &Attachment,
    set: &EpollSet,
    members: &mut Members,
    fd: i32,
) {
    let Some((sock, item)) = members.get(&fd).and_then(|m| m.ours) else {
        return;
    };
    let known = att.locked(|l| l.item_view(item)).is_some_and(|v| {
        set.id() == Some(v.set) && v.sock == sock.id && att.stack.get(sock).is_some()
    });
    if !known {
        // Another process has moved it.
        let _: Option<Member> = members.remove(&fd);
        set.kernel_joined();
        return;
    }
    // Otherwise the kernel's set has it already, or its connection is back.
    if let Some(view) = claim(sockets, att, set, item, false) {
        enter_kernel_set(sockets, set, fd, &view);
        if !settle(att, item, &view) {
            let _: Option<Member> = members.remove(&fd);
        }
    }
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
