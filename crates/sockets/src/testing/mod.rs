//! `FakeOs`: descriptors, kernel sockets and waiting in memory, and hosts that are joined by wires in memory. What a
//! kernel socket of the fake cannot do (send data to another one) it refuses; the tests are about the accelerated side.

mod calls;

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use flyover_wire::{Endpoint, Ip};

use crate::errno::Errno;
use crate::fdtable::FdTable;
use crate::os::{EpollEvent, PollFd};

/// What a descriptor is.
#[derive(Clone, Debug)]
enum File {
    Inet(Inet),
    /// A Unix datagram socket: bytes of the messages that wait.
    Wake {
        name: Vec<u8>,
        queue: VecDeque<Vec<u8>>,
    },
    Event(u64),
    Epoll(HashMap<i32, EpollEvent>),
    Data {
        bytes: Vec<u8>,
        at: usize,
    },
}

#[derive(Clone, Debug)]
struct Inet {
    v6: bool,
    kind: i32,
    local: Endpoint,
    remote: Option<Endpoint>,
    listening: bool,
    /// The port is the kernel's choice.
    chosen: bool,
    cookie: u64,
    options: HashMap<(i32, i32), Vec<u8>>,
    /// Datagrams that came by the kernel's way.
    queue: VecDeque<(Endpoint, Vec<u8>)>,
}

#[derive(Default, Debug)]
struct Table {
    /// Number -> (file, status flags). Duplicates share the file.
    fds: HashMap<i32, (usize, i32)>,
    files: Vec<Option<File>>,
}

/// An operating system in memory.
#[derive(Debug)]
pub struct FakeOs {
    table: Mutex<Table>,
    start: Instant,
    address: Ip,
    next_port: AtomicU32,
    next_cookie: AtomicU64,
    /// Signals that were raised at ourselves.
    pub pipes_broken: AtomicU32,
    /// The next calls that make a descriptor fail with this error (0: they do not).
    pub no_more_fds: AtomicI32,
}

impl FakeOs {
    /// A host with this address, no descriptors open.
    pub fn new(address: Ip) -> Self {
        Self {
            table: Mutex::default(),
            start: Instant::now(),
            address,
            next_port: AtomicU32::new(40_000),
            next_cookie: AtomicU64::new(1),
            pipes_broken: AtomicU32::new(0),
            no_more_fds: AtomicI32::new(0),
        }
    }

    /// The next ephemeral port.
    pub fn set_next_port(&self, port: u16) {
        self.next_port
            .store(u32::from(port), core::sync::atomic::Ordering::Relaxed);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn install(&self, file: File, status: i32) -> Result<i32, Errno> {
        match self.no_more_fds.load(Ordering::Relaxed) {
            0 => {}
            e => return Err(Errno(e)),
        }
        let mut t = self.table();
        t.files.push(Some(file));
        let index = t.files.len() - 1;
        let fd = lowest(&t, 3);
        let _ = t.fds.insert(fd, (index, status));
        Ok(fd)
    }

    /// Opens a file with these bytes.
    pub fn open_bytes(&self, bytes: &[u8]) -> i32 {
        self.install(
            File::Data {
                bytes: bytes.to_vec(),
                at: 0,
            },
            0,
        )
        .unwrap_or(-1)
    }

    /// A datagram arrives at the kernel's half of `fd`.
    pub fn kernel_datagram(&self, fd: i32, from: Endpoint, bytes: &[u8]) {
        let _ = self.inet(fd, |s| {
            s.queue.push_back((from, bytes.to_vec()));
            Ok(())
        });
    }

    /// Descriptors that are open.
    pub fn open_count(&self) -> usize {
        self.table().fds.len()
    }

    fn file<R>(&self, fd: i32, f: impl FnOnce(&mut File) -> Result<R, Errno>) -> Result<R, Errno> {
        let mut t = self.table();
        let index = t.fds.get(&fd).ok_or(Errno::EBADF)?.0;
        f(t.files
            .get_mut(index)
            .and_then(Option::as_mut)
            .ok_or(Errno::EBADF)?)
    }

    fn inet<R>(&self, fd: i32, f: impl FnOnce(&mut Inet) -> Result<R, Errno>) -> Result<R, Errno> {
        self.file(fd, |file| match file {
            File::Inet(s) => f(s),
            _ => Err(Errno::ENOTSOCK),
        })
    }

    fn revents(&self, p: &PollFd) -> i16 {
        if p.fd < 0 {
            return 0;
        }
        let ready = self.file(p.fd, |f| {
            Ok(match f {
                File::Inet(s) if !s.queue.is_empty() => libc::POLLIN | libc::POLLOUT,
                File::Inet(s) if s.kind == libc::SOCK_DGRAM => libc::POLLOUT,
                File::Inet(s) if s.listening => 0,
                File::Inet(_) => libc::POLLOUT | libc::POLLHUP,
                File::Wake { queue, .. } => i16::from(!queue.is_empty()) * libc::POLLIN,
                File::Event(n) => i16::from(*n > 0) * libc::POLLIN,
                File::Epoll(_) => 0,
                File::Data { .. } => libc::POLLIN,
            })
        });
        match ready {
            Ok(r) => r & (p.events | libc::POLLHUP | libc::POLLERR),
            Err(_) => libc::POLLNVAL,
        }
    }
}

fn lowest(t: &Table, from: i32) -> i32 {
    (from..)
        .find(|n| !t.fds.contains_key(n))
        .unwrap_or(i32::MAX)
}

fn int_bytes(v: i32) -> Vec<u8> {
    v.to_ne_bytes().to_vec()
}

/// A table of `n` descriptors on the heap, for one test.
pub fn table(n: usize) -> FdTable {
    let words: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
    let made: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
    FdTable::new(words.leak(), made.leak())
}
