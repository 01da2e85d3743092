//! A whole Ethernet + IP + TCP/UDP header stack in one call.
//!
//! The frame is the header that is built here, followed by `payload_len` bytes of payload. Two
//! things are left to the V-NIC: finishing the L4 checksum, and cutting super-frames.

use crate::addr::{Endpoint, Ip, Mac};
use crate::checksum;
use crate::emit::{self, Fragment, HeaderBuf, Ipv4Spec, Ipv6Spec, TcpFields};
use crate::seq::Seq;
use crate::tcp::TcpFlags;
use crate::tcp_options::{self, TcpOpts};
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
        if self.vlan == 0
            && let Some(stamps) = self.options.only_timestamps()
            && let Some((src, dst)) = emit::v4_pair(self.src.ip, self.dst.ip)?
        {
            return self.emit_common(out, (src, dst), stamps);
        }
        self.emit_any(out)
    }

    /// What nearly every segment has: IPv4, no tag, timestamps. In one piece, without a detour for each part.
    #[inline]
    fn emit_common(
        &self,
        out: &mut HeaderBuf,
        (src, dst): ([u8; 4], [u8; 4]),
        (val, ecr): (u32, u32),
    ) -> Option<Emitted> {
        let l4_len = self.payload_len.saturating_add(32);
        let total = u16::try_from(l4_len.saturating_add(20)).unwrap_or(0);
        let halves = |a: u32| (a >> 16).wrapping_add(a & 0xffff);
        let addresses =
            halves(u32::from_be_bytes(src)).wrapping_add(halves(u32::from_be_bytes(dst)));
        let life = u16::from_be_bytes([self.ttl, IPPROTO_TCP]);
        let fixed = [
            u16::from_be_bytes([0x45, self.tos]),
            total,
            self.ip_id,
            0x4000,
            life,
        ];
        let ip_sum = fixed
            .iter()
            .fold(addresses, |sum, word| sum.wrapping_add(u32::from(*word)));
        let pseudo = addresses
            .wrapping_add(u32::from(IPPROTO_TCP))
            .wrapping_add(halves(l4_len));

        let h = out.fixed::<66>()?;
        let (eth, h) = h.split_first_chunk_mut::<14>()?;
        let (ip, tcp) = h.split_first_chunk_mut::<20>()?;
        *eth.first_chunk_mut::<6>()? = self.dmac.0;
        *eth.get_mut(6..)?.first_chunk_mut::<6>()? = self.smac.0;
        *eth.last_chunk_mut::<2>()? = ETHERTYPE_IPV4.to_be_bytes();
        let put = |at: &mut [u8; 4], hi: u16, lo: u16| {
            *at = (u32::from(hi) << 16 | u32::from(lo)).to_be_bytes();
        };
        let ([w0, w1, w2, w3, w4], []) = ip.as_chunks_mut::<4>() else {
            return None;
        };
        let [version, total, id, fragment, life] = fixed;
        put(w0, version, total);
        put(w1, id, fragment);
        put(w2, life, checksum::finish(checksum::fold(ip_sum)));
        (*w3, *w4) = (src, dst);
        let ([w0, w1, w2, w3, w4, w5, w6, w7], []) = tcp.as_chunks_mut::<4>() else {
            return None;
        };
        put(w0, self.src.port, self.dst.port);
        *w1 = self.seq.0.to_be_bytes();
        *w2 = self.ack.0.to_be_bytes();
        // Data offset: eight words.
        put(w3, u16::from_be_bytes([8 << 4, self.flags.0]), self.window);
        put(w4, checksum::fold(pseudo), self.urgent);
        *w5 = tcp_options::TIMESTAMPS_LEAD;
        (*w6, *w7) = (val.to_be_bytes(), ecr.to_be_bytes());
        Some(Emitted {
            l4_off: 34,
            csum_off: 50,
        })
    }

    fn emit_any(&self, out: &mut HeaderBuf) -> Option<Emitted> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A multiplicative generator: the test needs no more.
    fn next(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *state >> 24
    }

    #[test]
    fn the_common_segment_is_what_the_parts_make_of_it() {
        let mut r = 7;
        for i in 0..2000u32 {
            let options = TcpOpts::timestamps(next(&mut r) as u32, next(&mut r) as u32);
            let edge = [0, 1, 1448, 65_483, 65_484, 70_000, 200_000];
            let mut end = || {
                let ip = Ip::v4((next(&mut r) as u32).to_be_bytes());
                Endpoint::new(ip, next(&mut r) as u16)
            };
            let (src, dst) = (end(), end());
            let spec = TcpSpec {
                smac: Mac([2, 0, 0, 0, 0, 1]),
                dmac: Mac([2, 1, 2, 3, 4, 5]),
                vlan: 0,
                src,
                dst,
                seq: Seq(next(&mut r) as u32),
                ack: Seq(next(&mut r) as u32),
                flags: TcpFlags(next(&mut r) as u8),
                window: next(&mut r) as u16,
                urgent: next(&mut r) as u16,
                ttl: next(&mut r) as u8,
                tos: next(&mut r) as u8,
                ip_id: next(&mut r) as u16,
                options: &options,
                payload_len: edge[i as usize % edge.len()],
            };
            let (mut quick, mut parts) = (HeaderBuf::new(), HeaderBuf::new());
            assert_eq!(spec.emit(&mut quick), spec.emit_any(&mut parts));
            assert_eq!(quick.as_slice(), parts.as_slice(), "{spec:?}");
        }
    }
}
