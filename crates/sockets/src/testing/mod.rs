//! `FakeOs`: descriptors, kernel sockets and waiting in memory, and hosts that are joined by wires in memory. What a
//! kernel socket of the fake cannot do (send data to another host) it refuses; the tests are about the accelerated side.
//! Streams within a host it has (`streams.rs`), and what another thread does at just the wrong moment is told to it with
//! [`FakeOs::before`].

mod calls;
mod sets;
mod streams;

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use flyover_wire::{Endpoint, Ip};

use crate::errno::Errno;
use crate::fdtable::FdTable;
use crate::os::PollFd;

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
    Epoll(sets::Members),
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
    /// Files of connections that nobody has accepted yet.
    backlog: VecDeque<usize>,
    /// A connection within this host.
    stream: Option<streams::Stream>,
}

/// Something to be done by another thread, so to speak, before the next call of that name.
struct Hook {
    call: &'static str,
    act: Box<dyn FnOnce() + Send>,
}

impl core::fmt::Debug for Hook {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hook").field("call", &self.call).finish()
    }
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
    hooks: Mutex<Vec<Hook>>,
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
            hooks: Mutex::default(),
        }
    }

    /// The next call of this name first does `act`, once: `epoll_create`, `epoll_ctl`, `epoll_collect`, `copy` (a descriptor
    /// is copied) or `sendmsg`. Of several for one name each call does one, in this order.
    pub fn before(&self, call: &'static str, act: impl FnOnce() + Send + 'static) {
        let act = Box::new(act);
        self.hooks().push(Hook { call, act });
    }

    /// Hooks that were not needed.
    pub fn hooks_left(&self) -> usize {
        self.hooks().len()
    }

    fn hooks(&self) -> MutexGuard<'_, Vec<Hook>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self, call: &'static str) {
        let mut hooks = self.hooks();
        let due = hooks.iter().position(|h| h.call == call);
        let due = due.map(|at| hooks.remove(at));
        drop(hooks);
        if let Some(hook) = due {
            (hook.act)();
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
        let t = self.table();
        let file = t
            .fds
            .get(&p.fd)
            .and_then(|(i, _)| t.files.get(*i)?.as_ref());
        match file {
            Some(f) => ready(f) & (p.events | libc::POLLHUP | libc::POLLERR),
            None => libc::POLLNVAL,
        }
    }
}

fn ready(f: &File) -> i16 {
    match f {
        File::Inet(Inet {
            stream: Some(s), ..
        }) => s.ready(),
        File::Inet(s) if !s.queue.is_empty() => libc::POLLIN | libc::POLLOUT,
        File::Inet(s) if s.kind == libc::SOCK_DGRAM => libc::POLLOUT,
        File::Inet(s) if s.listening => 0,
        File::Inet(_) => libc::POLLOUT | libc::POLLHUP,
        File::Wake { queue, .. } => i16::from(!queue.is_empty()) * libc::POLLIN,
        File::Event(n) => i16::from(*n > 0) * libc::POLLIN,
        File::Epoll(_) => 0,
        File::Data { .. } => libc::POLLIN,
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
