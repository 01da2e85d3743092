//! poll, ppoll, select, pselect.

use core::ffi::c_int;

use flyover_sockets::os::{PollFd, Ran};
use flyover_sockets::wait::select::{Bits, BitsMut, SelectSets};
use flyover_sockets::{Errno, Sockets};
use libc::{fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use super::result;
use crate::signal::mask::Waiting;
use crate::{args, errno, fast, next, signal};

/// True when every member goes straight to libc; looks at the table only.
///
/// # Safety
/// `fds` must be readable for `n` members.
unsafe fn all_kernel(fds: *const pollfd, n: nfds_t) -> bool {
    // SAFETY: `i < n`.
    (0..n as usize).all(|i| fast::is_kernel(unsafe { (*fds.add(i)).fd }))
}

/// Waits as `look` does when it is given the time-out, with `mask` in force meanwhile. What is ready at once is
/// returned without a change of the mask: no signal counts then.
fn masked(
    mask: Option<u64>,
    timeout: Option<u64>,
    mut look: impl FnMut(Option<u64>) -> Option<Result<usize, Errno>>,
) -> Option<Result<usize, Errno>> {
    let Some(mask) = mask else {
        return look(timeout);
    };
    match look(Some(0)) {
        Some(Ok(0)) => {}
        other => return other,
    }
    let waiting = Waiting::under(mask);
    let mut got = look(timeout);
    if got == Some(Ok(0)) && signal::run_deferred() != Ran::None {
        // A signal that came at the very end, or with a time-out of 0, is an interruption all the same.
        got = Some(Err(Errno::EINTR));
    }
    waiting.end();
    got
}

/// # Safety
/// `fds` must be writable for `n` members.
unsafe fn wait(
    lib: &'static Sockets,
    fds: *mut pollfd,
    n: nfds_t,
    timeout: Option<u64>,
    mask: Option<u64>,
) -> Option<Result<usize, Errno>> {
    // SAFETY: PollFd has the layout of pollfd; writable by the caller's promise.
    let list = unsafe { core::slice::from_raw_parts_mut(fds.cast::<PollFd>(), n as usize) };
    masked(mask, timeout, |timeout| lib.poll(list, timeout))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn poll(fds: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::poll(fds, n, timeout) } as isize;
    // SAFETY: the application's array.
    if n == 0 || fds.is_null() || n > 1 << 20 || unsafe { all_kernel(fds, n) } {
        return kernel() as c_int;
    }
    fast::cancellation_point();
    // SAFETY: the application's array.
    result(
        |lib| unsafe { wait(lib, fds, n, args::millis(timeout), None) },
        kernel,
    ) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __poll_chk(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: c_int,
    room: usize,
) -> c_int {
    super::stream::check((n as usize).saturating_mul(size_of::<pollfd>()), room);
    // SAFETY: passed on unchanged.
    unsafe { poll(fds, n, timeout) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ppoll(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::ppoll(fds, n, timeout, mask) } as isize;
    // SAFETY: the application's array.
    if n == 0 || fds.is_null() || n > 1 << 20 || unsafe { all_kernel(fds, n) } {
        return kernel() as c_int;
    }
    fast::cancellation_point();
    // SAFETY: null, or the application's timeout.
    let span = match unsafe { args::timespec(timeout) } {
        Ok(s) => s,
        Err(e) => return errno::to_c(Err(e)) as c_int,
    };
    // SAFETY: the application's array and mask.
    result(
        |lib| unsafe { wait(lib, fds, n, span, args::mask(mask)) },
        kernel,
    ) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __ppoll_chk(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: usize,
) -> c_int {
    super::stream::check((n as usize).saturating_mul(size_of::<pollfd>()), room);
    // SAFETY: passed on unchanged.
    unsafe { ppoll(fds, n, timeout, mask) }
}

/// The words of an `fd_set` that `n` descriptors need; programs may pass sets longer than `FD_SETSIZE`.
fn words(n: c_int) -> usize {
    (n.max(0) as usize).div_ceil(64)
}

/// # Safety
/// The sets must be null or valid for `n` bits.
unsafe fn watched<'a>(n: c_int, sets: [*mut fd_set; 3]) -> SelectSets<'a> {
    let view = |p: *mut fd_set| -> BitsMut<'a> {
        if p.is_null() {
            return BitsMut(&mut []);
        }
        // SAFETY: valid for `n` bits by the caller's promise; the kernel reads and writes whole words, too.
        BitsMut(unsafe { core::slice::from_raw_parts_mut(p.cast::<u64>(), words(n)) })
    };
    SelectSets {
        read: view(sets[0]),
        write: view(sets[1]),
        except: view(sets[2]),
    }
}

/// True when every member goes straight to libc.
///
/// # Safety
/// The sets must be null or valid for `n` bits.
unsafe fn all_kernel_sets(n: c_int, sets: [*mut fd_set; 3]) -> bool {
    sets.into_iter().filter(|p| !p.is_null()).all(|p| {
        // SAFETY: valid for `n` bits by the caller's promise.
        let bits = Bits(unsafe { core::slice::from_raw_parts(p.cast::<u64>(), words(n)) });
        bits.iter(n).all(fast::is_kernel)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn select(
    n: c_int,
    r: *mut fd_set,
    w: *mut fd_set,
    e: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::select(n, r, w, e, timeout) } as isize;
    // SAFETY: the application's sets.
    if n <= 0 || unsafe { all_kernel_sets(n, [r, w, e]) } {
        return kernel() as c_int;
    }
    fast::cancellation_point();
    // SAFETY: null, or the application's timeout.
    let limit = unsafe { timeout.as_mut() };
    let span = match limit.as_deref() {
        None => None,
        Some(t) => match (u64::try_from(t.tv_sec), u64::try_from(t.tv_usec)) {
            (Ok(s), Ok(us)) => Some(
                s.saturating_mul(1_000_000_000)
                    .saturating_add(us.saturating_mul(1_000)),
            ),
            _ => return errno::to_c(Err(Errno::EINVAL)) as c_int,
        },
    };
    // SAFETY: the application's sets.
    let sets = || unsafe { watched(n, [r, w, e]) };
    result(
        |lib| {
            let start = lib.os.now();
            let got = lib.select(n, sets(), span);
            if let (Some(_), Some(t), Some(span)) = (&got, limit, span) {
                // Linux tells how much of the time is left.
                let left = span.saturating_sub(lib.os.now().saturating_sub(start));
                t.tv_sec = (left / 1_000_000_000) as i64;
                t.tv_usec = (left % 1_000_000_000 / 1_000) as i64;
            }
            got
        },
        kernel,
    ) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pselect(
    n: c_int,
    r: *mut fd_set,
    w: *mut fd_set,
    e: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::pselect(n, r, w, e, timeout, mask) } as isize;
    // SAFETY: the application's sets.
    if n <= 0 || unsafe { all_kernel_sets(n, [r, w, e]) } {
        return kernel() as c_int;
    }
    fast::cancellation_point();
    // SAFETY: null, or the application's timeout.
    let span = match unsafe { args::timespec(timeout) } {
        Ok(s) => s,
        Err(e) => return errno::to_c(Err(e)) as c_int,
    };
    result(
        |lib| {
            // SAFETY: null, or the application's mask.
            let mask = unsafe { args::mask(mask) };
            // SAFETY: the application's sets.
            let sets = || unsafe { watched(n, [r, w, e]) };
            let asked = mask.map(|_| sets().copy());
            // A look in vain empties the sets; a call that fails leaves them as they were.
            let restore = || asked.iter().for_each(|a| sets().put(a));
            let got = masked(mask, span, |span| {
                restore();
                lib.select(n, sets(), span)
            });
            if matches!(got, Some(Err(_))) {
                restore();
            }
            got
        },
        kernel,
    ) as c_int
}
