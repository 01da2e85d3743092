//! `connect(2)`. TCP: the route decides; then the kernel socket is bound (source address, ephemeral port), the flow
//! steered to the stack, and the SYN sent. UDP: the kernel socket is connected as well, so that it keeps reporting
//! errors and filtering what it receives.

use core::sync::atomic::Ordering;

use flyover_core::TcpState;
use flyover_core::ev;
use flyover_core::sock::{Kind as SockKind, flag};
use flyover_wire::Endpoint;

use crate::addr::Addr;
use crate::attach::Attachment;
use crate::entry::{Entry, Fresh};
use crate::errno::Errno;
use crate::io::options::WITHDRAWN;
use crate::life::way;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;

/// Ephemeral ports that are tried before the connection is left to the kernel.
pub(super) const PORTS: u32 = 16;

impl Sockets {
    /// `connect(2)`.
    pub fn connect(&self, fd: i32, addr: &Addr) -> Answer {
        self.ripen(fd);
        let (looked, mark) = self.look_and_mark(fd);
        if let Some(ep) = mark {
            return self.connect_away(fd, &ep, addr);
        }
        match looked {
            Fd::Kernel | Fd::Epoll(_) => Answer::Kernel,
            Fd::Fresh(f) => self.connect_fresh(fd, f, addr),
            Fd::Tcp(ep) => self.connect_again(fd, &ep, addr),
            Fd::Udp(ep) => self.udp_reconnect(fd, &ep, addr),
        }
    }

    /// The kernel has the connection for the time being. Under the lock, so that it is not dissolved at that moment and
    /// connected anew. One that is connected answers at once; what is not is never taken over.
    fn connect_away(&self, fd: i32, ep: &Ep, addr: &Addr) -> Answer {
        let done = ep.att.locked(|_| {
            let away = crate::life::takeover::is_away(ep.shared());
            (away && self.os.getpeername(fd).is_ok()).then(|| self.os.connect(fd, addr))
        });
        match done {
            Some(r) => {
                note_seen(ep, &r);
                Answer::from(r)
            }
            None if self.is_back(fd) => self.connect(fd, addr),
            None => Answer::Kernel,
        }
    }

    fn connect_fresh(&self, fd: i32, fresh: Fresh, addr: &Addr) -> Answer {
        if addr.family() == libc::AF_UNSPEC && !fresh.dgram {
            // As `tcp_disconnect`: what was shut down is open again.
            let open = Fresh { shut: 0, ..fresh };
            let _: bool = self
                .table
                .replace(fd, Entry::Fresh(fresh), Entry::Fresh(open));
            return Answer::Kernel;
        }
        let Some(remote) = destination(addr, fresh.v6) else {
            return Answer::Kernel;
        };
        if fresh.dgram {
            return self.udp_connect_fresh(fd, fresh, addr, remote);
        }
        match self.start_tcp(fd, fresh, addr, remote) {
            Ok(ep) => self.await_established(fd, &ep),
            Err(Reason::Ordered) => {
                self.connects_in_kernel(fd, fresh, remote);
                Answer::Kernel
            }
            // Somebody's connection has these addresses, in TIME_WAIT perhaps. The kernel does not know of it, and what came for
            // a connection of its own would not reach it.
            Err(Reason::AddressShared) => Answer::Error(Errno::EADDRNOTAVAIL),
            // What became of it, `connected_by_kernel` is told.
            Err(Reason::Loopback | Reason::Local | Reason::NoVnic | Reason::NoRoute)
                if self.settings.local =>
            {
                Answer::Kernel
            }
            Err(reason) => {
                self.leave_to_kernel(fd, reason);
                Answer::Kernel
            }
        }
    }

    /// Everything up to the SYN. On an error the kernel socket is as good as before.
    fn start_tcp(
        &self,
        fd: i32,
        fresh: Fresh,
        addr: &Addr,
        remote: Endpoint,
    ) -> Result<Ep, Reason> {
        if remote.ip.is_loopback() || remote.ip.is_unspecified() {
            return Err(Reason::Loopback);
        }
        let att = self.attach_for_new()?;
        if self.is_device_bound(fd, fresh) {
            return Err(Reason::Option);
        }
        let bound = match self.kernel_local(fd) {
            Ok(b) if fresh.unbound => Endpoint {
                ip: b.ip.unspecified_same_family(),
                port: 0,
            },
            b => b.map_err(|_| Reason::Option)?,
        };
        let src = (!bound.ip.is_unspecified()).then_some(bound.ip);
        let src = way(att, remote.ip, src, addr.scope())?.src;
        // A port that the kernel chose for an earlier attempt is still shown, but it is not held any more: then the
        // socket can be bound again.
        let again = Addr::inet_scoped(
            Endpoint {
                ip: bound.ip,
                port: 0,
            },
            fresh.v6,
            addr.scope(),
        );
        if bound.port != 0 && self.os.bind(fd, &again).is_err() {
            return self.start_from(
                att,
                fd,
                fresh,
                Endpoint {
                    ip: src,
                    port: bound.port,
                },
                remote,
            );
        }
        if bound.port != 0 {
            // Bound anew just now.
            let _: bool = self.give_port_back(fd);
        }
        if fresh.opts {
            self.bind_takes_a_port(fd);
        }
        // Bound to one address, the kernel socket will say "IPv6 only"; the program did not ask for that.
        let only = fresh.v6
            && fresh.opts
            && self.int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Ok(1);
        if bound.port == 0
            && let Some(ep) = self.start_leased(att, fd, fresh, src, remote)?
        {
            return Ok(ep);
        }
        let any_port = Addr::inet_scoped(Endpoint { ip: src, port: 0 }, fresh.v6, addr.scope());
        for _ in 0..PORTS {
            self.os.bind(fd, &any_port).map_err(|_| Reason::Option)?;
            let port = self.kernel_local(fd).map_err(|_| Reason::Option)?.port;
            match self.start_from(att, fd, fresh, Endpoint { ip: src, port }, remote) {
                Err(Reason::AddressShared) if self.give_port_back(fd) => {}
                Ok(ep) => {
                    ep.shared().set_flag(flag::AUTO_PORT);
                    ep.shared().put_flag(flag::V6ONLY, only);
                    return Ok(ep);
                }
                failed => return failed,
            }
        }
        Err(Reason::AddressShared)
    }

    /// `IP_BIND_ADDRESS_NO_PORT` puts the choice of the port off to the kernel's `connect`, which never comes.
    fn bind_takes_a_port(&self, fd: i32) {
        if self.int_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) == Ok(1) {
            let off = 0i32.to_ne_bytes();
            let name = libc::IP_BIND_ADDRESS_NO_PORT;
            let _: Result<(), Errno> = self.os.setsockopt(fd, libc::IPPROTO_IP, name, &off);
        }
    }

    /// The kernel's ephemeral port is free in the kernel, but a connection that ends in the stack still holds it towards
    /// this peer. `listen` and `shutdown` make Linux drop a port that it chose itself (`tcp_set_state`: a port without
    /// `SOCK_BINDPORT_LOCK` goes when the state becomes CLOSE), so that the socket can be bound again. True when it is
    /// unbound, as its local address shows on the next `bind`.
    pub(crate) fn give_port_back(&self, fd: i32) -> bool {
        self.os.listen(fd, 0).is_ok() && self.os.shutdown(fd, libc::SHUT_RD).is_ok()
    }

    /// From a known local address to the SYN.
    fn start_from(
        &self,
        att: &'static Attachment,
        fd: i32,
        fresh: Fresh,
        local: Endpoint,
        remote: Endpoint,
    ) -> Result<Ep, Reason> {
        let ep = self.make_endpoint(att, fd, fresh, SockKind::Tcp)?;
        // Looked at first, because what has been committed cannot be tried again with another port.
        if att.locked(|l| l.is_taken(local, remote)) {
            self.discard(&ep);
            return Err(Reason::AddressShared);
        }
        let started = self
            .add_filter(&ep, fd, local, Some(remote), false)
            .and_then(|()| {
                self.commit(fd, &ep)?;
                att.locked(|l| {
                    l.tcp_connect(ep.sock.id, local, remote)?;
                    l.keep_shut(ep.sock.id, fresh.shut.into());
                    Ok::<(), flyover_core::Error>(())
                })
                .map_err(not_begun)
            });
        if let Err(reason) = started {
            let _: bool = self.table.store(fd, Entry::Fresh(fresh));
            self.discard(&ep);
            return Err(reason);
        }
        Ok(ep)
    }

    /// Waits for the handshake, or answers `EINPROGRESS`.
    fn await_established(&self, fd: i32, ep: &Ep) -> Answer {
        let s = ep.shared();
        let _call = ep.att.call();
        if ep.nonblocking() {
            // However fast the answer came: Linux sees it after the call.
            return Answer::Error(Errno::EINPROGRESS);
        }
        let span = s.sndtimeo.load(Ordering::Relaxed);
        let deadline = Deadline::after_or_never(self.os.now(), span);
        while ep.att.stack.get(ep.sock).is_some() && is_opening(s.tcp_state()) {
            match ep
                .att
                .block_on(ep.sock, ev::OUT, -1, deadline, self.settings.spin)
            {
                Ok(()) => {}
                Err(Errno::EAGAIN) => return Answer::Error(Errno::EINPROGRESS),
                Err(e) => return Answer::Error(e),
            }
        }
        self.connect_outcome(fd, ep)
    }

    /// What `connect` returns when the attempt is over. A failed one leaves the socket as if it had never been made.
    fn connect_outcome(&self, fd: i32, ep: &Ep) -> Answer {
        let s = ep.shared();
        let state = s.tcp_state();
        if is_opening(state) {
            return Answer::Error(Errno::EINPROGRESS);
        }
        let error = match ep.att.stack.take_error(ep.sock.id) {
            0 if state != TcpState::Closed => {
                s.set_flag(flag::CONNECTED_SEEN);
                return Answer::Value(0);
            }
            0 => Errno::ECONNABORTED,
            e => Errno(e),
        };
        let _: Fresh = self.back_to_fresh(fd, ep, 0);
        Answer::Error(error)
    }

    /// `connect` on a socket that has an endpoint already.
    fn connect_again(&self, fd: i32, ep: &Ep, addr: &Addr) -> Answer {
        let s = ep.shared();
        let state = s.tcp_state();
        if addr.family() == libc::AF_UNSPEC {
            let live = !matches!(
                state,
                TcpState::Closed | TcpState::Listen | TcpState::TimeWait
            );
            let left = match ep.att.stack.take_error(ep.sock.id) {
                0 if live => Errno::ECONNRESET.0,
                e => e,
            };
            let _: Fresh = self.back_to_fresh(fd, ep, left);
            return Answer::Kernel;
        }
        if state == TcpState::Listen || s.has(flag::CONNECTED_SEEN) {
            return Answer::Error(Errno::EISCONN);
        }
        if s.has(flag::PAIRED) && state != TcpState::Closed {
            // The kernel's connection beside it knows whether the program has seen the end of the attempt.
            let r = self.os.connect(fd, addr);
            note_seen(ep, &r);
            return Answer::from(r);
        }
        if s.has(flag::DISCONNECTING) {
            return Answer::Error(Errno::EINVAL);
        }
        if is_opening(state) {
            if ep.nonblocking() {
                let _: bool = ep.att.poll(64);
                let state = s.tcp_state();
                return if is_opening(state) {
                    Answer::Error(Errno::EALREADY)
                } else {
                    self.connect_outcome(fd, ep)
                };
            }
            return match self.await_established(fd, ep) {
                // The time limit came first, as at the first call.
                Answer::Error(Errno::EINPROGRESS) => Answer::Error(Errno::EALREADY),
                done => done,
            };
        }
        self.connect_outcome(fd, ep)
    }

    /// `connect` with an address that is none: what a connected socket says before it looks at it.
    pub fn connect_nowhere(&self, fd: i32) -> Answer {
        match self.look(fd) {
            Fd::Tcp(ep) if ep.shared().tcp_state() == TcpState::Listen => {
                Answer::Error(Errno::EISCONN)
            }
            Fd::Tcp(ep) if ep.shared().has(flag::CONNECTED_SEEN) => Answer::Error(Errno::EISCONN),
            Fd::Tcp(ep) if is_opening(ep.shared().tcp_state()) => Answer::Error(Errno::EALREADY),
            _ => Answer::Kernel,
        }
    }

    /// The socket loses its endpoint and is what it was before `connect` or `listen`. A port that the kernel chose is
    /// given back, as `tcp_set_state` does. `error` is left for the next call.
    pub(crate) fn back_to_fresh(&self, fd: i32, ep: &Ep, error: i32) -> Fresh {
        let in_epoll = self.epolls.endpoint_is_leaving(self, fd, ep);
        let auto = ep.shared().has(flag::AUTO_PORT);
        // What `bind` gave it after the end of the connection is the program's.
        let rebound = ep.shared().has(flag::REBOUND);
        let paired = ep.shared().has(flag::PAIRED);
        if paired {
            self.dissolve_beside(fd);
        }
        if ep.shared().is_leased() {
            // As after the kernel's own attempt, a port is shown that is nobody's.
            let any = Endpoint {
                port: 0,
                ..ep.shared().local()
            };
            let _: Result<(), Errno> = self.os.bind(fd, &Addr::inet(any, ep.v6));
        }
        let fresh = Fresh {
            in_epoll,
            // Also a port that `bind` left to the kernel; one that the program named stays, the kernel knows.
            unbound: !paired && !rebound && self.give_port_back(fd) && auto,
            error: u8::try_from(error).unwrap_or(0),
            shut: 0,
            ..fresh_of(ep)
        };
        let _: bool = self.table.store(fd, Entry::Fresh(fresh));
        ep.att.locked(|l| l.abort(ep.sock.id));
        fresh
    }

    /// The kernel's connection beside a pair ends with it; what the kernel notes of that is not the program's business.
    pub(crate) fn dissolve_beside(&self, fd: i32) {
        let _: Result<(), Errno> = self.os.connect(fd, &Addr::nowhere());
        let _: Result<i32, Errno> = self.int_option(fd, libc::SOL_SOCKET, libc::SO_ERROR);
    }

    /// Hands out the error that a connection left.
    pub(crate) fn fetch_error(&self, fd: i32, f: Fresh) -> Errno {
        let seen = Fresh { error: 0, ..f };
        let _: bool = self.table.replace(fd, Entry::Fresh(f), Entry::Fresh(seen));
        Errno(i32::from(f.error))
    }

    fn udp_connect_fresh(&self, fd: i32, fresh: Fresh, addr: &Addr, remote: Endpoint) -> Answer {
        if let Err(e) = self.os.connect(fd, addr) {
            return Answer::Error(e);
        }
        let done = self.attach().and_then(|att| {
            let _ = way(att, remote.ip, None, addr.scope())?;
            if self.is_device_bound(fd, fresh) {
                return Err(Reason::Option);
            }
            let local = self.kernel_local(fd).map_err(|_| Reason::Option)?;
            let ep = self.make_endpoint(att, fd, fresh, SockKind::Udp)?;
            let done = att
                .locked(|l| {
                    l.udp_bind(ep.sock.id, local, false)?;
                    l.udp_connect(ep.sock.id, local, Some(remote))
                })
                .map_err(|_| Reason::AddressShared)
                .and_then(|()| self.filter_of_new(&ep, fd, local, Some(remote), false))
                .and_then(|()| self.commit(fd, &ep));
            match done {
                Ok(()) => att.keeper.reg_os(ep.sock, false, fd),
                Err(_) => self.discard(&ep),
            }
            done
        });
        if let Err(reason) = done {
            self.leave_to_kernel(fd, reason);
        }
        Answer::Value(0)
    }

    /// A UDP endpoint gets another peer, or none. The kernel socket first: it checks the address and may change the
    /// local one.
    fn udp_reconnect(&self, fd: i32, ep: &Ep, addr: &Addr) -> Answer {
        // What has arrived from the old peer belongs to the program.
        let _: bool = ep.att.poll(256);
        if let Err(e) = self.os.connect(fd, addr) {
            return Answer::Error(e);
        }
        let remote = destination(addr, ep.v6);
        let Ok(local) = self.kernel_local(fd) else {
            return Answer::Value(0);
        };
        if local.port == 0 {
            // Dissolved, and the port was the kernel's choice: the next send gets another one.
            let _: Fresh = self.back_to_fresh(fd, ep, 0);
            return Answer::Value(0);
        }
        let old = ep.shared().filter.get();
        let dual = remote.is_none() && self.is_dual(fd, fresh_of(ep), local.ip);
        let done = ep
            .att
            .locked(|l| l.udp_connect(ep.sock.id, local, remote))
            .map_err(Errno::from);
        ep.shared().put_flag(flag::DUAL, dual);
        // Only what the socket is connected to; from others the kernel refuses it, as it must.
        let withdrawn = ep.shared().sopts.load(Ordering::Relaxed) & WITHDRAWN != 0;
        if !withdrawn && self.add_filter(ep, fd, local, remote, dual).is_ok() && old != 0 {
            ep.att.daemon(|d| d.del_filter(old));
        }
        Answer::from(done)
    }
}

/// What the descriptor of an endpoint is without it.
fn fresh_of(ep: &Ep) -> Fresh {
    Fresh {
        v6: ep.v6,
        dgram: ep.shared().kind() == SockKind::Udp,
        opts: true,
        in_epoll: false,
        unbound: false,
        error: 0,
        shut: 0,
    }
}

/// The endpoint in `addr`, if the address fits a socket of the family; what does not fit is the kernel's to refuse.
fn destination(addr: &Addr, v6: bool) -> Option<Endpoint> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let remote = addr.endpoint().filter(|_| addr.family() == family)?;
    (remote.port != 0).then_some(remote)
}

/// The kernel has said to the program what became of its attempt: `connect` tells that once.
fn note_seen(ep: &Ep, said: &Result<(), Errno>) {
    if matches!(said, Ok(()) | Err(Errno::EISCONN)) {
        ep.shared().set_flag(flag::CONNECTED_SEEN);
    }
}

/// Why an attempt did not begin.
pub(super) fn not_begun(e: flyover_core::Error) -> Reason {
    match e {
        flyover_core::Error::AddressInUse => Reason::AddressShared,
        _ => Reason::NoRoute,
    }
}

fn is_opening(state: TcpState) -> bool {
    matches!(state, TcpState::SynSent | TcpState::SynRcvd)
}
