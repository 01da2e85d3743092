//! `sigaction(2)` and what older interfaces make of it. glibc's own versions of those would not come by here.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

use super::action::{self, Copied};
use super::{handler, is_left_alone, mask};
use crate::{errno, next};

/// The flags that the kernel is told otherwise than the application said.
const OURS: c_int = libc::SA_SIGINFO | libc::SA_RESETHAND;

/// Signals for which `siginterrupt(3)` was asked: `signal` makes their handlers interrupt calls.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// What the application asks for, as the table has it.
pub fn copied(wanted: &libc::sigaction) -> Copied {
    Copied {
        handler: wanted.sa_sigaction,
        flags: wanted.sa_flags as u32 as u64,
        mask: word(&wanted.sa_mask),
    }
}

/// The first word of a libc set, which is the kernel's.
fn word(set: &libc::sigset_t) -> u64 {
    // SAFETY: a sigset_t is at least eight bytes.
    unsafe { *core::ptr::from_ref(set).cast::<u64>() }
}

/// The same for libc.
pub fn record(c: Copied) -> libc::sigaction {
    // SAFETY: an all-zero sigaction is a valid value.
    let mut a: libc::sigaction = unsafe { core::mem::zeroed() };
    a.sa_sigaction = c.handler;
    a.sa_flags = c.flags as c_int;
    // SAFETY: a sigset_t is at least eight bytes.
    unsafe { (&raw mut a.sa_mask).cast::<u64>().write(c.mask) };
    a
}

/// Gives the kernel a disposition without a function.
pub fn tell_kernel(sig: c_int, c: Copied) {
    let a = record(c);
    // SAFETY: a live local; the old disposition is not wanted.
    let _: c_int = unsafe { next::sigaction(sig, &raw const a, core::ptr::null_mut()) };
}

/// `sigaction(2)`.
///
/// # Safety
/// As the C function.
pub unsafe fn sigaction(
    sig: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if crate::fault::handles(sig) && !crate::init::is_foreign_child() {
        // SAFETY: passed on from our caller.
        return unsafe { crate::fault::sigaction(sig, new, old) };
    }
    let action = match action::of(sig) {
        Some(a) if sig > 0 && !is_left_alone(sig) => a,
        // SAFETY: passed on unchanged.
        _ => return unsafe { next::sigaction(sig, new, old) },
    };
    let before = mask::set(!0);
    let previous = action.load();
    let mut kernel_old = MaybeUninit::<libc::sigaction>::zeroed();
    let r = if new.is_null() {
        // SAFETY: a query into a live local.
        unsafe { next::sigaction(sig, core::ptr::null(), kernel_old.as_mut_ptr()) }
    } else if crate::init::is_foreign_child() {
        // A vfork child: its kernel dispositions are its own, our table is the parent's.
        // SAFETY: `new` is valid by the caller's promise, `kernel_old` is a live local.
        unsafe { next::sigaction(sig, new, kernel_old.as_mut_ptr()) }
    } else {
        // SAFETY: `new` is valid by the caller's promise.
        let wanted = unsafe { *new };
        let copy = copied(&wanted);
        let mut ours = wanted;
        if copy.is_function() {
            ours.sa_sigaction = handler as *const () as usize;
            ours.sa_flags = (ours.sa_flags | libc::SA_SIGINFO) & !libc::SA_RESETHAND;
            // The table first: our handler may be called the moment the kernel knows it.
            action.store(copy);
        }
        // SAFETY: both pointers are to live locals.
        let r = unsafe { next::sigaction(sig, &raw const ours, kernel_old.as_mut_ptr()) };
        if r != 0 && copy.is_function() {
            action.store(previous);
        }
        r
    };
    let _: u64 = mask::set(before);
    if r == 0 && !old.is_null() {
        // SAFETY: the call succeeded, so it was filled in.
        let mut was = unsafe { kernel_old.assume_init() };
        if was.sa_sigaction == handler as *const () as usize {
            was.sa_sigaction = previous.handler;
            was.sa_flags = (was.sa_flags & !OURS) | (previous.flags as c_int & OURS);
        }
        // SAFETY: not null, valid by the caller's promise.
        unsafe { *old = was };
    }
    r
}

fn query(sig: c_int) -> Option<Copied> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a query into a live local.
    if unsafe { sigaction(sig, core::ptr::null(), old.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it was filled in.
    let old = unsafe { old.assume_init() };
    Some(copied(&old))
}

/// Sets a function or `SIG_DFL`, `SIG_IGN`; the old one, or `SIG_ERR` with `errno`.
fn set(sig: c_int, function: libc::sighandler_t, flags: c_int, mask: u64) -> libc::sighandler_t {
    if function == libc::SIG_ERR {
        errno::set(libc::EINVAL);
        return libc::SIG_ERR;
    }
    let new = record(Copied {
        handler: function,
        flags: flags as u32 as u64,
        mask,
    });
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both pointers are to live locals.
    if unsafe { sigaction(sig, &raw const new, old.as_mut_ptr()) } != 0 {
        return libc::SIG_ERR;
    }
    // SAFETY: the call succeeded, so it was filled in.
    unsafe { old.assume_init() }.sa_sigaction
}

fn set_bit(word: &AtomicU64, sig: c_int, on: bool) {
    let bit = mask::bit(sig);
    let _: u64 = if on {
        word.fetch_or(bit, Ordering::Relaxed)
    } else {
        word.fetch_and(!bit, Ordering::Relaxed)
    };
}

/// `signal(2)` with BSD semantics, as glibc's: the signal itself is blocked meanwhile, calls restart.
pub fn signal(sig: c_int, function: libc::sighandler_t) -> libc::sighandler_t {
    let interrupts = sig > 0 && INTERRUPTS.load(Ordering::Relaxed) & mask::bit(sig) != 0;
    let flags = if interrupts { 0 } else { libc::SA_RESTART };
    let own = if sig > 0 { mask::bit(sig) } else { 0 };
    set(sig, function, flags, own)
}

/// `sysv_signal(3)`: one shot, not blocked meanwhile, calls do not restart.
pub fn sysv_signal(sig: c_int, function: libc::sighandler_t) -> libc::sighandler_t {
    set(sig, function, libc::SA_RESETHAND | libc::SA_NODEFER, 0)
}

/// `siginterrupt(3)`.
pub fn siginterrupt(sig: c_int, interrupt: bool) -> c_int {
    let Some(mut now) = query(sig) else {
        return -1;
    };
    let restart = libc::SA_RESTART as u64;
    now.flags = if interrupt {
        now.flags & !restart
    } else {
        now.flags | restart
    };
    let new = record(now);
    // SAFETY: a live local.
    let r = unsafe { sigaction(sig, &raw const new, core::ptr::null_mut()) };
    if r == 0 {
        set_bit(&INTERRUPTS, sig, interrupt);
    }
    r
}

/// `SIG_HOLD` of `sigset(3)`.
const SIG_HOLD: libc::sighandler_t = 2;

/// `sigset(3)`.
pub fn sigset(sig: c_int, function: libc::sighandler_t) -> libc::sighandler_t {
    if function == libc::SIG_ERR || action::of(sig).is_none() || sig <= 0 {
        errno::set(libc::EINVAL);
        return libc::SIG_ERR;
    }
    let all = mask::set(!0);
    let was_held = all & mask::bit(sig) != 0;
    let was = if function == SIG_HOLD {
        query(sig).map_or(libc::SIG_ERR, |c| c.handler)
    } else {
        set(sig, function, 0, 0)
    };
    let held = function == SIG_HOLD || (was == libc::SIG_ERR && was_held);
    let _: u64 = mask::set(if held {
        all | mask::bit(sig)
    } else {
        all & !mask::bit(sig)
    });
    if was_held && was != libc::SIG_ERR {
        SIG_HOLD
    } else {
        was
    }
}

/// `sigignore(3)`.
pub fn sigignore(sig: c_int) -> c_int {
    if set(sig, libc::SIG_IGN, 0, 0) == libc::SIG_ERR {
        -1
    } else {
        0
    }
}
