//! What the library is in one process: the fd table, the attached stack, and what a fork changes. Nothing happens
//! before the first socket that could be accelerated: no daemon, no stack, no memory.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use flyover_core::sock::{Kind as SockKind, Sock, flag};
use flyover_core::stack::locked::Locked;
use flyover_core::{SockId, SockRef};

use crate::addr::Addr;
use crate::attach::{Attachment, Connector};
use crate::entry::{Entry, Fresh, Handle};
use crate::errno::Errno;
use crate::fdtable::{FdTable, SHARED};
use crate::generations::{Generation, Lineage};
use crate::life::takeover::is_away;
use crate::os::Os;
use crate::policy::{Reason, Wanted, wanted};
use crate::wait::epoll::EpollTable;
use crate::wait::spin::Budget;

/// How a call is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Answer {
    /// With this value.
    Value(usize),
    /// With `-1` and this error. [`Errno::MOVED`]: the kernel got the connection while the call was at it, which is to be
    /// made anew: how it is made there, the layer says.
    Error(Errno),
    /// By libc: the caller makes the call that the application wanted, outside the library.
    Kernel,
}

impl From<Result<usize, Errno>> for Answer {
    fn from(r: Result<usize, Errno>) -> Self {
        match r {
            Ok(v) => Self::Value(v),
            Err(e) => Self::Error(e),
        }
    }
}

impl From<Result<(), Errno>> for Answer {
    fn from(r: Result<(), Errno>) -> Self {
        r.map(|()| 0).into()
    }
}

/// An accelerated socket, looked up.
#[derive(Clone, Copy, Debug)]
pub struct Ep {
    /// Its stack.
    pub att: &'static Attachment,
    /// Slot and generation.
    pub sock: SockRef,
    /// `AF_INET6`.
    pub v6: bool,
}

impl Ep {
    /// The slot's shared fields.
    #[inline]
    pub fn shared(&self) -> &'static Sock {
        self.att.stack.sock(self.sock.id)
    }

    /// Runs `f` under the stack's lock, if the socket is still the one that was looked up: another thread may have closed it
    /// since, and somebody else have a socket in its slot.
    ///
    /// # Errors
    /// `EBADF`.
    #[inline]
    pub fn locked<R>(
        &self,
        f: impl FnOnce(&mut Locked<'_, '_, 'static>, SockId) -> R,
    ) -> Result<R, Errno> {
        self.att.locked(|l| {
            let lives = l.stack().get(self.sock).is_some();
            lives.then(|| f(l, self.sock.id)).ok_or(Errno::EBADF)
        })
    }

    /// `O_NONBLOCK` is set.
    #[inline]
    pub fn nonblocking(&self) -> bool {
        self.shared().has(flag::NONBLOCK)
    }
}

/// What a descriptor is, after a look at the table and, if need be, at the kernel.
#[derive(Clone, Copy, Debug)]
pub enum Fd {
    /// The kernel's.
    Kernel,
    /// An inet socket without endpoint.
    Fresh(Fresh),
    /// Accelerated TCP.
    Tcp(Ep),
    /// Accelerated UDP.
    Udp(Ep),
    /// An epoll set.
    Epoll(u32),
}

/// How this process wants to be served.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Accelerate at all.
    pub accelerate: bool,
    /// Let connections within this host go through shared memory.
    pub local: bool,
    /// So many calls have to move bytes on such a connection first.
    pub local_after: u32,
    /// A connection of the kernel's with another host is taken over after so many; 0: never.
    pub adopt_after: u32,
    /// So many connections of a local address ask the daemon first, one by one.
    pub lend_after: u32,
    /// How long to spin before a sleep.
    pub spin: Budget,
    /// The parent had accelerated sockets: unknown inet descriptors may be some.
    pub inherited: bool,
}

/// The socket layer of one process. Lives for ever.
pub struct Sockets {
    /// The operating system.
    pub os: &'static dyn Os,
    /// fd -> entry.
    pub table: FdTable,
    /// Epoll sets.
    pub epolls: EpollTable,
    /// As configured.
    pub settings: Settings,
    pub(crate) connector: &'static dyn Connector,
    pub(crate) generations: &'static [Generation],
    pub(crate) lineage: Lineage,
    /// Kernel sockets with several descriptors in this process, by cookie, and how many.
    /// A tree: a hash table would ask the kernel for random numbers in every program that starts.
    pub(crate) copies: Mutex<BTreeMap<u64, u32>>,
    /// Set once a stack was ever attached, in this process or an ancestor that forked it.
    pub(crate) ever_attached: AtomicBool,
    kernel_path: [AtomicU32; Reason::ALL.len()],
    /// Options of untouched sockets, by family and kind.
    pub(crate) defaults: [OnceLock<Vec<Option<crate::io::sockopt::Value>>>; 4],
    /// What listeners hand down to their connections.
    pub(crate) legacies: crate::life::inherit::Legacies,
    /// Epoll sets inherited through `exec`.
    pub(crate) heirlooms: crate::wait::heirs::Heirlooms,
}

impl core::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sockets")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Sockets {
    /// The layer over `os`, attaching through `connector` when the time comes.
    pub fn new(
        os: &'static dyn Os,
        connector: &'static dyn Connector,
        table: FdTable,
        generations: &'static [Generation],
        settings: Settings,
    ) -> Self {
        Self {
            os,
            table,
            epolls: EpollTable::new(),
            settings,
            connector,
            generations,
            lineage: Lineage::new(os.getpid()),
            copies: Mutex::default(),
            ever_attached: AtomicBool::new(settings.inherited),
            kernel_path: [const { AtomicU32::new(0) }; Reason::ALL.len()],
            defaults: [const { OnceLock::new() }; 4],
            legacies: crate::life::inherit::Legacies::default(),
            heirlooms: crate::wait::heirs::Heirlooms::default(),
        }
    }

    /// Whether sockets are accelerated here.
    #[inline]
    pub fn accelerates(&self) -> bool {
        self.settings.accelerate && !self.os.is_sandboxed()
    }

    /// Wakes every thread of this process that sleeps in the library.
    pub fn wake_sleepers(&self) {
        if let Some(att) = self.attached() {
            att.ring_all();
        }
    }

    /// True in a child that shares our memory but not our identity (`vfork`, a raw `clone`): it must not change what
    /// the table says.
    pub fn is_foreign_child(&self) -> bool {
        self.os.getpid() != self.lineage.pid.load(Ordering::Acquire)
    }

    /// True when closing `fd` here certainly is the last close of the socket. Not to be asked in a foreign child.
    pub fn is_sole_holder(&self, fd: i32) -> bool {
        let made = self.table.made(fd);
        made != SHARED && made == self.fork_generation()
    }

    /// `socket(2)` succeeded with `fd`.
    pub fn on_socket(&self, fd: i32, domain: i32, kind: i32, protocol: i32) {
        let entry = match wanted(domain, kind, protocol) {
            Wanted::Other => Entry::Kernel(0),
            _ if !self.accelerates() => Entry::Kernel(0),
            _ if crate::enter::in_resolver() => Entry::Kernel(Reason::Internal.code()),
            w => Entry::Fresh(Fresh {
                v6: domain == libc::AF_INET6,
                dgram: w == Wanted::Udp,
                opts: false,
                in_epoll: false,
                unbound: false,
                error: 0,
                shut: 0,
            }),
        };
        let _: bool = self.table.store(fd, entry);
        match entry {
            // Never ours: who else holds it is not asked, and forks need not be counted for it.
            Entry::Kernel(0) => self.mark_shared(fd),
            _ => self.mark_made(fd),
        }
    }

    /// The kernel accepted `fd` for `listener`, which is not ours; `peer`: from there, if the kernel said so.
    pub fn on_kernel_accept(&self, listener: i32, fd: i32, peer: Option<Addr>) {
        let _: bool = self.table.store(fd, Entry::Kernel(0));
        self.mark_made(fd);
        if self.accelerates()
            && let Some(peer) = peer.or_else(|| self.os.getpeername(fd).ok())
            && let Some(remote) = peer.endpoint()
        {
            let v6 = peer.family() == libc::AF_INET6;
            if self.settings.local && self.accepted_by_kernel(fd, v6, Some(remote)) {
                return;
            }
            let inherited = Entry::Kernel(Reason::Adopted.code());
            if self.table.load(listener) == inherited
                && let Some(mark) = self.make_mark(fd, v6, Reason::KernelAccept, Some(remote))
            {
                let _: bool = self.table.store(fd, mark);
            }
        }
    }

    /// Counts a socket that is with the kernel for this reason.
    pub(crate) fn count_kernel_path(&self, reason: Reason) {
        if let Some(n) = self.kernel_path.get(usize::from(reason.code())) {
            let _: u32 = n.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `fd` stays with the kernel from now on.
    pub fn leave_to_kernel(&self, fd: i32, reason: Reason) {
        self.count_kernel_path(reason);
        let _: bool = self.table.store(fd, Entry::Kernel(reason.code()));
        self.tell_ss(fd, reason);
    }

    /// How many sockets stayed with the kernel for this reason.
    pub fn kernel_path_count(&self, reason: Reason) -> u32 {
        self.kernel_path
            .get(usize::from(reason.code()))
            .map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// What `fd` is.
    #[inline]
    pub fn look(&self, fd: i32) -> Fd {
        match self.table.load(fd) {
            Entry::Kernel(_) | Entry::Young(_) | Entry::Closing | Entry::Ours => Fd::Kernel,
            Entry::Fresh(f) => self.fresh(fd, f),
            Entry::Epoll(i) => Fd::Epoll(i),
            Entry::Unknown => self.probe(fd),
            e @ Entry::Tcp(h) => self.endpoint(fd, e, h, SockKind::Tcp),
            e @ Entry::Udp(h) => self.endpoint(fd, e, h, SockKind::Udp),
        }
    }

    #[inline]
    fn endpoint(&self, fd: i32, entry: Entry, h: Handle, kind: SockKind) -> Fd {
        let att = match self.attached() {
            Some(a) => a,
            None => match self.attach() {
                Ok(a) => a,
                Err(_) => return Fd::Kernel,
            },
        };
        let sock = att.stack.sock_ref(h.id);
        let shared = att.stack.sock(h.id);
        if h.is_life(sock.generation) && shared.kind() == kind && !shared.has(flag::HANDED_OVER) {
            let ep = Ep {
                att,
                sock,
                v6: h.v6,
            };
            if shared.has(flag::PAIRED) && shared.k_fresh.load(Ordering::Relaxed) != 0 {
                return self.welcome(fd, ep);
            }
            return if kind == SockKind::Tcp {
                Fd::Tcp(ep)
            } else {
                Fd::Udp(ep)
            };
        }
        if h.is_life(sock.generation) && shared.kind() == kind {
            if is_away(shared) {
                return Fd::Kernel;
            }
            if !shared.has(flag::HANDED_OVER) {
                // It came back between the two looks.
                return self.endpoint(fd, entry, h, kind);
            }
        }
        // Closed behind our back (inside libc, or by another process): the number may mean something else now.
        let _: bool = self.table.replace(fd, entry, Entry::Unknown);
        self.probe(fd)
    }

    /// A fresh socket with another holder may have got an endpoint under another number, or in another process.
    fn fresh(&self, fd: i32, f: Fresh) -> Fd {
        if self.table.made(fd) == self.fork_generation() {
            return Fd::Fresh(f);
        }
        let Some((att, cookie)) = self.attached().zip(self.cookie(fd).ok()) else {
            return Fd::Fresh(f);
        };
        let Some(sock) = att.find_cookie(cookie) else {
            return Fd::Fresh(f);
        };
        let _: bool = self.table.replace(fd, Entry::Fresh(f), Entry::Unknown);
        self.settle(fd, entry_of(att, sock, f.v6))
    }

    /// Asks the kernel what `fd` is, and the stack whether it has an endpoint for it.
    #[cold]
    fn probe(&self, fd: i32) -> Fd {
        let domain = match self.int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN) {
            Ok(d) => d,
            Err(Errno::EBADF) => return Fd::Kernel,
            Err(_) => {
                return match self.heirloom(fd) {
                    Some(index) => Fd::Epoll(index),
                    None => self.settle(fd, Entry::Kernel(0)),
                };
            }
        };
        let kind = self
            .int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)
            .unwrap_or(0);
        let protocol = self
            .int_option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)
            .unwrap_or(0);
        let w = wanted(domain, kind, protocol);
        if w == Wanted::Other || !self.accelerates() {
            return self.settle(fd, Entry::Kernel(0));
        }
        self.table.set_made(fd, SHARED);
        let v6 = domain == libc::AF_INET6;
        // Somebody else made it, and only a stack knows whether it has an endpoint: the kernel's socket behind one looks new.
        if let Some((att, cookie)) = self.attach().ok().zip(self.cookie(fd).ok())
            && let Some(sock) = att.find_cookie(cookie)
        {
            att.holds_too(sock);
            return self.settle(fd, entry_of(att, sock, v6));
        }
        let dgram = w == Wanted::Udp;
        if self.int_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1) {
            self.share();
            self.count_kernel_path(Reason::Adopted);
            self.tell_ss(fd, Reason::Adopted);
            return self.settle(fd, Entry::Kernel(Reason::Adopted.code()));
        }
        let used = self.os.getpeername(fd).is_ok()
            || dgram && self.kernel_local(fd).map_or(true, |l| l.port != 0);
        if used {
            let mark = (!dgram).then(|| self.make_mark(fd, v6, Reason::Adopted, None));
            self.share();
            return self.settle(fd, mark.flatten().unwrap_or(Entry::Kernel(0)));
        }
        self.settle(
            fd,
            Entry::Fresh(Fresh {
                v6,
                dgram,
                opts: true,
                in_epoll: false,
                unbound: false,
                error: 0,
                shut: 0,
            }),
        )
    }

    fn settle(&self, fd: i32, entry: Entry) -> Fd {
        let _: bool = self.table.replace(fd, Entry::Unknown, entry);
        match entry {
            Entry::Fresh(f) => Fd::Fresh(f),
            Entry::Tcp(h) | Entry::Udp(h) => match self.attached() {
                Some(att) if is_away(att.stack.sock(h.id)) => Fd::Kernel,
                Some(att) => {
                    let ep = Ep {
                        att,
                        sock: att.stack.sock_ref(h.id),
                        v6: h.v6,
                    };
                    if matches!(entry, Entry::Tcp(_)) {
                        if ep.shared().k_fresh.load(Ordering::Relaxed) != 0 {
                            return self.welcome(fd, ep);
                        }
                        Fd::Tcp(ep)
                    } else {
                        Fd::Udp(ep)
                    }
                }
                None => Fd::Kernel,
            },
            Entry::Epoll(i) => Fd::Epoll(i),
            Entry::Unknown | Entry::Kernel(_) | Entry::Young(_) | Entry::Closing | Entry::Ours => {
                Fd::Kernel
            }
        }
    }

    /// An `int` option of the kernel socket.
    pub fn int_option(&self, fd: i32, level: i32, name: i32) -> Result<i32, Errno> {
        let mut b = [0u8; 4];
        let n = self.os.getsockopt(fd, level, name, &mut b)?;
        Ok(if n == 1 {
            i32::from(b[0])
        } else {
            i32::from_ne_bytes(b)
        })
    }

    /// `SO_COOKIE`: the kernel's name of the socket, the same in every process.
    pub fn cookie(&self, fd: i32) -> Result<u64, Errno> {
        let mut b = [0u8; 8];
        let _: usize = self
            .os
            .getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut b)?;
        Ok(u64::from_ne_bytes(b))
    }
}

/// What a descriptor of this endpoint is; one that was handed over is the kernel's.
fn entry_of(att: &Attachment, sock: SockRef, v6: bool) -> Entry {
    let s = att.stack.sock(sock.id);
    let h = Handle::new(sock, v6);
    match s.kind() {
        SockKind::Tcp if is_away(s) => Entry::Tcp(h),
        _ if s.has(flag::HANDED_OVER) => Entry::Kernel(Reason::HandedOver.code()),
        SockKind::Tcp => Entry::Tcp(h),
        SockKind::Udp => Entry::Udp(h),
        SockKind::Kernel => Entry::Kernel(s.reason.get() as u8),
        SockKind::Free => Entry::Kernel(0),
    }
}
