//! Control messages of received datagrams, in the kernel's layout (`cmsg(3)`, `ip(7)`, `ipv6(7)`, `socket(7)`).

use core::sync::atomic::Ordering;

use flyover_core::UdpMsg;
use flyover_wire::Ip;

use crate::io::options;
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

    /// True when the application gave a buffer at all.
    pub fn is_asked(&self) -> bool {
        !self.buf.is_empty()
    }

    /// Something did not fit (`MSG_CTRUNC`).
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Appends one message.
    pub fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let start = self.len.next_multiple_of(8);
        let end = start + HEAD + data.len();
        let Some(room) = self.buf.get_mut(start..end) else {
            self.cut = true;
            return;
        };
        let (head, body) = room.split_at_mut(HEAD);
        let size = (HEAD + data.len()) as u64;
        for (to, from) in head.iter_mut().zip(
            size.to_ne_bytes()
                .into_iter()
                .chain(level.to_ne_bytes())
                .chain(kind.to_ne_bytes()),
        ) {
            *to = from;
        }
        body.copy_from_slice(data);
        // The kernel counts the padding behind every message that has room for it.
        self.len = end.next_multiple_of(8).min(self.buf.len());
    }
}

/// Writes what the socket's options ask for.
pub fn describe(os: &dyn Os, ep: &Ep, m: &UdpMsg, w: &mut CmsgWriter<'_>) {
    let s = ep.shared();
    let on = |bit: u32| s.flags.load(Ordering::Relaxed) & bit != 0;
    if on(options::TIMESTAMP) || on(options::TIMESTAMPNS) {
        let wall = os
            .realtime()
            .saturating_sub(os.now().saturating_sub(m.at.0));
        let (sec, nsec) = (wall / 1_000_000_000, wall % 1_000_000_000);
        let mut b = [0u8; 16];
        let (low, high) = b.split_at_mut(8);
        low.copy_from_slice(&sec.to_ne_bytes());
        if on(options::TIMESTAMPNS) {
            high.copy_from_slice(&nsec.to_ne_bytes());
            w.put(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &b);
        } else {
            high.copy_from_slice(&(nsec / 1_000).to_ne_bytes());
            w.put(libc::SOL_SOCKET, libc::SCM_TIMESTAMP, &b);
        }
    }
    if let Some(to) = m.to.as_v4() {
        if on(options::PKTINFO) {
            // struct in_pktinfo: interface, local address, destination address.
            let mut b = [0u8; 12];
            let (ifindex, addrs) = b.split_at_mut(4);
            ifindex.copy_from_slice(&m.ifindex.to_ne_bytes());
            let (spec, dst) = addrs.split_at_mut(4);
            spec.copy_from_slice(&to);
            dst.copy_from_slice(&to);
            w.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &b);
        }
        if on(options::RECV_TTL) {
            w.put(
                libc::IPPROTO_IP,
                libc::IP_TTL,
                &i32::from(m.ttl).to_ne_bytes(),
            );
        }
        if on(options::RECV_TOS) {
            w.put(libc::IPPROTO_IP, libc::IP_TOS, &[m.tos]);
        }
    }
    if ep.v6 {
        if on(options::PKTINFO6) {
            // struct in6_pktinfo: destination address, interface.
            let mut b = [0u8; 20];
            let (dst, ifindex) = b.split_at_mut(16);
            dst.copy_from_slice(&m.to.0);
            ifindex.copy_from_slice(&m.ifindex.to_ne_bytes());
            w.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &b);
        }
        if !m.to.is_v4() {
            if on(options::RECV_TTL) {
                w.put(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_HOPLIMIT,
                    &i32::from(m.ttl).to_ne_bytes(),
                );
            }
            if on(options::RECV_TOS) {
                w.put(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_TCLASS,
                    &i32::from(m.tos).to_ne_bytes(),
                );
            }
        }
    }
}

/// The source address that control data of a `sendmsg` asks for. `None`: it asks for something that only the kernel
/// does. `Some(None)`: for nothing.
pub fn source(control: &[u8]) -> Option<Option<Ip>> {
    let mut rest = control;
    let mut src = None;
    while rest.len() >= HEAD {
        let word = |at: usize| -> Option<[u8; 4]> { rest.get(at..at + 4)?.try_into().ok() };
        let len = u64::from_ne_bytes(rest.get(..8)?.try_into().ok()?) as usize;
        let level = i32::from_ne_bytes(word(8)?);
        let kind = i32::from_ne_bytes(word(12)?);
        let data = rest.get(HEAD..len)?;
        src = match (level, kind) {
            // struct in_pktinfo: interface, source address, destination address; a given interface is the kernel's.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.get(..4)? == [0; 4] => {
                Some(Ip::v4(data.get(4..8)?.try_into().ok()?))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.get(16..20)? == [0; 4] => {
                Some(Ip::v6(data.get(..16)?.try_into().ok()?))
            }
            _ => return None,
        };
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Some(src.filter(|ip: &Ip| !ip.is_unspecified()))
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
        assert_eq!(
            &buf[..16],
            &[17, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]
        );
        assert_eq!(buf[16], 9);
        assert_eq!(u64::from_ne_bytes(buf[24..32].try_into().unwrap()), 20);
    }
}
