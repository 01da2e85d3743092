//! What the kernel knows of TCP and UDP sockets of this namespace, by cookie: a dump over
//! `NETLINK_SOCK_DIAG` (sock_diag(7)), which needs no privilege.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use flyover_wire::{Endpoint, Ip};
use rustix::fd::OwnedFd;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use super::row::Netid;

/// A socket as the kernel describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub(super) proto: Netid,
    /// The kernel's `TCP_*` number, also for UDP.
    pub(super) state: u8,
    pub(super) recv_q: u32,
    pub(super) send_q: u32,
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    /// Of the socket, as /proc/PID/fd names it; 0 when no descriptor is left.
    pub(super) inode: u32,
}

/// Sockets by cookie.
pub(super) type Sockets = HashMap<u64, Known>;

// linux/netlink.h, linux/sock_diag.h
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST | NLM_F_DUMP
const DUMP_FLAGS: u16 = 0x301;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// Asks for all of them.
pub(super) fn sockets() -> anyhow::Result<Sockets> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )
    .context("opening a socket for socket diagnostics")?;
    let mut all = Sockets::new();
    for (proto, netid) in [(TCP, Netid::Tcp), (UDP, Netid::Udp)] {
        for family in [AF_INET, AF_INET6] {
            dump(&socket, family, proto, netid, &mut all)
                .context("asking the kernel for its sockets")?;
        }
    }
    Ok(all)
}

fn request(family: u8, proto: u8) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    bytes[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&DUMP_FLAGS.to_ne_bytes());
    bytes[HEADER] = family;
    bytes[HEADER + 1] = proto;
    // all states
    bytes[HEADER + 4..HEADER + 8].copy_from_slice(&u32::MAX.to_ne_bytes());
    bytes
}

fn dump(
    socket: &OwnedFd,
    family: u8,
    proto: u8,
    netid: Netid,
    all: &mut Sockets,
) -> anyhow::Result<()> {
    send(socket, &request(family, proto), SendFlags::empty())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (len, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        if rest.is_empty() {
            bail!("an empty answer");
        }
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                // A kernel without the udp_diag module has nothing to say of UDP.
                NLMSG_ERROR => return Ok(()),
                SOCK_DIAG_BY_FAMILY => {
                    if let Some((cookie, known)) = describe(body, netid) {
                        all.insert(cookie, known);
                    }
                }
                _ => {}
            }
            rest = next;
        }
    }
}

/// The first netlink message of `bytes`: its type, its body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(word32(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// `struct inet_diag_msg`: family, state, timer, retransmissions; ports in network order, addresses,
/// interface, cookie; expiry, queues, user, inode.
fn describe(body: &[u8], proto: Netid) -> Option<(u64, Known)> {
    let body = body.get(..MESSAGE)?;
    let port = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?))
    };
    let ip = |at: usize| -> Option<Ip> {
        let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        Some(if body[0] == AF_INET {
            Ip::v4([a, b, c, d])
        } else {
            Ip::v6(bytes)
        })
    };
    let cookie = u64::from(word32(body, 44)?) | u64::from(word32(body, 48)?) << 32;
    let known = Known {
        proto,
        state: body[1],
        local: Endpoint::new(ip(8)?, port(4)?),
        remote: Endpoint::new(ip(24)?, port(6)?),
        recv_q: word32(body, 56)?,
        send_q: word32(body, 60)?,
        inode: word32(body, 68)?,
    };
    Some((cookie, known))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use rustix::net::sockopt::socket_cookie;

    use super::*;

    #[test]
    fn own_sockets_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let all = sockets().unwrap();
        let find = |cookie: rustix::io::Result<u64>| all.get(&cookie.unwrap()).copied();

        let known = find(socket_cookie(&listener)).unwrap();
        assert_eq!((known.proto, known.state), (Netid::Tcp, 10));
        assert_eq!(known.local, listener.local_addr().unwrap().into());

        let known = find(socket_cookie(&stream)).unwrap();
        assert_eq!((known.proto, known.state), (Netid::Tcp, 1));
        assert_eq!(known.remote, stream.peer_addr().unwrap().into());

        // Machines without udp_diag do not list it.
        if let Some(known) = find(socket_cookie(&udp)) {
            assert_eq!((known.proto, known.state), (Netid::Udp, 7));
            assert_eq!(known.local, udp.local_addr().unwrap().into());
        }
    }

    #[test]
    fn damaged_answers() {
        assert_eq!(message(&[]), None);
        assert_eq!(message(&[200, 0, 0, 0, 3, 0, 0, 0]), None);
        assert_eq!(message(&[8, 0, 0, 0, 3, 0, 0, 0]), None);
        assert_eq!(describe(&[0; MESSAGE - 1], Netid::Tcp), None);
    }
}
