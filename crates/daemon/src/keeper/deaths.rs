//! The end of kernel sockets, as `NETLINK_SOCK_DIAG` reports it: the cookie of each. Holds no reference to them
//! (sock_diag(7); groups `SKNLGRP_INET_TCP_DESTROY` and so on, linux/sock_diag.h).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recv, send,
    socket_with, sockopt,
};

/// `SKNLGRP_INET_TCP_DESTROY` (1), `..UDP..` (2), `SKNLGRP_INET6_TCP_DESTROY` (3), `..UDP..` (4) as a mask.
const GROUPS: u32 = 0b1111;
/// Room for reports that wait, bytes of kernel memory: a few thousand sockets that end at once.
const QUEUE: usize = 8 << 20;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Offset of `id.idiag_cookie` in `struct inet_diag_msg`: family to retrans (4), ports (4), addresses (32), interface
/// (4).
const COOKIE: usize = 44;
/// Offsets of `idiag_state` and of `idiag_inode` there.
const STATE: usize = 1;
const INODE: usize = 68;
/// `NLM_F_MULTI` (netlink(7)): part of what a question is answered with.
const PART: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const ALL: u16 = 0x301;
/// Bits of `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_LAST_ACK` and `TCP_CLOSING`.
const CLOSED: u32 = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11;
const IPPROTO_TCP: u8 = 6;
/// Length of `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// Messages taken at once.
const BATCH: usize = 256;
/// A report takes this much of the queue, bytes, as measured on Linux 6.18.
const REPORT: usize = 1283;
/// A queue for fewer reports than this is read more often.
const FEW: usize = 4096;

/// Makes the socket, which hears nothing yet ([`Deaths::hear`]), in the calling thread's network namespace. Without CAP_NET_ADMIN its queue is as large as the system
/// lets anybody's be: reports are lost sooner then, which [`Deaths::lost`] shows.
///
/// # Errors
/// As socket(2), bind(2).
pub fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sock = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(SOCK_DIAG),
    )?;
    let forced = sockopt::set_socket_recv_buffer_size_force(&sock, QUEUE);
    forced.or_else(|_| sockopt::set_socket_recv_buffer_size(&sock, QUEUE))?;
    bind(&sock, &SocketAddrNetlink::new(0, 0))?;
    Ok(sock)
}

/// The receiving end.
#[derive(Debug)]
pub struct Deaths {
    sock: OwnedFd,
    buf: Box<[u8]>,
    /// Reports were lost: the queue was full.
    pub lost: bool,
    /// The queue is short, as it is without CAP_NET_ADMIN where `net.core.rmem_max` is small.
    pub short: bool,
}

impl Deaths {
    /// Reads from a socket that [`listen`] made.
    pub fn new(sock: OwnedFd) -> Self {
        let room = sockopt::socket_recv_buffer_size(&sock).unwrap_or(0);
        Self {
            sock,
            buf: vec![0; 16 << 10].into_boxed_slice(),
            lost: false,
            short: room / REPORT < FEW,
        }
    }

    /// From now on the end of every socket of the namespace is reported, or no longer: each report costs the kernel some work,
    /// whoever's socket it was.
    pub fn hear(&self, on: bool) -> io::Result<()> {
        let name: SocketAddrNetlink = getsockname(&self.sock)?.try_into()?;
        let groups = if on { GROUPS } else { 0 };
        Ok(bind(
            &self.sock,
            &SocketAddrNetlink::new(name.pid(), groups),
        )?)
    }

    /// Asks for the TCP sockets of a family that nobody has open any more. They still wait for the last acknowledgment, which
    /// comes 40 ms late, and end then; [`drain`](Self::drain) gives their cookies as if they had ended.
    pub fn ask_for_closed(&self, family: AddressFamily) {
        let mut b = [0u8; HEADER + QUESTION];
        let words = [(0, b.len() as u32), (HEADER + 4, CLOSED)];
        for (at, word) in words {
            b[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        b[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        b[6..8].copy_from_slice(&ALL.to_ne_bytes());
        b[HEADER] = family.as_raw() as u8;
        b[HEADER + 1] = IPPROTO_TCP;
        // Where the last such question is still being answered this one need not be.
        let _: rustix::io::Result<usize> = send(&self.sock, &b, SendFlags::DONTWAIT);
    }

    /// Gives the cookie of each socket that ended, as far as reported; bounded.
    pub fn drain(&mut self, mut each: impl FnMut(u64)) {
        for _ in 0..BATCH {
            match recv(&self.sock, &mut self.buf[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => cookies(&self.buf[..len], &mut each),
                Err(Errno::NOBUFS) => {
                    if !std::mem::replace(&mut self.lost, true) {
                        tracing::warn!("reports of the end of sockets were lost");
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Deaths {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sock.as_fd()
    }
}

/// Walks a datagram of netlink messages.
fn cookies(mut bytes: &[u8], each: &mut impl FnMut(u64)) {
    while let Some((head, _)) = bytes.split_first_chunk::<HEADER>() {
        let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let Some(message) = bytes.get(HEADER..len) else {
            return;
        };
        let part = u16::from_ne_bytes([head[6], head[7]]) & PART != 0;
        if kind == BY_FAMILY
            && (!part || is_closed(message))
            && let Some([a, b, c, d, e, f, g, h]) = message.get(COOKIE..COOKIE + 8)
        {
            // Two words in the machine's byte order, the low one first.
            let low = u32::from_ne_bytes([*a, *b, *c, *d]);
            let high = u32::from_ne_bytes([*e, *f, *g, *h]);
            each(u64::from(high) << 32 | u64::from(low));
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Of a socket that is there: nobody has it open.
fn is_closed(message: &[u8]) -> bool {
    let state = message.get(STATE).map_or(0, |s| 1u32 << (s & 31));
    state & CLOSED != 0 && message.get(INODE..INODE + 4) == Some(&[0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    #[test]
    fn the_cookie_of_every_dead_socket_is_reported() {
        let mut deaths = Deaths::new(listen().unwrap());
        deaths.hear(true).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let unbound = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let mut expected = vec![
            sockopt::socket_cookie(&tcp).unwrap(),
            sockopt::socket_cookie(&udp).unwrap(),
            sockopt::socket_cookie(&unbound).unwrap(),
        ];
        let copy = udp.try_clone().unwrap();
        drop((tcp, udp, unbound));
        drop(copy);
        for _ in 0..100 {
            deaths.drain(|cookie| expected.retain(|c| *c != cookie));
            if expected.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not reported: {expected:?}");
    }

    #[test]
    fn a_closed_socket_is_found_before_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // Once there was a dialogue the FIN is acknowledged late.
        for _ in 0..20 {
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
            server.write_all(b"y").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        let shut = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        shut.shutdown(std::net::Shutdown::Write).unwrap();
        let mut deaths = Deaths::new(listen().unwrap());
        deaths.hear(true).unwrap();
        let cookies = [&client, &shut].map(|s| sockopt::socket_cookie(s).unwrap());
        drop(client);
        deaths.ask_for_closed(AddressFamily::INET);
        let mut seen = Vec::new();
        deaths.drain(|cookie| seen.push(cookie));
        assert!(seen.contains(&cookies[0]), "it is closed");
        assert!(!seen.contains(&cookies[1]), "it is open, half of it");
    }

    #[test]
    fn a_short_queue_is_known_and_its_overflow_is_noticed() {
        let sock = listen().unwrap();
        if rustix::process::geteuid().is_root() {
            assert!(!Deaths::new(sock.try_clone().unwrap()).short);
        }
        sockopt::set_socket_recv_buffer_size(&sock, 16 << 10).unwrap();
        let mut deaths = Deaths::new(sock);
        assert!(deaths.short);
        deaths.hear(true).unwrap();
        let made = || {
            socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )
        };
        for _ in 0..200 {
            drop(made().unwrap());
        }
        // The kernel frees sockets a moment after their end.
        for _ in 0..100 {
            deaths.drain(|_| {});
            if deaths.lost {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing was lost");
    }

    #[test]
    fn damaged_messages_are_passed_over() {
        let mut message = vec![0u8; HEADER + 72];
        message[..4].copy_from_slice(&88u32.to_ne_bytes());
        message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        message[HEADER + COOKIE] = 5;
        for len in 0..=message.len() {
            let mut seen = Vec::new();
            cookies(&message[..len], &mut |c| seen.push(c));
            assert_eq!(
                seen,
                if len == message.len() {
                    vec![5]
                } else {
                    vec![]
                }
            );
        }
        message[..4].copy_from_slice(&0u32.to_ne_bytes());
        cookies(&message, &mut |_| panic!("length 0"));
    }
}
