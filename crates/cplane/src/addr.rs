//! Addresses of this host: what is kept of each, and the row that holds it.

use flyover_shm::{OptIdx, SeqCount, SharedCell, shm_struct};
use flyover_wire::Ip;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Interface that has it.
    pub ifindex: u32,
    /// The local address.
    pub ip: Ip,
    /// The far end of a point-to-point link, or `ip` (`IFA_ADDRESS`): what `prefix_len` refers to.
    pub peer: Ip,
    /// Prefix length in bits: 0..=32 for IPv4, 0..=128 for IPv6.
    pub prefix_len: u8,
    /// How far the address means this host.
    pub scope: Scope,
    /// State and kind.
    pub flags: AddrFlags,
}

impl Addr {
    /// Is `ip` in the subnet of this address?
    #[must_use]
    pub fn on_link(&self, ip: Ip) -> bool {
        ip.is_v4() == self.peer.is_v4()
            && crate::tables::in_prefix(
                ip,
                self.peer,
                crate::tables::mapped_len(ip.is_v4(), self.prefix_len),
            )
    }
}

/// Scope of an address or a route (`rtm_scope`, rtnetlink(7)): a greater number is a nearer scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(pub u8);

impl Scope {
    /// Everywhere.
    pub const UNIVERSE: Self = Self(0);
    /// Within the site (IPv6, deprecated).
    pub const SITE: Self = Self(200);
    /// On this link only.
    pub const LINK: Self = Self(253);
    /// On this host only.
    pub const HOST: Self = Self(254);
    /// Nowhere: the destination does not exist.
    pub const NOWHERE: Self = Self(255);
}

/// State and kind of an address, a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddrFlags(u32);

impl AddrFlags {
    /// IPv4: not the first address of its subnet on the interface (`IFA_F_SECONDARY`).
    pub const SECONDARY: Self = Self(1);
    /// Not to be used as a source when there is another (`IFA_F_DEPRECATED`).
    pub const DEPRECATED: Self = Self(1 << 1);
    /// Duplicate detection goes on, or has failed: not usable as a source (RFC 4862).
    pub const TENTATIVE: Self = Self(1 << 2);
    /// IPv6 temporary address (RFC 8981).
    pub const TEMPORARY: Self = Self(1 << 3);

    /// No bit set.
    #[must_use]
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Are all bits of `other` set?
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These bits and `other`'s.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits as a number, for dumps.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

shm_struct! {
    /// An address in the table, chained by interface. Free when `ifindex` is 0.
    pub struct AddrRow {
        pub seq: SeqCount,
        /// Next row of the same hash chain.
        pub next: SharedCell<OptIdx<AddrRow>>,
        pub ip_high: SharedCell<u64>,
        pub ip_low: SharedCell<u64>,
        pub peer_high: SharedCell<u64>,
        pub peer_low: SharedCell<u64>,
        pub ifindex: SharedCell<u32>,
        /// Position among the addresses of its interface: the kernel prefers the first.
        pub order: SharedCell<u32>,
        pub flags: SharedCell<u32>,
        pub prefix_len: SharedCell<u8>,
        pub scope: SharedCell<u8>,
        pub spare: SharedCell<u16>,
    }
}

impl AddrRow {
    /// The address in this row and its position; `None` when the row is free or changes too fast.
    pub(crate) fn load(&self) -> Option<(Addr, u32)> {
        let (addr, order) = self.seq.read(|| {
            let addr = Addr {
                ifindex: self.ifindex.get(),
                ip: Ip::from_halves(self.ip_high.get(), self.ip_low.get()),
                peer: Ip::from_halves(self.peer_high.get(), self.peer_low.get()),
                prefix_len: self.prefix_len.get(),
                scope: Scope(self.scope.get()),
                flags: AddrFlags(self.flags.get()),
            };
            (addr, self.order.get())
        })?;
        (addr.ifindex != 0).then_some((addr, order))
    }

    #[cfg(feature = "writer")]
    pub(crate) fn store(&self, addr: Option<&Addr>, order: u32) {
        self.seq.write(|| {
            self.ifindex.set(addr.map_or(0, |addr| addr.ifindex));
            if let Some(addr) = addr {
                self.ip_high.set(addr.ip.hi());
                self.ip_low.set(addr.ip.lo());
                self.peer_high.set(addr.peer.hi());
                self.peer_low.set(addr.peer.lo());
                self.prefix_len.set(addr.prefix_len);
                self.scope.set(addr.scope.0);
                self.flags.set(addr.flags.0);
                self.order.set(order);
            }
        });
    }
}
