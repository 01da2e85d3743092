//! The exported functions. Each begins with the fast check; what is left is decoded and answered by the socket layer,
//! and what that leaves to the kernel goes to libc, outside the library, where it may block, be interrupted and be
//! cancelled as ever.

mod again;
mod children;
mod epoll;
mod exec;
mod fd;
mod message;
mod number;
mod poll;
mod resolver;
mod signals;
mod socket;
mod stream;
mod uring;

use flyover_sockets::process::Answer;
use flyover_sockets::{Errno, Sockets};

use crate::{errno, fast};

/// The socket layer's answer as a C return value; `kernel` makes libc's call.
#[inline]
fn answer(f: impl FnOnce(&'static Sockets) -> Answer, kernel: impl FnOnce() -> isize) -> isize {
    match fast::inside(f) {
        Some(Answer::Value(v)) => v as isize,
        // Handed over while the call was at it.
        Some(Answer::Error(Errno::MOVED)) => kernel(),
        Some(Answer::Error(Errno(e))) => {
            errno::set(e);
            -1
        }
        Some(Answer::Kernel) | None => kernel(),
    }
}

/// As [`answer`] for a layer that answers `None` for "the kernel".
#[inline]
fn result(
    f: impl FnOnce(&'static Sockets) -> Option<Result<usize, Errno>>,
    kernel: impl FnOnce() -> isize,
) -> isize {
    match fast::inside(f).flatten() {
        Some(Err(Errno::MOVED)) | None => kernel(),
        Some(r) => errno::to_c(r),
    }
}
