//! Who is at the other end of a connection: only what the kernel says.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::stat;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::netns::{NetNs, socket_cookie};
use crate::records::ProcessId;

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    /// Process number in the daemon's pid namespace.
    pub pid: u32,
    /// User, as seen by the daemon's user namespace.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Becomes readable when the process has ended (pidfd_open(2)).
    pub pidfd: OwnedFd,
    /// Cookie of the network namespace in which it made the socket: the kernel gives our end of the connection that one.
    /// `None` before Linux 5.14.
    pub netns_cookie: Option<u64>,
}

impl Peer {
    /// Asks the kernel about the peer of `sock`: `SO_PEERCRED` and `SO_PEERPIDFD` (unix(7)); before Linux 6.5
    /// pidfd_open(2) by number.
    ///
    /// # Errors
    /// `ESRCH` when the process is gone or not visible here.
    pub fn of(sock: BorrowedFd<'_>) -> io::Result<Self> {
        let cred = getsockopt(&sock, sockopt::PeerCredentials)?;
        // 0 is a process that the daemon's pid namespace does not show.
        let id = Pid::from_raw(cred.pid()).ok_or(rustix::io::Errno::SRCH)?;
        let pidfd = match getsockopt(&sock, sockopt::PeerPidfd) {
            Ok(fd) => fd,
            Err(nix::Error::ENOPROTOOPT) => pidfd_open(id, PidfdFlags::empty())?,
            Err(e) => return Err(e.into()),
        };
        let pid = u32::try_from(cred.pid()).map_err(io::Error::other)?;
        Ok(Self {
            pid,
            uid: cred.uid(),
            gid: cred.gid(),
            pidfd,
            netns_cookie: socket_cookie(sock).ok(),
        })
    }

    /// The network namespace that the process is in now.
    ///
    /// # Errors
    /// As open(2); `ESRCH` when the process ended meanwhile, so that the number may be another's.
    pub fn netns(&self) -> io::Result<NetNs> {
        let ns = NetNs::of_process(self.pid)?;
        if self.is_alive() {
            Ok(ns)
        } else {
            Err(rustix::io::Errno::SRCH.into())
        }
    }

    /// False when the process has another `CLOCK_MONOTONIC` than the daemon and the keeper.
    pub fn shares_clock(&self) -> bool {
        shares_clock(self.pid)
    }

    /// False once the process has ended.
    pub fn is_alive(&self) -> bool {
        !has_ended(self.pidfd.as_fd())
    }

    /// What tells the process from others that had or will have its number; `None` when it is gone.
    pub fn id(&self) -> Option<ProcessId> {
        ProcessId::of(self.pid).filter(|_| self.is_alive())
    }

    /// The command line, for people.
    pub fn command(&self) -> String {
        command_of(self.pid)
    }
}

/// Time namespaces (time_namespaces(7)) have clocks of their own. What cannot be seen, as before Linux 5.6, is taken for the same.
fn shares_clock(pid: u32) -> bool {
    let of = |who: &str| stat(format!("/proc/{who}/ns/time")).ok();
    match (of("self"), of(&pid.to_string())) {
        (Some(own), Some(its)) => (own.st_dev, own.st_ino) == (its.st_dev, its.st_ino),
        _ => true,
    }
}

/// True once the process behind a pidfd has ended.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
}

/// At most this much of a command line is shown.
const MAX_COMMAND: usize = 256;

/// The command line of a process with blanks between its words; its name in brackets when it has none.
pub fn command_of(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    if words.is_empty() {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        return format!("[{}]", name.trim());
    }
    words.join(" ").chars().take(MAX_COMMAND).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_time_namespace_has_a_clock_of_its_own() {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};
        assert!(shares_clock(std::process::id()));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut child = Command::new("unshare")
            .args(["--time", "--monotonic", "1000", "--fork", "sh", "-c"])
            .arg("echo $$; read line")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        assert!(out.read_line(&mut line).unwrap() > 0);
        let other = shares_clock(line.trim().parse().unwrap());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().code().is_some());
        assert!(!other);
    }

    #[test]
    fn we_are_our_own_peer() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(a.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.is_alive());
        let here = NetNs::here().unwrap();
        assert_eq!(peer.netns().unwrap().id(), here.id());
        assert_eq!(peer.netns_cookie, Some(here.cookie().unwrap()));
        assert!(peer.command().contains("flyover"), "{}", peer.command());
    }
}
