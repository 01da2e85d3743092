//! Control messages of received datagrams, in the kernel's layout (`cmsg(3)`, `ip(7)`, `ipv6(7)`, `socket(7)`).

use core::sync::atomic::Ordering;

use flyover_core::{UdpMsg, UdpVia};
use flyover_wire::{Endpoint, Ip};

use crate::addr::Addr;
use crate::io::options::{self, stamps};
use crate::os::Os;
use crate::process::Ep;

/// Bytes of a `cmsghdr`: length, level, type.
const HEAD: usize = 16;

/// Appends control messages to the application's buffer.
#[derive(Debug)]
pub struct CmsgWriter<'b> {
    buf: &'b mut [u8],
    len: usize,
    cut: bool,
}

impl<'b> CmsgWriter<'b> {
    /// Writes to `buf`.
    pub fn new(buf: &'b mut [u8]) -> Self {
        Self {
            buf,
            len: 0,
            cut: false,
        }
    }

    /// Bytes written so far: the new `msg_controllen`.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Something did not fit (`MSG_CTRUNC`).
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Appends one message, cut when there is no room for all of it, as the kernel's `put_cmsg`.
    pub fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let room = self.buf.get_mut(self.len..).unwrap_or_default();
        let Some((head, body)) = room.split_at_mut_checked(HEAD) else {
            self.cut = true;
            return;
        };
        let n = data.len().min(body.len());
        self.cut |= n < data.len();
        let size = (HEAD + n) as u64;
        for (to, from) in head.iter_mut().zip(
            size.to_ne_bytes()
                .into_iter()
                .chain(level.to_ne_bytes())
                .chain(kind.to_ne_bytes()),
        ) {
            *to = from;
        }
        for (to, from) in body.iter_mut().zip(data) {
            *to = *from;
        }
        // The kernel counts the padding behind every message that has room for it.
        let space = (HEAD + data.len()).next_multiple_of(8);
        self.len = self.buf.len().min(self.len + space);
    }

    fn put_int(&mut self, level: i32, kind: i32, v: i32) {
        self.put(level, kind, &v.to_ne_bytes());
    }
}

/// Writes what the socket's options ask for. The order is the kernel's: stamps and losses (`sock_recv_cmsgs`), then
/// what a socket of IPv6 tells of every datagram, then what belongs to the datagram's own family.
pub fn describe(os: &dyn Os, ep: &Ep, m: &UdpMsg, w: &mut CmsgWriter<'_>) {
    let s = ep.shared();
    let asked = s.sopts.load(Ordering::Relaxed);
    stamp(os, asked, m.at.0, w);
    let drops = s.drops.load(Ordering::Relaxed);
    if asked & options::OVERFLOW != 0 && drops != 0 {
        w.put(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &drops.to_ne_bytes());
    }
    if ep.v6 && asked & options::PKTINFO6 != 0 {
        // struct in6_pktinfo: destination address, interface.
        let mut b = [0u8; 20];
        let (dst, ifindex) = b.split_at_mut(16);
        dst.copy_from_slice(&m.to.0);
        ifindex.copy_from_slice(&m.ifindex.to_ne_bytes());
        w.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &b);
    }
    let local = Endpoint {
        ip: m.to,
        port: s.local().port,
    };
    match m.to.as_v4() {
        Some(to) => of_v4(asked, m, to, local, w),
        None => of_v6(asked, m, local, w),
    }
}

fn of_v4(asked: u32, m: &UdpMsg, to: [u8; 4], local: Endpoint, w: &mut CmsgWriter<'_>) {
    const LEVEL: i32 = libc::IPPROTO_IP;
    if asked & options::PKTINFO != 0 {
        // struct in_pktinfo: interface, local address, destination address.
        let mut b = [0u8; 12];
        let (ifindex, addrs) = b.split_at_mut(4);
        ifindex.copy_from_slice(&m.ifindex.to_ne_bytes());
        let (spec, dst) = addrs.split_at_mut(4);
        spec.copy_from_slice(&to);
        dst.copy_from_slice(&to);
        w.put(LEVEL, libc::IP_PKTINFO, &b);
    }
    if asked & options::RECV_TTL != 0 {
        w.put_int(LEVEL, libc::IP_TTL, i32::from(m.ttl));
    }
    if asked & options::RECV_TOS != 0 {
        w.put(LEVEL, libc::IP_TOS, &[m.tos]);
    }
    if asked & options::ORIGDST != 0 {
        w.put(
            LEVEL,
            libc::IP_ORIGDSTADDR,
            Addr::inet(local, false).as_bytes(),
        );
    }
}

fn of_v6(asked: u32, m: &UdpMsg, local: Endpoint, w: &mut CmsgWriter<'_>) {
    const LEVEL: i32 = libc::IPPROTO_IPV6;
    if asked & options::RECV_HOPS != 0 {
        w.put_int(LEVEL, libc::IPV6_HOPLIMIT, i32::from(m.ttl));
    }
    if asked & options::RECV_CLASS != 0 {
        w.put_int(LEVEL, libc::IPV6_TCLASS, i32::from(m.tos));
    }
    if asked & options::ORIGDST6 != 0 {
        let scope = if m.to.is_v6_link_local() {
            m.ifindex
        } else {
            0
        };
        w.put(
            LEVEL,
            libc::IPV6_ORIGDSTADDR,
            Addr::inet_scoped(local, true, scope).as_bytes(),
        );
    }
}

/// The time stamps of a packet that arrived at `at` of the monotonic clock.
pub fn stamp(os: &dyn Os, asked: u32, at: u64, w: &mut CmsgWriter<'_>) {
    // As Linux: what came before anybody asked for its time has none.
    if asked & options::STAMPS == 0 || at == 0 {
        return;
    }
    let wall = os.realtime().saturating_sub(os.now().saturating_sub(at));
    let (sec, nsec) = (wall / 1_000_000_000, wall % 1_000_000_000);
    let pair = |low: u64| {
        let mut b = [0u8; 16];
        let (first, second) = b.split_at_mut(8);
        first.copy_from_slice(&sec.to_ne_bytes());
        second.copy_from_slice(&low.to_ne_bytes());
        b
    };
    let new = asked & stamps::NEW != 0;
    if asked & stamps::ON != 0 {
        let (kind, b) = match (asked & stamps::NANOS != 0, new) {
            (true, false) => (libc::SCM_TIMESTAMPNS, pair(nsec)),
            (true, true) => (SO_TIMESTAMPNS_NEW, pair(nsec)),
            (false, false) => (libc::SCM_TIMESTAMP, pair(nsec / 1_000)),
            (false, true) => (SO_TIMESTAMP_NEW, pair(nsec / 1_000)),
        };
        w.put(libc::SOL_SOCKET, kind, &b);
    }
    if asked & stamps::SOFTWARE != 0 {
        // struct scm_timestamping: software, deprecated, hardware.
        let mut b = [0u8; 48];
        if let Some(software) = b.get_mut(..16) {
            software.copy_from_slice(&pair(nsec));
        }
        let kind = if new {
            SO_TIMESTAMPING_NEW
        } else {
            libc::SCM_TIMESTAMPING
        };
        w.put(libc::SOL_SOCKET, kind, &b);
    }
}

/// `TCP_CM_INQ` of linux/tcp.h: what is left to read; 1 at the end of the stream.
pub fn put_inq(n: u32, w: &mut CmsgWriter<'_>) {
    w.put_int(
        libc::IPPROTO_TCP,
        libc::TCP_CM_INQ,
        i32::try_from(n).unwrap_or(i32::MAX),
    );
}

/// Of asm-generic/socket.h.
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;

/// What the control data of a datagram's `sendmsg` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What the stack does.
    pub via: UdpVia,
    /// The interface that must be the way out; 0 is any.
    pub ifindex: u32,
    /// There are messages of IPv4.
    pub v4: bool,
    /// There are messages of IPv6.
    pub v6: bool,
}

/// Reads control data. `None`: it asks for what only the kernel does, or is wrong, which the kernel says best.
pub fn asked(control: &[u8]) -> Option<Asked> {
    let mut rest = control;
    let mut all = Asked::default();
    while rest.len() >= HEAD {
        let word = |at: usize| -> Option<[u8; 4]> { rest.get(at..at + 4)?.try_into().ok() };
        let len = u64::from_ne_bytes(rest.get(..8)?.try_into().ok()?) as usize;
        let level = i32::from_ne_bytes(word(8)?);
        let kind = i32::from_ne_bytes(word(12)?);
        let data = rest.get(HEAD..len)?;
        match level {
            libc::IPPROTO_IP => all.v4 = true,
            libc::IPPROTO_IPV6 => all.v6 = true,
            _ => return None,
        }
        match (level, kind, data) {
            // struct in_pktinfo: interface, source address, destination address.
            (libc::IPPROTO_IP, libc::IP_PKTINFO, [a, b, c, d, src @ .., _, _, _, _]) => {
                all.ifindex = u32::from_ne_bytes([*a, *b, *c, *d]);
                all.via.src = Some(Ip::v4(src.try_into().ok()?));
            }
            // struct in6_pktinfo: source address, interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, [src @ .., a, b, c, d]) => {
                all.ifindex = u32::from_ne_bytes([*a, *b, *c, *d]);
                all.via.src = Some(Ip::v6(src.try_into().ok()?));
            }
            (libc::IPPROTO_IP, libc::IP_TTL, [a, b, c, d])
            | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, [a, b, c, d]) => {
                let v = u8::try_from(i32::from_ne_bytes([*a, *b, *c, *d])).ok()?;
                all.via.ttl = Some(v).filter(|v| *v != 0);
                let _: u8 = all.via.ttl?;
            }
            (libc::IPPROTO_IP, libc::IP_TOS, [tos]) => all.via.tos = Some(*tos),
            (libc::IPPROTO_IP, libc::IP_TOS, [a, b, c, d])
            | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, [a, b, c, d]) => {
                all.via.tos = Some(u8::try_from(i32::from_ne_bytes([*a, *b, *c, *d])).ok()?);
            }
            _ => return None,
        }
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    all.via.src = all.via.src.filter(|ip: &Ip| !ip.is_unspecified());
    Some(all)
}

/// True for control data of a `sendmsg` on a stream that the kernel refuses (`sock_cmsg_send`): a length that cannot be,
/// or a message of the socket's level that it does not know. Those of other levels it passes over.
pub fn is_refused_by_streams(control: &[u8]) -> bool {
    let mut rest = control;
    while rest.len() >= HEAD {
        let Some((head, _)) = rest.split_at_checked(HEAD) else {
            return false;
        };
        let (len, ids) = head.split_at(8);
        let len = u64::from_ne_bytes(len.try_into().unwrap_or_default());
        if len < HEAD as u64 || len > rest.len() as u64 {
            return true;
        }
        let (level, kind) = ids.split_at(4);
        if options::int(level) == libc::SOL_SOCKET {
            let known = match options::int(kind) {
                libc::SCM_RIGHTS | libc::SCM_CREDENTIALS => true,
                libc::SO_MARK | libc::SO_PRIORITY | libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => {
                    len == HEAD as u64 + 4
                }
                _ => false,
            };
            if !known {
                return true;
            }
        }
        rest = rest
            .get((len as usize).next_multiple_of(8)..)
            .unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_aligned_and_cut() {
        let mut buf = [0xeeu8; 48];
        let mut w = CmsgWriter::new(&mut buf);
        w.put(1, 2, &[9]);
        assert_eq!(w.len(), 24);
        w.put(3, 4, &[7; 4]);
        assert_eq!(w.len(), 48);
        assert!(!w.is_cut());
        w.put(5, 6, &[]);
        assert!(w.is_cut());
        assert_eq!(w.len(), 48);
        assert_eq!(
            &buf[..16],
            &[17, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]
        );
        assert_eq!(buf[16], 9);
        assert_eq!(u64::from_ne_bytes(buf[24..32].try_into().unwrap()), 20);
    }

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut buf = vec![0u8; HEAD + data.len().next_multiple_of(8)];
        CmsgWriter::new(&mut buf).put(level, kind, data);
        buf
    }

    #[test]
    fn what_a_datagram_is_sent_with() {
        let ttl = |v: i32| message(libc::IPPROTO_IP, libc::IP_TTL, &v.to_ne_bytes());
        assert_eq!(asked(&ttl(9)).and_then(|a| a.via.ttl), Some(9));
        assert_eq!(asked(&ttl(0)), None);
        assert_eq!(asked(&ttl(256)), None);
        let mut two = message(libc::IPPROTO_IP, libc::IP_TOS, &[0x20]);
        two.extend(message(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            &[2, 0, 0, 0, 10, 0, 0, 1, 9, 9, 9, 9],
        ));
        let all = asked(&two).expect("both are ours");
        assert_eq!((all.via.tos, all.ifindex, all.v6), (Some(0x20), 2, false));
        assert_eq!(all.via.src, Some(Ip::v4([10, 0, 0, 1])));
        assert_eq!(
            asked(&message(libc::SOL_SOCKET, libc::SO_MARK, &[0; 4])),
            None
        );
        assert_eq!(
            asked(&message(libc::IPPROTO_IP, libc::IP_PKTINFO, &[0; 4])),
            None
        );
        assert_eq!(asked(&[]), Some(Asked::default()));
    }

    /// As `put_cmsg`: the length says how much of the data is there.
    #[test]
    fn a_message_that_does_not_fit_is_cut() {
        let mut buf = [0xeeu8; 18];
        let mut w = CmsgWriter::new(&mut buf);
        w.put(1, 2, &[7; 4]);
        assert!(w.is_cut());
        assert_eq!(w.len(), 18);
        assert_eq!(buf[0], 18);
        assert_eq!(&buf[16..], &[7, 7]);
        let mut w = CmsgWriter::new(&mut []);
        w.put(1, 2, &[]);
        assert!(w.is_cut() && w.is_empty());
    }
}
