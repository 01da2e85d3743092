//! The table fd -> [`Entry`]. Reads take no lock and make no system call; memory is zero pages until touched, so a
//! table for a million descriptors costs what is used of it.
//!
//! Races. A number may be closed and re-used by another thread at any time. Two rules keep the table true:
//! the number is marked [`Entry::Closing`] *before* the kernel closes it, and after the close the mark is removed only
//! if it is still there (the new owner of the number may already have written its own entry).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::entry::{Entry, Handle, tcp_handle};

/// `shared` word of a descriptor that certainly has, or may have, another holder.
pub const SHARED: u32 = u32::MAX;

/// Bit of the fork generation of a descriptor that has copies in this process, and nowhere else.
pub const COPIED: u32 = 1 << 31;

/// The table; both slices have the same length. They live in static memory of the preload, or on the heap in tests.
#[derive(Clone, Copy, Debug)]
pub struct FdTable {
    words: &'static [AtomicU64],
    /// Fork generation in which the descriptor was made here, or [`SHARED`].
    made: &'static [AtomicU32],
}

impl FdTable {
    /// A table over zeroed memory. Descriptors beyond it always belong to the kernel.
    pub const fn new(words: &'static [AtomicU64], made: &'static [AtomicU32]) -> Self {
        Self { words, made }
    }

    /// How many descriptor numbers the table covers.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// True for a table that covers nothing.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    #[inline]
    fn word(&self, fd: i32) -> Option<&'static AtomicU64> {
        self.words.get(usize::try_from(fd).ok()?)
    }

    /// The entry of `fd`; a number outside the table is the kernel's.
    #[inline]
    pub fn load(&self, fd: i32) -> Entry {
        match self.word(fd) {
            Some(w) => Entry::unpack(w.load(Ordering::Acquire)),
            None => Entry::Kernel(0),
        }
    }

    /// The accelerated TCP socket that `fd` is.
    #[inline]
    pub fn tcp(&self, fd: i32) -> Option<Handle> {
        tcp_handle(self.word(fd)?.load(Ordering::Acquire))
    }

    /// Sets the entry of `fd`. False when the number is outside the table.
    pub fn store(&self, fd: i32, entry: Entry) -> bool {
        match self.word(fd) {
            Some(w) => {
                w.store(entry.pack(), Ordering::Release);
                true
            }
            None => false,
        }
    }

    /// Sets the entry of `fd`, and returns what it was. `None`: the number is outside the table.
    pub fn swap(&self, fd: i32, entry: Entry) -> Option<Entry> {
        let word = self.word(fd)?;
        Some(Entry::unpack(word.swap(entry.pack(), Ordering::AcqRel)))
    }

    /// Sets the entry of `fd` if it still is `old`; true on success.
    pub fn replace(&self, fd: i32, old: Entry, new: Entry) -> bool {
        self.word(fd).is_some_and(|w| {
            w.compare_exchange(old.pack(), new.pack(), Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        })
    }

    /// Marks `fd` as being closed and returns what it was.
    pub fn begin_close(&self, fd: i32) -> Entry {
        match self.word(fd) {
            Some(w) => Entry::unpack(w.swap(Entry::Closing.pack(), Ordering::AcqRel)),
            None => Entry::Kernel(0),
        }
    }

    /// The kernel has closed `fd`: forget it, unless the number has a new owner already.
    pub fn end_close(&self, fd: i32) {
        let _: bool = self.replace(fd, Entry::Closing, Entry::Unknown);
    }

    /// Records in which fork generation `fd` was made here (or [`SHARED`]).
    pub fn set_made(&self, fd: i32, generation: u32) {
        if let Some(w) = usize::try_from(fd).ok().and_then(|i| self.made.get(i)) {
            w.store(generation, Ordering::Release);
        }
    }

    /// What [`FdTable::set_made`] recorded.
    pub fn made(&self, fd: i32) -> u32 {
        let word = usize::try_from(fd).ok().and_then(|i| self.made.get(i));
        word.map_or(SHARED, |w| w.load(Ordering::Acquire))
    }

    /// The kernel has closed all numbers in `first..end` but the library's own: forget what they were.
    pub fn forget_range(&self, first: usize, end: usize) {
        for w in self.words.iter().take(end).skip(first) {
            let word = w.load(Ordering::Acquire);
            if word != 0 && Entry::unpack(word) != Entry::Ours {
                let _ = w.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Acquire);
            }
        }
    }

    /// Calls `f` for every descriptor whose entry is not `Unknown` and not a plain kernel one, in increasing order,
    /// among the numbers below `end`.
    pub fn for_each(&self, end: usize, mut f: impl FnMut(i32, Entry)) {
        for (fd, w) in self.words.iter().take(end).enumerate() {
            let e = Entry::unpack(w.load(Ordering::Acquire));
            if !matches!(e, Entry::Unknown | Entry::Kernel(_)) {
                f(fd as i32, e);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> FdTable {
        let words: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(0)).collect();
        let made: Vec<AtomicU32> = (0..16).map(|_| AtomicU32::new(0)).collect();
        FdTable::new(words.leak(), made.leak())
    }

    #[test]
    fn close_does_not_overwrite_the_new_owner_of_the_number() {
        let t = table();
        assert!(t.store(5, Entry::Epoll(1)));
        assert_eq!(t.begin_close(5), Entry::Epoll(1));
        assert!(t.store(5, Entry::Epoll(2)));
        t.end_close(5);
        assert_eq!(t.load(5), Entry::Epoll(2));
    }

    #[test]
    fn numbers_outside_are_the_kernels() {
        let t = table();
        assert_eq!(t.load(-1), Entry::Kernel(0));
        assert_eq!(t.load(16), Entry::Kernel(0));
        assert!(!t.store(16, Entry::Closing));
        assert_eq!(t.made(99), SHARED);
    }
}
