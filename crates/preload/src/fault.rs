//! Memory of the application that is not there. The kernel answers `EFAULT` for it, so nothing of the application's is
//! touched here before it was probed: one load from every page that a call may read or write, one locked `or 0` on
//! the first byte of what it writes. The probes are three instructions with a known address; when one of them faults,
//! our handler of `SIGSEGV` and `SIGBUS` continues at the one that says so. That costs nanoseconds, where asking the
//! kernel would cost a system call in every `send` and `recv`.
//!
//! The application's own dispositions of the two signals are kept and honoured: our handler passes on every fault that
//! is not a probe's. What remains is memory that another thread unmaps between the probe and the copy, a thread that
//! blocks `SIGSEGV`, and a handler set by a raw system call: there a bad pointer ends the program.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::signal::{self, action, disposition, mask};
use crate::{next, sys};

const PAGE: usize = 4096;
/// Pages in the middle of a long buffer that are looked at; beyond that only its last page is.
const PAGES: usize = 16;

core::arch::global_asm!(
    ".hidden flyover_probe_read, flyover_probe_write, flyover_probe_touch",
    ".hidden flyover_probe_end, flyover_probe_fault",
    ".globl flyover_probe_read, flyover_probe_write, flyover_probe_touch",
    ".globl flyover_probe_end, flyover_probe_fault",
    "flyover_probe_read:",
    "movb (%rdi), %al",
    "xorl %eax, %eax",
    "ret",
    "flyover_probe_write:",
    "lock orb $0, (%rdi)",
    "xorl %eax, %eax",
    "ret",
    "flyover_probe_touch:",
    "movb (%rdi), %al",
    "movb %al, (%rdi)",
    "xorl %eax, %eax",
    "ret",
    "flyover_probe_end:",
    "flyover_probe_fault:",
    "movl $1, %eax",
    "ret",
    options(att_syntax)
);

unsafe extern "C" {
    fn flyover_probe_read(p: *const u8) -> c_int;
    fn flyover_probe_write(p: *const u8) -> c_int;
    fn flyover_probe_touch(p: *mut u8) -> c_int;
    fn flyover_probe_end();
    fn flyover_probe_fault();
}

/// 0: not yet, 1: a thread is at it, 2: the handler is in place.
static INSTALLED: AtomicU32 = AtomicU32::new(0);

/// True when the kernel calls our handler for the signal.
pub fn handles(sig: c_int) -> bool {
    matches!(sig, libc::SIGSEGV | libc::SIGBUS) && is_installed()
}

fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire) == 2
}

#[cold]
fn install() {
    if INSTALLED
        .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        while !is_installed() {
            core::hint::spin_loop();
        }
        return;
    }
    for sig in [libc::SIGSEGV, libc::SIGBUS] {
        let mut old = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a query into a live local.
        if unsafe { next::sigaction(sig, core::ptr::null(), old.as_mut_ptr()) } != 0 {
            continue;
        }
        // SAFETY: the call succeeded, so it was filled in.
        let old = unsafe { old.assume_init() };
        remember(sig, &old);
        let ours = in_front_of(&old);
        // SAFETY: a live local; our handler has the type that SA_SIGINFO asks for.
        let _ = unsafe { next::sigaction(sig, &raw const ours, core::ptr::null_mut()) };
    }
    INSTALLED.store(2, Ordering::Release);
}

/// Notes the application's disposition.
fn remember(sig: c_int, wanted: &libc::sigaction) {
    let before = mask::set(!0);
    if let Some(action) = action::of(sig) {
        action.store(disposition::copied(wanted));
    }
    let _: u64 = mask::set(before);
}

/// What the kernel is told when the application wants `wanted`: our handler under the application's mask and flags.
fn in_front_of(wanted: &libc::sigaction) -> libc::sigaction {
    let mut ours = *wanted;
    let default = matches!(wanted.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN);
    ours.sa_sigaction = handler as *const () as usize;
    ours.sa_flags = (ours.sa_flags & !libc::SA_RESETHAND) | libc::SA_SIGINFO;
    if default {
        ours.sa_flags |= libc::SA_ONSTACK;
    }
    ours
}

/// `sigaction` of a signal that we handle.
///
/// # Safety
/// As the C function.
pub unsafe fn sigaction(
    sig: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    let previous = action::of(sig).map(action::Action::load);
    if !new.is_null() {
        // SAFETY: `new` is valid by the caller's promise.
        let wanted = unsafe { *new };
        remember(sig, &wanted);
        let ours = in_front_of(&wanted);
        // SAFETY: a live local; the old disposition is our handler.
        let _ = unsafe { next::sigaction(sig, &raw const ours, core::ptr::null_mut()) };
    }
    if let (false, Some(was)) = (old.is_null(), previous) {
        // SAFETY: not null, valid by the caller's promise.
        unsafe { *old = disposition::record(was) };
    }
    0
}

/// Calls the application's handler; false: the default action is wanted. An ignored signal that was sent by somebody
/// (`sent`) is dropped; a fault cannot be ignored.
fn pass_on(sig: c_int, info: *mut libc::siginfo_t, context: *mut c_void, sent: bool) -> bool {
    let Some(action) = action::of(sig) else {
        return false;
    };
    let c = action.load();
    if !c.is_function() {
        return sent && c.handler == libc::SIG_IGN;
    }
    if c.has(libc::SA_RESETHAND) {
        let spent = disposition::record(action::Copied {
            handler: libc::SIG_DFL,
            ..c
        });
        remember(sig, &spent);
    }
    signal::call(c, sig, info, context);
    true
}

fn program_counter(uc: &mut libc::ucontext_t) -> &mut i64 {
    &mut uc.uc_mcontext.gregs[libc::REG_RIP as usize]
}

extern "C" fn handler(sig: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the third argument of a handler with SA_SIGINFO is the ucontext_t that sigreturn restores.
    let pc = program_counter(unsafe { &mut *context.cast::<libc::ucontext_t>() });
    let at = *pc as usize;
    if (flyover_probe_read as *const () as usize..flyover_probe_end as *const () as usize)
        .contains(&at)
    {
        *pc = flyover_probe_fault as *const () as usize as i64;
        return;
    }
    // SAFETY: the kernel passes a valid siginfo_t.
    let sent = unsafe { (*info).si_code } <= 0;
    if pass_on(sig, info, context, sent) {
        return;
    }
    // The default action, with the registers of the fault: the instruction runs again without us.
    let mut default = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: an all-zero sigaction is valid: SIG_DFL, no flags.
    unsafe {
        default.assume_init_mut().sa_sigaction = libc::SIG_DFL;
        let _ = next::sigaction(sig, default.as_ptr(), core::ptr::null_mut());
    }
    if sent {
        // SAFETY: plain numbers; the signal comes when this handler returns.
        unsafe {
            let pid = sys::raw(libc::SYS_getpid, [0; 6]) as usize;
            let tid = sys::raw(libc::SYS_gettid, [0; 6]) as usize;
            sys::raw(libc::SYS_tgkill, [pid, tid, sig as usize, 0, 0, 0]);
        }
    }
}

/// The handler is installed on the first probe: a program without sockets of its own never has it.
#[inline]
fn ready() {
    if !is_installed() {
        install();
    }
}

/// How many of the `n` bytes at `p` can be read, counted in whole pages.
#[inline]
pub fn readable(p: *const u8, n: usize) -> usize {
    ready();
    // SAFETY: the probe reads one byte and survives when there is none.
    if unsafe { flyover_probe_read(p) } != 0 {
        return 0;
    }
    rest(p, n)
}

/// How many of the `n` bytes at `p` can be written.
#[inline]
pub fn writable(p: *const u8, n: usize) -> usize {
    ready();
    // SAFETY: the probe changes nothing and survives when the byte cannot be written.
    if unsafe { flyover_probe_write(p) } != 0 {
        return 0;
    }
    rest(p, n)
}

/// The same for memory of which at least the first byte is about to be written, whatever happens: no exchange is needed to
/// find out.
///
/// # Safety
/// Nobody else may be using the first byte, if it is there.
#[inline]
pub unsafe fn writable_now(p: *mut u8, n: usize) -> usize {
    ready();
    // SAFETY: the probe survives when the byte cannot be written, and writes what is there; the caller gives it to us.
    if unsafe { flyover_probe_touch(p) } != 0 {
        return 0;
    }
    rest(p, n)
}

/// The first byte is there: how far does the memory go?
#[inline]
fn rest(p: *const u8, n: usize) -> usize {
    let first = PAGE - (p as usize & (PAGE - 1));
    if n <= first {
        return n;
    }
    // SAFETY: the probe reads one byte and survives when there is none.
    let there = |at: usize| unsafe { flyover_probe_read(p.wrapping_add(at)) } == 0;
    let mut at = first;
    if n / PAGE <= PAGES || !there(n - 1) {
        while at < n && there(at) {
            at += PAGE;
        }
        return at.min(n);
    }
    n
}
