//! Receiving. Queued data is copied out without the stack lock and without a system call.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use flyover_core::ev;
use flyover_core::stack::deferred::work;
use flyover_core::stack::locked::Locked;
use flyover_core::{Error, Placed, RecvFlags, SHUT_RD, SPARE};

use crate::errno::Errno;
use crate::io::away::Away;
use crate::io::cmsg::{self, CmsgWriter};
use crate::io::options;
use crate::os::Received;
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::Deadline;
use crate::wait::sleep::has_moved_on;

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
            Fd::Kernel => match self.away_recv(fd, into, &mut [], flags) {
                Away::Kernels => Answer::Kernel,
                Away::Again => self.recv(fd, into, flags),
                Away::Done(r) => r.map(|m| m.n).into(),
            },
            Fd::Tcp(_) | Fd::Fresh(_) | Fd::Epoll(_) => Answer::Kernel,
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
                let urgent = flags & libc::MSG_OOB;
                let got = self.tcp_recv(&ep, into, flags);
                Some(got.map(|n| {
                    let (control, said) = self.tell(&ep, n, control, urgent);
                    // No room for the urgent byte.
                    let cut = if urgent != 0 && n == 0 && into.iter().all(|b| b.is_empty()) {
                        libc::MSG_TRUNC
                    } else {
                        0
                    };
                    Received {
                        n,
                        control,
                        flags: urgent | said | cut,
                        ..Received::default()
                    }
                }))
            }
            Fd::Udp(ep) => self.udp_recv(&ep, fd, into, control, flags),
            Fd::Fresh(f) if f.error != 0 => Some(Err(self.fetch_error(fd, f))),
            Fd::Kernel => match self.away_recv(fd, into, control, flags) {
                Away::Kernels => None,
                Away::Again => self.recv_msg(fd, into, control, flags),
                Away::Done(r) => Some(r),
            },
            Fd::Tcp(_) | Fd::Fresh(_) | Fd::Epoll(_) => None,
        }
    }

    /// The control messages of a stream (`tcp_recvmsg`): time stamps of the data, and how much is left. Returns the
    /// bytes written, and `MSG_CTRUNC`.
    fn tell(&self, ep: &Ep, n: usize, control: &mut [u8], urgent: i32) -> (usize, i32) {
        let s = ep.shared();
        let asked = s.sopts.load(Ordering::Relaxed) & (options::STAMPS | options::INQ);
        if asked == 0 || urgent != 0 {
            return (0, 0);
        }
        let mut w = CmsgWriter::new(control);
        if n > 0 || s.rq_available() > 0 {
            cmsg::stamp(self.os, asked, s.last_rx.get(), &mut w);
        }
        if asked & options::INQ != 0 {
            let left = ep.att.stack.inq(ep.sock.id);
            // The FIN counts as one.
            let ended = s.shut.load(Ordering::Acquire) & flyover_core::SHUT_RD != 0;
            cmsg::put_inq(left.saturating_add(u32::from(ended)), &mut w);
        }
        (w.len(), if w.is_cut() { libc::MSG_CTRUNC } else { 0 })
    }

    /// Receives from a stream.
    pub(crate) fn tcp_recv(
        &self,
        ep: &Ep,
        into: &mut [&mut [u8]],
        flags: i32,
    ) -> Result<usize, Errno> {
        const PLAIN: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        if flags & !PLAIN == 0
            && ep.att.stack.is_paired(ep.sock.id)
            && ep.shared().rcvlowat.get() <= 1
            && let Some(n) = ep.att.recv_paired(ep, into)
        {
            return Ok(n);
        }
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
        let _call = ep.att.call();
        if flags & libc::MSG_OOB != 0 {
            return self.tcp_recv_urgent(ep, into, flags);
        }
        let mut how = RecvFlags {
            peek: flags & libc::MSG_PEEK != 0,
            skip: if flags & libc::MSG_PEEK != 0 {
                peek_offset(ep).unwrap_or(0)
            } else {
                0
            },
            discard: 0,
        };
        // On a stream MSG_TRUNC throws the bytes away, `tcp(7)`.
        let discards = flags & libc::MSG_TRUNC != 0;
        let all = flags & libc::MSG_WAITALL != 0 && !how.peek;
        if how.peek && flags & libc::MSG_WAITALL != 0 {
            self.wait_for_all(ep, want, flags)?;
        }
        let id = ep.sock.id;
        let mut done = 0;
        let mut polled = false;
        let mut deadline = None;
        let paired = ep.att.stack.is_paired(id);
        let direct = !how.peek && !all && !discards && !paired;
        let short = self.await_low_water(ep, want, flags, &mut deadline);
        loop {
            if discards {
                how.discard = want - done;
            }
            let got = if done == 0 {
                ep.att.stack.tcp_recv(ep.sock, into, how, ep.att.me)
            } else {
                with_rest(into, done, |rest| {
                    ep.att.stack.tcp_recv(ep.sock, rest, how, ep.att.me)
                })
            };
            match got {
                Ok(r) => {
                    if r.want_update {
                        ep.att.work(id, work::WINDOW);
                    } else if paired && ep.shared().rq_available() == 0 {
                        ep.att.note_drained(id, ep.shared().rq_keep.get() > 1);
                    }
                    move_peek(ep, r.n, how.peek);
                    done += r.n;
                    // An urgent mark ends even a read that waits for all.
                    if r.n == 0 || done >= want || ep.att.stack.at_mark(id) {
                        return Ok(done);
                    }
                    if !all {
                        if !direct || want - done < BULK {
                            return Ok(done);
                        }
                        let waits = flags & libc::MSG_DONTWAIT == 0 && !ep.nonblocking();
                        let more = match r.n >= BULK {
                            true => more_at_once(ep, into, done),
                            false => 0,
                        };
                        move_peek(ep, more, false);
                        let gathered = match waits {
                            true => self.gather(ep, into, done + more),
                            false => 0,
                        };
                        return Ok(done + more + gathered);
                    }
                }
                Err(Error::WouldBlock) if let Err(e) = short => {
                    return if done > 0 { Ok(done) } else { Err(e) };
                }
                Err(Error::WouldBlock) => {
                    if flags & libc::MSG_DONTWAIT != 0 || ep.nonblocking() {
                        if done > 0 {
                            return Ok(done);
                        }
                        // Nothing that a V-NIC holds is for one end of a pair.
                        if polled || paired {
                            return Err(Errno::EAGAIN);
                        }
                        polled = true;
                        let come = if direct {
                            poll_into(ep, into)
                        } else {
                            ep.att.poll(64).then_some(0)
                        };
                        match come {
                            None => return Err(Errno::EAGAIN),
                            Some(0) => continue,
                            Some(n) => return Ok(with_queued(ep, into, n)),
                        }
                    }
                    let span = ep.shared().rcvtimeo.load(Ordering::Relaxed);
                    let until = *deadline
                        .get_or_insert_with(|| Deadline::after_or_never(self.os.now(), span));
                    let (bits, spin) = (ev::IN | ev::RDHUP, self.settings.spin);
                    let got = Cell::new(Placed::default());
                    let mut spare = [0; SPARE];
                    let waited = match done {
                        0 if direct => {
                            let poll = &mut |l: &mut Locked<'_, '_, 'static>| {
                                if l.stack().get(ep.sock).is_some() && got.get().bytes == 0 {
                                    got.set(l.tcp_poll_into(id, into, &mut spare, 64));
                                }
                            };
                            let come = &|| got.get().bytes > 0;
                            ep.att.block_polling(ep.sock, until, spin, poll, come)
                        }
                        0 => ep.att.block_on(ep.sock, bits, -1, until, spin),
                        _ => ep.att.block_on_rest(ep.sock, bits, until, spin),
                    };
                    if got.get().bytes > 0 {
                        let n = settle(into, &spare, got.get());
                        return Ok(with_queued(ep, into, n));
                    }
                    if let Err(e) = waited {
                        return if done > 0 { Ok(done) } else { Err(e) };
                    }
                    if ep.att.stack.get(ep.sock).is_none() {
                        return Ok(done);
                    }
                }
                Err(e) if done > 0 => {
                    if let Error::Errno(e) = e {
                        ep.shared().put_error_back(e);
                    }
                    return Ok(done);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// `SO_RCVLOWAT`: a blocking read of at least that much waits for so many bytes, or for the end. An error says why the
    /// wait ended early: what is there is read all the same.
    fn await_low_water(
        &self,
        ep: &Ep,
        want: usize,
        flags: i32,
        deadline: &mut Option<Deadline>,
    ) -> Result<(), Errno> {
        let s = ep.shared();
        let mark = s.rcvlowat.get();
        if mark <= 1 || want < mark as usize || flags & libc::MSG_DONTWAIT != 0 || ep.nonblocking()
        {
            return Ok(());
        }
        let until = *deadline.get_or_insert_with(|| {
            Deadline::after_or_never(self.os.now(), s.rcvtimeo.load(Ordering::Relaxed))
        });
        const DONE: u32 = ev::IN | ev::RDHUP | ev::ERR | ev::HUP;
        let waits = || ep.att.stack.readiness(ep.sock.id) & DONE == 0;
        while ep.att.stack.get(ep.sock).is_some() && waits() {
            ep.att
                .block_on(ep.sock, ev::IN | ev::RDHUP, -1, until, self.settings.spin)?;
        }
        Ok(())
    }

    /// Waits until `want` bytes are queued, or no more will come, or the time is over.
    fn wait_for_all(&self, ep: &Ep, want: usize, flags: i32) -> Result<(), Errno> {
        if flags & libc::MSG_DONTWAIT != 0 || ep.nonblocking() {
            return Ok(());
        }
        let s = ep.shared();
        let span = s.rcvtimeo.load(Ordering::Relaxed);
        let until = Deadline::after_or_never(self.os.now(), span);
        loop {
            let queued = s.rq_available();
            if queued as usize >= want || has_moved_on(s, queued) {
                return Ok(());
            }
            let waited = ep
                .att
                .block_for_more(ep.sock, queued, until, self.settings.spin);
            if let Err(e) = waited {
                let over = queued > 0 || e == Errno::EAGAIN;
                return if over { Ok(()) } else { Err(e) };
            }
            if ep.att.stack.get(ep.sock).is_none() {
                return Ok(());
            }
        }
    }

    /// The urgent byte (`MSG_OOB`). Linux never waits for it.
    fn tcp_recv_urgent(&self, ep: &Ep, into: &mut [&mut [u8]], flags: i32) -> Result<usize, Errno> {
        let asked = ep
            .att
            .stack
            .tcp_recv_oob(ep.sock, flags & libc::MSG_PEEK != 0, ep.att.me);
        let byte = match asked {
            // Announced, and it cannot come any more.
            Err(Error::WouldBlock) if ep.shared().shut.load(Ordering::Relaxed) & SHUT_RD != 0 => {
                return Ok(0);
            }
            asked => asked?,
        };
        match into.iter_mut().find_map(|p| p.first_mut()) {
            Some(to) => {
                *to = byte;
                Ok(1)
            }
            None => Ok(0),
        }
    }
}

/// From this size of what was read, and of what would fit behind it, on, the V-NICs are looked at once more. Bytes.
pub(super) const BULK: usize = 16 << 10;

/// The queue is empty, `done` bytes were read and much would fit behind them: what the V-NICs hold follows at once. As in
/// the kernel, where it would have been in the queue. Returns the bytes placed.
pub(super) fn more_at_once(ep: &Ep, into: &mut [&mut [u8]], done: usize) -> usize {
    if ep.shared().rq_available() > 0 {
        return 0;
    }
    let more = with_rest(into, done, |rest| poll_into(ep, rest));
    more.unwrap_or(0)
}

/// One poll for a reader of an empty queue; `None`: somebody else is at it.
fn poll_into(ep: &Ep, into: &mut [&mut [u8]]) -> Option<usize> {
    let mut spare = [0; SPARE];
    let placed = ep.att.try_locked(|l| match l.stack().get(ep.sock) {
        Some(_) => l.tcp_poll_into(ep.sock.id, into, &mut spare, 64),
        None => Placed::default(),
    })?;
    Some(settle(into, &spare, placed))
}

/// Copies what the stack placed beside the program's memory to where it is wanted. Returns the bytes placed.
fn settle(into: &mut [&mut [u8]], spare: &[u8; SPARE], placed: Placed) -> usize {
    if placed.in_spare {
        let mut from = spare.get(..placed.bytes).unwrap_or_default();
        for part in into {
            let (now, later) = from.split_at(from.len().min(part.len()));
            if let Some(to) = part.get_mut(..now.len()) {
                to.copy_from_slice(now);
            }
            from = later;
        }
    }
    placed.bytes
}

/// `n` bytes were placed at once; what is queued behind them follows. Returns the bytes in all.
fn with_queued(ep: &Ep, into: &mut [&mut [u8]], n: usize) -> usize {
    let n = n + queued_behind(ep, into, n);
    move_peek(ep, n, false);
    n
}

/// What is queued follows the first `done` bytes. Returns how much that was.
pub(super) fn queued_behind(ep: &Ep, into: &mut [&mut [u8]], done: usize) -> usize {
    // A read that has something ends at the urgent mark.
    if ep.shared().rq_available() == 0 || ep.att.stack.at_mark(ep.sock.id) {
        return 0;
    }
    let how = RecvFlags::default();
    let more = with_rest(into, done, |rest| {
        ep.att.stack.tcp_recv(ep.sock, rest, how, ep.att.me)
    });
    let r = match more {
        Ok(r) => r,
        Err(e) => {
            // It shows in the next call.
            if let Error::Errno(e) = e {
                ep.shared().put_error_back(e);
            }
            return 0;
        }
    };
    if r.want_update {
        ep.att.work(ep.sock.id, work::WINDOW);
    }
    r.n
}

/// `SO_PEEK_OFF`: a peek moves the offset on, a read moves it back.
pub(super) fn move_peek(ep: &Ep, n: usize, peek: bool) {
    if let Some(old) = peek_offset(ep) {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        let new = if peek {
            old.saturating_add(n)
        } else {
            old.saturating_sub(n)
        };
        ep.shared()
            .peek_off
            .store(new.saturating_add(1), Ordering::Relaxed);
    }
}

/// The offset; `None` while it is off (negative).
fn peek_offset(ep: &Ep) -> Option<u32> {
    let stored = ep.shared().peek_off.load(Ordering::Relaxed) as i32;
    u32::try_from(stored.wrapping_sub(1)).ok()
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
