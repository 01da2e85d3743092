//! What the library knows about one file descriptor, packed in one 64-bit word so that it is read without a lock.
//!
//! ```text
//!  63            36 35          12 11      4 3   0
//! +----------------+--------------+---------+-----+
//! | generation     | socket index | detail  | tag |
//! +----------------+--------------+---------+-----+
//! ```
//! The word 0 is [`Entry::Unknown`], so a table of zeroed memory is a valid empty table.

use flyover_core::{SockId, SockRef};

/// Generations are compared modulo 2^28: a slot would have to be re-used 268 million times between two calls.
const GEN_BITS: u32 = 28;
const GEN_MASK: u64 = (1 << GEN_BITS) - 1;
const SOCK_MASK: u64 = (1 << 24) - 1;

const TAG_UNKNOWN: u64 = 0;
const TAG_KERNEL: u64 = 1;
const TAG_FRESH: u64 = 2;
const TAG_TCP: u64 = 3;
const TAG_UDP: u64 = 4;
const TAG_EPOLL: u64 = 5;
const TAG_CLOSING: u64 = 6;
const TAG_OURS: u64 = 7;
const TAG_YOUNG: u64 = 8;

/// An inet socket made by this process that has no endpoint yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fresh {
    /// `AF_INET6`.
    pub v6: bool,
    /// `SOCK_DGRAM` (else `SOCK_STREAM`).
    pub dgram: bool,
    /// A socket option was set, so the endpoint must copy them from the kernel socket.
    pub opts: bool,
    /// The fd is a member of an epoll set that we watch.
    pub in_epoll: bool,
    /// Was connected from a port that the kernel chose, which is given back: the local address is no one's any more.
    pub unbound: bool,
    /// What was left of a connection that was broken off (`connect` to `AF_UNSPEC`, `shutdown` during the handshake):
    /// the next call that fetches an error gets this errno; 0 is none.
    pub error: u8,
    /// Directions that were shut down: Linux keeps that across a later `connect`.
    pub shut: u8,
}

/// A connection within this host that the kernel has and that has moved next to nothing yet: the stack does not know of it
/// (`local/young.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Young {
    /// `AF_INET6`.
    pub v6: bool,
    /// The program was told that it is connected.
    pub seen: bool,
    /// It stays with the kernel: nothing is counted any more.
    pub stays: bool,
    /// The fd is a member of an epoll set that we watch.
    pub in_epoll: bool,
    /// Calls that are inside the kernel.
    pub inside: u8,
    /// Calls that came back; 3 bits.
    pub calls: u8,
    /// Tells it from another one under the same number; 28 bits.
    pub nonce: u32,
}

impl Young {
    /// What `calls` counts up to.
    pub const MOST_CALLS: u8 = 7;
}

/// An accelerated socket: which slot, and which life of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    /// The slot.
    pub id: SockId,
    /// Low 28 bits of the slot's generation.
    pub generation: u32,
    /// `AF_INET6` socket: addresses are shown as `sockaddr_in6`.
    pub v6: bool,
}

impl Handle {
    /// The handle of a socket of the stack.
    pub fn new(sock: SockRef, v6: bool) -> Self {
        Self {
            id: sock.id,
            generation: (u64::from(sock.generation) & GEN_MASK) as u32,
            v6,
        }
    }

    /// True when `generation` (from the slot) is the life that this handle means.
    #[inline]
    pub fn is_life(self, generation: u32) -> bool {
        u64::from(generation) & GEN_MASK == u64::from(self.generation)
    }
}

/// The state of one descriptor number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Never looked at, or changed behind our back: probe on first use.
    Unknown,
    /// Belongs to the kernel alone; the reason is a `policy::Reason` code (0: not an inet socket).
    Kernel(u8),
    /// An inet socket without an endpoint.
    Fresh(Fresh),
    /// A connection of the kernel's within this host, at its beginning.
    Young(Young),
    /// An accelerated TCP socket.
    Tcp(Handle),
    /// An accelerated UDP socket.
    Udp(Handle),
    /// An epoll descriptor; index in the table of epoll sets.
    Epoll(u32),
    /// Being closed by another thread. Calls go to the kernel, which gives the right answer.
    Closing,
    /// One of the library's own descriptors: the application must not close it.
    Ours,
}

/// The packed word of "kernel, no reason": the commonest entry, compared on the fast path.
pub const KERNEL_WORD: u64 = TAG_KERNEL;

/// The packed word of "nobody has looked".
pub const UNKNOWN_WORD: u64 = TAG_UNKNOWN;

/// True for every word that says "the kernel's, pass the call on".
#[inline(always)]
pub const fn word_is_kernel(word: u64) -> bool {
    word & 0xf == TAG_KERNEL
}

impl Entry {
    /// Packs the entry.
    pub fn pack(self) -> u64 {
        match self {
            Self::Unknown => TAG_UNKNOWN,
            Self::Kernel(reason) => TAG_KERNEL | (u64::from(reason) << 4),
            Self::Fresh(f) => {
                let bits = u64::from(f.v6)
                    | (u64::from(f.dgram) << 1)
                    | (u64::from(f.opts) << 2)
                    | (u64::from(f.in_epoll) << 3)
                    | (u64::from(f.unbound) << 4)
                    | (u64::from(f.error) << 8)
                    | (u64::from(f.shut & 3) << 16);
                TAG_FRESH | (bits << 4)
            }
            Self::Young(y) => {
                let bits = u64::from(y.v6)
                    | (u64::from(y.seen) << 1)
                    | (u64::from(y.stays) << 2)
                    | (u64::from(y.in_epoll) << 3);
                TAG_YOUNG
                    | (bits << 4)
                    | (u64::from(y.inside) << 12)
                    | (u64::from(y.calls & Young::MOST_CALLS) << 20)
                    | ((u64::from(y.nonce) & GEN_MASK) << 36)
            }
            Self::Tcp(h) => TAG_TCP | pack_handle(h),
            Self::Udp(h) => TAG_UDP | pack_handle(h),
            Self::Epoll(i) => TAG_EPOLL | ((u64::from(i) & SOCK_MASK) << 12),
            Self::Closing => TAG_CLOSING,
            Self::Ours => TAG_OURS,
        }
    }

    /// Unpacks a word; total.
    #[inline]
    pub fn unpack(word: u64) -> Self {
        let detail = (word >> 4) & 0xff;
        match word & 0xf {
            TAG_KERNEL => Self::Kernel(detail as u8),
            TAG_FRESH => Self::Fresh(Fresh {
                v6: detail & 1 != 0,
                dgram: detail & 2 != 0,
                opts: detail & 4 != 0,
                in_epoll: detail & 8 != 0,
                unbound: detail & 16 != 0,
                error: (word >> 12) as u8,
                shut: (word >> 20) as u8 & 3,
            }),
            TAG_YOUNG => Self::Young(Young {
                v6: detail & 1 != 0,
                seen: detail & 2 != 0,
                stays: detail & 4 != 0,
                in_epoll: detail & 8 != 0,
                inside: (word >> 12) as u8,
                calls: (word >> 20) as u8 & Young::MOST_CALLS,
                nonce: (word >> 36) as u32,
            }),
            TAG_TCP => Self::Tcp(unpack_handle(word)),
            TAG_UDP => Self::Udp(unpack_handle(word)),
            TAG_EPOLL => Self::Epoll(((word >> 12) & SOCK_MASK) as u32),
            TAG_CLOSING => Self::Closing,
            TAG_OURS => Self::Ours,
            _ => Self::Unknown,
        }
    }
}

/// The handle in the word of an accelerated TCP socket.
#[inline]
pub fn tcp_handle(word: u64) -> Option<Handle> {
    (word & 0xf == TAG_TCP).then(|| unpack_handle(word))
}

fn pack_handle(h: Handle) -> u64 {
    (u64::from(h.v6) << 4)
        | ((u64::from(h.id.raw()) & SOCK_MASK) << 12)
        | ((u64::from(h.generation) & GEN_MASK) << 36)
}

#[inline]
fn unpack_handle(word: u64) -> Handle {
    Handle {
        id: SockId::new(((word >> 12) & SOCK_MASK) as u32),
        generation: (word >> 36) as u32,
        v6: word & 0x10 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_survives_packing() {
        let h = Handle {
            id: SockId::new(0xabcdef),
            generation: 0x0fff_fff1,
            v6: true,
        };
        let fresh = Fresh {
            v6: true,
            dgram: false,
            opts: true,
            in_epoll: true,
            unbound: true,
            error: 104,
            shut: 2,
        };
        let young = Young {
            v6: true,
            seen: false,
            stays: true,
            in_epoll: true,
            inside: 255,
            calls: 7,
            nonce: 0x0fff_fff2,
        };
        for e in [
            Entry::Young(young),
            Entry::Unknown,
            Entry::Kernel(17),
            Entry::Fresh(fresh),
            Entry::Tcp(h),
            Entry::Udp(h),
            Entry::Epoll(77),
            Entry::Closing,
            Entry::Ours,
        ] {
            assert_eq!(Entry::unpack(e.pack()), e);
        }
        assert_eq!(Entry::unpack(0), Entry::Unknown);
        assert!(word_is_kernel(Entry::Kernel(3).pack()));
        assert!(!word_is_kernel(Entry::Young(young).pack()));
    }
}
