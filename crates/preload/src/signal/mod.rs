//! Signals. An application's handler must not run while its thread is in the stack's code, so the kernel is given our
//! handler instead of the application's. Outside the library it calls the application's at once. Inside it blocks all
//! signals, queues the signal once more to its own thread, and returns; when the thread leaves the library the old
//! mask comes back, and with it the signal, delivered by the kernel: with its `siginfo_t`, a true `ucontext_t`, on the
//! alternative stack, under the mask that `sigaction(2)` promises. Leaving a handler by `siglongjmp` is as ever.
//!
//! | file | what |
//! |---|---|
//! | `action.rs` | the application's dispositions |
//! | `disposition.rs` | `sigaction`, `signal` and their relatives |
//! | `mask.rs` | masks; waits under a mask of their own |
//! | `queue.rs` | sending a signal to the own thread once more |
//!
//! Signals that report a fault of the running instruction (`SIGSEGV` ..), and `SIGPROF`, are left alone; but see
//! `fault.rs`.

use core::cell::Cell;
use core::ffi::{c_int, c_void};

use flyover_sockets::enter;
use flyover_sockets::os::Ran;

pub mod action;
pub mod disposition;
pub mod mask;
pub mod queue;

use action::Copied;

/// What is known of the signals that wait, pending in the kernel, for the thread to leave the library.
struct Noted {
    /// The mask that was in force when the first of them came.
    mask: Cell<u64>,
    /// What their handlers mean for a call that they interrupt.
    ran: Cell<Ran>,
    /// The mask that a handler finds in its context, and the one that it is to return to instead.
    returns: Cell<Option<(u64, u64)>>,
}

thread_local! {
    static NOTED: Noted = const {
        Noted { mask: Cell::new(0), ran: Cell::new(Ran::None), returns: Cell::new(None) }
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

/// The first word of a context's mask, which is the kernel's signal set.
fn context_mask<'a>(context: *mut c_void) -> &'a Cell<u64> {
    // SAFETY: the third argument of a handler with SA_SIGINFO is the ucontext_t that sigreturn restores. It lives on
    // the handler's stack until then, a sigset_t is at least eight bytes, and only this thread touches it.
    unsafe {
        let uc = context.cast::<libc::ucontext_t>();
        &*(&raw mut (*uc).uc_sigmask).cast::<Cell<u64>>()
    }
}

/// Calls the application's function.
pub fn call(c: Copied, sig: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if !c.is_function() {
        return;
    }
    if c.has(libc::SA_SIGINFO) {
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
    let Some(action) = action::of(sig) else {
        return;
    };
    if enter::is_inside() {
        return put_off(action.load(), sig, info, context);
    }
    NOTED.with(|n| {
        let mask = context_mask(context);
        if let Some((_, to)) = n.returns.get().filter(|(from, _)| *from == mask.get()) {
            n.returns.set(None);
            mask.set(to);
        }
    });
    call(action.take(sig), sig, info, context);
}

/// Makes the signal wait until the thread is out of the library. Several may come here, one handler on top of the
/// other, before the first of them returns; the lowest returns last, and its context has the mask from before.
#[cold]
fn put_off(c: Copied, sig: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let _: u64 = mask::set(!0);
    let in_context = context_mask(context);
    NOTED.with(|n| {
        // Not the faults: the library may still probe memory that is not there.
        n.mask.set(in_context.replace(!mask::FAULTS));
        if c.is_function() && n.ran.get() != Ran::Interrupt {
            n.ran.set(if c.has(libc::SA_RESTART) {
                Ran::Restart
            } else {
                Ran::Interrupt
            });
        }
    });
    // SAFETY: the kernel passes a valid siginfo_t to a handler with SA_SIGINFO, which ours has; both types are of 128
    // bytes, and all of them are written by the kernel.
    let words: queue::Info = unsafe { info.cast::<queue::Info>().read() };
    queue::again(sig, &words);
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

/// The signals that were put off are to come under this mask.
fn set_noted_mask(mask: u64) {
    NOTED.with(|n| n.mask.set(mask));
}

/// Lets the signals come that were put off, if there are any, and the thread be outside the library meanwhile.
pub fn run_deferred() -> Ran {
    if !enter::take_signal() {
        return Ran::None;
    }
    let (mask, ran) = NOTED.with(|n| {
        let mask = n.mask.get();
        n.returns
            .set(mask::take_before().map(|before| (mask, before)));
        (mask, n.ran.replace(Ran::None))
    });
    enter::outside(|| mask::set(mask));
    // A handler has done this on its way back, unless none ran after all.
    if let Some((_, before)) = NOTED.with(|n| n.returns.take()) {
        let _: u64 = mask::set(before);
    }
    ran
}
