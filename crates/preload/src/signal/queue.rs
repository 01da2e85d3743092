//! Sending a signal to the own thread: one that came at a bad moment once more, and `SIGPIPE`.

use core::ffi::c_int;

use super::mask;

/// A `siginfo_t` as the kernel copies it, 128 bytes.
pub type Info = [u64; 16];

/// The first real-time signal of the kernel. From here on signals are queued, never merged.
const FIRST_QUEUED: c_int = 32;
/// Most signals of one number whose order is kept: a bound for a loop in a signal handler.
const MOST: usize = 1024;

struct Me {
    pid: usize,
    tid: usize,
}

fn me() -> Me {
    // SAFETY: no arguments, cannot fail.
    let (pid, tid) = unsafe {
        (
            crate::sys::raw(libc::SYS_getpid, [0; 6]),
            crate::sys::raw(libc::SYS_gettid, [0; 6]),
        )
    };
    Me {
        pid: pid as usize,
        tid: tid as usize,
    }
}

/// Queues the signal at the end. If the kernel has no memory for what comes with it (`RLIMIT_SIGPENDING`), the signal
/// goes without.
fn queue(me: &Me, sig: c_int, info: &Info) {
    let args = [
        me.pid,
        me.tid,
        sig as usize,
        core::ptr::from_ref(info) as usize,
        0,
        0,
    ];
    // SAFETY: `info` is as long as a siginfo_t.
    if unsafe { crate::sys::raw(libc::SYS_rt_tgsigqueueinfo, args) } < 0 {
        // SAFETY: plain numbers.
        unsafe { crate::sys::raw(libc::SYS_tgkill, [me.pid, me.tid, sig as usize, 0, 0, 0]) };
    }
}

/// Takes the first pending signal of this number. All signals are blocked.
fn take(sig: c_int) -> Option<Info> {
    let set = mask::bit(sig);
    let mut info: Info = [0; 16];
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let args = [
        &raw const set as usize,
        &raw mut info as usize,
        &raw const at_once as usize,
        mask::BYTES,
        0,
        0,
    ];
    // SAFETY: all pointers are to live locals of the kernel's sizes.
    let r = unsafe { crate::sys::raw(libc::SYS_rt_sigtimedwait, args) };
    (r == sig as isize).then_some(info)
}

fn is_pending(sig: c_int) -> bool {
    let mut set = 0u64;
    // SAFETY: a live local of the kernel's signal set size.
    unsafe {
        crate::sys::raw(
            libc::SYS_rt_sigpending,
            [&raw mut set as usize, mask::BYTES, 0, 0, 0, 0],
        )
    };
    set & mask::bit(sig) != 0
}

/// Queues a signal that came too early, ahead of others of its number that came after it. All signals are blocked.
pub fn again(sig: c_int, info: &Info) {
    let me = me();
    if sig < FIRST_QUEUED || !is_pending(sig) {
        return queue(&me, sig, info);
    }
    // There is no way to queue at the head: count those ahead of ours in one turn of the queue, then turn it so far.
    queue(&me, sig, info);
    let mut ahead = 0;
    while ahead < MOST {
        let Some(first) = take(sig) else { return };
        queue(&me, sig, &first);
        if first == *info {
            break;
        }
        ahead += 1;
    }
    for _ in 0..ahead {
        if let Some(first) = take(sig) {
            queue(&me, sig, &first);
        }
    }
}

/// Sends `sig` to this thread as the kernel does for an error of a call: as if by `kill(2)` from the process itself.
pub fn raise(sig: c_int) {
    let me = me();
    // SAFETY: no arguments, cannot fail.
    let uid = unsafe { crate::sys::raw(libc::SYS_getuid, [0; 6]) } as u64;
    let mut info: Info = [0; 16];
    // si_signo and si_errno in the first word, si_code (SI_USER, 0) in the second; then si_pid and si_uid.
    info[0] = if cfg!(target_endian = "little") {
        sig as u64
    } else {
        (sig as u64) << 32
    };
    info[2] = if cfg!(target_endian = "little") {
        me.pid as u64 | uid << 32
    } else {
        (me.pid as u64) << 32 | uid
    };
    queue(&me, sig, &info);
}
