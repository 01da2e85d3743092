//! A socket slot: what every endpoint has. What only one has whose packets go through a V-NIC is beside it, in [`net::Net`].
//!
//! Who may touch what: fields of type `Shared32`/`Shared64` may be read without the stack lock (readiness, `ss`);
//! `rq_head`, `rq_rd` and `rq_out` belong to the holder of the socket's receive lock (`rlock`); `rq_in`, `rq_tail`, `rq_seen`,
//! `rq_fill`, `rq_first`, `rq_past`, `rq_chain` and `rq_used` of one end of a pair belong to the holder of its producer's lock
//! (`plock`); `rq_keep` changes from or to 0 only under both, or in an empty queue; every other cell belongs to the holder of the stack lock.

pub mod flag;
pub mod net;
pub mod opts;
pub mod ready;
pub mod recvq;
pub mod sendq;
pub mod slot;
pub(crate) mod supply;

use crate::stack::buf::Buf;
use crate::stack::wake::Item;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use flyover_shm::{HalfCell, Idx, OptIdx, Shared32, Shared64, SharedCell, SlotHdr, shm_struct};
use flyover_wire::{Endpoint, Ip};

shm_struct! {
    /// One socket slot. Zero bytes are a free slot.
    pub struct Sock {
        /// Free-list link and owner tag.
        pub hdr: SlotHdr,
        /// Deferred-work list: next (lock-free).
        pub dnext: Shared32,
        /// Deferred work bits (lock-free).
        pub dbits: Shared32,
        /// Counts re-uses of the slot, so that a stale [`SockRef`] is noticed.
        pub gen_: Shared32,
        /// Post-poll list: next. Not cleared with the slot: a socket may be freed, and its slot taken again, while it is
        /// on the list.
        pub pnext: SharedCell<OptIdx<Sock>>,
        /// 1 while on the post-poll list.
        pub pqueued: HalfCell,
        /// 1 when the second part is in use ([`Sock::is_net`]).
        pub has_net: HalfCell,
        /// [`urg`] bits. They change under the stack lock, but for [`urg::TAKEN`].
        pub urg: Shared32,
        /// RCV.UP; of a pair's end, its place in the stream. Meaningful with [`urg::ANNOUNCED`].
        pub rcv_up: SharedCell<u32>,
        /// Stream position (receive-queue count) of the urgent mark, meaningful with [`urg::HERE`].
        pub urg_mark: SharedCell<u32>,
        /// Timer wheel: previous.
        pub tprev: SharedCell<OptIdx<Sock>>,
        /// Timer wheel: next.
        pub tnext: SharedCell<OptIdx<Sock>>,
        /// Timer wheel: tick at which it fires.
        pub ttick: SharedCell<u64>,
        /// Timer wheel: 1 + slot the socket hangs in; 0 when it is not on the wheel.
        pub tslot: HalfCell,
        /// 1 + index of the V-NIC that carries the connection; 0 is none.
        pub nic: HalfCell,
        /// Filter handle of the daemon; 0 is none.
        pub filter: SharedCell<u32>,

        // Names, and the lists that the socket is in.
        /// Local address, high half.
        pub local_hi: SharedCell<u64>,
        /// Local address, low half.
        pub local_lo: SharedCell<u64>,
        /// Remote address, high half.
        pub remote_hi: SharedCell<u64>,
        /// Remote address, low half.
        pub remote_lo: SharedCell<u64>,
        /// Local port, host order.
        pub lport: SharedCell<u32>,
        /// Remote port, host order; 0 when unconnected.
        pub rport: SharedCell<u32>,

        /// Next socket in the same demultiplexer bucket.
        pub hnext: SharedCell<OptIdx<Sock>>,
        /// The child's next sibling in the accept queue.
        pub acc_next: SharedCell<OptIdx<Sock>>,
        /// The listener that made this child.
        pub parent: SharedCell<OptIdx<Sock>>,
        /// The listener's generation at that time.
        pub parent_gen: SharedCell<u32>,
        /// TIME_WAIT list: next.
        pub tw_next: SharedCell<OptIdx<Sock>>,
        /// TIME_WAIT list: previous.
        pub tw_prev: SharedCell<OptIdx<Sock>>,

        // Receive queue, the producer's share: a line of its own, which nobody else looks at while bytes flow.
        /// Held by the other end of a pair while it appends: 0, or owner + 1.
        pub plock: Shared32,
        /// Last buffer.
        pub rq_tail: SharedCell<OptIdx<Buf>>,
        /// What the producer last knew of `rq_out`.
        pub rq_seen: SharedCell<u32>,
        /// Of a pair: 1 + where the free part of the last buffer begins, whose length then is that of a full one. 0: its
        /// length says it.
        pub rq_fill: SharedCell<u32>,
        /// Of a pair whose reader leaves what he has read ([`Sock::rq_keep`]): the first buffer of the chain, read or not.
        pub rq_first: SharedCell<OptIdx<Buf>>,
        /// The buffer that the reader was at when the producer looked last: those before it may be used again.
        pub rq_past: SharedCell<OptIdx<Buf>>,
        /// Buffers in that chain.
        pub rq_chain: SharedCell<u32>,
        /// How often one was taken, new or used before, while the chain was there.
        pub rq_used: SharedCell<u32>,
        /// Last time anything came from the peer, ns.
        pub last_rx: SharedCell<u64>,
        /// Calls that the kernel is carrying out on a mark that may be paired.
        pub kbusy: Shared32,
        /// Such calls that came back, for ever.
        pub kseq: Shared32,
        /// 1 for the mark of a connection within this host: calls of the kernel's on it are counted.
        pub k_near: Shared32,
        /// While somebody asks the kernel what it holds of the mark: owner + 1. Calls wait meanwhile.
        pub k_hold: Shared32,
        /// 1 while bytes of a frozen end's queue are being sent through the kernel.
        pub k_doubt: Shared32,
        /// Of those, how many nobody has read yet.
        pub k_pend: Shared32,

        // What every call looks at, and what a reader who spins waits for: one line comes with a message.
        /// Everything from here on is cleared when the slot is taken. Of a pair's end: 1 until a holder of the descriptor has
        /// brought the endpoint up to date with the kernel socket.
        pub k_fresh: Shared32,
        /// [`Kind`].
        pub kind: Shared32,
        /// [`crate::tcp::state::TcpState`].
        pub state: Shared32,
        /// [`flag`] bits.
        pub flags: Shared32,
        /// Bits of the socket layer: what `recvmsg` is to tell, which sends are the kernel's.
        pub sopts: Shared32,
        /// Pending error (`SO_ERROR`), an errno; 0 is none.
        pub err: Shared32,
        /// [`SHUT_RD`] | [`SHUT_WR`].
        pub shut: Shared32,
        /// What the kernel socket behind the fd has: [`OS_DATA`], [`OS_ERROR`] (set by the keeper, cleared by the reader).
        pub os_ready: Shared32,
        /// `SO_COOKIE` of the kernel socket that the program holds; 0 when there is none yet.
        pub cookie: Shared64,
        /// Of a pair: the other end's generation.
        pub peer_gen: SharedCell<u32>,
        /// The other end of a pair.
        pub peer: SharedCell<OptIdx<Sock>>,
        /// First membership in a ready set.
        pub items: SharedCell<OptIdx<Item>>,
        /// `SO_RCVLOWAT` in bytes.
        pub rcvlowat: SharedCell<u32>,
        /// 1 + `SO_PEEK_OFF` of a stream; 0 when it is off.
        pub peek_off: Shared32,
        /// Bytes (TCP) or datagrams (UDP) queued so far.
        pub rq_in: Shared32,

        // Receive queue, the consumer's share; and options that hardly anybody looks at.
        /// First buffer.
        pub rq_head: SharedCell<OptIdx<Buf>>,
        /// Bytes of the first buffer already read.
        pub rq_rd: SharedCell<u32>,
        /// Bytes (TCP) or datagrams (UDP) read so far.
        pub rq_out: Shared32,
        /// Held while reading: 0, or owner + 1.
        pub rlock: Shared32,
        /// Bytes in the UDP receive queue.
        pub rq_bytes: Shared32,
        /// Buffers that were read stay in the chain, for the producer to use again: 1 + how many were left there so far. 0:
        /// the reader gives them back.
        pub rq_keep: SharedCell<u32>,
        /// Keep-alive: idle time, seconds.
        pub keepidle: SharedCell<u32>,
        /// Keep-alive: interval, seconds.
        pub keepintvl: SharedCell<u32>,
        /// Keep-alive: probes.
        pub keepcnt: SharedCell<u32>,
        /// `TCP_USER_TIMEOUT`, milliseconds.
        pub user_timeout: SharedCell<u32>,
        /// `TCP_MAXSEG` as the user set it; 0 is none.
        pub user_mss: SharedCell<u32>,
        /// `SO_LINGER` time in seconds; meaningful with [`flag::LINGER`].
        pub linger: SharedCell<u32>,
        /// `TCP_DEFER_ACCEPT`, seconds.
        pub defer_accept: SharedCell<u32>,
        /// `TCP_SYNCNT`; 0 is the default.
        pub syncnt: HalfCell,
        /// Who made the descriptor, owner + 1, while he lives; 0: nobody in particular (`stack/ends.rs`).
        pub holder: HalfCell,
        /// `TCP_NOTSENT_LOWAT`; 0 is unlimited.
        pub notsent_lowat: SharedCell<u32>,
        /// `TCP_LINGER2` seconds; 0 is the default.
        pub linger2: SharedCell<u32>,

        // Options.
        /// `SO_RCVBUF` in bytes.
        pub rcvbuf: SharedCell<u32>,
        /// `SO_SNDBUF` in bytes.
        pub sndbuf: SharedCell<u32>,
        /// `IP_TTL` in the low byte, `IPV6_UNICAST_HOPS` in the next: a socket of IPv6 sends both kinds.
        pub ttl: HalfCell,
        /// `IP_TOS` in the low byte, `IPV6_TCLASS` in the next.
        pub tos: HalfCell,
        /// `TCP_WINDOW_CLAMP` in bytes; 0 is none.
        pub wclamp: SharedCell<u32>,
        /// Why the socket stays with the kernel, for [`Kind::Kernel`] and marks; a code of the sockets crate.
        pub reason: SharedCell<u32>,

        // Counters of this socket, for TCP_INFO and `ss`.
        /// Datagrams dropped because the receive queue was full (`SO_RXQ_OVFL`).
        pub drops: Shared32,
        /// Segments or datagrams received.
        pub segs_in: Shared32,
        /// Segments or datagrams sent.
        pub segs_out: Shared32,

        /// `SO_RCVTIMEO` in nanoseconds; 0 is for ever. Kept for the socket layer.
        pub rcvtimeo: Shared64,
        /// `SO_SNDTIMEO` in nanoseconds; 0 is for ever. Kept for the socket layer.
        pub sndtimeo: Shared64,
        /// Bytes received in order.
        pub bytes_in: Shared64,
        /// Bytes sent, retransmissions not counted.
        pub bytes_out: Shared64,
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(
        2 * size_of::<Sock>() <= 896,
        "an idle connection within the host costs no more than 1 KiB for both ends, with what it takes of tables"
    );
    assert!(
        offset_of!(Sock, local_hi) == 64 && offset_of!(Sock, hnext) < 128,
        "whoever looks for a socket reads one line of it"
    );
    assert!(
        offset_of!(Sock, plock) == 128 && offset_of!(Sock, k_fresh) == 192,
        "the producer's line, beside the one that comes with a message: processors fetch lines in twos"
    );
    assert!(
        offset_of!(Sock, rq_head) == 256,
        "the consumer's line, not beside one that the producer writes"
    );
    assert!(
        size_of::<Sock>().is_multiple_of(128),
        "slots begin with two lines"
    );
};

/// What a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Nothing.
    Free = 0,
    /// A TCP endpoint.
    Tcp = 1,
    /// A UDP endpoint.
    Udp = 2,
    /// A socket that stays with the kernel; kept for `flyover ss`.
    Kernel = 3,
}

impl Kind {
    /// Decodes a word of shared memory; anything unknown is [`Kind::Free`].
    pub const fn from_word(w: u32) -> Self {
        match w {
            1 => Self::Tcp,
            2 => Self::Udp,
            3 => Self::Kernel,
            _ => Self::Free,
        }
    }
}

/// Reading is shut down: a FIN came, or the program called `shutdown(SHUT_RD)`.
pub const SHUT_RD: u32 = 1;
/// Writing is shut down by the program.
pub const SHUT_WR: u32 = 2;

/// [`Sock::os_ready`]: data or a connection waits at the kernel socket.
pub const OS_DATA: u32 = 1;
/// [`Sock::os_ready`]: the kernel socket has an error, or messages about errors.
pub const OS_ERROR: u32 = 2;

/// Bits of [`Sock::urg`].
pub mod urg {
    /// Urgent data was announced by the peer.
    pub const ANNOUNCED: u32 = 1;
    /// The urgent byte is in the queue, or was.
    pub const HERE: u32 = 2;
    /// It was read out of band. Set by the reader, under no lock.
    pub const TAKEN: u32 = 4;
}

/// Index of a socket slot.
pub type SockId = Idx<Sock>;

/// A socket slot and the generation in which it was meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SockRef {
    /// The slot.
    pub id: SockId,
    /// Its generation.
    pub generation: u32,
}

impl Sock {
    /// What the slot holds.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::from_word(self.kind.load(Relaxed))
    }

    /// True when every bit of `f` is set.
    #[inline]
    pub fn has(&self, f: u32) -> bool {
        self.flags.load(Relaxed) & f == f
    }

    /// Sets the bits of `f`.
    #[inline]
    pub fn set_flag(&self, f: u32) {
        let _: u32 = self.flags.fetch_or(f, Release);
    }

    /// Clears the bits of `f`.
    #[inline]
    pub fn clear_flag(&self, f: u32) {
        let _: u32 = self.flags.fetch_and(!f, Release);
    }

    /// Sets or clears the bits of `f`.
    pub fn put_flag(&self, f: u32, on: bool) {
        if on {
            self.set_flag(f)
        } else {
            self.clear_flag(f)
        }
    }

    /// Local address and port.
    #[inline]
    pub fn local(&self) -> Endpoint {
        Endpoint {
            ip: Ip::from_halves(self.local_hi.get(), self.local_lo.get()),
            port: self.lport.get() as u16,
        }
    }

    /// Remote address and port.
    #[inline]
    pub fn remote(&self) -> Endpoint {
        Endpoint {
            ip: Ip::from_halves(self.remote_hi.get(), self.remote_lo.get()),
            port: self.rport.get() as u16,
        }
    }

    /// Stores the local address and port.
    pub fn set_local(&self, e: Endpoint) {
        self.local_hi.set(e.ip.hi());
        self.local_lo.set(e.ip.lo());
        self.lport.set(u32::from(e.port));
    }

    /// Stores the remote address and port.
    pub fn set_remote(&self, e: Endpoint) {
        self.remote_hi.set(e.ip.hi());
        self.remote_lo.set(e.ip.lo());
        self.rport.set(u32::from(e.port));
    }

    /// Bytes (TCP) or datagrams (UDP) that wait to be read. Whoever is neither the reader nor the writer may be told of more:
    /// what was read, and has come, between the two looks. (The other way round it could be less than nothing.)
    #[inline]
    pub fn rq_available(&self) -> u32 {
        let read = self.rq_out.load(Acquire);
        self.rq_in.load(Acquire).wrapping_sub(read)
    }

    /// TTL or hop limit of packets to `dst`.
    #[inline]
    pub fn ttl_to(&self, dst: Ip) -> u8 {
        let both = self.ttl.get();
        match if dst.is_v4() { both } else { both >> 8 } as u8 {
            0 => 64,
            n => n,
        }
    }

    /// TOS or traffic class of packets to `dst`.
    #[inline]
    pub fn tos_to(&self, dst: Ip) -> u8 {
        let both = self.tos.get();
        if dst.is_v4() {
            both as u8
        } else {
            (both >> 8) as u8
        }
    }

    /// Records an error for `SO_ERROR`.
    pub fn set_error(&self, errno: i32) {
        self.err.store(errno as u32, Release);
    }

    /// Gives a taken error back for the next call, unless another one came.
    pub fn put_error_back(&self, errno: i32) {
        let _ = self.err.compare_exchange(0, errno as u32, AcqRel, Relaxed);
    }
}
