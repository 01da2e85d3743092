//! Signals. An application's handler must not run while its thread is in the stack's code, so the kernel is given our
//! handler instead of the application's. Outside the library it calls the application's at once. Inside it notes the
//! signal and returns with *all* signals blocked, so that there is never more than one noted signal per thread; when
//! the thread leaves the library the handler runs under the mask that it would have had, and the old mask comes back.
//!
//! Signals that report a fault of the running instruction (`SIGSEGV` ..), and `SIGPROF`, are left alone.

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use flyover_sockets::enter;
use flyover_sockets::os::Ran;

use crate::next;

const SIGNALS: usize = 65;

/// The application's disposition of one signal, readable from handlers: a sequence lock over three words.
struct Action {
    seq: AtomicU32,
    handler: AtomicU64,
    flags: AtomicU64,
    mask: AtomicU64,
}

#[derive(Clone, Copy)]
struct Copied {
    handler: usize,
    flags: u64,
    mask: u64,
}

static ACTIONS: [Action; SIGNALS] = [const {
    Action {
        seq: AtomicU32::new(0),
        handler: AtomicU64::new(0),
        flags: AtomicU64::new(0),
        mask: AtomicU64::new(0),
    }
}; SIGNALS];

impl Action {
    fn load(&self) -> Copied {
        loop {
            let before = self.seq.load(Ordering::Acquire);
            let c = Copied {
                handler: self.handler.load(Ordering::Relaxed) as usize,
                flags: self.flags.load(Ordering::Relaxed),
                mask: self.mask.load(Ordering::Relaxed),
            };
            core::sync::atomic::fence(Ordering::Acquire);
            if before & 1 == 0 && self.seq.load(Ordering::Relaxed) == before {
                return c;
            }
            core::hint::spin_loop();
        }
    }

    /// Called with all signals blocked.
    fn store(&self, c: Copied) {
        let mut seq = self.seq.load(Ordering::Relaxed);
        loop {
            let odd = seq | 1;
            if seq & 1 == 0
                && self
                    .seq
                    .compare_exchange_weak(seq, odd, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                break;
            }
            core::hint::spin_loop();
            seq = self.seq.load(Ordering::Relaxed);
        }
        core::sync::atomic::fence(Ordering::Release);
        self.handler.store(c.handler as u64, Ordering::Relaxed);
        self.flags.store(c.flags, Ordering::Relaxed);
        self.mask.store(c.mask, Ordering::Relaxed);
        self.seq.store((seq | 1).wrapping_add(1), Ordering::Release);
    }
}

/// The signal that waits for the thread to leave the library.
struct Noted {
    sig: Cell<c_int>,
    info: Cell<MaybeUninit<libc::siginfo_t>>,
    /// The mask that was in force when it came.
    mask: Cell<u64>,
}

thread_local! {
    static NOTED: Noted = const {
        Noted { sig: Cell::new(0), info: Cell::new(MaybeUninit::uninit()), mask: Cell::new(0) }
    };
}

/// Signals whose handler runs at once wherever the thread is.
fn is_left_alone(sig: c_int) -> bool {
    matches!(
        sig,
        libc::SIGSEGV
            | libc::SIGBUS
            | libc::SIGILL
            | libc::SIGFPE
            | libc::SIGTRAP
            | libc::SIGSYS
            | libc::SIGABRT
            | libc::SIGPROF
            | libc::SIGKILL
            | libc::SIGSTOP
    )
}

fn bit(sig: c_int) -> u64 {
    1u64 << ((sig - 1) & 63)
}

fn set_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both pointers are to live locals of the kernel's signal set size, eight bytes.
    unsafe {
        crate::sys::raw(
            libc::SYS_rt_sigprocmask,
            [
                libc::SIG_SETMASK as usize,
                &raw const mask as usize,
                &raw mut old as usize,
                8,
                0,
                0,
            ],
        )
    };
    old
}

fn call(c: Copied, sig: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if c.handler == libc::SIG_DFL || c.handler == libc::SIG_IGN {
        return;
    }
    if c.flags & libc::SA_SIGINFO as u64 != 0 {
        // SAFETY: the application registered this address with SA_SIGINFO, so it has this type.
        let f: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { core::mem::transmute(c.handler) };
        f(sig, info, context);
    } else {
        // SAFETY: the application registered this address without SA_SIGINFO, so it has this type.
        let f: extern "C" fn(c_int) = unsafe { core::mem::transmute(c.handler) };
        f(sig);
    }
}

/// What the kernel calls for every signal that the application handles.
extern "C" fn handler(sig: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(action) = usize::try_from(sig).ok().and_then(|i| ACTIONS.get(i)) else {
        return;
    };
    if !enter::is_inside() {
        let c = action.load();
        call(c, sig, info, context);
        return;
    }
    NOTED.with(|n| {
        n.sig.set(sig);
        // SAFETY: the kernel passes a valid siginfo_t to a handler with SA_SIGINFO, which ours has.
        n.info.set(MaybeUninit::new(unsafe { info.read() }));
        // SAFETY: the third argument of a handler with SA_SIGINFO is the ucontext_t that sigreturn restores.
        let uc = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        let words = (&raw mut uc.uc_sigmask).cast::<u64>();
        // SAFETY: a sigset_t is at least eight bytes; its first word is the kernel's set.
        n.mask.set(unsafe { *words });
        // SAFETY: as above. All signals stay blocked until the noted one was handled.
        unsafe { *words = !0 };
    });
    if let Some(bell) = enter::note_signal() {
        let one = 1u64;
        // SAFETY: writes eight bytes of a live local to an eventfd.
        unsafe {
            crate::sys::raw(
                libc::SYS_write,
                [bell as usize, &raw const one as usize, 8, 0, 0, 0],
            )
        };
    }
}

/// Runs the noted handler, if there is one, as if outside the library.
pub fn run_deferred() -> Ran {
    let mut ran = Ran::None;
    while enter::take_signal() {
        let (sig, info, mask) = NOTED.with(|n| (n.sig.get(), n.info.get(), n.mask.get()));
        let Some(action) = usize::try_from(sig).ok().and_then(|i| ACTIONS.get(i)) else {
            return ran;
        };
        let c = action.load();
        let own = if c.flags & libc::SA_NODEFER as u64 != 0 {
            0
        } else {
            bit(sig)
        };
        if c.handler != libc::SIG_DFL && c.handler != libc::SIG_IGN {
            let restarts = c.flags & libc::SA_RESTART as u64 != 0;
            if ran != Ran::Interrupt {
                ran = if restarts {
                    Ran::Restart
                } else {
                    Ran::Interrupt
                };
            }
        }
        let mut info = info;
        let mut context = MaybeUninit::<libc::ucontext_t>::zeroed();
        enter::outside(|| {
            let _: u64 = set_mask(mask | c.mask | own);
            call(c, sig, info.as_mut_ptr(), context.as_mut_ptr().cast());
            // Back to the mask from before the signal; what was pending comes now, directly.
            let _: u64 = set_mask(mask);
        });
    }
    ran
}

fn forbidden(sig: c_int) -> bool {
    sig <= 0 || sig as usize >= SIGNALS
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
    if forbidden(sig) || is_left_alone(sig) || crate::init::is_foreign_child() {
        // SAFETY: passed on unchanged.
        return unsafe { next::sigaction(sig, new, old) };
    }
    let action = &ACTIONS[sig as usize];
    let before = set_mask(!0);
    let previous = action.load();
    let mut kernel_old = MaybeUninit::<libc::sigaction>::zeroed();
    let r = if new.is_null() {
        // SAFETY: a query into a live local.
        unsafe { next::sigaction(sig, core::ptr::null(), kernel_old.as_mut_ptr()) }
    } else {
        // SAFETY: `new` is valid by the caller's promise.
        let wanted = unsafe { *new };
        let mut ours = wanted;
        let real = wanted.sa_sigaction != libc::SIG_DFL && wanted.sa_sigaction != libc::SIG_IGN;
        if real {
            ours.sa_sigaction = handler as *const () as usize;
            ours.sa_flags |= libc::SA_SIGINFO;
        }
        let mask = (&raw const wanted.sa_mask).cast::<u64>();
        // SAFETY: a sigset_t is at least eight bytes; its first word is the kernel's set.
        let mask = unsafe { *mask };
        let copy = Copied {
            handler: wanted.sa_sigaction,
            flags: wanted.sa_flags as u64,
            mask,
        };
        // The table first: our handler may be called the moment the kernel knows it. A one-shot disposition
        // (SA_RESETHAND) is reset by the kernel after our handler ran.
        if real {
            action.store(copy);
        }
        // SAFETY: both pointers are to live locals.
        let r = unsafe { next::sigaction(sig, &raw const ours, kernel_old.as_mut_ptr()) };
        if r != 0 && real {
            action.store(previous);
        }
        r
    };
    let _: u64 = set_mask(before);
    if r == 0 && !old.is_null() {
        // SAFETY: the call succeeded, so it was filled in.
        let mut was = unsafe { kernel_old.assume_init() };
        if was.sa_sigaction == handler as *const () as usize {
            was.sa_sigaction = previous.handler;
            was.sa_flags =
                (was.sa_flags & !libc::SA_SIGINFO) | (previous.flags as c_int & libc::SA_SIGINFO);
        }
        // SAFETY: not null, valid by the caller's promise.
        unsafe { *old = was };
    }
    r
}

/// `signal(2)` with BSD semantics, as glibc's.
///
/// # Safety
/// As the C function.
pub unsafe fn signal(sig: c_int, disposition: libc::sighandler_t) -> libc::sighandler_t {
    if forbidden(sig) || is_left_alone(sig) || disposition == libc::SIG_ERR {
        // SAFETY: passed on unchanged.
        return unsafe { next::signal(sig, disposition) };
    }
    let mut new = MaybeUninit::<libc::sigaction>::zeroed();
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: an all-zero sigaction is a valid value.
    let n = unsafe { new.assume_init_mut() };
    n.sa_sigaction = disposition;
    n.sa_flags = libc::SA_RESTART;
    // SAFETY: both pointers are to live locals.
    if unsafe { sigaction(sig, new.as_ptr(), old.as_mut_ptr()) } != 0 {
        return libc::SIG_ERR;
    }
    // SAFETY: the call succeeded, so it was filled in.
    unsafe { old.assume_init() }.sa_sigaction
}
