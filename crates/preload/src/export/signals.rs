//! Dispositions of signals, see `crate::signal`; cancellation of threads, see `crate::cancel`.

use core::ffi::{c_int, c_void};

use libc::sighandler_t;

use crate::cancel;
use crate::signal::disposition;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    sig: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { disposition::sigaction(sig, new, old) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sigaction(
    sig: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { disposition::sigaction(sig, new, old) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(sig: c_int, function: sighandler_t) -> sighandler_t {
    disposition::signal(sig, function)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bsd_signal(sig: c_int, function: sighandler_t) -> sighandler_t {
    disposition::signal(sig, function)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ssignal(sig: c_int, function: sighandler_t) -> sighandler_t {
    disposition::signal(sig, function)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sysv_signal(sig: c_int, function: sighandler_t) -> sighandler_t {
    disposition::sysv_signal(sig, function)
}

/// What `signal` is compiled to under strict standards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sysv_signal(sig: c_int, function: sighandler_t) -> sighandler_t {
    disposition::sysv_signal(sig, function)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn siginterrupt(sig: c_int, interrupt: c_int) -> c_int {
    disposition::siginterrupt(sig, interrupt != 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigset(sig: c_int, function: sighandler_t) -> sighandler_t {
    disposition::sigset(sig, function)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigignore(sig: c_int) -> c_int {
    disposition::sigignore(sig)
}

/// `pthread_t` is a number or a pointer, of the size of one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cancel(thread: *mut c_void) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { cancel::cancel(thread) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { cancel::setcanceltype(kind, old) }
}
