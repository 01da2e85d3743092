//! A whole Ethernet + IP + TCP/UDP header stack in one call.
//!
//! The frame is the header that is built here, followed by `payload_len` bytes of payload. Two
//! things are left to the V-NIC: finishing the L4 checksum, and cutting super-frames.

use crate::addr::{Endpoint, Ip, Mac};
use crate::checksum;
use crate::emit::{self, Fragment, HeaderBuf, Ipv4Spec, Ipv6Spec, TcpFields};
use crate::seq::Seq;
use crate::tcp::TcpFlags;
use crate::tcp_options::TcpOpts;
use crate::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPPROTO_TCP, IPPROTO_UDP};

/// Where things are in an emitted header; both count from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emitted {
    /// Where the TCP or UDP header starts: virtio's `csum_start`.
    pub l4_off: u16,
    /// Where the checksum field is. `csum_off - l4_off` is virtio's `csum_offset`.
    pub csum_off: u16,
}

/// Everything that a TCP segment's headers say.
#[derive(Clone, Copy, Debug)]
pub struct TcpSpec<'o> {
    /// Source Ethernet address.
    pub smac: Mac,
    /// Destination Ethernet address.
    pub dmac: Mac,
    /// 802.1Q tag control information; 0 is untagged.
    pub vlan: u16,
    /// Source.
    pub src: Endpoint,
    /// Destination, of the same family.
    pub dst: Endpoint,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgment number.
    pub ack: Seq,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field, already scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// TOS or traffic class, ECN included.
    pub tos: u8,
    /// IPv4 identification.
    pub ip_id: u16,
    /// Options.
    pub options: &'o TcpOpts,
    /// Bytes of payload; of the whole super-frame when the V-NIC cuts it.
    pub payload_len: u32,
}

impl TcpSpec<'_> {
    /// Replaces the contents of `out` with the headers. IPv4 gets DF and its header checksum.
    ///
    /// `None` only when the two addresses are of different families.
    #[must_use]
    pub fn emit(&self, out: &mut HeaderBuf) -> Option<Emitted> {
        let tcp_len = self.options.emitted_len().wrapping_add(20);
        let l4_len = u32::try_from(tcp_len)
            .ok()?
            .saturating_add(self.payload_len);
        let l4_off = below_l4(
            out,
            &Below {
                smac: self.smac,
                dmac: self.dmac,
                vlan: self.vlan,
                src: self.src.ip,
                dst: self.dst.ip,
                proto: IPPROTO_TCP,
                ttl: self.ttl,
                tos: self.tos,
                ip_id: self.ip_id,
                l4_len,
            },
        )?;
        let fields = TcpFields {
            src_port: self.src.port,
            dst_port: self.dst.port,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            urgent: self.urgent,
            checksum: checksum::pseudo_sum(self.src.ip, self.dst.ip, IPPROTO_TCP, l4_len),
            options: self.options,
        };
        let _len: usize = out.append(|b| emit::tcp(b, &fields))?;
        Some(Emitted {
            l4_off,
            csum_off: l4_off.wrapping_add(16),
        })
    }
}

/// Everything that a UDP datagram's headers say.
#[derive(Clone, Copy, Debug)]
pub struct UdpSpec {
    /// Source Ethernet address.
    pub smac: Mac,
    /// Destination Ethernet address.
    pub dmac: Mac,
    /// 802.1Q tag control information; 0 is untagged.
    pub vlan: u16,
    /// Source.
    pub src: Endpoint,
    /// Destination, of the same family.
    pub dst: Endpoint,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// TOS or traffic class, ECN included.
    pub tos: u8,
    /// IPv4 identification.
    pub ip_id: u16,
    /// Bytes of payload.
    pub payload_len: u32,
}

impl UdpSpec {
    /// Replaces the contents of `out` with the headers. IPv4 gets DF and its header checksum.
    ///
    /// `None` only when the two addresses are of different families.
    #[must_use]
    pub fn emit(&self, out: &mut HeaderBuf) -> Option<Emitted> {
        let l4_len = self.payload_len.saturating_add(8);
        let l4_off = below_l4(
            out,
            &Below {
                smac: self.smac,
                dmac: self.dmac,
                vlan: self.vlan,
                src: self.src.ip,
                dst: self.dst.ip,
                proto: IPPROTO_UDP,
                ttl: self.ttl,
                tos: self.tos,
                ip_id: self.ip_id,
                l4_len,
            },
        )?;
        let sum = checksum::pseudo_sum(self.src.ip, self.dst.ip, IPPROTO_UDP, l4_len);
        let _len: usize =
            out.append(|b| emit::udp(b, self.src.port, self.dst.port, self.payload_len, sum))?;
        Some(Emitted {
            l4_off,
            csum_off: l4_off.wrapping_add(6),
        })
    }
}

/// What is below the transport header.
struct Below {
    smac: Mac,
    dmac: Mac,
    vlan: u16,
    src: Ip,
    dst: Ip,
    proto: u8,
    ttl: u8,
    tos: u8,
    ip_id: u16,
    l4_len: u32,
}

/// Ethernet and IP headers; returns where the transport header starts.
fn below_l4(out: &mut HeaderBuf, b: &Below) -> Option<u16> {
    out.clear();
    match emit::v4_pair(b.src, b.dst)? {
        Some((src, dst)) => {
            let ip = Ipv4Spec {
                src,
                dst,
                proto: b.proto,
                ttl: b.ttl,
                tos: b.tos,
                id: b.ip_id,
                payload_len: b.l4_len,
                fragment: Fragment::Dont,
            };
            out.append(|o| emit::ethernet(o, b.dmac, b.smac, b.vlan, ETHERTYPE_IPV4))?;
            out.append(|o| emit::ipv4(o, &ip))?;
        }
        None => {
            let ip = Ipv6Spec {
                src: b.src.0,
                dst: b.dst.0,
                proto: b.proto,
                ttl: b.ttl,
                tos: b.tos,
                flow_label: 0,
                payload_len: b.l4_len,
            };
            out.append(|o| emit::ethernet(o, b.dmac, b.smac, b.vlan, ETHERTYPE_IPV6))?;
            out.append(|o| emit::ipv6(o, &ip))?;
        }
    }
    u16::try_from(out.len()).ok()
}
