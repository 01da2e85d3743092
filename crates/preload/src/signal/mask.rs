//! Signal masks of the kernel's size by raw system calls, and the masks of `ppoll` and its relatives.

use core::cell::Cell;
use core::ffi::c_int;

use flyover_sockets::enter;

use super::action;

/// Bytes of the kernel's signal set (`sigset_t` of libc is larger).
pub const BYTES: usize = 8;

/// The bit of `sig`.
pub fn bit(sig: c_int) -> u64 {
    1u64 << ((sig - 1) & 63)
}

/// `SIGSEGV` and `SIGBUS`, that a probe of memory raises.
pub const FAULTS: u64 = 1 << (libc::SIGSEGV - 1) | 1 << (libc::SIGBUS - 1);

/// Sets this thread's mask and returns the old one.
pub fn set(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both pointers are to live locals of the kernel's signal set size, eight bytes.
    unsafe {
        crate::sys::raw(
            libc::SYS_rt_sigprocmask,
            [
                libc::SIG_SETMASK as usize,
                &raw const mask as usize,
                &raw mut old as usize,
                BYTES,
                0,
                0,
            ],
        )
    };
    old
}

thread_local! {
    /// The mask from before a call that waits under a mask of its own, while such a call runs.
    static BEFORE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A call that waits under a mask of its own has begun. While it lasts signals come as that mask lets them.
pub struct Waiting(());

impl Waiting {
    /// Sets the mask.
    pub fn under(mask: u64) -> Self {
        let _inside = enter::enter();
        let before = set(mask);
        BEFORE.with(|b| b.set(Some(before)));
        Self(())
    }

    /// The call is over; unless a handler ran, which has brought the old mask back, it is brought back here. What was
    /// noted but not handled comes under the old mask, and stays pending where that blocks it, as in the kernel.
    pub fn end(self) {
        let _inside = enter::enter();
        if let Some(before) = BEFORE.with(Cell::take) {
            if enter::has_signal() {
                super::set_noted_mask(before);
            } else {
                let _: u64 = set(before);
            }
        }
    }
}

/// The mask from before the call, for the handler that ends it.
pub fn take_before() -> Option<u64> {
    BEFORE.with(Cell::take)
}

thread_local! {
    /// The mask from before a fork, while this thread forks.
    static FORKING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// No handler runs from here on until [`end_fork`], in either process: it could use what the fork holds. Nothing may be put
/// off either, since the child would get the mask that goes with it, and not the signal.
///
/// Signals that do nothing as long as nobody handles them come as ever: for one that is blocked here (a child that ends at
/// once) the kernel would wake another thread, whose `recv` with a time-out fails with `EINTR` then.
pub fn begin_fork() {
    let before = set(!FAULTS);
    FORKING.with(|f| f.set(Some(before)));
    let idle = IDLE.into_iter().filter(|sig| is_idle(*sig));
    let idle = idle.fold(0, |all, sig| all | bit(sig)) & !before;
    if idle != 0 {
        let _: u64 = set(!FAULTS & !idle);
    }
}

/// What is ignored by default and comes in passing.
const IDLE: [c_int; 3] = [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH];

fn is_idle(sig: c_int) -> bool {
    action::of(sig).is_some_and(|a| a.load().handler == libc::SIG_DFL)
}

/// The fork is over, in this process: signals that came meanwhile come now.
pub fn end_fork() {
    // Looked at first: a fork that had nothing to hold writes nothing, which would be a page to copy.
    if let Some(before) = FORKING.with(Cell::get) {
        FORKING.with(|f| f.set(None));
        let _: u64 = set(before);
    }
}
