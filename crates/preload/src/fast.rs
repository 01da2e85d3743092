//! The look-up that every intercepted call begins with: is this descriptor none of our business? One load, one
//! compare.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use flyover_sockets::entry::{UNKNOWN_WORD, word_is_kernel};
use flyover_sockets::{FdTable, Sockets, enter};

use crate::{cancel, init, next, signal};

/// Descriptor numbers that the table covers: the usual hard limit of `RLIMIT_NOFILE`. Untouched pages cost nothing.
const NUMBERS: usize = 1 << 20;

static WORDS: [AtomicU64; NUMBERS] = [const { AtomicU64::new(0) }; NUMBERS];
static MADE: [AtomicU32; NUMBERS] = [const { AtomicU32::new(0) }; NUMBERS];

/// The table.
pub const fn table() -> FdTable {
    FdTable::new(&WORDS, &MADE)
}

/// True when calls on `fd` go straight to libc. A descriptor that nobody has looked at yet is looked at: what is none
/// of ours goes to the kernel as the application made the call, and no pointer of it is touched.
#[inline(always)]
pub fn is_kernel(fd: i32) -> bool {
    match WORDS.get(fd as usize).map(|w| w.load(Ordering::Relaxed)) {
        Some(UNKNOWN_WORD) => settle(fd),
        Some(w) => word_is_kernel(w),
        None => true,
    }
}

/// The same without the look: false also for a descriptor that nobody has looked at yet.
#[inline(always)]
pub fn is_known_kernel(fd: i32) -> bool {
    let word = WORDS.get(fd as usize);
    word.is_none_or(|w| word_is_kernel(w.load(Ordering::Relaxed)))
}

#[cold]
#[inline(never)]
fn settle(fd: i32) -> bool {
    // The table is the parent's in a child of `vfork`, whose descriptors are its own.
    if init::lib().is_none_or(Sockets::is_foreign_child) {
        return false;
    }
    let _ = inside(|lib| lib.look(fd));
    is_known_kernel(fd)
}

/// A cancellation point, for calls that may be answered without a sleep: POSIX wants the thread to end here also when
/// there is nothing to wait for.
#[inline]
pub fn cancellation_point() {
    if enter::any_cancelled() && !enter::is_inside() {
        // SAFETY: no arguments; nothing is held.
        unsafe { next::pthread_testcancel() };
    }
}

/// Runs `f` inside the library; `None` when the library is not up yet, or switched off.
#[inline]
pub fn inside<R>(f: impl FnOnce(&'static Sockets) -> R) -> Option<R> {
    let lib = init::lib()?;
    let at_once = cancel::hold_back();
    let guard = enter::enter();
    let r = f(lib);
    drop(guard);
    cancel::let_go(at_once);
    if enter::has_signal() && !enter::is_inside() {
        let _ = signal::run_deferred();
    }
    Some(r)
}
