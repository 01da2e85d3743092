//! `listen(2)`: in the kernel, for connections that no V-NIC brings, and in the stack.

use flyover_core::TcpState;
use flyover_core::sock::Kind as SockKind;

use crate::entry::Fresh;
use crate::errno::Errno;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};

impl Sockets {
    /// `listen(2)`.
    pub fn listen(&self, fd: i32, backlog: i32) -> Answer {
        match self.look(fd) {
            Fd::Fresh(f) if !f.dgram => {
                if let Err(e) = self.os.listen(fd, backlog) {
                    return Answer::Error(e);
                }
                if let Err(reason) = self.start_listening(fd, f, backlog) {
                    self.leave_to_kernel(fd, reason);
                }
                Answer::Value(0)
            }
            Fd::Tcp(ep) => self.listen_again(fd, &ep, backlog),
            Fd::Fresh(_) | Fd::Kernel | Fd::Udp(_) | Fd::Epoll(_) => Answer::Kernel,
        }
    }

    fn start_listening(&self, fd: i32, fresh: Fresh, backlog: i32) -> Result<(), Reason> {
        let local = self.kernel_local(fd).map_err(|_| Reason::Option)?;
        if local.ip.is_loopback() {
            return Err(Reason::Loopback);
        }
        if self.is_device_bound(fd, fresh) {
            return Err(Reason::Option);
        }
        let att = self.attach()?;
        if att.nic_ifindex.is_empty() {
            return Err(Reason::NoVnic);
        }
        let dual = self.is_dual(fd, fresh, local.ip);
        let ep = self.make_endpoint(att, fd, fresh, SockKind::Tcp)?;
        let done = att
            .locked(|l| {
                l.keep_shut(ep.sock.id, fresh.shut.into());
                l.tcp_listen(ep.sock.id, local, dual, clamp(backlog))
            })
            .map_err(|_| Reason::AddressShared)
            .and_then(|()| self.filter_of_new(&ep, fd, local, None, dual))
            .and_then(|()| self.commit(fd, &ep));
        if done.is_err() {
            self.discard(&ep);
            return done;
        }
        self.unblock_kernel_listener(fd);
        att.keeper.reg_os(ep.sock, true, fd);
        Ok(())
    }

    /// `accept` on the kernel's half must never block, whatever the application's `O_NONBLOCK` says; that one lives in
    /// the endpoint.
    fn unblock_kernel_listener(&self, fd: i32) {
        if let Ok(status) = self.os.fcntl(fd, libc::F_GETFL, 0) {
            let _: Result<i32, Errno> =
                self.os
                    .fcntl(fd, libc::F_SETFL, (status | libc::O_NONBLOCK) as usize);
        }
    }

    fn listen_again(&self, fd: i32, ep: &Ep, backlog: i32) -> Answer {
        let s = ep.shared();
        match s.tcp_state() {
            TcpState::Listen => {
                if let Err(e) = self.os.listen(fd, backlog) {
                    return Answer::Error(e);
                }
                ep.att.locked(|l| l.set_backlog(ep.sock.id, clamp(backlog)));
                Answer::Value(0)
            }
            _ => Answer::Error(Errno::EINVAL),
        }
    }
}

/// `listen(2)` takes the backlog as unsigned and caps it at `net.core.somaxconn`, 4096 by default.
fn clamp(backlog: i32) -> u32 {
    (backlog as u32).clamp(1, 4096)
}
