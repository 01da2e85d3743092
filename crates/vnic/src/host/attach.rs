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

/// Makes `program` (a loaded `sock_flow`) decide what the packet socket receives, and locks it: the process
/// that gets the socket can neither remove nor replace it (`SO_LOCK_FILTER`, socket(7)).
///
/// # Errors
/// What `setsockopt` says: EINVAL for a program of another type.
pub fn attach_filter(fd: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 0)?;
    set_int(
        fd,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_BPF,
        program.as_raw_fd(),
    )?;
    set_int(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}
