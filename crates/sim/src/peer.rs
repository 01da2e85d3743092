//! Segments made by hand: the other end of a wire without a stack.

use flyover_vnic::MemFrame;
use flyover_wire::emit::HeaderBuf;
use flyover_wire::{Endpoint, Mac, Seq, TcpFlags, TcpOpts, TcpSpec, UdpSpec, checksum};

/// The addresses of a made-up peer and of the stack it talks to.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Ours.
    pub local: Endpoint,
    /// The stack's.
    pub remote: Endpoint,
    /// Our MAC address.
    pub mac: Mac,
    /// The stack's.
    pub remote_mac: Mac,
}

/// A segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgment number.
    pub ack: Seq,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options.
    pub options: TcpOpts,
    /// ECN field of the IP header.
    pub ecn: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Segment {
    /// A segment without payload and options.
    pub fn new(flags: TcpFlags, seq: u32, ack: u32) -> Self {
        Self {
            seq: Seq(seq),
            ack: Seq(ack),
            flags,
            window: 65_535,
            urgent: 0,
            options: TcpOpts::NONE,
            ecn: 0,
            payload: Vec::new(),
        }
    }
}

impl Peer {
    /// The frame of a segment, checksums right.
    ///
    /// # Panics
    /// When the addresses are of different families.
    pub fn tcp(&self, s: &Segment) -> MemFrame {
        let mut hdr = HeaderBuf::new();
        let spec = TcpSpec {
            smac: self.mac,
            dmac: self.remote_mac,
            vlan: 0,
            src: self.local,
            dst: self.remote,
            seq: s.seq,
            ack: s.ack,
            flags: s.flags,
            window: s.window,
            urgent: s.urgent,
            ttl: 64,
            tos: s.ecn,
            ip_id: 1,
            options: &s.options,
            payload_len: s.payload.len() as u32,
        };
        let at = spec.emit(&mut hdr).expect("one family");
        let mut bytes = hdr.as_slice().to_vec();
        bytes.extend_from_slice(&s.payload);
        finish(&mut bytes, at.l4_off, at.csum_off, false);
        MemFrame::plain(bytes)
    }

    /// The frame of a datagram, checksums right.
    ///
    /// # Panics
    /// When the addresses are of different families.
    pub fn udp(&self, payload: &[u8]) -> MemFrame {
        let mut hdr = HeaderBuf::new();
        let spec = UdpSpec {
            smac: self.mac,
            dmac: self.remote_mac,
            vlan: 0,
            src: self.local,
            dst: self.remote,
            ttl: 64,
            tos: 0,
            ip_id: 1,
            payload_len: payload.len() as u32,
        };
        let at = spec.emit(&mut hdr).expect("one family");
        let mut bytes = hdr.as_slice().to_vec();
        bytes.extend_from_slice(payload);
        finish(&mut bytes, at.l4_off, at.csum_off, true);
        MemFrame::plain(bytes)
    }
}

fn finish(bytes: &mut [u8], l4_off: u16, csum_off: u16, udp: bool) {
    let sum = checksum::sum(&bytes[usize::from(l4_off)..], 0);
    let sum = if udp {
        checksum::finish_udp(sum)
    } else {
        checksum::finish(sum)
    };
    let at = usize::from(csum_off);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
