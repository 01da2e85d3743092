//! Sending.

use core::sync::atomic::Ordering;

use flyover_core::Error;
use flyover_core::SendFlags;
use flyover_core::ev;
use flyover_core::sock::flag;

use crate::addr::Addr;
use crate::errno::Errno;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;

/// Flags of a stream's `send` that the stack honours or may ignore; others go their own ways.
const UNUSUAL: i32 = libc::MSG_ZEROCOPY | libc::MSG_FASTOPEN;

impl Sockets {
    /// `writev`: of nothing at all it is not a call of the socket's (Linux's `vfs_writev`).
    #[inline]
    pub fn writev(&self, fd: i32, from: &[&[u8]]) -> Answer {
        match self.look(fd) {
            Fd::Tcp(_) | Fd::Udp(_) if from.iter().all(|b| b.is_empty()) => Answer::Value(0),
            _ => self.send(fd, from, 0),
        }
    }

    /// `write`, `send`.
    #[inline]
    pub fn send(&self, fd: i32, from: &[&[u8]], flags: i32) -> Answer {
        match self.look(fd) {
            Fd::Tcp(ep) => self.stream_send(fd, &ep, from, flags),
            Fd::Udp(ep) => self.udp_send(&ep, fd, from, None, &[], flags),
            Fd::Fresh(f) if f.error != 0 => Answer::Error(self.fetch_error(fd, f)),
            Fd::Kernel => self.away_send(fd, from, &[], flags),
            Fd::Fresh(_) | Fd::Epoll(_) => Answer::Kernel,
        }
    }

    /// `sendto` and `sendmsg`.
    pub fn send_msg(
        &self,
        fd: i32,
        from: &[&[u8]],
        to: Option<&Addr>,
        control: &[u8],
        flags: i32,
    ) -> Answer {
        match self.look(fd) {
            // Linux ignores an address on a connected stream, unless MSG_FASTOPEN asks for a connection.
            Fd::Tcp(ep) => {
                if crate::io::cmsg::is_refused_by_streams(control)
                    && ep.shared().shut.load(Ordering::Relaxed) & flyover_core::SHUT_WR == 0
                {
                    return Answer::Error(Errno::EINVAL);
                }
                self.stream_send(fd, &ep, from, flags)
            }
            Fd::Udp(ep) => self.udp_send(&ep, fd, from, to, control, flags),
            Fd::Fresh(f) if f.dgram => self.udp_first_send(fd, f, from, to, control, flags),
            Fd::Fresh(f) if f.error != 0 => Answer::Error(self.fetch_error(fd, f)),
            // A connection that begins with data is the kernel's.
            Fd::Fresh(_) if flags & libc::MSG_FASTOPEN != 0 => {
                self.leave_to_kernel(fd, Reason::Option);
                Answer::Kernel
            }
            Fd::Kernel => self.away_send(fd, from, control, flags),
            Fd::Fresh(_) | Fd::Epoll(_) => Answer::Kernel,
        }
    }

    #[inline]
    fn stream_send(&self, fd: i32, ep: &Ep, from: &[&[u8]], flags: i32) -> Answer {
        if flags & libc::MSG_FASTOPEN != 0 {
            return match self.connect_nowhere(fd) {
                Answer::Kernel => Answer::Error(Errno::EPIPE),
                answer => answer,
            };
        }
        let r = self.tcp_send(ep, from, flags);
        if let Ok(n) = r
            && ep.shared().has(flag::HANDED_OVER)
            && flags & libc::MSG_DONTWAIT == 0
            && !ep.nonblocking()
        {
            return self.send_rest(fd, from, n, flags);
        }
        r.into()
    }

    /// Sends on a stream.
    pub(crate) fn tcp_send(&self, ep: &Ep, from: &[&[u8]], flags: i32) -> Result<usize, Errno> {
        self.tcp_send_part(ep, from, flags, false)
    }

    /// As [`tcp_send`](Self::tcp_send); `begun`: it is the rest of a call that has sent something.
    pub(crate) fn tcp_send_part(
        &self,
        ep: &Ep,
        from: &[&[u8]],
        flags: i32,
        begun: bool,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        if flags & libc::MSG_OOB == 0
            && ep.att.stack.is_paired(ep.sock.id)
            && let Some(n) = ep.att.send_paired(ep, from)
        {
            done = n;
        }
        let want: usize = from.iter().map(|b| b.len()).sum();
        if done > 0 && done == want {
            return Ok(done);
        }
        let _call = ep.att.call();
        let how = SendFlags {
            more: flags & libc::MSG_MORE != 0,
            eor: flags & libc::MSG_EOR != 0,
            oob: flags & libc::MSG_OOB != 0,
            waits: flags & libc::MSG_DONTWAIT == 0 && !ep.nonblocking(),
        };
        // MSG_ZEROCOPY without SO_ZEROCOPY is an ordinary send, and the option is not set on an endpoint.
        let _unused: i32 = flags & UNUSUAL;
        let mut deadline = None;
        let mut polled = false;
        loop {
            let sent = if done == 0 {
                ep.locked(|l, id| l.tcp_send(id, from, how))
            } else {
                with_rest(from, done, |rest| {
                    ep.locked(|l, id| l.tcp_send(id, rest, how))
                })
            };
            let sent = match sent {
                Ok(sent) => sent,
                Err(e) => return if done > 0 { Ok(done) } else { Err(e) },
            };
            let dontwait = flags & libc::MSG_DONTWAIT != 0 || ep.nonblocking();
            match sent {
                Ok(n) => {
                    done += n;
                    if done >= want || dontwait {
                        return Ok(done);
                    }
                }
                Err(Error::WouldBlock) => {
                    if dontwait {
                        if done > 0 {
                            return Ok(done);
                        }
                        if polled || !ep.att.poll(64) {
                            return Err(Errno::EAGAIN);
                        }
                        polled = true;
                        continue;
                    }
                    let span = ep.shared().sndtimeo.load(Ordering::Relaxed);
                    let until = *deadline
                        .get_or_insert_with(|| Deadline::after_or_never(self.os.now(), span));
                    let spin = self.settings.spin;
                    let waited = match done {
                        0 if !begun => ep.att.block_on(ep.sock, ev::OUT, -1, until, spin),
                        _ => ep.att.block_on_rest(ep.sock, ev::OUT, until, spin),
                    };
                    if let Err(e) = waited {
                        return if done > 0 { Ok(done) } else { Err(e) };
                    }
                }
                Err(e) if done > 0 => {
                    if let Error::Errno(e) = e {
                        ep.shared().put_error_back(e);
                    }
                    return Ok(done);
                }
                Err(Error::BrokenPipe) => {
                    if flags & libc::MSG_NOSIGNAL == 0 {
                        self.os.raise_sigpipe();
                    }
                    return Err(Errno::EPIPE);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Pieces of a vector that a blocking send may have to continue with at a time.
const REST: usize = 16;

/// Calls `f` with what is left of the buffers after `done` bytes.
pub(crate) fn with_rest<R>(from: &[&[u8]], done: usize, f: impl FnOnce(&[&[u8]]) -> R) -> R {
    let mut rest: [&[u8]; REST] = [&[]; REST];
    let mut n = 0;
    let mut skip = done;
    for piece in from {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let Some(slot) = rest.get_mut(n) else { break };
        *slot = piece.get(skip..).unwrap_or_default();
        skip = 0;
        n += 1;
    }
    f(rest.get(..n).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_skips_what_was_sent() {
        let from: [&[u8]; 3] = [b"abc", b"", b"defg"];
        let join = |d| with_rest(&from, d, |r| r.concat());
        assert_eq!(join(0), b"abcdefg");
        assert_eq!(join(4), b"efg");
        assert_eq!(join(7), b"");
    }
}
