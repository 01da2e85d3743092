//! `setsockopt(2)`: the kernel socket checks and keeps every option; the endpoint honours those whose row says so.

use core::sync::atomic::Ordering;
use std::sync::OnceLock;

use flyover_core::TcpState;
use flyover_core::sock::opts::SockOpt;
use flyover_core::sock::{Kind, flag};

use crate::entry::{Entry, Fresh};
use crate::errno::Errno;
use crate::io::options::{self, Act, Form, Row, Way, int, stamps};
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};

const NS_PER_SEC: u64 = 1_000_000_000;

impl Sockets {
    /// `setsockopt(2)`.
    pub fn setsockopt(&self, fd: i32, level: i32, name: i32, value: &[u8]) -> Answer {
        match self.look(fd) {
            Fd::Kernel if self.may_come_back(fd) || self.is_young_entry(fd) => {
                self.set_away(fd, level, name, value)
            }
            Fd::Kernel | Fd::Epoll(_) => Answer::Kernel,
            Fd::Fresh(f) => match self.set_fresh(fd, f, level, name, value) {
                // Another thread may connect it meanwhile, and have looked at the options already.
                Answer::Kernel => self.set_away(fd, level, name, value),
                done => done,
            },
            Fd::Tcp(ep) => self.set_both(&ep, fd, level, name, value, true),
            Fd::Udp(ep) => self.set_both(&ep, fd, level, name, value, false),
        }
    }

    /// The kernel has the connection, for the time being or no longer by now: then the endpoint has looked at the options
    /// before this one was set, or it looks later.
    fn set_away(&self, fd: i32, level: i32, name: i32, value: &[u8]) -> Answer {
        let row = options::find(level, name);
        if let Err(e) = self.os.setsockopt(fd, level, name, value) {
            return Answer::Error(e);
        }
        let (ep, tcp) = match self.look_after_move(fd) {
            Fd::Tcp(ep) => (ep, true),
            Fd::Udp(ep) => (ep, false),
            _ if self.may_come_back(fd) && row.is_none_or(|row| row.moves(true, value)) => {
                self.keep_there(fd, Reason::HandedOver);
                return Answer::Value(0);
            }
            _ => {
                if row.is_none_or(|row| row.moves(true, value)) {
                    self.young_stays(fd);
                }
                return Answer::Value(0);
            }
        };
        if row.is_none_or(|row| row.moves(tcp, value)) {
            let _: Result<(), Errno> = self.needs_kernel(fd, &ep, Reason::HandedOver);
        } else if let Some(row) = row {
            self.apply(&ep, fd, row, value);
        }
        Answer::Value(0)
    }

    /// A socket without endpoint: it remembers that the endpoint must look, or stays with the kernel.
    fn set_fresh(&self, fd: i32, f: Fresh, level: i32, name: i32, value: &[u8]) -> Answer {
        let moves = options::find(level, name).is_none_or(|row| row.moves(!f.dgram, value));
        if moves {
            let done = self.os.setsockopt(fd, level, name, value);
            if done.is_ok() {
                self.leave_to_kernel(fd, Reason::Option);
            }
            return done.into();
        }
        if !f.opts {
            let mut noted = f;
            noted.opts = true;
            let _: bool = self.table.replace(fd, Entry::Fresh(f), Entry::Fresh(noted));
        }
        Answer::Kernel
    }

    fn set_both(&self, ep: &Ep, fd: i32, level: i32, name: i32, value: &[u8], tcp: bool) -> Answer {
        self.await_move(ep);
        let connected = tcp && has_connection(ep);
        if connected && let Some(e) = refused_on_connection(ep, level, name, value) {
            return Answer::Error(e);
        }
        let row = options::find(level, name);
        let moves = row.is_none_or(|row| row.moves(tcp, value));
        // These look at the connection's state, which the token has not: it moves first.
        let looks = level == libc::IPPROTO_TCP
            || level == libc::SOL_SOCKET && STAMPING.contains(&name)
            || (level, name) == (libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM);
        let first = connected && moves && looks;
        if first && self.needs_kernel(fd, ep, Reason::HandedOver).is_ok() {
            return Answer::Kernel;
        }
        if let Err(e) = self.os.setsockopt(fd, level, name, value) {
            return Answer::Error(e);
        }
        if moves && !first && self.needs_kernel(fd, ep, Reason::HandedOver).is_err() && !tcp {
            // Datagrams are queued: they are read first.
            self.withdraw(ep);
        }
        if let Some(row) = row {
            self.apply(ep, fd, row, value);
        }
        if tcp && ep.shared().tcp_state() == TcpState::Listen {
            let _: u32 = ep
                .shared()
                .sopts
                .fetch_or(options::HANDS_DOWN, Ordering::Relaxed);
            self.legacies.forget(ep);
        }
        Answer::Value(0)
    }

    /// The endpoint honours a value that the kernel took.
    fn apply(&self, ep: &Ep, fd: i32, row: &Row, value: &[u8]) {
        let s = ep.shared();
        let tcp = s.kind() == Kind::Tcp;
        match row.act {
            Act::No => {}
            Act::Bit(bit) => {
                put_bit(ep, bit, int(value) != 0);
                if bit == options::CORKED {
                    // The kernel sends what it held.
                    put_bit(ep, options::PENDING, false);
                }
            }
            Act::Stamp(which) => {
                let old = s.sopts.load(Ordering::Relaxed);
                let new = stamps::after(old & options::STAMPS, which, int(value) as u32);
                let _: u32 = s.sopts.fetch_and(!options::STAMPS | new, Ordering::Relaxed);
                let _: u32 = s.sopts.fetch_or(new, Ordering::Relaxed);
                if matches!(which, stamps::Stamp::Flags(_)) {
                    let sending = int(value) as u32 & stamps::OF_SENDING != 0;
                    put_bit(ep, options::TX_STAMPED, sending);
                }
            }
            Act::Limit(way) => limit(ep, way).store(timeval_ns(value), Ordering::Relaxed),
            Act::Opt(opt, form) => {
                if row.path(tcp) != options::Path::Stack {
                    return;
                }
                let v = match form {
                    Form::Raw => int(value) as u32,
                    Form::Switch => u32::from(int(value) != 0),
                    Form::Offset => int(value).wrapping_add(1) as u32,
                    Form::Linger => linger(value),
                    // What the kernel made of it: clamped, doubled.
                    Form::Int | Form::Buffer => {
                        match self.int_option(fd, row.level, readable(row.name)) {
                            // Of these a negative one means something.
                            Ok(v) if opt == SockOpt::Linger2 => v as u32,
                            Ok(v) => v.max(0) as u32,
                            Err(_) => return,
                        }
                    }
                };
                // Gone meanwhile: nobody is left who could tell.
                let _: Result<(), Errno> = ep.locked(|l, id| l.set_opt(id, opt, v));
            }
        }
    }

    /// Copies the options that were set on the kernel socket before the endpoint existed: those that differ from an
    /// untouched socket's.
    pub(crate) fn copy_options(&self, fd: i32, ep: &Ep) {
        let tcp = ep.shared().kind() == Kind::Tcp;
        // The kernel has tuned the buffers of an established connection: only this says whether the program set them.
        let locks = self.int_option(fd, libc::SOL_SOCKET, SO_BUF_LOCK).ok();
        let _: usize = self.each_changed(
            fd,
            ep.v6,
            tcp,
            |row| row.act != Act::No,
            |row, value| {
                if row.level != libc::SOL_SOCKET {
                    return self.apply(ep, fd, row, value);
                }
                let set = match row.name {
                    libc::SO_SNDBUF => locks.is_none_or(|l| l & SNDBUF_LOCK != 0),
                    libc::SO_RCVBUF => locks.is_none_or(|l| l & RCVBUF_LOCK != 0),
                    // SO_RCVBUFFORCE reads as SO_RCVBUF.
                    name => readable(name) == name,
                };
                if set {
                    self.apply(ep, fd, row, value);
                }
            },
        );
    }

    /// Calls `f` with each option among those `wanted` whose value differs from that of an untouched socket; returns
    /// how many there were.
    pub(crate) fn each_changed(
        &self,
        fd: i32,
        v6: bool,
        tcp: bool,
        wanted: impl Fn(&Row) -> bool,
        mut f: impl FnMut(&'static Row, &[u8]),
    ) -> usize {
        let slot = usize::from(v6) * 2 + usize::from(tcp);
        let known = self.defaults.get(slot).and_then(OnceLock::get);
        let asked = match known {
            Some(_) => None,
            None => self.untouched(v6, tcp),
        };
        let untouched = known.or(asked.as_ref()).map_or(&[][..], Vec::as_slice);
        let mut changed = 0;
        for (i, row) in options::TABLE.iter().enumerate() {
            if row.path(tcp) == options::Path::None
                || !wanted(row)
                || row.level == libc::IPPROTO_IPV6 && !v6
            {
                continue;
            }
            let mut ours = [0u8; 32];
            // Without a socket to compare with (no descriptor is left) every value counts.
            let theirs = untouched.get(i).copied().flatten();
            if let Ok(n) = self.os.getsockopt(fd, row.level, row.name, &mut ours)
                && theirs != Some(ours)
            {
                changed += 1;
                f(row, ours.get(..n.min(32)).unwrap_or_default());
            }
        }
        if let (Some(values), Some(place)) = (asked, self.defaults.get(slot)) {
            // Another thread may have been first, with the same.
            let _: Result<(), Vec<Option<Value>>> = place.set(values);
        }
        changed
    }

    /// The values of a socket that nobody has touched, in the order of the table. Asked once: sysctls that change
    /// afterwards are not noticed.
    fn untouched(&self, v6: bool, tcp: bool) -> Option<Vec<Option<Value>>> {
        let domain = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = if tcp {
            libc::SOCK_STREAM
        } else {
            libc::SOCK_DGRAM
        };
        let plain = self.os.socket(domain, kind | libc::SOCK_CLOEXEC, 0).ok()?;
        let values = options::TABLE.iter().map(|row| {
            let mut b = [0u8; 32];
            let got = self.os.getsockopt(plain, row.level, row.name, &mut b);
            got.is_ok().then_some(b)
        });
        let values: Vec<Option<Value>> = values.collect();
        let _: Result<(), Errno> = self.os.close(plain);
        Some(values)
    }
}

/// Which buffers have the size that the program gave them (Linux 5.14; asm-generic/socket.h, linux/socket.h).
const SO_BUF_LOCK: i32 = 72;
const SNDBUF_LOCK: i32 = 1;
const RCVBUF_LOCK: i32 = 2;
/// `SO_TIMESTAMPING` by both of its numbers: what is sent is numbered from the connection's present state on.
const STAMPING: [i32; 2] = [libc::SO_TIMESTAMPING, 65];

/// The value of an option, its first bytes.
pub(crate) type Value = [u8; 32];

/// Past the handshake's first step: the token does not know what the endpoint is.
pub(crate) fn has_connection(ep: &Ep) -> bool {
    let s = ep.shared();
    match s.tcp_state() {
        TcpState::Listen => false,
        TcpState::Closed => s.has(flag::CONNECTED_SEEN) || s.has(flag::PAIRED),
        _ => true,
    }
}

/// What Linux refuses on a connection, and takes on the unconnected token.
fn refused_on_connection(ep: &Ep, level: i32, name: i32, value: &[u8]) -> Option<Errno> {
    if value.len() < 4 {
        return None;
    }
    let closed = ep.shared().tcp_state() == TcpState::Closed;
    match (level, name) {
        (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP) if !closed && int(value) == 0 => {
            Some(Errno::EINVAL)
        }
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN | TCP_FASTOPEN_NO_COOKIE) if !closed => {
            Some(Errno::EINVAL)
        }
        (libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT) if !closed => Some(Errno::EINVAL),
        (libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ) if !closed => Some(Errno::EPERM),
        // An accepted connection's token has no port.
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if ep.v6 => Some(Errno::EINVAL),
        (libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM) if !closed => {
            let native = ep.v6 && !ep.shared().remote().ip.is_v4();
            (native && int(value) == libc::AF_INET).then_some(Errno::EADDRNOTAVAIL)
        }
        _ => None,
    }
}

/// Of linux/tcp.h.
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

fn put_bit(ep: &Ep, bit: u32, on: bool) {
    let word = &ep.shared().sopts;
    let _: u32 = if on {
        word.fetch_or(bit, Ordering::Relaxed)
    } else {
        word.fetch_and(!bit, Ordering::Relaxed)
    };
}

fn limit(ep: &Ep, way: Way) -> &'static flyover_shm::Shared64 {
    match way {
        Way::In => &ep.shared().rcvtimeo,
        Way::Out => &ep.shared().sndtimeo,
    }
}

/// `SO_RCVBUFFORCE` and `SO_SNDBUFFORCE` can only be set; they are read by the other name.
fn readable(name: i32) -> i32 {
    match name {
        libc::SO_RCVBUFFORCE => libc::SO_RCVBUF,
        libc::SO_SNDBUFFORCE => libc::SO_SNDBUF,
        n => n,
    }
}

/// `struct linger` as the endpoint keeps it: 0 is off, else 1 + seconds.
fn linger(value: &[u8]) -> u32 {
    let on = int(value) != 0;
    let time = int(value.get(4..).unwrap_or_default()).max(0) as u32;
    if on { time.saturating_add(1) } else { 0 }
}

/// `struct timeval` in nanoseconds.
pub(crate) fn timeval_ns(value: &[u8]) -> u64 {
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
}
