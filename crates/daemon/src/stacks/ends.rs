//! The other end of a connection within this host: a process whose pair goes apart needs it for a moment, to send what waits
//! through the kernel. Between processes of two users, or of two containers, only the daemon can lend it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use flyover_proto::RefusedCode;
use flyover_wire::{Endpoint, Ip};
use nix::sys::socket::getsockopt;
use rustix::net::{getpeername, getsockname, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::attach::Member;
use super::stack::Life;
use crate::netns::socket_cookie;
use crate::records::ProcessId;
use crate::refusal::Refusal;
use crate::session::Progress;

mod device {
    //! `SO_BINDTOIFINDEX` (Linux 5.0).
    use nix::{getsockopt_impl, libc, sockopt_impl};

    sockopt_impl!(
        /// The interface that a socket is bound to; 0: none.
        Bound,
        GetOnly,
        libc::SOL_SOCKET,
        libc::SO_BINDTOIFINDEX,
        i32
    );
}

/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// What makes a TCP connection of a network namespace one of a kind, as the kernel has it. Sockets that are bound to
/// interfaces may have the addresses of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ends {
    local: Endpoint,
    remote: Endpoint,
    device: i32,
}

impl Ends {
    /// The same connection, seen from the other end.
    const fn reversed(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            device: self.device,
        }
    }
}

impl Member {
    /// The stack's processes and its keeper.
    pub fn processes(&self, progress: &mut Progress<'_>) -> BTreeSet<u32> {
        match &*self.stack.life_for(progress) {
            Life::Live(live) => {
                let keeper = live.keeper.as_ref().map(|keeper| keeper.pid());
                live.owners.values().map(|o| o.pid).chain(keeper).collect()
            }
            Life::New | Life::Gone => BTreeSet::new(),
        }
    }

    /// A descriptor of the socket with this inode number, from whichever process of the stack has it: if the kernel says that
    /// it is the other end of the connection that `own` is one end of. Whoever holds that can do no more harm to it with
    /// the other.
    ///
    /// # Errors
    /// No process of the stack has such a socket.
    pub fn other_end(
        &self,
        own: BorrowedFd<'_>,
        inode: u32,
        progress: &mut Progress<'_>,
    ) -> Result<OwnedFd, Refusal> {
        let netns = self.net.cookie();
        let bad = || Refusal::bad("the descriptor is no connection of the stack's namespace");
        let seen = ends(own, netns).ok_or_else(bad)?;
        let processes: Vec<ProcessId> = match &*self.stack.life_for(progress) {
            Life::Live(live) => live.owners.values().filter_map(|o| o.id).collect(),
            Life::New | Life::Gone => Vec::new(),
        };
        let other = processes.into_iter().find_map(|id| {
            let end = taken(id, inode)?;
            (ends(end.as_fd(), netns) == Some(seen.reversed())).then_some(end)
        });
        // Looked at once more: had `own` ended meanwhile, another's connection could have got its addresses.
        let other = other.filter(|_| ends(own, netns) == Some(seen));
        other.ok_or_else(|| {
            Refusal::new(
                RefusedCode::NotFound,
                "no process of the stack has the other end",
            )
        })
    }
}

/// A copy of the process's descriptor of the socket with this number.
fn taken(id: ProcessId, inode: u32) -> Option<OwnedFd> {
    let process = id.open()?;
    let wanted = format!("socket:[{inode}]");
    let list = std::fs::read_dir(format!("/proc/{}/fd", id.pid)).ok()?;
    let shows = |link: &std::fs::DirEntry| {
        std::fs::read_link(link.path()).is_ok_and(|shown| shown.as_os_str() == wanted.as_str())
    };
    let link = list.flatten().find(shows)?;
    let number = link.file_name().to_str()?.parse().ok()?;
    pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()
}

/// Of a TCP connection of this network namespace that has not ended.
fn ends(sock: BorrowedFd<'_>, netns: u64) -> Option<Ends> {
    let tcp = sockopt::socket_protocol(sock).ok()??.as_raw().get() == TCP;
    if !tcp || socket_cookie(sock).ok()? != netns {
        return None;
    }
    let endpoint = |address: SocketAddr| Endpoint {
        ip: Ip::from(address.ip()),
        port: address.port(),
    };
    let local = SocketAddr::try_from(getsockname(sock).ok()?).ok()?;
    let remote = SocketAddr::try_from(getpeername(sock).ok()??).ok()?;
    Some(Ends {
        local: endpoint(local),
        remote: endpoint(remote),
        device: getsockopt(&sock, device::Bound).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetNs;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_other_end_is_known_by_its_addresses() {
        let here = NetNs::here().unwrap().cookie().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (b, _) = listener.accept().unwrap();
        let seen = ends(a.as_fd(), here).unwrap();
        assert_eq!(ends(b.as_fd(), here), Some(seen.reversed()));
        let (other, _) = (
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept(),
        );
        assert_ne!(ends(other.unwrap().as_fd(), here), Some(seen));
        assert_eq!(ends(listener.as_fd(), here), None);
        assert_eq!(ends(a.as_fd(), here + 1), None);
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(ends(unix.as_fd(), here), None);
        // Nobody is the other end of what was reset.
        rustix::net::sockopt::set_socket_linger(&a, Some(std::time::Duration::ZERO)).unwrap();
        drop(a);
        let mut reset = [0; 1];
        assert!((&b).read(&mut reset).is_err());
        assert_eq!(ends(b.as_fd(), here), None);
    }

    #[test]
    fn a_descriptor_is_taken_by_its_inode() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino as u32;
        let own = ProcessId::of(std::process::id()).unwrap();
        let copy = TcpListener::from(taken(own, inode).unwrap());
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(taken(own, u32::MAX).is_none());
    }
}
