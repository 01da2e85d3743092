//! Cancellation of threads (`pthread_cancel(3)`). libc ends a cancelled thread in its own blocking calls, which ours
//! are not: a thread that sleeps in the library is woken, lets go of everything, and ends itself at a cancellation
//! point. A thread that may be cancelled anywhere (`PTHREAD_CANCEL_ASYNCHRONOUS`) may not be so inside the library,
//! where it could hold the stack's lock.

use core::ffi::{c_int, c_void};

use flyover_sockets::enter;

use crate::{fast, next};

/// `PTHREAD_CANCEL_DEFERRED` and `PTHREAD_CANCEL_ASYNCHRONOUS` of glibc and musl.
const DEFERRED: c_int = 0;
const ASYNCHRONOUS: c_int = 1;

/// The thread enters the library; true when it could have been cancelled anywhere until now.
#[inline]
pub fn hold_back() -> bool {
    if enter::may_be_cancelled_anywhere() && !enter::is_inside() {
        set_type(DEFERRED);
        return true;
    }
    false
}

/// The thread leaves the library.
#[inline]
pub fn let_go(at_once: bool) {
    if at_once {
        set_type(ASYNCHRONOUS);
    }
}

#[cold]
fn set_type(kind: c_int) {
    // SAFETY: a plain number; the old type is not wanted.
    let _: c_int = unsafe { next::pthread_setcanceltype(kind, core::ptr::null_mut()) };
}

/// `pthread_setcanceltype(3)`.
///
/// # Safety
/// As the C function.
pub unsafe fn setcanceltype(kind: c_int, old: *mut c_int) -> c_int {
    // SAFETY: passed on unchanged.
    let r = unsafe { next::pthread_setcanceltype(kind, old) };
    if r == 0 {
        enter::set_cancelled_anywhere(kind == ASYNCHRONOUS);
    }
    r
}

/// `pthread_cancel(3)`.
///
/// # Safety
/// As the C function.
pub unsafe fn cancel(thread: *mut c_void) -> c_int {
    // SAFETY: passed on unchanged.
    let r = unsafe { next::pthread_cancel(thread) };
    if r == 0 {
        let _: Option<()> = fast::inside(|lib| {
            enter::note_cancel();
            lib.wake_sleepers();
        });
    }
    r
}
