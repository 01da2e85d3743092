//! The bracket around every call that enters the stack's code. While a thread is inside, a signal handler of the
//! application must not run: it could call `send` and find the stack's lock held by its own thread. The preload's
//! handler asks [`is_inside`], notes the signal with [`note_signal`], and the handler runs when the thread is out.
//!
//! The state is thread-local, constant-initialised and without destructor, so it may be used from signal handlers and
//! in threads that are ending.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

/// All of it side by side: to find a thread's memory is a call for a library that is preloaded.
struct Thread {
    depth: Cell<u32>,
    pending: Cell<bool>,
    /// It may be cancelled anywhere (`PTHREAD_CANCEL_ASYNCHRONOUS`).
    at_once: Cell<bool>,
    uncancellable: Cell<bool>,
    doorbell: Cell<i32>,
    resolver: Cell<u32>,
    /// What [`CANCELS`] was when this thread last asked whether it is cancelled.
    cancels_seen: Cell<u32>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            depth: Cell::new(0),
            pending: Cell::new(false),
            at_once: Cell::new(false),
            uncancellable: Cell::new(false),
            doorbell: Cell::new(-1),
            resolver: Cell::new(0),
            cancels_seen: Cell::new(0),
        }
    };
}

/// How many times a thread of this process was cancelled (`pthread_cancel(3)`).
static CANCELS: AtomicU32 = AtomicU32::new(0);

/// Proof that this thread is inside; leaving is dropping it.
#[derive(Debug)]
pub struct Inside(());

/// Enters. Nests.
#[inline]
pub fn enter() -> Inside {
    THREAD.with(|t| t.depth.set(t.depth.get().wrapping_add(1)));
    compiler_fence(Ordering::SeqCst);
    Inside(())
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        THREAD.with(|t| t.depth.set(t.depth.get().wrapping_sub(1)));
    }
}

/// Runs `f` inside, for a call that never sleeps; `None` also when this thread is inside already, or may be cancelled
/// anywhere. The second value: a signal was noted, and waits.
#[inline]
pub fn briefly<R>(f: impl FnOnce() -> Option<R>) -> (Option<R>, bool) {
    THREAD.with(|t| {
        if t.depth.get() != 0 || t.at_once.get() {
            return (None, false);
        }
        t.depth.set(1);
        compiler_fence(Ordering::SeqCst);
        let r = f();
        compiler_fence(Ordering::SeqCst);
        t.depth.set(0);
        (r, t.pending.get())
    })
}

/// True when this thread may be cancelled anywhere.
#[inline]
pub fn may_be_cancelled_anywhere() -> bool {
    THREAD.with(|t| t.at_once.get())
}

/// It may be, or may not.
pub fn set_cancelled_anywhere(at_once: bool) {
    THREAD.with(|t| t.at_once.set(at_once));
}

/// True while this thread is in the stack's code.
#[inline]
pub fn is_inside() -> bool {
    THREAD.with(|t| t.depth.get()) != 0
}

/// True when a signal was noted and its handler has not run yet.
#[inline]
pub fn has_signal() -> bool {
    THREAD.with(|t| t.pending.get())
}

/// Called by the signal handler of the preload: a handler of the application has to run later. Returns the eventfd to
/// write to when the thread is about to sleep, or is asleep.
pub fn note_signal() -> Option<i32> {
    THREAD.with(|t| t.pending.set(true));
    compiler_fence(Ordering::SeqCst);
    let fd = THREAD.with(|t| t.doorbell.get());
    (fd >= 0).then_some(fd)
}

/// The noted signal is being handled.
pub fn take_signal() -> bool {
    THREAD.with(|t| t.pending.replace(false))
}

/// Runs `f` as if the thread were outside: for application handlers that run in the middle of a blocking call, with
/// no lock held.
pub fn outside<R>(f: impl FnOnce() -> R) -> R {
    let depth = THREAD.with(|t| t.depth.replace(0));
    let r = f();
    THREAD.with(|t| t.depth.set(depth));
    r
}

/// A handler left by `siglongjmp`, or a fork: the bracket starts anew.
#[inline]
pub fn reset() {
    THREAD.with(|t| t.depth.set(0));
    THREAD.with(|t| t.pending.set(false));
    THREAD.with(|t| t.doorbell.set(-1));
    THREAD.with(|t| t.uncancellable.set(false));
}

/// From here on a noted signal also writes to `eventfd`. Returns true when a signal was noted already: then do not
/// sleep.
pub fn arm_doorbell(eventfd: i32) -> bool {
    THREAD.with(|t| t.doorbell.set(eventfd));
    compiler_fence(Ordering::SeqCst);
    has_signal()
}

/// The sleep is over.
pub fn disarm_doorbell() {
    THREAD.with(|t| t.doorbell.set(-1));
    compiler_fence(Ordering::SeqCst);
}

/// A thread was cancelled; whoever sleeps is to be woken after this, and asks whether it was him.
pub fn note_cancel() {
    let _: u32 = CANCELS.fetch_add(1, Ordering::SeqCst);
}

/// True when any thread of this process was ever cancelled.
#[inline]
pub fn any_cancelled() -> bool {
    CANCELS.load(Ordering::Relaxed) != 0
}

/// This thread is about to ask whether it is cancelled. A cancellation that comes later makes [`cancel_is_new`] true.
pub fn cancels_seen() {
    THREAD.with(|t| t.cancels_seen.set(CANCELS.load(Ordering::SeqCst)));
}

/// True when a thread was cancelled since this one asked: do not sleep, ask.
pub fn cancel_is_new() -> bool {
    THREAD.with(|t| t.cancels_seen.get()) != CANCELS.load(Ordering::SeqCst)
        && !THREAD.with(|t| t.uncancellable.get())
}

/// Runs `f`, which may block but is no cancellation point.
pub fn uncancellable<R>(f: impl FnOnce() -> R) -> R {
    let before = THREAD.with(|t| t.uncancellable.replace(true));
    let r = f();
    THREAD.with(|t| t.uncancellable.set(before));
    r
}

/// libc's resolver runs in this thread: sockets made meanwhile stay with the kernel.
pub fn resolver_begins() {
    THREAD.with(|t| t.resolver.set(t.resolver.get().wrapping_add(1)));
}

/// The resolver is done.
pub fn resolver_ends() {
    THREAD.with(|t| t.resolver.set(t.resolver.get().wrapping_sub(1)));
}

/// True while the resolver runs in this thread.
pub fn in_resolver() -> bool {
    THREAD.with(|t| t.resolver.get()) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_and_steps_outside() {
        reset();
        let a = enter();
        let b = enter();
        assert!(is_inside());
        outside(|| assert!(!is_inside()));
        assert!(is_inside());
        drop(b);
        drop(a);
        assert!(!is_inside());
    }

    #[test]
    fn a_cancellation_is_new_until_asked_about() {
        cancels_seen();
        assert!(!cancel_is_new());
        note_cancel();
        assert!(cancel_is_new() && any_cancelled());
        uncancellable(|| {
            assert!(!cancel_is_new());
        });
        assert!(cancel_is_new());
        cancels_seen();
        assert!(!cancel_is_new());
    }

    #[test]
    fn a_signal_rings_only_an_armed_doorbell() {
        reset();
        assert_eq!(note_signal(), None);
        assert!(take_signal());
        assert!(!arm_doorbell(9));
        assert_eq!(note_signal(), Some(9));
        assert!(take_signal());
        assert!(!take_signal());
        disarm_doorbell();
    }
}
