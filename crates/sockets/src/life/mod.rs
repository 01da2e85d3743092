//! The life of a descriptor, one verb per file: `socket` and `bind`, `connect`, `listen`, `accept`, `dup`, `close`.
//! The descriptor is a kernel socket from first to last; here endpoints are attached to it and taken off again.

pub mod accept;
pub mod adopt;
pub mod bind;
pub mod close;
pub mod connect;
pub mod dup;
pub mod handover;
pub mod inherit;
mod lent;
mod linger;
pub mod listen;
pub mod names;
mod orphaned;
mod resume;
pub mod ring;
pub mod takeover;
pub mod withdraw;

use core::sync::atomic::Ordering;

use flyover_core::SockRef;
use flyover_core::sock::{Kind as SockKind, flag};
use flyover_cplane::{Reason as Unreachable, Resolve};
use flyover_wire::{Endpoint, IPPROTO_TCP, IPPROTO_UDP, Ip};

use crate::attach::{Attachment, DaemonError, Flow};
use crate::entry::{Entry, Fresh, Handle};
use crate::errno::Errno;
use crate::fdtable::SHARED;
use crate::io::options::{HANDS_DOWN, WITHDRAWN};
use crate::policy::Reason;
use crate::process::{Ep, Sockets};

/// The way to a destination that a V-NIC of ours serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Source address.
    pub src: Ip,
}

/// Naps for a control plane whose writer lost its CPU in mid-change; a time slice lasts a few milliseconds.
const NAPS: u32 = 50;
/// Length of a nap, ns.
const NAP: u64 = 1_000_000;

/// Resolves; a control plane in mid-change is waited for, because a socket left to the kernel stays there.
fn resolve(att: &Attachment, to: Ip, src: Option<Ip>, oif: u32) -> Resolve {
    for _ in 0..NAPS {
        match att.cplane.resolve(to, src, oif) {
            Resolve::Unreachable(Unreachable::Busy) => {
                let _: Result<usize, Errno> = att.os.ppoll(&mut [], Some(NAP));
            }
            known => return known,
        }
    }
    att.cplane.resolve(to, src, oif)
}

/// Looks whether a V-NIC of the stack carries packets to `to`.
pub(crate) fn way(att: &Attachment, to: Ip, src: Option<Ip>, oif: u32) -> Result<Way, Reason> {
    if to.is_loopback() || to.is_unspecified() {
        return Err(Reason::Loopback);
    }
    if to.is_multicast() || to.is_broadcast() {
        return Err(Reason::Multicast);
    }
    if att.cplane.is_local(to) {
        return Err(Reason::Local);
    }
    let (ifindex, src) = match resolve(att, to, src, oif) {
        Resolve::Ready(f) => (f.ifindex, f.src),
        Resolve::NeedNeigh { ifindex, src, .. } => (ifindex, src),
        Resolve::Local => return Err(Reason::Local),
        Resolve::Unreachable(_) => return Err(Reason::NoRoute),
    };
    if !att.nic_ifindex.contains(&ifindex) {
        return Err(Reason::NoVnic);
    }
    Ok(Way { src })
}

impl Sockets {
    /// Makes the endpoint behind `fd`, with the cookie of its kernel socket and the options set so far.
    pub(crate) fn make_endpoint(
        &self,
        att: &'static Attachment,
        fd: i32,
        fresh: Fresh,
        kind: SockKind,
    ) -> Result<Ep, Reason> {
        let cookie = self.cookie(fd).map_err(|_| Reason::Option)?;
        let sock = att
            .locked(|l| l.sock_alloc(kind, fresh.v6, cookie))
            .map_err(|_| Reason::StackFull)?;
        let ep = Ep {
            att,
            sock,
            v6: fresh.v6,
        };
        if fresh.v6 {
            let only = self.int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Ok(1);
            ep.shared().put_flag(flag::V6ONLY, only);
        }
        let status = self.os.fcntl(fd, libc::F_GETFL, 0).unwrap_or(0);
        ep.shared()
            .put_flag(flag::NONBLOCK, status & libc::O_NONBLOCK != 0);
        if fresh.dgram {
            att.locked(|l| l.keep_shut(sock.id, fresh.shut.into()));
        }
        if fresh.opts {
            self.copy_options(fd, &ep);
            let _: u32 = ep.shared().sopts.fetch_or(HANDS_DOWN, Ordering::Relaxed);
        }
        Ok(ep)
    }

    /// Has the V-NICs deliver the flow to the endpoint.
    pub(crate) fn add_filter(
        &self,
        ep: &Ep,
        fd: i32,
        local: Endpoint,
        remote: Option<Endpoint>,
        dual: bool,
    ) -> Result<(), Reason> {
        let udp = ep.shared().kind() == SockKind::Udp;
        let proto = if udp { IPPROTO_UDP } else { IPPROTO_TCP };
        let flow = Flow {
            proto,
            local,
            remote,
            dual,
        };
        let id = ep
            .att
            .daemon(|d| d.add_filter(flow, fd))
            .map_err(|e| match e {
                DaemonError::Conflict if remote.is_some() && !udp => Reason::AddressShared,
                _ => Reason::FilterRefused,
            })?;
        ep.att.locked(|_| ep.shared().filter.set(id));
        Ok(())
    }

    /// The filter of a new listener or datagram socket. While new sockets are to stay with the kernel it is made as one
    /// that was withdrawn.
    pub(crate) fn filter_of_new(
        &self,
        ep: &Ep,
        fd: i32,
        local: Endpoint,
        remote: Option<Endpoint>,
        dual: bool,
    ) -> Result<(), Reason> {
        if !ep.att.stack.is_off() {
            return self.add_filter(ep, fd, local, remote, dual);
        }
        let udp = ep.shared().kind() == SockKind::Udp;
        ep.shared().reason.set(u32::from(Reason::Ordered.code()));
        ep.shared().put_flag(flag::DUAL, dual);
        ep.shared().put_flag(flag::WITHDRAWN, !udp);
        let _: u32 = ep.shared().sopts.fetch_or(WITHDRAWN, Ordering::Relaxed);
        Ok(())
    }

    /// Gives an endpoint back that never came to life.
    pub(crate) fn discard(&self, ep: &Ep) {
        ep.att.locked(|l| l.free_unused(ep.sock.id));
    }

    /// From here on `fd` is accelerated.
    pub(crate) fn commit(&self, fd: i32, ep: &Ep) -> Result<(), Reason> {
        let h = Handle::new(ep.sock, ep.v6);
        let udp = ep.shared().kind() == SockKind::Udp;
        let entry = if udp { Entry::Udp(h) } else { Entry::Tcp(h) };
        let before = self.table.swap(fd, entry).ok_or(Reason::HighFd)?;
        if self.was_watched(fd, before) {
            self.epolls.fd_became_endpoint(self, fd, ep);
        }
        Ok(())
    }

    /// The socket, of which this is the entry from before, may be a member of epoll sets. Whoever makes it one just now
    /// finds the new entry.
    pub(crate) fn was_watched(&self, fd: i32, before: Entry) -> bool {
        matches!(before, Entry::Fresh(f) if f.in_epoll) || !self.is_sole_holder(fd)
    }

    /// The local address that the kernel socket is bound to; port 0: not bound.
    pub(crate) fn kernel_local(&self, fd: i32) -> Result<Endpoint, Errno> {
        self.os.getsockname(fd)?.endpoint().ok_or(Errno::EINVAL)
    }

    /// An option is set that only the kernel honours. `setsockopt` sees to that; this is for sockets whose options
    /// others set, before this program began or without the library.
    pub(crate) fn is_device_bound(&self, fd: i32, fresh: Fresh) -> bool {
        let mut name = [0u8; 16];
        fresh.opts
            && (self
                .os
                .getsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name)
                .is_ok_and(|n| n > 0 && name[0] != 0)
                || self
                    .int_option(fd, libc::SOL_SOCKET, libc::SO_MARK)
                    .is_ok_and(|mark| mark != 0))
    }

    /// An IPv6 socket that also takes IPv4.
    pub(crate) fn is_dual(&self, fd: i32, fresh: Fresh, local: Ip) -> bool {
        fresh.v6
            && local.is_unspecified()
            && !local.is_v4()
            && self.int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Ok(0)
    }

    /// Lets `flyover ss` list a socket that stayed with the kernel.
    pub(crate) fn tell_ss(&self, fd: i32, reason: Reason) {
        let Some(att) = self.attached() else { return };
        // Nobody but the kernel tells of its end.
        let _: bool = att.await_reports();
        // Accelerated sockets come first: when the table fills up, those of the kernel are not listed any more.
        if att.stack.socks_used() > att.stack.limits().socks / 4 {
            return;
        }
        let (Ok(cookie), Ok(local)) = (self.cookie(fd), self.kernel_local(fd)) else {
            return;
        };
        let remote = self.os.getpeername(fd).ok().and_then(|a| a.endpoint());
        let v6 = self.int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN) == Ok(libc::AF_INET6);
        let _: Option<SockRef> = att.locked(|l| {
            let r = l.sock_alloc(SockKind::Kernel, v6, cookie).ok()?;
            let s = l.stack().sock(r.id);
            s.set_local(local);
            s.set_remote(remote.unwrap_or(Endpoint {
                ip: local.ip.unspecified_same_family(),
                port: 0,
            }));
            s.reason.set(u32::from(reason.code()));
            Some(r)
        });
    }

    /// Marks `fd` as certainly made here and not yet copied.
    pub(crate) fn mark_made(&self, fd: i32) {
        self.begin();
        self.table.set_made(fd, self.fork_generation());
    }

    /// Marks `fd` as possibly held by others.
    pub fn mark_shared(&self, fd: i32) {
        self.table.set_made(fd, SHARED);
    }
}
