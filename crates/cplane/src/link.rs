//! Network interfaces: what is kept of each, and the row that holds it.

use core::fmt;

use flyover_shm::{OptIdx, SeqCount, SharedCell, shm_struct};
use flyover_wire::Mac;

/// A network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel's index of the interface, never 0.
    pub ifindex: u32,
    /// Hardware address; zero when the link has none of six bytes.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Up by the administrator and with carrier: frames can be sent.
    pub up: bool,
    /// What drives it.
    pub kind: LinkKind,
    /// Properties that forwarding looks at.
    pub flags: LinkFlags,
    /// Interface that this one is a port of (bridge, bond, VRF); 0 = none.
    pub master: u32,
    /// Interface that this one sits on (VLAN, macvlan) or is the peer of (veth); 0 = none.
    pub lower: u32,
    /// Interface name.
    pub name: LinkName,
}

/// What drives an interface (`IFLA_INFO_KIND`, ip-link(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LinkKind {
    /// No kind of its own: a physical or para-virtual NIC, if [`LinkFlags::ETHER`] is set.
    Device = 0,
    /// `lo`.
    Loopback = 1,
    /// One end of a virtual cable.
    Veth = 2,
    /// 802.1Q on another link.
    Vlan = 3,
    /// Software bridge.
    Bridge = 4,
    /// Bond or team.
    Bond = 5,
    /// Macvlan or macvtap.
    Macvlan = 6,
    /// Ipvlan.
    Ipvlan = 7,
    /// Tun or tap.
    Tun = 8,
    /// Discards everything.
    Dummy = 9,
    /// Stands for a routing table (VRF).
    Vrf = 10,
    /// Any other kind: tunnels, WireGuard and so on.
    Other = 11,
}

impl LinkKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Device,
        Self::Loopback,
        Self::Veth,
        Self::Vlan,
        Self::Bridge,
        Self::Bond,
        Self::Macvlan,
        Self::Ipvlan,
        Self::Tun,
        Self::Dummy,
        Self::Vrf,
        Self::Other,
    ];

    /// Name for logs and dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Loopback => "loopback",
            Self::Veth => "veth",
            Self::Vlan => "vlan",
            Self::Bridge => "bridge",
            Self::Bond => "bond",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Tun => "tun",
            Self::Dummy => "dummy",
            Self::Vrf => "vrf",
            Self::Other => "other",
        }
    }

    fn decode(word: u32) -> Self {
        let known = Self::ALL.iter().copied().find(|kind| *kind as u32 == word);
        known.unwrap_or(Self::Other)
    }
}

/// Properties of a link, a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFlags(u32);

impl LinkFlags {
    /// Carries Ethernet frames (`ARPHRD_ETHER`).
    pub const ETHER: Self = Self(1);
    /// Loopback (`IFF_LOOPBACK`).
    pub const LOOPBACK: Self = Self(1 << 1);
    /// Set up by the administrator (`IFF_UP`), with or without carrier.
    pub const ADMIN_UP: Self = Self(1 << 2);
    /// Does not resolve neighbours (`IFF_NOARP`).
    pub const NOARP: Self = Self(1 << 3);
    /// Two ends only (`IFF_POINTOPOINT`).
    pub const POINT_TO_POINT: Self = Self(1 << 4);
    /// Prefers temporary IPv6 addresses as sources (`use_tempaddr` >= 2, RFC 8981).
    pub const TEMPORARY: Self = Self(1 << 5);

    /// No property.
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

/// Name of an interface: at most 15 bytes (`IFNAMSIZ` - 1).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkName([u8; 16]);

impl LinkName {
    /// Name from text; what is longer than 15 bytes is cut off.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        Self(bytes)
    }

    /// The name, or "?" when it is not text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        core::str::from_utf8(text).unwrap_or("?")
    }

    #[cfg(feature = "writer")]
    fn to_words(self) -> (u64, u64) {
        let word = u128::from_le_bytes(self.0);
        (word as u64, (word >> 64) as u64)
    }

    fn from_words(low: u64, high: u64) -> Self {
        Self((u128::from(low) | u128::from(high) << 64).to_le_bytes())
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

const UP: u32 = 1 << 31;

shm_struct! {
    /// A link in the table. Free when `ifindex` is 0.
    pub struct LinkRow {
        pub seq: SeqCount,
        /// Next row of the same hash chain.
        pub next: SharedCell<OptIdx<LinkRow>>,
        pub ifindex: SharedCell<u32>,
        pub mtu: SharedCell<u32>,
        pub mac: SharedCell<u64>,
        pub name_low: SharedCell<u64>,
        pub name_high: SharedCell<u64>,
        pub kind: SharedCell<u32>,
        /// [`LinkFlags`], and whether the link is up in the top bit.
        pub flags: SharedCell<u32>,
        pub master: SharedCell<u32>,
        pub lower: SharedCell<u32>,
    }
}

impl LinkRow {
    /// The link in this row; `None` when the row is free or changes too fast.
    pub(crate) fn load(&self) -> Option<Link> {
        let link = self.seq.read(|| {
            let flags = self.flags.get();
            Link {
                ifindex: self.ifindex.get(),
                mac: Mac::from_u64(self.mac.get()),
                mtu: self.mtu.get(),
                up: flags & UP != 0,
                kind: LinkKind::decode(self.kind.get()),
                flags: LinkFlags(flags & !UP),
                master: self.master.get(),
                lower: self.lower.get(),
                name: LinkName::from_words(self.name_low.get(), self.name_high.get()),
            }
        })?;
        (link.ifindex != 0).then_some(link)
    }

    #[cfg(feature = "writer")]
    pub(crate) fn store(&self, link: Option<&Link>) {
        self.seq.write(|| {
            self.ifindex.set(link.map_or(0, |link| link.ifindex));
            if let Some(link) = link {
                let (low, high) = link.name.to_words();
                self.mac.set(link.mac.to_u64());
                self.mtu.set(link.mtu);
                self.kind.set(link.kind as u32);
                self.flags.set(link.flags.0 | if link.up { UP } else { 0 });
                self.master.set(link.master);
                self.lower.set(link.lower);
                self.name_low.set(low);
                self.name_high.set(high);
            }
        });
    }
}
