//! A mapping as the rest of the program sees it: a base and a length, kept in private memory.

use crate::bytes::ShmBytes;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// A piece of shared memory that lives for `'m`.
#[derive(Clone, Copy, Debug)]
pub struct Region<'m> {
    base: NonNull<u8>,
    len: usize,
    _life: PhantomData<&'m ()>,
}

// SAFETY: a region is only an address range. All access through it is atomic (`Arena`) or an opaque copy (`ShmBytes`).
unsafe impl Send for Region<'_> {}
// SAFETY: as above.
unsafe impl Sync for Region<'_> {}

/// Why an object cannot be placed: out of bounds, misaligned, or a count that is not a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionError;

impl<'m> Region<'m> {
    /// A region over raw memory.
    ///
    /// # Safety
    /// `base..base + len` is mapped readable for `'m` (writable too, unless every user only reads), is page aligned,
    /// and no Rust reference other than to atomics is made into it.
    pub const unsafe fn from_raw(base: NonNull<u8>, len: usize) -> Self {
        Self {
            base,
            len,
            _life: PhantomData,
        }
    }

    /// Length in bytes.
    pub const fn len(self) -> usize {
        self.len
    }

    /// True for a region without bytes.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A part of the region.
    ///
    /// # Errors
    /// [`RegionError`] when it does not lie inside.
    pub fn sub(self, off: usize, len: usize) -> Result<Self, RegionError> {
        let end = off.checked_add(len).ok_or(RegionError)?;
        if end > self.len {
            return Err(RegionError);
        }
        // SAFETY: off <= len of the region, checked above.
        let base = unsafe { self.base.add(off) };
        Ok(Self {
            base,
            len,
            _life: PhantomData,
        })
    }

    /// A window over payload bytes; clamped to the region.
    pub fn bytes(self, off: usize, len: usize) -> ShmBytes<'m> {
        let off = off.min(self.len);
        let len = len.min(self.len - off);
        // SAFETY: off <= len of the region, clamped above.
        let base = unsafe { self.base.add(off) };
        // SAFETY: the range lies inside this region, which is mapped for 'm.
        unsafe { ShmBytes::from_raw(base, len) }
    }

    pub(crate) const fn base(self) -> NonNull<u8> {
        self.base
    }
}
