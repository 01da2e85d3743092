//! The life of a socket: socket, bind, listen, accept, connect, shutdown, names and options.

use core::cell::Cell;
use core::ffi::{c_int, c_void};

use flyover_sockets::entry::Entry;
use flyover_sockets::process::Answer;
use flyover_sockets::{Errno, Sockets};
use libc::{sockaddr, socklen_t};

use super::again::{Does, Moves, settled, stream};
use super::stream::or_kernel;
use super::{answer, result};
use crate::errno;
use crate::{args, fast, init, next};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: plain numbers.
    let fd = unsafe { next::socket(domain, kind, protocol) };
    if fd >= 0
        && let Some(lib) = init::lib()
    {
        lib.on_socket(fd, domain, kind, protocol);
    }
    fd
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socketpair(
    domain: c_int,
    kind: c_int,
    protocol: c_int,
    sv: *mut c_int,
) -> c_int {
    // SAFETY: passed on unchanged.
    let r = unsafe { next::socketpair(domain, kind, protocol, sv) };
    if r == 0
        && let Some(lib) = init::lib()
    {
        for i in 0..2 {
            // SAFETY: the call succeeded, so there are two descriptors.
            let _ = lib.table.store(unsafe { *sv.add(i) }, Entry::Kernel(0));
        }
    }
    r
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::bind(fd, addr, len) } as isize;
    if fast::is_kernel(fd) {
        return kernel() as c_int;
    }
    // SAFETY: the application's address of the length it says.
    let Ok(Some(a)) = (unsafe { args::addr(addr, len) }) else {
        return kernel() as c_int;
    };
    answer(|lib| lib.bind(fd, &a), kernel) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    // SAFETY: plain numbers.
    let kernel = || unsafe { next::listen(fd, backlog) } as isize;
    if fast::is_kernel(fd) {
        return kernel() as c_int;
    }
    answer(|lib| lib.listen(fd, backlog), kernel) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::connect(fd, addr, len) } as isize;
    if fast::is_kernel(fd) {
        return kernel() as c_int;
    }
    // SAFETY: the application's address of the length it says.
    let Ok(Some(a)) = (unsafe { args::addr(addr, len) }) else {
        // What is no address at all the kernel finds first.
        let length = size_of::<libc::sa_family_t>()..=size_of::<libc::sockaddr_storage>();
        // SAFETY: probed.
        let there = || unsafe { args::bytes(addr.cast(), len as usize) }.is_ok();
        return match length.contains(&(len as usize)) && there() {
            true => answer(|lib| lib.connect_nowhere(fd), kernel) as c_int,
            false => kernel() as c_int,
        };
    };
    fast::cancellation_point();
    let connected = || {
        let r = kernel();
        let e = errno::get();
        // What goes on in the background counts as well.
        if r == 0 || matches!(e, libc::EINPROGRESS | libc::EINTR) {
            let _: Option<()> = fast::inside(|lib| lib.connected_by_kernel(fd, &a, r == 0));
            errno::set(e);
        }
        r
    };
    answer(|lib| lib.connect(fd, &a), connected) as c_int
}

/// `accept` and `accept4`.
///
/// # Safety
/// As the C functions.
unsafe fn accept_any(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
    kernel: impl FnOnce() -> isize,
) -> c_int {
    let through_libc = || {
        // SAFETY: the application's; probed. The kernel writes there how long the address is.
        let room = unsafe { Room::of(len) }.was;
        let mut own = flyover_sockets::Addr::default();
        let mut own_len: socklen_t = 128;
        let new = match addr.is_null() {
            // SAFETY: our buffer of the length that is said.
            true => unsafe {
                let p = own.buffer().as_mut_ptr().cast();
                next::accept4(fd, p, &raw mut own_len, flags) as isize
            },
            false => kernel(),
        };
        if new >= 0
            && let Some(lib) = init::lib()
        {
            own.set_len(own_len as usize);
            let peer = match addr.is_null() {
                true => Some(own),
                // SAFETY: the kernel has written both.
                false => unsafe { accepted_from(addr, len, room) },
            };
            lib.on_kernel_accept(fd, new as c_int, peer);
        }
        new
    };
    if fast::is_kernel(fd) {
        return through_libc() as c_int;
    }
    fast::cancellation_point();
    result(
        |lib| {
            let got = lib.accept(fd, flags)?;
            Some(got.and_then(|a| {
                // SAFETY: the application's buffer of the length it says.
                let put = unsafe { args::put_addr(&a.peer, addr, len) };
                if put.is_err() && lib.close(a.fd) == Answer::Kernel {
                    // As in the kernel, the connection is accepted and lost.
                    // SAFETY: a plain number.
                    let _ = unsafe { next::close(a.fd) };
                }
                put.map(|()| a.fd as usize)
            }))
        },
        through_libc,
    ) as c_int
}

/// The address that the kernel has written, if there was room for all of it.
///
/// # Safety
/// `addr` and `len` are as the kernel has filled them.
unsafe fn accepted_from(
    addr: *const sockaddr,
    len: *const socklen_t,
    room: Option<socklen_t>,
) -> Option<flyover_sockets::Addr> {
    // SAFETY: the kernel has written there.
    let n = unsafe { len.read_unaligned() };
    // SAFETY: so many bytes are the kernel's.
    let known = (n <= room?).then(|| unsafe { args::addr(addr, n) })?;
    known.ok().flatten()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe { accept_any(fd, addr, len, 0, || next::accept(fd, addr, len) as isize) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    // SAFETY: passed on unchanged.
    unsafe {
        accept_any(fd, addr, len, flags, || {
            next::accept4(fd, addr, len, flags) as isize
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    // SAFETY: plain numbers.
    let kernel = || unsafe { next::shutdown(fd, how) } as isize;
    if fast::is_kernel(fd) {
        return kernel() as c_int;
    }
    answer(|lib| lib.shutdown(fd, how), kernel) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::getsockname(fd, addr, len) } as isize;
    if fast::is_kernel(fd) {
        return kernel() as c_int;
    }
    // SAFETY: the application's length; probed.
    let room = unsafe { Room::of(len) };
    // SAFETY: the application's buffer of the length it says.
    let copy_out = |a: flyover_sockets::Addr| unsafe { put(&a, addr, len) };
    let ours = |lib: &'static Sockets| {
        room.restore();
        or_kernel(lib.getsockname(fd).map(copy_out))
    };
    let kernel = || {
        room.restore();
        kernel()
    };
    settled(fd, Does::Asks, ours, kernel) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::getpeername(fd, addr, len) } as isize;
    if fast::is_kernel(fd) {
        return kernel() as c_int;
    }
    // SAFETY: the application's buffer of the length it says.
    let copy_out = |a: flyover_sockets::Addr| unsafe { put(&a, addr, len) };
    stream(
        fd,
        Moves::In,
        |lib| lib.getpeername(fd).map(|r| r.and_then(copy_out)),
        |_| kernel(),
    ) as c_int
}

/// The length that a program passes, for calls that are made more than once: the kernel writes there what it has.
struct Room {
    len: *mut socklen_t,
    was: Option<socklen_t>,
    asked: Cell<bool>,
}

impl Room {
    /// # Safety
    /// `len` is the program's.
    unsafe fn of(len: *mut socklen_t) -> Self {
        // SAFETY: probed.
        let read = unsafe { args::bytes(len.cast(), 4) }.ok();
        let was = read.and_then(|b| b.try_into().ok().map(u32::from_ne_bytes));
        let asked = Cell::new(false);
        Self { len, was, asked }
    }

    /// Before each try: as it was.
    fn restore(&self) {
        if let (true, Some(was)) = (self.asked.replace(true), self.was) {
            // SAFETY: the kernel has written there; probed.
            if let Ok(b) = unsafe { args::bytes_mut(self.len.cast(), 4) }
                && b.len() == 4
            {
                b.copy_from_slice(&was.to_ne_bytes());
            }
        }
    }
}

/// # Safety
/// As [`args::put_addr`].
unsafe fn put(
    a: &flyover_sockets::Addr,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<usize, Errno> {
    if addr.is_null() {
        // The kernel looks at the length first, and needs no address for none.
        let mut none = 0u8;
        // SAFETY: a length of more than 0 is found out before anything is written.
        let room = unsafe { args::bytes(len.cast(), 4) }?;
        return match i32::from_ne_bytes(room.try_into().unwrap_or_default()) {
            // SAFETY: no room: only the length is written.
            0 => unsafe { args::put_addr(a, (&raw mut none).cast(), len) }.map(|()| 0),
            ..0 => Err(Errno::EINVAL),
            _ => Err(Errno::EFAULT),
        };
    }
    // SAFETY: passed on.
    unsafe { args::put_addr(a, addr, len) }.map(|()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::getsockopt(fd, level, name, value, len) } as isize;
    if fast::is_kernel(fd) || value.is_null() || len.is_null() {
        return kernel() as c_int;
    }
    // SAFETY: the application's length; probed.
    let Ok(room) = (unsafe { args::bytes(len.cast(), 4) }) else {
        return kernel() as c_int;
    };
    let mut room = u32::from_ne_bytes(room.try_into().unwrap_or_default());
    if (room as i32) < 0 {
        if level != libc::IPPROTO_IPV6 {
            // The error depends on level and name.
            return kernel() as c_int;
        }
        // Linux takes the length of an option of IPv6 as unsigned; its numbers have four bytes.
        room = 4;
    }
    // SAFETY: the application's length; probed.
    let asked = unsafe { Room::of(len) };
    let kernel = || {
        asked.restore();
        kernel()
    };
    let does = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => Does::Takes,
        _ => Does::Asks,
    };
    settled(
        fd,
        does,
        |lib| {
            // SAFETY: the application's buffer of the length it says.
            let Ok(into) = (unsafe { args::bytes_mut(value, room as usize) }) else {
                return Answer::Kernel;
            };
            match lib.getsockopt(fd, level, name, into) {
                Answer::Value(n) => {
                    // SAFETY: writes four bytes if they are there.
                    match unsafe { args::bytes_mut(len.cast(), 4) } {
                        Ok(l) if l.len() == 4 => {
                            l.copy_from_slice(&(n as socklen_t).to_ne_bytes());
                            Answer::Value(0)
                        }
                        _ => Answer::Error(Errno::EFAULT),
                    }
                }
                a => a,
            }
        },
        kernel,
    ) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::setsockopt(fd, level, name, value, len) } as isize;
    if fast::is_kernel(fd) || len as i32 <= 0 {
        return kernel() as c_int;
    }
    // Linux takes no value as 0 for IPv6.
    const ZERO: u32 = 0;
    let (value, len) = match value.is_null() {
        true if level == libc::IPPROTO_IPV6 => (core::ptr::from_ref(&ZERO).cast(), 4),
        true => return kernel() as c_int,
        false => (value, len),
    };
    settled(
        fd,
        Does::Changes,
        // SAFETY: the application's buffer of the length it says.
        |lib| match unsafe { args::bytes(value, len as usize) } {
            Ok(v) => lib.setsockopt(fd, level, name, v),
            Err(e) => Answer::Error(e),
        },
        kernel,
    ) as c_int
}
