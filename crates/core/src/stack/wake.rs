//! Who waits for what: ready sets, memberships and sleepers. All of it under the stack lock.
//!
//! A [`Set`] is an epoll set, or the private set of one thread that blocks in one call. An [`Item`] is the
//! membership of one socket in one set. A [`Waiter`] is one sleeping thread. An event on a socket puts its items on
//! their sets' ready lists and wakes one waiter of each set; collecting costs O(ready).

use super::Stack;
use super::locked::Locked;
use crate::effects::Effect;
use crate::error::Error;
use crate::sock::{Sock, SockId};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use flyover_shm::{Idx, OptIdx, Shared32, SharedCell, SlotHdr, SlotObject, shm_struct};

/// `poll(2)` bits, as Linux numbers them.
pub mod ev {
    /// Data to read, or a connection to accept.
    pub const IN: u32 = 0x001;
    /// Urgent data.
    pub const PRI: u32 = 0x002;
    /// Room to write.
    pub const OUT: u32 = 0x004;
    /// Error pending.
    pub const ERR: u32 = 0x008;
    /// Both directions shut down.
    pub const HUP: u32 = 0x010;
    /// As `IN`.
    pub const RDNORM: u32 = 0x040;
    /// Priority band data.
    pub const RDBAND: u32 = 0x080;
    /// As `OUT`.
    pub const WRNORM: u32 = 0x100;
    /// As `OUT`, priority band.
    pub const WRBAND: u32 = 0x200;
    /// The peer shut down its sending direction.
    pub const RDHUP: u32 = 0x2000;
}

shm_struct! {
    /// A ready set.
    pub struct Set {
        /// Free-list link and owner tag.
        pub hdr: SlotHdr,
        /// First ready item.
        pub ready: SharedCell<OptIdx<Item>>,
        /// Last ready item.
        pub ready_tail: SharedCell<OptIdx<Item>>,
        /// Items on the ready list; may be read without the lock.
        pub ready_len: Shared32,
        /// First sleeping waiter.
        pub waiters: SharedCell<OptIdx<Waiter>>,
        /// First member, through [`Item::set_next`].
        pub members: SharedCell<OptIdx<Item>>,
        /// Members.
        pub count: SharedCell<u32>,
    }
}

shm_struct! {
    /// Membership of a socket in a set.
    pub struct Item {
        /// Free-list link and owner tag.
        pub hdr: SlotHdr,
        /// The set.
        pub set: SharedCell<OptIdx<Set>>,
        /// The socket.
        pub sock: SharedCell<OptIdx<Sock>>,
        /// The program's data, never looked at.
        pub data: SharedCell<u64>,
        /// Events asked for; [`ev::ERR`] and [`ev::HUP`] are always meant.
        pub events: SharedCell<u32>,
        /// [`imode`] bits.
        pub mode: SharedCell<u32>,
        /// Next item of the same socket.
        pub sock_next: SharedCell<OptIdx<Item>>,
        /// Next item of the same set.
        pub set_next: SharedCell<OptIdx<Item>>,
        /// Previous item of the same set.
        pub set_prev: SharedCell<OptIdx<Item>>,
        /// Next on the ready list.
        pub ready_next: SharedCell<OptIdx<Item>>,
        /// Previous on the ready list.
        pub ready_prev: SharedCell<OptIdx<Item>>,
        /// 1 while on the ready list.
        pub queued: SharedCell<u32>,
    }
}

shm_struct! {
    /// A sleeping thread.
    pub struct Waiter {
        /// Free-list link and owner tag.
        pub hdr: SlotHdr,
        /// [`wstate`].
        pub state: Shared32,
        /// Owner slot of the process.
        pub owner: SharedCell<u32>,
        /// Next waiter of the same set.
        pub next: SharedCell<OptIdx<Waiter>>,
        /// The set it sleeps on.
        pub set: SharedCell<OptIdx<Set>>,
        /// 1 while it watches the V-NICs' descriptors.
        pub leader: SharedCell<u32>,
        /// Next sleeping follower.
        pub fnext: SharedCell<OptIdx<Waiter>>,
        /// 1 while on the list of followers.
        pub following: SharedCell<u32>,
        /// Padding, always 0.
        pub pad: SharedCell<u32>,
    }
}

impl SlotObject for Set {
    fn slot(&self) -> &SlotHdr {
        &self.hdr
    }
}
impl SlotObject for Item {
    fn slot(&self) -> &SlotHdr {
        &self.hdr
    }
}
impl SlotObject for Waiter {
    fn slot(&self) -> &SlotHdr {
        &self.hdr
    }
}

/// Values of [`Waiter::state`].
pub mod wstate {
    /// Not sleeping.
    pub const AWAKE: u32 = 0;
    /// Announced that it sleeps.
    pub const ASLEEP: u32 = 1;
    /// Woken.
    pub const WOKEN: u32 = 2;
}

/// Bits of [`Item::mode`].
pub mod imode {
    /// Edge-triggered (`EPOLLET`).
    pub const EDGE: u32 = 1;
    /// One-shot (`EPOLLONESHOT`).
    pub const ONESHOT: u32 = 2;
    /// Exclusive (`EPOLLEXCLUSIVE`).
    pub const EXCLUSIVE: u32 = 4;
    /// A one-shot item that has fired and waits to be re-armed.
    pub const DISARMED: u32 = 8;
}

/// Index of a waiter.
pub type WaiterId = Idx<Waiter>;
/// Index of a set.
pub type SetId = Idx<Set>;
/// Index of an item.
pub type ItemId = Idx<Item>;

/// How a member is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemMode {
    /// `EPOLLET`.
    pub edge: bool,
    /// `EPOLLONESHOT`.
    pub oneshot: bool,
    /// `EPOLLEXCLUSIVE`.
    pub exclusive: bool,
}

impl ItemMode {
    fn bits(self) -> u32 {
        let bit = |on: bool, b: u32| if on { b } else { 0 };
        bit(self.edge, imode::EDGE)
            | bit(self.oneshot, imode::ONESHOT)
            | bit(self.exclusive, imode::EXCLUSIVE)
    }
}

/// One ready member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The membership.
    pub item: ItemId,
    /// The program's data.
    pub data: u64,
    /// What is ready of what was asked for.
    pub events: u32,
}

/// Answer of [`Locked::wait_begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something is ready: do not sleep.
    Ready,
    /// Sleep; a leader also watches the V-NICs' descriptors.
    Sleep {
        /// Watch the V-NICs.
        leader: bool,
    },
}

/// Sleepers that watch the V-NICs at the same time. Two: a packet then wakes two threads at the most, and one
/// resigning does not leave the V-NICs unwatched while its successor wakes.
const MAX_LEADERS: u32 = 2;

impl Stack<'_> {
    /// True when the set's ready list is not empty; needs no lock.
    pub fn set_has_ready(self, set: SetId) -> bool {
        self.sets.at(set).ready_len.load(Acquire) != 0
    }

    /// The name suffix of a waiter's wake socket.
    pub fn waiter_owner(self, w: WaiterId) -> u16 {
        self.waiters.at(w).owner.get() as u16
    }

    /// True while nobody has woken this waiter; needs no lock.
    pub fn still_asleep(self, w: WaiterId) -> bool {
        self.waiters.at(w).state.load(Acquire) == wstate::ASLEEP
    }
}

impl<'m> Locked<'_, '_, 'm> {
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
        let owner = st.sets.at(set);
        item.set_prev.set(OptIdx::NONE);
        item.set_next.set(owner.members.get());
        if let Some(first) = owner.members.get().opt() {
            st.items.at(first).set_prev.set(id.into());
        }
        owner.members.set(id.into());
        owner.count.set(owner.count.get().wrapping_add(1));
        self.requeue_if_ready(id);
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

    fn requeue_if_ready(&mut self, id: ItemId) {
        let st = self.st;
        let item = st.items.at(id);
        let Some(sock) = item.sock.get().opt() else {
            return;
        };
        if st.want_space_notice(sock, item.events.get()) & (item.events.get() | ev::ERR | ev::HUP)
            != 0
        {
            self.queue_ready(id);
            if let Some(set) = item.set.get().opt() {
                self.wake_one(set);
            }
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

    /// Moves what is ready into `out` and returns how many: level-triggered members stay on the list, at its end,
    /// while they are ready; edge-triggered ones leave it; one-shot ones are disarmed.
    pub fn set_collect(&mut self, set: SetId, out: &mut [Ready]) -> usize {
        let st = self.st;
        let owner = st.sets.at(set);
        let mut n = 0;
        let mut todo = owner.ready_len.load(Relaxed).min(st.limits().items);
        while todo > 0 && n < out.len() {
            todo -= 1;
            let Some(id) = owner.ready.get().opt() else {
                break;
            };
            self.unqueue_ready(id);
            let item = st.items.at(id);
            let mode = item.mode.get();
            let Some(sock) = item.sock.get().opt() else {
                continue;
            };
            if mode & imode::DISARMED != 0 {
                continue;
            }
            let wanted = item.events.get() | ev::ERR | ev::HUP;
            let events = st.want_space_notice(sock, wanted) & wanted;
            if events == 0 {
                continue;
            }
            if let Some(slot) = out.get_mut(n) {
                *slot = Ready {
                    item: id,
                    data: item.data.get(),
                    events,
                };
                n += 1;
            }
            if mode & imode::ONESHOT != 0 {
                item.mode.set(mode | imode::DISARMED);
            } else if mode & imode::EDGE == 0 {
                self.queue_ready(id);
            }
        }
        n
    }

    fn queue_ready(&mut self, id: ItemId) {
        let st = self.st;
        let item = st.items.at(id);
        if item.queued.get() != 0 || item.mode.get() & imode::DISARMED != 0 {
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

    fn unqueue_ready(&mut self, id: ItemId) {
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

    /// Tells everybody who watches the socket that `events` happened.
    pub(crate) fn raise(&mut self, sock: SockId, events: u32) {
        let st = self.st;
        let mut cur = st.sock(sock).items.get().opt();
        let mut guard = st.limits().items;
        let mut exclusive_done = false;
        while let Some(id) = cur {
            if guard == 0 {
                let _: u64 = st.state.stats.corrupt.fetch_add(1, Relaxed);
                return;
            }
            guard -= 1;
            let item = st.items.at(id);
            cur = item.sock_next.get().opt();
            if events & (item.events.get() | ev::ERR | ev::HUP) == 0 {
                continue;
            }
            let exclusive = item.mode.get() & imode::EXCLUSIVE != 0;
            self.queue_ready(id);
            if exclusive && exclusive_done {
                continue;
            }
            if let Some(set) = item.set.get().opt()
                && self.wake_one(set)
                && exclusive
            {
                exclusive_done = true;
            }
        }
    }

    /// The kernel socket behind an endpoint has something to read or to accept: the keeper's epoll set says so.
    pub fn os_event(&mut self, r: crate::sock::SockRef) {
        if let Some(s) = self.st.get(r) {
            s.os_ready.store(1, Release);
            self.raise(r.id, ev::IN | ev::RDNORM);
        }
    }

    /// Wakes one sleeper of the set; false when nobody sleeps there.
    fn wake_one(&mut self, set: SetId) -> bool {
        let st = self.st;
        let owner = st.sets.at(set);
        let Some(w) = owner.waiters.get().opt() else {
            return false;
        };
        let waiter = st.waiters.at(w);
        owner.waiters.set(waiter.next.get());
        waiter.next.set(OptIdx::NONE);
        waiter.set.set(OptIdx::NONE);
        self.wake_waiter(w);
        true
    }

    fn wake_waiter(&mut self, w: WaiterId) {
        let st = self.st;
        if st.waiters.at(w).state.swap(wstate::WOKEN, Release) == wstate::ASLEEP {
            let _: u64 = st.state.stats.wakes.fetch_add(1, Relaxed);
            self.env.fx.push(Effect::Wake(w));
        }
    }

    /// A waiter for the calling thread. It keeps it as long as it lives.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] when all are in use.
    pub fn waiter_alloc(&mut self) -> Result<WaiterId, Error> {
        let st = self.st;
        let tag = u32::from(self.env.me) + 1;
        let id = st
            .state
            .waiter_slots
            .alloc(st.waiters, tag)
            .ok_or(Error::NoBuffers)?;
        let w = st.waiters.at(id);
        w.state.store(wstate::AWAKE, Release);
        w.owner.set(u32::from(self.env.me));
        w.next.set(OptIdx::NONE);
        w.set.set(OptIdx::NONE);
        w.leader.set(0);
        w.following.set(0);
        Ok(id)
    }

    /// Gives a waiter back.
    pub fn waiter_free(&mut self, w: WaiterId) {
        self.leave(w);
        let _: bool = self.st.state.waiter_slots.free(self.st.waiters, w);
    }

    /// Announces that the thread of `w` is about to sleep until something in `set` is ready.
    pub fn wait_begin(&mut self, set: SetId, w: WaiterId) -> Wait {
        let st = self.st;
        let owner = st.sets.at(set);
        if owner.ready_len.load(Relaxed) != 0 {
            return Wait::Ready;
        }
        let waiter = st.waiters.at(w);
        waiter.set.set(set.into());
        waiter.next.set(owner.waiters.get());
        owner.waiters.set(w.into());
        waiter.state.store(wstate::ASLEEP, Release);
        let leader = st.state.leaders.load(Relaxed) < MAX_LEADERS;
        if leader {
            waiter.leader.set(1);
            let _: u32 = st.state.leaders.fetch_add(1, Relaxed);
        } else if waiter.following.get() == 0 {
            waiter.following.set(1);
            waiter.fnext.set(st.state.followers.get());
            st.state.followers.set(w.into());
        }
        Wait::Sleep { leader }
    }

    /// The thread of `w` is awake and about to poll: events that it raises itself need no wake.
    pub fn wait_awake(&mut self, w: WaiterId) {
        self.st.waiters.at(w).state.store(wstate::AWAKE, Release);
    }

    /// The thread of `w` is awake again. When it was the last that watched the V-NICs, a follower is promoted.
    pub fn wait_end(&mut self, w: WaiterId) {
        self.leave(w);
    }

    fn leave(&mut self, w: WaiterId) {
        let st = self.st;
        let waiter = st.waiters.at(w);
        waiter.state.store(wstate::AWAKE, Release);
        if let Some(set) = waiter.set.get().opt() {
            unlink_waiter(st, set, w);
            waiter.set.set(OptIdx::NONE);
        }
        if waiter.following.get() != 0 {
            waiter.following.set(0);
            unlink_follower(st, w);
        }
        if waiter.leader.get() != 0 {
            waiter.leader.set(0);
            let left = st.state.leaders.load(Relaxed).saturating_sub(1);
            st.state.leaders.store(left, Relaxed);
            if left == 0
                && let Some(f) = st.state.followers.get().opt()
            {
                let next = st.waiters.at(f);
                st.state.followers.set(next.fnext.get());
                next.following.set(0);
                let _: u64 = st.state.stats.promotions.fetch_add(1, Relaxed);
                self.wake_waiter(f);
            }
        }
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

fn unlink_waiter(st: Stack<'_>, set: SetId, w: WaiterId) {
    let owner = st.sets.at(set);
    let mut cur = owner.waiters.get().opt();
    if cur == Some(w) {
        owner.waiters.set(st.waiters.at(w).next.get());
        return;
    }
    let mut guard = st.limits().waiters;
    while let Some(i) = cur {
        if guard == 0 {
            return;
        }
        guard -= 1;
        let next = st.waiters.at(i).next.get();
        if next.opt() == Some(w) {
            st.waiters.at(i).next.set(st.waiters.at(w).next.get());
            return;
        }
        cur = next.opt();
    }
}

fn unlink_follower(st: Stack<'_>, w: WaiterId) {
    let mut cur = st.state.followers.get().opt();
    if cur == Some(w) {
        st.state.followers.set(st.waiters.at(w).fnext.get());
        return;
    }
    let mut guard = st.limits().waiters;
    while let Some(i) = cur {
        if guard == 0 {
            return;
        }
        guard -= 1;
        let next = st.waiters.at(i).fnext.get();
        if next.opt() == Some(w) {
            st.waiters.at(i).fnext.set(st.waiters.at(w).fnext.get());
            return;
        }
        cur = next.opt();
    }
}
