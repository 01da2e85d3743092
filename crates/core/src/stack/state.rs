//! The root object of a stack's memory: lock, clocks, list heads, free lists, counters.

use super::stats::Stats;
use super::wake::Waiter;
use crate::sock::Sock;
use flyover_shm::{OptIdx, Shared32, Shared64, SharedCell, Slots, StackLock, shm_struct};

shm_struct! {
    /// The root of a stack. Zero bytes mean "not initialised".
    pub struct StackState {
        /// [`super::MAGIC`] once the keeper has initialised the stack; for people and tools only.
        pub magic: Shared64,
        /// Layout hash; for people and tools only.
        pub hash: Shared64,
        /// The one lock.
        pub lock: StackLock,
        /// When somebody last polled, ns.
        pub attended: Shared64,
        /// Counts polls.
        pub poll_seq: Shared64,
        /// Earliest timer, ns; 0 is none. Published at unlock.
        pub next_deadline: Shared64,
        /// Until when the keeper sleeps, ns; `u64::MAX` is "until a packet comes", 0 is "it does not sleep".
        pub keeper_sleep: Shared64,
        /// The stack's time: the latest at which somebody held the lock, ns.
        pub clock: SharedCell<u64>,
        /// Counts the daemons that took the stack over from one that died.
        pub daemons: Shared64,
        /// Counts changes of the set of V-NICs.
        pub nic_gen: Shared32,
        /// Threads that sleep on the V-NICs' descriptors.
        pub leaders: Shared32,
        /// Secrets: demultiplexer hash (0, 1), initial sequence numbers (2, 3).
        pub secret: [SharedCell<u64>; 4],
        /// Intent: what the lock holder was changing (1 + slot), for recovery; 0 is nothing.
        pub intent: Shared32,
        /// Head of the lock-free list of sockets with deferred work: 1 + slot; 0 is empty.
        pub deferred: Shared32,
        /// First socket to look at after the batch.
        pub post_head: SharedCell<OptIdx<Sock>>,
        /// Last one.
        pub post_tail: SharedCell<OptIdx<Sock>>,
        /// Oldest TIME_WAIT socket.
        pub tw_head: SharedCell<OptIdx<Sock>>,
        /// Youngest one.
        pub tw_tail: SharedCell<OptIdx<Sock>>,
        /// First sleeping follower.
        pub followers: SharedCell<OptIdx<Waiter>>,
        /// Rotates the V-NIC that is polled first.
        pub rotor: SharedCell<u32>,
        /// Buffers in use.
        pub bufs_used: Shared32,
        /// Sockets in use.
        pub socks_used: Shared32,
        /// Identification field of IPv4 packets that may be fragmented.
        pub ip_id: SharedCell<u32>,
        /// 1 while new sockets are to stay with the kernel, by order of an administrator.
        pub off: Shared32,
        /// What the lock's holder took off that list and has not done yet, in order: 1 + slot; 0 is empty.
        pub todo: SharedCell<u64>,
        /// Number of the lease of local ports (`tcp/user/lease.rs`).
        pub lease: Shared64,
        /// When somebody connected from a lent port last, ns; 0: never.
        pub lease_used: SharedCell<u64>,
        /// Connections from lent ports; the next one begins to look here.
        pub lease_turn: SharedCell<u64>,
        /// Ports from which the kernel has got connections, a bit for each.
        pub spent: [SharedCell<u64>; crate::tcp::user::lease::PORT_WORDS],
        /// Whether the keeper hears of the end of kernel sockets (`ends.rs`).
        pub reports: Shared64,
        /// A bit for each owner whose sockets others may hold, too.
        pub sharing: [Shared64; super::ends::SHARERS],
        /// Wheel: next tick to be handled.
        pub wheel_tick: SharedCell<u64>,
        /// Wheel: nothing fires before, ns; 0 is "empty".
        pub wheel_min: SharedCell<u64>,
        /// Wheel: occupied slots.
        pub wheel_bits: [SharedCell<u64>; 16],
        /// Wheel: first socket of each slot.
        pub wheel: [SharedCell<OptIdx<Sock>>; 1024],
        /// Free sockets.
        pub sock_slots: Slots,
        /// Free buffers.
        pub buf_slots: Slots,
        /// Free buffers that large writes have used.
        pub bulk: super::bulk::Bulk,
        /// Free items.
        pub item_slots: Slots,
        /// Free sets.
        pub set_slots: Slots,
        /// Free waiters.
        pub waiter_slots: Slots,
        /// Counters.
        pub stats: Stats,
        /// Cookies of kernel sockets that ended, which the keeper has not looked into yet; 0 is none.
        pub deaths: [Shared64; super::heirloom::NOTES],
    }
}
