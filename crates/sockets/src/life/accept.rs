//! `accept(2)`: from the stack's queue, then from the kernel's.

use core::sync::atomic::Ordering;

use flyover_core::TcpState;
use flyover_core::ev;
use flyover_core::sock::flag;
use flyover_core::{Error, Sock, SockRef};

use crate::addr::Addr;
use crate::attach::Attachment;
use crate::entry::{Entry, Handle};
use crate::errno::Errno;
use crate::io::options::HANDS_DOWN;
use crate::os::PollFd;
use crate::policy::Reason;
use crate::process::{Ep, Fd, Sockets};
use crate::wait::Deadline;

/// What `accept` brought.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// The new descriptor.
    pub fd: i32,
    /// The peer.
    pub peer: Addr,
}

impl Sockets {
    /// `accept4(2)`; `None`: the kernel's business. `flags`: `SOCK_NONBLOCK`, `SOCK_CLOEXEC`.
    pub fn accept(&self, fd: i32, flags: i32) -> Option<Result<Accepted, Errno>> {
        let Fd::Tcp(ep) = self.look(fd) else {
            return None;
        };
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Some(Err(Errno::EINVAL));
        }
        Some(self.accept_on(fd, &ep, flags))
    }

    fn accept_on(&self, mut fd: i32, ep: &Ep, flags: i32) -> Result<Accepted, Errno> {
        let s = ep.shared();
        let _call = ep.att.call();
        let mut deadline = None;
        loop {
            if ep.att.stack.get(ep.sock).is_none() || s.tcp_state() != TcpState::Listen {
                return Err(Errno::EINVAL);
            }
            if let Some(done) = self.take_either(fd, ep, flags) {
                return done;
            }
            if ep.nonblocking() {
                let polled = ep.att.poll(64);
                if let Some(done) = self.take_either(fd, ep, flags) {
                    return done;
                }
                if polled || ep.att.stack.to_accept(ep.sock.id) == 0 {
                    return Err(Errno::EAGAIN);
                }
                continue;
            }
            let span = s.rcvtimeo.load(Ordering::Relaxed);
            let deadline =
                *deadline.get_or_insert_with(|| Deadline::after_or_never(self.os.now(), span));
            ep.att
                .block_on(ep.sock, ev::IN, fd, deadline, self.settings.spin)?;
            fd = ep.att.kept_fd(ep.sock, fd);
            // The kernel's half may have become readable before the keeper could say so.
            s.os_ready.store(1, Ordering::Release);
        }
    }

    fn take_either(&self, fd: i32, ep: &Ep, flags: i32) -> Option<Result<Accepted, Errno>> {
        let s = ep.shared();
        if ep.att.stack.to_accept(ep.sock.id) != 0
            && let Some(done) = self.take_ours(fd, ep, flags)
        {
            return Some(done);
        }
        if s.os_ready.load(Ordering::Acquire) != 0 {
            return self.take_kernels(fd, ep, flags);
        }
        None
    }

    /// A connection of the stack. The descriptor is made first, so that a full table loses no connection.
    fn take_ours(&self, fd: i32, ep: &Ep, flags: i32) -> Option<Result<Accepted, Errno>> {
        let domain = if ep.v6 { libc::AF_INET6 } else { libc::AF_INET };
        let token = match self.os.socket(domain, libc::SOCK_STREAM | flags, 0) {
            Ok(t) => t,
            Err(e) => return Some(Err(e)),
        };
        let cookie = self.cookie(token);
        let taken: Result<SockRef, Error> = ep.att.locked(|l| {
            let child = l.tcp_accept(ep.sock.id)?;
            l.set_cookie(child.id, cookie.unwrap_or(0));
            Ok(child)
        });
        let child = match taken {
            Ok(c) => c,
            Err(e) => {
                let _: Result<(), Errno> = self.os.close(token);
                return match e {
                    Error::WouldBlock => None,
                    e => Some(Err(e.into())),
                };
            }
        };
        if ep.shared().sopts.load(Ordering::Relaxed) & HANDS_DOWN != 0 {
            self.hand_down(fd, ep, token);
        }
        Some(Ok(self.adopt(ep.att, token, child, ep.v6, flags)))
    }

    fn adopt(
        &self,
        att: &'static Attachment,
        token: i32,
        child: SockRef,
        v6: bool,
        flags: i32,
    ) -> Accepted {
        let s = att.stack.sock(child.id);
        s.put_flag(flag::NONBLOCK, flags & libc::SOCK_NONBLOCK != 0);
        s.set_flag(flag::CONNECTED_SEEN);
        let _: bool = self.table.store(token, Entry::Tcp(Handle::new(child, v6)));
        self.mark_made(token);
        Accepted {
            fd: token,
            peer: Addr::inet(s.remote(), v6),
        }
    }

    /// The keeper hears once of many connections that come together.
    fn note_more(&self, listener: i32, s: &Sock) {
        let mut one = [PollFd::input(listener)];
        if self.os.ppoll(&mut one, Some(0)) != Ok(0) {
            s.os_ready.store(1, Ordering::Release);
        }
    }

    /// A connection of the kernel: an ordinary descriptor. The flag is cleared before the look, so that a connection
    /// that comes meanwhile sets it again.
    fn take_kernels(&self, fd: i32, ep: &Ep, flags: i32) -> Option<Result<Accepted, Errno>> {
        let s = ep.shared();
        s.os_ready.store(0, Ordering::Release);
        match self.os.accept(fd, flags) {
            Ok((new, peer)) => {
                self.note_more(fd, s);
                let remote = peer.endpoint();
                if self.accepted_by_kernel(new, ep.v6, remote) {
                    self.mark_made(new);
                    return Some(Ok(Accepted { fd: new, peer }));
                }
                match self.make_mark(new, ep.v6, Reason::KernelAccept, remote) {
                    Some(entry) if self.table.store(new, entry) => {}
                    _ => self.leave_to_kernel(new, Reason::KernelAccept),
                }
                self.mark_made(new);
                Some(Ok(Accepted { fd: new, peer }))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Err(e) => {
                s.os_ready.store(1, Ordering::Release);
                Some(Err(e))
            }
        }
    }
}
