//! File descriptors in messages, and keeping ours out of the program's way.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Resource, getrlimit};

use crate::limits::{FD_FLOOR, MAX_FDS};

/// The descriptors of one received message, in the order they were sent. What is not taken out is closed.
#[derive(Debug)]
pub struct FdBag {
    slots: [Option<OwnedFd>; MAX_FDS],
    next: usize,
    len: usize,
}

impl Default for FdBag {
    fn default() -> Self {
        Self {
            slots: [const { None }; MAX_FDS],
            next: 0,
            len: 0,
        }
    }
}

impl FdBag {
    /// Adds a descriptor at the end; closes it and returns false when the bag is full.
    pub fn push(&mut self, fd: OwnedFd) -> bool {
        match self.slots.get_mut(self.len) {
            Some(slot) => {
                *slot = Some(fd);
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// Takes out the first descriptor that is left.
    pub fn pop(&mut self) -> Option<OwnedFd> {
        let fd = self.slots.get_mut(self.next)?.take()?;
        self.next += 1;
        Some(fd)
    }

    /// How many descriptors are left.
    pub fn len(&self) -> usize {
        self.len - self.next
    }

    /// True when none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves every descriptor that is left to a high number, see [`move_high`].
    pub fn move_high(&mut self) {
        for slot in &mut self.slots[self.next..self.len] {
            *slot = slot.take().map(move_high);
        }
    }
}

/// Gives the descriptor a number of [`FD_FLOOR`] or above with `CLOEXEC`, because programs count on low numbers being
/// dense, close 0..N before an exec, or put them in `fd_set`s. When the soft limit of `RLIMIT_NOFILE` is lower, the
/// top quarter of the table is used. When nothing is free there the descriptor stays as it is.
pub fn move_high(fd: OwnedFd) -> OwnedFd {
    let soft = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let soft = i32::try_from(soft).unwrap_or(i32::MAX);
    let floor = if soft > FD_FLOOR + 256 {
        FD_FLOOR
    } else {
        soft / 4 * 3
    };
    if fd.as_raw_fd() >= floor {
        return fd;
    }
    loop {
        match fcntl_dupfd_cloexec(&fd, floor) {
            Ok(high) => return high,
            Err(Errno::INTR) => {}
            Err(_) => return fd,
        }
    }
}
