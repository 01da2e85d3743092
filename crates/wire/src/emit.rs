//! Single headers into a byte slice. Each function writes one header at the start of `out` and
//! returns its length, or `None` (nothing written) when `out` is too short.
//!
//! Convention: a TCP or UDP checksum field is emitted as the folded pseudo-header sum, not
//! inverted: what the kernel calls `CHECKSUM_PARTIAL` and virtio `NEEDS_CSUM`. Whoever puts the
//! frame on the wire sums from the L4 header on and calls `checksum::finish`.

use crate::ETHERTYPE_VLAN;
use crate::addr::{Ip, Mac};
use crate::checksum;
use crate::seq::Seq;
use crate::tcp::TcpFlags;
use crate::tcp_options::{MAX_LEN, TcpOpts};

/// Most bytes that a [`HeaderBuf`] holds; `frame::MAX_HEADERS` rounded up.
pub const HEADER_BUF: usize = 128;

/// Headers of one outgoing frame, built in private memory.
#[derive(Clone, Copy)]
pub struct HeaderBuf {
    bytes: [u8; HEADER_BUF],
    /// Invariant: at most `HEADER_BUF`.
    len: u16,
}

impl HeaderBuf {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; HEADER_BUF],
            len: 0,
        }
    }

    /// Bytes written.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The headers.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or(&self.bytes)
    }

    /// The headers, for patching.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len();
        match self.bytes.get_mut(..len) {
            Some(used) => used,
            None => &mut [],
        }
    }

    /// Makes the first `N` bytes the contents, for writing; `None` when it holds fewer.
    #[inline]
    pub fn fixed<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.len = u16::try_from(N).ok()?;
        self.bytes.first_chunk_mut::<N>()
    }

    /// Forgets the contents.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends what `write` puts into the unused part; `None` when that says `None`.
    pub fn append(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<usize> {
        let at = self.len();
        let n = write(self.bytes.get_mut(at..)?)?;
        let end = at.checked_add(n).filter(|end| *end <= HEADER_BUF)?;
        self.len = u16::try_from(end).ok()?;
        Some(n)
    }
}

impl Default for HeaderBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for HeaderBuf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HeaderBuf({:02x?})", self.as_slice())
    }
}

fn put<const N: usize>(out: &mut [u8], header: [u8; N]) -> Option<usize> {
    *out.first_chunk_mut::<N>()? = header;
    Some(N)
}

/// Ethernet header, 14 bytes, or 18 with an 802.1Q tag. `vlan` is the tag control information
/// (identifier and priority); 0 means untagged.
#[must_use]
pub fn ethernet(out: &mut [u8], dmac: Mac, smac: Mac, vlan: u16, ether_type: u16) -> Option<usize> {
    let [d0, d1, d2, d3, d4, d5] = dmac.0;
    let [s0, s1, s2, s3, s4, s5] = smac.0;
    let [t0, t1] = ether_type.to_be_bytes();
    if vlan == 0 {
        return put(
            out,
            [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1],
        );
    }
    let [v0, v1] = vlan.to_be_bytes();
    let [q0, q1] = ETHERTYPE_VLAN.to_be_bytes();
    put(
        out,
        [
            d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, q0, q1, v0, v1, t0, t1,
        ],
    )
}

/// Fields of an IPv4 header that a sender chooses.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Spec {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Protocol number.
    pub proto: u8,
    /// Time to live, hops.
    pub ttl: u8,
    /// TOS byte, ECN included.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Bytes after this header. When they do not fit the 16-bit length field with it, the field is
    /// zero, as the kernel writes for its super-frames above 64 KiB.
    pub payload_len: u32,
    /// Fragmentation.
    pub fragment: Fragment,
}

/// The fragmentation word of an IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// A whole packet that routers must not cut (DF).
    Dont,
    /// A whole packet that routers may cut.
    May,
    /// One piece of a packet.
    Piece {
        /// Where it starts in the payload of the whole packet: bytes, a multiple of 8.
        offset: u16,
        /// Whether others follow (MF).
        more: bool,
    },
}

impl Fragment {
    const fn word(self) -> u16 {
        match self {
            Self::Dont => 0x4000,
            Self::May => 0,
            Self::Piece { offset, more } => (offset >> 3) | if more { 0x2000 } else { 0 },
        }
    }
}

/// IPv4 header of 20 bytes with its checksum.
#[must_use]
pub fn ipv4(out: &mut [u8], spec: &Ipv4Spec) -> Option<usize> {
    let [l0, l1] = u16::try_from(spec.payload_len.saturating_add(20))
        .unwrap_or(0)
        .to_be_bytes();
    let [i0, i1] = spec.id.to_be_bytes();
    let [f0, f1] = spec.fragment.word().to_be_bytes();
    let [s0, s1, s2, s3] = spec.src;
    let [d0, d1, d2, d3] = spec.dst;
    let mut h = [
        0x45, spec.tos, l0, l1, i0, i1, f0, f1, spec.ttl, spec.proto, 0, 0, s0, s1, s2, s3, d0, d1,
        d2, d3,
    ];
    [h[10], h[11]] = checksum::finish(checksum::ipv4_header_sum(&h)).to_be_bytes();
    put(out, h)
}

/// Fields of an IPv6 header that a sender chooses.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Spec {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Next header: protocol number.
    pub proto: u8,
    /// Hop limit.
    pub ttl: u8,
    /// Traffic class, ECN included.
    pub tos: u8,
    /// Flow label, 20 bits (RFC 6437); 0 is "none".
    pub flow_label: u32,
    /// Bytes after this header; above 65535 the field is zero.
    pub payload_len: u32,
}

/// IPv6 header, 40 bytes.
#[must_use]
pub fn ipv6(out: &mut [u8], spec: &Ipv6Spec) -> Option<usize> {
    let first = (6 << 28) | (u32::from(spec.tos) << 20) | (spec.flow_label & 0x000f_ffff);
    let h = out.first_chunk_mut::<40>()?;
    let [a, b, c, d] = first.to_be_bytes();
    let [l0, l1] = u16::try_from(spec.payload_len).unwrap_or(0).to_be_bytes();
    let (fixed, addresses) = h.split_first_chunk_mut::<8>()?;
    *fixed = [a, b, c, d, l0, l1, spec.proto, spec.ttl];
    let (src, dst) = addresses.split_first_chunk_mut::<16>()?;
    *src = spec.src;
    *dst.first_chunk_mut::<16>()? = spec.dst;
    Some(40)
}

/// IPv6 fragment header, 8 bytes (RFC 8200 section 4.5). `offset` in bytes, a multiple of 8.
#[must_use]
pub fn ipv6_fragment(out: &mut [u8], proto: u8, offset: u16, more: bool, id: u32) -> Option<usize> {
    let [o0, o1] = ((offset & !7) | u16::from(more)).to_be_bytes();
    let [i0, i1, i2, i3] = id.to_be_bytes();
    put(out, [proto, 0, o0, o1, i0, i1, i2, i3])
}

/// Fields of a TCP header.
#[derive(Clone, Copy, Debug)]
pub struct TcpFields<'o> {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
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
    /// Checksum field; by convention the folded pseudo-header sum.
    pub checksum: u16,
    /// Options.
    pub options: &'o TcpOpts,
}

/// TCP header with options, 20 to 60 bytes.
#[must_use]
pub fn tcp(out: &mut [u8], f: &TcpFields<'_>) -> Option<usize> {
    let (h, rest) = out.split_first_chunk_mut::<20>()?;
    let options_len = if *f.options == TcpOpts::NONE {
        0
    } else {
        let mut options = [0; MAX_LEN];
        let n = f.options.emit(&mut options);
        rest.get_mut(..n)?.copy_from_slice(options.get(..n)?);
        n
    };
    let len = options_len.wrapping_add(20);
    let [p0, p1] = f.src_port.to_be_bytes();
    let [q0, q1] = f.dst_port.to_be_bytes();
    let [s0, s1, s2, s3] = f.seq.0.to_be_bytes();
    let [a0, a1, a2, a3] = f.ack.0.to_be_bytes();
    let [w0, w1] = f.window.to_be_bytes();
    let [c0, c1] = f.checksum.to_be_bytes();
    let [u0, u1] = f.urgent.to_be_bytes();
    // 20..=60 bytes in words, in the upper half of the byte
    let offset = u8::try_from(len << 2).ok()?;
    *h = [
        p0, p1, q0, q1, s0, s1, s2, s3, a0, a1, a2, a3, offset, f.flags.0, w0, w1, c0, c1, u0, u1,
    ];
    Some(len)
}

/// UDP header, 8 bytes. `payload_len` in bytes; a datagram above the 16-bit length gets length 0
/// (only inside a super-frame that the kernel cuts).
#[must_use]
pub fn udp(
    out: &mut [u8],
    src_port: u16,
    dst_port: u16,
    payload_len: u32,
    checksum: u16,
) -> Option<usize> {
    let [p0, p1] = src_port.to_be_bytes();
    let [q0, q1] = dst_port.to_be_bytes();
    let [l0, l1] = u16::try_from(payload_len.saturating_add(8))
        .unwrap_or(0)
        .to_be_bytes();
    let [c0, c1] = checksum.to_be_bytes();
    put(out, [p0, p1, q0, q1, l0, l1, c0, c1])
}

/// Whether both addresses are of one family; `None` when they are not.
pub(crate) fn v4_pair(src: Ip, dst: Ip) -> Option<Option<([u8; 4], [u8; 4])>> {
    match (src.as_v4(), dst.as_v4()) {
        (Some(s), Some(d)) => Some(Some((s, d))),
        (None, None) => Some(None),
        _ => None,
    }
}
