//! Which packets get into a packet socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sockopt::{set, set_int};

/// Lets nothing in: for the time between `bind` and [`attach_filter`].
pub(super) fn deny_all(fd: BorrowedFd<'_>) -> io::Result<()> {
    // Classic BPF: `ret 0`.
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let filter = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// Makes `program` (a loaded `sock_flow`) decide what the packet socket receives, for good: the process that
/// gets the socket can neither remove nor replace it, and nor can anybody else (`SO_LOCK_FILTER`, socket(7)).
///
/// # Errors
/// EINVAL for a program of another type; EPERM when the socket has its filter already.
pub fn attach_filter(fd: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set_int(
        fd,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_BPF,
        program.as_raw_fd(),
    )?;
    set_int(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}
