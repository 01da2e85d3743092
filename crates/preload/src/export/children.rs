//! Waiting for children: who has heard of a child's end finds that its connections have ended.

use core::ffi::{c_char, c_int, c_void};

use libc::{id_t, idtype_t, pid_t, rusage, siginfo_t};

use crate::{errno, fast, next};

fn child_ended() {
    let e = errno::get();
    let _: Option<()> = fast::inside(|lib| lib.child_ended());
    errno::set(e);
}

/// What a wait returned, and where it put the status.
///
/// # Safety
/// `status` is null or what the kernel has just written to.
unsafe fn waited(pid: pid_t, status: *const c_int) -> pid_t {
    let goes_on = || {
        // SAFETY: see above.
        let status = unsafe { status.as_ref() };
        status.is_some_and(|s| libc::WIFSTOPPED(*s) || libc::WIFCONTINUED(*s))
    };
    if pid > 0 && !goes_on() {
        child_ended();
    }
    pid
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn wait(status: *mut c_int) -> pid_t {
    // SAFETY: passed on unchanged.
    unsafe { waited(next::wait(status), status) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t {
    // SAFETY: passed on unchanged.
    unsafe { waited(next::waitpid(pid, status, options), status) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn wait3(status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
    // SAFETY: passed on unchanged.
    unsafe { waited(next::wait3(status, options, usage), status) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn wait4(
    pid: pid_t,
    status: *mut c_int,
    options: c_int,
    usage: *mut rusage,
) -> pid_t {
    // SAFETY: passed on unchanged.
    unsafe { waited(next::wait4(pid, status, options, usage), status) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn waitid(
    kind: idtype_t,
    id: id_t,
    info: *mut siginfo_t,
    options: c_int,
) -> c_int {
    // SAFETY: passed on unchanged.
    let ret = unsafe { next::waitid(kind, id, info, options) };
    let ends = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
    // SAFETY: null, or what the kernel has just written to.
    let ended = |i: &siginfo_t| unsafe { i.si_pid() } != 0 && ends.contains(&i.si_code);
    // SAFETY: as above.
    if ret == 0 && unsafe { info.as_ref() }.is_none_or(ended) {
        child_ended();
    }
    ret
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pclose(stream: *mut c_void) -> c_int {
    // SAFETY: passed on unchanged.
    let ret = unsafe { next::pclose(stream) };
    child_ended();
    ret
}

/// `system`, which waits in libc.
///
/// # Safety
/// As the C function.
pub unsafe fn system(command: *const c_char) -> c_int {
    // SAFETY: passed on unchanged.
    let ret = unsafe { next::system(command) };
    child_ended();
    ret
}
