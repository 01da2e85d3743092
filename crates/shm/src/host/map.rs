//! memfds and their mappings.

use crate::region::Region;
use core::ptr::NonNull;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A zeroed memfd of `len` bytes that can neither shrink nor grow: nobody can make its other users fault.
///
/// # Errors
/// As memfd_create(2), ftruncate(2).
pub fn sealed_memfd(name: &str, len: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, len)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(fd)
}

/// A mapping; unmapped when dropped.
#[derive(Debug)]
pub struct Map {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range like `Region`.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `len` bytes of `fd` for reading and writing.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn rw(fd: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(fd, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps `len` bytes of `fd` for reading.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn ro(fd: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(fd, len, ProtFlags::READ)
    }

    fn new(fd: impl AsFd, len: usize, prot: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing object.
        let p = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
        NonNull::new(p.cast::<u8>())
            .map(|base| Self { base, len })
            .ok_or(io::Errno::NOMEM)
    }

    /// Shows `fd`, which must be at least as long, in the place of what was mapped; whoever looks sees either. For
    /// reading only.
    ///
    /// # Errors
    /// As mmap(2); the old one stays then.
    pub fn replace(&self, fd: impl AsFd) -> io::Result<()> {
        let (at, flags) = (
            self.base.as_ptr().cast(),
            MapFlags::SHARED | MapFlags::FIXED,
        );
        // SAFETY: replaces exactly the range that self mapped, by as many bytes of another file; it is only ever looked
        // at as a region, whose contents any process may change at any moment.
        unsafe { mmap(at, self.len, ProtFlags::READ, flags, fd, 0) }.map(drop)
    }

    /// How long it is, bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// The memory.
    pub fn region(&self) -> Region<'_> {
        // SAFETY: mapped above, stays mapped as long as self lives, page aligned, only handed out as a region.
        unsafe { Region::from_raw(self.base, self.len) }
    }

    /// The memory, never unmapped again.
    pub fn leak(self) -> Region<'static> {
        // SAFETY: as in `region`; the mapping is forgotten below, so it lives as long as the process.
        let r = unsafe { Region::from_raw(self.base, self.len) };
        std::mem::forget(self);
        r
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and regions of it borrow self, so none is left.
        let _: io::Result<()> = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
