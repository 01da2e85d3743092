//! A bpffs that is mounted nowhere: the instances of the object find its maps there by name, nobody else
//! finds anything, and it vanishes with this process.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

const FSOPEN_CLOEXEC: libc::c_long = 1;
const FSMOUNT_CLOEXEC: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
const BPFFS: &CStr = c"bpf";

#[derive(Debug)]
pub(super) struct Pins {
    mount: OwnedFd,
}

impl Pins {
    /// Makes the file system (fsopen(2), Linux 5.2).
    pub(super) fn new() -> io::Result<Self> {
        let name = BPFFS.as_ptr();
        // SAFETY: the name is a C string that lives during the call; the result is checked.
        let context = own(unsafe { libc::syscall(libc::SYS_fsopen, name, FSOPEN_CLOEXEC) })?;
        let (fd, none) = (context.as_raw_fd(), core::ptr::null::<u8>());
        // SAFETY: no pointers but null; the result is checked.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                fd,
                FSCONFIG_CMD_CREATE,
                none,
                none,
                0 as libc::c_long,
            )
        };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: no pointers; the result is checked.
        let mount =
            unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0 as libc::c_long) };
        Ok(Self { mount: own(mount)? })
    }

    /// Its root, as long as self lives, for this process.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_raw_fd()))
    }
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: a descriptor that a system call just returned, owned by nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
