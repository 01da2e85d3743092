//! Sets, memberships and ready lists.

use super::ev;
use super::objects::{ItemId, ItemMode, Ready, SetId, WaiterId, imode, wstate};
use crate::error::Error;
use crate::sock::{Sock, SockId, SockRef, flag};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::fence;
use flyover_shm::OptIdx;

/// What [`Locked::set_settle`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Something is ready.
    pub some: bool,
    /// Messages of the mirror to be read now.
    pub messages: u32,
}

impl Stack<'_> {
    /// True when the set's ready list is not empty; needs no lock.
    pub fn set_has_ready(self, set: SetId) -> bool {
        self.set_ready_len(set) != 0
    }

    /// True when the set's mirror has messages that nobody has read; needs no lock.
    pub fn set_mirror_told(self, set: SetId) -> bool {
        self.sets.at(set).told.load(Acquire) != 0
    }

    /// Members on the set's ready list; needs no lock.
    pub fn set_ready_len(self, set: SetId) -> u32 {
        self.sets.at(set).ready_len.load(Acquire)
    }
}

impl Locked<'_, '_, '_> {
    /// A new ready set.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] when all are in use.
    pub fn set_alloc(&mut self) -> Result<SetId, Error> {
        let st = self.st;
        let id = st
            .state
            .set_slots
            .alloc(st.sets, u32::from(self.env.me) + 1)
            .ok_or(Error::NoBuffers)?;
        let set = st.sets.at(id);
        set.ready.set(OptIdx::NONE);
        set.ready_tail.set(OptIdx::NONE);
        set.ready_len.store(0, Release);
        set.waiters.set(OptIdx::NONE);
        set.members.set(OptIdx::NONE);
        set.count.set(0);
        set.mirror.set(OptIdx::NONE);
        set.told.store(0, Release);
        set.life.set(set.life.get().wrapping_add(1));
        Ok(id)
    }

    /// Frees a set with all its memberships.
    pub fn set_free(&mut self, set: SetId) {
        let st = self.st;
        let mut guard = st.limits().items;
        while let Some(item) = st.sets.at(set).members.get().opt() {
            if guard == 0 {
                break;
            }
            guard -= 1;
            self.item_del(item);
        }
        let mut guard = st.limits().waiters;
        while let Some(w) = st.sets.at(set).waiters.get().opt() {
            if guard == 0 {
                break;
            }
            guard -= 1;
            self.wake_one(set);
            if st.sets.at(set).waiters.get().opt() == Some(w) {
                break;
            }
        }
        self.forget_holders(set);
        let _: bool = st.state.set_slots.free(st.sets, set);
    }

    /// Makes `sock` a member of `set`. What is ready already is reported.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] when the table of memberships is full.
    pub fn item_add(
        &mut self,
        set: SetId,
        sock: SockId,
        events: u32,
        data: u64,
        mode: ItemMode,
    ) -> Result<ItemId, Error> {
        let st = self.st;
        let id = st
            .state
            .item_slots
            .alloc(st.items, u32::from(self.env.me) + 1)
            .ok_or(Error::NoBuffers)?;
        let item = st.items.at(id);
        item.set.set(set.into());
        item.sock.set(sock.into());
        item.data.set(data);
        item.events.set(events);
        item.mode.set(mode.bits());
        item.queued.set(0);
        item.ready_next.set(OptIdx::NONE);
        item.ready_prev.set(OptIdx::NONE);
        let s = st.sock(sock);
        item.sock_next.set(s.items.get());
        s.items.set(id.into());
        crate::stretch::place();
        let owner = st.sets.at(set);
        item.set_prev.set(OptIdx::NONE);
        item.set_next.set(owner.members.get());
        if let Some(first) = owner.members.get().opt() {
            st.items.at(first).set_prev.set(id.into());
        }
        owner.members.set(id.into());
        owner.count.set(owner.count.get().wrapping_add(1));
        // The other end of a pair sends without the lock: bytes first, then a look at the members. Here it is the other way
        // round, so that one of the two sees the other.
        fence(SeqCst);
        if mode.away {
            self.queue_if_misplaced(id, sock);
        } else if !mode.quiet {
            self.requeue_if_ready(id);
        }
        Ok(id)
    }

    /// Changes what a member is watched for (`EPOLL_CTL_MOD`): re-arms a one-shot member, and reports again what
    /// is ready.
    pub fn item_mod(&mut self, id: ItemId, events: u32, data: u64, mode: ItemMode) {
        let item = self.st.items.at(id);
        item.events.set(events);
        item.data.set(data);
        item.mode.set(mode.bits());
        self.requeue_if_ready(id);
    }

    /// Has `w` told about everything that becomes ready in the set, however many sleep on it (or nobody any more).
    pub fn set_mirror(&mut self, set: SetId, w: Option<WaiterId>) {
        let mirror = w.map_or(OptIdx::NONE, Into::into);
        let owner = self.st.sets.at(set);
        owner.mirror.set(mirror);
        owner.told.store(0, Release);
    }

    /// Throws out of the ready list what is not ready any more, as the kernel's poll of an epoll set does. When some
    /// is left the mirror hears of the next event, and all but one of its messages are to be read: they would fill the
    /// wake socket. When nothing is left all are to be read, and then [`mirror_arm`](Self::mirror_arm) called. What
    /// cannot be read yet is on its way: [`mirror_late`](Self::mirror_late).
    pub fn set_settle(&mut self, set: SetId) -> Settled {
        let st = self.st;
        let owner = st.sets.at(set);
        let mut todo = owner.ready_len.load(Relaxed).min(st.limits().items);
        while let Some(id) = owner.ready.get().opt()
            && todo > 0
        {
            todo -= 1;
            let item = st.items.at(id);
            let away = item.mode.get() & imode::AWAY != 0;
            let gone = |s| st.sock(s).has(flag::HANDED_OVER);
            if item.sock.get().opt().is_some_and(|s| away != gone(s)) {
                break;
            }
            let wanted = item.events.get() | ev::ERR | ev::HUP;
            let live = item.mode.get() & imode::DISARMED == 0;
            let ready = |s| st.want_space_notice(s, wanted) & wanted != 0;
            if live && item.sock.get().opt().is_some_and(ready) {
                break;
            }
            self.unqueue_ready(id);
        }
        let some = owner.ready_len.load(Relaxed) != 0;
        if some && let Some(m) = owner.mirror.get().opt() {
            st.waiters.at(m).state.store(wstate::ASLEEP, Release);
        }
        let told = owner.told.load(Relaxed);
        let stay = told.min(u32::from(some));
        owner.told.store(stay, Release);
        Settled {
            some,
            messages: told - stay,
        }
    }

    /// So many of the mirror's messages have not arrived yet: whoever sends them lets go of the lock first.
    pub fn mirror_late(&mut self, set: SetId, messages: u32) {
        let owner = self.st.sets.at(set);
        let told = owner.told.load(Relaxed);
        owner.told.store(told.saturating_add(messages), Release);
    }

    /// The mirror's wake socket is empty: the mirror is told of the next event, or of what came meanwhile.
    pub fn mirror_arm(&mut self, set: SetId) {
        let st = self.st;
        let owner = st.sets.at(set);
        if let Some(m) = owner.mirror.get().opt() {
            st.waiters.at(m).state.store(wstate::ASLEEP, Release);
            if owner.ready_len.load(Relaxed) != 0 {
                self.tell_mirror(set);
            }
        }
    }

    /// True: it is ready, and on the list.
    pub(super) fn requeue_if_ready(&mut self, id: ItemId) -> bool {
        let st = self.st;
        let item = st.items.at(id);
        let Some(sock) = item.sock.get().opt() else {
            return false;
        };
        let wanted = item.events.get() | ev::ERR | ev::HUP;
        let ready = st.want_space_notice(sock, item.events.get()) & wanted != 0;
        // What is on the list already wakes nobody anew (`ep_modify`).
        if ready && item.queued.get() == 0 {
            self.queue_ready(id);
            if let Some(set) = item.set.get().opt() {
                self.wake_one(set);
            }
        }
        ready
    }

    /// Ends a membership if `id` still is one of `sock` in `set`. Whoever kept its number across a `fork` cannot know.
    pub fn item_leave(&mut self, id: ItemId, set: SetId, sock: SockRef) {
        let item = self.st.items.at(id);
        if self.st.get(sock).is_some()
            && item.set.get().opt() == Some(set)
            && item.sock.get().opt() == Some(sock.id)
        {
            self.item_del(id);
        }
    }

    /// Ends a membership if `id` still is one of `set`: the socket may have gone, and the slot have a new use.
    pub fn item_del_in(&mut self, id: ItemId, set: SetId) {
        if self.st.items.at(id).set.get().opt() == Some(set) {
            self.item_del(id);
        }
    }

    /// Ends a membership.
    pub fn item_del(&mut self, id: ItemId) {
        let st = self.st;
        let item = st.items.at(id);
        self.unqueue_ready(id);
        if let Some(sock) = item.sock.get().opt() {
            let s = st.sock(sock);
            unlink_from_sock(st, s, id);
        }
        if let Some(set) = item.set.get().opt() {
            let set = st.sets.at(set);
            let (prev, next) = (item.set_prev.get(), item.set_next.get());
            match prev.opt() {
                Some(p) => st.items.at(p).set_next.set(next),
                None => set.members.set(next),
            }
            if let Some(n) = next.opt() {
                st.items.at(n).set_prev.set(prev);
            }
            set.count.set(set.count.get().wrapping_sub(1));
        }
        item.sock.set(OptIdx::NONE);
        item.set.set(OptIdx::NONE);
        let _: bool = st.state.item_slots.free(st.items, id);
    }

    /// Ends a membership if it is (still) one of `sock`'s: another process may have ended it before.
    pub fn item_del_of(&mut self, id: ItemId, sock: SockId) {
        if self.st.items.at(id).sock.get().opt() == Some(sock) {
            self.item_del(id);
        }
    }

    /// Moves what is ready into `out` and returns how many: level-triggered members stay on the list, at its end,
    /// while they are ready; edge-triggered ones leave it; one-shot ones are disarmed.
    pub fn set_collect(&mut self, set: SetId, out: &mut [Ready]) -> usize {
        let room = out.len();
        let mut slots = out.iter_mut();
        self.set_drain(set, room, |r| {
            if let Some(slot) = slots.next() {
                *slot = r;
            }
        })
    }

    /// As [`set_collect`](Self::set_collect), at most `max`, handed over one by one. No member comes twice. When some
    /// are left, another sleeper of the set is woken for them.
    pub fn set_drain(&mut self, set: SetId, max: usize, mut take: impl FnMut(Ready)) -> usize {
        let st = self.st;
        let owner = st.sets.at(set);
        let mut n = 0;
        let mut todo = owner.ready_len.load(Relaxed).min(st.limits().items);
        while todo > 0 && n < max {
            todo -= 1;
            let Some(id) = owner.ready.get().opt() else {
                break;
            };
            let item = st.items.at(id);
            let mode = item.mode.get();
            let away = mode & imode::AWAY != 0;
            let sock = item.sock.get().opt();
            let moved = sock.is_some_and(|s| away != st.sock(s).has(flag::HANDED_OVER));
            let ready = |events| Ready {
                item: id,
                data: item.data.get(),
                events,
            };
            if away && moved {
                // It keeps its place until it counts again: those behind it became ready later.
                take(ready(ev::BACK));
                n += 1;
                break;
            }
            self.unqueue_ready(id);
            let Some(sock) = sock else {
                continue;
            };
            if mode & imode::DISARMED != 0 && !away {
                continue;
            }
            if moved {
                take(ready(ev::MOVED));
                n += 1;
                continue;
            }
            if away {
                continue;
            }
            let wanted = item.events.get() | ev::ERR | ev::HUP;
            let events = st.want_space_notice(sock, wanted) & wanted;
            if events == 0 {
                continue;
            }
            take(ready(events));
            n += 1;
            if mode & imode::ONESHOT != 0 {
                item.mode.set(mode | imode::DISARMED);
            } else if mode & imode::EDGE == 0 {
                self.queue_ready(id);
            }
        }
        if todo > 0 {
            let _: bool = self.wake_one(set);
        }
        n
    }

    pub(super) fn queue_ready(&mut self, id: ItemId) {
        let st = self.st;
        let item = st.items.at(id);
        let resting = item.mode.get() & (imode::DISARMED | imode::AWAY) == imode::DISARMED;
        if item.queued.get() != 0 || resting {
            return;
        }
        let Some(set) = item.set.get().opt() else {
            return;
        };
        let set = st.sets.at(set);
        item.queued.set(1);
        item.ready_next.set(OptIdx::NONE);
        item.ready_prev.set(set.ready_tail.get());
        match set.ready_tail.get().opt() {
            Some(t) => st.items.at(t).ready_next.set(id.into()),
            None => set.ready.set(id.into()),
        }
        set.ready_tail.set(id.into());
        set.ready_len
            .store(set.ready_len.load(Relaxed).wrapping_add(1), Release);
    }

    pub(super) fn unqueue_ready(&mut self, id: ItemId) {
        let st = self.st;
        let item = st.items.at(id);
        if item.queued.get() == 0 {
            return;
        }
        item.queued.set(0);
        let Some(set) = item.set.get().opt() else {
            return;
        };
        let set = st.sets.at(set);
        let (prev, next) = (item.ready_prev.get(), item.ready_next.get());
        match prev.opt() {
            Some(p) => st.items.at(p).ready_next.set(next),
            None => set.ready.set(next),
        }
        match next.opt() {
            Some(x) => st.items.at(x).ready_prev.set(prev),
            None => set.ready_tail.set(prev),
        }
        set.ready_len
            .store(set.ready_len.load(Relaxed).saturating_sub(1), Release);
    }
}

fn unlink_from_sock(st: Stack<'_>, s: &Sock, id: ItemId) {
    let mut cur = s.items.get().opt();
    if cur == Some(id) {
        s.items.set(st.items.at(id).sock_next.get());
        return;
    }
    let mut guard = st.limits().items;
    while let Some(i) = cur {
        if guard == 0 {
            return;
        }
        guard -= 1;
        let next = st.items.at(i).sock_next.get();
        if next.opt() == Some(id) {
            st.items
                .at(i)
                .sock_next
                .set(st.items.at(id).sock_next.get());
            return;
        }
        cur = next.opt();
    }
}
