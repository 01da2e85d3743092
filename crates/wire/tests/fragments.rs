//! The lower-level emitters: IPv4 and IPv6 pieces, and buffers that are too short.

use etherparse::Ipv4HeaderSlice;
use flyover_wire::emit::{self, Fragment, HeaderBuf, Ipv4Spec};
use flyover_wire::{Mac, TcpFlags, TcpOpts, checksum};

fn spec(fragment: Fragment) -> Ipv4Spec {
    Ipv4Spec {
        src: [10, 0, 0, 1],
        dst: [10, 0, 0, 2],
        proto: 17,
        ttl: 64,
        tos: 0,
        id: 77,
        payload_len: 1480,
        fragment,
    }
}

#[test]
fn ipv4_pieces() {
    let mut out = [0; 20];
    for (fragment, df, mf, offset) in [
        (Fragment::Dont, true, false, 0),
        (Fragment::May, false, false, 0),
        (
            Fragment::Piece {
                offset: 0,
                more: true,
            },
            false,
            true,
            0,
        ),
        (
            Fragment::Piece {
                offset: 2960,
                more: true,
            },
            false,
            true,
            2960,
        ),
        (
            Fragment::Piece {
                offset: 65_528,
                more: false,
            },
            false,
            false,
            65_528,
        ),
    ] {
        assert_eq!(emit::ipv4(&mut out, &spec(fragment)), Some(20));
        let h = Ipv4HeaderSlice::from_slice(&out).unwrap().to_header();
        assert_eq!((h.dont_fragment, h.more_fragments), (df, mf));
        assert_eq!(u32::from(h.fragment_offset.value()) * 8, offset);
        assert_eq!((h.total_len, h.identification), (1500, 77));
        assert!(checksum::is_valid(checksum::sum(&out, 0)));
    }
}

#[test]
fn ipv6_pieces() {
    let mut out = [0; 8];
    assert_eq!(
        emit::ipv6_fragment(&mut out, 17, 1448, true, 0x0102_0304),
        Some(8)
    );
    // RFC 8200 section 4.5: next header, reserved, 13 bits of offset in units of 8, 2 reserved, M
    let word = u16::from_be_bytes([out[2], out[3]]);
    assert_eq!((out[0], out[1]), (17, 0));
    assert_eq!((word >> 3, word & 7), (1448 / 8, 1));
    assert_eq!(out[4..], [1, 2, 3, 4]);
}

#[test]
fn too_short_writes_nothing() {
    let opts = TcpOpts::timestamps(1, 2);
    let fields = emit::TcpFields {
        src_port: 1,
        dst_port: 2,
        seq: flyover_wire::Seq(1),
        ack: flyover_wire::Seq(1),
        flags: TcpFlags::ACK,
        window: 1,
        urgent: 0,
        checksum: 0,
        options: &opts,
    };
    for n in 0..32 {
        let mut b = [0u8; 32];
        let out = &mut b[..n];
        assert_eq!(emit::tcp(out, &fields), None);
        assert!(b.iter().all(|x| *x == 0), "wrote into a buffer of {n}");
    }
    assert_eq!(
        emit::ethernet(&mut [0; 13], Mac::ZERO, Mac::ZERO, 0, 0x800),
        None
    );
    assert_eq!(
        emit::ethernet(&mut [0; 17], Mac::ZERO, Mac::ZERO, 1, 0x800),
        None
    );
    assert_eq!(emit::ipv4(&mut [0; 19], &spec(Fragment::Dont)), None);
    assert_eq!(emit::udp(&mut [0; 7], 1, 2, 3, 4), None);
}

#[test]
fn header_buf_is_bounded() {
    let mut buf = HeaderBuf::new();
    assert!(buf.is_empty());
    assert_eq!(buf.append(|b| Some(b.len())), Some(emit::HEADER_BUF));
    assert_eq!(buf.append(|_| Some(1)), None);
    assert_eq!(buf.len(), emit::HEADER_BUF);
    buf.as_mut_slice()[127] = 9;
    assert_eq!(buf.as_slice()[127], 9);
    buf.clear();
    assert_eq!(buf.as_slice(), &[] as &[u8]);
}
