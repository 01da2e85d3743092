//! A frame in one line, close to what tcpdump prints. For logs, traces and failed tests.

use core::fmt;

use crate::frame::{self, Headers, L4};
use crate::tcp::{TcpFlags, TcpHdr};
use crate::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// Text of a complete frame.
#[must_use]
pub fn frame(bytes: &[u8]) -> Frame<'_> {
    head(bytes, bytes.len())
}

/// Text of a frame of `frame_len` bytes of which only the first ones are at hand.
#[must_use]
pub fn head(bytes: &[u8], frame_len: usize) -> Frame<'_> {
    Frame { bytes, frame_len }
}

/// Displays as one line.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'b> {
    bytes: &'b [u8],
    frame_len: usize,
}

impl fmt::Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match frame::parse(self.bytes, self.frame_len) {
            Ok(headers) => packet(f, &headers),
            Err(why) => {
                match self.bytes.get(12..14) {
                    Some(&[a, b]) => match u16::from_be_bytes([a, b]) {
                        ETHERTYPE_ARP => return write!(f, "ARP, frame {}", self.frame_len),
                        ETHERTYPE_IPV4 => f.write_str("IP ")?,
                        ETHERTYPE_IPV6 => f.write_str("IP6 ")?,
                        other => write!(f, "ethertype {other:#06x} ")?,
                    },
                    _ => f.write_str("runt ")?,
                }
                write!(f, "[{why}], frame {}", self.frame_len)
            }
        }
    }
}

fn packet(f: &mut fmt::Formatter<'_>, h: &Headers) -> fmt::Result {
    if let Some(vlan) = h.vlan {
        write!(f, "vlan {vlan} ")?;
    }
    f.write_str(if h.dst.is_v4() { "IP " } else { "IP6 " })?;
    write!(f, "{} > {}: ", h.source(), h.destination())?;
    match &h.l4 {
        L4::Udp(_) => write!(f, "UDP, length {}", h.payload_len),
        L4::Tcp(tcp) => segment(f, tcp, h.payload_len),
    }
}

fn segment(f: &mut fmt::Formatter<'_>, t: &TcpHdr, payload_len: u32) -> fmt::Result {
    write!(f, "[{}], seq {}", t.flags, t.seq)?;
    if payload_len > 0 {
        write!(f, ":{}", t.seq.add(payload_len))?;
    }
    if t.flags.has(TcpFlags::ACK) {
        write!(f, ", ack {}", t.ack)?;
    }
    write!(f, ", win {}", t.window)?;
    if t.flags.has(TcpFlags::URG) {
        write!(f, ", urg {}", t.urgent)?;
    }
    let o = &t.options;
    if let Some(mss) = o.mss {
        write!(f, ", mss {mss}")?;
    }
    if o.sack_permitted {
        f.write_str(", sackOK")?;
    }
    if let Some((val, ecr)) = o.ts {
        write!(f, ", TS val {val} ecr {ecr}")?;
    }
    if let Some(shift) = o.wscale {
        write!(f, ", wscale {shift}")?;
    }
    for (left, right) in o.sack_blocks() {
        write!(f, ", sack {left}:{right}")?;
    }
    write!(f, ", length {payload_len}")
}
