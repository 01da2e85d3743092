//! Descriptors that go where the library cannot see what happens to them: they are handed over to the kernel first.
//!
//! - `fdopen`: stdio reads, writes and closes inside libc.
//! - `dup2` onto 0 to 2, also as an action of `posix_spawn`: whatever runs there may be any program.
//! - `exec` of a program that the library will not be in: a static or set-id one, or any with `FLYOVER_INHERIT=0`.
//! - a Unix socket's message to a process that the library is not in.

use core::ffi::{CStr, c_char, c_int};
use std::io::Write as _;

use flyover_sockets::Sockets;
use flyover_sockets::policy::Reason;

use crate::os_linux::File;
use crate::{environ, fast, init, target};

/// `fd` leaves our sight for good.
pub fn hand_over(fd: c_int) {
    if fd >= 0 && !fast::is_kernel(fd) {
        let _: Option<bool> = fast::inside(|lib| lib.give_to_kernel(fd, Reason::HandedOver));
    }
}

/// `old` is about to become `new`.
pub fn before_dup_onto(old: c_int, new: c_int) {
    if (0..=libc::STDERR_FILENO).contains(&new) && old != new && !fast::is_kernel(old) {
        let _: Option<bool> = fast::inside(|lib| lib.hand_over(old, Reason::HandedOver));
    }
}

/// This process, or one that shares its descriptors, is about to execute `path`.
pub fn before_exec(path: *const c_char) {
    // Who asks the stack for what it inherits is to find it there.
    let _: Option<()> = fast::inside(Sockets::before_others);
    let Some(lib) = init::lib().filter(|lib| lib.ever_attached()) else {
        return;
    };
    if path.is_null() {
        return;
    }
    // SAFETY: not null, the application's path.
    let path = unsafe { CStr::from_ptr(path) };
    if !environ::is_kept() || !target::takes_us(path) {
        let _: Option<()> = fast::inside(|_| lib.hand_over_inherited());
    }
}

/// As [`before_exec`] for the shell of `system` and `popen`.
pub fn before_shell() {
    before_exec(c"/bin/sh".as_ptr());
}

/// As [`before_exec`] for a file that is named as `execveat(2)` does: `path` below the directory `fd`, or `fd` itself.
pub fn before_exec_at(fd: c_int, path: *const c_char) {
    let _: Option<()> = fast::inside(Sockets::before_others);
    if init::lib().is_none_or(|lib| !lib.ever_attached()) {
        return;
    }
    // SAFETY: null, or the application's path.
    let path = (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) }.to_bytes());
    let path = path.unwrap_or_default();
    let mut full = [0u8; 512];
    let mut room = &mut full[..511];
    let named = match path {
        [b'/', ..] => room.write_all(path),
        [] => write!(room, "/proc/self/fd/{fd}"),
        _ if fd == libc::AT_FDCWD => room.write_all(path),
        _ => write!(room, "/proc/self/fd/{fd}/").and_then(|()| room.write_all(path)),
    };
    if named.is_ok()
        && let Ok(full) = CStr::from_bytes_until_nul(&full)
    {
        before_exec(full.as_ptr());
    }
}

/// As [`before_exec`] for a name that is looked for in PATH.
pub fn before_exec_file(file: *const c_char) {
    let _: Option<()> = fast::inside(Sockets::before_others);
    if file.is_null() || init::lib().is_none_or(|lib| !lib.ever_attached()) {
        return;
    }
    // SAFETY: not null, the application's name.
    let name = unsafe { CStr::from_ptr(file) }.to_bytes();
    if name.contains(&b'/') {
        before_exec(file);
        return;
    }
    // SAFETY: a C string; the result is libc's, or null.
    let path = unsafe { libc::getenv(c"PATH".as_ptr()) };
    if path.is_null() {
        return;
    }
    // SAFETY: not null, a C string of the environment.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    for dir in path.split(|b| *b == b':') {
        let mut full = [0u8; 512];
        let len = dir.len() + 1 + name.len();
        if len >= full.len() {
            continue;
        }
        let parts = dir.iter().chain(b"/").chain(name);
        full.iter_mut()
            .zip(parts)
            .for_each(|(to, from)| *to = *from);
        if let Ok(candidate) = CStr::from_bytes_until_nul(&full)
            && File::open(candidate).is_ok()
        {
            before_exec(candidate.as_ptr());
            return;
        }
    }
}

/// `fd` goes out in a message on the Unix socket `through`. A receiver that the library is in finds the endpoint by the
/// cookie; for any other one the kernel must have it. The receiver is whoever made the other end (`SO_PEERCRED`): with
/// a socket pair that is this process, and then its children, which have the library.
pub fn before_passing(lib: &'static Sockets, through: c_int, fd: c_int) {
    let _: Option<()> = fast::inside(|lib| {
        lib.ripen(fd);
        lib.share();
    });
    lib.mark_shared(fd);
    if fast::is_kernel(fd) {
        return;
    }
    let _: Option<()> = fast::inside(|lib| {
        // Nothing tells a receiver which of the stack's sets it is, not even one that has the library.
        lib.leave_set(fd);
        if lib.is_accelerated(fd) && !receiver_has_us(lib, through) {
            let _: bool = lib.let_go(fd);
        }
    });
}

fn receiver_has_us(lib: &Sockets, through: c_int) -> bool {
    let mut cred = [0u8; 12];
    let n = lib
        .os
        .getsockopt(through, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut cred);
    let pid = i32::from_ne_bytes([cred[0], cred[1], cred[2], cred[3]]);
    // Datagram sockets have no peer: whoever is bound to the name gets it, and nobody knows.
    if n != Ok(12) || pid <= 0 {
        return false;
    }
    pid == lib.os.getpid() || maps_us(pid)
}

/// True when the library is mapped in process `pid`.
fn maps_us(pid: i32) -> bool {
    const NEEDLE: &[u8] = b"libflyover";
    let mut path = [0u8; 32];
    let text = format!("/proc/{pid}/maps\0");
    path.iter_mut()
        .zip(text.bytes())
        .for_each(|(to, from)| *to = from);
    let Ok(Ok(file)) = CStr::from_bytes_until_nul(&path).map(File::open) else {
        return false;
    };
    let mut buf = [0u8; 4096];
    let (mut at, mut kept) = (0u64, 0usize);
    loop {
        let n = file.read_at(buf.get_mut(kept..).unwrap_or_default(), at);
        let have = kept + n;
        let Some(seen) = buf.get(..have).filter(|_| n > 0) else {
            return false;
        };
        if seen.windows(NEEDLE.len()).any(|w| w == NEEDLE) {
            return true;
        }
        at += n as u64;
        kept = have.min(NEEDLE.len());
        buf.copy_within(have - kept..have, 0);
    }
}
