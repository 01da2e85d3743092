//! Shared futexes (futex(2), without `FUTEX_PRIVATE_FLAG`: the waiters are in several processes).

use crate::atomic::Shared32;
use std::time::Duration;

/// Sleeps while the word has this value, at most `timeout`. Returns at once when it has another one; may return
/// early (signal, spurious wake): the caller checks again.
pub fn futex_wait(word: &Shared32, value: u32, timeout: Option<Duration>) {
    let ts = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().cast_signed(),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    let ts_ptr = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is a live atomic, ts_ptr is null or points to a timespec that outlives the call.
    let _: i64 = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_atomic().as_ptr(),
            libc::FUTEX_WAIT,
            value,
            ts_ptr,
        )
    };
}

/// Wakes up to `n` sleepers.
pub fn futex_wake(word: &Shared32, n: u32) {
    // SAFETY: the word is a live atomic; the kernel only uses its address.
    let _: i64 = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_atomic().as_ptr(),
            libc::FUTEX_WAKE,
            n,
        )
    };
}
