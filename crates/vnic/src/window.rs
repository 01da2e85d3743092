//! Memory shared with the kernel (rings, UMEM): a mapping and checked access to words in it.
//!
//! An offset outside the mapping becomes offset 0: a corrupt index reads a wrong word, never a wrong
//! address. Lengths and offsets come from the owner's private geometry, so this is the second fence.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use std::io;
use std::os::fd::BorrowedFd;

use flyover_shm::{Region, ShmBytes};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Smallest mapping: offset 0 must hold any word.
const MIN_LEN: usize = 16;

/// A mapping of memory that the kernel, and other processes, read and write at any time.
#[derive(Debug)]
pub(crate) struct Window {
    base: NonNull<u8>,
    len: usize,
    mapped: bool,
}

// SAFETY: the memory is accessed only through atomics and opaque copies (ShmBytes), which any thread
// may do at any time; the mapping itself is immutable until drop.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `len` bytes of `fd` from `offset`, shared and writable, pages present.
    pub(crate) fn map(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        if len < MIN_LEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap(
                core::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                offset,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            base,
            len,
            mapped: true,
        })
    }

    /// Zeroed heap memory in place of a mapping; never freed.
    #[cfg(test)]
    pub(crate) fn heap(len: usize) -> Self {
        let words: &'static mut [u64] = Box::leak(vec![0u64; len.div_ceil(8).max(2)].into());
        Self {
            base: NonNull::from(words).cast(),
            len: len.max(MIN_LEN),
            mapped: false,
        }
    }

    /// A second view of test memory: the kernel's side of a fake ring.
    #[cfg(test)]
    pub(crate) fn alias(&self) -> Self {
        assert!(!self.mapped);
        Self { ..*self }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Offset of a word of `size` bytes (a power of two), made valid.
    fn inside(&self, at: usize, size: usize) -> usize {
        if at <= self.len - size {
            at & !(size - 1)
        } else {
            0
        }
    }

    pub(crate) fn u16_at(&self, at: usize) -> &AtomicU16 {
        let at = self.inside(at, size_of::<u16>());
        // SAFETY: in bounds and aligned (inside(); the base is page- or 8-aligned); the mapping lives as
        // long as &self; an atomic may be shared with any other writer.
        unsafe { self.base.add(at).cast::<AtomicU16>().as_ref() }
    }

    pub(crate) fn u32_at(&self, at: usize) -> &AtomicU32 {
        let at = self.inside(at, size_of::<u32>());
        // SAFETY: as in u16_at.
        unsafe { self.base.add(at).cast::<AtomicU32>().as_ref() }
    }

    pub(crate) fn u64_at(&self, at: usize) -> &AtomicU64 {
        let at = self.inside(at, size_of::<u64>());
        // SAFETY: as in u16_at.
        unsafe { self.base.add(at).cast::<AtomicU64>().as_ref() }
    }

    /// Opaque bytes `[at, at + len)`, cut to what is mapped.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> ShmBytes<'_> {
        self.region().bytes(at, len)
    }

    fn region(&self) -> Region<'_> {
        // SAFETY: base and len describe memory that stays mapped for as long as &self.
        unsafe { Region::from_raw(self.base, self.len) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: exactly the mapping made in map(); no reference outlives self.
            let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering::Relaxed;

    #[test]
    fn an_offset_outside_reads_the_first_word() {
        let window = Window::heap(64);
        window.u32_at(0).store(7, Relaxed);
        assert_eq!(window.u32_at(61).load(Relaxed), 7);
        assert_eq!(window.u32_at(usize::MAX).load(Relaxed), 7);
        assert_eq!(window.u64_at(57).load(Relaxed), 7);
        window.u32_at(60).store(9, Relaxed);
        assert_eq!(window.u32_at(60).load(Relaxed), 9);
    }

    #[test]
    fn bytes_are_cut_to_the_mapping() {
        let window = Window::heap(64);
        assert_eq!(window.bytes(60, 100).len(), 4);
        assert_eq!(window.bytes(100, 1).len(), 0);
    }
}
