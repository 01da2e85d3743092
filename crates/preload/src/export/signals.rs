//! Dispositions of signals, see `crate::signal`.

use core::ffi::c_int;

use libc::sighandler_t;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    sig: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { crate::signal::sigaction(sig, new, old) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sigaction(
    sig: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { crate::signal::sigaction(sig, new, old) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(sig: c_int, disposition: sighandler_t) -> sighandler_t {
    // SAFETY: passed on unchanged.
    unsafe { crate::signal::signal(sig, disposition) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bsd_signal(sig: c_int, disposition: sighandler_t) -> sighandler_t {
    // SAFETY: passed on unchanged.
    unsafe { crate::signal::signal(sig, disposition) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ssignal(sig: c_int, disposition: sighandler_t) -> sighandler_t {
    // SAFETY: passed on unchanged.
    unsafe { crate::signal::signal(sig, disposition) }
}
