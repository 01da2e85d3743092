//! The bracket around every call that enters the stack's code. While a thread is inside, a signal handler of the
//! application must not run: it could call `send` and find the stack's lock held by its own thread. The preload's
//! handler asks [`is_inside`], notes the signal with [`note_signal`], and the handler runs when the thread is out.
//!
//! The state is thread-local, constant-initialised and without destructor, so it may be used from signal handlers and
//! in threads that are ending.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PENDING: Cell<bool> = const { Cell::new(false) };
    static DOORBELL: Cell<i32> = const { Cell::new(-1) };
    static RESOLVER: Cell<u32> = const { Cell::new(0) };
    /// What [`CANCELS`] was when this thread last asked whether it is cancelled.
    static CANCELS_SEEN: Cell<u32> = const { Cell::new(0) };
    static UNCANCELLABLE: Cell<bool> = const { Cell::new(false) };
}

/// How many times a thread of this process was cancelled (`pthread_cancel(3)`).
static CANCELS: AtomicU32 = AtomicU32::new(0);

/// Proof that this thread is inside; leaving is dropping it.
#[derive(Debug)]
pub struct Inside(());

/// Enters. Nests.
#[inline]
pub fn enter() -> Inside {
    DEPTH.with(|d| d.set(d.get().wrapping_add(1)));
    compiler_fence(Ordering::SeqCst);
    Inside(())
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        DEPTH.with(|d| d.set(d.get().wrapping_sub(1)));
    }
}

/// True while this thread is in the stack's code.
#[inline]
pub fn is_inside() -> bool {
    DEPTH.with(Cell::get) != 0
}

/// True when a signal was noted and its handler has not run yet.
#[inline]
pub fn has_signal() -> bool {
    PENDING.with(Cell::get)
}

/// Called by the signal handler of the preload: a handler of the application has to run later. Returns the eventfd to
/// write to when the thread is about to sleep, or is asleep.
pub fn note_signal() -> Option<i32> {
    PENDING.with(|p| p.set(true));
    compiler_fence(Ordering::SeqCst);
    let fd = DOORBELL.with(Cell::get);
    (fd >= 0).then_some(fd)
}

/// The noted signal is being handled.
pub fn take_signal() -> bool {
    PENDING.with(|p| p.replace(false))
}

/// Runs `f` as if the thread were outside: for application handlers that run in the middle of a blocking call, with
/// no lock held.
pub fn outside<R>(f: impl FnOnce() -> R) -> R {
    let depth = DEPTH.with(|d| d.replace(0));
    let r = f();
    DEPTH.with(|d| d.set(depth));
    r
}

/// A handler left by `siglongjmp`, or a fork: the bracket starts anew.
#[inline]
pub fn reset() {
    DEPTH.with(|d| d.set(0));
    PENDING.with(|p| p.set(false));
    DOORBELL.with(|d| d.set(-1));
    UNCANCELLABLE.with(|u| u.set(false));
}

/// From here on a noted signal also writes to `eventfd`. Returns true when a signal was noted already: then do not
/// sleep.
pub fn arm_doorbell(eventfd: i32) -> bool {
    DOORBELL.with(|d| d.set(eventfd));
    compiler_fence(Ordering::SeqCst);
    has_signal()
}

/// The sleep is over.
pub fn disarm_doorbell() {
    DOORBELL.with(|d| d.set(-1));
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
    CANCELS_SEEN.with(|s| s.set(CANCELS.load(Ordering::SeqCst)));
}

/// True when a thread was cancelled since this one asked: do not sleep, ask.
pub fn cancel_is_new() -> bool {
    CANCELS_SEEN.with(Cell::get) != CANCELS.load(Ordering::SeqCst) && !UNCANCELLABLE.with(Cell::get)
}

/// Runs `f`, which may block but is no cancellation point.
pub fn uncancellable<R>(f: impl FnOnce() -> R) -> R {
    let before = UNCANCELLABLE.with(|u| u.replace(true));
    let r = f();
    UNCANCELLABLE.with(|u| u.set(before));
    r
}

/// libc's resolver runs in this thread: sockets made meanwhile stay with the kernel.
pub fn resolver_begins() {
    RESOLVER.with(|r| r.set(r.get().wrapping_add(1)));
}

/// The resolver is done.
pub fn resolver_ends() {
    RESOLVER.with(|r| r.set(r.get().wrapping_sub(1)));
}

/// True while the resolver runs in this thread.
pub fn in_resolver() -> bool {
    RESOLVER.with(Cell::get) != 0
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
