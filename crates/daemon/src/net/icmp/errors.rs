//! What an ICMP error means for the flow that it quotes: a smaller path MTU, or an errno as Linux gives it.

use flyover_wire::checksum::sum;
use flyover_wire::icmp::quoted;
use flyover_wire::{FlowKey, IPPROTO_UDP, Seq};
use rustix::io::Errno;

/// Message types (RFC 792).
pub const DEST_UNREACH: u8 = 3;
pub const TIME_EXCEEDED: u8 = 11;
pub const PARAMETER_PROBLEM: u8 = 12;
/// Message types (RFC 4443).
pub const V6_DEST_UNREACH: u8 = 1;
pub const V6_PACKET_TOO_BIG: u8 = 2;
pub const V6_TIME_EXCEEDED: u8 = 3;
pub const V6_PARAMETER_PROBLEM: u8 = 4;

/// Code of [`DEST_UNREACH`]: fragmentation needed and DF set.
const FRAG_NEEDED: u8 = 4;
/// Code of both kinds of time exceeded: in transit. The other one is about fragments, which stacks do not send.
const HOP_LIMIT: u8 = 0;
/// Every IPv6 link takes packets of this size (RFC 8200 section 5).
const V6_MIN_MTU: u32 = 1280;
/// MTUs that links have (RFC 1191 section 7.1), bytes.
const PLATEAUS: [u16; 11] = [
    65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68,
];

/// What happened to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The path takes packets of this many bytes only.
    Mtu(u32),
    /// It does not work at all.
    Unreachable(Errno),
}

/// An ICMP error about a flow that may be a stack's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The flow from this host's side.
    pub flow: FlowKey,
    /// The quoted TCP sequence number.
    pub seq: Option<Seq>,
    /// What happened.
    pub what: Trouble,
}

/// An errno, and whether it is final: a UDP socket hears of final ones only.
type Meaning = (Errno, bool);

/// Reads an IPv4 packet with an ICMP message, as a raw socket gives it. `None`: no error, or none of interest.
pub fn v4(packet: &[u8]) -> Option<Report> {
    let ihl = usize::from(packet.first()? & 15) * 4;
    let message = packet.get(ihl..).filter(|_| ihl >= 20)?;
    // The kernel checks it only for itself.
    if sum(message, 0) != 0xffff {
        return None;
    }
    let (head, quote) = message.split_first_chunk::<8>()?;
    if quote.first()? >> 4 != 4 {
        return None;
    }
    if (head[0], head[1]) == (DEST_UNREACH, FRAG_NEEDED) {
        let mtu = match u16::from_be_bytes([head[6], head[7]]) {
            // From before RFC 1191.
            0 => below(u16::from_be_bytes([*quote.get(2)?, *quote.get(3)?])),
            mtu => mtu,
        };
        return report(quote, Trouble::Mtu(mtu.into()), true);
    }
    let (errno, hard) = v4_meaning(head[0], head[1])?;
    report(quote, Trouble::Unreachable(errno), hard)
}

/// Reads an ICMPv6 message, as a raw socket gives it, its checksum tested. `None`: no error, or none of interest.
pub fn v6(message: &[u8]) -> Option<Report> {
    let (head, quote) = message.split_first_chunk::<8>()?;
    if quote.first()? >> 4 != 6 {
        return None;
    }
    let found = if head[0] == V6_PACKET_TOO_BIG {
        let mtu = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        report(quote, Trouble::Mtu(mtu.max(V6_MIN_MTU)), true)
    } else {
        let (errno, hard) = v6_meaning(head[0], head[1])?;
        report(quote, Trouble::Unreachable(errno), hard)
    };
    // An IPv4-mapped address on the wire is a lie about an IPv4 flow.
    found.filter(|r| !r.flow.local.ip.is_v4() && !r.flow.remote.ip.is_v4())
}

fn report(quote: &[u8], what: Trouble, hard: bool) -> Option<Report> {
    let quoted = quoted(quote)?;
    let hears = hard || quoted.flow.proto != IPPROTO_UDP;
    hears.then_some(Report {
        flow: quoted.flow,
        seq: quoted.seq,
        what,
    })
}

/// As Linux's table for IPv4; RFC 1122 section 3.2.2.1 says what the codes are.
fn v4_meaning(kind: u8, code: u8) -> Option<Meaning> {
    match (kind, code) {
        (DEST_UNREACH, 0 | 11) => Some((Errno::NETUNREACH, false)),
        (DEST_UNREACH, 1 | 12) => Some((Errno::HOSTUNREACH, false)),
        (DEST_UNREACH, 2) => Some((Errno::NOPROTOOPT, true)),
        (DEST_UNREACH, 3) => Some((Errno::CONNREFUSED, true)),
        (DEST_UNREACH, 5) => Some((Errno::OPNOTSUPP, false)),
        (DEST_UNREACH, 6 | 9) => Some((Errno::NETUNREACH, true)),
        (DEST_UNREACH, 7) => Some((Errno::HOSTDOWN, true)),
        (DEST_UNREACH, 8) => Some((Errno::NONET, true)),
        (DEST_UNREACH, 10 | 13..=15) => Some((Errno::HOSTUNREACH, true)),
        (TIME_EXCEEDED, HOP_LIMIT) => Some((Errno::HOSTUNREACH, false)),
        (PARAMETER_PROBLEM, _) => Some((Errno::PROTO, true)),
        _ => None,
    }
}

/// As Linux's table for IPv6; RFC 4443 section 3.1 says what the codes are.
fn v6_meaning(kind: u8, code: u8) -> Option<Meaning> {
    match (kind, code) {
        (V6_DEST_UNREACH, 0) => Some((Errno::NETUNREACH, false)),
        (V6_DEST_UNREACH, 1 | 5 | 6) => Some((Errno::ACCESS, true)),
        (V6_DEST_UNREACH, 2 | 3) => Some((Errno::HOSTUNREACH, false)),
        (V6_DEST_UNREACH, 4) => Some((Errno::CONNREFUSED, true)),
        (V6_DEST_UNREACH, _) => Some((Errno::PROTO, true)),
        (V6_TIME_EXCEEDED, HOP_LIMIT) => Some((Errno::HOSTUNREACH, false)),
        (V6_PARAMETER_PROBLEM, _) => Some((Errno::PROTO, true)),
        _ => None,
    }
}

/// The greatest usual MTU below the length of a packet that was too large.
fn below(len: u16) -> u16 {
    PLATEAUS.into_iter().find(|mtu| *mtu < len).unwrap_or(68)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyover_wire::{Endpoint, IPPROTO_TCP as TCP, IPPROTO_UDP as UDP, Ip};

    fn quote4(proto: u8, len: u16) -> Vec<u8> {
        let mut q = vec![0x45, 0];
        q.extend(len.to_be_bytes());
        q.extend([0, 0, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        q.extend([0x1f, 0x90, 0, 80, 0, 0, 1, 2]);
        q
    }

    fn quote6(proto: u8, src: [u8; 16]) -> Vec<u8> {
        let mut q = vec![0x60, 0, 0, 0, 0, 8, proto, 64];
        q.extend(src);
        q.extend([0xfd; 16]);
        q.extend([0x1f, 0x90, 0, 80, 0, 0, 1, 2]);
        q
    }

    fn icmp4(kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest.to_be_bytes());
        message.extend(quote);
        let checksum = !sum(&message, 0);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        // One word of options: the header's length is honoured.
        let mut packet = vec![0; 24];
        packet[0] = 0x46;
        packet.extend(message);
        packet
    }

    fn icmp6(kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest.to_be_bytes());
        message.extend(quote);
        message
    }

    fn what(report: Option<Report>) -> Option<Trouble> {
        report.map(|r| r.what)
    }

    #[test]
    fn a_report_names_the_flow_from_our_side() {
        let found = v4(&icmp4(3, 1, 0, &quote4(TCP, 1500))).unwrap();
        let at = |last, port| Endpoint {
            ip: Ip::v4([10, 0, 0, last]),
            port,
        };
        assert_eq!(
            (found.flow.local, found.flow.remote),
            (at(1, 8080), at(2, 80))
        );
        assert_eq!(found.seq, Some(Seq(0x102)));
        assert_eq!(v4(&icmp4(3, 3, 0, &quote4(UDP, 1500))).unwrap().seq, None);
    }

    #[test]
    fn path_mtu() {
        let mtu = |n| Some(Trouble::Mtu(n));
        let v4 = |rest, len| what(v4(&icmp4(3, 4, rest, &quote4(TCP, len))));
        assert_eq!(v4(900, 1500), mtu(900));
        // The upper half of the word is not part of it.
        assert_eq!(v4(0x0100_0384, 1500), mtu(900));
        for (len, want) in [(1500, 1492), (1492, 1006), (65535, 32000), (40, 68)] {
            assert_eq!(v4(0, len), mtu(want), "{len}");
        }
        let v6 = |rest| what(v6(&icmp6(2, 0, rest, &quote6(TCP, [0xfd; 16]))));
        assert_eq!(v6(1400), mtu(1400));
        assert_eq!(v6(0), mtu(1280));
    }

    #[test]
    fn errnos_are_those_of_linux() {
        let v4 = |kind, code, proto| what(v4(&icmp4(kind, code, 0, &quote4(proto, 1500))));
        // As icmp_err_convert, by code; 4 is the path MTU.
        let by_code = [
            101, 113, 92, 111, 0, 95, 101, 112, 64, 101, 113, 101, 113, 113, 113, 113,
        ];
        let soft = [0, 1, 5, 11, 12];
        for (code, number) in (0_u8..).zip(by_code).filter(|(code, _)| *code != 4) {
            let errno = Some(Trouble::Unreachable(Errno::from_raw_os_error(number)));
            assert_eq!(v4(3, code, TCP), errno, "{code}");
            let heard = errno.filter(|_| !soft.contains(&code));
            assert_eq!(v4(3, code, UDP), heard, "{code}");
        }
        assert_eq!(v4(3, 16, TCP), None);
        assert_eq!(
            v4(11, 0, TCP),
            Some(Trouble::Unreachable(Errno::HOSTUNREACH))
        );
        assert_eq!(v4(11, 1, TCP), None);
        assert_eq!(v4(12, 0, UDP), Some(Trouble::Unreachable(Errno::PROTO)));
        let v6 = |code| what(v6(&icmp6(1, code, 0, &quote6(TCP, [0xfd; 16]))));
        for (code, number) in (0_u8..).zip([101, 13, 113, 113, 111, 13, 13, 71]) {
            let errno = Errno::from_raw_os_error(number);
            assert_eq!(v6(code), Some(Trouble::Unreachable(errno)), "{code}");
        }
    }

    #[test]
    fn nonsense_is_ignored() {
        let good = icmp4(3, 3, 0, &quote4(TCP, 1500));
        for len in 0..good.len() {
            assert_eq!(v4(&good[..len]), None);
        }
        for at in 24..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(v4(&bad), None, "byte {at}");
        }
        // Echo requests, quoted ICMP, the other family inside.
        assert_eq!(v4(&icmp4(8, 0, 0, &quote4(TCP, 1500))), None);
        assert_eq!(v4(&icmp4(3, 3, 0, &quote4(1, 1500))), None);
        assert_eq!(v4(&icmp4(3, 3, 0, &quote6(TCP, [0xfd; 16]))), None);
        assert_eq!(v6(&icmp6(1, 4, 0, &quote4(TCP, 1500))), None);
        assert_eq!(v6(&icmp6(128, 0, 0, &quote6(TCP, [0xfd; 16]))), None);
        let mapped = Ip::v4([10, 0, 0, 1]).0;
        assert_eq!(v6(&icmp6(1, 4, 0, &quote6(TCP, mapped))), None);
        let good = icmp6(1, 4, 0, &quote6(TCP, [0xfd; 16]));
        for len in 0..good.len() {
            assert_eq!(v6(&good[..len]), None);
        }
    }
}
