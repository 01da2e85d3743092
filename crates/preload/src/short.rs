//! The short way of `read`, `write`, `recv` and `send` on one end of a pair (`ARCHITECTURE.md`, *The local path*), as long as
//! nothing is out of the ordinary. Everything else goes the way of all calls (`export/stream.rs`).

use core::ffi::{c_int, c_void};

use flyover_sockets::enter;

use crate::{args, errno, fast, init, signal};

/// Flags that mean nothing more than that the call does not wait.
const PLAIN: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Receives; `None`: nothing was done.
///
/// # Safety
/// As `recv(2)`.
#[inline]
pub unsafe fn recv(fd: c_int, buf: *mut c_void, n: usize, flags: c_int) -> Option<isize> {
    if flags & !PLAIN != 0 || n == 0 {
        return None;
    }
    fast::cancellation_point();
    let ep = init::lib()?.paired(fd)?;
    if ep.att.stack.local_has_nothing(ep.sock) {
        // A look takes no lock, so a signal handler may come in between.
        let waits = flags & libc::MSG_DONTWAIT == 0 && !ep.nonblocking();
        return (!waits).then(|| {
            errno::set(libc::EAGAIN);
            -1
        });
    }
    // SAFETY: the caller's memory; what it is asked for is copied there.
    let room = |n| unsafe { args::bytes_to_fill(buf, n) };
    let (got, signalled) = enter::briefly(|| ep.att.recv_plain(&ep, n, room));
    if signalled {
        let _ = signal::run_deferred();
    }
    got.map(|n| n as isize)
}

/// Sends all of it; `Err`: so many bytes were sent, and for the others the ordinary way is to be taken.
///
/// # Safety
/// As `send(2)`.
#[inline]
pub unsafe fn send(fd: c_int, buf: *const c_void, n: usize, flags: c_int) -> Result<isize, usize> {
    if flags & !PLAIN != 0 || n == 0 {
        return Err(0);
    }
    fast::cancellation_point();
    let Some(ep) = init::lib().and_then(|lib| lib.paired(fd)) else {
        return Err(0);
    };
    // SAFETY: the caller's memory.
    let Ok(bytes) = (unsafe { args::bytes(buf, n) }) else {
        return Err(0);
    };
    let (sent, signalled) = enter::briefly(|| ep.att.send_paired(&ep, &[bytes]));
    if signalled {
        let _ = signal::run_deferred();
    }
    match sent.unwrap_or(0) {
        sent if sent == n => Ok(sent as isize),
        sent => Err(sent),
    }
}
