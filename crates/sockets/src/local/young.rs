//! Connections within this host at their beginning. Many end after one request and its answer; a mark would cost them the
//! stack's lock and four system calls. So the calls that move bytes are counted in the table at first, and the mark is made
//! when the next one could pair it, or when somebody else is about to hold the socket: he has to find it.

use core::sync::atomic::Ordering;

use flyover_core::sock::flag;

use crate::addr::Addr;
use crate::entry::{Entry, Fresh, Handle, Young};
use crate::local::{Entered, YOUNG, is_scoped};
use crate::process::{Ep, Sockets};

/// `SO_PEERNAME` (asm-generic/socket.h): the peer also of a connection that is only being opened.
const SO_PEERNAME: i32 = 28;
/// What a [`Young::nonce`] counts up to.
const NONCES: u32 = (1 << 28) - 1;

/// What became of a connection that was to get its mark.
enum Ripe {
    Yes,
    /// A call is inside the kernel that nobody could count any more.
    Busy,
    /// It cannot have one, and never will.
    Never,
}

impl Sockets {
    /// True when connections to `peer` may begin without a mark.
    fn begins_young(&self, peer: flyover_wire::Ip) -> bool {
        if !self.settings.local || self.settings.local_after == 0 || !self.accelerates() {
            return false;
        }
        let att = self.attached();
        let near = peer.is_loopback()
            || peer.is_unspecified()
            || att.is_some_and(|att| att.cplane.is_local(peer));
        near && !is_scoped(peer) && !att.is_some_and(|att| att.stack.is_off())
    }

    /// The kernel accepted `fd` from `peer`. True: it begins without a mark.
    pub(super) fn accepted_young(&self, fd: i32, v6: bool, peer: flyover_wire::Ip) -> bool {
        self.begins_young(peer) && self.table.store(fd, self.new_young(fd, v6, true, false))
    }

    /// The kernel connects the fresh socket `fd` to `peer`; `seen`: the program was told. True: it begins without a mark.
    pub(super) fn connected_young(
        &self,
        fd: i32,
        fresh: Fresh,
        peer: flyover_wire::Ip,
        seen: bool,
    ) -> bool {
        // Another holder would not learn of its mark.
        self.begins_young(peer)
            && self.is_sole_holder(fd)
            && self.table.replace(
                fd,
                Entry::Fresh(fresh),
                self.new_young(fd, fresh.v6, seen, fresh.in_epoll),
            )
    }

    fn new_young(&self, fd: i32, v6: bool, seen: bool, in_epoll: bool) -> Entry {
        let nonce = self.lineage.note_young(fd) & NONCES;
        Entry::Young(Young {
            v6,
            seen,
            stays: false,
            in_epoll,
            inside: 0,
            calls: 0,
            nonce,
        })
    }

    pub(crate) fn is_young_entry(&self, fd: i32) -> bool {
        matches!(self.table.load(fd), Entry::Young(_))
    }

    /// A call of the kernel's that moves bytes is about to be made on `fd`, which had no mark just now.
    pub(super) fn enter_young(&self, fd: i32) -> Entered {
        loop {
            let Entry::Young(y) = self.table.load(fd) else {
                return Entered::Home;
            };
            if y.stays {
                return Entered::Free;
            }
            // Whoever has no stack yet asks the daemon for one when this call is over: the kernel would hold the open file
            // meanwhile, and nothing else does.
            if self.is_due(u32::from(y.calls) + 1) && y.inside == 0 && self.attached().is_some() {
                match self.ripe(fd) {
                    Ripe::Yes => return Entered::Home,
                    Ripe::Never => continue,
                    Ripe::Busy => {}
                }
            }
            let Some(inside) = y.inside.checked_add(1) else {
                self.young_stays(fd);
                continue;
            };
            let now = Young { inside, ..y };
            if self.table.replace(fd, Entry::Young(y), Entry::Young(now)) {
                return Entered::Young(y.nonce);
            }
        }
    }

    /// So many calls have moved bytes, the next one included, that it may pair the connection.
    fn is_due(&self, calls: u32) -> bool {
        calls >= self.settings.local_after.min(YOUNG)
    }

    /// The call on the connection with this nonce came back. Makes no system call, and holds nothing. True: it is time to ask
    /// for a stack ([`ripen_late`](Self::ripen_late)).
    pub fn leave_young(&self, fd: i32, nonce: u32) -> bool {
        loop {
            let Entry::Young(y) = self.table.load(fd) else {
                return false;
            };
            if y.nonce != nonce {
                return false;
            }
            let now = Young {
                inside: y.inside.saturating_sub(1),
                calls: (y.calls + 1).min(Young::MOST_CALLS),
                ..y
            };
            if self.table.replace(fd, Entry::Young(y), Entry::Young(now)) {
                let due = self.is_due(u32::from(now.calls)) && now.inside == 0 && !now.stays;
                return due && self.attached().is_none();
            }
        }
    }

    /// The process gets its stack, and the connection with this nonce its mark.
    #[cold]
    pub fn ripen_late(&self, fd: i32, nonce: u32) {
        let is_it = matches!(self.table.load(fd), Entry::Young(y) if y.nonce == nonce);
        if is_it
            && let Ripe::Yes = self.ripe(fd)
            && let Some(ep) = self.mark(fd)
        {
            self.pair_at(Some(fd), &ep, ep.shared().kseq.load(Ordering::Acquire));
        }
    }

    /// The kernel keeps the connection, if it has no mark yet.
    pub(crate) fn young_stays(&self, fd: i32) {
        while let Entry::Young(y) = self.table.load(fd) {
            let stays = Entry::Young(Young { stays: true, ..y });
            if y.stays || self.table.replace(fd, Entry::Young(y), stays) {
                return;
            }
        }
    }

    /// Something is about to be done with `fd` that has to find a mark, if there is ever to be one: now or never.
    #[inline]
    pub fn ripen(&self, fd: i32) {
        if self.is_young_entry(fd) {
            self.ripen_now(fd);
        }
    }

    #[cold]
    fn ripen_now(&self, fd: i32) {
        if let Ripe::Busy = self.ripe(fd) {
            self.young_stays(fd);
        }
    }

    /// The same for all connections of this process.
    pub fn ripen_all(&self) {
        let end = self.lineage.young_end();
        if end == 0 || self.is_foreign_child() {
            return;
        }
        self.lineage.ripening.lock(self.os);
        self.ripen_all_held(end);
        self.lineage.ripening.unlock();
    }

    /// Before `fork`: from here on until it is over no connection gets a mark, since the child would not learn of it.
    pub(crate) fn ripen_before_fork(&self) {
        self.lineage.ripening.lock(self.os);
        self.ripen_all_held(self.lineage.young_end());
    }

    fn ripen_all_held(&self, end: usize) {
        self.table.for_each(end.min(self.table.len()), |fd, e| {
            if matches!(e, Entry::Young(_))
                && let Ripe::Busy = self.ripe_held(fd)
            {
                self.young_stays(fd);
            }
        });
    }

    fn ripe(&self, fd: i32) -> Ripe {
        self.lineage.ripening.lock(self.os);
        let done = self.ripe_held(fd);
        self.lineage.ripening.unlock();
        done
    }

    fn ripe_held(&self, fd: i32) -> Ripe {
        let y = match self.table.load(fd) {
            Entry::Young(y) if !y.stays => y,
            _ => return Ripe::Never,
        };
        if self.is_foreign_child() {
            // The table is the parent's, which had given it one if that were possible.
            return Ripe::Busy;
        }
        let made = self
            .is_sole_holder(fd)
            .then(|| self.near_mark(fd, y.v6, self.peer_of(fd, y.v6)))
            .flatten();
        let Some((ep, may_pair)) = made else {
            self.young_stays(fd);
            return Ripe::Never;
        };
        let mark = Entry::Tcp(Handle::new(ep.sock, y.v6));
        let last = loop {
            match self.table.load(fd) {
                Entry::Young(now) if now.nonce == y.nonce && now.inside == 0 && !now.stays => {
                    if self.table.replace(fd, Entry::Young(now), mark) {
                        break now;
                    }
                }
                _ => {
                    ep.att.locked(|l| l.free_unused(ep.sock.id));
                    return Ripe::Busy;
                }
            }
        };
        let s = ep.shared();
        s.put_flag(flag::CONNECTED_SEEN, last.seen);
        let _: u32 = s.kseq.fetch_add(u32::from(last.calls), Ordering::AcqRel);
        if last.in_epoll {
            self.epolls.fresh_became_mark(self, fd, &ep);
        }
        // Only now: who pairs it wakes those who wait for it.
        if may_pair {
            ep.att.locked(|_| s.set_flag(flag::LOCAL));
        }
        Ripe::Yes
    }

    pub(super) fn peer_of(&self, fd: i32, v6: bool) -> Option<flyover_wire::Endpoint> {
        let mut b = [0u8; 28];
        // The kernel wants the exact length.
        let into = b.get_mut(..if v6 { 28 } else { 16 })?;
        let n = self
            .os
            .getsockopt(fd, libc::SOL_SOCKET, SO_PEERNAME, into)
            .ok()?;
        Addr::from_bytes(b.get(..n)?).ok()?.endpoint()
    }

    /// Another connection is opened with a socket whose mark says of an earlier one, which came to nothing.
    pub(super) fn forget_stale(&self, fd: i32, ep: &Ep) -> bool {
        let (s, local) = (ep.shared(), self.kernel_local(fd));
        if s.k_near.load(Ordering::Relaxed) == 0
            || local == Ok(s.local()) && self.peer_of(fd, ep.v6) == Some(s.remote())
        {
            return false;
        }
        self.epolls.forget_away(self, fd, ep);
        let entry = self.table.load(fd);
        let _: bool = self.table.replace(
            fd,
            entry,
            Entry::Kernel(crate::policy::Reason::Unpaired.code()),
        );
        ep.att.locked(|l| {
            s.clear_flag(flag::LOCAL);
            l.close(ep.sock.id);
        });
        true
    }
}
