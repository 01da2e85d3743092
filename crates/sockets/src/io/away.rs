//! Blocking calls on a connection that the kernel has for the time being. They never sleep inside the kernel's socket: a
//! thread that is woken there goes on without a look at repair mode, and would take or give bytes while the connection
//! is being read out. Calls that do not block are the kernel's own, and so are the first ones within this host.

use core::cell::LazyCell;
use std::io::{IoSlice, IoSliceMut};

use flyover_core::sock::flag;

use crate::errno::Errno;
use crate::io::send::with_rest;
use crate::io::sockopt::timeval_ns;
use crate::local::Entered;
use crate::os::{Ran, Received};
use crate::process::{Answer, Ep, Sockets};
use crate::wait::Deadline;
use crate::wait::sleep::Slept;

/// `UIO_MAXIOV`.
const MOST_PIECES: usize = 1024;
/// Receives of these never wait.
const NEVER_WAITS: i32 = libc::MSG_ERRQUEUE | libc::MSG_OOB;
/// How long a look that wants more than is there sleeps, ns.
const LOOK_NAP: u64 = 1_000_000;

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
        if !self.may_come_back(fd)
            || flags & libc::MSG_DONTWAIT != 0
            || self.mark(fd).is_some_and(|ep| self.is_young(&ep))
        {
            return Err(Away::Kernels);
        }
        let status = self.os.fcntl(fd, libc::F_GETFL, 0);
        if status.is_ok_and(|status| status & libc::O_NONBLOCK != 0) {
            return Err(Away::Kernels);
        }
        self.mark(fd).ok_or(Away::Again)
    }

    /// Waits until the kernel socket is ready, or hangs up because the connection came back.
    /// `begun`: bytes have moved, so no handler restarts the call.
    fn wait_away(
        &self,
        ep: &Ep,
        fd: i32,
        events: i16,
        until: Deadline,
        begun: bool,
    ) -> Result<i16, Errno> {
        loop {
            let (slept, shown) = ep.att.sleep_away(ep.sock, fd, events, until);
            let home = !ep.shared().has(flag::HANDED_OVER);
            if home && !self.is_still(fd, ep) {
                // Paired, and closed at the same moment: there is no number to go on with.
                return Err(Errno::EBADF);
            }
            if shown != 0 || home {
                return Ok(shown);
            }
            match slept {
                Slept::Signal(Ran::Interrupt) => return Err(Errno::EINTR),
                Slept::Signal(Ran::Restart) if begun || until.0.is_some() => {
                    return Err(Errno::EINTR);
                }
                Slept::Signal(_) | Slept::Woken => {}
            }
            if until.is_past(self.os.now()) {
                return Err(Errno::EAGAIN);
            }
        }
    }

    /// The number still means this connection.
    fn is_still(&self, fd: i32, ep: &Ep) -> bool {
        self.place(fd).is_some_and(|now| now.sock == ep.sock)
    }

    /// A number for a call on this connection that was made with `fd`, and slept.
    fn number_of(&self, ep: &Ep, fd: i32) -> i32 {
        match self.is_still(fd, ep) {
            true => fd,
            false => ep.att.kept_fd(ep.sock, fd),
        }
    }

    /// Urgent data is in the kernel's queues, where its place in the stream cannot be told: such a connection stays there.
    fn note_urgent(&self, fd: i32, flags: i32) {
        if flags & libc::MSG_OOB == 0 {
            return;
        }
        self.young_stays(fd);
        if let Some(ep) = self.mark(fd) {
            self.never_paired(&ep);
        }
    }

    /// `SO_RCVTIMEO` or `SO_SNDTIMEO` of the kernel socket, ns; 0 is never.
    pub(crate) fn kernel_limit(&self, fd: i32, name: i32) -> u64 {
        let mut b = [0u8; 16];
        match self.os.getsockopt(fd, libc::SOL_SOCKET, name, &mut b) {
            Ok(16) => timeval_ns(&b),
            _ => 0,
        }
    }

    fn limit_away(&self, fd: i32, name: i32) -> Deadline {
        Deadline::after_or_never(self.os.now(), self.kernel_limit(fd, name))
    }

    /// A send on what the kernel has.
    #[cold]
    pub(crate) fn away_send(&self, fd: i32, from: &[&[u8]], control: &[u8], flags: i32) -> Answer {
        let want: usize = from.iter().map(|b| b.len()).sum();
        self.note_urgent(fd, flags);
        // Nothing to wait for, or nothing that `sendmsg` takes.
        if want == 0 || from.len() > MOST_PIECES {
            return Answer::Kernel;
        }
        let ep = match self.blocks_away::<()>(fd, flags) {
            Ok(ep) => ep,
            Err(Away::Again) => return self.send_msg(fd, from, None, control, flags),
            Err(_) => return Answer::Kernel,
        };
        let _call = ep.att.call();
        let until = LazyCell::new(|| self.limit_away(fd, libc::SO_SNDTIMEO));
        let mut done = 0;
        // Its number may be another's by the time that the call was woken.
        let mut at = fd;
        loop {
            let how = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let since = self.takeovers();
            let entered = self.enter_kernel(at);
            if let Entered::Home = entered {
                return self.rest_at_home(fd, from, done, flags);
            }
            let sent = with_rest(from, done, |rest| {
                let pieces: Vec<IoSlice<'_>> = rest.iter().map(|b| IoSlice::new(b)).collect();
                let control = if done == 0 { control } else { &[] };
                self.os.sendmsg(at, &pieces, None, control, how)
            });
            self.after_kernel(at, &entered);
            let failed = match sent {
                Ok(n) => {
                    done += n;
                    if done >= want || n == 0 {
                        return Answer::Value(done);
                    }
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => {
                    let waited = self.wait_away(&ep, fd, libc::POLLOUT, *until, done > 0);
                    at = self.number_of(&ep, fd);
                    match waited {
                        // What failed is told at the next call.
                        Ok(shown) if done > 0 && shown & libc::POLLERR != 0 => Errno::EAGAIN,
                        Ok(_) => continue,
                        Err(e) => e,
                    }
                }
                Err(e) if at == fd && self.came_back(fd, e, since) => {
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
        let want: usize = into.iter().map(|b| b.len()).sum();
        self.note_urgent(fd, flags);
        if flags & NEVER_WAITS != 0 || want == 0 || into.len() > MOST_PIECES {
            return Away::Kernels;
        }
        let ep = match self.blocks_away(fd, flags) {
            Ok(ep) => ep,
            Err(away) => return away,
        };
        let _call = ep.att.call();
        let until = LazyCell::new(|| self.limit_away(fd, libc::SO_RCVTIMEO));
        let mut taken = Taken::default();
        let mut at = fd;
        loop {
            let since = self.takeovers();
            let entered = self.enter_kernel(at);
            if let Entered::Home = entered {
                return self.rest_from_home(fd, into, control, flags, taken);
            }
            let got = with_rest_mut(into, taken.m.n, |pieces| {
                let control = if taken.m.n == 0 {
                    &mut *control
                } else {
                    &mut []
                };
                self.os
                    .recvmsg(at, pieces, control, flags | libc::MSG_DONTWAIT)
            });
            self.after_kernel(at, &entered);
            let peeks = flags & libc::MSG_PEEK != 0;
            let failed = match got {
                Err(Errno::EINTR) => continue,
                Err(e) if e != Errno::EAGAIN && at == fd && self.came_back(fd, e, since) => {
                    return self.rest_from_home(fd, into, control, flags, taken);
                }
                // In repair mode the kernel shows what waits to be sent.
                Ok(_) if peeks && at == fd && (self.is_back(fd) || self.takeovers() != since) => {
                    return Away::Again;
                }
                Err(Errno::EAGAIN) => None,
                Err(e) => Some(Err(e)),
                Ok(m) => {
                    let end = m.n == 0;
                    taken.add(m, peeks);
                    let least = self.least_away(at, taken.m.n, want, flags);
                    (end || taken.m.n >= least).then_some(Ok(()))
                }
            };
            let over = failed.or_else(|| {
                let begun = taken.m.n > 0;
                let waited = match (peeks, begun) {
                    // What is looked at stays readable: nothing tells when more comes, but an end does.
                    (true, true) => self.nap_away(&ep, fd, *until),
                    _ => {
                        match self.wait_away(&ep, fd, libc::POLLIN | libc::POLLPRI, *until, begun) {
                            // What failed is told at the next call, and an urgent byte ends this one.
                            Ok(shown) if begun && shown & (libc::POLLERR | libc::POLLPRI) != 0 => {
                                Err(Errno::EAGAIN)
                            }
                            waited => waited.map(|_| ()),
                        }
                    }
                };
                waited.err().map(Err)
            });
            at = self.number_of(&ep, fd);
            match over {
                None => {}
                Some(Err(e)) if taken.m.n == 0 => return Away::Done(Err(e)),
                Some(_) => return Away::Done(Ok(taken.m)),
            }
        }
    }

    /// Bytes that end a blocking receive (`sock_rcvlowat`), of which `n` are here.
    fn least_away(&self, fd: i32, n: usize, want: usize, flags: i32) -> usize {
        if flags & libc::MSG_WAITALL != 0 || n >= want {
            return want;
        }
        let low = self.int_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT);
        (low.unwrap_or(1).max(1) as usize).min(want)
    }

    /// A look that wants more waits a little; an error when there will be no more.
    fn nap_away(&self, ep: &Ep, fd: i32, until: Deadline) -> Result<(), Errno> {
        let soon = self.os.now().saturating_add(LOOK_NAP);
        let nap = Deadline(Some(until.0.map_or(soon, |u| u.min(soon))));
        match self.wait_away(ep, fd, libc::POLLRDHUP, nap, true) {
            Err(Errno::EAGAIN) if !until.is_past(self.os.now()) => Ok(()),
            Err(e) => Err(e),
            Ok(_) if !ep.shared().has(flag::HANDED_OVER) => Ok(()),
            Ok(_) => Err(Errno::EAGAIN),
        }
    }

    /// The connection came back in the middle of a receive.
    fn rest_from_home(
        &self,
        fd: i32,
        into: &mut [&mut [u8]],
        control: &mut [u8],
        flags: i32,
        mut taken: Taken,
    ) -> Away<Result<Received, Errno>> {
        if taken.m.n == 0 || flags & libc::MSG_PEEK != 0 {
            return Away::Again;
        }
        let mut skip = taken.m.n;
        let mut rest: Vec<&mut [u8]> = Vec::new();
        for piece in into.iter_mut() {
            let (gone, tail) = piece.split_at_mut(skip.min(piece.len()));
            skip -= gone.len();
            rest.push(tail);
        }
        // Less than the call is for was here, so it goes on until it has that.
        if let Some(Ok(m)) = self.recv_msg(fd, &mut rest, control, flags) {
            taken.add(m, false);
        }
        Away::Done(Ok(taken.m))
    }
}

/// What a receive has so far.
#[derive(Default)]
struct Taken {
    m: Received,
}

impl Taken {
    fn add(&mut self, m: Received, peeks: bool) {
        let before = if peeks { 0 } else { self.m.n };
        self.m = Received {
            n: before + m.n,
            control: self.m.control.max(m.control),
            flags: self.m.flags | m.flags,
            ..m
        };
    }
}

/// Calls `f` with what is left of the buffers after `done` bytes.
fn with_rest_mut<R>(
    into: &mut [&mut [u8]],
    done: usize,
    f: impl FnOnce(&mut [IoSliceMut<'_>]) -> R,
) -> R {
    let mut skip = done;
    let mut pieces: Vec<IoSliceMut<'_>> = Vec::with_capacity(into.len());
    for piece in into.iter_mut() {
        let (gone, rest) = piece.split_at_mut(skip.min(piece.len()));
        skip -= gone.len();
        if !rest.is_empty() {
            pieces.push(IoSliceMut::new(rest));
        }
    }
    f(&mut pieces)
}
