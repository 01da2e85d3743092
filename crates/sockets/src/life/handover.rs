//! The universal way out: what only the kernel can do with a socket, the kernel does, on the same descriptor and with
//! the connection as it stands. The endpoint is frozen, the daemon builds the connection in the kernel socket
//! (`TCP_REPAIR` needs its privilege), and the endpoint stays behind as a mark: every holder of the socket, in any
//! process, finds it at the next call and goes on in the kernel, and whoever sleeps on it is woken.

use flyover_core::sock::{Kind as SockKind, flag};
use flyover_core::{Error, Handover, TcpState};

use crate::attach::DaemonError;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};

/// Bytes copied out at a time.
const PIECE: usize = 64 << 10;
/// Numbers that are looked at before an exec although this program never used them.
const FEW: i32 = 64;
/// How often another process's handover of the same connection is waited for, 100 us each.
pub(crate) const WAITS: u32 = 30_000;
pub(crate) const WAIT_NS: u64 = 100_000;

impl Sockets {
    /// True when `fd` has an endpoint.
    pub fn is_accelerated(&self, fd: i32) -> bool {
        matches!(self.look(fd), Fd::Tcp(_) | Fd::Udp(_))
    }

    /// A program that we shall not be in inherits what is not close-on-exec.
    pub fn hand_over_inherited(&self) {
        let mut fds = Vec::new();
        self.table.for_each(self.table.len(), |fd, e| match e {
            Entry::Tcp(_) | Entry::Udp(_) => fds.push(fd),
            _ => {}
        });
        // What this program inherited itself and never looked at.
        fds.extend((0..FEW).filter(|fd| self.table.load(*fd) == Entry::Unknown));
        for fd in fds {
            if self.os.fcntl(fd, libc::F_GETFD, 0) == Ok(0) {
                let _: bool = self.let_go(fd);
            }
        }
    }

    /// Hands `fd` over to a program that will not ask the stack. Datagrams that wait to be read cannot move and are
    /// dropped, counted, so that those that come later are heard of.
    pub fn let_go(&self, fd: i32) -> bool {
        self.let_go_for(fd, Reason::HandedOver)
    }

    /// The same for that reason.
    pub(super) fn let_go_for(&self, fd: i32, reason: Reason) -> bool {
        if self.hand_over(fd, reason) {
            return true;
        }
        let Some(ep) = self
            .endpoint_of(fd)
            .filter(|ep| ep.shared().kind() == SockKind::Udp)
        else {
            return false;
        };
        ep.att.locked(|l| l.udp_drop_unread(ep.sock.id));
        self.hand_over(fd, reason)
    }

    /// The endpoint of `fd`. In a child that shares our memory the table may say something else of a number than the
    /// child's own descriptors do: only the kernel socket counts.
    fn endpoint_of(&self, fd: i32) -> Option<Ep> {
        if self.is_foreign_child() {
            let (att, cookie) = self.attached().zip(self.cookie(fd).ok())?;
            let sock = att.find_cookie(cookie)?;
            let v6 = att.stack.sock(sock.id).has(flyover_core::sock::flag::V6);
            return Some(Ep { att, sock, v6 });
        }
        match self.look(fd) {
            Fd::Tcp(ep) | Fd::Udp(ep) => Some(ep),
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => None,
        }
    }

    /// Hands `fd` over if it is accelerated. True: it is the kernel's now, or was before.
    pub fn hand_over(&self, fd: i32, reason: Reason) -> bool {
        match self.endpoint_of(fd) {
            Some(ep) => self.needs_kernel(fd, &ep, reason).is_ok(),
            None => {
                self.keep_there(fd, reason);
                true
            }
        }
    }

    /// As [`Sockets::hand_over`], with an endpoint that was never used: a fresh socket stays with the kernel.
    pub fn give_to_kernel(&self, fd: i32, reason: Reason) -> bool {
        if !self.is_foreign_child()
            && let Fd::Fresh(_) = self.look(fd)
        {
            self.leave_to_kernel(fd, reason);
            return true;
        }
        self.hand_over(fd, reason)
    }

    /// The program wants of `fd` what only the kernel can do. After success the kernel has the socket: a connection as
    /// it stands; a UDP socket; of a listener, the connections that begin from now on (those that the stack has are
    /// accepted from it as before).
    ///
    /// # Errors
    /// `EINVAL` in a state that cannot move (connecting, TIME_WAIT); `EOPNOTSUPP` when urgent data or queued datagrams
    /// are in the way; `EPERM` when the daemon or the kernel refuses. The socket then goes on as it was.
    pub fn needs_kernel(&self, fd: i32, ep: &Ep, reason: Reason) -> Result<(), Errno> {
        let s = ep.shared();
        match s.kind() {
            SockKind::Udp if !reason.may_return() => self.udp_leaves(fd, ep, reason),
            // The kernel receives and sends, and the endpoint keeps its place.
            SockKind::Udp => {
                self.count_kernel_path(reason);
                s.reason.set(u32::from(reason.code()));
                self.withdraw(ep);
                Ok(())
            }
            SockKind::Tcp if s.tcp_state() == TcpState::Listen => {
                self.count_kernel_path(reason);
                s.reason.set(u32::from(reason.code()));
                self.withdraw(ep);
                Ok(())
            }
            SockKind::Tcp => self.connection_leaves(fd, ep, reason),
            SockKind::Free | SockKind::Kernel => Err(Errno::EINVAL),
        }
    }

    fn udp_leaves(&self, fd: i32, ep: &Ep, reason: Reason) -> Result<(), Errno> {
        let filter = ep.shared().filter.get();
        if filter != 0 {
            ep.att.daemon(|d| {
                d.del_filter(filter);
                // What comes from now on is the kernel's; without this the next datagram may still be the stack's.
                d.settle();
            });
        }
        ep.att.locked(|l| {
            l.set_filter(ep.sock.id, 0);
            // Whatever came before the filter went is still the program's.
            let _: u32 = l.poll(64);
            l.udp_leave(ep.sock.id)
        })?;
        self.became_kernel(fd, ep, reason);
        Ok(())
    }

    fn connection_leaves(&self, fd: i32, ep: &Ep, reason: Reason) -> Result<(), Errno> {
        if ep.shared().has(flag::PAIRED) {
            return self.pair_leaves(fd, ep, reason);
        }
        let id = ep.sock.id;
        let image = match self.freeze(ep) {
            Ok(image) => image,
            Err(Error::Moved) => {
                self.keep_there(fd, reason);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        let given = match self.give(fd, ep, &image) {
            Err(DaemonError::Absent) => self.give_again(fd, ep, &image),
            given => given,
        };
        let Ok(filter) = given else {
            ep.att.locked(|l| l.handover_cancel(id));
            return Err(Errno::EPERM);
        };
        // The kernel socket has every option of the connection already: it takes them first, and inherits them.
        let old = ep
            .att
            .locked(|l| l.handover_done(id, filter, u32::from(reason.code())));
        if old != 0 {
            ep.att.daemon(|d| d.del_filter(old));
        }
        self.became_kernel(fd, ep, reason);
        Ok(())
    }

    /// Freezes the connection; waits while somebody else hands it over.
    fn freeze(&self, ep: &Ep) -> Result<Handover, Error> {
        let mut waits = 0;
        loop {
            let r = ep.att.locked(|l| {
                // What the V-NICs hold is still taken; what comes later the peer repeats.
                let _: u32 = l.poll(64);
                l.handover_begin(ep.sock.id)
            });
            match r {
                Err(Error::Already | Error::WouldBlock) if waits < WAITS => {
                    waits += 1;
                    let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(WAIT_NS));
                }
                r => return r,
            }
        }
    }

    /// Lets the daemon build the connection in the kernel; the number of the flow's exception.
    pub(super) fn give(&self, fd: i32, ep: &Ep, image: &Handover) -> Result<u32, DaemonError> {
        let bytes = image.unread as usize + image.queued as usize;
        if bytes == 0 {
            return ep.att.daemon(|d| d.handover(image, fd, None));
        }
        let file = self.os.memfd().map_err(|_| DaemonError::Absent)?;
        let done = self
            .write_data(file, ep, image)
            .map_err(|_| DaemonError::Absent)
            .and_then(|()| ep.att.daemon(|d| d.handover(image, fd, Some(file))));
        let _: Result<(), Errno> = self.os.close(file);
        done
    }

    fn write_data(&self, file: i32, ep: &Ep, image: &Handover) -> Result<(), Errno> {
        let mut buf = vec![0u8; PIECE];
        let mut have = 0;
        let mut failed = None;
        let whole = ep.att.stack.handover_data(ep.sock.id, image, |piece| {
            if have + piece.len() > buf.len() {
                failed = failed.or(self.write_whole(file, &buf[..have]).err());
                have = 0;
            }
            if let Some(room) = buf.get_mut(have..have + piece.len()) {
                have += piece.copy_out(room);
            }
        });
        failed = failed.or(self.write_whole(file, &buf[..have]).err());
        match failed {
            Some(e) => Err(e),
            None if whole => Ok(()),
            None => Err(Errno::EIO),
        }
    }

    fn write_whole(&self, file: i32, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match self.os.write(file, bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(crate) fn became_kernel(&self, fd: i32, ep: &Ep, reason: Reason) {
        self.count_kernel_path(reason);
        let old = self.table.load(fd);
        // What may come back keeps its place.
        if crate::life::takeover::is_away(ep.shared()) {
            self.epolls.socket_became_kernels(self, ep);
            return;
        }
        if matches!(old, Entry::Tcp(h) | Entry::Udp(h) if h.id == ep.sock.id) {
            let _: bool = self.table.replace(fd, old, Entry::Kernel(reason.code()));
        }
        self.epolls.socket_became_kernels(self, ep);
    }

    /// A blocking send that a handover interrupted: the rest goes out through the kernel, in the same call.
    pub(crate) fn send_rest(&self, fd: i32, from: &[&[u8]], done: usize, flags: i32) -> Answer {
        let want: usize = from.iter().map(|b| b.len()).sum();
        let mut done = done;
        while done < want {
            let sent = crate::io::send::with_rest(from, done, |rest| {
                let first = rest.iter().find(|b| !b.is_empty()).copied();
                let piece = [std::io::IoSlice::new(first.unwrap_or_default())];
                let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                self.os.sendmsg(fd, &piece, None, &[], flags)
            });
            match sent {
                Ok(n) => done += n,
                Err(Errno::EAGAIN) => {
                    let mut p = [crate::os::PollFd {
                        fd,
                        events: libc::POLLOUT,
                        revents: 0,
                    }];
                    if self.os.ppoll(&mut p, None).is_err() || crate::enter::has_signal() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        Answer::Value(done)
    }
}
