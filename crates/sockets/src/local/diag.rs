//! What the kernel holds of one end of a connection, whoever has its descriptor: one question to `NETLINK_SOCK_DIAG`
//! (`sock_diag(7)`), which needs no privilege. The kernel answers within the call that asks.

use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;

use flyover_core::local::Facts;
use flyover_wire::{Endpoint, Ip};

use crate::errno::Errno;
use crate::os::Os;

const NETLINK_SOCK_DIAG: i32 = 4;
/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_INFO` of linux/inet_diag.h: the attribute, and its bit in the request.
const INFO: u16 = 2;
/// `INET_DIAG_SHUTDOWN`: the attribute, which comes unasked.
const SHUTDOWN: u16 = 8;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// Room for the answer, bytes: some 500 as a rule.
const ROOM: usize = 2048;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;
/// Bits of `TCP_ESTABLISHED`, `TCP_SYN_RECV` and `TCP_CLOSE_WAIT`.
const OPEN: u32 = 1 << 1 | 1 << 3 | 1 << 8;
/// A request for all that fit.
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;

/// The facts of the established connection `local` to `remote` whose socket has this cookie.
pub(super) fn facts(os: &dyn Os, cookie: u64, local: Endpoint, remote: Endpoint) -> Option<Facts> {
    let mut answer = [0u8; ROOM];
    decode(query(os, cookie, local, remote, &mut answer)?)
}

/// The inode of that socket, whatever state it is in.
pub(super) fn inode(os: &dyn Os, cookie: u64, local: Endpoint, remote: Endpoint) -> Option<u32> {
    let mut answer = [0u8; ROOM];
    let m = query(os, cookie, local, remote, &mut answer)?;
    let kind = m.get(4..6)?.try_into().ok().map(u16::from_ne_bytes);
    let word = m.get(HEADER + 68..HEADER + 72)?.try_into().ok()?;
    (kind == Some(BY_FAMILY)).then_some(u32::from_ne_bytes(word))
}

/// The connections on a local port that are open or being opened and that nobody has closed.
pub(crate) fn open_on(os: &dyn Os, port: u16) -> Vec<(Endpoint, Endpoint)> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let mut found = Vec::new();
    let Ok(fd) = os.socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG) else {
        return found;
    };
    for family in [libc::AF_INET, libc::AF_INET6] {
        let any = Ip::UNSPECIFIED_V4;
        let none = Endpoint { ip: any, port: 0 };
        let mut question = request(u64::MAX, Endpoint { ip: any, port }, none);
        question[6..8].copy_from_slice(&DUMP.to_ne_bytes());
        question[16] = family as u8;
        question[18] = 0;
        question[20..24].copy_from_slice(&OPEN.to_ne_bytes());
        let mut answer = [0u8; ROOM * 4];
        let mut got = ask(os, fd, &question, &mut answer);
        while let Some(n) = got
            && !each(answer.get(..n).unwrap_or_default(), |m| {
                found.extend(ends(m))
            })
        {
            let more = os.recvmsg(fd, &mut [IoSliceMut::new(&mut answer)], &mut [], 0);
            got = more.ok().map(|m| m.n);
        }
    }
    let _: Result<(), Errno> = os.close(fd);
    found
}

/// Calls `f` with each socket of an answer; true: it was the last part.
fn each(mut answer: &[u8], mut f: impl FnMut(&[u8])) -> bool {
    while let Some(head) = answer.first_chunk::<6>() {
        let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        if kind != BY_FAMILY || len < HEADER {
            return true;
        }
        f(answer.get(..len).unwrap_or_default());
        answer = answer.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// The two ends of a socket.
fn ends(m: &[u8]) -> Option<(Endpoint, Endpoint)> {
    let port = |at: usize| Some(u16::from_be_bytes(m.get(at..at + 2)?.try_into().ok()?));
    let v4 = i32::from(*m.get(HEADER)?) == libc::AF_INET;
    let ip = |at: usize| {
        let b: [u8; 16] = m.get(at..at + 16)?.try_into().ok()?;
        Some(match v4 {
            true => Ip::v4([b[0], b[1], b[2], b[3]]),
            false => Ip(b),
        })
    };
    let at = HEADER + 4;
    let local = Endpoint {
        ip: ip(at + 4)?,
        port: port(at)?,
    };
    let remote = Endpoint {
        ip: ip(at + 20)?,
        port: port(at + 2)?,
    };
    Some((local, remote))
}

fn query<'a>(
    os: &dyn Os,
    cookie: u64,
    local: Endpoint,
    remote: Endpoint,
    answer: &'a mut [u8; ROOM],
) -> Option<&'a [u8]> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = os.socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG).ok()?;
    let n = ask(os, fd, &request(cookie, local, remote), answer);
    let _: Result<(), Errno> = os.close(fd);
    answer.get(..n?)
}

fn ask(os: &dyn Os, fd: i32, question: &[u8], answer: &mut [u8]) -> Option<usize> {
    let sent = os.sendmsg(fd, &[IoSlice::new(question)], None, &[], 0);
    sent.ok()?;
    let got = os.recvmsg(fd, &mut [IoSliceMut::new(answer)], &mut [], 0);
    got.ok().map(|m| m.n)
}

fn request(cookie: u64, local: Endpoint, remote: Endpoint) -> [u8; HEADER + REQUEST] {
    let mut b = [0u8; HEADER + REQUEST];
    let mut put = |at: usize, v: &[u8]| {
        if let Some(to) = b.get_mut(at..at + v.len()) {
            to.copy_from_slice(v);
        }
    };
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    let family = match local.ip.is_v4() {
        true => libc::AF_INET,
        false => libc::AF_INET6,
    };
    put(
        16,
        &[family as u8, libc::IPPROTO_TCP as u8, 1 << (INFO - 1)],
    );
    put(20, &u32::MAX.to_ne_bytes());
    put(24, &local.port.to_be_bytes());
    put(26, &remote.port.to_be_bytes());
    put(28, address(local.ip).as_slice());
    put(44, address(remote.ip).as_slice());
    put(64, &(cookie as u32).to_ne_bytes());
    put(68, &((cookie >> 32) as u32).to_ne_bytes());
    b
}

/// An address as `inet_diag_sockid` has it: an IPv4 one in the first four bytes.
fn address(ip: Ip) -> [u8; 16] {
    let mut b = [0u8; 16];
    match ip.to_std() {
        IpAddr::V4(v4) => b[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => b = v6.octets(),
    }
    b
}

fn decode(answer: &[u8]) -> Option<Facts> {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(answer.get(at..at + 8)?.try_into().ok()?));
    if u16_at(4)? != BY_FAMILY || *answer.get(HEADER + 1)? != ESTABLISHED {
        return None;
    }
    let waiting = u32_at(HEADER + 56)?;
    let mut at = HEADER + MESSAGE;
    loop {
        let len = usize::from(u16_at(at)?);
        if len < 4 {
            return None;
        }
        let kind = u16_at(at + 2)?;
        if kind == SHUTDOWN && *answer.get(at + 4)? != 0 {
            return None;
        }
        if kind != INFO {
            at += len.next_multiple_of(4);
            continue;
        }
        // Of struct tcp_info (linux/tcp.h).
        let info = at + 4;
        let end = at + len;
        let known = |field: usize| (info + field + 8 <= end).then_some(info + field);
        let sent = u64_at(known(200)?)?;
        let again = u64_at(known(208)?)?;
        let unsent = u64::from(u32_at(known(144)?)?);
        let received = u64_at(known(128)?)?;
        return Some(Facts {
            sent: sent.checked_sub(again)? + unsent,
            read: received.checked_sub(u64::from(waiting))?,
            waiting,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: u8, waiting: u32, info: &[u8]) -> Vec<u8> {
        let mut m = vec![0u8; HEADER + MESSAGE];
        m[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        m[HEADER + 1] = state;
        m[HEADER + 56..HEADER + 60].copy_from_slice(&waiting.to_ne_bytes());
        // Another attribute comes first.
        m.extend_from_slice(&5u16.to_ne_bytes());
        m.extend_from_slice(&15u16.to_ne_bytes());
        m.extend_from_slice(&[1, 0, 0, 0]);
        m.extend_from_slice(&(4 + info.len() as u16).to_ne_bytes());
        m.extend_from_slice(&INFO.to_ne_bytes());
        m.extend_from_slice(info);
        m
    }

    #[test]
    fn bytes_are_counted_by_the_kernels_words() {
        let mut info = vec![0u8; 280];
        info[200..208].copy_from_slice(&1000u64.to_ne_bytes());
        info[208..216].copy_from_slice(&100u64.to_ne_bytes());
        info[144..148].copy_from_slice(&7u32.to_ne_bytes());
        info[128..136].copy_from_slice(&50u64.to_ne_bytes());
        let facts = Facts {
            sent: 907,
            read: 20,
            waiting: 30,
        };
        assert_eq!(decode(&message(ESTABLISHED, 30, &info)), Some(facts));
        let mut shut = message(ESTABLISHED, 30, &info);
        let first = HEADER + MESSAGE;
        shut[first + 2..first + 4].copy_from_slice(&SHUTDOWN.to_ne_bytes());
        assert_eq!(decode(&shut), None, "shut down for reading");
        assert_eq!(decode(&message(8, 30, &info)), None, "a FIN has come");
        assert_eq!(decode(&message(ESTABLISHED, 30, &info[..180])), None);
        assert_eq!(decode(&[0; 20]), None);
    }

    #[test]
    fn an_ipv4_address_comes_first() {
        let e = |s: &str| -> Endpoint { s.parse().expect("an address") };
        let b = request(0x1_0000_0002, e("127.0.0.1:80"), e("127.0.0.2:5555"));
        assert_eq!(b[16], libc::AF_INET as u8);
        assert_eq!(&b[28..32], &[127, 0, 0, 1]);
        assert_eq!(&b[44..48], &[127, 0, 0, 2]);
        assert_eq!(&b[64..72], &[2, 0, 0, 0, 1, 0, 0, 0]);
    }
}
