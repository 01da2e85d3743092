//! The calls of `FakeOs`.

use core::sync::atomic::{AtomicU32, Ordering};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::time::{Duration, Instant};

use flyover_wire::{Endpoint, Ip};

use super::{FakeOs, File, Inet, int_bytes, lowest};
use crate::addr::Addr;
use crate::enter;
use crate::errno::Errno;
use crate::os::{EpollEvent, Os, PollFd, Ran, Received};

/// Of asm-generic/socket.h.
const SO_PEERNAME: i32 = 28;

impl FakeOs {
    pub(super) fn new_cookie(&self) -> u64 {
        self.next_cookie.fetch_add(1, Ordering::Relaxed)
    }
}

impl Os for FakeOs {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64 + 1_000_000_000
    }

    fn realtime(&self) -> u64 {
        self.now()
    }

    fn entropy(&self) -> u64 {
        self.next_cookie
            .load(Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn getpid(&self) -> i32 {
        1
    }

    fn socket(&self, domain: i32, kind: i32, _protocol: i32) -> Result<i32, Errno> {
        let status = if kind & libc::SOCK_NONBLOCK != 0 {
            libc::O_NONBLOCK
        } else {
            0
        };
        let kind = kind & 0xf;
        let v6 = domain == libc::AF_INET6;
        let any = if v6 {
            Ip::UNSPECIFIED_V6
        } else {
            Ip::UNSPECIFIED_V4
        };
        let file = match domain {
            libc::AF_UNIX => File::Wake {
                name: Vec::new(),
                queue: VecDeque::new(),
            },
            libc::AF_INET | libc::AF_INET6 => File::Inet(Inet {
                v6,
                kind,
                local: Endpoint { ip: any, port: 0 },
                remote: None,
                listening: false,
                chosen: false,
                cookie: self.new_cookie(),
                options: HashMap::new(),
                queue: VecDeque::new(),
                backlog: VecDeque::new(),
                stream: None,
            }),
            _ => return Err(Errno::EAFNOSUPPORT),
        };
        self.install(file, status)
    }

    fn close(&self, fd: i32) -> Result<(), Errno> {
        let mut t = self.table();
        let (index, _) = t.fds.remove(&fd).ok_or(Errno::EBADF)?;
        if !t.fds.values().any(|(i, _)| *i == index) {
            t.end_stream(index);
            if let Some(f) = t.files.get_mut(index) {
                *f = None;
            }
        }
        Ok(())
    }

    fn bind(&self, fd: i32, addr: &Addr) -> Result<(), Errno> {
        if let Some(e) = addr.endpoint() {
            let fresh = self.next_port.fetch_add(1, Ordering::Relaxed) as u16;
            return self.inet(fd, |s| {
                if s.local.port != 0 {
                    return Err(Errno::EINVAL);
                }
                s.chosen = e.port == 0;
                s.local = Endpoint {
                    ip: e.ip,
                    port: if e.port == 0 { fresh } else { e.port },
                };
                Ok(())
            });
        }
        let bytes = addr.as_bytes().to_vec();
        self.file(fd, |f| match f {
            File::Wake { name, .. } => {
                *name = bytes;
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        })
    }

    fn connect(&self, fd: i32, addr: &Addr) -> Result<(), Errno> {
        let remote = addr.endpoint();
        let fresh = self.next_port.fetch_add(1, Ordering::Relaxed) as u16;
        let address = self.address;
        let (kind, bound) = self.inet(fd, |s| Ok((s.kind, s.local.port)))?;
        if let Some(remote) = remote.filter(|_| kind == libc::SOCK_STREAM) {
            let port = if bound == 0 { fresh } else { bound };
            let ip = remote.ip;
            return self.open_stream(fd, Endpoint { ip, port }, remote);
        }
        self.inet(fd, |s| {
            s.remote = remote;
            if s.local.port == 0 {
                s.local = Endpoint {
                    ip: address,
                    port: fresh,
                };
            }
            Ok(())
        })
    }

    fn listen(&self, fd: i32, _backlog: i32) -> Result<(), Errno> {
        self.inet(fd, |s| {
            s.listening = true;
            Ok(())
        })
    }

    fn accept(&self, fd: i32, _flags: i32) -> Result<(i32, Addr), Errno> {
        let (file, from) = {
            let mut t = self.table();
            let index = t.file_of(fd)?;
            let Some(Some(File::Inet(s))) = t.files.get_mut(index) else {
                return Err(Errno::ENOTSOCK);
            };
            if !s.listening {
                return Err(Errno::EINVAL);
            }
            let file = s.backlog.pop_front().ok_or(Errno::EAGAIN)?;
            let fd = lowest(&t, 3);
            let _ = t.fds.insert(fd, (file, 0));
            (fd, fd)
        };
        Ok((file, self.getpeername(from)?))
    }

    fn shutdown(&self, fd: i32, how: i32) -> Result<(), Errno> {
        if self.is_stream(fd) {
            let mut t = self.table();
            let file = t.file_of(fd)?;
            if how != libc::SHUT_RD {
                t.end_stream(file);
            }
            return Ok(());
        }
        self.inet(fd, |s| {
            if s.listening {
                // As Linux: it listens no longer, and a port that the kernel chose is free again.
                s.listening = false;
                s.local.port = if s.chosen { 0 } else { s.local.port };
                Ok(())
            } else {
                Err(Errno::ENOTCONN)
            }
        })
    }

    fn getsockname(&self, fd: i32) -> Result<Addr, Errno> {
        self.inet(fd, |s| Ok(Addr::inet(s.local, s.v6)))
    }

    fn getpeername(&self, fd: i32) -> Result<Addr, Errno> {
        self.inet(fd, |s| {
            s.remote.map(|r| Addr::inet(r, s.v6)).ok_or(Errno::ENOTCONN)
        })
    }

    fn getsockopt(&self, fd: i32, level: i32, name: i32, into: &mut [u8]) -> Result<usize, Errno> {
        let value = self.inet(fd, |s| {
            Ok(match (level, name) {
                (libc::SOL_SOCKET, libc::SO_COOKIE) => s.cookie.to_ne_bytes().to_vec(),
                (libc::SOL_SOCKET, libc::SO_DOMAIN) => {
                    int_bytes(if s.v6 { libc::AF_INET6 } else { libc::AF_INET })
                }
                (libc::SOL_SOCKET, libc::SO_TYPE) => int_bytes(s.kind),
                (libc::SOL_SOCKET, libc::SO_PROTOCOL) => {
                    int_bytes(if s.kind == libc::SOCK_DGRAM { 17 } else { 6 })
                }
                (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => int_bytes(i32::from(s.listening)),
                (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => Vec::new(),
                (libc::SOL_SOCKET, SO_PEERNAME) => {
                    let to = s.remote.ok_or(Errno::ENOTCONN)?;
                    Addr::inet(to, s.v6).as_bytes().to_vec()
                }
                (libc::IPPROTO_TCP, libc::TCP_INFO) => {
                    // TCP_ESTABLISHED, TCP_CLOSE.
                    vec![if s.stream.is_some() { 1 } else { 7 }]
                }
                (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_RCVBUF) => s
                    .options
                    .get(&(level, name))
                    .cloned()
                    .unwrap_or_else(|| int_bytes(131_072)),
                key => s.options.get(&key).cloned().unwrap_or_else(|| int_bytes(0)),
            })
        })?;
        let n = value.len().min(into.len());
        for (to, from) in into.iter_mut().zip(&value) {
            *to = *from;
        }
        Ok(n)
    }

    fn setsockopt(&self, fd: i32, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        let mut value = value.to_vec();
        if level == libc::SOL_SOCKET
            && matches!(name, libc::SO_SNDBUF | libc::SO_RCVBUF)
            && let Ok(b) = <[u8; 4]>::try_from(value.as_slice())
        {
            value = int_bytes(i32::from_ne_bytes(b).saturating_mul(2));
        }
        self.inet(fd, |s| {
            let _ = s.options.insert((level, name), value);
            Ok(())
        })
    }

    fn fcntl(&self, fd: i32, cmd: i32, arg: usize) -> Result<i32, Errno> {
        if cmd == libc::F_DUPFD_CLOEXEC {
            self.reached("copy");
        }
        let mut t = self.table();
        let (index, status) = *t.fds.get(&fd).ok_or(Errno::EBADF)?;
        match cmd {
            libc::F_GETFL => Ok(status),
            libc::F_SETFL => {
                t.fds
                    .values_mut()
                    .filter(|(i, _)| *i == index)
                    .for_each(|(_, s)| *s = arg as i32);
                Ok(0)
            }
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
                let new = lowest(&t, arg as i32);
                let _ = t.fds.insert(new, (index, status));
                Ok(new)
            }
            _ => Ok(0),
        }
    }

    fn dup3(&self, old: i32, new: i32, _flags: i32) -> Result<i32, Errno> {
        let _: Result<(), Errno> = self.close(new);
        let mut t = self.table();
        let entry = *t.fds.get(&old).ok_or(Errno::EBADF)?;
        let _ = t.fds.insert(new, entry);
        Ok(new)
    }

    fn read(&self, fd: i32, into: &mut [u8]) -> Result<usize, Errno> {
        self.file(fd, |f| match f {
            File::Wake { queue, .. } => queue.pop_front().map(|m| m.len()).ok_or(Errno::EAGAIN),
            File::Event(n) if *n > 0 => {
                *n = 0;
                Ok(8)
            }
            File::Data { bytes, at } => {
                let rest = bytes.get(*at..).unwrap_or_default();
                let n = rest.len().min(into.len());
                into.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                *at += n;
                Ok(n)
            }
            _ => Err(Errno::EAGAIN),
        })
    }

    fn pread(&self, fd: i32, into: &mut [u8], at: i64) -> Result<usize, Errno> {
        self.file(fd, |f| match f {
            File::Data { bytes, .. } => {
                let rest = bytes.get(at as usize..).unwrap_or_default();
                let n = rest.len().min(into.len());
                into.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                Ok(n)
            }
            _ => Err(Errno::ESPIPE),
        })
    }

    fn seek_by(&self, fd: i32, by: i64) -> Result<i64, Errno> {
        self.file(fd, |f| match f {
            File::Data { at, .. } => {
                *at = at.saturating_add_signed(by as isize);
                Ok(*at as i64)
            }
            _ => Err(Errno::ESPIPE),
        })
    }

    fn write(&self, fd: i32, from: &[u8]) -> Result<usize, Errno> {
        self.file(fd, |f| match f {
            File::Event(n) => {
                *n += 1;
                Ok(from.len())
            }
            File::Data { bytes, .. } => {
                bytes.extend_from_slice(from);
                Ok(from.len())
            }
            _ => Err(Errno::EPIPE),
        })
    }

    fn recvmsg(
        &self,
        fd: i32,
        into: &mut [IoSliceMut<'_>],
        _control: &mut [u8],
        flags: i32,
    ) -> Result<Received, Errno> {
        if self.is_stream(fd) {
            let n = self.recv_stream(fd, into, flags & libc::MSG_PEEK != 0)?;
            return Ok(Received {
                n,
                from: Addr::default(),
                control: 0,
                flags: 0,
            });
        }
        self.inet(fd, |s| {
            let (from, bytes) = s.queue.pop_front().ok_or(Errno::EAGAIN)?;
            let room = into.iter_mut().flat_map(|b| b.iter_mut());
            let n = room.zip(&bytes).map(|(to, from)| *to = *from).count();
            Ok(Received {
                n,
                from: Addr::inet(from, s.v6),
                control: 0,
                flags: 0,
            })
        })
    }

    fn sendmsg(
        &self,
        fd: i32,
        from: &[IoSlice<'_>],
        to: Option<&Addr>,
        _control: &[u8],
        _flags: i32,
    ) -> Result<usize, Errno> {
        self.reached("sendmsg");
        let bytes: Vec<u8> = from.iter().flat_map(|s| s.iter().copied()).collect();
        if to.is_none() && self.is_stream(fd) {
            return self.send_stream(fd, &bytes);
        }
        if self.inet(fd, |_| Ok(())).is_ok() {
            return Err(Errno::ENETUNREACH);
        }
        let to = to.ok_or(Errno::ENOTCONN)?.as_bytes();
        for f in self.table().files.iter_mut().flatten() {
            if let File::Wake { name, queue } = f
                && name.as_slice() == to
            {
                let n = bytes.len();
                queue.push_back(bytes);
                return Ok(n);
            }
        }
        Err(Errno::ECONNREFUSED)
    }

    fn ppoll(&self, fds: &mut [PollFd], timeout: Option<u64>) -> Result<usize, Errno> {
        let start = Instant::now();
        loop {
            let mut n = 0;
            for p in fds.iter_mut() {
                p.revents = self.revents(p);
                n += usize::from(p.revents != 0);
            }
            let span = Duration::from_nanos(timeout.unwrap_or(u64::MAX));
            // A V-NIC in memory has no descriptor: short naps stand for its interrupts.
            if n > 0 || start.elapsed() >= span || start.elapsed() >= Duration::from_micros(500) {
                return Ok(n);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn epoll_create(&self, _flags: i32) -> Result<i32, Errno> {
        self.reached("epoll_create");
        self.install(File::Epoll(BTreeMap::new()), 0)
    }

    fn epoll_ctl(
        &self,
        epfd: i32,
        op: i32,
        fd: i32,
        event: Option<EpollEvent>,
    ) -> Result<(), Errno> {
        self.reached("epoll_ctl");
        self.change_set(epfd, op, fd, event)
    }

    fn epoll_collect(&self, epfd: i32, into: &mut [EpollEvent]) -> Result<usize, Errno> {
        self.reached("epoll_collect");
        self.collect_set(epfd, into)
    }

    fn file_type(&self, fd: i32) -> Result<u32, Errno> {
        self.file(fd, |f| {
            Ok(match f {
                File::Data { .. } => libc::S_IFREG,
                File::Inet(_) | File::Wake { .. } => libc::S_IFSOCK,
                File::Event(_) | File::Epoll(_) => 0,
            })
        })
    }

    fn memfd(&self) -> Result<i32, Errno> {
        self.install(
            File::Data {
                bytes: Vec::new(),
                at: 0,
            },
            0,
        )
    }

    fn eventfd(&self) -> Result<i32, Errno> {
        self.install(File::Event(0), 0)
    }

    fn futex_wait(&self, word: &AtomicU32, value: u32, timeout: u64) {
        let start = Instant::now();
        while word.load(Ordering::Acquire) == value
            && start.elapsed() < Duration::from_nanos(timeout)
        {
            std::thread::yield_now();
        }
    }

    fn futex_wake(&self, _word: &AtomicU32, _count: u32) {}

    fn raise_sigpipe(&self) {
        let _: u32 = self.pipes_broken.fetch_add(1, Ordering::Relaxed);
    }

    fn run_signals(&self) -> Ran {
        if enter::take_signal() {
            Ran::Interrupt
        } else {
            Ran::None
        }
    }

    fn test_cancel(&self) {}
}
