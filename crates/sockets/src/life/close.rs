//! `close(2)` and its relatives. A close that certainly is the last one ends the connection at once; for all others
//! the keeper waits for the kernel's word that the socket is gone.

use core::sync::atomic::Ordering;

use flyover_core::sock::flag;

use crate::entry::Entry;
use crate::errno::Errno;
use crate::life::linger::linger_span;
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;

impl Sockets {
    /// `close(2)`. For kernel descriptors the table forgets the number, and libc closes.
    pub fn close(&self, fd: i32) -> Answer {
        match self.table.load(fd) {
            Entry::Ours => return Answer::Error(Errno::EBADF),
            Entry::Unknown | Entry::Closing => return Answer::Kernel,
            Entry::Kernel(_) => {
                let _: bool = self.table.store(fd, Entry::Unknown);
                return Answer::Kernel;
            }
            // Nobody else knows of it.
            Entry::Young(y) if !y.in_epoll => {
                let _: bool = self.table.store(fd, Entry::Unknown);
                return Answer::Kernel;
            }
            Entry::Young(_) | Entry::Fresh(_) | Entry::Tcp(_) | Entry::Udp(_) | Entry::Epoll(_) => {
            }
        }
        if self.is_foreign_child() {
            // A vfork child: the table is the parent's.
            return Answer::Kernel;
        }
        let doubt = self.doubtful_close(fd);
        self.release(fd);
        let r = self.os.close(fd);
        self.table.end_close(fd);
        if let Some(doubt) = doubt {
            self.close_if_last(&doubt);
        }
        Answer::from(r)
    }

    /// Everything that has to happen before the kernel closes (or replaces) `fd`. The entry is `Closing` afterwards;
    /// call [`FdTable::end_close`](crate::FdTable::end_close) when the kernel is done.
    pub(crate) fn release(&self, fd: i32) {
        let (looked, mark) = self.look_and_mark(fd);
        match self.table.begin_close(fd) {
            Entry::Tcp(_) | Entry::Udp(_) => match looked {
                Fd::Tcp(ep) => self.close_endpoint(fd, &ep, true),
                Fd::Udp(ep) => self.close_endpoint(fd, &ep, false),
                Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => {
                    if let Some(h) = mark {
                        self.forget_mark(fd, &h);
                    }
                }
            },
            Entry::Epoll(index) => self.epolls.close(self, index, fd),
            Entry::Fresh(f) => {
                if self.is_copied(fd) {
                    let _: bool = self.is_last_copy(fd);
                }
                if f.in_epoll {
                    self.epolls.forget_fd(self, fd);
                }
            }
            Entry::Young(y) if y.in_epoll => self.epolls.forget_fd(self, fd),
            Entry::Young(_) | Entry::Unknown | Entry::Kernel(_) | Entry::Closing | Entry::Ours => {}
        }
    }

    /// The kernel closes its connection; the place in the stack goes when the kernel says that it is gone.
    fn forget_mark(&self, fd: i32, ep: &Ep) {
        let copied = self.is_copied(fd);
        let last = self.is_sole_holder(fd) || (copied && self.is_last_copy(fd));
        let s = ep.shared();
        let near = s.k_near.load(Ordering::Relaxed) != 0;
        // Threads that block in calls on it go on, with a descriptor that is kept for them.
        if !(last && near || copied) {
            let _: bool = ep.att.await_reports();
        }
        let later = ep.att.close_later(fd, ep.sock, last && near);
        if last {
            self.epolls.forget_away(self, fd, ep);
            // From here on nobody pairs it; if somebody just did, it is closed as one end of a pair.
            ep.att.locked(|l| {
                s.clear_flag(flag::LOCAL);
                // Nothing of the V-NICs' hangs on a mark of this host. While other threads wait at it, it waits for the last of
                // them, or for the kernel's word.
                let idle = near && s.items.get().is_none();
                if !later && (idle || s.has(flag::PAIRED)) {
                    l.close(ep.sock.id);
                }
            });
        }
    }

    fn close_endpoint(&self, fd: i32, ep: &Ep, tcp: bool) {
        let copied = self.is_copied(fd);
        let last = self.is_sole_holder(fd) || (copied && self.is_last_copy(fd));
        if !last {
            if !copied {
                let _: bool = ep.att.await_reports();
            }
            // As Linux: a membership lives as long as the open socket, not the number.
            let _: bool = ep.att.close_later(fd, ep.sock, false);
            return;
        }
        if ep.att.close_later(fd, ep.sock, true) {
            // Other threads block in calls on it: as Linux, those go on, and the last one closes.
            return;
        }
        self.epolls.forget_closed(self, fd, ep, copied);
        // What arrived but was not looked at yet decides between FIN and RST, and may let queued data go.
        let _: bool = tcp && ep.att.poll(64);
        let span = tcp.then(|| linger_span(ep)).flatten();
        let other = ep.att.stack.local_peer(ep.sock.id);
        ep.att.locked(|l| l.close(ep.sock.id));
        if let Some(span) = span {
            self.linger(ep, other, Deadline::after(self.os.now(), span));
        }
    }

    /// The numbers in `first..=last` that are the library's own, ascending: `close_range` and `closefrom` leave them
    /// open. Everything else in the range that the table knows is released first. Calls `gap` with each closed
    /// interval that the kernel is to close.
    pub fn close_range(&self, first: u32, last: u32, mut gap: impl FnMut(u32, u32)) {
        let end = (last as usize).saturating_add(1).min(self.table.len());
        let mut from = first;
        let mut open = true;
        let foreign = self.is_foreign_child();
        self.table.for_each(end, |fd, entry| {
            let n = fd as u32;
            if n < first {
                return;
            }
            if entry == Entry::Ours {
                if n > from {
                    gap(from, n - 1);
                }
                match n.checked_add(1) {
                    Some(next) => from = next,
                    None => open = false,
                }
            } else if !foreign {
                self.release(fd);
            }
        });
        if open && from <= last {
            gap(from, last);
        }
        if !foreign {
            self.table.forget_range(first as usize, end);
        }
    }

    /// `dup2`, `dup3`: `fd` is about to become something else. The library's own descriptors move away first.
    pub(crate) fn vacate(&self, fd: i32) -> Result<(), Errno> {
        match self.table.load(fd) {
            Entry::Ours => Err(Errno::EBUSY),
            Entry::Unknown | Entry::Kernel(_) | Entry::Closing => Ok(()),
            Entry::Young(_) | Entry::Fresh(_) | Entry::Tcp(_) | Entry::Udp(_) | Entry::Epoll(_) => {
                if !self.is_foreign_child() {
                    self.release(fd);
                }
                Ok(())
            }
        }
    }
}
