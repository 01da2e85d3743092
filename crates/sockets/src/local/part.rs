//! A pair goes apart: the program wants of one end what only the kernel does. What waits in the two queues is sent through
//! the kernel's connection, by the descriptor of the end that had sent it. Ours is at hand; the other one is another number
//! of this process, or is borrowed from the process that holds it: by us, or by the daemon where that takes more privilege.

use std::io::IoSlice;

use flyover_core::Error;
use flyover_core::local::Parting;

use super::diag;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::life::handover::{WAIT_NS, WAITS};
use crate::os::{PollFd, copy_high};
use crate::policy::Reason;
use crate::process::{Ep, Sockets};

/// Bytes moved at a time.
const PIECE: usize = 64 << 10;
/// How long the kernel's buffers may be full, ns.
const PATIENCE: u64 = 2_000_000_000;

/// A descriptor of an end, our own: to be closed.
struct Held {
    fd: i32,
}

impl Sockets {
    /// Both ends go on in the kernel; `reason` is why this one does.
    ///
    /// # Errors
    /// `EINVAL`: the connection is over. `EOPNOTSUPP`: an urgent byte is on its way, or bytes are queued whose sender is
    /// gone. `EPERM`: the other end's descriptor cannot be had. The pair then goes on.
    pub(crate) fn pair_leaves(&self, fd: i32, ep: &Ep, reason: Reason) -> Result<(), Errno> {
        let (own, other) = match self.freeze_pair(ep) {
            Ok(ends) => ends,
            Err(Error::Moved) => {
                self.keep_there(fd, reason);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        if let Err(e) = self.move_through_kernel(fd, ep, &own, other.as_ref()) {
            ep.att.locked(|l| l.local_rejoin(ep.sock.id));
            return Err(e);
        }
        let code = |r: Reason| u32::from(r.code());
        let others = if reason.may_return() {
            reason
        } else {
            Reason::Unpaired
        };
        ep.att
            .locked(|l| l.local_parted(ep.sock.id, code(reason), code(others)));
        self.became_kernel(fd, ep, reason);
        Ok(())
    }

    fn freeze_pair(&self, ep: &Ep) -> Result<(Parting, Option<Parting>), Error> {
        let mut waits = 0;
        loop {
            match ep.att.locked(|l| l.local_part(ep.sock.id)) {
                Err(Error::Already | Error::WouldBlock) if waits < WAITS => {
                    waits += 1;
                    let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(WAIT_NS));
                }
                r => return r,
            }
        }
    }

    fn move_through_kernel(
        &self,
        fd: i32,
        ep: &Ep,
        own: &Parting,
        other: Option<&Parting>,
    ) -> Result<(), Errno> {
        let Some(other) = other else {
            // The other end was closed; the kernel's connection has ended as well.
            return match own.unread {
                0 => Ok(()),
                _ => Err(Errno::EOPNOTSUPP),
            };
        };
        // First the part that can fail for want of permission.
        if own.unread > 0 || other.fin || other.deaf {
            let held = self.descriptor_of(fd, ep, other)?;
            let moved = self
                .push(ep, own, held.fd)
                .map(|()| self.shut(held.fd, other));
            let _: Result<(), Errno> = self.os.close(held.fd);
            moved?;
        }
        if other.unread > 0 || own.fin || own.deaf {
            let held = self.copy_of(fd, own).ok_or(Errno::ENOENT)?;
            let moved = self
                .push(ep, other, held.fd)
                .map(|()| self.shut(held.fd, own));
            let _: Result<(), Errno> = self.os.close(held.fd);
            moved?;
        }
        Ok(())
    }

    /// A copy of `fd`, if that is the end's: another thread may close the number at any moment, and the next file that gets it
    /// would get the bytes.
    fn copy_of(&self, fd: i32, end: &Parting) -> Option<Held> {
        let fd = copy_high(self.os, fd)?;
        if self.cookie(fd) == Ok(end.cookie) {
            return Some(Held { fd });
        }
        let _: Result<(), Errno> = self.os.close(fd);
        None
    }

    /// Sends what waits at `to` through the kernel's socket of its peer.
    fn push(&self, ep: &Ep, to: &Parting, through: i32) -> Result<(), Errno> {
        let mut buf = vec![0u8; PIECE.min(to.unread as usize)];
        let mut left = to.unread as usize;
        while left > 0 {
            let n = ep.att.stack.local_copy(to.sock.id, &mut buf).min(left);
            let Some(bytes) = buf.get(..n).filter(|b| !b.is_empty()) else {
                return Err(Errno::EIO);
            };
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            ep.att.stack.local_moving(to.sock.id);
            let went = self
                .os
                .sendmsg(through, &[IoSlice::new(bytes)], None, &[], flags);
            let n = went.unwrap_or(0);
            ep.att.locked(|l| l.local_moved(to.sock.id, n as u32));
            left -= n;
            match went {
                Ok(_) => {}
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.await_room(through)?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn await_room(&self, fd: i32) -> Result<(), Errno> {
        let mut one = [PollFd {
            fd,
            events: libc::POLLOUT,
            revents: 0,
        }];
        match self.os.ppoll(&mut one, Some(PATIENCE)) {
            Ok(0) => Err(Errno::EAGAIN),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// What the program has shut down of an end, the kernel's socket hears now: behind the bytes.
    fn shut(&self, fd: i32, end: &Parting) {
        for (on, how) in [(end.fin, libc::SHUT_WR), (end.deaf, libc::SHUT_RD)] {
            if on {
                let _: Result<(), Errno> = self.os.shutdown(fd, how);
            }
        }
    }

    /// A descriptor of the other end; `own` is one of ours.
    fn descriptor_of(&self, own: i32, ep: &Ep, end: &Parting) -> Result<Held, Errno> {
        let mut numbers = Vec::new();
        self.table.for_each(self.table.len(), |fd, e| {
            if matches!(e, Entry::Tcp(h) if h.id == end.sock.id) {
                numbers.push(fd);
            }
        });
        if let Some(held) = numbers.into_iter().find_map(|fd| self.copy_of(fd, end)) {
            return Ok(held);
        }
        let s = ep.shared();
        let inode = diag::inode(self.os, end.cookie, s.remote(), s.local()).ok_or(Errno::ENOENT)?;
        let fd = self.os.borrow_socket(inode).or_else(|e| {
            let lent = ep.att.daemon(|d| d.borrow_end(inode, own));
            lent.ok_or(e)
        })?;
        if self.cookie(fd) != Ok(end.cookie) {
            let _: Result<(), Errno> = self.os.close(fd);
            return Err(Errno::ENOENT);
        }
        Ok(Held { fd })
    }
}
