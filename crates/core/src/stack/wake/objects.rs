//! What lies in the stack's memory for waiting: sets, memberships, sleepers.

use crate::sock::Sock;
use flyover_shm::{Idx, OptIdx, Shared32, SharedCell, SlotHdr, SlotObject, shm_struct};

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
        /// The waiter that stands for the set where it is a member itself: its wake socket is readable while something
        /// may be ready.
        pub mirror: SharedCell<OptIdx<Waiter>>,
        /// Counts the lives of the slot.
        pub life: SharedCell<u32>,
        /// Messages that the mirror was sent and nobody has read yet; may be read without the lock.
        pub told: Shared32,
        /// Holders besides the one that the tag names.
        pub others: SharedCell<u32>,
        /// Those, one bit for each owner slot; all 0 while `others` is.
        pub holders: [SharedCell<u64>; HOLDER_WORDS],
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
        /// Events asked for; [`super::ev::ERR`] and [`super::ev::HUP`] are always meant.
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
        /// The eventfd that wakes it as well: its number in the process, ..
        pub bell: SharedCell<u32>,
        /// .. the process, ..
        pub bell_pid: SharedCell<u32>,
        /// .. and the kernel's number of it; 0: there is none.
        pub bell_id: SharedCell<u32>,
    }
}

/// An eventfd that wakes a sleeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bell {
    /// Process.
    pub pid: i32,
    /// Descriptor there.
    pub fd: i32,
    /// The kernel's number of it.
    pub id: u32,
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

/// Words of [`Set::holders`]: a bit for every owner slot that there can be.
pub const HOLDER_WORDS: usize = 64;

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
    /// A thread that blocks on the socket, not an epoll set.
    pub const PRIVATE: u32 = 16;
    /// The kernel's set has the member while the kernel has its socket.
    pub const AWAY: u32 = 32;
    /// The socket of such a member came back, and something happened since; or the program asked for what is ready.
    pub const NEWS: u32 = 64;
    /// Somebody just moves it between the kernel's set and the stack's.
    pub const MOVING: u32 = 128;
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
    /// A sleeping thread's own set, for one call.
    pub private: bool,
    /// What is ready already is no event.
    pub quiet: bool,
    /// The kernel's set has it, while the kernel has the socket.
    pub away: bool,
}

impl ItemMode {
    pub(super) fn bits(self) -> u32 {
        let bit = |on: bool, b: u32| if on { b } else { 0 };
        bit(self.edge, imode::EDGE)
            | bit(self.oneshot, imode::ONESHOT)
            | bit(self.exclusive, imode::EXCLUSIVE)
            | bit(self.private, imode::PRIVATE)
            | bit(self.away, imode::AWAY)
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
