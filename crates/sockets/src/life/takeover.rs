//! The way back: a connection that the kernel has goes on in the stack, on the same descriptor, in mid-stream. It needs a
//! place there that every holder of the socket knows: the mark that an ordered handover leaves behind, or the one that a
//! process makes when it first sees a connection of the kernel's that a V-NIC could carry. Whoever calls the socket
//! finds at the next call that the mark is one no longer.
//!
//! It also keeps the switch: while it is off, new sockets stay with the kernel, in places from which they can come back.

use core::sync::atomic::{Ordering, fence};

use flyover_core::sock::{Kind as SockKind, Sock, flag};
use flyover_core::{Error, Handover, TcpState};
use flyover_wire::Endpoint;

use crate::attach::{Attachment, TakenOver};
use crate::entry::{Entry, Fresh, Handle};
use crate::errno::Errno;
use crate::io::options::Path;
use crate::life::adopt::Terms;
use crate::life::handover::{WAIT_NS, WAITS};
use crate::life::way;
use crate::policy::Reason;
use crate::process::{Ep, Fd, Sockets};

/// How often a descriptor is looked at whose connection comes and goes.
const LOOKS: u32 = 64;

/// Bytes moved at a time.
const PIECE: usize = 64 << 10;

/// What became of a socket that was to be taken over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TakeOver {
    /// Taken; nothing was sent or received for so many nanoseconds.
    Taken(u64),
    /// A listener or a datagram socket: the V-NICs deliver to it again.
    Resumed,
    /// It was the stack's.
    Here,
    /// It belongs to the kernel, because.
    Kernels(&'static str),
    /// It stays with the kernel although it could come back, because.
    Stays(String),
}

impl Sockets {
    /// The place in the stack of a connection that the kernel has and that may be taken over.
    pub fn mark(&self, fd: i32) -> Option<Ep> {
        let (Entry::Tcp(h), Some(att)) = (self.table.load(fd), self.attached()) else {
            return None;
        };
        let sock = att.stack.sock_ref(h.id);
        let live = h.is_life(sock.generation) && is_away(att.stack.sock(h.id));
        live.then_some(Ep {
            att,
            sock,
            v6: h.v6,
        })
    }

    /// [`look`](Self::look) and [`mark`](Self::mark) of one moment: between the two a connection may come back, and would be
    /// neither.
    pub(crate) fn look_and_mark(&self, fd: i32) -> (Fd, Option<Ep>) {
        for _ in 0..LOOKS {
            let looked = self.look(fd);
            if !matches!(looked, Fd::Kernel) {
                return (looked, None);
            }
            let mark = self.mark(fd);
            if mark.is_some() || !self.may_come_back(fd) {
                return (looked, mark);
            }
        }
        (self.look(fd), None)
    }

    /// The endpoint of a connection that is the stack's or may come back to it.
    pub(crate) fn place(&self, fd: i32) -> Option<Ep> {
        let (Entry::Tcp(h), Some(att)) = (self.table.load(fd), self.attached()) else {
            return None;
        };
        let (sock, shared) = (att.stack.sock_ref(h.id), att.stack.sock(h.id));
        let live = h.is_life(sock.generation) && shared.kind() == SockKind::Tcp;
        // In this order: what comes back loses the flag before the reason.
        let here = is_away(shared) || !shared.has(flag::HANDED_OVER);
        let v6 = h.v6;
        (live && here).then_some(Ep { att, sock, v6 })
    }

    /// True when the kernel has the connection of `fd` for the time being, or had it a moment ago.
    pub fn may_come_back(&self, fd: i32) -> bool {
        matches!(self.table.load(fd), Entry::Tcp(_))
    }

    /// How many connections were taken over so far, or begun with: [`came_back`](Self::came_back) compares.
    pub fn takeovers(&self) -> u64 {
        self.attached().map_or(0, |a| a.stack.takeovers_begun())
    }

    /// The stack has the connection of `fd`, which the kernel had when it was asked.
    pub fn is_back(&self, fd: i32) -> bool {
        matches!(self.look(fd), Fd::Tcp(_))
    }

    /// A call of the kernel on `fd` failed: was that because the stack took the connection over meanwhile? It may be gone
    /// again, or never have come after all: then `since`, the count from before the call, tells.
    pub fn came_back(&self, fd: i32, error: Errno, since: u64) -> bool {
        // In repair mode, and after its end.
        let tell = [
            libc::EPERM,
            libc::EINVAL,
            libc::ECONNABORTED,
            libc::ENOTCONN,
            libc::EPIPE,
        ];
        tell.contains(&error.0) && (self.is_back(fd) || self.takeovers() != since)
    }

    /// The stack, if new sockets may use it.
    pub(crate) fn attach_for_new(&self) -> Result<&'static Attachment, Reason> {
        let att = self.attach()?;
        if att.stack.is_off() {
            return Err(Reason::Ordered);
        }
        Ok(att)
    }

    /// A place for a connection of the kernel's that the stack could have.
    pub(crate) fn make_mark(
        &self,
        fd: i32,
        v6: bool,
        reason: Reason,
        remote: Option<Endpoint>,
    ) -> Option<Entry> {
        let att = self.attached()?;
        // As in `tell_ss`: connections of the stack come first.
        if att.stack.socks_used() > att.stack.limits().socks / 4 {
            return None;
        }
        let remote = match remote {
            Some(r) => r,
            None => self.os.getpeername(fd).ok()?.endpoint()?,
        };
        let _ = way(att, remote.ip, None, 0).ok()?;
        let local = self.kernel_local(fd).ok()?;
        let cookie = self.cookie(fd).ok()?;
        let r = att
            .locked(|l| l.mark_alloc(v6, cookie, local, remote, u32::from(reason.code())))
            .ok()?;
        self.count_kernel_path(reason);
        Some(Entry::Tcp(Handle::new(r, v6)))
    }

    /// A fresh socket is to be connected by the kernel although the stack could do it: it gets a place.
    pub(crate) fn connects_in_kernel(&self, fd: i32, fresh: Fresh, remote: Endpoint) {
        let mark = self.make_mark(fd, fresh.v6, Reason::Ordered, Some(remote));
        match mark.and_then(|entry| self.table.swap(fd, entry)) {
            Some(before) => {
                if let Some(ep) = self.mark(fd).filter(|_| self.was_watched(fd, before)) {
                    self.epolls.fresh_became_mark(self, fd, &ep);
                }
            }
            _ => self.leave_to_kernel(fd, Reason::Ordered),
        }
    }

    /// The program did with `fd` what only the kernel does: nobody may take it over.
    pub(crate) fn keep_there(&self, fd: i32, reason: Reason) {
        if reason.may_return() || self.is_foreign_child() {
            return;
        }
        self.young_stays(fd);
        let stays = match self.look_and_mark(fd) {
            (_, Some(ep)) => {
                let old = self.table.load(fd);
                let stays = ep
                    .att
                    .locked(|l| l.mark_stays(ep.sock, u32::from(reason.code())));
                if stays {
                    let _: bool = self.table.replace(fd, old, Entry::Kernel(reason.code()));
                }
                stays
            }
            (looked, None) => !matches!(looked, Fd::Tcp(_)),
        };
        if !stays {
            // It came back just now.
            let _: bool = self.give_to_kernel(fd, reason);
        }
    }

    /// `sendfile` is about to be called. On a connection within this host it is counted like any other call, but the kernel
    /// makes it, which sleeps in its socket if it may: then the connection is paired now, or the kernel keeps it.
    pub fn before_sendfile(&self, fd: i32) {
        if self
            .mark(fd)
            .is_some_and(|ep| is_near(&ep) && !self.is_young(&ep))
            && self.may_block(fd)
        {
            self.now_or_never(fd);
            if self.mark(fd).is_some() {
                self.keep_there(fd, Reason::HandedOver);
            }
        }
    }

    /// `splice` is about to be called, which only the kernel can do: if it has the connection of `fd`, it keeps it. Within
    /// this host only where the call may sleep in the kernel's socket.
    pub fn before_splice(&self, fd: i32) {
        self.ripen(fd);
        for _ in 0..LOOKS {
            match self.mark(fd) {
                Some(ep) if is_near(&ep) => {
                    self.now_or_never(fd);
                    return self.keep_if_it_blocks(fd);
                }
                Some(_) => self.keep_there(fd, Reason::HandedOver),
                None if self.is_back(fd) || !self.may_come_back(fd) => return,
                // It came back, or went, between two looks.
                None => {}
            }
        }
    }

    fn keep_if_it_blocks(&self, fd: i32) {
        if self.mark(fd).is_some() && self.may_block(fd) {
            self.keep_there(fd, Reason::HandedOver);
        }
    }

    fn may_block(&self, fd: i32) -> bool {
        let status = self.os.fcntl(fd, libc::F_GETFL, 0);
        status.is_ok_and(|status| status & libc::O_NONBLOCK == 0)
    }

    /// True for a connection that comes and goes by order: what the kernel is asked for may fail at any time.
    pub fn is_on_the_move(&self, fd: i32) -> bool {
        self.place(fd).is_some_and(|ep| !is_near(&ep))
    }

    /// Waits while the connection is on its way: its queues are being counted and its options copied, so what is asked is
    /// half an answer, and what is set may be missed.
    pub(crate) fn await_move(&self, ep: &Ep) {
        let mut waits = 0;
        while ep.shared().has(flag::HANDING_OVER) && waits < WAITS {
            waits += 1;
            let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(WAIT_NS));
        }
    }

    /// What `fd` is once nobody is moving it: something was set in the kernel's socket, and a takeover that has begun may
    /// have read that before.
    pub(crate) fn look_after_move(&self, fd: i32) -> Fd {
        fence(Ordering::SeqCst);
        if let Some(ep) = self.place(fd) {
            self.await_move(&ep);
        }
        self.look(fd)
    }

    /// True when the stack has no place for the socket: a look at it would make one.
    pub fn is_unknown_to_stack(&self, fd: i32) -> bool {
        let known = self
            .attached()
            .zip(self.cookie(fd).ok())
            .and_then(|(att, cookie)| att.find_cookie(cookie));
        known.is_none()
    }

    /// Takes over what the kernel has under `fd`, by order of an administrator.
    pub fn take_over(&self, fd: i32) -> TakeOver {
        let Some(att) = self.attached() else {
            return TakeOver::Stays("no stack".to_owned());
        };
        // Not by `look`: that would make a place for a socket whose program wants it where it is.
        let known = self.cookie(fd).ok().and_then(|c| att.find_cookie(c));
        let Some(sock) = known else {
            return TakeOver::Kernels("unknown to the stack");
        };
        let s = att.stack.sock(sock.id);
        let ep = Ep {
            att,
            sock,
            v6: s.has(flag::V6),
        };
        let listens = s.tcp_state() == TcpState::Listen;
        match s.kind() {
            SockKind::Udp if s.has(flag::HANDED_OVER) => self.stays(&ep),
            SockKind::Udp => self.resume(fd, &ep),
            SockKind::Tcp if listens => self.resume(fd, &ep),
            SockKind::Tcp if !s.has(flag::HANDED_OVER) => TakeOver::Here,
            SockKind::Tcp if is_away(s) => self
                .pair_by_order(&ep)
                .unwrap_or_else(|| self.connection_returns(fd, &ep, Terms::default()))
                .map_or_else(TakeOver::Stays, TakeOver::Taken),
            SockKind::Tcp | SockKind::Kernel | SockKind::Free => self.stays(&ep),
        }
    }

    pub(super) fn stays(&self, ep: &Ep) -> TakeOver {
        let why = Reason::from_code(ep.shared().reason.get() as u8);
        TakeOver::Kernels(why.name())
    }

    /// The stack takes the kernel's connection, and says for how long it stood still, ns.
    pub(super) fn connection_returns(&self, fd: i32, ep: &Ep, terms: Terms) -> Result<u64, String> {
        let (local, remote) = self.ends(fd)?;
        let _ = way(ep.att, remote.ip, Some(local.ip), 0).map_err(|r| r.name().to_owned())?;
        self.only_kernel_options(fd, ep)?;
        let id = ep.sock.id;
        let begun = self.os.now();
        ep.att
            .locked(|l| l.takeover_begin(id, local, remote))
            .map_err(|e| match e {
                Error::Already => "another one is at it".to_owned(),
                Error::AddressInUse => Reason::AddressShared.name().to_owned(),
                e => format!("{e:?}"),
            })?;
        // What is set from the beginning on is set again at the end (`look_after_move`), and the first call that finds the
        // connection here must find what was set before.
        self.note_waiting(fd, ep);
        ep.att.locked(|l| l.takeover_freeze(id));
        let pass = ep.shared().filter.get();
        let taken = match ep
            .att
            .daemon(|d| d.takeover(local, remote, pass, terms, fd))
        {
            Ok(taken) => taken,
            Err(why) => {
                ep.att.locked(|l| l.takeover_cancel(id));
                return Err(why);
            }
        };
        let whole = self.bring_in(ep, &taken.image, taken.data);
        if !whole {
            self.send_back(fd, ep, &taken);
        }
        self.close_data(taken.data);
        if !whole {
            return Err(Reason::StackFull.name().to_owned());
        }
        self.copy_options(fd, ep);
        ep.att
            .locked(|l| l.takeover_done(id, &taken.image, taken.filter));
        // Until it hears of us again the daemon would give the connection back if we ended.
        ep.att.daemon(|d| d.settle());
        Ok(self.os.now().saturating_sub(begun))
    }

    /// Takes over from the kernel socket whether calls wait, and how long.
    fn note_waiting(&self, fd: i32, ep: &Ep) {
        let s = ep.shared();
        let status = self.os.fcntl(fd, libc::F_GETFL, 0).unwrap_or(0);
        s.put_flag(flag::NONBLOCK, status & libc::O_NONBLOCK != 0);
        for (name, limit) in [
            (libc::SO_RCVTIMEO, &s.rcvtimeo),
            (libc::SO_SNDTIMEO, &s.sndtimeo),
        ] {
            limit.store(self.kernel_limit(fd, name), Ordering::Relaxed);
        }
    }

    pub(super) fn ends(&self, fd: i32) -> Result<(Endpoint, Endpoint), String> {
        let unconnected = |_: Errno| "not connected".to_owned();
        let local = self.kernel_local(fd).map_err(unconnected)?;
        let remote = self.os.getpeername(fd).map_err(unconnected)?;
        let remote = remote.endpoint().ok_or("not connected")?;
        Ok((local, remote))
    }

    /// An option is set that only the kernel honours.
    fn only_kernel_options(&self, fd: i32, ep: &Ep) -> Result<(), String> {
        let mut found = None;
        let _: usize = self.each_changed(
            fd,
            ep.v6,
            true,
            // What IPV6_ADDRFORM did is the socket's family now; it reads as that.
            |row| {
                matches!(row.path(true), Path::Moves(_))
                    && (row.level, row.name) != (libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM)
            },
            |row, value| {
                if row.moves(true, value) {
                    found = found.or(Some(row.text()));
                }
            },
        );
        found.map_or(Ok(()), |name| Err(format!("option {name}")))
    }

    /// Copies the connection's bytes in. False: there is no room, or the file is short.
    fn bring_in(&self, ep: &Ep, image: &Handover, file: Option<i32>) -> bool {
        let mut buf = vec![0u8; PIECE];
        let mut at = 0;
        let mut left = [image.unread as usize, image.queued as usize];
        let Some(file) = file else {
            return left == [0, 0];
        };
        for part in 0..left.len() {
            while let Some(rest) = left.get_mut(part).filter(|rest| **rest > 0) {
                let room = buf.get_mut(..PIECE.min(*rest)).unwrap_or_default();
                let n = match self.os.pread(file, room, at) {
                    Ok(0) => return false,
                    Ok(n) => n,
                    Err(Errno::EINTR) => continue,
                    Err(_) => return false,
                };
                let bytes = room.get(..n).unwrap_or_default();
                let id = ep.sock.id;
                let taken = ep.att.locked(|l| match part {
                    0 => l.takeover_unread(id, bytes),
                    _ => l.takeover_queued(id, bytes),
                });
                if !taken {
                    return false;
                }
                at += n as i64;
                *rest -= n;
            }
        }
        true
    }

    /// There is no room after all: the kernel gets it back.
    fn send_back(&self, fd: i32, ep: &Ep, taken: &TakenOver) {
        let back = ep.att.daemon(|d| d.handover(&taken.image, fd, taken.data));
        ep.att.locked(|l| {
            ep.shared().filter.set(back.unwrap_or(0));
            l.takeover_cancel(ep.sock.id);
        });
        ep.att.daemon(|d| d.del_filter(taken.filter));
    }

    fn close_data(&self, file: Option<i32>) {
        if let Some(file) = file {
            let _: Result<(), Errno> = self.os.close(file);
        }
    }

    /// Switches the use of the stack by new sockets off or on, for all processes.
    pub fn switch(&self, off: bool) {
        if let Some(att) = self.attached() {
            att.stack.set_off(off);
        }
    }
}

/// Both ends are on this host: such a connection is never dissolved in the kernel.
fn is_near(ep: &Ep) -> bool {
    ep.shared().k_near.load(Ordering::Relaxed) != 0
}

/// True for the mark of a connection that may come back.
pub(crate) fn is_away(s: &Sock) -> bool {
    s.has(flag::HANDED_OVER)
        && s.kind() == SockKind::Tcp
        && Reason::from_code(s.reason.get() as u8).may_return()
}
