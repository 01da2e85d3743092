//! `recvmmsg(2)` and `sendmmsg(2)`: the singular call repeated, with the plural's own rules about errors and time.

use crate::errno::Errno;
use crate::process::{Answer, Fd, Sockets};
use crate::wait::Deadline;

impl Sockets {
    /// `recvmmsg(2)`: `one` receives message `i` with the flags given. `None`: the kernel's business. The time limit is
    /// looked at after each message, as Linux does, and what is left of it is left in `limit`, ns.
    pub fn recv_many(
        &self,
        fd: i32,
        count: u32,
        flags: i32,
        limit: &mut Option<u64>,
        mut one: impl FnMut(usize, i32) -> Option<Result<(), Errno>>,
    ) -> Option<Result<usize, Errno>> {
        if self.is_plain(fd) {
            return None;
        }
        // A pending error comes before any message, and one that comes after some is kept for the next call.
        if let Fd::Tcp(ep) | Fd::Udp(ep) = self.look(fd)
            && flags & libc::MSG_ERRQUEUE == 0
        {
            match ep.att.stack.take_error(ep.sock.id) {
                0 => {}
                e => return Some(Err(Errno(e))),
            }
        }
        let deadline = Deadline(limit.map(|l| self.os.now().saturating_add(l)));
        let mut single = flags & !libc::MSG_WAITFORONE;
        let mut got = 0;
        while got < count as usize {
            match one(got, single) {
                // It went to the kernel: what came before is the program's.
                None if got > 0 => break,
                None => return None,
                Some(Ok(())) => got += 1,
                Some(Err(e)) if got > 0 => {
                    let known = e != Errno::EAGAIN && e != Errno::MOVED;
                    if let (Fd::Tcp(ep) | Fd::Udp(ep), true) = (self.look(fd), known) {
                        ep.shared().put_error_back(e.0);
                    }
                    break;
                }
                Some(Err(e)) => return Some(Err(e)),
            }
            if flags & libc::MSG_WAITFORONE != 0 {
                single |= libc::MSG_DONTWAIT;
            }
            let now = self.os.now();
            *limit = deadline.0.map(|d| d.saturating_sub(now));
            if deadline.is_past(now) {
                break;
            }
        }
        Some(Ok(got))
    }

    /// The kernel's alone. A connection that it has for the time being is none such: a call that blocks is not to sleep in
    /// its socket.
    fn is_plain(&self, fd: i32) -> bool {
        self.ripen(fd);
        match self.look(fd) {
            Fd::Kernel => !self.may_come_back(fd),
            Fd::Fresh(_) | Fd::Epoll(_) => true,
            Fd::Tcp(_) | Fd::Udp(_) => false,
        }
    }

    /// `sendmmsg(2)`: `one` sends message `i`.
    pub fn send_many(&self, fd: i32, count: u32, mut one: impl FnMut(usize) -> Answer) -> Answer {
        if self.is_plain(fd) {
            return Answer::Kernel;
        }
        let mut sent = 0;
        while sent < count as usize {
            match one(sent) {
                Answer::Value(_) => sent += 1,
                _ if sent > 0 => break,
                a => return a,
            }
        }
        Answer::Value(sent)
    }
}
