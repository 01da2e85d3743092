//! Where a process is: its network namespace, and its container. A container is a process namespace: processes of one user
//! in two of them cannot see, signal or trace one another, so a stack must not join them unless an administrator wants it.
//! A user namespace alone is none.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use flyover_proto::RefusedCode;
use rustix::fs::{Mode, OFlags, open};

use crate::netns::{NetNs, NetNsId};
use crate::peer::Peer;
use crate::power::Power;
use crate::records::Ident;
use crate::refusal::Refusal;

/// See the module.
#[derive(Clone, Debug)]
pub struct Container {
    /// `None`: the daemon's own.
    id: Option<Ident>,
    /// While it is held nothing else gets that number.
    _held: Option<Arc<OwnedFd>>,
}

impl PartialEq for Container {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Container {}

impl std::hash::Hash for Container {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Container {
    /// Of a process that is alive. `/proc/PID/status` may be read of everybody, and says how many process namespaces below
    /// the daemon's it is in.
    ///
    /// # Errors
    /// As open(2): it is gone, or it is in another one and must not be looked at (`PR_SET_DUMPABLE`).
    fn of(peer: &Peer) -> io::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", peer.pid))?;
        let levels = levels(&status);
        let held = if levels > 1 {
            let path = format!("/proc/{}/ns/pid", peer.pid);
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Some(Arc::new(open(path, flags, Mode::empty())?))
        } else {
            None
        };
        if !peer.is_alive() {
            return Err(rustix::io::Errno::SRCH.into());
        }
        let id = held.as_ref().map(Ident::of).transpose()?;
        Ok(Self { id, _held: held })
    }

    /// One that a daemon before this one noted. Another one may get its number only after all its processes have ended.
    pub fn noted(id: Option<Ident>) -> Self {
        Self { id, _held: None }
    }

    /// For the notes.
    pub fn id(&self) -> Option<Ident> {
        self.id
    }

    /// The daemon's own: what is there sees all others.
    pub fn is_home(&self) -> bool {
        self.id.is_none()
    }
}

/// In how many process namespaces a process is, from the one of `/proc` down.
fn levels(status: &str) -> usize {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.map_or(1, |numbers| numbers.split_whitespace().count())
}

/// Both.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Site {
    /// Network namespace.
    pub ns: NetNsId,
    /// Container.
    pub container: Container,
}

impl Site {
    /// Of a process, and its network namespace, kept alive.
    ///
    /// # Errors
    /// It cannot be found, or this daemon does not serve it.
    pub fn of(peer: &Peer, power: &Power) -> Result<(Self, Arc<NetNs>), Refusal> {
        let ns = power.netns_of(peer)?;
        let container = Container::of(peer).map_err(|e| {
            let text = format!("which container the process is in cannot be seen: {e}");
            Refusal::new(RefusedCode::Denied, text)
        })?;
        let site = Self {
            ns: ns.id(),
            container,
        };
        Ok((site, ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted() {
        assert_eq!(levels("Name:\tx\nNSpid:\t17\nThreads:\t1\n"), 1);
        assert_eq!(levels("NSpid:\t17\t1\n"), 2);
        assert_eq!(levels("Name:\tx\n"), 1);
    }

    #[test]
    fn we_are_at_home() {
        use std::os::fd::AsFd as _;
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(a.as_fd()).unwrap();
        let here = Container::of(&peer).unwrap();
        assert!(here.is_home());
        let file = std::fs::File::open("/proc/self/ns/pid").unwrap();
        assert_ne!(here, Container::noted(Some(Ident::of(file).unwrap())));
    }
}
