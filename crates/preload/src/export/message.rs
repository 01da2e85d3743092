//! Messages with addresses and control data: recvfrom, sendto, recvmsg, sendmsg and the plural forms.

use core::cell::Cell;
use core::ffi::{c_int, c_void};

use flyover_sockets::{Errno, Sockets};
use libc::{mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

use super::again::{Moves, stream};
use super::stream::check;
use crate::{args, errno, fast, init, leave, next};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvfrom(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> ssize_t {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::recvfrom(fd, buf, n, flags, addr, len) };
    if fast::is_kernel(fd) {
        return kernel();
    }
    fast::cancellation_point();
    stream(
        fd,
        Moves::received(flags),
        |lib| {
            // SAFETY: the application's buffer of the length it says.
            let b = match unsafe { args::bytes_mut(buf, n) } {
                Ok(b) if b.len() < n && lib.is_beyond(fd, b.len()) => {
                    return lib.fault_recv(fd, n, flags);
                }
                Ok(b) => b,
                Err(_) => return lib.fault_recv(fd, n, flags),
            };
            let got = lib.recv_msg(fd, &mut [b], &mut [], flags)?;
            Some(got.and_then(|r| {
                // SAFETY: the application's address buffer.
                unsafe { args::put_addr(&r.from, addr, len) }?;
                Ok(r.n)
            }))
        },
        |_| kernel(),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __recvfrom_chk(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    room: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> ssize_t {
    check(n, room);
    // SAFETY: passed on unchanged.
    unsafe { recvfrom(fd, buf, n, flags, addr, len) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendto(
    fd: c_int,
    buf: *const c_void,
    n: size_t,
    flags: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> ssize_t {
    // SAFETY: passed on unchanged.
    let kernel = |more| unsafe { next::sendto(fd, buf, n, flags | more, addr, len) };
    if fast::is_kernel(fd) {
        return kernel(0);
    }
    fast::cancellation_point();
    stream(
        fd,
        Moves::sent(flags),
        |lib| {
            // SAFETY: the application's buffer of the length it says.
            let bytes = unsafe { args::bytes(buf, n) };
            // SAFETY: the application's address of the length it says.
            let to = match unsafe { args::addr(addr, len) } {
                // An address of no length is one that is too short, where an address counts.
                Ok(None) if !addr.is_null() => Ok(Some(flyover_sockets::Addr::default())),
                to => to,
            };
            match (bytes, to) {
                (Ok(b), Ok(to)) => lib.send_msg(fd, &[b], to.as_ref(), &[], flags),
                (_, Err(e)) => lib.fault(fd, e),
                (Err(_), Ok(to)) => lib.fault_send(fd, flags, to.is_some()),
            }
        },
        |way| kernel(way.flag()),
    )
}

/// What `copy_msghdr_from_user` refuses.
///
/// # Safety
/// `msg` is the application's.
unsafe fn header(msg: *const msghdr) -> Result<(), Errno> {
    // SAFETY: probed by what it calls.
    let _ = unsafe { args::bytes(msg.cast(), size_of::<msghdr>()) }?;
    // SAFETY: just found to be readable.
    let m = unsafe { &*msg };
    if !m.msg_name.is_null() && (m.msg_namelen as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    if m.msg_iovlen > args::MAX_IOV {
        return Err(Errno::EMSGSIZE);
    }
    Ok(())
}

/// Receives one message into the application's `msghdr`; `None`: the kernel's.
///
/// # Safety
/// `msg` must be a valid msghdr.
unsafe fn receive(
    lib: &'static Sockets,
    fd: c_int,
    msg: *mut msghdr,
    flags: c_int,
) -> Option<Result<usize, Errno>> {
    // SAFETY: the application's header; probed.
    if let Err(e) = unsafe { header(msg) } {
        return lib.fault_if_ours(fd, e);
    }
    // SAFETY: just found to be there.
    let m = unsafe { &mut *msg };
    // SAFETY: the application's control buffer of the length it says. What is not there gets no control data.
    let control = unsafe { args::bytes_mut(m.msg_control, m.msg_controllen) }.unwrap_or_default();
    // SAFETY: the application's vector.
    let got = unsafe {
        args::with_pieces_mut(m.msg_iov, m.msg_iovlen, |b, cut| {
            let room = b.iter().map(|piece| piece.len()).sum();
            match cut && lib.is_beyond(fd, room) {
                true => Err(args::BAD_PIECE),
                false => Ok(lib.recv_msg(fd, b, control, flags)),
            }
        })
    };
    match got {
        Err(args::BAD_PIECE) => lib.fault_recv(fd, 1, flags),
        Err(e) => lib.fault_if_ours(fd, e),
        Ok(None) => None,
        Ok(Some(Err(e))) => Some(Err(e)),
        Ok(Some(Ok(r))) => {
            // SAFETY: the application's name buffer of the length it says.
            let named =
                unsafe { args::put_addr(&r.from, m.msg_name.cast(), &raw mut m.msg_namelen) };
            m.msg_controllen = r.control as _;
            m.msg_flags = r.flags | (flags & libc::MSG_CMSG_CLOEXEC);
            Some(named.map(|()| r.n))
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    let kernel = || {
        // SAFETY: passed on unchanged.
        let n = unsafe { next::recvmsg(fd, msg, flags) };
        if n >= 0 {
            // SAFETY: the call succeeded, so the header and its control data are valid.
            unsafe { note_received(msg) };
        }
        n
    };
    if fast::is_kernel(fd) || msg.is_null() {
        return kernel();
    }
    fast::cancellation_point();
    let room = Cell::new(None);
    let ours = |lib| {
        if flags & libc::MSG_PEEK != 0 {
            // SAFETY: the application's header.
            unsafe { as_before(msg, &room) };
        }
        // SAFETY: not null, the application's header.
        unsafe { receive(lib, fd, msg, flags) }
    };
    stream(fd, Moves::received(flags), ours, |_| kernel())
}

/// The room that a header names, for a call that may be made more than once: the kernel writes there what it used.
///
/// # Safety
/// `msg` must be the application's header, if there is one.
unsafe fn as_before(msg: *mut msghdr, room: &Cell<Option<(socklen_t, size_t)>>) {
    // SAFETY: probed.
    if unsafe { header(msg) }.is_err() {
        return;
    }
    // SAFETY: just found to be there.
    let m = unsafe { &mut *msg };
    match room.get() {
        None => room.set(Some((m.msg_namelen, m.msg_controllen))),
        Some(before) => (m.msg_namelen, m.msg_controllen) = before,
    }
}

/// Descriptors that came with a message are unknown numbers now.
///
/// # Safety
/// `msg` must be a valid msghdr whose control data the kernel has written.
unsafe fn note_received(msg: *const msghdr) {
    // SAFETY: valid by the caller's promise.
    unsafe { each_passed(msg, |lib, fd| lib.on_unknown(fd)) };
}

/// Calls `f` with every descriptor in the control data.
///
/// # Safety
/// `msg` must be null or a valid msghdr.
unsafe fn each_passed(msg: *const msghdr, f: impl Fn(&'static Sockets, c_int)) {
    let Some(lib) = init::lib() else { return };
    // SAFETY: the application's header; probed.
    if unsafe { header(msg) }.is_err() {
        return;
    }
    // SAFETY: just found to be there.
    let m = unsafe { &*msg };
    // SAFETY: the application's control data of the length it says; probed.
    if m.msg_controllen == 0 || unsafe { args::bytes(m.msg_control, m.msg_controllen) }.is_err() {
        return;
    }
    // SAFETY: the header is valid; the macros stay within its control data.
    let mut c = unsafe { libc::CMSG_FIRSTHDR(msg) };
    let end = (m.msg_control as usize).saturating_add(m.msg_controllen);
    while !c.is_null() {
        // SAFETY: not null, so it points into the control data.
        let h = unsafe { &*c };
        // A length that is none ends the walk: the kernel refuses the whole message.
        let room = end.saturating_sub(c as usize);
        if h.cmsg_len < size_of::<libc::cmsghdr>() || h.cmsg_len > room {
            return;
        }
        if h.cmsg_level == libc::SOL_SOCKET && h.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: computes a constant.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let n = (h.cmsg_len as usize).saturating_sub(head) / 4;
            for i in 0..n {
                // SAFETY: the message holds `n` descriptors after its header; they may be misaligned.
                f(lib, unsafe {
                    libc::CMSG_DATA(c).cast::<c_int>().add(i).read_unaligned()
                });
            }
        }
        // SAFETY: as for the first one.
        c = unsafe { libc::CMSG_NXTHDR(msg, c) };
    }
}

/// Sends one message; `None`: the kernel's.
///
/// # Safety
/// `msg` must be a valid msghdr.
unsafe fn transmit(
    lib: &'static Sockets,
    fd: c_int,
    msg: *const msghdr,
    flags: c_int,
) -> flyover_sockets::process::Answer {
    // SAFETY: the application's header; probed.
    if let Err(e) = unsafe { header(msg) } {
        return lib.fault(fd, e);
    }
    // SAFETY: just found to be there.
    let m = unsafe { &*msg };
    if m.msg_controllen > i32::MAX as usize {
        return lib.fault(fd, Errno::ENOBUFS);
    }
    // SAFETY: the application's name of the length it says.
    let to = match unsafe { args::addr(m.msg_name.cast(), m.msg_namelen) } {
        Ok(a) => a,
        Err(e) => return lib.fault(fd, e),
    };
    // SAFETY: the application's control data of the length it says.
    let control = match unsafe { args::bytes(m.msg_control, m.msg_controllen) } {
        Ok(c) => c,
        Err(e) => return lib.fault(fd, e),
    };
    // SAFETY: the application's vector.
    let sent = unsafe {
        args::with_pieces(m.msg_iov, m.msg_iovlen, |b| {
            Ok(lib.send_msg(fd, b, to.as_ref(), control, flags))
        })
    };
    sent.unwrap_or_else(|e| match e {
        args::BAD_PIECE => lib.fault_send(fd, flags, to.is_some()),
        e => lib.fault(fd, e),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    let kernel = |more| {
        // Whatever is passed on has another holder from now on.
        // SAFETY: null, or the application's header.
        unsafe { each_passed(msg, |lib, passed| leave::before_passing(lib, fd, passed)) };
        // SAFETY: passed on unchanged.
        unsafe { next::sendmsg(fd, msg, flags | more) }
    };
    if fast::is_kernel(fd) || msg.is_null() {
        return kernel(0);
    }
    fast::cancellation_point();
    // SAFETY: not null, the application's header.
    let ours = |lib| unsafe { transmit(lib, fd, msg, flags) };
    stream(fd, Moves::sent(flags), ours, |way| kernel(way.flag()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmmsg(
    fd: c_int,
    msgs: *mut mmsghdr,
    n: u32,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let kernel = || {
        // SAFETY: passed on unchanged.
        let got = unsafe { next::recvmmsg(fd, msgs, n, flags, timeout) };
        for i in 0..usize::try_from(got).unwrap_or(0) {
            // SAFETY: the kernel has filled in `got` headers.
            unsafe { note_received(&raw const (*msgs.add(i)).msg_hdr) };
        }
        got as isize
    };
    if fast::is_kernel(fd) || msgs.is_null() {
        return kernel() as c_int;
    }
    fast::cancellation_point();
    // SAFETY: null, or the application's timeout.
    let mut span = match unsafe { args::timespec(timeout) } {
        Ok(s) => s,
        Err(e) => return errno::to_c(Err(e)) as c_int,
    };
    stream(
        fd,
        Moves::received(flags),
        |lib| {
            let many = lib.recv_many(fd, n.min(1024), flags, &mut span, |i, flags| {
                let m = msgs.wrapping_add(i);
                // SAFETY: `i < n`, one of the application's headers.
                let r = unsafe { receive(lib, fd, &raw mut (*m).msg_hdr, flags) }?;
                // SAFETY: the header was found to be there, the length lies behind it.
                Some(r.map(|n| unsafe { (*m).msg_len = n as u32 }))
            })?;
            if let (Ok(1..), Some(left)) = (many, span) {
                // SAFETY: the application's timeout, which was read.
                if let Err(e) = unsafe { args::put_timespec(timeout, left) } {
                    return Some(Err(e));
                }
            }
            Some(many)
        },
        |_| kernel(),
    ) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, n: u32, flags: c_int) -> c_int {
    let kernel = |more| {
        for i in 0..n.min(1024) as usize {
            if !msgs.is_null() {
                // SAFETY: one of the application's headers.
                unsafe {
                    each_passed(&raw const (*msgs.add(i)).msg_hdr, |lib, passed| {
                        leave::before_passing(lib, fd, passed);
                    })
                };
            }
        }
        // SAFETY: passed on unchanged.
        unsafe { next::sendmmsg(fd, msgs, n, flags | more) as isize }
    };
    if fast::is_kernel(fd) || msgs.is_null() {
        return kernel(0) as c_int;
    }
    fast::cancellation_point();
    stream(
        fd,
        Moves::sent(flags),
        |lib| {
            lib.send_many(fd, n.min(1024), |i| {
                let m = msgs.wrapping_add(i);
                // SAFETY: `i < n`, one of the application's headers.
                let a = unsafe { transmit(lib, fd, &raw const (*m).msg_hdr, flags) };
                if let flyover_sockets::process::Answer::Value(n) = a {
                    // SAFETY: the header was found to be there, the length lies behind it.
                    unsafe { (*m).msg_len = n as u32 };
                }
                a
            })
        },
        |way| kernel(way.flag()),
    ) as c_int
}
