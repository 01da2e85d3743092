//! The description of a V-NIC that travels with its descriptors.

use flyover_wire::Mac;

use crate::codec::record;
use crate::{List, MAX_GEOMETRY};

record! {
    /// One V-NIC of a stack: what a process needs, with the passed descriptors, to build it.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct NicDesc {
        /// Index in the stack's table of V-NICs; stays the same for the life of the V-NIC.
        pub slot: u16,
        /// 1 = packet socket, 2 = AF_XDP socket (`flyover_vnic::VnicKind`).
        pub kind: u8,
        /// Interface index (netdevice(7)).
        pub ifindex: u32,
        /// Receive queue of the interface; 0 for a packet socket.
        pub queue: u32,
        /// Largest IP packet in bytes when the V-NIC was made; the control plane has the current one.
        pub mtu: u32,
        /// The interface's address.
        pub mac: Mac,
        /// Sizes of rings and frames, as words of the kind's geometry in `flyover_vnic`.
        pub geometry: List<u64, MAX_GEOMETRY>,
    }
}

impl NicDesc {
    /// [`NicDesc::kind`] of a packet socket.
    pub const PACKET: u8 = 1;
    /// [`NicDesc::kind`] of an AF_XDP socket.
    pub const XDP: u8 = 2;

    /// How many descriptors of the message belong to this V-NIC: 1 for a packet socket, 2 for an AF_XDP socket (the
    /// socket and the memfd of its frames).
    pub fn fd_count(&self) -> usize {
        if self.kind == Self::XDP { 2 } else { 1 }
    }
}
