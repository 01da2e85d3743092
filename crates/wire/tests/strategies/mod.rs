//! Random but legal packets, and the frames that emission makes of them.

#![allow(dead_code, reason = "each test file uses a part")]

use flyover_wire::emit::HeaderBuf;
use flyover_wire::template::Emitted;
use flyover_wire::{Endpoint, Ip, Mac, Seq, TcpFlags, TcpOpts, TcpSpec, UdpSpec, checksum};
use proptest::prelude::*;

/// A unicast source or any destination: what `parse` accepts as both.
pub fn ip_pair() -> impl Strategy<Value = (Ip, Ip)> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(s, d)| (Ip::v4(s), Ip::v4(d)));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(s, d)| (Ip::v6(s), Ip::v6(d)));
    prop_oneof![v4, v6].prop_filter("legal source and family", |(s, d)| {
        !s.is_multicast() && !s.is_broadcast() && s.is_v4() == d.is_v4()
    })
}

pub fn options() -> impl Strategy<Value = TcpOpts> {
    (
        any::<Option<u16>>(),
        prop::option::of(0u8..=14),
        any::<bool>(),
        any::<Option<(u32, u32)>>(),
        prop::collection::vec(any::<(u32, u32)>(), 0..=4),
    )
        .prop_map(|(mss, wscale, sack_permitted, ts, blocks)| {
            let mut o = TcpOpts {
                mss,
                wscale,
                sack_permitted,
                ts,
                ..TcpOpts::NONE
            };
            for (l, r) in blocks {
                assert!(o.push_sack(Seq(l), Seq(r)));
            }
            o
        })
}

/// Link and network fields common to both transports.
#[derive(Clone, Copy, Debug)]
pub struct Lower {
    pub smac: Mac,
    pub dmac: Mac,
    pub vlan: u16,
    pub src: Endpoint,
    pub dst: Endpoint,
    pub ttl: u8,
    pub tos: u8,
    pub ip_id: u16,
}

pub fn lower() -> impl Strategy<Value = Lower> {
    (
        any::<([u8; 6], [u8; 6])>(),
        prop_oneof![Just(0u16), 1u16..4095],
        ip_pair(),
        any::<(u16, u16)>(),
        any::<(u8, u8, u16)>(),
    )
        .prop_map(
            |((smac, dmac), vlan, (s, d), (sp, dp), (ttl, tos, ip_id))| Lower {
                smac: Mac(smac),
                dmac: Mac(dmac),
                vlan,
                src: Endpoint::new(s, sp),
                dst: Endpoint::new(d, dp),
                ttl,
                tos,
                ip_id,
            },
        )
}

#[derive(Clone, Debug)]
pub struct TcpCase {
    pub lower: Lower,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: TcpOpts,
    pub payload: Vec<u8>,
}

pub fn tcp_case() -> impl Strategy<Value = TcpCase> {
    (
        lower(),
        any::<(u32, u32, u8, u16, u16)>(),
        options(),
        prop::collection::vec(any::<u8>(), 0..200),
    )
        .prop_map(
            |(lower, (seq, ack, flags, window, urgent), options, payload)| TcpCase {
                lower,
                seq,
                ack,
                flags,
                window,
                urgent,
                options,
                payload,
            },
        )
}

impl TcpCase {
    pub fn frame(&self) -> (Vec<u8>, Emitted) {
        let l = &self.lower;
        let spec = TcpSpec {
            smac: l.smac,
            dmac: l.dmac,
            vlan: l.vlan,
            src: l.src,
            dst: l.dst,
            seq: Seq(self.seq),
            ack: Seq(self.ack),
            flags: TcpFlags(self.flags),
            window: self.window,
            urgent: self.urgent,
            ttl: l.ttl,
            tos: l.tos,
            ip_id: l.ip_id,
            options: &self.options,
            payload_len: self.payload.len() as u32,
        };
        let mut buf = HeaderBuf::new();
        let emitted = spec.emit(&mut buf).expect("same family");
        (with_payload(&buf, &self.payload), emitted)
    }
}

#[derive(Clone, Debug)]
pub struct UdpCase {
    pub lower: Lower,
    pub payload: Vec<u8>,
}

pub fn udp_case() -> impl Strategy<Value = UdpCase> {
    (lower(), prop::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(lower, payload)| UdpCase { lower, payload })
}

impl UdpCase {
    pub fn frame(&self) -> (Vec<u8>, Emitted) {
        let l = &self.lower;
        let spec = UdpSpec {
            smac: l.smac,
            dmac: l.dmac,
            vlan: l.vlan,
            src: l.src,
            dst: l.dst,
            ttl: l.ttl,
            tos: l.tos,
            ip_id: l.ip_id,
            payload_len: self.payload.len() as u32,
        };
        let mut buf = HeaderBuf::new();
        let emitted = spec.emit(&mut buf).expect("same family");
        (with_payload(&buf, &self.payload), emitted)
    }
}

fn with_payload(header: &HeaderBuf, payload: &[u8]) -> Vec<u8> {
    let mut frame = header.as_slice().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// What the V-NIC does: turns the partial checksum into a complete one.
pub fn finish_checksum(frame: &mut [u8], emitted: Emitted, finish: fn(u16) -> u16) {
    let sum = checksum::sum(&frame[usize::from(emitted.l4_off)..], 0);
    let at = usize::from(emitted.csum_off);
    frame[at..at + 2].copy_from_slice(&finish(sum).to_be_bytes());
}
