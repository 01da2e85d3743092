//! One pass over the headers of a received frame: Ethernet, at most one 802.1Q tag, IPv4 without
//! options or IPv6 without extension headers, TCP or UDP.
//!
//! This is what the V-NIC's filter lets through, checked again: the filter is not trusted to be
//! right, and frames may come from elsewhere (tests, simulation).

use crate::addr::{Endpoint, FlowKey, Ip, Mac};
use crate::checksum;
use crate::reason::Drop;
use crate::seq::Seq;
use crate::tcp::{TcpFlags, TcpHdr};
use crate::tcp_options::TcpOpts;
use crate::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, IPPROTO_TCP, IPPROTO_UDP,
};

/// Most bytes of headers that [`parse`] can need: 14 + 4 + 40 + 60.
pub const MAX_HEADERS: usize = 118;

/// What the headers of a frame say. Offsets count from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Where the IP header starts.
    pub l3_off: u16,
    /// Where the TCP or UDP header starts.
    pub l4_off: u16,
    /// Where the payload starts.
    pub payload_off: u16,
    /// Bytes of payload, from the IP (and UDP) length: Ethernet padding is not payload.
    pub payload_len: u32,
    /// VLAN identifier of the 802.1Q tag; `None` also for a priority tag (identifier 0).
    pub vlan: Option<u16>,
    /// Sender's Ethernet address.
    pub src_mac: Mac,
    /// Destination Ethernet address.
    pub dst_mac: Mac,
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// IPv4 time to live or IPv6 hop limit.
    pub ttl: u8,
    /// IPv4 TOS byte or IPv6 traffic class; the low two bits are ECN.
    pub tos: u8,
    /// IP protocol number, 6 or 17.
    pub proto: u8,
    /// IPv4 identification; 0 for IPv6.
    pub ip_id: u16,
    /// Transport header.
    pub l4: L4,
}

/// A transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4 {
    /// TCP.
    Tcp(TcpHdr),
    /// UDP.
    Udp(UdpHdr),
}

/// A parsed UDP header (RFC 768).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpHdr {
    /// Source port; 0 when the sender expects no reply.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Header plus payload, bytes.
    pub length: u16,
    /// Checksum field as received; 0 is "none" (IPv4 only).
    pub checksum: u16,
}

impl Headers {
    /// Sender's address and port.
    #[must_use]
    #[inline]
    pub fn source(&self) -> Endpoint {
        let port = match &self.l4 {
            L4::Tcp(t) => t.src_port,
            L4::Udp(u) => u.src_port,
        };
        Endpoint { ip: self.src, port }
    }

    /// Receiver's address and port.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> Endpoint {
        let port = match &self.l4 {
            L4::Tcp(t) => t.dst_port,
            L4::Udp(u) => u.dst_port,
        };
        Endpoint { ip: self.dst, port }
    }

    /// The flow as the receiver names it: `local` is the destination.
    #[must_use]
    #[inline]
    pub fn flow(&self) -> FlowKey {
        FlowKey {
            proto: self.proto,
            local: self.destination(),
            remote: self.source(),
        }
    }

    /// Bytes that the L4 checksum covers besides the pseudo-header: L4 header and payload.
    #[must_use]
    #[inline]
    pub fn l4_len(&self) -> u32 {
        u32::from(self.payload_off.wrapping_sub(self.l4_off)).wrapping_add(self.payload_len)
    }

    /// Folded pseudo-header sum of this packet. A checksum field equal to it is a *partial* one.
    #[must_use]
    #[inline]
    pub fn pseudo_sum(&self) -> u16 {
        checksum::pseudo_sum(self.src, self.dst, self.proto, self.l4_len())
    }

    /// Checksum field of the transport header as received.
    #[must_use]
    #[inline]
    pub fn l4_checksum(&self) -> u16 {
        match &self.l4 {
            L4::Tcp(t) => t.checksum,
            L4::Udp(u) => u.checksum,
        }
    }

    /// ECN field of the IP header (RFC 3168): 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
    #[must_use]
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.tos & 3
    }
}

/// Parses the headers of a frame.
///
/// `head` holds the first bytes of the frame (all of it, or at least [`MAX_HEADERS`]); `frame_len`
/// is the length of the whole frame. Neither payload nor L4 checksum is looked at.
///
/// # Errors
/// The first check that failed.
pub fn parse(head: &[u8], frame_len: usize) -> Result<Headers, Drop> {
    // A caller that claims less than it shows means the smaller one.
    let head = head.get(..frame_len).unwrap_or(head);
    let (eth, rest) = head.split_first_chunk::<14>().ok_or(Drop::EthTruncated)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *eth;
    let mut ether_type = u16::from_be_bytes([t0, t1]);
    let (mut vlan, mut l3_off, mut rest) = (None, 14u16, rest);
    if ether_type == ETHERTYPE_VLAN {
        let (tag, inner) = rest.split_first_chunk::<4>().ok_or(Drop::VlanTruncated)?;
        ether_type = u16::from_be_bytes([tag[2], tag[3]]);
        let id = u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
        (vlan, l3_off, rest) = ((id != 0).then_some(id), 18, inner);
    }
    let room = frame_len.wrapping_sub(usize::from(l3_off));
    let l3 = match ether_type {
        ETHERTYPE_IPV4 => ipv4(rest, room)?,
        ETHERTYPE_IPV6 => ipv6(rest, room)?,
        ETHERTYPE_VLAN | ETHERTYPE_QINQ if l3_off == 18 => return Err(Drop::VlanStacked),
        _ => return Err(Drop::EtherType),
    };
    if l3.src.is_multicast() || l3.src.is_broadcast() {
        return Err(Drop::SourceAddress);
    }
    let (l4, l4_hdr_len, payload_len) = match l3.proto {
        IPPROTO_TCP => tcp(l3.rest, l3.len)?,
        IPPROTO_UDP => udp(l3.rest, l3.len)?,
        _ => return Err(Drop::Protocol),
    };
    let l4_off = l3_off.wrapping_add(l3.hdr_len);
    Ok(Headers {
        l3_off,
        l4_off,
        payload_off: l4_off.wrapping_add(l4_hdr_len),
        payload_len,
        vlan,
        src_mac: Mac([s0, s1, s2, s3, s4, s5]),
        dst_mac: Mac([d0, d1, d2, d3, d4, d5]),
        src: l3.src,
        dst: l3.dst,
        ttl: l3.ttl,
        tos: l3.tos,
        proto: l3.proto,
        ip_id: l3.id,
        l4,
    })
}

/// Network layer, reduced to what both versions have.
struct L3<'a> {
    src: Ip,
    dst: Ip,
    ttl: u8,
    tos: u8,
    proto: u8,
    id: u16,
    hdr_len: u16,
    /// Bytes after the IP header, by its length field.
    len: u32,
    rest: &'a [u8],
}

#[inline(always)]
fn ipv4(bytes: &[u8], room: usize) -> Result<L3<'_>, Drop> {
    let (h, rest) = bytes.split_first_chunk::<20>().ok_or(Drop::Ip4Truncated)?;
    match h[0] {
        0x45 => {}
        v if v >> 4 != 4 => return Err(Drop::Ip4Version),
        v if v & 15 < 5 => return Err(Drop::Ip4HeaderLength),
        _ => return Err(Drop::Ip4Options),
    }
    let total = match usize::from(u16::from_be_bytes([h[2], h[3]])) {
        // "BIG TCP": the kernel's super-frames above 64 KiB have a zero length field.
        0 if room > 0xffff => room,
        total if (20..=room).contains(&total) => total,
        _ => return Err(Drop::Ip4TotalLength),
    };
    // more-fragments and the 13-bit offset; don't-fragment and the reserved bit do not matter
    if u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0 {
        return Err(Drop::Ip4Fragment);
    }
    if !checksum::is_valid(checksum::ipv4_header_sum(h)) {
        return Err(Drop::Ip4Checksum);
    }
    Ok(L3 {
        src: Ip::v4([h[12], h[13], h[14], h[15]]),
        dst: Ip::v4([h[16], h[17], h[18], h[19]]),
        ttl: h[8],
        tos: h[1],
        proto: h[9],
        id: u16::from_be_bytes([h[4], h[5]]),
        hdr_len: 20,
        len: u32::try_from(total.wrapping_sub(20)).map_err(|_| Drop::Ip4TotalLength)?,
        rest,
    })
}

#[inline(always)]
fn ipv6(bytes: &[u8], room: usize) -> Result<L3<'_>, Drop> {
    let (h, rest) = bytes.split_first_chunk::<40>().ok_or(Drop::Ip6Truncated)?;
    if h[0] >> 4 != 6 {
        return Err(Drop::Ip6Version);
    }
    let room = room.wrapping_sub(40);
    let len = match usize::from(u16::from_be_bytes([h[4], h[5]])) {
        0 if room > 0xffff => room,
        len if len <= room => len,
        _ => return Err(Drop::Ip6Length),
    };
    // hop-by-hop, routing, fragment, ESP, AH, destination options, mobility, HIP, shim6
    if matches!(h[6], 0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140) {
        return Err(Drop::Ip6Extension);
    }
    let (src, dst) = (address(h, 8), address(h, 24));
    // The stack's tables would take it for IPv4 traffic (RFC 4942 section 2.2).
    if src.is_v4() || dst.is_v4() {
        return Err(Drop::Ip6Mapped);
    }
    Ok(L3 {
        src,
        dst,
        ttl: h[7],
        tos: (h[0] << 4) | (h[1] >> 4),
        proto: h[6],
        id: 0,
        hdr_len: 40,
        len: u32::try_from(len).map_err(|_| Drop::Ip6Length)?,
        rest,
    })
}

#[inline(always)]
fn address(h: &[u8; 40], at: usize) -> Ip {
    let bytes = h.get(at..).and_then(|tail| tail.first_chunk::<16>());
    Ip(bytes.copied().unwrap_or_default())
}

/// The header, its length, and the length of the payload.
#[inline(always)]
fn tcp(bytes: &[u8], len: u32) -> Result<(L4, u16, u32), Drop> {
    let (h, rest) = bytes.split_first_chunk::<20>().ok_or(Drop::TcpTruncated)?;
    if len < 20 {
        return Err(Drop::TcpTruncated);
    }
    let hdr_len = u16::from(h[12] >> 4).wrapping_mul(4);
    let payload_len = len
        .checked_sub(u32::from(hdr_len))
        .ok_or(Drop::TcpDataOffset)?;
    let options_len = usize::from(hdr_len)
        .checked_sub(20)
        .ok_or(Drop::TcpDataOffset)?;
    let options = rest.get(..options_len).ok_or(Drop::TcpTruncated)?;
    let header = TcpHdr {
        src_port: u16::from_be_bytes([h[0], h[1]]),
        dst_port: u16::from_be_bytes([h[2], h[3]]),
        seq: Seq(u32::from_be_bytes([h[4], h[5], h[6], h[7]])),
        ack: Seq(u32::from_be_bytes([h[8], h[9], h[10], h[11]])),
        flags: TcpFlags(h[13]),
        window: u16::from_be_bytes([h[14], h[15]]),
        checksum: u16::from_be_bytes([h[16], h[17]]),
        urgent: u16::from_be_bytes([h[18], h[19]]),
        options: TcpOpts::parse(options),
    };
    Ok((L4::Tcp(header), hdr_len, payload_len))
}

#[inline(always)]
fn udp(bytes: &[u8], len: u32) -> Result<(L4, u16, u32), Drop> {
    let (h, _) = bytes.split_first_chunk::<8>().ok_or(Drop::UdpTruncated)?;
    if len < 8 {
        return Err(Drop::UdpTruncated);
    }
    let length = u16::from_be_bytes([h[4], h[5]]);
    // Bytes between the UDP length and the IP length are not data; Linux trims them too.
    let payload_len = u32::from(length).checked_sub(8).ok_or(Drop::UdpLength)?;
    if u32::from(length) > len {
        return Err(Drop::UdpLength);
    }
    let header = UdpHdr {
        src_port: u16::from_be_bytes([h[0], h[1]]),
        dst_port: u16::from_be_bytes([h[2], h[3]]),
        length,
        checksum: u16::from_be_bytes([h[6], h[7]]),
    };
    Ok((L4::Udp(header), 8, payload_len))
}
