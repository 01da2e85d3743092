//! A descriptor out of another process of this user. The other end of a pair that goes back to the kernel: rare, and then
//! it may cost a walk through `/proc`. The bell of a thread that is woken often.

use std::fs;
use std::path::Path;

use flyover_sockets::{Errno, Sockets};

use crate::{init, sys};

/// A copy of the descriptor of the socket with this inode, from whichever process holds it.
///
/// # Errors
/// `ENOENT`: no process whose descriptors we may list has it; else what `pidfd_open(2)` and `pidfd_getfd(2)` say.
pub(crate) fn socket(inode: u32) -> Result<i32, Errno> {
    let wanted = format!("socket:[{inode}]");
    let me = std::process::id();
    let mut failed = Errno(libc::ENOENT);
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != me) else {
            continue;
        };
        if let Some(fd) = number_in(&process.path().join("fd"), &wanted) {
            match take(pid, fd) {
                Ok(fd) => return Ok(fd),
                Err(e) => failed = e,
            }
        }
    }
    Err(failed)
}

/// The number under which a process has what its `/proc/PID/fd` shows as `wanted`.
fn number_in(list: &Path, wanted: &str) -> Option<i32> {
    let shows = |link: &fs::DirEntry| {
        fs::read_link(link.path()).is_ok_and(|shown| shown.as_os_str() == wanted)
    };
    let links = fs::read_dir(list).ok()?;
    let link = links.flatten().find(shows)?;
    link.file_name().to_str()?.parse().ok()
}

/// `eventfd-id` of proc_pid_fdinfo(5), which no two eventfds have that exist at the same time; 0: not to be had.
pub(crate) fn eventfd_id(fd: i32) -> u32 {
    let Ok(text) = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")) else {
        return 0;
    };
    let line = |l: &str| Some(l.strip_prefix("eventfd-id:")?.trim().parse::<u32>());
    // The first one is 0, which says nothing here.
    text.lines()
        .find_map(line)
        .and_then(Result::ok)
        .unwrap_or(0)
}

/// A copy of the eventfd that process `pid` has as `fd`, if it has the number `id`.
///
/// # Errors
/// `ENOENT`: it has not; `EPERM`: not from here; else what `pidfd_open(2)` and `pidfd_getfd(2)` say.
pub(crate) fn eventfd(pid: i32, fd: i32, id: u32) -> Result<i32, Errno> {
    // A child of `vfork` has a descriptor table of its own, and what it notes its parent would believe. A program in a
    // sandbox may be killed for a call that it never makes itself.
    let sandboxed = numbers(libc::SYS_prctl, [libc::PR_GET_SECCOMP as usize, 0, 0]) != Ok(0);
    if sandboxed || init::lib().is_none_or(Sockets::is_foreign_child) {
        return Err(Errno(libc::EPERM));
    }
    let pid = u32::try_from(pid).map_err(|_| Errno(libc::ENOENT))?;
    let taken = take(pid, fd)?;
    if id == 0 || eventfd_id(taken) != id {
        let _: Result<usize, Errno> = numbers(libc::SYS_close, [taken as usize, 0, 0]);
        return Err(Errno(libc::ENOENT));
    }
    Ok(taken)
}

fn take(pid: u32, fd: i32) -> Result<i32, Errno> {
    let process = numbers(libc::SYS_pidfd_open, [pid as usize, 0, 0])?;
    // It is made close-on-exec, pidfd_getfd(2).
    let taken = numbers(libc::SYS_pidfd_getfd, [process, fd as usize, 0]);
    let _: Result<usize, Errno> = numbers(libc::SYS_close, [process, 0, 0]);
    taken.map(|fd| fd as i32)
}

/// A system call that takes numbers only.
fn numbers(nr: libc::c_long, a: [usize; 3]) -> Result<usize, Errno> {
    // SAFETY: no pointers are passed; the kernel checks all numbers.
    unsafe { sys::call(nr, [a[0], a[1], a[2], 0, 0, 0]) }
}
