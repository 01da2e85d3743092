//! A network namespace: how it is named, told apart, and entered for the length of one closure.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

mod cookie {
    //! `SO_NETNS_COOKIE` (Linux 5.14): the namespace of any socket as a number that is never used again.
    use nix::{getsockopt_impl, libc, sockopt_impl};

    sockopt_impl!(
        /// Number of the socket's network namespace.
        NetnsCookie,
        GetOnly,
        libc::SOL_SOCKET,
        libc::SO_NETNS_COOKIE,
        u64
    );
}

/// Tells namespaces apart while a descriptor of them is held (namespaces(7)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NetNsId {
    dev: u64,
    ino: u64,
}

impl std::fmt::Display for NetNsId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

/// A network namespace that is kept alive.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    id: NetNsId,
    /// The daemon's threads are in it already. To enter it nevertheless would take privilege.
    here: bool,
}

impl NetNs {
    /// The namespace of a process. The caller checks afterwards that the process is still the one that it means.
    /// A main thread that has ended while others go on is in none any more (pthread_exit(3)): then theirs counts.
    ///
    /// # Errors
    /// As open(2): the process is gone.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let main = Self::open(&format!("/proc/{pid}/ns/net"));
        main.or_else(|e| Self::of_other_thread(pid).ok_or(e))
    }

    fn of_other_thread(pid: u32) -> Option<Self> {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        threads
            .flatten()
            .find_map(|thread| Self::open(thread.path().join("ns/net").to_str()?).ok())
    }

    /// The namespace of the daemon itself, which work for it does not have to enter.
    ///
    /// # Errors
    /// As open(2).
    pub fn here() -> io::Result<Self> {
        let found = Self::open("/proc/thread-self/ns/net")?;
        Ok(Self {
            here: true,
            ..found
        })
    }

    fn open(path: &str) -> io::Result<Self> {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Self {
            fd,
            id: NetNsId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
            here: false,
        })
    }

    /// What tells it from others.
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// True for [`Self::here`].
    pub fn is_here(&self) -> bool {
        self.here
    }

    /// Runs `work` in a thread of its own that has entered the namespace; the caller's thread stays where it is.
    ///
    /// # Errors
    /// The thread cannot be made or may not enter, or `work` panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.here {
            return Ok(work());
        }
        let enter = || {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, enter)?;
            worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("work in a namespace panicked")))
        })
    }

    /// The namespace's cookie, to be compared with [`socket_cookie`].
    ///
    /// # Errors
    /// As [`Self::run`], socket(2).
    pub fn cookie(&self) -> io::Result<u64> {
        self.run(|| {
            let probe = socket_with(
                AddressFamily::INET,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            socket_cookie(probe.as_fd())
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cookie of the namespace that a socket belongs to.
///
/// # Errors
/// As getsockopt(2); `ENOTSOCK` when it is no socket.
pub fn socket_cookie(sock: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::socket::getsockopt(&sock, cookie::NetnsCookie)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_is_itself() {
        let a = NetNs::here().unwrap();
        let b = NetNs::of_process(std::process::id()).unwrap();
        assert_eq!(a.id(), b.id());
        assert_eq!(a.run(|| 7).unwrap(), 7);
        assert_eq!(a.cookie().unwrap(), b.cookie().unwrap());
        assert!(NetNs::of_process(0).is_err());
    }
}
