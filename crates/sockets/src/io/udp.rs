//! Datagrams. The kernel socket behind the endpoint receives what no V-NIC brings and sends what no V-NIC takes; both
//! sources are read in turns, so that neither starves.

use core::sync::atomic::{AtomicU32, Ordering};
use std::io::{IoSlice, IoSliceMut};

use flyover_core::Error;
use flyover_core::UdpMsg;
use flyover_core::ev;
use flyover_core::sock::{OS_DATA, OS_ERROR, flag};
use flyover_core::stack::deferred::work;
use flyover_cplane::Resolve;
use flyover_wire::{Endpoint, Ip};

use crate::addr::Addr;
use crate::entry::Fresh;
use crate::errno::Errno;
use crate::io::cmsg::{self, CmsgWriter};
use crate::io::options;
use crate::life::way;
use crate::os::{PollFd, Received};
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;

/// Turns between the two sources: one in so many receives looks at the kernel's first.
const TURN: u32 = 4;
static TURNS: AtomicU32 = AtomicU32::new(0);

/// Naps for a control plane in mid-change, as `life::resolve`, but shorter: a datagram may be late, a socket not lost.
const NAPS: u32 = 10;
/// Length of a nap, ns.
const NAP: u64 = 1_000_000;

/// Pieces of a vector that go to the kernel in one call without allocation.
const PIECES: usize = 16;

impl Sockets {
    /// Receives a datagram; `None`: the kernel's business.
    pub(crate) fn udp_recv(
        &self,
        ep: &Ep,
        mut fd: i32,
        into: &mut [&mut [u8]],
        control: &mut [u8],
        flags: i32,
    ) -> Option<Result<Received, Errno>> {
        if flags & libc::MSG_ERRQUEUE != 0 {
            return Some(self.recv_errors(ep, fd, into, control, flags));
        }
        let s = ep.shared();
        let mut polled = false;
        let _call = ep.att.call();
        let mut deadline = None;
        loop {
            let kernels = s.os_ready.load(Ordering::Acquire);
            let kernel_has = kernels != 0;
            if kernels & OS_ERROR != 0
                && let e @ 1.. = self.take_kernels_error(ep, fd)
            {
                return Some(Err(Errno(e)));
            }
            // After a move to the kernel path what the stack still has is older.
            let kernel_first = kernel_has
                && s.sopts.load(Ordering::Relaxed) & options::WITHDRAWN == 0
                && TURNS.fetch_add(1, Ordering::Relaxed).is_multiple_of(TURN);
            if kernel_first && let Some(r) = self.recv_kernels(ep, fd, into, control, flags) {
                return Some(r);
            }
            // Shut down for reading: what comes all the same is given out, and nobody waits for it.
            let mut ended = false;
            match ep
                .att
                .stack
                .udp_recv(ep.sock, into, flags & libc::MSG_PEEK != 0, ep.att.me)
            {
                Ok(m) => {
                    if m.want_update {
                        ep.att.work(ep.sock.id, work::WINDOW);
                    }
                    return Some(Ok(self.received(ep, &m, control, flags)));
                }
                Err(Error::WouldBlock) => {}
                Err(Error::BrokenPipe) => ended = true,
                Err(e) => return Some(Err(e.into())),
            }
            if kernel_has && let Some(r) = self.recv_kernels(ep, fd, into, control, flags) {
                return Some(r);
            }
            let waits = flags & libc::MSG_DONTWAIT == 0 && !ep.nonblocking();
            if ended || !waits {
                if polled || !ep.att.poll(64) {
                    return Some(if waits {
                        Ok(Received::default())
                    } else {
                        Err(Errno::EAGAIN)
                    });
                }
                polled = true;
                continue;
            }
            let span = s.rcvtimeo.load(Ordering::Relaxed);
            let until =
                *deadline.get_or_insert_with(|| Deadline::after_or_never(self.os.now(), span));
            if s.os_ready.load(Ordering::Acquire) & OS_ERROR != 0 {
                // Messages about errors wait (`IP_RECVERR`), and the program reads data: POLLERR says nothing.
                let spin = self.settings.spin;
                if let Err(e) = ep.att.block_for_more(ep.sock, 0, until, spin) {
                    return Some(Err(e));
                }
                continue;
            }
            if let Err(e) = ep
                .att
                .block_on(ep.sock, ev::IN, fd, until, self.settings.spin)
            {
                return Some(Err(e));
            }
            if s.has(flag::HANDED_OVER) {
                return None;
            }
            fd = ep.att.kept_fd(ep.sock, fd);
            if s.rq_available() == 0 {
                // Woken by the kernel's half, perhaps before the keeper could say so.
                let _: u32 = s.os_ready.fetch_or(OS_DATA, Ordering::Release);
            }
        }
    }

    /// A datagram of the kernel socket, if it has one. The flag is cleared before the look, so that a datagram that
    /// comes meanwhile sets it again.
    fn recv_kernels(
        &self,
        ep: &Ep,
        fd: i32,
        into: &mut [&mut [u8]],
        control: &mut [u8],
        flags: i32,
    ) -> Option<Result<Received, Errno>> {
        let ready = &ep.shared().os_ready;
        let _: u32 = ready.fetch_and(!OS_DATA, Ordering::AcqRel);
        let flags = flags | libc::MSG_DONTWAIT;
        let got = if into.len() <= PIECES {
            let mut list: [IoSliceMut<'_>; PIECES] =
                core::array::from_fn(|_| IoSliceMut::new(&mut []));
            let n = into.len();
            for (slot, piece) in list.iter_mut().zip(into.iter_mut()) {
                *slot = IoSliceMut::new(piece);
            }
            self.os
                .recvmsg(fd, list.get_mut(..n).unwrap_or_default(), control, flags)
        } else {
            let mut list: Vec<IoSliceMut<'_>> =
                into.iter_mut().map(|p| IoSliceMut::new(p)).collect();
            self.os.recvmsg(fd, &mut list, control, flags)
        };
        match got {
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            r => {
                // The keeper hears once of many datagrams that come together.
                let mut one = [PollFd::input(fd)];
                let asked = self.os.ppoll(&mut one, Some(0));
                // Not POLLERR, which says that messages about errors wait.
                let data = one[0].revents & (libc::POLLIN | libc::POLLHUP) != 0;
                if asked.is_err() || data {
                    let _: u32 = ready.fetch_or(OS_DATA, Ordering::Release);
                }
                Some(r)
            }
        }
    }

    /// Looks anew at what the kernel socket has, after something was taken out that only it keeps: an error, or a
    /// message about one.
    pub(crate) fn refresh_kernels(&self, ep: &Ep, fd: i32) {
        let mut p = [PollFd::input(fd)];
        let ready = &ep.shared().os_ready;
        let _: u32 = ready.fetch_and(!OS_ERROR, Ordering::AcqRel);
        if self.os.ppoll(&mut p, Some(0)).is_ok() && p[0].revents & libc::POLLERR != 0 {
            let _: u32 = ready.fetch_or(OS_ERROR, Ordering::Release);
        }
    }

    /// Messages about errors (`MSG_ERRQUEUE`): the kernel socket queues them.
    fn recv_errors(
        &self,
        ep: &Ep,
        fd: i32,
        into: &mut [&mut [u8]],
        control: &mut [u8],
        flags: i32,
    ) -> Result<Received, Errno> {
        let mut list: Vec<IoSliceMut<'_>> = into.iter_mut().map(|p| IoSliceMut::new(p)).collect();
        let got = self.os.recvmsg(fd, &mut list, control, flags);
        if ep.shared().os_ready.load(Ordering::Acquire) & OS_ERROR != 0 {
            self.refresh_kernels(ep, fd);
        }
        got
    }

    fn received(&self, ep: &Ep, m: &UdpMsg, control: &mut [u8], flags: i32) -> Received {
        let full = flags & libc::MSG_TRUNC != 0;
        let mut out = if m.full_len > m.n { libc::MSG_TRUNC } else { 0 };
        let mut w = CmsgWriter::new(control);
        if ep.shared().sopts.load(Ordering::Relaxed) & options::CMSGS != 0 {
            cmsg::describe(self.os, ep, m, &mut w);
            if w.is_cut() {
                out |= libc::MSG_CTRUNC;
            }
        }
        Received {
            n: if full { m.full_len } else { m.n },
            from: Addr::inet_scoped(
                m.from,
                ep.v6,
                if m.from.ip.is_v6_link_local() {
                    m.ifindex
                } else {
                    0
                },
            ),
            control: w.len(),
            flags: out,
        }
    }

    /// Sends a datagram.
    pub(crate) fn udp_send(
        &self,
        ep: &Ep,
        fd: i32,
        from: &[&[u8]],
        to: Option<&Addr>,
        control: &[u8],
        flags: i32,
    ) -> Answer {
        let Some(asked) = cmsg::asked(control) else {
            return self.send_kernels(ep, fd, from, to, control, flags);
        };
        let s = ep.shared();
        if s.os_ready.load(Ordering::Acquire) & OS_ERROR != 0
            && let e @ 1.. = self.take_kernels_error(ep, fd)
        {
            return Answer::Error(Errno(e));
        }
        let unusual = flags & (libc::MSG_MORE | libc::MSG_OOB | libc::MSG_ZEROCOPY) != 0;
        if unusual || s.sopts.load(Ordering::Relaxed) & options::KERNEL_SENDS != 0 {
            return self.send_kernels(ep, fd, from, to, control, flags);
        }
        let to_ep = match to {
            Some(a) if a.as_bytes().is_empty() => return Answer::Error(Errno::EINVAL),
            Some(a) => match a.endpoint().filter(|e| fits(ep, a, e)) {
                Some(e) => Some(e),
                None => return self.send_kernels(ep, fd, from, to, control, flags),
            },
            None => None,
        };
        if !control.is_empty() && !leads_there(ep, &asked, to_ep.unwrap_or_else(|| s.remote()).ip) {
            return self.send_kernels(ep, fd, from, to, control, flags);
        }
        let _call = ep.att.call();
        let mut deadline = None;
        let mut naps = 0;
        loop {
            let sent = match ep.locked(|l, id| l.udp_send(id, to_ep, asked.via, from)) {
                Ok(sent) => sent,
                Err(e) => return Answer::Error(e),
            };
            match sent {
                Ok(n) => return Answer::Value(n),
                // No V-NIC takes it now: no route, neighbour not known, broadcast, longer than the MTU.
                Err(
                    Error::HostUnreachable
                    | Error::NetUnreachable
                    | Error::MessageSize
                    | Error::NotSupported
                    | Error::NoBuffers,
                ) => return self.send_kernels(ep, fd, from, to, control, flags),
                Err(Error::Busy) if naps < NAPS => {
                    naps += 1;
                    ep.att.stack.count_busy_datagram();
                    let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(NAP));
                }
                Err(Error::Busy) => return self.send_kernels(ep, fd, from, to, control, flags),
                Err(Error::WouldBlock) if flags & libc::MSG_DONTWAIT != 0 || ep.nonblocking() => {
                    return Answer::Error(Errno::EAGAIN);
                }
                Err(Error::WouldBlock) => {
                    let span = ep.shared().sndtimeo.load(Ordering::Relaxed);
                    let until = *deadline
                        .get_or_insert_with(|| Deadline::after_or_never(self.os.now(), span));
                    if let Err(e) = ep
                        .att
                        .block_on(ep.sock, ev::OUT, -1, until, self.settings.spin)
                    {
                        return Answer::Error(e);
                    }
                }
                // Without SIGPIPE: that is for streams.
                Err(Error::BrokenPipe) => return Answer::Error(Errno::EPIPE),
                Err(e) => return Answer::Error(e.into()),
            }
        }
    }

    /// Sends through the kernel socket. With `MSG_MORE` it holds what it got, and the rest must go there, too.
    fn send_kernels(
        &self,
        ep: &Ep,
        fd: i32,
        from: &[&[u8]],
        to: Option<&Addr>,
        control: &[u8],
        flags: i32,
    ) -> Answer {
        let r = if from.len() <= PIECES {
            let mut list: [IoSlice<'_>; PIECES] = core::array::from_fn(|_| IoSlice::new(&[]));
            for (slot, piece) in list.iter_mut().zip(from) {
                *slot = IoSlice::new(piece);
            }
            self.os.sendmsg(
                fd,
                list.get(..from.len()).unwrap_or_default(),
                to,
                control,
                flags,
            )
        } else {
            let list: Vec<IoSlice<'_>> = from.iter().map(|p| IoSlice::new(p)).collect();
            self.os.sendmsg(fd, &list, to, control, flags)
        };
        ep.att.stack.count_kernel_datagram();
        if r.is_ok() && ep.shared().items.get().opt().is_some() {
            ep.att.locked(|l| l.udp_left(ep.sock.id));
        }
        let sopts = &ep.shared().sopts;
        let _: u32 = match r {
            Ok(_) if flags & libc::MSG_MORE != 0 => {
                sopts.fetch_or(options::PENDING, Ordering::Relaxed)
            }
            _ => sopts.fetch_and(!options::PENDING, Ordering::Relaxed),
        };
        r.into()
    }

    /// The first `sendto` of an unbound UDP socket: with a destination that a V-NIC serves it gets an endpoint.
    pub(crate) fn udp_first_send(
        &self,
        fd: i32,
        fresh: Fresh,
        from: &[&[u8]],
        to: Option<&Addr>,
        control: &[u8],
        flags: i32,
    ) -> Answer {
        let Some(a) = to else { return Answer::Kernel };
        let Some(dest) = a.endpoint() else {
            return Answer::Kernel;
        };
        if crate::enter::in_resolver() || dest.port == 0 {
            return Answer::Kernel;
        }
        let started = self.attach().and_then(|att| {
            let _ = way(att, dest.ip, None, a.scope())?;
            let bound = self.kernel_local(fd).map_err(|_| Reason::Option)?;
            if bound.port == 0 {
                self.bind_any(fd, fresh.v6).map_err(|_| Reason::Option)?;
            }
            self.udp_bound(fd, fresh)
        });
        match started {
            Ok(()) => match self.look(fd) {
                Fd::Udp(ep) => self.udp_send(&ep, fd, from, to, control, flags),
                Fd::Kernel | Fd::Fresh(_) | Fd::Tcp(_) | Fd::Epoll(_) => Answer::Kernel,
            },
            // Another destination may do better.
            Err(
                Reason::Loopback
                | Reason::Local
                | Reason::Multicast
                | Reason::NoRoute
                | Reason::NoVnic,
            ) => Answer::Kernel,
            Err(reason) => {
                self.leave_to_kernel(fd, reason);
                Answer::Kernel
            }
        }
    }
}

/// The stack can send with these control messages: they are of the destination's family, the source is ours, and the
/// interface is where the route leads anyway.
fn leads_there(ep: &Ep, asked: &cmsg::Asked, to: Ip) -> bool {
    let src = asked.via.src;
    if (asked.v4 && !to.is_v4())
        || (asked.v6 && to.is_v4())
        || src.is_some_and(|ip| !ep.att.cplane.is_local(ip))
    {
        return false;
    }
    asked.ifindex == 0
        || match ep.att.cplane.resolve(to, src, 0) {
            Resolve::Ready(f) => f.ifindex == asked.ifindex,
            Resolve::NeedNeigh { ifindex, .. } => ifindex == asked.ifindex,
            Resolve::Local | Resolve::Unreachable(_) => false,
        }
}

/// An address that the stack may send to: of the socket's family, with a port, and one host.
fn fits(ep: &Ep, a: &Addr, e: &Endpoint) -> bool {
    let family = if ep.v6 { libc::AF_INET6 } else { libc::AF_INET };
    let host = !(e.ip.is_loopback()
        || e.ip.is_unspecified()
        || e.ip.is_multicast()
        || e.ip.is_broadcast());
    let v6only = e.ip.is_v4() && ep.v6 && ep.shared().has(flag::V6ONLY);
    a.family() == family && e.port != 0 && host && !v6only
}
