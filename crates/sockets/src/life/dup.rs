//! `dup(2)` and relatives: the kernel's operation first; then the new number has the same entry, and both numbers are
//! marked as shared, so that closing one of them does not end the connection.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, TryLockError};

use crate::entry::Entry;
use crate::errno::Errno;
use crate::fdtable::COPIED;
use crate::process::{Answer, Sockets};

/// How often a taken list of copies is tried.
const COPIES_SPINS: u32 = 10_000;

impl Sockets {
    /// The kernel made `new` a copy of `old`.
    pub fn on_dup(&self, old: i32, new: i32) {
        if self.is_foreign_child() {
            return;
        }
        self.ripen(old);
        let entry = self.table.load(old);
        match entry {
            Entry::Tcp(_) | Entry::Udp(_) | Entry::Fresh(_) => {
                self.mark_copied(old, new);
                let _: bool = self.table.store(new, entry);
            }
            Entry::Epoll(index) => {
                // Counted, so that the last close of this process is known.
                self.epolls.copied(index);
                let _: bool = self.table.store(new, entry);
                self.table.set_made(new, self.table.made(old));
            }
            Entry::Young(_) => {
                let reason = crate::policy::Reason::Unpaired.code();
                let _: bool = self.table.store(new, Entry::Kernel(reason));
            }
            Entry::Kernel(_) => {
                let _: bool = self.table.store(new, entry);
            }
            Entry::Unknown | Entry::Closing | Entry::Ours => {
                let _: bool = self.table.store(new, Entry::Unknown);
            }
        }
    }

    /// The counts of copies; `None` when another thread holds them for long: in a child of `fork`, for ever.
    fn copies(&self) -> Option<MutexGuard<'_, BTreeMap<u64, u32>>> {
        (0..COPIES_SPINS).find_map(|_| match self.copies.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(TryLockError::WouldBlock) => {
                core::hint::spin_loop();
                None
            }
        })
    }

    /// Copies within the process are counted by the kernel socket, so that the close of the last one is known.
    fn mark_copied(&self, old: i32, new: i32) {
        let made = self.table.made(old);
        let here = made == self.fork_generation() || made == self.fork_generation() | COPIED;
        match (self.cookie(old), self.copies()) {
            (Ok(cookie), Some(mut copies)) if here => {
                let n = copies.entry(cookie).or_insert(1);
                *n = n.saturating_add(1);
                drop(copies);
                let mark = self.fork_generation() | COPIED;
                self.table.set_made(old, mark);
                self.table.set_made(new, mark);
            }
            _ => {
                self.mark_shared(old);
                self.mark_shared(new);
            }
        }
    }

    /// `fd` has, or had, copies in this process, and no holder elsewhere.
    pub(crate) fn is_copied(&self, fd: i32) -> bool {
        self.table.made(fd) == self.fork_generation() | COPIED
    }

    /// One of several copies is being closed: true when it is the last.
    pub(crate) fn is_last_copy(&self, fd: i32) -> bool {
        let Ok(cookie) = self.cookie(fd) else {
            return false;
        };
        let Some(mut copies) = self.copies() else {
            return false;
        };
        match copies.get_mut(&cookie) {
            Some(n) if *n > 1 => {
                *n -= 1;
                false
            }
            Some(_) => {
                let _: Option<u32> = copies.remove(&cookie);
                true
            }
            None => false,
        }
    }

    /// `dup2(2)` and `dup3(2)`; `None` for `flags`: `dup2`.
    pub fn dup_onto(&self, old: i32, new: i32, flags: Option<i32>) -> Answer {
        if old == new || new < 0 {
            return Answer::Kernel;
        }
        // A bad source must leave the target alone.
        if let Err(e) = self.os.fcntl(old, libc::F_GETFD, 0) {
            return Answer::Error(e);
        }
        if let Err(e) = self.vacate(new) {
            return Answer::Error(e);
        }
        match self.os.dup3(old, new, flags.unwrap_or(0)) {
            Ok(fd) => {
                self.on_dup(old, fd);
                Answer::Value(fd as usize)
            }
            Err(e) => {
                self.table.end_close(new);
                Answer::Error(if e == Errno::EINTR { Errno::EBUSY } else { e })
            }
        }
    }

    /// Descriptors were received through a Unix socket, or made by a call that we do not follow.
    pub fn on_unknown(&self, fd: i32) {
        let _: bool = self.table.store(fd, Entry::Unknown);
        self.mark_shared(fd);
    }
}
