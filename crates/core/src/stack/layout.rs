//! Where everything lies in a stack's memory: computed from private numbers, never read from the memory itself.

use super::buf::{BUF_SIZE, Buf};
use super::state::StackState;
use super::wake::{Item, Set, Waiter};
use crate::sock::Sock;
use crate::sock::net::Net;
use crate::tcp::flight::Table;
use flyover_config::StackOpts;
use flyover_shm::Object;
use flyover_vnic::NicState;

/// V-NICs that a stack may have.
pub const NICS: u32 = 16;

/// Table sizes, all powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Socket slots.
    pub socks: u32,
    /// Data buffers.
    pub bufs: u32,
    /// Memberships.
    pub items: u32,
    /// Ready sets.
    pub sets: u32,
    /// Sleeping threads.
    pub waiters: u32,
    /// Demultiplexer buckets.
    pub buckets: u32,
}

/// Offsets in bytes from the start of the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Sizes.
    pub limits: Limits,
    /// [`StackState`].
    pub state: usize,
    /// V-NIC states.
    pub nics: usize,
    /// Bucket heads: connections, then listeners, then UDP.
    pub buckets: usize,
    /// Sockets.
    pub socks: usize,
    /// Second parts of those of the network.
    pub nets: usize,
    /// What each socket has in flight.
    pub flights: usize,
    /// Buffer descriptions.
    pub bufs: usize,
    /// Memberships.
    pub items: usize,
    /// Sets.
    pub sets: usize,
    /// Waiters.
    pub waiters: usize,
    /// Buffer bytes.
    pub data: usize,
    /// Bytes in all.
    pub len: usize,
}

/// Changes whenever an object of the shared memory changes its shape.
pub const LAYOUT_HASH: u64 = mix(
    mix(
        mix(
            mix(
                mix(
                    mix(
                        mix(
                            mix(mix(StackState::HASH, Sock::HASH), Net::HASH),
                            Table::HASH,
                        ),
                        Buf::HASH,
                    ),
                    Item::HASH,
                ),
                Set::HASH,
            ),
            Waiter::HASH,
        ),
        NicState::HASH,
    ),
    BUF_SIZE as u64,
);

const fn mix(a: u64, b: u64) -> u64 {
    (a.rotate_left(13) ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

const fn pow2(n: u32, lo: u32, hi: u32) -> u32 {
    let n = if n < lo {
        lo
    } else if n > hi {
        hi
    } else {
        n
    };
    n.next_power_of_two()
}

impl Layout {
    /// The layout for these options.
    pub fn new(o: &StackOpts) -> Self {
        let socks = pow2(o.max_sockets, 64, 1 << 20);
        let limits = Limits {
            socks,
            bufs: pow2(o.buffers, 256, 1 << 20),
            items: pow2(o.max_items, 64, 1 << 21),
            sets: pow2(o.max_sets, 16, 1 << 17),
            waiters: pow2(o.max_waiters, 16, 1 << 17),
            buckets: socks.max(256),
        };
        let mut at = 0usize;
        let mut take = |bytes: usize, align: usize| {
            at = at.div_ceil(align) * align;
            let here = at;
            at += bytes;
            here
        };
        let n = |count: u32, size: usize| count as usize * size;
        let state = take(size_of::<StackState>(), 4096);
        let nics = take(n(NICS, size_of::<NicState>()), 4096);
        let buckets = take(n(limits.buckets, 4 * 3), 4096);
        let socks = take(n(limits.socks, size_of::<Sock>()), 4096);
        let nets = take(n(limits.socks, size_of::<Net>()), 4096);
        let flights = take(n(limits.socks, size_of::<Table>()), 4096);
        let bufs = take(n(limits.bufs, size_of::<Buf>()), 4096);
        let items = take(n(limits.items, size_of::<Item>()), 4096);
        let sets = take(n(limits.sets, size_of::<Set>()), 4096);
        let waiters = take(n(limits.waiters, size_of::<Waiter>()), 4096);
        let data = take(n(limits.bufs, BUF_SIZE), 4096);
        let len = take(0, 4096);
        Self {
            limits,
            state,
            nics,
            buckets,
            socks,
            nets,
            flights,
            bufs,
            items,
            sets,
            waiters,
            data,
            len,
        }
    }
}

/// Bytes of memory that a stack with these options needs.
pub fn layout_len(o: &StackOpts) -> u64 {
    Layout::new(o).len as u64
}
