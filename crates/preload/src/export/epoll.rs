//! The epoll family.

use core::ffi::c_int;

use flyover_sockets::Errno;
use flyover_sockets::os::EpollEvent;
use libc::{epoll_event, sigset_t, timespec};

use super::{answer, result};
use crate::signal::mask::Waiting;
use crate::{args, errno, fast, next};

fn made(fd: c_int) -> c_int {
    if fd >= 0 {
        let _ = fast::inside(|lib| lib.on_epoll_create(fd));
    }
    fd
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_create(size: c_int) -> c_int {
    // SAFETY: a plain number.
    made(unsafe { next::epoll_create(size) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_create1(flags: c_int) -> c_int {
    // SAFETY: a plain number.
    made(unsafe { next::epoll_create1(flags) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_ctl(
    epfd: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::epoll_ctl(epfd, op, fd, event) } as isize;
    if fast::is_kernel(epfd) {
        return kernel() as c_int;
    }
    // SAFETY: null, or the application's event, read without alignment.
    let wanted = (!event.is_null()).then(|| unsafe { event.read_unaligned() });
    let wanted = wanted.map(|e| EpollEvent {
        events: e.events,
        data: e.u64,
    });
    answer(|lib| lib.epoll_ctl(epfd, op, fd, wanted), kernel) as c_int
}

/// Nanoseconds as milliseconds, rounded up; none is for ever.
fn millis(left: Option<u64>) -> c_int {
    left.map_or(-1, |ns| {
        c_int::try_from(ns.div_ceil(1_000_000)).unwrap_or(c_int::MAX)
    })
}

/// Events that a call asks for as a rule: these fit on the stack.
const BATCH: usize = 128;
/// What the kernel takes for a number of events (`EP_MAX_EVENTS`).
const MAX_EVENTS: c_int = c_int::MAX / size_of::<epoll_event>() as c_int;
/// Most events that one call returns; more are there at the next call.
const MOST: usize = 16_384;

/// Waits as `look` does when it is given the time-out, with `mask` in force meanwhile. What is ready at once is
/// returned without a change of the mask, and a time-out of 0 is never interrupted.
fn masked(
    mask: Option<u64>,
    timeout: Option<u64>,
    mut look: impl FnMut(Option<u64>) -> Option<Result<usize, Errno>>,
) -> Option<Result<usize, Errno>> {
    let Some(mask) = mask else {
        return look(timeout);
    };
    match look(Some(0)) {
        Some(Ok(0)) if timeout != Some(0) => {}
        other => return other,
    }
    let waiting = Waiting::under(mask);
    let got = look(timeout);
    waiting.end();
    got
}

/// # Safety
/// `events` must be writable for `max` events.
unsafe fn wait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: Option<u64>,
    mask: Option<u64>,
    mut kernel: impl FnMut(Option<u64>) -> isize,
) -> c_int {
    if fast::is_kernel(epfd) || !(1..=MAX_EVENTS).contains(&max) || events.is_null() {
        return kernel(timeout) as c_int;
    }
    fast::cancellation_point();
    let start = timeout.and_then(|_| fast::inside(|lib| lib.os.now()));
    let mut left = timeout;
    loop {
        let mut in_kernel = false;
        let mut few = [EpollEvent::default(); BATCH];
        let mut many = Vec::new();
        let list: &mut [EpollEvent] = if max as usize > BATCH {
            many.resize(MOST.min(max as usize), EpollEvent::default());
            &mut many
        } else {
            &mut few[..max as usize]
        };
        let n = result(
            |lib| masked(mask, left, |left| lib.epoll_wait(epfd, list, left)),
            || {
                in_kernel = true;
                kernel(left)
            },
        );
        if !in_kernel {
            for (i, e) in list
                .iter()
                .take(usize::try_from(n).unwrap_or(0))
                .enumerate()
            {
                let e = epoll_event {
                    events: e.events,
                    u64: e.data,
                };
                // SAFETY: `i < n <= max`; written without alignment.
                unsafe { events.add(i).write_unaligned(e) };
            }
            return n as c_int;
        }
        // The kernel's events may hold one of ours that says: the set has accelerated members now.
        let got = usize::try_from(n).unwrap_or(0);
        let lib = crate::init::lib();
        let keep = |data: u64| !lib.is_some_and(|lib| lib.is_own_event(data));
        let mut kept = 0;
        for i in 0..got {
            // SAFETY: the kernel has filled in `got` events.
            let e = unsafe { events.add(i).read_unaligned() };
            if keep(e.u64) {
                // SAFETY: `kept <= i`.
                unsafe { events.add(kept).write_unaligned(e) };
                kept += 1;
            }
        }
        let ours = fast::inside(|lib| lib.after_kernel_wait(epfd)).unwrap_or(false);
        if n < 0 || kept > 0 || got == 0 || !ours {
            return if n < 0 { n as c_int } else { kept as c_int };
        }
        if let (Some(span), Some(start)) = (timeout, start) {
            let now = fast::inside(|lib| lib.os.now()).unwrap_or(start);
            left = Some(span.saturating_sub(now.saturating_sub(start)));
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe {
        wait(epfd, events, max, args::millis(timeout), None, |left| {
            next::epoll_wait(epfd, events, max, millis(left)) as isize
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_pwait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe {
        wait(
            epfd,
            events,
            max,
            args::millis(timeout),
            args::mask(mask),
            |left| next::epoll_pwait(epfd, events, max, millis(left), mask) as isize,
        )
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_pwait2(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: null, or the application's timeout.
    let span: Result<Option<u64>, Errno> = unsafe { args::timespec(timeout) };
    match span {
        // SAFETY: passed on unchanged.
        Ok(span) => unsafe {
            wait(epfd, events, max, span, args::mask(mask), |_| {
                next::epoll_pwait2(epfd, events, max, timeout, mask) as isize
            })
        },
        Err(e) => errno::to_c(Err(e)) as c_int,
    }
}
