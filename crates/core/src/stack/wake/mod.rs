//! Who waits for what: ready sets, memberships and sleepers. All of it under the stack lock.
//!
//! A [`Set`] is an epoll set, or the private set of one thread that blocks in one call. An [`Item`] is the
//! membership of one socket in one set. A [`Waiter`] is one sleeping thread. An event on a socket puts its items on
//! their sets' ready lists and wakes one waiter of each set; collecting costs O(ready).
//!
//! | file | what |
//! |---|---|
//! | `objects.rs` | the three objects as they lie in the stack's memory |
//! | `sets.rs` | sets, memberships, ready lists |
//! | `away.rs` | members that the kernel's sets have for the time being |
//! | `holders.rs` | the processes that hold a set |
//! | `waiters.rs` | threads that sleep, and which of them watch the V-NICs |

mod away;
mod holders;
mod objects;
mod sets;
mod waiters;

pub use away::Changed;
pub use objects::{
    Bell, Item, ItemId, ItemMode, Ready, Set, SetId, Wait, Waiter, WaiterId, imode, wstate,
};
pub use sets::Settled;

use super::locked::Locked;
use crate::effects::Effect;
use crate::sock::{OS_ERROR, SockId, flag};
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::OptIdx;

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
    /// Not a bit of `poll(2)`: the state changed, everybody is to look (`sk_state_change` in Linux).
    pub const STATE: u32 = 1 << 30;
    /// What `sk_data_ready` says in Linux: an edge for whoever asked for any of these.
    pub const DATA: u32 = IN | PRI | RDNORM | RDBAND;
    /// What `sk_write_space` says in Linux.
    pub const SPACE: u32 = OUT | WRNORM | WRBAND;
    /// The peer shut down its sending direction.
    pub const RDHUP: u32 = 0x2000;
    /// Every one of them.
    pub const ALL: u32 = IN | PRI | OUT | ERR | HUP | RDNORM | RDBAND | WRNORM | WRBAND | RDHUP;
    /// Not a bit of `poll(2)`: the kernel has the socket now, the membership has to move there.
    pub const MOVED: u32 = 1 << 31;
    /// Not a bit of `poll(2)`: the socket came back from the kernel, and its membership is to follow.
    pub const BACK: u32 = 1 << 29;
}

impl Locked<'_, '_, '_> {
    /// Tells everybody who watches the socket that `events` happened. A change of state (established, error,
    /// hang-up, FIN) concerns all; of the exclusive members for data or room only the first that has a sleeper is woken, as the
    /// kernel's wait queues do it.
    pub(crate) fn raise(&mut self, sock: SockId, events: u32) {
        let all = events & (ev::ERR | ev::HUP | ev::RDHUP | ev::STATE | ev::BACK) != 0;
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
            // `all`: the kernel's state changes carry no key, they count for every member, whatever it asked for.
            if !all && events & item.events.get() == 0 {
                continue;
            }
            let away = item.mode.get() & imode::AWAY != 0;
            if away && st.sock(sock).has(flag::HANDED_OVER) {
                continue;
            }
            if item.mode.get() & imode::DISARMED != 0 && !away {
                continue;
            }
            let exclusive = !all && item.mode.get() & imode::EXCLUSIVE != 0;
            if exclusive && exclusive_done {
                continue;
            }
            self.queue_ready(id);
            let Some(set) = item.set.get().opt() else {
                continue;
            };
            if events == ev::BACK {
                // Nothing happened of which a set's sleepers, or the sets around it, are to hear.
                if item.mode.get() & imode::PRIVATE != 0 {
                    let _: bool = self.wake_sleeper(set);
                }
                continue;
            }
            if away {
                item.mode.set(item.mode.get() | imode::NEWS);
            }
            exclusive_done |= self.wake_one(set) && exclusive;
        }
    }

    /// The bytes of a socket that came back are news for those of its members that are on their way: [`imode::NEWS`].
    pub(crate) fn note_news(&mut self, sock: SockId) {
        let st = self.st;
        let mut cur = st.sock(sock).items.get().opt();
        let mut guard = st.limits().items;
        while let Some(id) = cur.filter(|_| guard > 0) {
            guard -= 1;
            let item = st.items.at(id);
            cur = item.sock_next.get().opt();
            if item.mode.get() & imode::AWAY != 0 && item.events.get() & ev::DATA != 0 {
                item.mode.set(item.mode.get() | imode::NEWS);
            }
        }
    }

    /// A thread that was woken for a wait of its own, exclusive as in `accept` and `recv`, has done its part and left
    /// something: the next one's turn.
    pub fn pass_on(&mut self, r: crate::sock::SockRef, events: u32) {
        let st = self.st;
        let Some(s) = st.get(r) else { return };
        let left = st.readiness(r.id) & events;
        let mut cur = s.items.get().opt();
        let mut guard = st.limits().items;
        while let Some(id) = cur {
            if guard == 0 || left == 0 {
                return;
            }
            guard -= 1;
            let item = st.items.at(id);
            cur = item.sock_next.get().opt();
            let blocked = item.mode.get() & (imode::PRIVATE | imode::EXCLUSIVE);
            if blocked != imode::PRIVATE | imode::EXCLUSIVE || left & item.events.get() == 0 {
                continue;
            }
            self.queue_ready(id);
            if item.set.get().opt().is_some_and(|set| self.wake_one(set)) {
                return;
            }
        }
    }

    /// Wakes one sleeper of the set: it is to look for itself.
    pub fn set_wake(&mut self, set: SetId) {
        let _: bool = self.wake_one(set);
    }

    /// The kernel socket behind an endpoint has something to read or to accept ([`crate::sock::OS_DATA`]), or an error
    /// ([`OS_ERROR`]): the keeper's epoll set says so.
    pub fn os_event(&mut self, r: crate::sock::SockRef, what: u32) {
        if let Some(s) = self.st.get(r) {
            let _: u32 = s.os_ready.fetch_or(what, Release);
            let error = if what & OS_ERROR != 0 { ev::ERR } else { 0 };
            self.raise(r.id, ev::DATA | error);
        }
    }

    /// Wakes one sleeper of the set; false when nobody sleeps there.
    pub(super) fn wake_one(&mut self, set: SetId) -> bool {
        self.tell_mirror(set);
        self.wake_sleeper(set)
    }

    fn wake_sleeper(&mut self, set: SetId) -> bool {
        let st = self.st;
        let owner = st.sets.at(set);
        let Some(w) = owner.waiters.get().opt() else {
            return false;
        };
        let waiter = st.waiters.at(w);
        owner.waiters.set(waiter.next.get());
        waiter.next.set(OptIdx::NONE);
        waiter.set.set(OptIdx::NONE);
        let _: bool = self.wake_waiter(w);
        true
    }

    /// The set's mirror hears that something may be ready, unless it was told already.
    pub(super) fn tell_mirror(&mut self, set: SetId) {
        let owner = self.st.sets.at(set);
        if let Some(m) = owner.mirror.get().opt()
            && self.wake_waiter(m)
        {
            let told = owner.told.load(Relaxed);
            owner.told.store(told.saturating_add(1), Release);
        }
    }

    /// False when it was awake, or woken, already.
    pub(super) fn wake_waiter(&mut self, w: WaiterId) -> bool {
        let st = self.st;
        if st.waiters.at(w).state.swap(wstate::WOKEN, Release) != wstate::ASLEEP {
            return false;
        }
        let _: u64 = st.state.stats.wakes.fetch_add(1, Relaxed);
        self.env.fx.push(Effect::Wake(w));
        true
    }
}
