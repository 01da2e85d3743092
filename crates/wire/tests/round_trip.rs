//! What emission writes, parsing reads back.

mod strategies;

use flyover_wire::frame::{self, MAX_HEADERS};
use flyover_wire::{L4, Seq, TcpFlags, TcpOpts, checksum};
use proptest::prelude::*;
use strategies::{Lower, finish_checksum, tcp_case, udp_case};

fn assert_lower(h: &frame::Headers, l: &Lower) {
    assert_eq!((h.src_mac, h.dst_mac), (l.smac, l.dmac));
    assert_eq!(h.vlan.unwrap_or(0), l.vlan);
    assert_eq!((h.source(), h.destination()), (l.src, l.dst));
    assert_eq!((h.ttl, h.tos, h.ecn()), (l.ttl, l.tos, l.tos & 3));
    assert_eq!(h.ip_id, if l.src.ip.is_v4() { l.ip_id } else { 0 });
    assert_eq!(usize::from(h.l3_off), if l.vlan == 0 { 14 } else { 18 });
    assert_eq!(h.flow().reversed().local, l.src);
}

/// The options as they can arrive: SACK blocks that did not fit are gone.
fn fitted(options: &TcpOpts) -> TcpOpts {
    let mut out = *options;
    let others = TcpOpts { sack_n: 0, ..out }.emitted_len();
    while out.sack_n > 0 && others + 4 + 8 * usize::from(out.sack_n) > 40 {
        out.sack_n -= 1;
        out.sack[usize::from(out.sack_n)] = (Seq(0), Seq(0));
    }
    out
}

proptest! {
    #[test]
    fn tcp(case in tcp_case(), padding in 0usize..60) {
        let (mut bytes, emitted) = case.frame();
        let len = bytes.len();
        // Ethernet pads short frames; the padding is not payload.
        bytes.resize(len + padding, 0xaa);
        let h = frame::parse(&bytes, bytes.len()).unwrap();
        assert_lower(&h, &case.lower);
        prop_assert_eq!(h.l4_off, emitted.l4_off);
        prop_assert_eq!(h.payload_len as usize, case.payload.len());
        prop_assert_eq!(&bytes[usize::from(h.payload_off)..len], &case.payload[..]);
        let L4::Tcp(t) = h.l4 else { panic!("not TCP") };
        prop_assert_eq!((t.seq.0, t.ack.0, t.flags, t.window), (case.seq, case.ack, TcpFlags(case.flags), case.window));
        prop_assert_eq!(t.urgent, case.urgent);
        prop_assert_eq!(t.options, fitted(&case.options));
        prop_assert_eq!(case.options.emitted_len(), usize::from(h.payload_off - h.l4_off) - 20);
        prop_assert_eq!(t.checksum, h.pseudo_sum());
    }

    #[test]
    fn udp(case in udp_case()) {
        let (bytes, emitted) = case.frame();
        let h = frame::parse(&bytes, bytes.len()).unwrap();
        assert_lower(&h, &case.lower);
        prop_assert_eq!(h.l4_off, emitted.l4_off);
        prop_assert_eq!(h.payload_len as usize, case.payload.len());
        prop_assert_eq!(&bytes[usize::from(h.payload_off)..], &case.payload[..]);
        prop_assert_eq!(h.l4_checksum(), h.pseudo_sum());
    }

    /// A finished checksum adds up, also over IPv6 and VLAN, and UDP never sends zero.
    #[test]
    fn finished_checksums_are_valid(t in tcp_case(), u in udp_case()) {
        let (mut bytes, emitted) = t.frame();
        finish_checksum(&mut bytes, emitted, checksum::finish);
        let h = frame::parse(&bytes, bytes.len()).unwrap();
        let sum = checksum::sum(&bytes[usize::from(h.l4_off)..], u32::from(h.pseudo_sum()));
        prop_assert!(checksum::is_valid(sum));

        let (mut bytes, emitted) = u.frame();
        finish_checksum(&mut bytes, emitted, checksum::finish_udp);
        let h = frame::parse(&bytes, bytes.len()).unwrap();
        prop_assert_ne!(h.l4_checksum(), 0);
        let sum = checksum::sum(&bytes[usize::from(h.l4_off)..], u32::from(h.pseudo_sum()));
        prop_assert!(checksum::is_valid(sum));
    }

    /// A prefix with all headers says the same as the whole frame.
    #[test]
    fn prefix_is_enough(case in tcp_case()) {
        let (bytes, _) = case.frame();
        let head = &bytes[..bytes.len().min(MAX_HEADERS)];
        prop_assert_eq!(frame::parse(head, bytes.len()), frame::parse(&bytes, bytes.len()));
    }
}

#[test]
fn super_frames_above_64k_have_no_length() {
    use flyover_wire::emit::HeaderBuf;
    use flyover_wire::{Endpoint, Ip, Mac, TcpSpec};

    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
        let spec = TcpSpec {
            smac: Mac([2, 0, 0, 0, 0, 1]),
            dmac: Mac([2, 0, 0, 0, 0, 2]),
            vlan: 0,
            src: Endpoint::new(a.parse::<Ip>().unwrap(), 1),
            dst: Endpoint::new(b.parse::<Ip>().unwrap(), 2),
            seq: Seq(0),
            ack: Seq(0),
            flags: TcpFlags::ACK,
            window: 1,
            urgent: 0,
            ttl: 64,
            tos: 0,
            ip_id: 0,
            options: &TcpOpts::NONE,
            payload_len: 100_000,
        };
        let mut buf = HeaderBuf::new();
        spec.emit(&mut buf).unwrap();
        let h = frame::parse(buf.as_slice(), buf.len() + 100_000).unwrap();
        assert_eq!(h.payload_len, 100_000);
        // a zero length on an ordinary frame is a lie: IPv4 says so, IPv6 sees no TCP header
        assert!(frame::parse(buf.as_slice(), buf.len() + 100).is_err());
    }
}
