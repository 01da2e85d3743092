//! Keys and values of the flow maps, as `bpf/flow.h` lays them out.

use aya::Pod;
use flyover_wire::{Endpoint, Ip};

/// What a stack receives: packets to `local`, of one peer or of any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IANA protocol number: TCP 6, UDP 17.
    pub proto: u8,
    /// Where packets go. An unspecified address (of the family concerned) stands for any.
    pub local: Endpoint,
    /// Where they come from; None: anywhere.
    pub remote: Option<Endpoint>,
}

impl Flow {
    /// The IPv4 flow that a dual-stack socket on `[::]` has besides this one.
    pub fn v4_twin(&self) -> Option<Self> {
        let dual = self.local.ip == Ip::UNSPECIFIED_V6 && self.remote.is_none();
        let local = Endpoint {
            ip: Ip::UNSPECIFIED_V4,
            ..self.local
        };
        dual.then_some(Self { local, ..*self })
    }
}

/// `struct flow_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct FlowKey {
    pub(super) laddr: [u8; 16],
    pub(super) raddr: [u8; 16],
    pub(super) lport: [u8; 2],
    pub(super) rport: [u8; 2],
    pub(super) proto: u8,
    pad: [u8; 3],
}

// SAFETY: byte arrays and bytes: no padding, every bit pattern valid.
unsafe impl Pod for FlowKey {}

impl FlowKey {
    pub(super) fn of(flow: &Flow) -> Self {
        let Flow {
            proto,
            local,
            remote,
        } = *flow;
        // A wildcard key has an all-zero remote for both families.
        let (raddr, rport) = remote.map_or(([0; 16], 0), |r| (r.ip.0, r.port));
        Self {
            laddr: local.ip.0,
            raddr,
            lport: local.port.to_be_bytes(),
            rport: rport.to_be_bytes(),
            proto,
            pad: [0; 3],
        }
    }
}

/// `PORT_*`: which look-up finds a flow.
const PORT_EXACT: u32 = 1;
const PORT_LOCAL: u32 = 2;
const PORT_ANY: u32 = 4;

impl FlowKey {
    /// The bit of its port's word that has to be set for packets to be looked up here.
    pub(super) fn use_of_port(&self) -> u32 {
        let local = Ip(self.laddr);
        if self.raddr != [0; 16] || self.rport != [0; 2] {
            PORT_EXACT
        } else if local == Ip::UNSPECIFIED_V4 || local == Ip::UNSPECIFIED_V6 {
            PORT_ANY
        } else {
            PORT_LOCAL
        }
    }

    /// Index of that word.
    pub(super) fn port(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.lport))
    }
}

/// `struct vnic_key`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct VnicKey {
    pub(super) ifindex: u32,
    pub(super) stack: u32,
}

// SAFETY: two words of the same size: no padding, every bit pattern valid.
unsafe impl Pod for VnicKey {}

/// `struct vnic`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct VnicValue {
    pub(super) kind: u32,
    pub(super) xsk_base: u32,
    pub(super) queues: u32,
}

// SAFETY: three words of the same size: no padding, every bit pattern valid.
unsafe impl Pod for VnicValue {}

const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<VnicKey>() == 8);
const _: () = assert!(size_of::<VnicValue>() == 12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_network_order() {
        let local = Endpoint {
            ip: Ip::v4([10, 0, 0, 1]),
            port: 0x1234,
        };
        let remote = Some(Endpoint {
            ip: Ip::v4([10, 0, 0, 2]),
            port: 5,
        });
        let key = FlowKey::of(&Flow {
            proto: 6,
            local,
            remote,
        });
        assert_eq!((key.lport, key.rport), ([0x12, 0x34], [0, 5]));
        assert_eq!(key.laddr[10..], [0xff, 0xff, 10, 0, 0, 1]);
        let any = FlowKey::of(&Flow {
            proto: 6,
            local,
            remote: None,
        });
        assert_eq!((any.raddr, any.rport), ([0; 16], [0; 2]));
    }

    #[test]
    fn only_a_dual_stack_wildcard_has_a_twin() {
        let flow = |ip| Flow {
            proto: 6,
            local: Endpoint { ip, port: 80 },
            remote: None,
        };
        let twin = flow(Ip::UNSPECIFIED_V6).v4_twin().unwrap();
        assert_eq!(twin.local.ip, Ip::UNSPECIFIED_V4);
        assert_eq!(twin.v4_twin(), None);
        assert_eq!(flow(Ip::LOOPBACK_V6).v4_twin(), None);
    }
}
