//! `sendfile(2)` and `splice(2)` with an accelerated socket at one end: read and send, with the kernel's rules about
//! offsets: what was not sent was not read.

use std::io::IoSlice;

use crate::errno::Errno;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};

/// Bytes read at a time. On the thread's stack, which may be small (musl: 128 KiB; signal stacks less).
const CHUNK: usize = 32 * 1024;
/// The same for a small file.
const SMALL: usize = 4 * 1024;
/// How often a send is made anew because the connection went or came.
const TRIES: u32 = 1000;

impl Sockets {
    /// `sendfile(2)`; `at` is the application's offset, or none: the file's own.
    pub fn sendfile(&self, out: i32, input: i32, at: Option<&mut i64>, count: usize) -> Answer {
        let ep = match self.look(out) {
            Fd::Tcp(ep) | Fd::Udp(ep) => Some(ep),
            // The kernel's own would fail if the connection came back meanwhile.
            Fd::Kernel if self.is_on_the_move(out) => None,
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => return Answer::Kernel,
        };
        if count > 0
            && let Some(answer) = self.sendfile_from_odd(ep.as_ref(), out, input, at.is_some())
        {
            return answer;
        }
        let own = at.is_none();
        let mut pos = match &at {
            Some(p) if **p < 0 => return Answer::Error(Errno::EINVAL),
            Some(p) => **p,
            None => match self.os.seek_by(input, 0) {
                Ok(p) => p,
                Err(Errno::ESPIPE) => return Answer::Error(Errno::EINVAL),
                Err(e) => return Answer::Error(e),
            },
        };
        let start = pos;
        let r = self.pump_file(ep.as_ref(), out, input, &mut pos, count);
        let sent = pos - start;
        if let Some(p) = at {
            *p = pos;
        }
        if own && sent > 0 {
            let _: Result<i64, Errno> = self.os.seek_by(input, sent);
        }
        match r {
            Err(e) if sent == 0 => Answer::Error(e),
            _ => Answer::Value(sent as usize),
        }
    }

    /// The answer for an input that is no file of bytes; `None` for one that is.
    fn sendfile_from_odd(
        &self,
        ep: Option<&Ep>,
        out: i32,
        input: i32,
        offset: bool,
    ) -> Option<Answer> {
        let kind = self.os.file_type(input);
        let Some(ep) = ep else {
            let file = matches!(kind, Ok(libc::S_IFREG | libc::S_IFBLK));
            return (!file).then_some(Answer::Kernel);
        };
        match kind {
            Ok(libc::S_IFREG | libc::S_IFBLK) => None,
            Err(e) => Some(Answer::Error(e)),
            Ok(libc::S_IFCHR) => {
                // Some devices can be spliced from, and only they know.
                let moved = self.needs_kernel(out, ep, Reason::HandedOver).is_ok();
                Some(if moved {
                    Answer::Kernel
                } else {
                    Answer::Error(Errno::EINVAL)
                })
            }
            Ok(libc::S_IFDIR) => Some(Answer::Error(Errno::EINVAL)),
            // Sockets and pipes have no positions.
            Ok(_) if offset => Some(Answer::Error(Errno::ESPIPE)),
            Ok(_) => Some(Answer::Error(Errno::EINVAL)),
        }
    }

    fn pump_file(
        &self,
        ep: Option<&Ep>,
        out: i32,
        input: i32,
        pos: &mut i64,
        count: usize,
    ) -> Result<(), Errno> {
        // Making room for a large chunk costs as much as sending a small file.
        match count {
            0..=SMALL => self.pump(ep, (out, input), pos, count, &mut [0u8; SMALL]),
            _ => self.pump(ep, (out, input), pos, count, &mut [0u8; CHUNK]),
        }
    }

    fn pump(
        &self,
        ep: Option<&Ep>,
        (out, input): (i32, i32),
        pos: &mut i64,
        count: usize,
        buf: &mut [u8],
    ) -> Result<(), Errno> {
        let start = *pos;
        let mut left = count.min(0x7fff_f000);
        while left > 0 {
            let part = left.min(buf.len());
            let Some(into) = buf.get_mut(..part) else {
                return Ok(());
            };
            let n = self.os.pread(input, into, *pos)?;
            let Some(data) = into.get(..n).filter(|d| !d.is_empty()) else {
                return Ok(());
            };
            // More follows: full segments first, as the kernel's sendfile does.
            let more = if left > n && n == part {
                libc::MSG_MORE
            } else {
                0
            };
            let begun = *pos != start;
            let sent = match ep.map(|ep| self.send_chunk(ep, out, data, more, begun)) {
                None | Some(Err(Errno::MOVED)) => self.send_anywhere(out, data, more)?,
                Some(sent) => sent?,
            };
            *pos += sent as i64;
            left -= sent;
            if sent < n {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `begun`: the call has sent something already, so no handler restarts it.
    fn send_chunk(
        &self,
        ep: &Ep,
        out: i32,
        data: &[u8],
        flags: i32,
        begun: bool,
    ) -> Result<usize, Errno> {
        if ep.shared().kind() == flyover_core::sock::Kind::Tcp {
            return self.tcp_send_part(ep, &[data], flags, begun);
        }
        match self.udp_send(ep, out, &[data], None, &[], 0) {
            Answer::Value(n) => Ok(n),
            Answer::Error(e) => Err(e),
            Answer::Kernel => Err(Errno::EINVAL),
        }
    }

    /// Sends on a connection that comes and goes. [`Errno::MOVED`]: it is the kernel's for good.
    fn send_anywhere(&self, fd: i32, data: &[u8], flags: i32) -> Result<usize, Errno> {
        for _ in 0..TRIES {
            let since = self.takeovers();
            match self.send(fd, &[data], flags) {
                Answer::Value(n) => return Ok(n),
                Answer::Error(Errno::MOVED) => continue,
                Answer::Error(e) => return Err(e),
                Answer::Kernel if !self.is_on_the_move(fd) => return Err(Errno::MOVED),
                // The kernel has it, and nothing blocks.
                Answer::Kernel => {}
            }
            let how = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match self.os.sendmsg(fd, &[IoSlice::new(data)], None, &[], how) {
                Err(e) if self.came_back(fd, e, since) => {}
                Err(Errno::EPIPE) => {
                    self.os.raise_sigpipe();
                    return Err(Errno::EPIPE);
                }
                r => return r,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// `splice(2)` between a pipe and an accelerated socket, no offsets.
    pub fn splice(&self, from: i32, to: i32, count: usize, flags: u32) -> Answer {
        // Pages move between pipes and sockets in the kernel only: so does the connection, at the first call.
        let socket = match (self.look(from), self.look(to)) {
            (Fd::Tcp(_) | Fd::Udp(_), Fd::Kernel) if self.is_pipe(to) => from,
            (Fd::Kernel, Fd::Tcp(_) | Fd::Udp(_)) if self.is_pipe(from) => to,
            // Neither is a pipe, or not both are open: an error, and the kernel's half has the same.
            _ => return Answer::Kernel,
        };
        if self.hand_over(socket, Reason::HandedOver) {
            return Answer::Kernel;
        }
        let mut buf = [0u8; CHUNK];
        let count = count.min(CHUNK);
        let nonblock = if flags & libc::SPLICE_F_NONBLOCK != 0 {
            libc::MSG_DONTWAIT
        } else {
            0
        };
        match (self.look(from), self.look(to)) {
            (Fd::Tcp(ep), Fd::Kernel) => {
                // Only what fits into the pipe may be taken from the stream.
                let room = self.pipe_room(to).min(count);
                let Some(into) = buf.get_mut(..room) else {
                    return Answer::Error(Errno::EINVAL);
                };
                if into.is_empty() {
                    return Answer::Error(Errno::EAGAIN);
                }
                match self.tcp_recv(&ep, &mut [&mut *into], nonblock) {
                    Ok(n) => self
                        .write_all(to, into.get(..n).unwrap_or_default())
                        .map(|()| n)
                        .into(),
                    Err(e) => Answer::Error(e),
                }
            }
            (Fd::Kernel, Fd::Tcp(ep)) => {
                // Only what the socket takes may be taken from the pipe: a byte read is a byte that must be sent.
                let Some(into) = buf.get_mut(..count) else {
                    return Answer::Error(Errno::EINVAL);
                };
                match self.os.read(from, into) {
                    Ok(n) => self
                        .send_whole(&ep, into.get(..n).unwrap_or_default(), flags)
                        .into(),
                    Err(e) => Answer::Error(e),
                }
            }
            (Fd::Kernel, Fd::Kernel) => Answer::Kernel,
            _ => Answer::Error(Errno::EINVAL),
        }
    }

    fn is_pipe(&self, fd: i32) -> bool {
        self.os.fcntl(fd, libc::F_GETPIPE_SZ, 0).is_ok()
    }

    fn pipe_room(&self, pipe: i32) -> usize {
        let size = self
            .os
            .fcntl(pipe, libc::F_GETPIPE_SZ, 0)
            .unwrap_or(0)
            .max(0) as usize;
        // A page per write may be lost to fragmentation of the pipe's buffers.
        size / 2
    }

    fn write_all(&self, fd: i32, data: &[u8]) -> Result<(), Errno> {
        let mut rest = data;
        while !rest.is_empty() {
            match self.os.write(fd, rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut p = [crate::os::PollFd {
                        fd,
                        events: libc::POLLOUT,
                        revents: 0,
                    }];
                    let _: usize = self.os.ppoll(&mut p, None)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn send_whole(&self, ep: &Ep, data: &[u8], flags: u32) -> Result<usize, Errno> {
        let more = if flags & libc::SPLICE_F_MORE != 0 {
            libc::MSG_MORE
        } else {
            0
        };
        let _call = ep.att.call();
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
            match self.tcp_send(ep, &[rest], more | libc::MSG_NOSIGNAL) {
                Ok(n) => done += n,
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    let never = crate::wait::Deadline::NEVER;
                    let out = flyover_core::ev::OUT;
                    let _: Result<(), Errno> =
                        ep.att.block_on(ep.sock, out, -1, never, self.settings.spin);
                }
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}
