//! ICMP errors: which connection the quoted packet belongs to. The errors themselves arrive
//! through the kernel; only the quotation needs parsing here.

use crate::addr::{Endpoint, FlowKey, Ip};
use crate::seq::Seq;
use crate::{IPPROTO_TCP, IPPROTO_UDP};

/// The start of a packet that we sent, as an ICMP error quotes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// The flow from our side: `local` is the quoted packet's source.
    pub flow: FlowKey,
    /// Sequence number of the quoted segment; `None` for UDP. An error whose number is not
    /// outstanding is a forgery (RFC 5927 section 4.1).
    pub seq: Option<Seq>,
}

/// Parses a quoted IP packet: at least the IP header and 8 bytes of TCP or UDP (RFC 792, RFC 4443
/// section 2.4). IPv4 options are stepped over. `None` for anything that cannot be ours.
#[must_use]
pub fn quoted(packet: &[u8]) -> Option<Quoted> {
    let (src, dst, proto, l4) = match packet.first()? >> 4 {
        4 => {
            let h = packet.first_chunk::<20>()?;
            let hdr_len = usize::from(h[0] & 15).wrapping_mul(4);
            // only a first fragment has the ports
            if hdr_len < 20 || u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
                return None;
            }
            let src = Ip::v4([h[12], h[13], h[14], h[15]]);
            let dst = Ip::v4([h[16], h[17], h[18], h[19]]);
            (src, dst, h[9], packet.get(hdr_len..)?)
        }
        6 => {
            let (h, l4) = packet.split_first_chunk::<40>()?;
            let (_, addresses) = h.split_first_chunk::<8>()?;
            let (src, dst) = addresses.split_first_chunk::<16>()?;
            (Ip(*src), Ip(*dst.first_chunk::<16>()?), h[6], l4)
        }
        _ => return None,
    };
    let [p0, p1, q0, q1, s0, s1, s2, s3] = *l4.first_chunk::<8>()?;
    let seq = match proto {
        IPPROTO_TCP => Some(Seq(u32::from_be_bytes([s0, s1, s2, s3]))),
        IPPROTO_UDP => None,
        _ => return None,
    };
    let local = Endpoint {
        ip: src,
        port: u16::from_be_bytes([p0, p1]),
    };
    let remote = Endpoint {
        ip: dst,
        port: u16::from_be_bytes([q0, q1]),
    };
    Some(Quoted {
        flow: FlowKey {
            proto,
            local,
            remote,
        },
        seq,
    })
}
