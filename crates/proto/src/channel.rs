//! One message out, one message in, before a deadline. Signals (`EINTR`) never shorten or end an exchange, and a peer
//! that does not read or answer costs no more than the deadline.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::time::{ClockId, clock_gettime};

use crate::fds::FdBag;
use crate::limits::MAX_FDS;

/// A point of `CLOCK_MONOTONIC` after which an exchange is given up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<u64>);

impl Deadline {
    /// Never.
    pub const NEVER: Self = Self(None);
    /// Now: nothing is waited for.
    pub const NOW: Self = Self(Some(0));

    /// `time` from now.
    pub fn after(time: Duration) -> Self {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self(Some(monotonic().saturating_add(ns)))
    }

    /// The earlier of the two.
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// True when it has come.
    pub fn passed(self) -> bool {
        self.0.is_some_and(|at| at <= monotonic())
    }

    /// Waits until one of `events`, an error or a hang-up shows on `fd`.
    ///
    /// # Errors
    /// `ETIMEDOUT` when the deadline comes first.
    pub fn wait(self, fd: BorrowedFd<'_>, events: PollFlags) -> Result<(), Errno> {
        loop {
            let left = self.0.map(|at| timespec(at.saturating_sub(monotonic())));
            match poll(&mut [PollFd::from_borrowed_fd(fd, events)], left.as_ref()) {
                Ok(0) if self.passed() => return Err(Errno::TIMEDOUT),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let sec = u64::try_from(now.tv_sec).unwrap_or(0);
    let ns = u64::try_from(now.tv_nsec).unwrap_or(0);
    sec.saturating_mul(1_000_000_000).saturating_add(ns)
}

fn timespec(ns: u64) -> Timespec {
    // Both quotients fit: u64::MAX ns is 584 years.
    Timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    }
}

/// What [`recv`] found.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives shortly on the stack; boxing allocates per message"
)]
pub enum Packet {
    /// A message of so many bytes at the front of the buffer, and its descriptors.
    Message(usize, FdBag),
    /// The other end is closed.
    Closed,
}

/// Sends one message with descriptors, waiting for room until `deadline`.
///
/// # Errors
/// `ETIMEDOUT` at the deadline, `EPIPE`/`ECONNRESET` when the other end is closed, `EMSGSIZE`, and whatever else
/// sendmsg(2) says. Never `EINTR`, never `SIGPIPE`.
pub fn send(
    sock: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Result<(), Errno> {
    if fds.len() > MAX_FDS {
        return Err(Errno::INVAL);
    }
    loop {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(sock, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => deadline.wait(sock, PollFlags::OUT)?,
            Err(e) => return Err(e),
        }
    }
}

/// Receives one message, waiting for it until `deadline`. Descriptors come with `CLOEXEC`.
///
/// # Errors
/// `ETIMEDOUT` at the deadline; `EMSGSIZE` when the message or its descriptors did not fit (they are closed) and the
/// conversation cannot go on; whatever else recvmsg(2) says. Never `EINTR`.
pub fn recv(sock: BorrowedFd<'_>, buf: &mut [u8], deadline: Deadline) -> Result<Packet, Errno> {
    loop {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(sock, &mut [IoSliceMut::new(buf)], &mut control, flags) {
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                deadline.wait(sock.as_fd(), PollFlags::IN)?;
                continue;
            }
            Err(Errno::CONNRESET) => return Ok(Packet::Closed),
            Err(e) => return Err(e),
        };
        let mut fds = FdBag::default();
        let mut kept = true;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                list.for_each(|fd| kept &= fds.push(fd));
            }
        }
        if !kept
            || got
                .flags
                .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(Errno::MSGSIZE);
        }
        // A message of no bytes cannot be told from the end of the conversation; nobody sends one.
        return Ok(if got.bytes == 0 {
            Packet::Closed
        } else {
            Packet::Message(got.bytes, fds)
        });
    }
}
