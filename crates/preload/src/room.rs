//! Memory for what the constructor keeps for ever. A program that starts and has no use for the heap should not get one
//! from us: it would pay for two calls of `brk` and for the pages.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 1024;

struct Room(UnsafeCell<[u8; SIZE]>);

// SAFETY: each byte is handed out once, by the counter.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([0; SIZE]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// `len` bytes, all zero; from the heap when they are many.
pub fn take(len: usize) -> &'static mut [u8] {
    let at = USED.load(Ordering::Relaxed);
    let end = at.saturating_add(len);
    let ours = end <= SIZE
        && USED
            .compare_exchange(at, end, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
    if !ours {
        return Box::leak(vec![0; len].into_boxed_slice());
    }
    // SAFETY: `at..end` is inside, and nobody else got or gets any of it.
    unsafe { core::slice::from_raw_parts_mut(ROOM.0.get().cast::<u8>().add(at), len) }
}

/// A copy that stays.
pub fn copy(bytes: &[u8]) -> &'static [u8] {
    let to = take(bytes.len());
    to.copy_from_slice(bytes);
    to
}
