//! `bind(2)`: always the kernel's decision. A bound UDP socket gets its endpoint here; TCP waits for `connect` or
//! `listen`.

use flyover_core::TcpState;
use flyover_core::sock::{Kind as SockKind, flag};

use crate::addr::Addr;
use crate::entry::{Entry, Fresh};
use crate::errno::Errno;
use crate::life::connect::PORTS;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};

impl Sockets {
    /// `bind(2)`.
    pub fn bind(&self, fd: i32, addr: &Addr) -> Answer {
        let fresh = match self.look(fd) {
            Fd::Fresh(f) if f.dgram => f,
            Fd::Fresh(f) if f.unbound => {
                let bound = self.os.bind(fd, addr);
                if bound.is_ok() {
                    let now = Fresh {
                        unbound: false,
                        ..f
                    };
                    let _: bool = self.table.replace(fd, Entry::Fresh(f), Entry::Fresh(now));
                }
                return bound.into();
            }
            Fd::Fresh(_) if addr.endpoint().is_some_and(|e| e.port == 0) => {
                return self.bind_to_some_port(fd, addr);
            }
            Fd::Tcp(ep) if ep.shared().tcp_state() != TcpState::Listen => {
                return self.bind_connected(fd, &ep, addr);
            }
            Fd::Fresh(_) | Fd::Kernel | Fd::Epoll(_) | Fd::Tcp(_) | Fd::Udp(_) => {
                return Answer::Kernel;
            }
        };
        if let Err(e) = self.os.bind(fd, addr) {
            return Answer::Error(e);
        }
        if let Err(reason) = self.udp_bound(fd, fresh) {
            self.leave_to_kernel(fd, reason);
        }
        Answer::Value(0)
    }

    /// The kernel chooses the port. One whose connection still ends in the stack it takes for free, because its socket is gone;
    /// Linux would not choose it.
    fn bind_to_some_port(&self, fd: i32, addr: &Addr) -> Answer {
        for left in (0..PORTS).rev() {
            if let Err(e) = self.os.bind(fd, addr) {
                return Answer::Error(e);
            }
            let used = self.attached().zip(self.kernel_local(fd).ok());
            let used = used.is_some_and(|(att, at)| at.port != 0 && att.stack.lingers_at(at));
            if !used || left == 0 || !self.give_port_back(fd) {
                break;
            }
        }
        Answer::Value(0)
    }

    /// `bind` on a connection: the address is judged first, then it is `EINVAL`, unless the connection is over and the
    /// kernel had chosen its port.
    fn bind_connected(&self, fd: i32, ep: &Ep, addr: &Addr) -> Answer {
        let s = ep.shared();
        let over = matches!(s.tcp_state(), TcpState::Closed | TcpState::TimeWait);
        if over {
            if s.has(flag::PAIRED) && !s.has(flag::PORT_GIVEN) {
                s.set_flag(flag::PORT_GIVEN);
                self.dissolve_beside(fd);
            } else if !s.has(flag::CHILD) && !s.has(flag::PORT_GIVEN) {
                // Once. A port that the program named stays; the kernel knows.
                s.set_flag(flag::PORT_GIVEN);
                let _: bool = self.give_port_back(fd);
            }
            let said = self.os.bind(fd, addr);
            if said.is_ok() {
                s.set_flag(flag::REBOUND);
            }
            return said.into();
        }
        if !s.has(flag::CHILD) && !s.is_leased() {
            return Answer::Kernel;
        }
        // The kernel socket behind such a connection is not bound: another one shows what Linux thinks of the
        // address.
        let domain = if ep.v6 { libc::AF_INET6 } else { libc::AF_INET };
        let judge = match self
            .os
            .socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
        {
            Ok(fd) => fd,
            Err(_) => return Answer::Error(Errno::EINVAL),
        };
        let said = self.os.bind(judge, addr);
        let _: Result<(), Errno> = self.os.close(judge);
        match said {
            Err(e) if e != Errno(libc::EADDRINUSE) => Answer::Error(e),
            _ => Answer::Error(Errno::EINVAL),
        }
    }

    /// The kernel socket of a UDP descriptor is bound: attach an endpoint.
    pub(crate) fn udp_bound(&self, fd: i32, fresh: Fresh) -> Result<(), Reason> {
        let local = self.kernel_local(fd).map_err(|_| Reason::Option)?;
        if local.ip.is_loopback() {
            return Err(Reason::Loopback);
        }
        if local.ip.is_multicast() || local.ip.is_broadcast() {
            return Err(Reason::Multicast);
        }
        if self.is_device_bound(fd, fresh) {
            return Err(Reason::Option);
        }
        if fresh.opts && self.int_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT) == Ok(1) {
            return Err(Reason::AddressShared);
        }
        let att = self.attach()?;
        if att.nic_ifindex.is_empty() {
            return Err(Reason::NoVnic);
        }
        let dual = self.is_dual(fd, fresh, local.ip);
        let ep = self.make_endpoint(att, fd, fresh, SockKind::Udp)?;
        let bound = att
            .locked(|l| l.udp_bind(ep.sock.id, local, dual))
            .map_err(|_| Reason::AddressShared);
        let done = bound
            .and_then(|()| self.filter_of_new(&ep, fd, local, None, dual))
            .and_then(|()| self.commit(fd, &ep));
        if done.is_err() {
            self.discard(&ep);
            return done;
        }
        att.keeper.reg_os(ep.sock, false, fd);
        Ok(())
    }

    /// Binds the kernel socket to any port of any address, as the kernel does on the first `sendto`.
    pub(crate) fn bind_any(&self, fd: i32, v6: bool) -> Result<(), Errno> {
        let any = flyover_wire::Endpoint {
            ip: if v6 {
                flyover_wire::Ip::UNSPECIFIED_V6
            } else {
                flyover_wire::Ip::UNSPECIFIED_V4
            },
            port: 0,
        };
        self.os.bind(fd, &Addr::inet(any, v6))
    }
}
