//! etherparse, written by other people, reads and writes the same frames.

mod strategies;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use flyover_wire::frame::parse;
use flyover_wire::{L4, checksum};
use proptest::prelude::*;
use strategies::{finish_checksum, tcp_case, udp_case};

proptest! {
    /// etherparse agrees with every field that we emit, and with the finished checksums.
    #[test]
    fn reads_what_we_emit(t in tcp_case(), u in udp_case()) {
        let (mut bytes, emitted) = t.frame();
        finish_checksum(&mut bytes, emitted, checksum::finish);
        let p = PacketHeaders::from_ethernet_slice(&bytes).unwrap();
        prop_assert_eq!(p.payload.slice(), &t.payload[..]);
        let Some(TransportHeader::Tcp(tcp)) = p.transport else { panic!("not TCP") };
        prop_assert_eq!((tcp.source_port, tcp.destination_port), (t.lower.src.port, t.lower.dst.port));
        prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (t.seq, t.ack));
        prop_assert_eq!((tcp.window_size, tcp.urgent_pointer), (t.window, t.urgent));
        let flags = [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr];
        for (bit, set) in flags.into_iter().enumerate() {
            prop_assert_eq!(set, t.flags >> bit & 1 == 1);
        }
        let expected = match p.net {
            Some(NetHeaders::Ipv4(ip, _)) => {
                prop_assert!(ip.dont_fragment && !ip.more_fragments);
                prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                prop_assert_eq!((ip.time_to_live, ip.identification), (t.lower.ttl, t.lower.ip_id));
                tcp.calc_checksum_ipv4(&ip, &t.payload).unwrap()
            }
            Some(NetHeaders::Ipv6(ip, _)) => {
                prop_assert_eq!((ip.hop_limit, ip.traffic_class), (t.lower.ttl, t.lower.tos));
                tcp.calc_checksum_ipv6(&ip, &t.payload).unwrap()
            }
            _ => panic!("not IP"),
        };
        prop_assert_eq!(tcp.checksum, expected);

        let (mut bytes, emitted) = u.frame();
        finish_checksum(&mut bytes, emitted, checksum::finish_udp);
        let p = PacketHeaders::from_ethernet_slice(&bytes).unwrap();
        prop_assert_eq!(p.payload.slice(), &u.payload[..]);
        let Some(TransportHeader::Udp(udp)) = p.transport else { panic!("not UDP") };
        let expected = match p.net {
            Some(NetHeaders::Ipv4(ip, _)) => udp.calc_checksum_ipv4(&ip, &u.payload).unwrap(),
            Some(NetHeaders::Ipv6(ip, _)) => udp.calc_checksum_ipv6(&ip, &u.payload).unwrap(),
            _ => panic!("not IP"),
        };
        prop_assert_eq!(udp.checksum, expected);
    }

    /// We read what etherparse builds.
    #[test]
    fn we_read_what_it_builds(t in tcp_case()) {
        let l = &t.lower;
        let eth = PacketBuilder::ethernet2(l.smac.0, l.dmac.0);
        let ip = match (l.src.ip.as_v4(), l.dst.ip.as_v4()) {
            (Some(s), Some(d)) => eth.ipv4(s, d, l.ttl),
            _ => eth.ipv6(l.src.ip.0, l.dst.ip.0, l.ttl),
        };
        let builder = ip.tcp(l.src.port, l.dst.port, t.seq, t.window).ack(t.ack).psh();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &t.payload).unwrap();
        let h = parse(&bytes, bytes.len()).unwrap();
        prop_assert_eq!((h.source(), h.destination()), (l.src, l.dst));
        prop_assert_eq!(&bytes[usize::from(h.payload_off)..], &t.payload[..]);
        let L4::Tcp(tcp) = h.l4 else { panic!("not TCP") };
        prop_assert_eq!((tcp.seq.0, tcp.ack.0, tcp.window), (t.seq, t.ack, t.window));
        let sum = checksum::sum(&bytes[usize::from(h.l4_off)..], u32::from(h.pseudo_sum()));
        prop_assert!(checksum::is_valid(sum));
    }
}
