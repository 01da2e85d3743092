//! Members of the kernel's sets whose connections the kernel has for the time being: the stack's membership rests, and
//! counts again when the connection comes back.

use super::objects::{ItemId, ItemMode, SetId, imode};
use crate::sock::{SockId, SockRef, flag};
use crate::stack::locked::Locked;

/// What became of a change of a membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// Done.
    Yes,
    /// Not done: the kernel's set has the member.
    Away,
    /// Not done: another process just moves it.
    Busy,
    /// There is no such membership any more.
    Gone,
}

impl Locked<'_, '_, '_> {
    /// `EPOLL_CTL_MOD` of a member of the stack's set. Where it is, and not where its socket is: it may just be moving.
    pub fn item_change(
        &mut self,
        id: ItemId,
        (set, sock): (SetId, SockRef),
        events: u32,
        data: u64,
        mode: ItemMode,
    ) -> Changed {
        let found = self.place_of(id, set, sock);
        if found == Changed::Yes {
            self.item_mod(id, events, data, mode);
        }
        found
    }

    /// `EPOLL_CTL_DEL` of one.
    pub fn item_remove(&mut self, id: ItemId, set: SetId, sock: SockRef) -> Changed {
        let found = self.place_of(id, set, sock);
        if found == Changed::Yes {
            self.item_del(id);
        }
        found
    }

    fn place_of(&self, id: ItemId, set: SetId, sock: SockRef) -> Changed {
        let item = self.st.items.at(id);
        let same = item.set.get().opt() == Some(set) && item.sock.get().opt() == Some(sock.id);
        match same && self.st.get(sock).is_some() {
            true if item.mode.get() & imode::MOVING != 0 => Changed::Busy,
            true if item.mode.get() & imode::AWAY != 0 => Changed::Away,
            true => Changed::Yes,
            false => Changed::Gone,
        }
    }

    /// The member is to leave the kernel's set (`away`) or the stack's, because its socket has; the caller moves it, and says
    /// so with [`item_away`](Self::item_away) or its kin. It was found some time ago: [`Changed::Gone`]: there is nothing to
    /// move any more. [`Changed::Busy`]: another process is at it. With `force` that one is taken for dead.
    ///
    /// Between its looks at the member and its word to the kernel others might move it, and remove it there: it would come to
    /// life again.
    pub fn item_claim(&mut self, id: ItemId, set: SetId, away: bool, force: bool) -> Changed {
        let item = self.st.items.at(id);
        let mode = item.mode.get();
        let misplaced = |sock| away != self.st.sock(sock).has(flag::HANDED_OVER);
        let is_it = item.set.get().opt() == Some(set) && (mode & imode::AWAY != 0) == away;
        if !is_it || !item.sock.get().opt().is_some_and(misplaced) {
            return Changed::Gone;
        }
        if mode & imode::MOVING != 0 && !force {
            return Changed::Busy;
        }
        item.mode.set(mode | imode::MOVING);
        Changed::Yes
    }

    /// The kernel's set has the member: it rests, or ends if its socket stays with the kernel for good (`ends`, of the socket
    /// as it is now). False: it has ended.
    pub fn item_settle(
        &mut self,
        id: ItemId,
        sock: SockId,
        armed: bool,
        ends: impl FnOnce() -> bool,
    ) -> bool {
        // What came back meanwhile is to follow.
        if self.st.sock(sock).has(flag::HANDED_OVER) && ends() {
            self.item_del_of(id, sock);
            return false;
        }
        let _: bool = self.item_away(id, sock, true, armed);
        true
    }

    /// The kernel's set has the member from now on, or has it no longer; `armed`: it is no one-shot member that has
    /// fired. False: the membership is not one of `sock`'s any more.
    pub fn item_away(&mut self, id: ItemId, sock: SockId, away: bool, armed: bool) -> bool {
        let item = self.st.items.at(id);
        if item.sock.get().opt() != Some(sock) {
            return false;
        }
        let bit = |on: bool, b: u32| if on { b } else { 0 };
        let rest = item.mode.get() & !(imode::AWAY | imode::DISARMED | imode::NEWS | imode::MOVING);
        item.mode
            .set(rest | bit(away, imode::AWAY) | bit(!armed, imode::DISARMED));
        if away {
            self.unqueue_ready(id);
        }
        let misplaced = self.queue_if_misplaced(id, sock);
        if !misplaced && !away {
            self.back_in_place(id, armed);
        }
        true
    }

    /// A member that counts again and is ready keeps the place that it got in the list when it came back.
    fn back_in_place(&mut self, id: ItemId, armed: bool) {
        let item = self.st.items.at(id);
        let was_there = item.queued.get() != 0;
        if !armed || !self.requeue_if_ready(id) {
            self.unqueue_ready(id);
        } else if was_there && let Some(set) = item.set.get().opt() {
            self.wake_one(set);
        }
    }

    /// Who looks at the set has to move the member if it is not where its socket is: that came back or left just now.
    pub(super) fn queue_if_misplaced(&mut self, id: ItemId, sock: SockId) -> bool {
        let item = self.st.items.at(id);
        let away = item.mode.get() & imode::AWAY != 0;
        if away == self.st.sock(sock).has(flag::HANDED_OVER) {
            return false;
        }
        item.mode.set(item.mode.get() | imode::NEWS);
        self.queue_ready(id);
        if let Some(set) = item.set.get().opt() {
            self.wake_one(set);
        }
        true
    }

    /// The socket of an away member came back, and nothing happened since: of an edge the kernel has told.
    pub fn item_back_quietly(&mut self, id: ItemId, sock: SockId, armed: bool) -> bool {
        let item = self.st.items.at(id);
        let quiet = imode::EDGE | imode::AWAY;
        if item.sock.get().opt() != Some(sock)
            || item.mode.get() & (quiet | imode::NEWS) != quiet
            || self.st.sock(sock).has(flag::HANDED_OVER)
        {
            return self.item_away(id, sock, false, armed);
        }
        let disarmed = if armed { 0 } else { imode::DISARMED };
        let rest = item.mode.get() & !(imode::AWAY | imode::DISARMED | imode::MOVING);
        item.mode.set(rest | disarmed);
        self.unqueue_ready(id);
        true
    }

    /// What an away member is watched for was changed in the kernel's set. It may have come back meanwhile, and is then to
    /// follow once more.
    pub fn item_note(&mut self, id: ItemId, sock: SockId, events: u32, data: u64, mode: ItemMode) {
        let item = self.st.items.at(id);
        if item.sock.get().opt() != Some(sock) {
            return;
        }
        item.events.set(events);
        item.data.set(data);
        item.mode.set(mode.bits());
        let _: bool = self.item_away(id, sock, true, true);
    }

    /// Tells the members of the ready list whose connections came back from the kernel; they keep their places in it. With
    /// each comes whether what is ready of it is old: the kernel's set knows of all that happened.
    pub fn set_returned(&mut self, set: SetId, mut take: impl FnMut(ItemId, bool)) {
        let st = self.st;
        let mut cur = st.sets.at(set).ready.get().opt();
        let mut guard = st.limits().items;
        while let Some(id) = cur {
            if guard == 0 {
                return;
            }
            guard -= 1;
            let item = st.items.at(id);
            cur = item.ready_next.get().opt();
            let away = item.mode.get() & imode::AWAY != 0;
            let sock = item.sock.get().opt();
            if let Some(s) = sock.filter(|s| away && !st.sock(*s).has(flag::HANDED_OVER)) {
                let edge = item.mode.get() & (imode::EDGE | imode::NEWS) == imode::EDGE;
                take(id, edge && st.has_all_come(s));
            }
        }
    }
}
