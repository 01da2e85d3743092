//! The answer to "how does a packet get there": what a socket caches, and why there is none.

use flyover_wire::{Ip, Mac};

/// A resolved way to a destination, to be cached by the socket that asked.
///
/// Valid for as long as `reader.version(fwd.row) == fwd.version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fwd {
    /// Interface that the frame leaves through.
    pub ifindex: u32,
    /// Source address: the caller's, or what Linux would choose.
    pub src: Ip,
    /// Address on the link: the gateway, or the destination itself.
    pub nexthop: Ip,
    /// Source MAC address: the interface's.
    pub smac: Mac,
    /// Destination MAC address.
    pub dmac: Mac,
    /// Largest IP packet in bytes: the link's MTU or the route's, whichever is less.
    pub mtu: u32,
    /// VLAN tag to insert; 0 = none. VLAN interfaces are links of their own, so it is 0 today.
    pub vlan: u16,
    /// Neighbour row that vouches for this entry; 0 when no neighbour is involved.
    pub row: u32,
    /// What the row's version was.
    pub version: u32,
}

/// What [`crate::Reader::resolve`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Resolve {
    /// Everything that a frame needs.
    Ready(Fwd),
    /// The route is known, the neighbour's MAC address is not: ask the daemon to make the kernel
    /// resolve it, and ask again when [`crate::Reader::generation`] has moved.
    NeedNeigh {
        /// Interface that the neighbour is on.
        ifindex: u32,
        /// The neighbour.
        nexthop: Ip,
        /// Source address, as in [`Fwd::src`].
        src: Ip,
        /// MTU in bytes, as in [`Fwd::mtu`].
        mtu: u32,
    },
    /// The destination is this host.
    Local,
    /// The tables give no way that a V-NIC can take. The kernel may know one.
    Unreachable(Reason),
}

/// Why a destination cannot be reached through a V-NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// No route matches.
    NoRoute,
    /// The best route says unreachable, prohibit, blackhole or throw.
    Rejected,
    /// The best route leaves through a link that is down, has no carrier or is gone.
    NotReady,
    /// The answer depends on more than the destination: `ip rule`s beyond the default ones, a
    /// source-specific route or one for a type of service. Only the kernel can tell.
    PolicyRouting,
    /// The link does not carry Ethernet frames, or the route has an encapsulation.
    NotEthernet,
    /// A broadcast address: the kernel sends these.
    Broadcast,
    /// A group: the kernel sends these, and delivers them on this host too.
    Multicast,
    /// A link-local destination needs an interface and none was given.
    ScopeMissing,
    /// No source address can be used on the outgoing interface.
    NoSource,
    /// A table ran full, so that a better match may be missing.
    TableFull,
    /// The tables changed faster than they could be read, or hold garbage: worth another try later,
    /// like a neighbour that is being resolved.
    Busy,
}

impl Reason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 11] = [
        Self::NoRoute,
        Self::Rejected,
        Self::NotReady,
        Self::PolicyRouting,
        Self::NotEthernet,
        Self::Broadcast,
        Self::Multicast,
        Self::ScopeMissing,
        Self::NoSource,
        Self::TableFull,
        Self::Busy,
    ];

    /// Name for logs and dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Rejected => "rejected",
            Self::NotReady => "not-ready",
            Self::PolicyRouting => "policy-routing",
            Self::NotEthernet => "not-ethernet",
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
            Self::ScopeMissing => "scope-missing",
            Self::NoSource => "no-source",
            Self::TableFull => "table-full",
            Self::Busy => "busy",
        }
    }
}
