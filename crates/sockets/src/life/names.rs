//! `getsockname(2)`, `getpeername(2)`, `shutdown(2)`.

use flyover_core::Error;
use flyover_core::sock::{Kind as SockKind, flag};
use flyover_core::{SHUT_RD, SHUT_WR, TcpState};

use crate::addr::Addr;
use crate::entry::{Entry, Fresh};
use crate::errno::Errno;
use crate::process::{Answer, Ep, Fd, Sockets};

impl Sockets {
    /// `getsockname(2)`; `None`: ask the kernel. A UDP endpoint has its kernel socket's name.
    pub fn getsockname(&self, fd: i32) -> Option<Addr> {
        let ep = match self.look(fd) {
            Fd::Tcp(ep) => ep,
            // As Linux: the port is still shown, the address is not.
            Fd::Fresh(f) if f.unbound => {
                let mut local = self.kernel_local(fd).ok()?;
                local.ip = local.ip.unspecified_same_family();
                return Some(Addr::inet(local, f.v6));
            }
            Fd::Fresh(_) | Fd::Kernel | Fd::Udp(_) | Fd::Epoll(_) => return None,
        };
        let s = ep.shared();
        if s.tcp_state() == TcpState::Listen || s.local().port == 0 || s.has(flag::REBOUND) {
            return None;
        }
        Some(self.shown(&ep, ep.shared().local()))
    }

    /// `getpeername(2)`; `None`: ask the kernel.
    pub fn getpeername(&self, fd: i32) -> Option<Result<Addr, Errno>> {
        let Fd::Tcp(ep) = self.look(fd) else {
            return None;
        };
        let state = ep.shared().tcp_state();
        Some(match state {
            TcpState::Closed | TcpState::Listen | TcpState::SynSent | TcpState::TimeWait => {
                Err(Errno::ENOTCONN)
            }
            _ => Ok(self.shown(&ep, ep.shared().remote())),
        })
    }

    fn shown(&self, ep: &Ep, e: flyover_wire::Endpoint) -> Addr {
        let scope = if ep.v6 && e.ip.is_v6_link_local() {
            let nic = (ep.shared().nic.get() as usize).wrapping_sub(1);
            ep.att.nic_ifindex.get(nic).copied().unwrap_or(0)
        } else {
            0
        };
        Addr::inet_scoped(e, ep.v6, scope)
    }

    /// The kernel has the connection for the time being. Under the lock, so that it is not taken over at that moment and
    /// the FIN forgotten.
    fn shutdown_away(&self, fd: i32, ep: &Ep, how: i32) -> Answer {
        let done = ep.att.locked(|_| {
            let away = crate::life::takeover::is_away(ep.shared());
            // Half of a connection cannot be paired.
            ep.shared().clear_flag(flag::LOCAL);
            away.then(|| self.os.shutdown(fd, how))
        });
        match done {
            Some(r) => Answer::from(r),
            None => self.shutdown(fd, how),
        }
    }

    /// `shutdown(2)`; `how` is `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
    pub fn shutdown(&self, fd: i32, how: i32) -> Answer {
        // Half of a connection is never paired.
        self.young_stays(fd);
        let (looked, mark) = self.look_and_mark(fd);
        if let Fd::Fresh(f) = looked
            && (libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how)
        {
            let noted = Fresh {
                shut: f.shut | (how + 1) as u8,
                ..f
            };
            let _: bool = self.table.replace(fd, Entry::Fresh(f), Entry::Fresh(noted));
        }
        if let Some(ep) = mark {
            return self.shutdown_away(fd, &ep, how);
        }
        let (Fd::Tcp(ep) | Fd::Udp(ep)) = looked else {
            return Answer::Kernel;
        };
        let bits = match how {
            libc::SHUT_RD => SHUT_RD,
            libc::SHUT_WR => SHUT_WR,
            libc::SHUT_RDWR => SHUT_RD | SHUT_WR,
            _ => return Answer::Error(Errno::EINVAL),
        };
        let state = ep.shared().tcp_state();
        let listening = state == TcpState::Listen;
        // What `connect` has not told yet it will not tell after this.
        match state {
            _ if ep.shared().has(flag::CONNECTED_SEEN) => {}
            TcpState::Listen | TcpState::SynSent => {}
            TcpState::Closed => ep.shared().set_flag(flag::DISCONNECTING),
            _ => ep.shared().set_flag(flag::CONNECTED_SEEN),
        }
        // Linux takes both for `connect` to AF_UNSPEC.
        let undone = listening && bits & SHUT_RD != 0 || state == TcpState::SynSent;
        let ours = loop {
            let done = match ep.locked(|l, id| l.shutdown(id, bits)) {
                Ok(done) => done,
                Err(e) => return Answer::Error(e),
            };
            match done {
                // On its way to the kernel: a matter of a millisecond.
                Err(Error::WouldBlock) => {
                    let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(100_000));
                }
                r => break r.map_err(Errno::from),
            }
        };
        if listening || ep.shared().kind() == SockKind::Udp {
            let kernels = self.os.shutdown(fd, how);
            if undone {
                let _: Fresh = self.back_to_fresh(fd, &ep, 0);
            }
            return Answer::from(kernels.or(ours));
        }
        if undone {
            let _: Fresh = self.back_to_fresh(fd, &ep, Errno::ECONNRESET.0);
        }
        Answer::from(ours)
    }
}
