//! The peer's FIN came while the stack had the connection, and was acknowledged: the peer does not repeat it. The kernel
//! learns it from a packet that this host sends to itself, as the peer would have sent it.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use flyover_proto::TcpImage;
use flyover_wire::emit::{self, Fragment, Ipv4Spec, Ipv6Spec, TcpFields};
use flyover_wire::{Seq, TcpFlags, TcpOpts, checksum};
use rustix::net::{
    AddressFamily, RawProtocol, SendFlags, SocketFlags, SocketType, sendto, socket_with,
};

use crate::filters::TCP;
use crate::net::within;
use crate::netns::NetNs;

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;

/// Gives the connection that `image` describes, now the kernel's, the peer's FIN.
pub fn deliver(ns: &NetNs, image: &TcpImage) -> io::Result<()> {
    let packet = packet(image).ok_or(io::ErrorKind::InvalidInput)?;
    let (family, to) = match image.local.ip.to_std() {
        ip @ IpAddr::V4(_) => (AddressFamily::INET, SocketAddr::new(ip, 0)),
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() {
                image.ifindex
            } else {
                0
            };
            (
                AddressFamily::INET6,
                SocketAddrV6::new(v6, 0, 0, scope).into(),
            )
        }
    };
    within(ns, || {
        // IPPROTO_RAW: the packet comes with its IP header, raw(7).
        let raw = RawProtocol::new(IPPROTO_RAW).map(rustix::net::Protocol::from_raw);
        let sock = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, raw)?;
        sendto(&sock, &packet, SendFlags::empty(), &to)?;
        Ok(())
    })
}

/// `IPPROTO_RAW`.
const IPPROTO_RAW: u32 = 255;

/// The FIN as the peer's IP packet.
fn packet(image: &TcpImage) -> Option<Vec<u8>> {
    let mut tcp = [0u8; TCP_LEN];
    let (src, dst) = (image.remote, image.local);
    let len = TCP_LEN as u32;
    let scale = image.peer_scale.unwrap_or(0).min(14);
    let fields = TcpFields {
        src_port: src.port,
        dst_port: dst.port,
        seq: Seq(image.rcv_nxt),
        ack: Seq(image.snd_una),
        flags: TcpFlags::FIN.with(TcpFlags::ACK),
        window: u16::try_from(image.snd_wnd >> scale).unwrap_or(u16::MAX),
        urgent: 0,
        checksum: checksum::pseudo_sum(src.ip, dst.ip, TCP, len),
        options: &TcpOpts::NONE,
    };
    emit::tcp(&mut tcp, &fields)?;
    let sum = checksum::finish(checksum::sum(&tcp, 0));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut ip = [0u8; 40];
    let n = match (src.ip.as_v4(), dst.ip.as_v4()) {
        (Some(src), Some(dst)) => emit::ipv4(
            &mut ip,
            &Ipv4Spec {
                src,
                dst,
                proto: TCP,
                ttl: 64,
                tos: 0,
                id: 0,
                payload_len: len,
                fragment: Fragment::Dont,
            },
        )?,
        _ => emit::ipv6(
            &mut ip,
            &Ipv6Spec {
                src: src.ip.0,
                dst: dst.ip.0,
                proto: TCP,
                ttl: 64,
                tos: 0,
                flow_label: 0,
                payload_len: len,
            },
        )?,
    };
    Some([ip.get(..n)?, &tcp[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyover_wire::Endpoint;

    fn image(local: &str, remote: &str) -> TcpImage {
        let at = |s: &str| Endpoint::from(s.parse::<SocketAddr>().unwrap());
        TcpImage {
            local: at(local),
            remote: at(remote),
            ifindex: 0,
            snd_una: 5,
            unacked: 0,
            queued: 0,
            rcv_nxt: 9,
            unread: 0,
            snd_wnd: 1 << 20,
            snd_wl1: 0,
            max_wnd: 1 << 20,
            rcv_wnd: 0,
            mss: 1460,
            peer_scale: Some(7),
            own_scale: Some(7),
            sack: true,
            timestamp: None,
            fin_in: true,
            fin_out: false,
            fin_acked: false,
        }
    }

    #[test]
    fn the_fin_is_the_peers_and_intact() {
        for (local, remote, head) in [
            ("10.0.0.1:80", "10.0.0.2:999", 20),
            ("[fd00::1]:80", "[fd00::2]:999", 40),
        ] {
            let i = image(local, remote);
            let p = packet(&i).unwrap();
            let tcp = &p[head..];
            assert_eq!(tcp.len(), TCP_LEN);
            assert_eq!(tcp[..4], [3, 231, 0, 80]);
            assert_eq!(tcp[4..12], [0, 0, 0, 9, 0, 0, 0, 5]);
            assert_eq!(tcp[13], 0x11);
            assert_eq!(tcp[14..16], (8192u16).to_be_bytes());
            let pseudo = checksum::pseudo_sum(i.remote.ip, i.local.ip, TCP, 20);
            assert!(checksum::is_valid(checksum::sum(tcp, u32::from(pseudo))));
        }
    }
}
