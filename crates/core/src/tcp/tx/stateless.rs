//! Answers to segments that no connection takes: they are made of the segment alone.

use super::build::{next_ip_id, transmit};
use crate::ip::tx::{Way, way_to};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::tcp::rx::{Seg, count};
use crate::tcp::{user, window};
use flyover_vnic::TxResult;
use flyover_wire::{Endpoint, Seq, TcpFlags, TcpOpts, TcpSpec};

/// A SYN-ACK of which nothing is kept (`rx/cookie.rs`).
pub(crate) fn send_cookie(
    l: &mut Locked<'_, '_, '_>,
    p: &RxPkt<'_>,
    seg: &Seg<'_>,
    listener: SockId,
    iss: Seq,
    (mut options, ecn): (TcpOpts, bool),
) {
    let (local, remote) = (p.hdr.destination(), p.hdr.source());
    let Ok((way, _)) = way_to(l, remote.ip, Some(local.ip)) else {
        // Its neighbour is asked for, and the peer asks again.
        return;
    };
    let s = l.st.net(listener);
    let mss = user::connect::mss_within(&s, remote.ip.is_v4(), way.mtu);
    options.mss = Some(mss);
    let unit = u32::from(mss) - options.ts.map_or(0, |_| 12);
    let mut flags = TcpFlags::SYN.with(TcpFlags::ACK);
    if ecn {
        flags = flags.with(TcpFlags::ECE);
    }
    let spec = TcpSpec {
        seq: iss,
        ack: seg.seq.add(1),
        flags,
        window: window::initial_field(window::initial(l.st, s, unit)),
        ttl: s.ttl_to(remote.ip),
        tos: s.tos_to(remote.ip),
        ..back(l, p, &way, &options)
    };
    if transmit(l, &way, &spec, &[], 0) != TxResult::Sent {
        count!(l, tx_dropped);
    }
}

/// A RST in answer to a segment that no connection takes (RFC 9293 section 3.10.7.1).
pub(crate) fn send_rst_for(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>) {
    count!(l, tcp_rst_out);
    let (seq, ack, flags) = if seg.flags.has(TcpFlags::ACK) {
        (seg.ack, Seq(0), TcpFlags::RST)
    } else {
        (
            Seq(0),
            seg.seq.add(seg.seq_len()),
            TcpFlags::RST.with(TcpFlags::ACK),
        )
    };
    let (local, remote): (Endpoint, Endpoint) = (p.hdr.destination(), p.hdr.source());
    let Ok((way, _)) = way_to(l, remote.ip, Some(local.ip)) else {
        return;
    };
    let options = TcpOpts::default();
    let spec = TcpSpec {
        seq,
        ack,
        flags,
        ..back(l, p, &way, &options)
    };
    let _: TxResult = transmit(l, &way, &spec, &[], 0);
}

/// A bare segment to where `p` came from.
fn back<'o>(l: &Locked<'_, '_, '_>, p: &RxPkt<'_>, way: &Way, options: &'o TcpOpts) -> TcpSpec<'o> {
    TcpSpec {
        smac: way.smac,
        dmac: way.dmac,
        vlan: 0,
        src: p.hdr.destination(),
        dst: p.hdr.source(),
        seq: Seq(0),
        ack: Seq(0),
        flags: TcpFlags::RST,
        window: 0,
        urgent: 0,
        ttl: 64,
        tos: 0,
        ip_id: next_ip_id(l.st, 1),
        options,
        payload_len: 0,
    }
}
