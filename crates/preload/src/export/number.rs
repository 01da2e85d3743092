//! `syscall(2)`: calls of sockets by their number are the calls by their name. Everything else goes on unchanged.

use core::ffi::{c_int, c_long, c_void};

use super::{epoll, fd, message, poll, socket, stream};
use crate::{errno, fast, next, uring};

/// Calls that carry data or ask: of a descriptor that is none of ours they go straight on.
const BY_DESCRIPTOR: [c_long; 23] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_ioctl,
];

/// A C function with variable arguments cannot be defined in stable Rust. All of these are of the size of a register,
/// and arrive like fixed ones (System V x86-64 ABI 3.5.7; AAPCS64 for Linux); those that a call does not have hold
/// anything.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    nr: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let args = [a, b, c, d, e, f];
    // SAFETY: passed on unchanged.
    let kernel = || unsafe { next::syscall(nr, a, b, c, d, e, f) };
    if BY_DESCRIPTOR.contains(&nr) && fast::is_kernel(a as c_int) {
        return kernel();
    }
    // SAFETY: the arguments are those of the call of this number.
    unsafe { named(nr, args) }.unwrap_or_else(kernel)
}

/// The call by its name; `None`: none that concerns a socket.
///
/// # Safety
/// The arguments must be those of the system call.
unsafe fn named(nr: c_long, [a, b, c, d, e, f]: [usize; 6]) -> Option<c_long> {
    let fd = a as c_int;
    let buf = b as *mut c_void;
    // SAFETY: the arguments of each system call are those of the C function of its name, in the same order.
    Some(unsafe {
        match nr {
            libc::SYS_read => stream::read(fd, buf, c) as c_long,
            libc::SYS_write => stream::write(fd, buf, c) as c_long,
            libc::SYS_readv => stream::readv(fd, b as *const _, c as c_int) as c_long,
            libc::SYS_writev => stream::writev(fd, b as *const _, c as c_int) as c_long,
            // The position comes in two halves, of which 64-bit kernels take the first.
            libc::SYS_preadv2 => {
                stream::preadv2(fd, b as *const _, c as c_int, d as i64, f as c_int) as c_long
            }
            libc::SYS_pwritev2 => {
                stream::pwritev2(fd, b as *const _, c as c_int, d as i64, f as c_int) as c_long
            }
            libc::SYS_sendfile => stream::sendfile(fd, b as c_int, c as *mut i64, d) as c_long,
            libc::SYS_splice => {
                let (to, off) = (c as c_int, d as *mut i64);
                stream::splice(fd, b as *mut i64, to, off, e, f as u32) as c_long
            }
            libc::SYS_recvfrom => {
                message::recvfrom(fd, buf, c, d as c_int, e as *mut _, f as *mut _) as c_long
            }
            libc::SYS_sendto => {
                message::sendto(fd, buf, c, d as c_int, e as *const _, f as u32) as c_long
            }
            libc::SYS_recvmsg => message::recvmsg(fd, b as *mut _, c as c_int) as c_long,
            libc::SYS_sendmsg => message::sendmsg(fd, b as *const _, c as c_int) as c_long,
            libc::SYS_recvmmsg => {
                message::recvmmsg(fd, b as *mut _, c as u32, d as c_int, e as *mut _).into()
            }
            libc::SYS_sendmmsg => message::sendmmsg(fd, b as *mut _, c as u32, d as c_int).into(),
            libc::SYS_io_uring_setup => {
                let ring = next::syscall(nr, a, b, c, d, e, f);
                uring::made(ring as c_int, b as *const _);
                ring
            }
            libc::SYS_io_uring_enter => {
                let before = errno::get();
                uring::before_enter(fd, b as u32, d as u32);
                errno::set(before);
                return None;
            }
            libc::SYS_io_uring_register => {
                uring::before_register(b as u32, c as *const _, d as u32);
                return None;
            }
            _ => return life(nr, [a, b, c, d, e, f]),
        }
    })
}

/// The same for calls that make, change or end a descriptor.
///
/// # Safety
/// The arguments must be those of the system call.
unsafe fn life(nr: c_long, [a, b, c, d, e, _]: [usize; 6]) -> Option<c_long> {
    let number = a as c_int;
    // SAFETY: the arguments of each system call are those of the C function of its name, in the same order.
    Some(c_long::from(unsafe {
        match nr {
            libc::SYS_socket => socket::socket(number, b as c_int, c as c_int),
            libc::SYS_socketpair => {
                socket::socketpair(number, b as c_int, c as c_int, d as *mut c_int)
            }
            libc::SYS_bind => socket::bind(number, b as *const _, c as u32),
            libc::SYS_listen => socket::listen(number, b as c_int),
            libc::SYS_connect => socket::connect(number, b as *const _, c as u32),
            libc::SYS_accept => socket::accept(number, b as *mut _, c as *mut _),
            libc::SYS_accept4 => socket::accept4(number, b as *mut _, c as *mut _, d as c_int),
            libc::SYS_shutdown => socket::shutdown(number, b as c_int),
            libc::SYS_getsockname => socket::getsockname(number, b as *mut _, c as *mut _),
            libc::SYS_getpeername => socket::getpeername(number, b as *mut _, c as *mut _),
            libc::SYS_getsockopt => {
                let (level, name) = (b as c_int, c as c_int);
                socket::getsockopt(number, level, name, d as *mut _, e as *mut _)
            }
            libc::SYS_setsockopt => {
                let (level, name) = (b as c_int, c as c_int);
                socket::setsockopt(number, level, name, d as *const _, e as u32)
            }
            libc::SYS_close => fd::close(number),
            libc::SYS_close_range => fd::close_range(a as u32, b as u32, c as c_int),
            libc::SYS_dup => fd::dup(number),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => fd::dup2(number, b as c_int),
            libc::SYS_dup3 => fd::dup3(number, b as c_int, c as c_int),
            libc::SYS_fcntl => fd::fcntl(number, b as c_int, c),
            libc::SYS_ioctl => fd::ioctl(number, b as _, c),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => poll::poll(a as *mut _, b as _, c as c_int),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => {
                let (r, w, x) = (b as *mut _, c as *mut _, d as *mut _);
                poll::select(number, r, w, x, e as *mut _)
            }
            libc::SYS_ppoll => poll::ppoll(a as *mut _, b as _, c as *const _, d as *const _),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_create => epoll::epoll_create(number),
            libc::SYS_epoll_create1 => epoll::epoll_create1(number),
            libc::SYS_epoll_ctl => epoll::epoll_ctl(number, b as c_int, c as c_int, d as *mut _),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => epoll::epoll_wait(number, b as *mut _, c as c_int, d as c_int),
            libc::SYS_epoll_pwait => {
                let (max, timeout) = (c as c_int, d as c_int);
                epoll::epoll_pwait(number, b as *mut _, max, timeout, e as *const _)
            }
            _ => return None,
        }
    }))
}
