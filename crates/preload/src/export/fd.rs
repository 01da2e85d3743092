//! Descriptor numbers: close, dup, fcntl, ioctl.

use core::ffi::{c_char, c_int, c_ulong, c_void};

use flyover_sockets::policy::Reason;
use flyover_sockets::process::Answer;
use flyover_sockets::{Errno, Sockets};

use super::again::{Does, settled};
use super::answer;
use crate::{args, errno, fast, leave, next};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if !fast::is_known_kernel(fd) {
        fast::cancellation_point();
    }
    // SAFETY: a plain number.
    answer(|lib| lib.close(fd), || unsafe { next::close(fd) } as isize) as c_int
}

/// `CLOSE_RANGE_UNSHARE` and `CLOSE_RANGE_CLOEXEC` close nothing of ours here and now.
const CLOEXEC: c_int = 4;
const UNSHARE: c_int = 2;

fn close_gaps(lib: &Sockets, first: u32, last: u32) -> c_int {
    let mut r = 0;
    lib.close_range(first, last, |from, to| {
        // SAFETY: plain numbers.
        let one = unsafe { next::close_range(from, to, 0) };
        if one < 0 {
            r = one;
        }
    });
    r
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close_range(first: u32, last: u32, flags: c_int) -> c_int {
    // SAFETY: plain numbers.
    let kernel = || unsafe { next::close_range(first, last, flags) } as isize;
    if flags & CLOEXEC != 0 || flags & !(CLOEXEC | UNSHARE) != 0 || first > last {
        return kernel() as c_int;
    }
    answer(
        |lib| {
            if close_gaps(lib, first, last) < 0 {
                Answer::Kernel
            } else {
                Answer::Value(0)
            }
        },
        kernel,
    ) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn closefrom(first: c_int) {
    let from = first.max(0) as u32;
    if fast::inside(|lib| close_gaps(lib, from, u32::MAX)).is_none() {
        // SAFETY: a plain number.
        unsafe { next::closefrom(first) };
    }
}

fn copied(old: c_int, new: c_int) -> c_int {
    if new >= 0 {
        let _ = fast::inside(|lib| lib.on_dup(old, new));
    }
    new
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup(fd: c_int) -> c_int {
    // SAFETY: a plain number.
    copied(fd, unsafe { next::dup(fd) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    leave::before_dup_onto(old, new);
    // SAFETY: plain numbers.
    answer(
        |lib| lib.dup_onto(old, new, None),
        || unsafe { next::dup2(old, new) } as isize,
    ) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    if flags & !libc::O_CLOEXEC != 0 || old == new {
        errno::set(libc::EINVAL);
        return -1;
    }
    leave::before_dup_onto(old, new);
    // SAFETY: plain numbers.
    answer(
        |lib| lib.dup_onto(old, new, Some(flags)),
        || unsafe { next::dup3(old, new, flags) } as isize,
    ) as c_int
}

/// `F_SETOWN_EX` of asm-generic/fcntl.h.
const F_SETOWN_EX: c_int = 15;

/// `fdopen(3)`: from here on libc reads, writes and closes where nobody can look.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdopen(fd: c_int, mode: *const c_char) -> *mut c_void {
    leave::hand_over(fd);
    // SAFETY: passed on unchanged.
    unsafe { next::fdopen(fd, mode) }
}

/// `pidfd_getfd(2)`: a descriptor out of another process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pidfd_getfd(
    pidfd: c_int,
    target: c_int,
    flags: core::ffi::c_uint,
) -> c_int {
    // SAFETY: plain numbers.
    let fd = unsafe { next::pidfd_getfd(pidfd, target, flags) };
    if fd >= 0 {
        // Looked at now: who made it does not know that we hold it, and may end.
        let _: Option<()> = fast::inside(|lib| {
            lib.on_unknown(fd);
            let _ = lib.look(fd);
        });
    }
    fd
}

// A C function with variable arguments cannot be defined in stable Rust. Both calls have one optional argument of the
// size of a register, which arrives in the third argument register all the same (System V x86-64 ABI 3.5.7; AAPCS64
// for Linux).

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::fcntl(fd, cmd, arg) };
    match cmd {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => copied(fd, kernel()),
        libc::F_SETFL | libc::F_GETFL if !fast::is_kernel(fd) => {
            let ours = |lib: &Sockets| lib.fcntl(fd, cmd, arg);
            settled(fd, Does::Changes, ours, || kernel() as isize) as c_int
        }
        libc::F_SETOWN | F_SETOWN_EX if !fast::is_kernel(fd) => {
            // Whoever owns a socket wants its SIGURG, which only the kernel can send.
            let _ = fast::inside(|lib| lib.give_to_kernel(fd, Reason::Option));
            kernel()
        }
        _ => kernel(),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl64(fd: c_int, cmd: c_int, arg: usize) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { fcntl(fd, cmd, arg) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: usize) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::ioctl(fd, request, arg) } as isize;
    if fast::is_kernel(fd) || !flyover_sockets::io::ioctl::is_ours(request) || arg == 0 {
        return kernel() as c_int;
    }
    let does = match request {
        libc::FIONBIO | libc::FIOASYNC => Does::Changes,
        _ => Does::Asks,
    };
    settled(
        fd,
        does,
        |lib| {
            // All the requests that are ours take a pointer to an int, and two read it.
            let mut value = [0u8; 4];
            let reads = matches!(request, libc::FIONBIO | libc::FIOASYNC);
            if reads {
                // SAFETY: probed.
                match unsafe { args::bytes(arg as *const c_void, 4) } {
                    Ok(b) => value.copy_from_slice(b),
                    Err(e) => return lib.fault(fd, e),
                }
            }
            let answer = lib.ioctl(fd, request, &mut value);
            if reads || !matches!(answer, Answer::Value(_)) {
                return answer;
            }
            // SAFETY: probed.
            match unsafe { args::bytes_mut(arg as *mut c_void, 4) } {
                Ok(b) if b.len() == 4 => b.copy_from_slice(&value),
                _ => return Answer::Error(Errno::EFAULT),
            }
            answer
        },
        kernel,
    ) as c_int
}

/// `SIOCATMARK` of asm-generic/sockios.h.
const SIOCATMARK: c_ulong = 0x8905;

/// glibc's own would make the request without coming by here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sockatmark(fd: c_int) -> c_int {
    let mut at: c_int = 0;
    // SAFETY: the request writes an int to a live local.
    match unsafe { ioctl(fd, SIOCATMARK, &raw mut at as usize) } {
        -1 => -1,
        _ => at,
    }
}
