//! Blocking calls on a connection that the kernel has for the time being. They never sleep inside the kernel's socket: a
//! thread that is woken there goes on without a look at repair mode, and would take or give bytes while the connection
//! is being read out. Calls that do not block are the kernel's own.

use std::io::{IoSlice, IoSliceMut};

use flyover_core::ev;
use flyover_core::sock::flag;

use crate::errno::Errno;
use crate::io::send::with_rest;
use crate::local::Entered;
use crate::os::{PollFd, Ran, Received};
use crate::process::{Answer, Ep, Sockets};
use crate::wait::Deadline;
use crate::wait::sleep::{On, Slept, Want};

/// How such a call went.
pub(crate) enum Away<T> {
    /// It does not block: the kernel's.
    Kernels,
    /// The connection came back: to be made anew.
    Again,
    /// Answered.
    Done(T),
}

impl Sockets {
    /// The mark of `fd` when a call with these flags blocks.
    fn blocks_away<T>(&self, fd: i32, flags: i32) -> Result<Ep, Away<T>> {
        if !self.may_come_back(fd) || flags & libc::MSG_DONTWAIT != 0 {
            return Err(Away::Kernels);
        }
        let status = self.os.fcntl(fd, libc::F_GETFL, 0);
        if status.is_ok_and(|status| status & libc::O_NONBLOCK != 0) {
            return Err(Away::Kernels);
        }
        self.mark(fd).ok_or(Away::Again)
    }

    /// Waits until the kernel socket is ready, or hangs up because the connection came back.
    fn wait_away(&self, ep: &Ep, fd: i32, events: i16, until: Deadline) -> Result<(), Errno> {
        loop {
            let mut one = [PollFd {
                fd,
                events,
                revents: 0,
            }];
            let home = Want {
                sock: ep.sock,
                events: ev::BACK,
            };
            let slept = ep.att.sleep(On::Socks(&[home]), &mut one, until);
            if one[0].revents != 0 || !ep.shared().has(flag::HANDED_OVER) {
                return Ok(());
            }
            match slept {
                Slept::Signal(Ran::Interrupt) => return Err(Errno::EINTR),
                Slept::Signal(Ran::Restart) if until.0.is_some() => return Err(Errno::EINTR),
                Slept::Signal(_) | Slept::Woken => {}
            }
            if until.is_past(self.os.now()) {
                return Err(Errno::EAGAIN);
            }
        }
    }

    /// `SO_RCVTIMEO` or `SO_SNDTIMEO` of the kernel socket.
    fn limit_away(&self, fd: i32, name: i32) -> Deadline {
        let mut b = [0u8; 16];
        let word = |b: &[u8]| b.try_into().map_or(0, u64::from_ne_bytes);
        let span = match self.os.getsockopt(fd, libc::SOL_SOCKET, name, &mut b) {
            Ok(16) => {
                let (s, us) = b.split_at(8);
                word(s)
                    .saturating_mul(1_000_000_000)
                    .saturating_add(word(us).saturating_mul(1_000))
            }
            _ => 0,
        };
        Deadline::after_or_never(self.os.now(), span)
    }

    /// A send on what the kernel has.
    #[cold]
    pub(crate) fn away_send(&self, fd: i32, from: &[&[u8]], control: &[u8], flags: i32) -> Answer {
        let ep = match self.blocks_away::<()>(fd, flags) {
            Ok(ep) => ep,
            Err(Away::Again) => return self.send_msg(fd, from, None, control, flags),
            Err(_) => return Answer::Kernel,
        };
        let _call = ep.att.call();
        let until = self.limit_away(fd, libc::SO_SNDTIMEO);
        let want: usize = from.iter().map(|b| b.len()).sum();
        let mut done = 0;
        loop {
            let how = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let entered = self.enter_kernel(fd);
            if let Entered::Home = entered {
                return self.rest_at_home(fd, from, done, flags);
            }
            let sent = with_rest(from, done, |rest| {
                let pieces: Vec<IoSlice<'_>> = rest.iter().map(|b| IoSlice::new(b)).collect();
                let control = if done == 0 { control } else { &[] };
                self.os.sendmsg(fd, &pieces, None, control, how)
            });
            if let Entered::Counted(ep) = entered {
                self.leave_kernel(&ep);
            }
            let failed = match sent {
                Ok(n) => {
                    done += n;
                    if done >= want || n == 0 {
                        return Answer::Value(done);
                    }
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => match self.wait_away(&ep, fd, libc::POLLOUT, until) {
                    Ok(()) => continue,
                    Err(e) => e,
                },
                Err(e) if self.came_back(fd, e) => {
                    return self.rest_at_home(fd, from, done, flags);
                }
                Err(e) => e,
            };
            if done > 0 {
                return Answer::Value(done);
            }
            if failed == Errno::EPIPE && flags & libc::MSG_NOSIGNAL == 0 {
                self.os.raise_sigpipe();
            }
            return Answer::Error(failed);
        }
    }

    /// The connection came back in the middle of a send.
    fn rest_at_home(&self, fd: i32, from: &[&[u8]], done: usize, flags: i32) -> Answer {
        match with_rest(from, done, |rest| self.send(fd, rest, flags)) {
            Answer::Value(n) => Answer::Value(done + n),
            _ if done > 0 => Answer::Value(done),
            answer => answer,
        }
    }

    /// A receive from what the kernel has.
    #[cold]
    pub(crate) fn away_recv(
        &self,
        fd: i32,
        into: &mut [&mut [u8]],
        control: &mut [u8],
        flags: i32,
    ) -> Away<Result<Received, Errno>> {
        let ep = match self.blocks_away(fd, flags) {
            Ok(ep) => ep,
            Err(away) => return away,
        };
        let _call = ep.att.call();
        let until = self.limit_away(fd, libc::SO_RCVTIMEO);
        loop {
            let mut pieces: Vec<IoSliceMut<'_>> =
                into.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let entered = self.enter_kernel(fd);
            if let Entered::Home = entered {
                return Away::Again;
            }
            let got = self
                .os
                .recvmsg(fd, &mut pieces, control, flags | libc::MSG_DONTWAIT);
            if let Entered::Counted(ep) = entered {
                self.leave_kernel(&ep);
            }
            match got {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if let Err(e) = self.wait_away(&ep, fd, libc::POLLIN, until) {
                        return Away::Done(Err(e));
                    }
                }
                Err(e) if self.came_back(fd, e) => return Away::Again,
                r => return Away::Done(r),
            }
        }
    }
}
