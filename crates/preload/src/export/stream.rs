//! Bytes in, bytes out: read, write, recv, send and their vectors, sendfile, splice.

use core::cell::Cell;
use core::ffi::{c_int, c_void};

use flyover_sockets::Errno;
use flyover_sockets::enter;
use flyover_sockets::process::Answer;
use libc::{iovec, size_t, ssize_t};

use super::again::{Moves, stream};
use super::answer;
use crate::{args, fast, init, next, short};

/// Receives into one buffer.
///
/// # Safety
/// `buf` must be writable for `n` bytes.
#[inline(never)]
unsafe fn into_one(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    flags: c_int,
    mut kernel: impl FnMut() -> isize,
) -> isize {
    // SAFETY: passed on from our caller.
    if let Some(got) = unsafe { short::recv(fd, buf, n, flags) } {
        return got;
    }
    fast::cancellation_point();
    stream(
        fd,
        Moves::received(flags),
        // SAFETY: passed on from our caller.
        |lib| match unsafe { args::bytes_mut(buf, n) } {
            Ok(b) if b.len() < n && lib.is_beyond(fd, b.len()) => {
                or_kernel(lib.fault_recv(fd, n, flags))
            }
            Ok(b) => lib.recv(fd, &mut [b], flags),
            Err(_) => or_kernel(lib.fault_recv(fd, n, flags)),
        },
        |_| kernel(),
    )
}

/// Sends from one buffer.
///
/// # Safety
/// `buf` must be readable for `n` bytes.
#[inline(never)]
unsafe fn from_one(
    fd: c_int,
    buf: *const c_void,
    n: size_t,
    flags: c_int,
    mut kernel: impl FnMut() -> isize,
) -> isize {
    // SAFETY: passed on from our caller.
    match unsafe { short::send(fd, buf, n, flags) } {
        Ok(sent) => return sent,
        Err(0) => {}
        // The stack has no more buffers. For a call that waits the rest follows; its error, if any, is the next call's.
        Err(sent) if goes_on(fd, flags) => {
            let rest = buf.cast::<u8>().wrapping_add(sent).cast::<c_void>();
            // SAFETY: passed on from our caller.
            let more = unsafe { send(fd, rest, n - sent, flags | libc::MSG_NOSIGNAL) };
            return sent as isize + more.max(0);
        }
        Err(sent) => return sent as isize,
    }
    fast::cancellation_point();
    stream(
        fd,
        Moves::sent(flags),
        // SAFETY: passed on from our caller.
        |lib| match unsafe { args::bytes(buf, n) } {
            Ok(b) => lib.send(fd, &[b], flags),
            Err(_) => lib.fault_send(fd, flags, false),
        },
        |way| match way.quiet {
            // SAFETY: passed on from our caller.
            true => unsafe { next::send(fd, buf, n, flags | way.flag()) },
            false => kernel(),
        },
    )
}

/// True when a send that has sent a part goes on with the rest.
#[cold]
fn goes_on(fd: c_int, flags: c_int) -> bool {
    let pair = init::lib().and_then(|lib| lib.paired(fd));
    flags & libc::MSG_DONTWAIT == 0 && pair.is_none_or(|ep| !ep.nonblocking())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t {
    if fast::is_kernel(fd) {
        // SAFETY: passed on unchanged.
        return unsafe { next::read(fd, buf, n) };
    }
    let kernel = || {
        // SAFETY: passed on unchanged.
        unsafe { next::read(fd, buf, n) }
    };
    if n == 0 {
        return answer(|lib| lib.read(fd, &mut []), kernel);
    }
    // SAFETY: passed on unchanged.
    unsafe { into_one(fd, buf, n, 0, kernel) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __read_chk(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    room: size_t,
) -> ssize_t {
    check(n, room);
    // SAFETY: passed on unchanged.
    unsafe { read(fd, buf, n) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn recv(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int) -> ssize_t {
    if fast::is_kernel(fd) {
        // SAFETY: passed on unchanged.
        return unsafe { next::recv(fd, buf, n, flags) };
    }
    // SAFETY: passed on unchanged.
    unsafe { into_one(fd, buf, n, flags, || next::recv(fd, buf, n, flags)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn __recv_chk(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    check(n, room);
    // SAFETY: passed on unchanged.
    unsafe { recv(fd, buf, n, flags) }
}

unsafe extern "C" {
    /// glibc's end of a program whose buffer is too short, with its message.
    fn __chk_fail() -> !;
}

/// What glibc's fortified functions check: the buffer is as long as the call says.
pub(super) fn check(n: size_t, room: size_t) {
    if n > room {
        // SAFETY: takes nothing and does not return.
        unsafe { __chk_fail() };
    }
}

/// The answer, or the kernel's.
pub(super) fn or_kernel(r: Option<Result<usize, Errno>>) -> Answer {
    r.map_or(Answer::Kernel, Answer::from)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t {
    if fast::is_kernel(fd) {
        // SAFETY: passed on unchanged.
        return unsafe { next::write(fd, buf, n) };
    }
    // SAFETY: passed on unchanged.
    unsafe { from_one(fd, buf, n, 0, || next::write(fd, buf, n)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(fd: c_int, buf: *const c_void, n: size_t, flags: c_int) -> ssize_t {
    if fast::is_kernel(fd) {
        // SAFETY: passed on unchanged.
        return unsafe { next::send(fd, buf, n, flags) };
    }
    // SAFETY: passed on unchanged.
    unsafe { from_one(fd, buf, n, flags, || next::send(fd, buf, n, flags)) }
}

/// Receives into the pieces of a vector. With flags it is `recv`, without `read`.
///
/// # Safety
/// As `readv`.
unsafe fn into_pieces(
    fd: c_int,
    iov: *const iovec,
    n: c_int,
    flags: c_int,
    mut kernel: impl FnMut() -> isize,
) -> isize {
    if fast::is_kernel(fd) || n < 0 {
        return kernel();
    }
    fast::cancellation_point();
    // SAFETY: the application's vector.
    let with = |lib: &'static flyover_sockets::Sockets| unsafe {
        args::with_pieces_mut(iov, n as usize, |b, cut| {
            let room = b.iter().map(|piece| piece.len()).sum();
            match (cut && lib.is_beyond(fd, room), flags) {
                (true, _) => Err(args::BAD_PIECE),
                (false, f) if f != 0 && room != 0 => Ok(lib.recv(fd, b, f)),
                (false, _) => Ok(lib.read(fd, b)),
            }
        })
    };
    stream(
        fd,
        Moves::In,
        |lib| {
            with(lib).unwrap_or_else(|e| match e {
                args::BAD_PIECE => or_kernel(lib.fault_recv(fd, 1, flags)),
                e => lib.fault(fd, e),
            })
        },
        |_| kernel(),
    )
}

/// Sends the pieces of a vector. With flags it is `send`, without `write`.
///
/// # Safety
/// As `writev`.
unsafe fn from_pieces(
    fd: c_int,
    iov: *const iovec,
    n: c_int,
    flags: c_int,
    mut kernel: impl FnMut() -> isize,
) -> isize {
    if fast::is_kernel(fd) || n < 0 {
        return kernel();
    }
    fast::cancellation_point();
    let empty = Cell::new(false);
    // SAFETY: the application's vector.
    let with = |lib: &'static flyover_sockets::Sockets| unsafe {
        args::with_pieces(iov, n as usize, |b| {
            let nothing = b.iter().all(|piece| piece.is_empty());
            empty.set(nothing);
            Ok(if flags == 0 || nothing {
                lib.writev(fd, b)
            } else {
                lib.send(fd, b, flags)
            })
        })
    };
    stream(
        fd,
        Moves::sent(flags),
        |lib| {
            with(lib).unwrap_or_else(|e| match e {
                args::BAD_PIECE => lib.fault_send(fd, flags, false),
                e => lib.fault(fd, e),
            })
        },
        |way| {
            // Nothing, and too much, never come to the socket.
            if !way.quiet || empty.get() || n > libc::UIO_MAXIOV {
                return kernel();
            }
            // SAFETY: zero is a message without name, vector and control data.
            let mut msg: libc::msghdr = unsafe { core::mem::zeroed() };
            msg.msg_iov = iov.cast_mut();
            msg.msg_iovlen = n as usize;
            // SAFETY: the application's vector.
            unsafe { next::sendmsg(fd, &raw const msg, flags | way.flag()) }
        },
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t {
    // SAFETY: passed on unchanged.
    unsafe { into_pieces(fd, iov, n, 0, || next::readv(fd, iov, n)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t {
    // SAFETY: passed on unchanged.
    unsafe { from_pieces(fd, iov, n, 0, || next::writev(fd, iov, n)) }
}

/// `RWF_NOWAIT` of linux/fs.h.
const NOWAIT: c_int = 8;
/// `RWF_HIPRI`, `RWF_DSYNC`, `RWF_SYNC`, `RWF_NOWAIT`, `RWF_APPEND`: what a socket takes.
const FOR_SOCKETS: c_int = 0x1f;

/// True for the calls with a file position that are calls of the stream: without one (-1), with flags that Linux
/// knows. The others fail before they come to the socket.
fn is_streamed(offset: i64, flags: c_int) -> bool {
    offset == -1 && flags & !FOR_SOCKETS == 0
}

/// What `RWF_NOWAIT` is for a socket.
fn without_waiting(flags: c_int) -> c_int {
    if flags & NOWAIT == 0 {
        0
    } else {
        libc::MSG_DONTWAIT
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn preadv2(
    fd: c_int,
    iov: *const iovec,
    n: c_int,
    offset: i64,
    flags: c_int,
) -> ssize_t {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::preadv2(fd, iov, n, offset, flags) };
    if !is_streamed(offset, flags) {
        return kernel();
    }
    // SAFETY: passed on.
    unsafe { into_pieces(fd, iov, n, without_waiting(flags), kernel) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn preadv64v2(
    fd: c_int,
    iov: *const iovec,
    n: c_int,
    offset: i64,
    flags: c_int,
) -> ssize_t {
    // SAFETY: passed on unchanged; off_t has 64 bits here.
    unsafe { preadv2(fd, iov, n, offset, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev2(
    fd: c_int,
    iov: *const iovec,
    n: c_int,
    offset: i64,
    flags: c_int,
) -> ssize_t {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::pwritev2(fd, iov, n, offset, flags) };
    if !is_streamed(offset, flags) {
        return kernel();
    }
    // SAFETY: passed on.
    unsafe { from_pieces(fd, iov, n, without_waiting(flags), kernel) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64v2(
    fd: c_int,
    iov: *const iovec,
    n: c_int,
    offset: i64,
    flags: c_int,
) -> ssize_t {
    // SAFETY: passed on unchanged; off_t has 64 bits here.
    unsafe { pwritev2(fd, iov, n, offset, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(
    out: c_int,
    input: c_int,
    offset: *mut i64,
    n: size_t,
) -> ssize_t {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::sendfile(out, input, offset, n) };
    if fast::is_kernel(out) {
        return kernel();
    }
    stream(
        out,
        Moves::sent(0),
        |lib| {
            let mut at = 0i64;
            if !offset.is_null() {
                // SAFETY: probed.
                match unsafe { args::bytes(offset.cast(), 8) } {
                    Ok(b) => at = b.try_into().map_or(0, i64::from_ne_bytes),
                    Err(e) => return lib.fault(out, e),
                }
            }
            let given = (!offset.is_null()).then_some(&mut at);
            lib.before_sendfile(out);
            // Not among the cancellation points of libc.
            let sent = enter::uncancellable(|| lib.sendfile(out, input, given, n));
            if !offset.is_null() {
                // SAFETY: probed.
                match unsafe { args::bytes_mut(offset.cast(), 8) } {
                    Ok(b) if b.len() == 8 => b.copy_from_slice(&at.to_ne_bytes()),
                    _ => return Answer::Error(Errno::EFAULT),
                }
            }
            sent
        },
        |_| kernel(),
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile64(
    out: c_int,
    input: c_int,
    offset: *mut i64,
    n: size_t,
) -> ssize_t {
    // SAFETY: passed on unchanged; off_t has 64 bits here.
    unsafe { sendfile(out, input, offset, n) }
}

/// All flags of splice(2).
const SPLICE_FLAGS: u32 =
    libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn splice(
    from: c_int,
    off_in: *mut i64,
    to: c_int,
    off_out: *mut i64,
    n: size_t,
    flags: u32,
) -> ssize_t {
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::splice(from, off_in, to, off_out, n, flags) };
    if fast::is_kernel(from) && fast::is_kernel(to) {
        return kernel();
    }
    // Neither is a mark when the kernel is called.
    stream(
        -1,
        Moves::In,
        |lib| {
            // The kernel refuses what makes no sense, with the error of its order of checks.
            if !off_in.is_null() || !off_out.is_null() || flags & !SPLICE_FLAGS != 0 || n == 0 {
                return Answer::Kernel;
            }
            lib.before_splice(from);
            lib.before_splice(to);
            // It may hold bytes of the pipe while it waits.
            match enter::uncancellable(|| lib.splice(from, to, n, flags)) {
                // An order sent it to the kernel just now: it stays there before the kernel is called.
                Answer::Kernel if lib.is_on_the_move(from) || lib.is_on_the_move(to) => {
                    Answer::Error(Errno::MOVED)
                }
                said => said,
            }
        },
        |_| kernel(),
    )
}
