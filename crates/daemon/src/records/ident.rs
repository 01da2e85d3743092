//! What tells a file, a socket or a process from every other one: kernel facts that do not come back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, StatxFlags, makedev, statx};
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// `S_IFMT`, `S_IFSOCK`.
const KIND: u16 = 0o170_000;
const SOCKET: u16 = 0o140_000;

/// A file or a socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Ident {
    /// `SO_COOKIE`: no other socket ever has it.
    Socket(u64),
    /// File system and inode, which are no other file's while it is open.
    File(u64, u64),
}

impl Ident {
    /// Of an open descriptor. Asks nothing of whoever serves a file system, which may be a user's.
    ///
    /// # Errors
    /// As statx(2), getsockopt(2).
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&fd, "", flags, StatxFlags::TYPE | StatxFlags::INO)?;
        if stat.stx_mode & KIND == SOCKET {
            return Ok(Self::Socket(sockopt::socket_cookie(&fd)?));
        }
        let dev = makedev(stat.stx_dev_major, stat.stx_dev_minor);
        Ok(Self::File(dev, stat.stx_ino))
    }
}

/// A process: numbers are used again, but not with the same time of start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, clock ticks since boot (`starttime` of proc_pid_stat(5)).
    pub start: u64,
}

impl ProcessId {
    /// Of the process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses, and may contain any.
        let fields = stat.rsplit_once(')')?.1;
        // `state` is the third field and the first here; `starttime` is the twenty-second.
        let start = fields.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// A descriptor of it, if it lives (a zombie does not).
    pub fn open(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The descriptor first: what is found now is what it stands for, or nothing.
        (Self::of(self.pid) == Some(self) && !crate::peer::has_ended(fd.as_fd())).then_some(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_apart() {
        let (a, b) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let of = |fd: &dyn AsFd| Ident::of(fd.as_fd()).unwrap();
        assert_eq!(of(&a), of(&a.try_clone().unwrap()));
        assert_ne!(of(&a), of(&b));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(of(&file), Ident::File(..)));
        let text = serde_json::to_string(&of(&a)).unwrap();
        assert_eq!(serde_json::from_str::<Ident>(&text).unwrap(), of(&a));
    }

    #[test]
    fn a_process_is_itself_while_it_lives() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.open().is_some());
        let other = ProcessId {
            start: own.start + 1,
            ..own
        };
        assert!(other.open().is_none());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        child.wait().unwrap();
        assert!(id.open().is_none());
    }
}
