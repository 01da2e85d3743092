//! Frames for unit tests.

use flyover_wire::emit::HeaderBuf;
use flyover_wire::{Endpoint, Ip, Mac, Seq, TcpFlags, TcpOpts, TcpSpec};

use crate::TxOffload;

pub(crate) const TCP_OFF: TxOffload = TxOffload {
    csum_start: 34,
    csum_offset: 16,
    gso_size: 1000,
    l4_tcp: true,
    v6: false,
    hdr_len: 54,
};

/// Headers of a TCP segment (sequence number 1000, PSH|FIN|ACK) that will carry `payload`.
pub(crate) fn tcp_frame(v6: bool, payload: &[u8], gso_size: u16) -> (Vec<u8>, TxOffload) {
    let ip = |last: u8| {
        if v6 {
            let mut bytes = [0; 16];
            (bytes[0], bytes[15]) = (0xfd, last);
            Ip::v6(bytes)
        } else {
            Ip::v4([10, 0, 0, last])
        }
    };
    let mut buf = HeaderBuf::new();
    let spec = TcpSpec {
        smac: Mac([2, 0, 0, 0, 0, 1]),
        dmac: Mac([2, 0, 0, 0, 0, 2]),
        vlan: 0,
        src: Endpoint {
            ip: ip(1),
            port: 1111,
        },
        dst: Endpoint {
            ip: ip(2),
            port: 2222,
        },
        seq: Seq(1000),
        ack: Seq(1),
        flags: TcpFlags(0x19),
        window: 1000,
        urgent: 0,
        ttl: 64,
        tos: 0,
        ip_id: 7,
        options: &TcpOpts::default(),
        payload_len: payload.len() as u32,
    };
    let emitted = spec.emit(&mut buf).unwrap();
    let hdr = buf.as_slice().to_vec();
    let off = TxOffload {
        csum_start: emitted.l4_off,
        csum_offset: emitted.csum_off - emitted.l4_off,
        gso_size,
        l4_tcp: true,
        v6,
        hdr_len: hdr.len() as u16,
    };
    (hdr, off)
}
