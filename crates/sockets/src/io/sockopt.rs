//! `getsockopt(2)` and `setsockopt(2)`: the kernel socket checks and keeps every option; the endpoint honours those in
//! [`options::TABLE`], and answers for what only it knows.

use core::sync::atomic::Ordering;

use flyover_core::time::Instant;

use crate::addr::Addr;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::io::options::{self, Form, Row};
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};

const NS_PER_SEC: u64 = 1_000_000_000;

impl Sockets {
    /// `setsockopt(2)`.
    pub fn setsockopt(&self, fd: i32, level: i32, name: i32, value: &[u8]) -> Answer {
        match self.look(fd) {
            Fd::Kernel | Fd::Epoll(_) => Answer::Kernel,
            Fd::Fresh(f) => {
                if !f.opts {
                    let mut noted = f;
                    noted.opts = true;
                    let _: bool = self.table.replace(fd, Entry::Fresh(f), Entry::Fresh(noted));
                }
                Answer::Kernel
            }
            Fd::Tcp(ep) => self.set_both(&ep, fd, level, name, value, true),
            Fd::Udp(ep) => self.set_both(&ep, fd, level, name, value, false),
        }
    }

    fn set_both(&self, ep: &Ep, fd: i32, level: i32, name: i32, value: &[u8], tcp: bool) -> Answer {
        if only_kernel(level, name, value) {
            // Where it cannot move, the kernel half takes the option all the same and says what is wrong with it.
            let _: Result<(), Errno> = self.needs_kernel(fd, ep, Reason::HandedOver);
            return Answer::Kernel;
        }
        // The token of a connection is not connected: what the kernel checks against the state it cannot know.
        let ignore = tcp
            && matches!(
                (level, name),
                (libc::IPPROTO_TCP, libc::TCP_QUICKACK | libc::TCP_MAXSEG)
            );
        if let Err(e) = self.os.setsockopt(fd, level, name, value)
            && !ignore
        {
            return Answer::Error(e);
        }
        self.apply(ep, fd, level, name, value, tcp);
        Answer::Value(0)
    }

    fn apply(&self, ep: &Ep, fd: i32, level: i32, name: i32, value: &[u8], tcp: bool) {
        let s = ep.shared();
        if level == libc::SOL_SOCKET && matches!(name, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) {
            let word = if name == libc::SO_RCVTIMEO {
                &s.rcvtimeo
            } else {
                &s.sndtimeo
            };
            word.store(timeval_ns(value), Ordering::Relaxed);
            return;
        }
        if let Some(bit) = options::flag_of(level, name) {
            s.put_flag(bit, int(value) != 0);
            return;
        }
        let Some(row) = options::find(level, name).filter(|r| tcp || r.udp) else {
            return;
        };
        let v = match row.form {
            Form::Int => int(value) as u32,
            Form::Switch => u32::from(int(value) != 0),
            // What the kernel made of it: clamped by sysctls, doubled.
            Form::Buffer => match self.int_option(fd, level, readable(name)) {
                Ok(v) => v as u32,
                Err(_) => return,
            },
            Form::Linger => linger(value),
        };
        ep.att.locked(|l| l.set_opt(ep.sock.id, row.opt, v));
    }

    /// Copies the options that were set on the kernel socket before the endpoint existed.
    pub(crate) fn copy_options(&self, fd: i32, ep: &Ep) {
        let tcp = ep.shared().kind() == flyover_core::sock::Kind::Tcp;
        for row in options::TABLE.iter().filter(|r| tcp || r.udp) {
            if readable(row.name) == row.name || row.form != Form::Buffer {
                self.copy_option(fd, ep, row, tcp);
            }
        }
        for (level, name) in options::SWITCHES {
            if let (Ok(v), Some(bit)) = (
                self.int_option(fd, level, name),
                options::flag_of(level, name),
            ) {
                ep.shared().put_flag(bit, v != 0);
            }
        }
        let s = ep.shared();
        for (name, word) in [
            (libc::SO_RCVTIMEO, &s.rcvtimeo),
            (libc::SO_SNDTIMEO, &s.sndtimeo),
        ] {
            let mut b = [0u8; 16];
            if let Ok(16) = self.os.getsockopt(fd, libc::SOL_SOCKET, name, &mut b) {
                word.store(timeval_ns(&b), Ordering::Relaxed);
            }
        }
    }

    fn copy_option(&self, fd: i32, ep: &Ep, row: &Row, tcp: bool) {
        let family = if ep.v6 {
            libc::IPPROTO_IP
        } else {
            libc::IPPROTO_IPV6
        };
        if row.level == family {
            return;
        }
        let mut b = [0u8; 8];
        let Ok(n) = self.os.getsockopt(fd, row.level, row.name, &mut b) else {
            return;
        };
        let value = b.get(..n.min(8)).unwrap_or_default();
        let v = match row.form {
            // An untouched buffer tunes itself; the kernel's default says that it was not touched.
            Form::Buffer => {
                if !is_tuned(self, fd, row.name, int(value), tcp) {
                    return;
                }
                int(value) as u32
            }
            Form::Linger => linger(value),
            Form::Int => match int(value) {
                v if v < 0 => return,
                v => v as u32,
            },
            Form::Switch => u32::from(int(value) != 0),
        };
        // TCP_MAXSEG of an unconnected socket reads as the default MSS, TCP_QUICKACK as on.
        let unset = matches!((row.level, row.name), (libc::IPPROTO_TCP, libc::TCP_MAXSEG))
            && v == 536
            || matches!(
                (row.level, row.name),
                (libc::IPPROTO_TCP, libc::TCP_QUICKACK)
            );
        if !unset && ep.att.stack.opt(ep.sock.id, row.opt) != v {
            ep.att.locked(|l| l.set_opt(ep.sock.id, row.opt, v));
        }
    }

    /// `getsockopt(2)`: the value's length, or the kernel's answer.
    pub fn getsockopt(&self, fd: i32, level: i32, name: i32, into: &mut [u8]) -> Answer {
        let (ep, tcp) = match self.look(fd) {
            Fd::Tcp(ep) => (ep, true),
            Fd::Udp(ep) => (ep, false),
            Fd::Fresh(f) if f.error != 0 && (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR) => {
                return put(into, &self.fetch_error(fd, f).0.to_ne_bytes());
            }
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => return Answer::Kernel,
        };
        if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR) {
            let ours = ep.att.stack.take_error(ep.sock.id);
            let e = if ours == 0 && !tcp {
                self.int_option(fd, level, name).unwrap_or(0)
            } else {
                ours
            };
            return put(into, &e.to_ne_bytes());
        }
        if !tcp {
            return Answer::Kernel;
        }
        if (level, name) == (libc::IPPROTO_TCP, libc::TCP_INFO) {
            let info = ep.att.stack.tcp_info(ep.sock.id, Instant(self.os.now()));
            return put(into, &crate::io::ioctl::tcp_info(&info));
        }
        if (level, name) == (libc::SOL_SOCKET, SO_PEERNAME) {
            let addr = Addr::inet(ep.shared().remote(), ep.v6);
            return put(into, addr.as_bytes());
        }
        if level == libc::SOL_SOCKET && matches!(name, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) {
            let s = ep.shared();
            let word = if name == libc::SO_RCVTIMEO {
                &s.rcvtimeo
            } else {
                &s.sndtimeo
            };
            let ns = word.load(Ordering::Relaxed);
            let mut b = [0u8; 16];
            let (sec, usec) = b.split_at_mut(8);
            sec.copy_from_slice(&(ns / NS_PER_SEC).to_ne_bytes());
            usec.copy_from_slice(&(ns % NS_PER_SEC / 1_000).to_ne_bytes());
            return put(into, &b);
        }
        let Some(row) = options::find(level, name) else {
            return Answer::Kernel;
        };
        let v = ep.att.stack.opt(ep.sock.id, row.opt);
        match row.form {
            Form::Linger => {
                let mut b = [0u8; 8];
                let (on, time) = b.split_at_mut(4);
                on.copy_from_slice(&u32::from(v != 0).to_ne_bytes());
                time.copy_from_slice(&v.saturating_sub(1).to_ne_bytes());
                put(into, &b)
            }
            // What was never set on the endpoint reads as the kernel's default.
            Form::Int if v == 0 => Answer::Kernel,
            Form::Int | Form::Switch | Form::Buffer => put(into, &v.to_ne_bytes()),
        }
    }
}

/// Options whose effect only the kernel has: the socket is handed over before they are set.
fn only_kernel(level: i32, name: i32, value: &[u8]) -> bool {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ZEROCOPY) => int(value) != 0,
        (
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER | libc::SO_ATTACH_BPF | libc::SO_BINDTODEVICE | SO_BINDTOIFINDEX,
        )
        | (
            libc::IPPROTO_TCP,
            libc::TCP_ULP | libc::TCP_MD5SIG | TCP_MD5SIG_EXT | libc::TCP_REPAIR,
        ) => true,
        _ => false,
    }
}

/// `SO_BINDTOIFINDEX` of asm-generic/socket.h.
const SO_BINDTOIFINDEX: i32 = 62;
/// `TCP_MD5SIG_EXT` of linux/tcp.h.
const TCP_MD5SIG_EXT: i32 = 32;

/// `SO_PEERNAME` of asm-generic/socket.h.
const SO_PEERNAME: i32 = 28;

/// `SO_RCVBUFFORCE` and `SO_SNDBUFFORCE` can only be set; they are read by the other name.
fn readable(name: i32) -> i32 {
    match name {
        libc::SO_RCVBUFFORCE => libc::SO_RCVBUF,
        libc::SO_SNDBUFFORCE => libc::SO_SNDBUF,
        n => n,
    }
}

/// True when the buffer's size differs from that of an untouched kernel socket of the kind.
fn is_tuned(sockets: &Sockets, fd: i32, name: i32, value: i32, tcp: bool) -> bool {
    let domain = sockets
        .int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)
        .unwrap_or(libc::AF_INET);
    let kind = if tcp {
        libc::SOCK_STREAM
    } else {
        libc::SOCK_DGRAM
    };
    let Ok(plain) = sockets.os.socket(domain, kind | libc::SOCK_CLOEXEC, 0) else {
        return false;
    };
    let default = sockets.int_option(plain, libc::SOL_SOCKET, name);
    let _: Result<(), Errno> = sockets.os.close(plain);
    default.is_ok_and(|d| d != value)
}

/// Copies an option's value out, cut to the application's buffer as the kernel does.
fn put(into: &mut [u8], value: &[u8]) -> Answer {
    let n = into.len().min(value.len());
    for (to, from) in into.iter_mut().zip(value) {
        *to = *from;
    }
    Answer::Value(n)
}

fn int(value: &[u8]) -> i32 {
    match value {
        [a, b, c, d, ..] => i32::from_ne_bytes([*a, *b, *c, *d]),
        [a, ..] => i32::from(*a),
        [] => 0,
    }
}

/// `struct linger` as the endpoint keeps it: 0 is off, else 1 + seconds.
fn linger(value: &[u8]) -> u32 {
    let on = int(value) != 0;
    let time = int(value.get(4..).unwrap_or_default()).max(0) as u32;
    if on { time.saturating_add(1) } else { 0 }
}

fn timeval_ns(value: &[u8]) -> u64 {
    let word = |at: usize| {
        let b: Option<[u8; 8]> = value.get(at..at + 8).and_then(|s| s.try_into().ok());
        b.map_or(0, i64::from_ne_bytes)
    };
    match (u64::try_from(word(0)), u64::try_from(word(8))) {
        (Ok(sec), Ok(usec)) => sec
            .saturating_mul(NS_PER_SEC)
            .saturating_add(usec.saturating_mul(1_000)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_decode() {
        assert_eq!(int(&[7]), 7);
        assert_eq!(int(&(-3i32).to_ne_bytes()), -3);
        let mut l = [0u8; 8];
        l[..4].copy_from_slice(&1i32.to_ne_bytes());
        assert_eq!(linger(&l), 1);
        l[4..].copy_from_slice(&9i32.to_ne_bytes());
        assert_eq!(linger(&l), 10);
        let mut t = [0u8; 16];
        t[..8].copy_from_slice(&2i64.to_ne_bytes());
        t[8..].copy_from_slice(&5i64.to_ne_bytes());
        assert_eq!(timeval_ns(&t), 2_000_005_000);
        assert_eq!(timeval_ns(&t[..8]), 2_000_000_000);
    }

    #[test]
    fn values_are_cut_to_the_buffer() {
        let mut two = [0xffu8; 2];
        assert_eq!(put(&mut two, &1i32.to_ne_bytes()), Answer::Value(2));
        assert_eq!(two, [1, 0]);
    }
}
