//! `Result` -> C return value and `errno`.

use core::ffi::c_int;

use flyover_sockets::Errno;

/// Sets the thread's `errno`.
pub fn set(e: c_int) {
    // SAFETY: __errno_location always returns the thread's own, valid location.
    unsafe { *libc::__errno_location() = e };
}

/// The thread's `errno`.
pub fn get() -> c_int {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() }
}

/// `-1` with `errno` set, or the value.
pub fn to_c(r: Result<usize, Errno>) -> isize {
    match r {
        Ok(v) => v as isize,
        Err(Errno(e)) => {
            set(e);
            -1
        }
    }
}
