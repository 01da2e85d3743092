//! Routes: what is kept of each, and the row that holds one next hop of it.

use flyover_shm::{OptIdx, SeqCount, SharedCell, shm_struct};
use flyover_wire::Ip;

use crate::addr::Scope;
use crate::tables::mapped_len;

/// A route with one of its next hops. A multipath route is several of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; bits beyond `dst_len` are zero.
    pub dst: Ip,
    /// Prefix length in bits: 0..=32 for IPv4, 0..=128 for IPv6.
    pub dst_len: u8,
    /// Table that it is in.
    pub table: Table,
    /// What happens to a packet.
    pub kind: RouteKind,
    /// Among routes to the same prefix the least metric wins (`RTA_PRIORITY`).
    pub metric: u32,
    /// Distance of the destination.
    pub scope: Scope,
    /// Source address to use unless the socket has one (`RTA_PREFSRC`).
    pub prefsrc: Option<Ip>,
    /// MTU metric in bytes (`RTAX_MTU`); 0 = the link's.
    pub mtu: u32,
    /// Where the packet goes.
    pub hop: Hop,
}

impl Route {
    /// A unicast route of the main table, without metric, source, MTU or gateway: a start for
    /// struct update syntax.
    #[must_use]
    pub fn unicast(dst: Ip, dst_len: u8, ifindex: u32) -> Self {
        Self {
            dst: crate::tables::masked(dst, mapped_len(dst.is_v4(), dst_len)),
            dst_len,
            table: Table::Main,
            kind: RouteKind::Unicast,
            metric: 0,
            scope: Scope::LINK,
            prefsrc: None,
            mtu: 0,
            hop: Hop {
                ifindex,
                gateway: None,
            },
        }
    }

    /// Prefix length in the 128-bit form that both families share.
    pub(crate) fn mapped_len(&self) -> u8 {
        mapped_len(self.dst.is_v4(), self.dst_len)
    }
}

/// Where a route sends a packet next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Outgoing interface; 0 for routes that reject.
    pub ifindex: u32,
    /// Router on that interface; `None` = the destination is on the link. An IPv4 route may have an
    /// IPv6 router (`RTA_VIA`, RFC 5549).
    pub gateway: Option<Ip>,
}

/// Routing tables that are mirrored, in the order in which the default rules ask them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// 255: this host's own addresses.
    Local = 1,
    /// 254: ordinary routes.
    Main = 2,
    /// 253: last resort, usually empty.
    Default = 3,
}

impl Table {
    /// All tables, in the order in which they are asked.
    pub const ALL: [Self; 3] = [Self::Local, Self::Main, Self::Default];

    /// Table from the kernel's number (`RT_TABLE_*`); `None` for those that are not mirrored.
    #[must_use]
    pub const fn from_kernel(id: u32) -> Option<Self> {
        match id {
            255 => Some(Self::Local),
            254 => Some(Self::Main),
            253 => Some(Self::Default),
            _ => None,
        }
    }

    /// Name for logs and dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Main => "main",
            Self::Default => "default",
        }
    }

    pub(crate) fn decode(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == byte)
    }
}

/// What a route does with a packet (`RTN_*`, rtnetlink(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RouteKind {
    /// Send it to the next hop.
    Unicast = 0,
    /// It is for this host.
    Local = 1,
    /// Send it to everybody on the link.
    Broadcast = 2,
    /// It is for this host among others (IPv6).
    Anycast = 3,
    /// Send it to a group.
    Multicast = 4,
    /// Refuse it: unreachable, prohibit or blackhole.
    Reject = 5,
    /// Go on with the next table.
    Throw = 6,
    /// Only the kernel can tell: the route looks at the source or the type of service, changes the
    /// packet, or has an encapsulation.
    Special = 7,
}

impl RouteKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Unicast,
        Self::Local,
        Self::Broadcast,
        Self::Anycast,
        Self::Multicast,
        Self::Reject,
        Self::Throw,
        Self::Special,
    ];

    /// Name for logs and dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::Broadcast => "broadcast",
            Self::Anycast => "anycast",
            Self::Multicast => "multicast",
            Self::Reject => "reject",
            Self::Throw => "throw",
            Self::Special => "special",
        }
    }

    fn decode(byte: u8) -> Self {
        let known = Self::ALL.into_iter().find(|kind| *kind as u8 == byte);
        known.unwrap_or(Self::Special)
    }
}

const HAS_GATEWAY: u8 = 1;
const HAS_PREFSRC: u8 = 2;

shm_struct! {
    /// One next hop of a route. Free when `table` is 0.
    pub struct RouteRow {
        pub seq: SeqCount,
        /// Next row of the same hash chain.
        pub next: SharedCell<OptIdx<RouteRow>>,
        pub dst_high: SharedCell<u64>,
        pub dst_low: SharedCell<u64>,
        pub gateway_high: SharedCell<u64>,
        pub gateway_low: SharedCell<u64>,
        pub prefsrc_high: SharedCell<u64>,
        pub prefsrc_low: SharedCell<u64>,
        pub ifindex: SharedCell<u32>,
        pub metric: SharedCell<u32>,
        pub mtu: SharedCell<u32>,
        /// Among routes that are equal otherwise, and among the hops of one route, the least wins.
        pub order: SharedCell<u32>,
        pub dst_len: SharedCell<u8>,
        pub table: SharedCell<u8>,
        pub kind: SharedCell<u8>,
        pub scope: SharedCell<u8>,
        /// Bit 0: has a gateway. Bit 1: has a preferred source.
        pub has: SharedCell<u8>,
        pub spare: SharedCell<u8>,
        pub spare2: SharedCell<u16>,
    }
}

impl RouteRow {
    /// The route in this row and its rank; `None` when the row is free or changes too fast.
    pub(crate) fn load(&self) -> Option<(Route, u32)> {
        self.seq.read(|| {
            let has = self.has.get();
            let gateway = Ip::from_halves(self.gateway_high.get(), self.gateway_low.get());
            let prefsrc = Ip::from_halves(self.prefsrc_high.get(), self.prefsrc_low.get());
            let hop = Hop {
                ifindex: self.ifindex.get(),
                gateway: (has & HAS_GATEWAY != 0).then_some(gateway),
            };
            let route = Route {
                dst: Ip::from_halves(self.dst_high.get(), self.dst_low.get()),
                dst_len: self.dst_len.get(),
                table: Table::decode(self.table.get())?,
                kind: RouteKind::decode(self.kind.get()),
                metric: self.metric.get(),
                scope: Scope(self.scope.get()),
                prefsrc: (has & HAS_PREFSRC != 0).then_some(prefsrc),
                mtu: self.mtu.get(),
                hop,
            };
            Some((route, self.order.get()))
        })?
    }

    #[cfg(feature = "writer")]
    pub(crate) fn store(&self, route: Option<&Route>, order: u32) {
        self.seq.write(|| {
            self.table.set(route.map_or(0, |route| route.table as u8));
            if let Some(route) = route {
                let gateway = route.hop.gateway.unwrap_or_default();
                let prefsrc = route.prefsrc.unwrap_or_default();
                let mut has = 0;
                has |= if route.hop.gateway.is_some() {
                    HAS_GATEWAY
                } else {
                    0
                };
                has |= if route.prefsrc.is_some() {
                    HAS_PREFSRC
                } else {
                    0
                };
                self.dst_high.set(route.dst.hi());
                self.dst_low.set(route.dst.lo());
                self.gateway_high.set(gateway.hi());
                self.gateway_low.set(gateway.lo());
                self.prefsrc_high.set(prefsrc.hi());
                self.prefsrc_low.set(prefsrc.lo());
                self.ifindex.set(route.hop.ifindex);
                self.metric.set(route.metric);
                self.mtu.set(route.mtu);
                self.order.set(order);
                self.dst_len.set(route.dst_len);
                self.kind.set(route.kind as u8);
                self.scope.set(route.scope.0);
                self.has.set(has);
            }
        });
    }
}
