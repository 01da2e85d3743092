//! The local path: connections within this host. The kernel opens them, as ever; when both ends are under Flyover and in
//! one stack their bytes go through its memory (`flyover_core::local`). Each end gets its mark when it is connected or
//! accepted. Whose calls have moved bytes often enough pairs them, and the other one hears of it at its next call, or in
//! its sleep.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | marks, pairing, the first look at a paired end |
//! | `young.rs` | connections that have no mark yet |
//! | `fast.rs` | sending and receiving without the stack lock |
//! | `part.rs` | the way back: what waits in the queues goes through the kernel |
//! | `closed.rs` | ends that a child had open when it ended |
//! | `diag.rs` | what the kernel holds of an end: `NETLINK_SOCK_DIAG` |

mod closed;
pub(crate) mod diag;
pub mod fast;
mod part;
mod young;

use core::sync::atomic::Ordering;
use std::io::IoSliceMut;

use flyover_core::TcpState;
use flyover_core::local::{Enter, Facts, Seen};
use flyover_core::sock::flag;
use flyover_wire::{Endpoint, Ip};

use crate::addr::Addr;
use crate::entry::{Entry, Handle};
use crate::errno::Errno;
use crate::os::PollFd;
use crate::policy::Reason;
use crate::process::{Ep, Fd, Sockets};

/// Bytes read at a time of what the kernel held.
const PIECE: usize = 64 << 10;

/// Bytes that the kernel has follow one another within microseconds; after so long, ns, no more will come.
const FOLLOW_NS: u64 = 1_000_000_000;
/// How often an administrator's order is tried, and how long after one another, ns: bytes that are on their way in the
/// kernel are there within a fraction of that.
const TRIES: u32 = 50;
const TRY_NS: u64 = 200_000;

/// How often a call asks whether a pairing is over, and how long after one another, ns: it takes some 20 us, unless its
/// process stands still.
const HOLDS: u32 = 5_000;
const HOLD_NS: u64 = 20_000;

/// A connection is young for so many calls at the most, however late it is to be paired: an administrator's order finds nobody
/// asleep in the kernel later on.
const YOUNG: u32 = 4;

/// At so many calls in a row a pairing is tried: that costs the stack's lock and a look, unless the other end is there, too.
const TRIED_AT_ONCE: u32 = 32;

/// A call of the kernel's on a mark, counted in.
#[derive(Debug)]
#[must_use]
pub enum Entered {
    /// The connection cannot be paired: nothing to count.
    Free,
    /// Counted: [`Sockets::leave_kernel`] has to follow.
    Counted(Ep),
    /// Counted, on a connection without mark: [`Sockets::leave_young`] has to follow.
    Young(u32),
    /// It is no mark any more: the call is the stack's.
    Home,
}

impl Sockets {
    /// The kernel has connected `fd` (`done`: and said so), or is about to: if its peer is on this host, it gets its mark.
    pub fn connected_by_kernel(&self, fd: i32, to: &Addr, done: bool) {
        let Fd::Fresh(fresh) = self.look(fd) else {
            if let Some(ep) = self.mark(fd)
                && !self.forget_stale(fd, &ep)
                && done
            {
                ep.shared().set_flag(flag::CONNECTED_SEEN);
            }
            return;
        };
        if to.family() == libc::AF_UNSPEC {
            // It was dissolved.
            return;
        }
        let peer = to
            .endpoint()
            .filter(|_| !fresh.dgram && !fresh.unbound && fresh.shut == 0);
        if peer.is_some_and(|peer| self.connected_young(fd, fresh, peer.ip, done)) {
            return;
        }
        let marked = peer.and_then(|peer| {
            let known = Some(peer).filter(|p| done && !p.ip.is_unspecified());
            self.mark_local(fd, fresh.v6, known.or_else(|| self.peer_of(fd, fresh.v6)))
        });
        let Some((ep, before)) = marked else {
            self.leave_to_kernel(fd, self.why_kernel(to));
            return;
        };
        if done {
            ep.shared().set_flag(flag::CONNECTED_SEEN);
        }
        if self.was_watched(fd, before) {
            self.epolls.fresh_became_mark(self, fd, &ep);
        }
        self.pair_at(Some(fd), &ep, 0);
    }

    fn why_kernel(&self, to: &Addr) -> Reason {
        match (to.endpoint(), self.attached()) {
            (Some(e), _) if e.ip.is_loopback() || e.ip.is_unspecified() => Reason::Loopback,
            (Some(e), Some(att)) if att.cplane.is_local(e.ip) => Reason::Local,
            _ => Reason::NoVnic,
        }
    }

    /// The kernel accepted `fd`. True: it has its mark, or is paired already.
    pub(crate) fn accepted_by_kernel(&self, fd: i32, v6: bool, peer: Option<Endpoint>) -> bool {
        if peer.is_some_and(|peer| self.accepted_young(fd, v6, peer.ip)) {
            return true;
        }
        match self.mark_local(fd, v6, peer) {
            Some((ep, _)) => {
                ep.shared().set_flag(flag::CONNECTED_SEEN);
                // Those who are to be paired at once are not asked for what the kernel knows of them.
                if self.settings.local_after == 0 && !self.is_whole(fd) {
                    self.never_paired(&ep);
                }
                self.pair_at(Some(fd), &ep, 0);
                true
            }
            None => false,
        }
    }

    /// The mark of a connection within this host, and what the entry was.
    fn mark_local(&self, fd: i32, v6: bool, peer: Option<Endpoint>) -> Option<(Ep, Entry)> {
        let (ep, may_pair) = self.near_mark(fd, v6, peer)?;
        let entry = Entry::Tcp(Handle::new(ep.sock, v6));
        let Some(before) = self.table.swap(fd, entry) else {
            ep.att.locked(|l| l.free_unused(ep.sock.id));
            return None;
        };
        if may_pair {
            ep.att.locked(|_| ep.shared().set_flag(flag::LOCAL));
        }
        Some((ep, before))
    }

    /// A mark that nobody pairs yet, and whether it may be paired.
    fn near_mark(&self, fd: i32, v6: bool, peer: Option<Endpoint>) -> Option<(Ep, bool)> {
        if !self.settings.local {
            return None;
        }
        let remote = match peer {
            Some(p) => p,
            None => self.os.getpeername(fd).ok()?.endpoint()?,
        };
        let local = self.kernel_local(fd).ok()?;
        let near = remote.ip.is_loopback() || remote.ip == local.ip;
        if !near && !self.attached()?.cplane.is_local(remote.ip) || is_scoped(remote.ip) {
            return None;
        }
        let att = self.attach().ok()?;
        // As in `tell_ss`: connections of the V-NICs come first.
        if att.stack.socks_used() > att.stack.limits().socks / 2 {
            self.count_kernel_path(Reason::StackFull);
            return None;
        }
        let cookie = self.cookie(fd).ok()?;
        let off = att.stack.is_off();
        let reason = if off {
            Reason::Ordered
        } else {
            Reason::Unpaired
        };
        let sock = att
            .locked(|l| {
                let made = l.local_mark(v6, cookie, local, remote, u32::from(reason.code()));
                if let Ok(sock) = made {
                    att.stack.sock(sock.id).clear_flag(flag::LOCAL);
                }
                made
            })
            .ok()?;
        self.count_kernel_path(reason);
        // While new sockets stay with the kernel: not until somebody orders it back.
        Some((Ep { att, sock, v6 }, !off))
    }

    /// Pairs the mark when so many calls have moved bytes on it that it pays. Where both ends are busy, a call is inside more
    /// often than not: it is tried at each call for a while, and then more and more rarely, since the other end may be a
    /// plain program.
    fn pair_at(&self, fd: Option<i32>, ep: &Ep, calls: u32) {
        let Some(since) = calls.checked_sub(self.settings.local_after) else {
            return;
        };
        if (since < TRIED_AT_ONCE || since.is_power_of_two()) && ep.shared().has(flag::LOCAL) {
            let _: bool = self.pair(fd, ep);
        }
    }

    /// Pairs the mark now; `fd`: its descriptor, if that is at hand. False: the other end is not here, or this is not the moment.
    fn pair(&self, fd: Option<i32>, ep: &Ep) -> bool {
        let Some((own, other)) = ep.att.locked(|l| l.local_ends(ep.sock.id)) else {
            return false;
        };
        let s = ep.shared();
        let (local, remote) = (s.local(), s.remote());
        // An end that never moved a byte may be about to become the standard input of a program without the library.
        let early = self.settings.local_after > 0 && other.calls == 0;
        // It may be half of one already: a listener hands down what was shut down, and the peer may have closed.
        let whole = || match fd {
            Some(fd) => self.is_whole(fd),
            None => diag::facts(self.os, own.cookie, local, remote).is_some(),
        };
        let half = own.calls == 0 && !whole();
        let facts = (!early && !half)
            .then(|| self.facts(ep, &own, local, remote))
            .flatten()
            .zip(self.facts(ep, &other, remote, local));
        ep.att.locked(|l| match facts {
            Some((a, b)) => l.local_pair((own, a), (other, b)).is_ok(),
            None => {
                l.local_release(own.sock);
                l.local_release(other.sock);
                false
            }
        })
    }

    /// Neither end of the kernel's connection has sent its FIN, and nothing was shut down for reading: of that the state does
    /// not tell.
    fn is_whole(&self, fd: i32) -> bool {
        let mut state = [0u8];
        let asked = self
            .os
            .getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut state);
        let mut shut = [PollFd {
            fd,
            events: libc::POLLRDHUP,
            revents: 0,
        }];
        asked.is_ok()
            && state == [TcpState::Established as u8]
            && self.os.ppoll(&mut shut, Some(0)) == Ok(0)
    }

    /// What the kernel holds of an end. `None`: it is not established, or not to be found.
    fn facts(&self, ep: &Ep, of: &Seen, local: Endpoint, remote: Endpoint) -> Option<Facts> {
        if of.calls == 0 && !ep.att.shared {
            // Nobody has moved a byte on it, and it was established when it got its mark.
            return Some(Facts::default());
        }
        diag::facts(self.os, of.cookie, local, remote)
    }

    /// A call of the kernel's that moves bytes is about to be made on `fd`.
    pub fn enter_kernel(&self, fd: i32) -> Entered {
        let Some(ep) = self.mark(fd) else {
            return match self.table.load(fd) {
                Entry::Tcp(_) => Entered::Home,
                Entry::Young(_) => self.enter_young(fd),
                _ => Entered::Free,
            };
        };
        if ep.shared().k_near.load(Ordering::Relaxed) == 0 {
            return match self.adopts(fd, &ep) {
                true => Entered::Home,
                false => Entered::Free,
            };
        }
        for _ in 0..HOLDS {
            match ep.att.stack.kernel_enter(ep.sock.id) {
                Enter::Kernel => return Entered::Counted(ep),
                Enter::Here => return Entered::Home,
                Enter::Wait => {
                    let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(HOLD_NS));
                }
            }
        }
        ep.att.locked(|l| l.local_break_hold(ep.sock));
        self.enter_kernel(fd)
    }

    /// So few calls have moved bytes on the mark that the next one, too, will not pair it: it may sleep in the kernel. While it
    /// does nobody pairs it, since it is counted in; and nobody takes a connection within this host over in repair mode.
    pub(crate) fn is_young(&self, ep: &Ep) -> bool {
        let s = ep.shared();
        let calls = s.kseq.load(Ordering::Relaxed);
        s.has(flag::LOCAL) && calls.saturating_add(1) < self.settings.local_after.min(YOUNG)
    }

    /// What [`enter_kernel`](Self::enter_kernel) let in came back.
    pub(crate) fn after_kernel(&self, fd: i32, entered: &Entered) {
        match entered {
            Entered::Counted(ep) => self.leave_kernel(ep),
            Entered::Young(nonce) => {
                if self.leave_young(fd, *nonce) {
                    self.ripen_late(fd, *nonce);
                }
            }
            Entered::Free | Entered::Home => {}
        }
    }

    /// It came back.
    pub fn leave_kernel(&self, ep: &Ep) {
        let calls = ep.att.stack.kernel_leave(ep.sock.id);
        self.pair_at(None, ep, calls);
    }

    /// A call that cannot be counted is about to be made on a mark: it is paired now or never.
    pub(crate) fn now_or_never(&self, fd: i32) {
        if let Some(ep) = self.mark(fd).filter(|ep| ep.shared().has(flag::LOCAL))
            && !self.pair(Some(fd), &ep)
        {
            self.never_paired(&ep);
        }
    }

    /// An administrator wants a connection within this host back in shared memory. `None`: it is none such.
    pub(crate) fn pair_by_order(&self, ep: &Ep) -> Option<Result<u64, String>> {
        if ep.shared().k_near.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let begun = self.os.now();
        ep.att.locked(|l| l.local_allow(ep.sock.id));
        for _ in 0..TRIES {
            if self.pair(None, ep) {
                return Some(Ok(self.os.now().saturating_sub(begun)));
            }
            // Somebody is inside, or bytes are on their way.
            let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(TRY_NS));
        }
        Some(Err("its other end is not in the stack (run that program under flyover), or busy (try again)".to_owned()))
    }

    /// The mark stays one.
    pub(crate) fn never_paired(&self, ep: &Ep) {
        ep.att.locked(|_| ep.shared().clear_flag(flag::LOCAL));
    }

    /// The first look at an end that was paired: what the program told the kernel socket so far is noted in the endpoint,
    /// and what the kernel holds comes into the receive queue.
    #[cold]
    pub(crate) fn welcome(&self, fd: i32, ep: Ep) -> Fd {
        let stack = ep.att.stack;
        let mut tries = 0u32;
        while ep.shared().k_fresh.load(Ordering::Acquire) != 0 {
            if !stack.local_welcome(ep.sock.id, ep.att.me) {
                // Another thread is at it; if it dies its lock is opened.
                tries += 1;
                if tries.is_multiple_of(1 << 10) {
                    let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(50_000));
                }
                core::hint::spin_loop();
                continue;
            }
            if ep.shared().k_fresh.load(Ordering::Acquire) != 0 {
                let status = self.os.fcntl(fd, libc::F_GETFL, 0).unwrap_or(0);
                ep.shared()
                    .put_flag(flag::NONBLOCK, status & libc::O_NONBLOCK != 0);
                self.copy_options(fd, &ep);
                let held = self.read_kernel(fd, stack.kernel_bytes(ep.sock.id) as usize);
                let _: bool = ep.att.locked(|l| l.local_bring_in(ep.sock.id, &held));
            }
            stack.local_welcomed(ep.sock.id);
        }
        Fd::Tcp(ep)
    }

    /// Reads `n` bytes of the kernel's, some of which may still be in the sender's buffer there: they follow as room comes.
    /// Fewer come only when another holder of the socket died with them in hand, or the connection broke: then it is reset.
    fn read_kernel(&self, fd: i32, n: usize) -> Vec<u8> {
        let mut held = vec![0u8; n];
        let mut have = 0;
        while have < n {
            let room = have + PIECE.min(n - have);
            let Some(into) = held.get_mut(have..room) else {
                break;
            };
            let flags = libc::MSG_DONTWAIT;
            match self
                .os
                .recvmsg(fd, &mut [IoSliceMut::new(into)], &mut [], flags)
            {
                Ok(m) if m.n > 0 => have += m.n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut one = [PollFd::input(fd)];
                    if self.os.ppoll(&mut one, Some(FOLLOW_NS)) == Ok(0) {
                        break;
                    }
                }
                Ok(_) | Err(_) => break,
            }
        }
        held.truncate(have);
        held
    }
}

/// Addresses that mean something else on every interface.
fn is_scoped(ip: Ip) -> bool {
    ip.is_v6_link_local()
}
