//! Addresses: one 16-byte form for both IP families, Ethernet addresses, endpoints, flow keys.

use core::fmt;
use core::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::FromStr;

/// First 12 bytes of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv4 or IPv6 address. IPv4 is kept v4-mapped (`::ffff:a.b.c.d`), so that one table serves
/// both families; a *wire* IPv6 address is never v4-mapped (`frame::parse` drops such packets).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ip(pub [u8; 16]);

impl Ip {
    /// `0.0.0.0`, kept as `::ffff:0.0.0.0`.
    pub const UNSPECIFIED_V4: Self = Self::v4([0; 4]);
    /// `::`.
    pub const UNSPECIFIED_V6: Self = Self([0; 16]);
    /// `127.0.0.1`.
    pub const LOOPBACK_V4: Self = Self::v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// An IPv4 address from its four bytes in network order.
    #[must_use]
    pub const fn v4(a: [u8; 4]) -> Self {
        Self([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3],
        ])
    }

    /// An IPv6 address from its sixteen bytes in network order. A v4-mapped one *is* an IPv4 address.
    #[must_use]
    pub const fn v6(a: [u8; 16]) -> Self {
        Self(a)
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.as_v4().is_some()
    }

    /// The four bytes of an IPv4 address, `None` for IPv6.
    #[must_use]
    #[inline]
    pub fn as_v4(&self) -> Option<[u8; 4]> {
        let [head @ .., a, b, c, d] = self.0;
        let head: [u8; 12] = head;
        (head == MAPPED).then_some([a, b, c, d])
    }

    /// `0.0.0.0` or `::`.
    #[must_use]
    #[inline]
    pub fn is_unspecified(&self) -> bool {
        *self == Self::UNSPECIFIED_V4 || *self == Self::UNSPECIFIED_V6
    }

    /// `127.0.0.0/8` or `::1`.
    #[must_use]
    #[inline]
    pub fn is_loopback(&self) -> bool {
        match self.as_v4() {
            Some([first, ..]) => first == 127,
            None => *self == Self::LOOPBACK_V6,
        }
    }

    /// `224.0.0.0/4` or `ff00::/8`.
    #[must_use]
    #[inline]
    pub fn is_multicast(&self) -> bool {
        match self.as_v4() {
            Some([first, ..]) => first & 0xf0 == 0xe0,
            None => self.0[0] == 0xff,
        }
    }

    /// The limited broadcast address `255.255.255.255`. Subnet broadcast needs the control plane.
    #[must_use]
    #[inline]
    pub fn is_broadcast(&self) -> bool {
        self.as_v4() == Some([255; 4])
    }

    /// IPv6 link-local unicast, `fe80::/10`: such an address needs an interface to mean anything.
    #[must_use]
    #[inline]
    pub fn is_v6_link_local(&self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }

    /// The first eight bytes as a big-endian number.
    #[must_use]
    #[inline]
    pub const fn hi(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The last eight bytes as a big-endian number.
    #[must_use]
    #[inline]
    pub const fn lo(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Inverse of [`Ip::hi`] and [`Ip::lo`].
    #[must_use]
    #[inline]
    pub const fn from_halves(hi: u64, lo: u64) -> Self {
        Self((((hi as u128) << 64) | lo as u128).to_be_bytes())
    }

    /// The standard library's form; IPv4 becomes `IpAddr::V4`.
    #[must_use]
    pub fn to_std(&self) -> IpAddr {
        match self.as_v4() {
            Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
            None => IpAddr::V6(Ipv6Addr::from(self.0)),
        }
    }

    /// The unspecified address of the same family.
    #[must_use]
    pub fn unspecified_same_family(&self) -> Self {
        if self.is_v4() {
            Self::UNSPECIFIED_V4
        } else {
            Self::UNSPECIFIED_V6
        }
    }
}

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Ip {
    fn from(v4: Ipv4Addr) -> Self {
        Self::v4(v4.octets())
    }
}

impl From<Ipv6Addr> for Ip {
    fn from(v6: Ipv6Addr) -> Self {
        Self(v6.octets())
    }
}

impl FromStr for Ip {
    type Err = AddrParseError;

    fn from_str(s: &str) -> Result<Self, AddrParseError> {
        s.parse::<IpAddr>().map(Self::from)
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Default for Ip {
    /// `::`, the value of zeroed memory.
    fn default() -> Self {
        Self::UNSPECIFIED_V6
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, also the address of the loopback interface.
    pub const ZERO: Self = Self([0; 6]);

    /// The address as a 48-bit number, first byte most significant; the upper 16 bits are zero.
    #[must_use]
    #[inline]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// Inverse of [`Mac::to_u64`]; the upper 16 bits are ignored.
    #[must_use]
    #[inline]
    pub const fn from_u64(v: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = v.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// Group bit of the first byte (IEEE 802): multicast or broadcast.
    #[must_use]
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address and a port (host order).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Endpoint {
    /// Address.
    pub ip: Ip,
    /// Port in host order.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint from its parts.
    #[must_use]
    pub const fn new(ip: Ip, port: u16) -> Self {
        Self { ip, port }
    }

    /// The standard library's form (flow label and scope are zero).
    #[must_use]
    pub fn to_std(&self) -> SocketAddr {
        SocketAddr::new(self.ip.to_std(), self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(a: SocketAddr) -> Self {
        Self {
            ip: a.ip().into(),
            port: a.port(),
        }
    }
}

impl FromStr for Endpoint {
    type Err = AddrParseError;

    fn from_str(s: &str) -> Result<Self, AddrParseError> {
        s.parse::<SocketAddr>().map(Self::from)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_std().fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 5-tuple, seen from this host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey {
    /// IP protocol number.
    pub proto: u8,
    /// Our side.
    pub local: Endpoint,
    /// The peer's side.
    pub remote: Endpoint,
}

impl FlowKey {
    /// The same flow seen from the peer.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            proto: self.proto,
            local: self.remote,
            remote: self.local,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn families() {
        let v4 = Ip::v4([192, 0, 2, 1]);
        assert!(v4.is_v4());
        assert_eq!(v4.as_v4(), Some([192, 0, 2, 1]));
        assert_eq!(v4.to_string(), "192.0.2.1");
        assert_eq!("192.0.2.1".parse(), Ok(v4));
        let v6: Ip = "2001:db8::5".parse().unwrap();
        assert!(!v6.is_v4());
        assert_eq!(v6.to_string(), "2001:db8::5");
        assert_eq!(Ip::from_halves(v6.hi(), v6.lo()), v6);
        assert_eq!(Ip::from_halves(v4.hi(), v4.lo()), v4);
        assert_eq!(v6.hi(), 0x2001_0db8_0000_0000);
        assert_eq!(v6.lo(), 5);
    }

    #[test]
    fn classes() {
        let ip = |s: &str| s.parse::<Ip>().unwrap();
        assert!(ip("0.0.0.0").is_unspecified() && ip("::").is_unspecified());
        assert!(ip("127.9.9.9").is_loopback() && ip("::1").is_loopback());
        assert!(!ip("::2").is_loopback() && !ip("126.0.0.1").is_loopback());
        assert!(ip("239.1.1.1").is_multicast() && ip("ff02::1").is_multicast());
        assert!(!ip("223.1.1.1").is_multicast() && !ip("fe80::1").is_multicast());
        assert!(ip("255.255.255.255").is_broadcast() && !ip("255.255.255.254").is_broadcast());
        assert!(ip("fe80::1").is_v6_link_local() && !ip("fec0::1").is_v6_link_local());
    }

    #[test]
    fn mac_round_trip() {
        let m = Mac([0x02, 0, 0x5e, 0x10, 0xfe, 0x01]);
        assert_eq!(Mac::from_u64(m.to_u64()), m);
        assert_eq!(m.to_string(), "02:00:5e:10:fe:01");
        assert!(!m.is_multicast() && Mac::BROADCAST.is_multicast());
    }

    #[test]
    fn endpoints_print_like_std() {
        assert_eq!(
            "[2001:db8::1]:80".parse::<Endpoint>().unwrap().to_string(),
            "[2001:db8::1]:80"
        );
        assert_eq!(
            Endpoint::new(Ip::v4([10, 0, 0, 1]), 53).to_string(),
            "10.0.0.1:53"
        );
    }
}
