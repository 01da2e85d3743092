//! One AF_XDP ring: indices and entries in memory shared with the kernel and with the stack's other
//! processes. There is no private copy of an index: the ring itself is the shared state.

use core::sync::atomic::Ordering;
use std::io;
use std::os::fd::BorrowedFd;

use crate::window::Window;

const XDP_RING_NEED_WAKEUP: u32 = 1;

/// Where the parts of a ring are in its mapping (`struct xdp_ring_offset`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    pub(super) producer: usize,
    pub(super) consumer: usize,
    pub(super) flags: usize,
    pub(super) entries: usize,
}

/// A ring of `size` (a power of two) entries of `entry_len` bytes.
#[derive(Debug)]
pub(super) struct Ring {
    window: Window,
    offsets: Offsets,
    size: u32,
    entry_len: usize,
}

impl Ring {
    /// Maps the ring that the socket shows at `page_offset`.
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        page_offset: u64,
        offsets: Offsets,
        size: u32,
        entry_len: usize,
    ) -> io::Result<Self> {
        let len = offsets.entries + size as usize * entry_len;
        Ok(Self {
            window: Window::map(fd, page_offset, len)?,
            offsets,
            size,
            entry_len,
        })
    }

    /// A ring in test memory.
    #[cfg(test)]
    pub(super) fn heap(size: u32, entry_len: usize) -> Self {
        let offsets = Offsets {
            producer: 0,
            consumer: 64,
            flags: 128,
            entries: 192,
        };
        let window = Window::heap(offsets.entries + size as usize * entry_len);
        Self {
            window,
            offsets,
            size,
            entry_len,
        }
    }

    /// The kernel's hold of a ring in test memory.
    #[cfg(test)]
    pub(super) fn alias(&self) -> Self {
        Self {
            window: self.window.alias(),
            ..*self
        }
    }

    pub(super) fn producer(&self) -> u32 {
        self.window
            .u32_at(self.offsets.producer)
            .load(Ordering::Acquire)
    }

    pub(super) fn consumer(&self) -> u32 {
        self.window
            .u32_at(self.offsets.consumer)
            .load(Ordering::Acquire)
    }

    /// Publishes entries written before it.
    pub(super) fn set_producer(&self, index: u32) {
        self.window
            .u32_at(self.offsets.producer)
            .store(index, Ordering::Release);
    }

    /// Gives entries read before it back.
    pub(super) fn set_consumer(&self, index: u32) {
        self.window
            .u32_at(self.offsets.consumer)
            .store(index, Ordering::Release);
    }

    /// Entries to be consumed. Indices that contradict each other count as an empty ring.
    pub(super) fn pending(&self) -> u32 {
        let n = self.producer().wrapping_sub(self.consumer());
        if n <= self.size { n } else { 0 }
    }

    /// Entries that can be produced. Indices that contradict each other count as a full ring.
    pub(super) fn room(&self) -> u32 {
        self.size
            .saturating_sub(self.producer().wrapping_sub(self.consumer()))
    }

    /// Whether the kernel asks for a system call to go on with this ring.
    pub(super) fn needs_wakeup(&self) -> bool {
        let flags = self
            .window
            .u32_at(self.offsets.flags)
            .load(Ordering::Relaxed);
        flags & XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> usize {
        self.offsets.entries + (index & (self.size - 1)) as usize * self.entry_len
    }

    /// Fetches an entry ahead.
    pub(super) fn prefetch(&self, index: u32) {
        self.window
            .bytes(self.entry(index), self.entry_len)
            .prefetch();
    }

    /// The address in an entry of any ring.
    pub(super) fn addr(&self, index: u32) -> u64 {
        self.window
            .u64_at(self.entry(index))
            .load(Ordering::Relaxed)
    }

    /// The length in an entry of a receive or transmit ring.
    pub(super) fn len(&self, index: u32) -> u32 {
        self.window
            .u32_at(self.entry(index) + 8)
            .load(Ordering::Relaxed)
    }

    pub(super) fn set_addr(&self, index: u32, addr: u64) {
        self.window
            .u64_at(self.entry(index))
            .store(addr, Ordering::Relaxed);
    }

    /// Writes an entry of a transmit ring: one packet, no options.
    pub(super) fn set_desc(&self, index: u32, addr: u64, len: u32) {
        let entry = self.entry(index);
        self.window.u64_at(entry).store(addr, Ordering::Relaxed);
        self.window.u32_at(entry + 8).store(len, Ordering::Relaxed);
        self.window.u32_at(entry + 12).store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn set_needs_wakeup(&self, flag: bool) {
        self.window
            .u32_at(self.offsets.flags)
            .store(flag.into(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_wrap() {
        let ring = Ring::heap(4, 8);
        ring.set_producer(u32::MAX);
        ring.set_consumer(u32::MAX);
        for i in 0..4u32 {
            let at = ring.producer();
            ring.set_addr(at, u64::from(i));
            ring.set_producer(at.wrapping_add(1));
        }
        assert_eq!((ring.pending(), ring.room()), (4, 0));
        for i in 0..4u32 {
            assert_eq!(ring.addr(ring.consumer()), u64::from(i));
            ring.set_consumer(ring.consumer().wrapping_add(1));
        }
        assert_eq!((ring.pending(), ring.room()), (0, 4));
    }

    #[test]
    fn contradicting_indices_are_no_work() {
        let ring = Ring::heap(4, 8);
        ring.set_producer(100);
        assert_eq!((ring.pending(), ring.room()), (0, 0));
        ring.set_producer(u32::MAX);
        assert_eq!((ring.pending(), ring.room()), (0, 0));
    }
}
