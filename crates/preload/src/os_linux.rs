//! `Os` on Linux by raw system calls.

use core::sync::atomic::AtomicU32;
use std::io::{IoSlice, IoSliceMut};

use flyover_sockets::addr::Addr;
use flyover_sockets::os::{EPOLL_MOST, EpollEvent, Os, PollFd, Ran, Received};
use flyover_sockets::{Errno, enter};

use crate::signal::mask::BYTES as KERNEL_SIGSET;
use crate::{next, signal, sys};

/// The operating system.
pub struct Linux;

/// One call whose arguments are plain numbers, or pointers made from the references named after them.
macro_rules! sys {
    ($nr:ident $(, $a:expr)*) => {{
        let mut args = [0usize; 6];
        let list = [$($a as usize),*];
        args[..list.len()].copy_from_slice(&list);
        // SAFETY: every pointer among the arguments comes from a live reference of sufficient length in the calling
        // function; the kernel checks all numbers.
        unsafe { sys::call(libc::$nr, args) }
    }};
}

fn unit(r: Result<usize, Errno>) -> Result<(), Errno> {
    r.map(|_| ())
}

fn fd(r: Result<usize, Errno>) -> Result<i32, Errno> {
    r.map(|v| v as i32)
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is valid for writing; both clocks exist, and libc answers from the vDSO.
    unsafe { libc::clock_gettime(id, &raw mut ts) };
    (ts.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(ts.tv_nsec as u64)
}

#[cfg(target_arch = "x86_64")]
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
struct KernelEpollEvent {
    events: u32,
    data: u64,
}

#[cfg(not(target_arch = "x86_64"))]
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct KernelEpollEvent {
    events: u32,
    data: u64,
}

/// So many events of one `epoll_collect` are on the stack, more on the heap.
const EPOLL_BATCH: usize = 64;

impl Linux {
    /// Path of the program that this process runs; its length, or 0 where `/proc` does not say.
    pub fn own_program(&self, into: &mut [u8]) -> usize {
        let link = c"/proc/self/exe";
        sys!(
            SYS_readlinkat,
            libc::AT_FDCWD,
            link.as_ptr(),
            into.as_mut_ptr(),
            into.len()
        )
        .unwrap_or(0)
    }
}

impl Os for Linux {
    fn is_sandboxed(&self) -> bool {
        crate::init::is_sandboxed()
    }

    fn now(&self) -> u64 {
        clock(libc::CLOCK_MONOTONIC)
    }

    fn realtime(&self) -> u64 {
        clock(libc::CLOCK_REALTIME)
    }

    fn entropy(&self) -> u64 {
        let mut b = [0u8; 8];
        match sys!(SYS_getrandom, b.as_mut_ptr(), 8, libc::GRND_NONBLOCK) {
            Ok(8) => u64::from_ne_bytes(b),
            _ => self.now(),
        }
    }

    fn getpid(&self) -> i32 {
        sys!(SYS_getpid).map_or(0, |v| v as i32)
    }

    fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<i32, Errno> {
        fd(sys!(SYS_socket, domain, kind, protocol))
    }

    fn close(&self, fd: i32) -> Result<(), Errno> {
        unit(sys!(SYS_close, fd))
    }

    fn bind(&self, fd: i32, addr: &Addr) -> Result<(), Errno> {
        let a = addr.as_bytes();
        unit(sys!(SYS_bind, fd, a.as_ptr(), a.len()))
    }

    fn connect(&self, fd: i32, addr: &Addr) -> Result<(), Errno> {
        let a = addr.as_bytes();
        unit(sys!(SYS_connect, fd, a.as_ptr(), a.len()))
    }

    fn listen(&self, fd: i32, backlog: i32) -> Result<(), Errno> {
        unit(sys!(SYS_listen, fd, backlog))
    }

    fn accept(&self, listener: i32, flags: i32) -> Result<(i32, Addr), Errno> {
        let mut a = Addr::default();
        let mut len: libc::socklen_t = 128;
        let new = fd(sys!(
            SYS_accept4,
            listener,
            a.buffer().as_mut_ptr(),
            &raw mut len,
            flags
        ))?;
        a.set_len(len as usize);
        Ok((new, a))
    }

    fn shutdown(&self, fd: i32, how: i32) -> Result<(), Errno> {
        unit(sys!(SYS_shutdown, fd, how))
    }

    fn getsockname(&self, fd: i32) -> Result<Addr, Errno> {
        let mut a = Addr::default();
        let mut len: libc::socklen_t = 128;
        let _: usize = sys!(SYS_getsockname, fd, a.buffer().as_mut_ptr(), &raw mut len)?;
        a.set_len(len as usize);
        Ok(a)
    }

    fn getpeername(&self, fd: i32) -> Result<Addr, Errno> {
        let mut a = Addr::default();
        let mut len: libc::socklen_t = 128;
        let _: usize = sys!(SYS_getpeername, fd, a.buffer().as_mut_ptr(), &raw mut len)?;
        a.set_len(len as usize);
        Ok(a)
    }

    fn getsockopt(&self, fd: i32, level: i32, name: i32, into: &mut [u8]) -> Result<usize, Errno> {
        let mut len = into.len() as libc::socklen_t;
        let _: usize = sys!(
            SYS_getsockopt,
            fd,
            level,
            name,
            into.as_mut_ptr(),
            &raw mut len
        )?;
        Ok(len as usize)
    }

    fn setsockopt(&self, fd: i32, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        unit(sys!(
            SYS_setsockopt,
            fd,
            level,
            name,
            value.as_ptr(),
            value.len()
        ))
    }

    fn fcntl(&self, fd: i32, cmd: i32, arg: usize) -> Result<i32, Errno> {
        sys!(SYS_fcntl, fd, cmd, arg).map(|v| v as i32)
    }

    fn dup3(&self, old: i32, new: i32, flags: i32) -> Result<i32, Errno> {
        fd(sys!(SYS_dup3, old, new, flags))
    }

    fn read(&self, fd: i32, into: &mut [u8]) -> Result<usize, Errno> {
        sys!(SYS_read, fd, into.as_mut_ptr(), into.len())
    }

    fn pread(&self, fd: i32, into: &mut [u8], at: i64) -> Result<usize, Errno> {
        sys!(SYS_pread64, fd, into.as_mut_ptr(), into.len(), at)
    }

    fn seek_by(&self, fd: i32, by: i64) -> Result<i64, Errno> {
        sys!(SYS_lseek, fd, by, libc::SEEK_CUR).map(|v| v as i64)
    }

    fn write(&self, fd: i32, from: &[u8]) -> Result<usize, Errno> {
        sys!(SYS_write, fd, from.as_ptr(), from.len())
    }

    fn recvmsg(
        &self,
        fd: i32,
        into: &mut [IoSliceMut<'_>],
        control: &mut [u8],
        flags: i32,
    ) -> Result<Received, Errno> {
        let mut from = Addr::default();
        // SAFETY: an all-zero msghdr is a valid value (null pointers, zero lengths).
        let mut m: libc::msghdr = unsafe { core::mem::zeroed() };
        m.msg_name = from.buffer().as_mut_ptr().cast();
        m.msg_namelen = 128;
        m.msg_iov = into.as_mut_ptr().cast();
        m.msg_iovlen = into.len() as _;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = control.len() as _;
        let n = sys!(SYS_recvmsg, fd, &raw mut m, flags)?;
        from.set_len(m.msg_namelen as usize);
        #[allow(clippy::unnecessary_cast, reason = "the type differs between libcs")]
        Ok(Received {
            n,
            from,
            control: m.msg_controllen as usize,
            flags: m.msg_flags,
        })
    }

    fn send(&self, fd: i32, from: &[u8], flags: i32) -> Result<usize, Errno> {
        let (nobody, none) = (core::ptr::null::<libc::sockaddr>(), 0);
        sys!(
            SYS_sendto,
            fd,
            from.as_ptr(),
            from.len(),
            flags,
            nobody,
            none
        )
    }

    fn sendmsg(
        &self,
        fd: i32,
        from: &[IoSlice<'_>],
        to: Option<&Addr>,
        control: &[u8],
        flags: i32,
    ) -> Result<usize, Errno> {
        // SAFETY: an all-zero msghdr is a valid value (null pointers, zero lengths).
        let mut m: libc::msghdr = unsafe { core::mem::zeroed() };
        if let Some(a) = to {
            m.msg_name = a.as_bytes().as_ptr().cast_mut().cast();
            m.msg_namelen = a.as_bytes().len() as _;
        }
        m.msg_iov = from.as_ptr().cast_mut().cast();
        m.msg_iovlen = from.len() as _;
        if !control.is_empty() {
            m.msg_control = control.as_ptr().cast_mut().cast();
            m.msg_controllen = control.len() as _;
        }
        sys!(SYS_sendmsg, fd, &raw const m, flags)
    }

    fn ppoll(&self, fds: &mut [PollFd], timeout: Option<u64>) -> Result<usize, Errno> {
        let ts = timeout.map(timespec);
        let tsp = ts.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        let no_mask = core::ptr::null::<u64>();
        sys!(
            SYS_ppoll,
            fds.as_mut_ptr(),
            fds.len(),
            tsp,
            no_mask,
            KERNEL_SIGSET
        )
    }

    fn epoll_create(&self, flags: i32) -> Result<i32, Errno> {
        fd(sys!(SYS_epoll_create1, flags))
    }

    fn epoll_ctl(
        &self,
        epfd: i32,
        op: i32,
        fd: i32,
        event: Option<EpollEvent>,
    ) -> Result<(), Errno> {
        let k = event.map(|e| KernelEpollEvent {
            events: e.events,
            data: e.data,
        });
        let p = k.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        unit(sys!(SYS_epoll_ctl, epfd, op, fd, p))
    }

    fn epoll_collect(&self, epfd: i32, into: &mut [EpollEvent]) -> Result<usize, Errno> {
        let mut few = [KernelEpollEvent::default(); EPOLL_BATCH];
        let mut many;
        let k = match into.len() {
            0..=EPOLL_BATCH => few.get_mut(..into.len()).unwrap_or_default(),
            n => {
                many = vec![KernelEpollEvent::default(); n.min(EPOLL_MOST)];
                many.as_mut_slice()
            }
        };
        let n = sys!(
            SYS_epoll_pwait,
            epfd,
            k.as_mut_ptr(),
            k.len(),
            0,
            0,
            KERNEL_SIGSET
        )?;
        for (to, from) in into.iter_mut().zip(k.iter().take(n)) {
            *to = EpollEvent {
                events: from.events,
                data: from.data,
            };
        }
        Ok(n)
    }

    fn file_type(&self, fd: i32) -> Result<u32, Errno> {
        let mut st = core::mem::MaybeUninit::<libc::stat>::zeroed();
        let _: usize = sys!(SYS_fstat, fd, st.as_mut_ptr())?;
        // SAFETY: all-zero is a valid stat, and the kernel filled it in.
        Ok(unsafe { st.assume_init() }.st_mode & libc::S_IFMT)
    }

    fn memfd(&self) -> Result<i32, Errno> {
        fd(sys!(
            SYS_memfd_create,
            c"flyover-handover".as_ptr(),
            libc::MFD_CLOEXEC
        ))
    }

    fn epoll_is_armed(&self, epfd: i32, fd: i32) -> bool {
        // Nowhere else does the kernel say it.
        let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{epfd}")) else {
            return true;
        };
        let line = info.lines().find_map(|l| {
            let mut words = l.strip_prefix("tfd:")?.split_whitespace();
            (words.next()?.parse() == Ok(fd)).then_some(words)
        });
        let events = line.and_then(|mut words| {
            let _events = words.next()?;
            u32::from_str_radix(words.next()?, 16).ok()
        });
        // What is left of a one-shot member that has fired is how it is watched (`EP_PRIVATE_BITS` of fs/eventpoll.c).
        let how =
            (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP) as u32;
        events.is_none_or(|e| e & !how != 0)
    }

    fn borrow_socket(&self, inode: u32) -> Result<i32, Errno> {
        crate::borrow::socket(inode)
    }

    fn eventfd(&self) -> Result<i32, Errno> {
        fd(sys!(
            SYS_eventfd2,
            0,
            libc::EFD_CLOEXEC | libc::EFD_NONBLOCK
        ))
    }

    fn eventfd_id(&self, fd: i32) -> u32 {
        crate::borrow::eventfd_id(fd)
    }

    fn borrow_eventfd(&self, pid: i32, fd: i32, id: u32) -> Result<i32, Errno> {
        crate::borrow::eventfd(pid, fd, id)
    }

    fn futex_wait(&self, word: &AtomicU32, value: u32, timeout: u64) {
        let ts = timespec(timeout);
        let _: Result<usize, Errno> = sys!(
            SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            &raw const ts
        );
    }

    fn futex_wake(&self, word: &AtomicU32, count: u32) {
        let _: Result<usize, Errno> = sys!(SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count);
    }

    fn raise_sigpipe(&self) {
        signal::queue::raise(libc::SIGPIPE);
    }

    fn run_signals(&self) -> Ran {
        signal::run_deferred()
    }

    fn test_cancel(&self) {
        if !enter::cancel_is_new() {
            return;
        }
        enter::cancels_seen();
        // A handler must not run here unnoticed: it has to end the call.
        let before = signal::mask::set(!0);
        // SAFETY: no arguments; the caller holds no lock and no resource that unwinding would have to free.
        enter::outside(|| unsafe { next::pthread_testcancel() });
        let _: u64 = signal::mask::set(before);
    }
}

/// A file that is looked into, by raw system calls.
pub struct File(i32);

impl File {
    /// Opens it for reading.
    pub fn open(path: &core::ffi::CStr) -> Result<Self, Errno> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        fd(sys!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags)).map(Self)
    }

    /// Reads at an offset; 0 at the end and on errors.
    pub fn read_at(&self, into: &mut [u8], at: u64) -> usize {
        sys!(SYS_pread64, self.0, into.as_mut_ptr(), into.len(), at).unwrap_or(0)
    }

    /// True when executing it changes the user, the group or the capabilities: the loader then ignores `LD_PRELOAD`.
    pub fn gains_privilege(&self) -> bool {
        let mut st = core::mem::MaybeUninit::<libc::stat>::zeroed();
        if sys!(SYS_fstat, self.0, st.as_mut_ptr()).is_err() {
            return false;
        }
        // SAFETY: all-zero is a valid stat, and the kernel filled it in.
        let st = unsafe { st.assume_init() };
        let id = |nr: Result<usize, Errno>| nr.map_or(0, |v| v as u32);
        let (uid, gid) = (id(sys!(SYS_geteuid)), id(sys!(SYS_getegid)));
        let setgid = libc::S_ISGID | libc::S_IXGRP;
        let mut caps = [0u8; 32];
        let name = c"security.capability";
        // Root gains nothing from file capabilities.
        let capable = uid != 0
            && sys!(
                SYS_fgetxattr,
                self.0,
                name.as_ptr(),
                caps.as_mut_ptr(),
                caps.len()
            )
            .is_ok_and(|n| n > 0);
        (st.st_mode & libc::S_ISUID != 0 && st.st_uid != uid)
            || (st.st_mode & setgid == setgid && st.st_gid != gid)
            || capable
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _: Result<usize, Errno> = sys!(SYS_close, self.0);
    }
}
