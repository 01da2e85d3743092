//! The operating system as this crate uses it. Everything that leaves the process goes through [`Os`], so that the
//! whole socket layer runs in tests on `testing::FakeOs`. The real one (raw system calls) is in the preload, because
//! turning an `i32` of the application into a descriptor is `unsafe` everywhere else.

use core::sync::atomic::AtomicU32;
use std::io::{IoSlice, IoSliceMut};

use crate::addr::Addr;
use crate::errno::Errno;

/// One member of a `poll(2)` set, in the kernel's layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PollFd {
    /// The descriptor; negative members are skipped.
    pub fd: i32,
    /// What is asked for (`POLLIN` ..).
    pub events: i16,
    /// What came.
    pub revents: i16,
}

impl PollFd {
    /// A member that waits for input.
    pub const fn input(fd: i32) -> Self {
        Self {
            fd,
            events: libc::POLLIN,
            revents: 0,
        }
    }
}

/// How many events one [`Os::epoll_collect`] takes from the kernel at most.
pub const EPOLL_MOST: usize = 4096;

/// One event of an epoll set, without the kernel's packed layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpollEvent {
    /// `EPOLLIN` ..
    pub events: u32,
    /// The application's word, untouched.
    pub data: u64,
}

/// What `recvmsg(2)` told besides the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// Bytes received (with `MSG_TRUNC` the full length of the datagram).
    pub n: usize,
    /// Sender.
    pub from: Addr,
    /// Bytes of control data.
    pub control: usize,
    /// `msg_flags`.
    pub flags: i32,
}

/// What the handlers that ran meanwhile mean for a blocking call (`signal(7)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ran {
    /// No handler ran.
    None,
    /// Handlers ran, all of them with `SA_RESTART`.
    Restart,
    /// A handler without `SA_RESTART` ran.
    Interrupt,
}

/// The calls. Semantics and errors are those of the system calls of the same name; none of them touches `errno`,
/// none is a cancellation point, and none restarts after `EINTR`.
#[allow(missing_docs, reason = "named after the system calls")]
pub trait Os: Sync + Send {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    fn now(&self) -> u64;
    /// `CLOCK_REALTIME` in nanoseconds.
    fn realtime(&self) -> u64;
    /// 64 random bits.
    fn entropy(&self) -> u64;
    fn getpid(&self) -> i32;
    /// The program locks itself into a sandbox that lacks system calls of ours: its sockets stay with the kernel.
    fn is_sandboxed(&self) -> bool {
        false
    }
    fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<i32, Errno>;
    fn close(&self, fd: i32) -> Result<(), Errno>;
    fn bind(&self, fd: i32, addr: &Addr) -> Result<(), Errno>;
    fn connect(&self, fd: i32, addr: &Addr) -> Result<(), Errno>;
    fn listen(&self, fd: i32, backlog: i32) -> Result<(), Errno>;
    fn accept(&self, fd: i32, flags: i32) -> Result<(i32, Addr), Errno>;
    fn shutdown(&self, fd: i32, how: i32) -> Result<(), Errno>;
    fn getsockname(&self, fd: i32) -> Result<Addr, Errno>;
    fn getpeername(&self, fd: i32) -> Result<Addr, Errno>;
    fn getsockopt(&self, fd: i32, level: i32, name: i32, into: &mut [u8]) -> Result<usize, Errno>;
    fn setsockopt(&self, fd: i32, level: i32, name: i32, value: &[u8]) -> Result<(), Errno>;
    fn fcntl(&self, fd: i32, cmd: i32, arg: usize) -> Result<i32, Errno>;
    fn dup3(&self, old: i32, new: i32, flags: i32) -> Result<i32, Errno>;
    fn read(&self, fd: i32, into: &mut [u8]) -> Result<usize, Errno>;
    fn pread(&self, fd: i32, into: &mut [u8], at: i64) -> Result<usize, Errno>;
    /// `S_IFREG` .. of `fstat(2)`.
    fn file_type(&self, fd: i32) -> Result<u32, Errno>;
    /// `lseek(fd, by, SEEK_CUR)`.
    fn seek_by(&self, fd: i32, by: i64) -> Result<i64, Errno>;
    fn write(&self, fd: i32, from: &[u8]) -> Result<usize, Errno>;
    fn recvmsg(
        &self,
        fd: i32,
        into: &mut [IoSliceMut<'_>],
        control: &mut [u8],
        flags: i32,
    ) -> Result<Received, Errno>;
    fn sendmsg(
        &self,
        fd: i32,
        from: &[IoSlice<'_>],
        to: Option<&Addr>,
        control: &[u8],
        flags: i32,
    ) -> Result<usize, Errno>;
    /// `send`: what [`sendmsg`](Self::sendmsg) does with one part and no address, a tenth of a microsecond sooner.
    fn send(&self, fd: i32, from: &[u8], flags: i32) -> Result<usize, Errno> {
        self.sendmsg(fd, &[IoSlice::new(from)], None, &[], flags)
    }
    /// `timeout` in nanoseconds, `None` for ever.
    fn ppoll(&self, fds: &mut [PollFd], timeout: Option<u64>) -> Result<usize, Errno>;
    fn epoll_create(&self, flags: i32) -> Result<i32, Errno>;
    fn epoll_ctl(
        &self,
        epfd: i32,
        op: i32,
        fd: i32,
        event: Option<EpollEvent>,
    ) -> Result<(), Errno>;
    /// Never waits.
    fn epoll_collect(&self, epfd: i32, into: &mut [EpollEvent]) -> Result<usize, Errno>;
    /// False when `fd` is a one-shot member of the set that has fired and was not armed again.
    fn epoll_is_armed(&self, epfd: i32, fd: i32) -> bool {
        let _: (i32, i32) = (epfd, fd);
        true
    }
    /// A copy of the descriptor of the socket with this inode, out of the process that holds it (`pidfd_getfd(2)`).
    ///
    /// # Errors
    /// `ENOENT`: nobody holds it of whom this process can know; `EPERM`: it may not take descriptors out of there.
    fn borrow_socket(&self, inode: u32) -> Result<i32, Errno> {
        let _: u32 = inode;
        Err(Errno(libc::ENOENT))
    }
    fn eventfd(&self) -> Result<i32, Errno>;
    /// The number by which the kernel tells an eventfd from all others; 0: it does not say.
    fn eventfd_id(&self, fd: i32) -> u32 {
        let _: i32 = fd;
        0
    }
    /// A copy of an eventfd out of another process (`pidfd_getfd(2)`), if it still is the one with this number there.
    ///
    /// # Errors
    /// `ENOENT`: it is not; `EPERM`: this process may not take descriptors out of there.
    fn borrow_eventfd(&self, pid: i32, fd: i32, id: u32) -> Result<i32, Errno> {
        let _: (i32, i32, u32) = (pid, fd, id);
        Err(Errno(libc::ENOENT))
    }
    /// `memfd_create(2)`, close-on-exec.
    fn memfd(&self) -> Result<i32, Errno>;
    /// Waits while the word is `value`, at most `timeout` nanoseconds. Returns on any wake or signal.
    fn futex_wait(&self, word: &AtomicU32, value: u32, timeout: u64);
    fn futex_wake(&self, word: &AtomicU32, count: u32);
    /// Sends `SIGPIPE` to this thread.
    fn raise_sigpipe(&self);
    /// Runs the handlers that were put off ([`crate::enter::note_signal`]), as if outside the library.
    fn run_signals(&self) -> Ran;
    /// A cancellation point of the thread (`pthread_testcancel(3)`): may not return. Called with nothing held. Need not
    /// look unless [`crate::enter::cancel_is_new`].
    fn test_cancel(&self);
}

/// Moves a descriptor to a high number, where programs that use or close "all" descriptors hardly meet it, and makes
/// it close-on-exec. The old number is closed.
pub fn move_high(os: &dyn Os, fd: i32) -> Result<i32, Errno> {
    if let Some(high) = copy_high(os, fd) {
        let _: Result<(), Errno> = os.close(fd);
        return Ok(high);
    }
    let _: i32 = os.fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC as usize)?;
    Ok(fd)
}

/// A copy of a descriptor where [`move_high`] would move it.
pub fn copy_high(os: &dyn Os, fd: i32) -> Option<i32> {
    let copy = |base| os.fcntl(fd, libc::F_DUPFD_CLOEXEC, base).ok();
    HIGH_BASES.into_iter().find_map(copy)
}

/// Where the library's own descriptors go: above what programs use or put into an `fd_set`-sized loop, but not so high
/// that the kernel's table of the process, which every `fork` copies, becomes large.
pub(crate) const HIGH_BASES: [usize; 2] = [700, 200];
