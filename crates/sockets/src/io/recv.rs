//! Receiving. Queued data is copied out without the stack lock and without a system call.

use core::sync::atomic::Ordering;

use flyover_core::Error;
use flyover_core::RecvFlags;
use flyover_core::ev;
use flyover_core::stack::deferred::work;

use crate::errno::Errno;
use crate::os::Received;
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;

impl Sockets {
    /// `read` and `readv`: nothing is asked for, nothing is looked at (Linux's `sock_read_iter`).
    #[inline]
    pub fn read(&self, fd: i32, into: &mut [&mut [u8]]) -> Answer {
        match self.look(fd) {
            Fd::Tcp(_) | Fd::Udp(_) if into.iter().all(|b| b.is_empty()) => Answer::Value(0),
            _ => self.recv(fd, into, 0),
        }
    }

    /// `recv`, and `recvfrom` without an address.
    #[inline]
    pub fn recv(&self, fd: i32, into: &mut [&mut [u8]], flags: i32) -> Answer {
        match self.look(fd) {
            Fd::Tcp(ep) if flags & libc::MSG_ERRQUEUE == 0 => {
                self.tcp_recv(&ep, into, flags).into()
            }
            Fd::Fresh(f) if f.error != 0 && !into.is_empty() => {
                Answer::Error(self.fetch_error(fd, f))
            }
            Fd::Udp(ep) => match self.udp_recv(&ep, fd, into, &mut [], flags) {
                Some(r) => r.map(|m| m.n).into(),
                None => Answer::Kernel,
            },
            Fd::Tcp(_) | Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => Answer::Kernel,
        }
    }

    /// `recvfrom` and `recvmsg`; `None`: the kernel's business.
    pub fn recv_msg(
        &self,
        fd: i32,
        into: &mut [&mut [u8]],
        control: &mut [u8],
        flags: i32,
    ) -> Option<Result<Received, Errno>> {
        match self.look(fd) {
            Fd::Tcp(ep) if flags & libc::MSG_ERRQUEUE == 0 => {
                // A stream has no sender address: Linux returns a length of 0.
                let said = if flags & libc::MSG_OOB != 0 {
                    libc::MSG_OOB
                } else {
                    0
                };
                match self.tcp_recv(&ep, into, flags) {
                    Err(Errno::MOVED) => None,
                    r => Some(r.map(|n| Received {
                        n,
                        flags: said,
                        ..Received::default()
                    })),
                }
            }
            Fd::Udp(ep) => self.udp_recv(&ep, fd, into, control, flags),
            Fd::Fresh(f) if f.error != 0 => Some(Err(self.fetch_error(fd, f))),
            Fd::Tcp(_) | Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => None,
        }
    }

    /// Receives from a stream.
    pub(crate) fn tcp_recv(
        &self,
        ep: &Ep,
        into: &mut [&mut [u8]],
        flags: i32,
    ) -> Result<usize, Errno> {
        let want: usize = into.iter().map(|b| b.len()).sum();
        self.tcp_recv_some(ep, into, want, flags)
    }

    /// The same for a call that names a length of its own.
    pub(crate) fn tcp_recv_some(
        &self,
        ep: &Ep,
        into: &mut [&mut [u8]],
        want: usize,
        flags: i32,
    ) -> Result<usize, Errno> {
        if flags & libc::MSG_OOB != 0 {
            return self.tcp_recv_urgent(ep, into, flags);
        }
        let mut how = RecvFlags {
            peek: flags & libc::MSG_PEEK != 0,
            skip: 0,
            discard: 0,
        };
        // On a stream MSG_TRUNC throws the bytes away, `tcp(7)`.
        let discards = flags & libc::MSG_TRUNC != 0 && !how.peek;
        let all = flags & libc::MSG_WAITALL != 0 && !how.peek;
        let id = ep.sock.id;
        let mut done = 0;
        let mut polled = false;
        let mut deadline = None;
        loop {
            if discards {
                how.discard = want - done;
            }
            let got = if done == 0 {
                ep.att.stack.tcp_recv(id, into, how, ep.att.me)
            } else {
                with_rest(into, done, |rest| {
                    ep.att.stack.tcp_recv(id, rest, how, ep.att.me)
                })
            };
            match got {
                Ok(r) => {
                    if r.want_update {
                        ep.att.work(id, work::WINDOW);
                    }
                    done += r.n;
                    if r.n == 0 || done >= want || !all {
                        return Ok(done);
                    }
                }
                Err(Error::WouldBlock) => {
                    if flags & libc::MSG_DONTWAIT != 0 || ep.nonblocking() {
                        if done > 0 {
                            return Ok(done);
                        }
                        if polled || !ep.att.poll(64) {
                            return Err(Errno::EAGAIN);
                        }
                        polled = true;
                        continue;
                    }
                    let span = ep.shared().rcvtimeo.load(Ordering::Relaxed);
                    let until = *deadline
                        .get_or_insert_with(|| Deadline::after_or_never(self.os.now(), span));
                    let (bits, spin) = (ev::IN | ev::RDHUP, self.settings.spin);
                    let waited = match done {
                        0 => ep.att.block_on(id, bits, -1, until, spin),
                        _ => ep.att.block_on_rest(id, bits, until, spin),
                    };
                    if let Err(e) = waited {
                        return if done > 0 { Ok(done) } else { Err(e) };
                    }
                    if ep.att.stack.get(ep.sock).is_none() {
                        return Ok(done);
                    }
                }
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The urgent byte (`MSG_OOB`). Linux never waits for it.
    fn tcp_recv_urgent(&self, ep: &Ep, into: &mut [&mut [u8]], flags: i32) -> Result<usize, Errno> {
        let byte = ep
            .att
            .stack
            .tcp_recv_oob(ep.sock.id, flags & libc::MSG_PEEK != 0, ep.att.me)?;
        match into.iter_mut().find_map(|p| p.first_mut()) {
            Some(to) => {
                *to = byte;
                Ok(1)
            }
            None => Ok(0),
        }
    }
}

/// Pieces of a vector that `MSG_WAITALL` may have to continue in.
const REST: usize = 16;

/// Calls `f` with what is left of the buffers after `done` bytes.
fn with_rest<R>(into: &mut [&mut [u8]], done: usize, f: impl FnOnce(&mut [&mut [u8]]) -> R) -> R {
    let mut rest: [&mut [u8]; REST] = Default::default();
    let mut n = 0;
    let mut skip = done;
    for piece in into.iter_mut() {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let Some(slot) = rest.get_mut(n) else { break };
        *slot = piece.get_mut(skip..).unwrap_or_default();
        skip = 0;
        n += 1;
    }
    f(rest.get_mut(..n).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_starts_in_the_middle_of_a_piece() {
        let (mut a, mut b, mut c) = ([0u8; 3], [0u8; 4], [0u8; 2]);
        let mut into: [&mut [u8]; 3] = [&mut a, &mut b, &mut c];
        let lens = |d| {
            with_rest(&mut into, d, |r| {
                r.iter().map(|p| p.len()).collect::<Vec<_>>()
            })
        };
        let mut lens = lens;
        assert_eq!(lens(0), [3, 4, 2]);
        assert_eq!(lens(3), [4, 2]);
        assert_eq!(lens(5), [2, 2]);
        assert_eq!(lens(9), [] as [usize; 0]);
    }
}
