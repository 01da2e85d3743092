//! Truncated, damaged and random frames: refused for the right reason, and never a panic.

mod strategies;

use flyover_wire::frame::parse;
use flyover_wire::{Drop, L4, TcpOpts, icmp, pretty};
use proptest::prelude::*;
use strategies::{tcp_case, udp_case};

/// IPv4 TCP SYN from 10.0.0.1:4660 to 10.0.0.2:80, checked against tcpdump.
const SYN: &str = "0200000000020200000000010800\
    4500003c1c4640004006\
    0a780a0000010a000002\
    12340050000000010000\
    0000a002faf000000000\
    020405b40402080a0000000100000000\
    01030307";

fn hex(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
        .collect()
}

/// Recomputes the IPv4 header checksum after an edit.
fn fix(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = flyover_wire::checksum::sum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
}

fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Result<flyover_wire::Headers, Drop> {
    let mut f = hex(SYN);
    fix(&mut f);
    edit(&mut f);
    parse(&f, f.len())
}

fn fixed(edit: impl FnOnce(&mut Vec<u8>)) -> Result<flyover_wire::Headers, Drop> {
    edited(|f| {
        edit(f);
        fix(f);
    })
}

#[test]
fn every_ipv4_reason() {
    assert!(edited(|_| {}).is_ok());
    assert_eq!(edited(|f| f.truncate(13)), Err(Drop::EthTruncated));
    assert_eq!(
        edited(|f| f[12..14].copy_from_slice(&[8, 6])),
        Err(Drop::EtherType)
    );
    assert_eq!(
        edited(|f| {
            f[12..14].copy_from_slice(&[0x81, 0]);
            f.truncate(17);
        }),
        Err(Drop::VlanTruncated)
    );
    let stacked = |f: &mut Vec<u8>| {
        f[12..18].copy_from_slice(&[0x81, 0, 0, 5, 0x81, 0]);
    };
    assert_eq!(edited(stacked), Err(Drop::VlanStacked));
    assert_eq!(edited(|f| f.truncate(33)), Err(Drop::Ip4Truncated));
    assert_eq!(fixed(|f| f[14] = 0x65), Err(Drop::Ip4Version));
    assert_eq!(fixed(|f| f[14] = 0x44), Err(Drop::Ip4HeaderLength));
    assert_eq!(fixed(|f| f[14] = 0x46), Err(Drop::Ip4Options));
    assert_eq!(fixed(|f| f[17] = 19), Err(Drop::Ip4TotalLength));
    assert_eq!(fixed(|f| f[17] += 1), Err(Drop::Ip4TotalLength));
    assert_eq!(fixed(|f| f[16..18].fill(0)), Err(Drop::Ip4TotalLength));
    assert_eq!(fixed(|f| f[20] = 0x20), Err(Drop::Ip4Fragment));
    assert_eq!(fixed(|f| f[21] = 1), Err(Drop::Ip4Fragment));
    assert_eq!(edited(|f| f[22] = 63), Err(Drop::Ip4Checksum));
    assert_eq!(fixed(|f| f[26] = 224), Err(Drop::SourceAddress));
    assert_eq!(fixed(|f| f[26..30].fill(255)), Err(Drop::SourceAddress));
    assert_eq!(fixed(|f| f[23] = 1), Err(Drop::Protocol));
    assert_eq!(fixed(|f| f[17] = 39), Err(Drop::TcpTruncated));
    assert_eq!(fixed(|f| f[46] = 0x40), Err(Drop::TcpDataOffset));
    assert_eq!(fixed(|f| f[46] = 0xf0), Err(Drop::TcpDataOffset));
    assert_eq!(
        fixed(|f| {
            f[23] = 17;
            f[17] = 27
        }),
        Err(Drop::UdpTruncated)
    );
    assert_eq!(
        fixed(|f| {
            f[23] = 17;
            f[38..40].copy_from_slice(&[0, 7])
        }),
        Err(Drop::UdpLength)
    );
    assert_eq!(
        fixed(|f| {
            f[23] = 17;
            f[38..40].copy_from_slice(&[0, 99])
        }),
        Err(Drop::UdpLength)
    );
    // the reserved bit and don't-fragment are no fragment
    assert!(fixed(|f| f[20] = 0xc0).is_ok());
}

#[test]
fn every_ipv6_reason() {
    let mut f = hex("0200000000020200000000018 6dd");
    f.extend([0x60, 0, 0, 0, 0, 8, 17, 64]);
    f.extend(hex("20010db8000000000000000000000001"));
    f.extend(hex("20010db8000000000000000000000002"));
    f.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut g = f.clone();
        edit(&mut g);
        parse(&g, g.len())
    };
    assert!(with(&|_| {}).is_ok());
    assert_eq!(with(&|g| g.truncate(53)), Err(Drop::Ip6Truncated));
    assert_eq!(with(&|g| g[14] = 0x40), Err(Drop::Ip6Version));
    assert_eq!(with(&|g| g[19] = 9), Err(Drop::Ip6Length));
    for extension in [0, 43, 44, 50, 51, 60, 135, 139, 140] {
        assert_eq!(with(&|g| g[20] = extension), Err(Drop::Ip6Extension));
    }
    assert_eq!(with(&|g| g[20] = 58), Err(Drop::Protocol));
    assert_eq!(with(&|g| g[22] = 0xff), Err(Drop::SourceAddress));
    let mapped = hex("00000000000000000000ffff0a000001");
    assert_eq!(
        with(&|g| g[22..38].copy_from_slice(&mapped)),
        Err(Drop::Ip6Mapped)
    );
    assert_eq!(
        with(&|g| g[38..54].copy_from_slice(&mapped)),
        Err(Drop::Ip6Mapped)
    );
}

#[test]
fn priority_tag_is_untagged() {
    let mut f = hex(SYN);
    fix(&mut f);
    f.splice(12..12, [0x81, 0, 0xe0, 0]);
    let h = parse(&f, f.len()).unwrap();
    assert_eq!((h.vlan, h.l3_off), (None, 18));
}

#[test]
fn short_udp_length_trims() {
    let h = fixed(|f| {
        f[23] = 17;
        f[38..40].copy_from_slice(&[0, 12]);
    });
    assert_eq!(h.map(|h| h.payload_len), Ok(4));
}

#[test]
fn printed() {
    let mut f = hex(SYN);
    fix(&mut f);
    assert_eq!(
        pretty::frame(&f).to_string(),
        "IP 10.0.0.1:4660 > 10.0.0.2:80: [S], seq 1, win 64240, mss 1460, sackOK, \
         TS val 1 ecr 0, wscale 7, length 0"
    );
    assert_eq!(
        pretty::frame(&f[..20]).to_string(),
        "IP [the frame ends inside the IPv4 header], frame 20"
    );
    assert_eq!(
        pretty::frame(&[]).to_string(),
        "runt [the frame ends inside the Ethernet header], frame 0"
    );
}

proptest! {
    /// Cut anywhere, a frame is refused; when only the payload is cut, too, because the IP length says so.
    #[test]
    fn truncated_everywhere(t in tcp_case(), u in udp_case()) {
        for bytes in [t.frame().0, u.frame().0] {
            for end in 0..bytes.len() {
                prop_assert!(parse(&bytes[..end], end).is_err());
                let _: String = pretty::frame(&bytes[..end]).to_string();
            }
        }
    }

    /// A prefix that is shorter than the headers is refused, whatever the frame's length.
    #[test]
    fn short_head(t in tcp_case()) {
        let (bytes, _) = t.frame();
        let headers = bytes.len() - t.payload.len();
        for end in 0..headers {
            prop_assert!(parse(&bytes[..end], bytes.len()).is_err());
        }
    }

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..256), frame_len in 0usize..200_000) {
        check(&bytes, frame_len);
    }

    /// Damaged but plausible frames get deeper into the parser than noise does.
    #[test]
    fn damaged(t in tcp_case(), u in udp_case(), hits in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..6), frame_len in 0usize..70_000) {
        for mut bytes in [t.frame().0, u.frame().0] {
            for (at, value) in &hits {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            check(&bytes, bytes.len());
            check(&bytes, frame_len);
        }
    }

    #[test]
    fn random_options(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let o = TcpOpts::parse(&bytes);
        prop_assert!(o.sack_n <= 4 && o.wscale.is_none_or(|s| s <= 14));
        prop_assert!(o.emitted_len() <= 40 && o.emitted_len().is_multiple_of(4));
    }

    /// The quotation in an ICMP error finds the flow that the packet belongs to.
    #[test]
    fn quoted_in_icmp(t in tcp_case(), noise in prop::collection::vec(any::<u8>(), 0..80)) {
        let (bytes, e) = t.frame();
        let l3 = if t.lower.vlan == 0 { 14 } else { 18 };
        let q = icmp::quoted(&bytes[l3..usize::from(e.l4_off) + 8]).unwrap();
        prop_assert_eq!((q.flow.local, q.flow.remote), (t.lower.src, t.lower.dst));
        prop_assert_eq!(q.seq.unwrap().0, t.seq);
        prop_assert_eq!(icmp::quoted(&bytes[l3..usize::from(e.l4_off) + 7]), None);
        let _: Option<icmp::Quoted> = icmp::quoted(&noise);
    }
}

/// No panic, and what is accepted is consistent.
fn check(bytes: &[u8], frame_len: usize) {
    let _: String = pretty::head(bytes, frame_len).to_string();
    if let Ok(h) = parse(bytes, frame_len) {
        assert!(usize::from(h.payload_off) <= bytes.len().min(frame_len));
        assert!(usize::from(h.payload_off) + h.payload_len as usize <= frame_len);
        assert!(h.l3_off < h.l4_off && h.l4_off < h.payload_off);
        if let L4::Tcp(t) = h.l4 {
            assert!(t.options.sack_n <= 4);
        }
    }
}
