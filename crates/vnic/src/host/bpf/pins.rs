//! A bpffs that is mounted nowhere: the instances of the object find its maps there by name, attachments
//! have names there too, and it vanishes, with what only it holds, when nobody has its descriptor any longer.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

const FSOPEN_CLOEXEC: libc::c_long = 1;
const FSMOUNT_CLOEXEC: libc::c_long = 1;
const FSCONFIG_SET_STRING: libc::c_long = 1;
const FSCONFIG_CMD_CREATE: libc::c_long = 6;
const BPFFS: &CStr = c"bpf";
/// Only root gets in: unprivileged processes may hold the descriptor.
const MODE: (&CStr, &CStr) = (c"mode", c"0700");

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
        let (key, value) = (MODE.0.as_ptr(), MODE.1.as_ptr());
        // SAFETY: key and value are C strings that live during the call; the result is checked.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                fd,
                FSCONFIG_SET_STRING,
                key,
                value,
                0 as libc::c_long,
            )
        };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
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

    /// One that an earlier process made. The caller has made sure that it is one.
    pub(super) fn of(mount: OwnedFd) -> Self {
        Self { mount }
    }

    /// The interfaces for which there is a name that begins so.
    pub(super) fn interfaces(&self, kind: &str) -> io::Result<Vec<u32>> {
        let names = std::fs::read_dir(self.path())?;
        let numbers = names.flatten().filter_map(|name| {
            let name = name.file_name();
            name.to_str()?.strip_prefix(kind)?.parse().ok()
        });
        Ok(numbers.collect())
    }

    /// Keeps it, and what is in it.
    pub(super) fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
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
