//! The functions of libc that stand behind ours: `dlsym(RTLD_NEXT)`, looked up on first use, without allocation.
//! Other libraries' constructors run before ours, so every one of these can be the first call into this library.

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use libc::{
    epoll_event, fd_set, iovec, mmsghdr, msghdr, nfds_t, pid_t, pollfd, sigset_t, size_t, sockaddr,
    socklen_t, ssize_t, timespec, timeval,
};

/// A symbol that no library after us has.
const ABSENT: usize = 1;

#[cold]
#[inline(never)]
fn resolve(name: &'static core::ffi::CStr, slot: &AtomicUsize) -> usize {
    // SAFETY: `name` is a C string; RTLD_NEXT is a valid pseudo handle for a library in the global scope.
    let p = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
    let p = if p == 0 { ABSENT } else { p };
    slot.store(p, Ordering::Relaxed);
    p
}

/// What a C function of type `void` returns.
type Nothing = ();

fn nothing() {}

macro_rules! next {
    ($($(#[$m:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $absent:expr;)*) => {
        $(
            /// The next library's function of this name.
            ///
            /// # Safety
            /// As the C function.
            #[inline(always)]
            pub unsafe fn $name($($arg: $ty),*) -> $ret {
                static SLOT: AtomicUsize = AtomicUsize::new(0);
                let mut p = SLOT.load(Ordering::Relaxed);
                if p <= ABSENT {
                    if p == 0 {
                        // The names are ASCII without NUL: the conversion cannot fail.
                        const NAME: &core::ffi::CStr =
                            match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                                Ok(n) => n,
                                Err(_) => panic!("symbol name"),
                            };
                        p = resolve(NAME, &SLOT);
                    }
                    if p == ABSENT {
                        return $absent;
                    }
                }
                // SAFETY: `p` is the address of the libc function of this name, whose prototype this is.
                let f: unsafe extern "C" fn($($ty),*) -> $ret = unsafe { core::mem::transmute(p) };
                // SAFETY: passed on to our caller.
                unsafe { f($($arg),*) }
            }
        )*
    };
}

#[cold]
#[inline(never)]
fn no_such_call() -> c_int {
    crate::errno::set(libc::ENOSYS);
    -1
}

next! {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int = no_such_call();
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, sv: *mut c_int) -> c_int = no_such_call();
    fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = no_such_call();
    fn listen(fd: c_int, backlog: c_int) -> c_int = no_such_call();
    fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = no_such_call();
    fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int = no_such_call();
    fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = no_such_call();
    fn shutdown(fd: c_int, how: c_int) -> c_int = no_such_call();
    fn close(fd: c_int) -> c_int = no_such_call();
    fn close_range(first: u32, last: u32, flags: c_int) -> c_int = no_such_call();
    fn closefrom(first: c_int) -> Nothing = nothing();
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut c_void = core::ptr::null_mut();
    fn pidfd_getfd(pidfd: c_int, target: c_int, flags: u32) -> c_int = no_such_call();
    fn posix_spawn_file_actions_adddup2(actions: *mut c_void, old: c_int, new: c_int) -> c_int = libc::ENOSYS;
    fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = no_such_call();
    fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = no_such_call();
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int
        = no_such_call();
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int
        = no_such_call();
    fn read(fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t = no_such_call() as ssize_t;
    fn readv(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t = no_such_call() as ssize_t;
    fn write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t = no_such_call() as ssize_t;
    fn writev(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t = no_such_call() as ssize_t;
    fn preadv2(fd: c_int, iov: *const iovec, n: c_int, offset: i64, flags: c_int) -> ssize_t
        = no_such_call() as ssize_t;
    fn pwritev2(fd: c_int, iov: *const iovec, n: c_int, offset: i64, flags: c_int) -> ssize_t
        = no_such_call() as ssize_t;
    fn syscall(nr: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> libc::c_long
        = libc::c_long::from(no_such_call());
    // liburing's answer with errors, not with `errno`.
    fn io_uring_setup(entries: u32, params: *mut c_void) -> c_int = -libc::ENOSYS;
    fn io_uring_enter(ring: u32, submit: u32, wait: u32, flags: u32, mask: *mut sigset_t) -> c_int = -libc::ENOSYS;
    fn io_uring_enter2(ring: u32, submit: u32, wait: u32, flags: u32, mask: *mut sigset_t, size: size_t) -> c_int
        = -libc::ENOSYS;
    fn io_uring_register(ring: u32, what: u32, arg: *const c_void, count: u32) -> c_int = -libc::ENOSYS;
    fn io_uring_submit(ring: *mut c_void) -> c_int = -libc::ENOSYS;
    fn io_uring_submit_and_wait(ring: *mut c_void, wait: u32) -> c_int = -libc::ENOSYS;
    fn io_uring_submit_and_get_events(ring: *mut c_void) -> c_int = -libc::ENOSYS;
    fn io_uring_submit_and_wait_timeout(
        ring: *mut c_void, cqe: *mut *mut c_void, wait: u32, timeout: *mut c_void, mask: *mut sigset_t,
    ) -> c_int = -libc::ENOSYS;
    fn io_uring_wait_cqes(
        ring: *mut c_void, cqe: *mut *mut c_void, wait: u32, timeout: *mut c_void, mask: *mut sigset_t,
    ) -> c_int = -libc::ENOSYS;
    fn io_uring_wait_cqe_timeout(ring: *mut c_void, cqe: *mut *mut c_void, timeout: *mut c_void) -> c_int
        = -libc::ENOSYS;
    fn io_uring_register_files(ring: *mut c_void, files: *const c_int, count: u32) -> c_int = -libc::ENOSYS;
    fn io_uring_register_files_tags(ring: *mut c_void, files: *const c_int, tags: *const u64, count: u32) -> c_int
        = -libc::ENOSYS;
    fn io_uring_register_files_update(ring: *mut c_void, first: u32, files: *const c_int, count: u32) -> c_int
        = -libc::ENOSYS;
    fn io_uring_register_files_update_tag(
        ring: *mut c_void, first: u32, files: *const c_int, tags: *const u64, count: u32,
    ) -> c_int = -libc::ENOSYS;
    fn recv(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int) -> ssize_t = no_such_call() as ssize_t;
    fn recvfrom(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int, addr: *mut sockaddr, len: *mut socklen_t)
        -> ssize_t = no_such_call() as ssize_t;
    fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t = no_such_call() as ssize_t;
    fn recvmmsg(fd: c_int, msgs: *mut mmsghdr, n: u32, flags: c_int, timeout: *mut timespec) -> c_int
        = no_such_call();
    fn send(fd: c_int, buf: *const c_void, n: size_t, flags: c_int) -> ssize_t = no_such_call() as ssize_t;
    fn sendto(fd: c_int, buf: *const c_void, n: size_t, flags: c_int, addr: *const sockaddr, len: socklen_t)
        -> ssize_t = no_such_call() as ssize_t;
    fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t = no_such_call() as ssize_t;
    fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, n: u32, flags: c_int) -> c_int = no_such_call();
    fn sendfile(out: c_int, input: c_int, offset: *mut i64, n: size_t) -> ssize_t = no_such_call() as ssize_t;
    fn splice(from: c_int, off_in: *mut i64, to: c_int, off_out: *mut i64, n: size_t, flags: u32) -> ssize_t
        = no_such_call() as ssize_t;
    fn poll(fds: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int = no_such_call();
    fn ppoll(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int
        = no_such_call();
    fn select(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *mut timeval) -> c_int
        = no_such_call();
    fn pselect(
        n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *const timespec, mask: *const sigset_t,
    ) -> c_int = no_such_call();
    fn epoll_create(size: c_int) -> c_int = no_such_call();
    fn epoll_create1(flags: c_int) -> c_int = no_such_call();
    fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int = no_such_call();
    fn epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int = no_such_call();
    fn epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t) -> c_int
        = no_such_call();
    fn epoll_pwait2(
        epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t,
    ) -> c_int = no_such_call();
    fn fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int = no_such_call();
    fn ioctl(fd: c_int, request: libc::c_ulong, arg: usize) -> c_int = no_such_call();
    fn dup(fd: c_int) -> c_int = no_such_call();
    fn dup2(old: c_int, new: c_int) -> c_int = no_such_call();
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int = no_such_call();
    fn sigaction(sig: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int = no_such_call();
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = no_such_call();
    fn execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int
        = no_such_call();
    fn fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int = no_such_call();
    fn execveat(
        fd: c_int, path: *const c_char, argv: *const *const c_char, envp: *const *const c_char, flags: c_int,
    ) -> c_int = no_such_call();
    fn posix_spawn(
        pid: *mut pid_t, path: *const c_char, actions: *const c_void, attr: *const c_void,
        argv: *const *const c_char, envp: *const *const c_char,
    ) -> c_int = libc::ENOSYS;
    fn posix_spawnp(
        pid: *mut pid_t, file: *const c_char, actions: *const c_void, attr: *const c_void,
        argv: *const *const c_char, envp: *const *const c_char,
    ) -> c_int = libc::ENOSYS;
    fn wait(status: *mut c_int) -> pid_t = no_such_call();
    fn waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t = no_such_call();
    fn wait3(status: *mut c_int, options: c_int, usage: *mut libc::rusage) -> pid_t = no_such_call();
    fn wait4(pid: pid_t, status: *mut c_int, options: c_int, usage: *mut libc::rusage) -> pid_t = no_such_call();
    fn waitid(
        kind: libc::idtype_t, id: libc::id_t, info: *mut libc::siginfo_t, options: c_int,
    ) -> c_int = no_such_call();
    fn pclose(stream: *mut c_void) -> c_int = no_such_call();
    fn system(command: *const c_char) -> c_int = no_such_call();
    fn popen(command: *const c_char, mode: *const c_char) -> *mut c_void = core::ptr::null_mut();
    fn getaddrinfo(
        node: *const c_char, service: *const c_char, hints: *const libc::addrinfo, res: *mut *mut libc::addrinfo,
    ) -> c_int = libc::EAI_SYSTEM;
    fn getnameinfo(
        sa: *const sockaddr, len: socklen_t, host: *mut c_char, hostlen: socklen_t, serv: *mut c_char,
        servlen: socklen_t, flags: c_int,
    ) -> c_int = libc::EAI_SYSTEM;
    fn gethostbyname(name: *const c_char) -> *mut libc::hostent = core::ptr::null_mut();
    fn gethostbyname2(name: *const c_char, family: c_int) -> *mut libc::hostent = core::ptr::null_mut();
    fn gethostbyaddr(addr: *const c_void, len: socklen_t, family: c_int) -> *mut libc::hostent
        = core::ptr::null_mut();
    fn gethostbyname_r(
        name: *const c_char, ret: *mut libc::hostent, buf: *mut c_char, len: size_t, res: *mut *mut libc::hostent,
        err: *mut c_int,
    ) -> c_int = libc::ENOSYS;
    fn gethostbyname2_r(
        name: *const c_char, family: c_int, ret: *mut libc::hostent, buf: *mut c_char, len: size_t,
        res: *mut *mut libc::hostent, err: *mut c_int,
    ) -> c_int = libc::ENOSYS;
    fn pthread_testcancel() -> Nothing = nothing();
    fn pthread_cancel(thread: *mut c_void) -> c_int = libc::ENOSYS;
    fn pthread_setcanceltype(kind: c_int, old: *mut c_int) -> c_int = libc::ENOSYS;
}

/// Address of the next library's `vfork`, for the tail jump of our own: a shim that returns twice cannot call it.
pub fn vfork_address() -> usize {
    static SLOT: AtomicUsize = AtomicUsize::new(0);
    match SLOT.load(Ordering::Relaxed) {
        0 => resolve(c"vfork", &SLOT),
        known => known,
    }
}
