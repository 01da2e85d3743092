//! What only a socket of the network has: whose packets go through a V-NIC, or that waits for such connections. It lies in
//! a table beside the slots, for most sockets of a busy host need none of it: the mark of a connection of the kernel's, and
//! the end of a pair.
//!
//! Such a slot's part is never touched, not to clear it and not to read it either: memory costs from the first access on.
//! [`Sock::is_net`] says whether a slot has its part. A TCP socket without one is a mark or an end of a pair, or its maker
//! died before it was either; whoever walks through all slots asks first. A slot gets its part, cleared, when it is taken
//! for a socket of the network ([`Locked::sock_alloc`](crate::stack::locked::Locked::sock_alloc)), or when a mark's connection
//! comes to the stack ([`Stack::become_net`]); it keeps it until the slot is given back.

use super::{Sock, SockId};
use crate::stack::Stack;
use crate::stack::buf::Buf;
use crate::tcp::tcb::Tcb;
use flyover_shm::{CellField, Idx, OptIdx, Shared32, SharedCell, shm_struct};

shm_struct! {
    /// The second part of a socket slot.
    pub struct Net {
        // The way to the peer.
        /// Source MAC.
        pub rt_smac: SharedCell<u64>,
        /// Destination MAC.
        pub rt_dmac: SharedCell<u64>,
        /// 1 when the cache holds a route at all.
        pub rt_valid: SharedCell<u32>,
        /// Control-plane row of the cached next hop.
        pub rt_row: SharedCell<u32>,
        /// Version of that row.
        pub rt_version: SharedCell<u32>,
        /// Interface of the cached route.
        pub rt_ifindex: SharedCell<u32>,
        /// Path MTU in bytes of IP packet.
        pub rt_mtu: SharedCell<u32>,
        /// Lower path MTU learnt from ICMP, and when it ends (`ip/tx.rs`); 0 is none.
        pub pmtu: SharedCell<u32>,

        // Send queue: stream bytes from SND.UNA on.
        /// First buffer.
        pub sq_head: SharedCell<OptIdx<Buf>>,
        /// Last buffer.
        pub sq_tail: SharedCell<OptIdx<Buf>>,
        /// Bytes in the queue.
        pub sq_len: Shared32,
        /// Buffer in which the next new byte to send lies (a hint).
        pub sq_cur: SharedCell<OptIdx<Buf>>,
        /// Stream offset (from the queue's start) of that buffer's first byte.
        pub sq_cur_off: SharedCell<u32>,
        /// Segments with payload sent.
        pub data_out: SharedCell<u32>,

        /// TCP's control block.
        pub tcb: Tcb,

        // Of a listener.
        /// Accept queue: first child.
        pub acc_head: SharedCell<OptIdx<Sock>>,
        /// Accept queue: last child.
        pub acc_tail: SharedCell<OptIdx<Sock>>,
        /// Accept queue: length.
        pub acc_len: Shared32,
        /// Half-open children.
        pub syn_len: SharedCell<u32>,
        /// `listen` backlog.
        pub backlog: SharedCell<u32>,
        /// Live connections that came through this listener's filter.
        pub children: SharedCell<u32>,
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Net, tcb) == 64, "way and queue share a line");
    assert!(
        size_of::<Net>().is_multiple_of(64),
        "the parts begin with a line"
    );
    assert!(
        size_of::<Sock>() + size_of::<Net>() <= 1024,
        "what an idle connection of the network takes of the two tables"
    );
};

/// Both parts of a socket of the network, in place.
#[derive(Clone, Copy, Debug)]
pub struct NetSock<'m> {
    /// The slot.
    pub sock: &'m Sock,
    /// Its second part.
    pub net: &'m Net,
}

impl core::ops::Deref for NetSock<'_> {
    type Target = Sock;

    #[inline]
    fn deref(&self) -> &Sock {
        self.sock
    }
}

impl<'m> Stack<'m> {
    /// A slot with its second part, for whoever knows that it has one.
    #[inline]
    pub fn net(self, id: SockId) -> NetSock<'m> {
        NetSock {
            sock: self.sock(id),
            net: self.nets.at(Idx::new(id.raw())),
        }
    }

    /// The same, for whoever does not.
    #[inline]
    pub fn net_of(self, id: SockId) -> Option<NetSock<'m>> {
        self.sock(id).is_net().then(|| self.net(id))
    }

    /// The control block of a socket of the network.
    #[inline]
    pub fn tcb(self, id: SockId) -> &'m Tcb {
        &self.net(id).net.tcb
    }

    /// Gives the slot its second part if it has none. The caller holds the stack lock.
    pub(crate) fn become_net(self, id: SockId) -> NetSock<'m> {
        let s = self.net(id);
        if !s.is_net() {
            s.net.clear();
            s.has_net.set(1);
        }
        s
    }
}

impl Sock {
    /// True when the second part is in use.
    #[inline]
    pub fn is_net(&self) -> bool {
        self.has_net.get() != 0
    }
}
