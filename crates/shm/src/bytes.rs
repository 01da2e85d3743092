//! [`ShmBytes`]: a window over payload. Bytes go in and out by copy; there is never a slice of shared memory.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::copy::copy;

/// Words that are summed at once.
const LANES: usize = 8;
/// A cache line, bytes.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// A window over bytes that others may write at any time.
#[derive(Clone, Copy, Debug)]
pub struct ShmBytes<'m> {
    base: NonNull<u8>,
    len: usize,
    _life: PhantomData<&'m ()>,
}

// SAFETY: a window is only an address range; all access is an opaque copy.
unsafe impl Send for ShmBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for ShmBytes<'_> {}

impl Default for ShmBytes<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl ShmBytes<'_> {
    /// A window over nothing.
    pub const EMPTY: Self = Self {
        base: NonNull::dangling(),
        len: 0,
        _life: PhantomData,
    };

    /// A window over raw memory.
    ///
    /// # Safety
    /// `base..base + len` stays mapped as long as the window lives, and nobody holds a Rust reference into it.
    pub const unsafe fn from_raw(base: NonNull<u8>, len: usize) -> Self {
        Self {
            base,
            len,
            _life: PhantomData,
        }
    }

    /// Private memory in the role of a window.
    pub fn private(bytes: &mut [u8]) -> ShmBytes<'_> {
        let len = bytes.len();
        // SAFETY: the memory stays borrowed, exclusively, for as long as the window lives.
        unsafe { ShmBytes::from_raw(NonNull::from(bytes).cast(), len) }
    }

    /// Length in bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True for a window over nothing.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the window, clamped to it.
    #[inline]
    #[must_use]
    pub fn sub(self, off: usize, len: usize) -> Self {
        let off = off.min(self.len);
        let len = len.min(self.len - off);
        // SAFETY: off <= self.len, clamped above.
        let base = unsafe { self.base.add(off) };
        Self {
            base,
            len,
            _life: PhantomData,
        }
    }

    /// Copies `src` in, as much as fits; returns the bytes copied.
    #[inline]
    pub fn copy_in(&self, src: &[u8]) -> usize {
        let n = src.len().min(self.len);
        // SAFETY: n bytes are readable in src and lie inside the window. Another process may write them at the same
        // time: then the bytes are arbitrary, which every user of payload accepts.
        unsafe { copy(src.as_ptr(), self.base.as_ptr(), n) };
        n
    }

    /// Copies out, as much as there is; returns the bytes copied.
    #[inline]
    pub fn copy_out(&self, dst: &mut [u8]) -> usize {
        let n = dst.len().min(self.len);
        // SAFETY: as in `copy_in`; dst is exclusive, so the ranges cannot overlap.
        unsafe { copy(self.base.as_ptr(), dst.as_mut_ptr(), n) };
        n
    }

    /// Copies from another window, which may overlap; returns the bytes copied.
    #[inline]
    pub fn copy_from(&self, src: ShmBytes<'_>) -> usize {
        let n = src.len.min(self.len);
        // SAFETY: both ranges are mapped for n bytes; `copy` allows overlap.
        unsafe { core::ptr::copy(src.base.as_ptr(), self.base.as_ptr(), n) };
        n
    }

    /// Adds the window's ones-complement sum (RFC 1071: big-endian 16-bit words, an odd last byte padded with zero) to
    /// `acc`. Returns the sum folded to 16 bits.
    pub fn sum(&self, acc: u32) -> u16 {
        // Words of four bytes as the machine reads them, in lanes that the compiler keeps in vectors: the order of the bytes
        // is put right once, in the result (RFC 1071 section 2 (B)).
        let mut lanes = [0u64; LANES];
        let mut i = 0;
        while i + 4 * LANES <= self.len {
            // SAFETY: i + 4 * LANES <= len, so the address lies inside the window.
            let p = unsafe { self.base.add(i) };
            // SAFETY: so many mapped bytes; the read is unaligned by name.
            let words = unsafe { p.cast::<[u32; LANES]>().read_unaligned() };
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = lane.wrapping_add(u64::from(word));
            }
            i += 4 * LANES;
        }
        let mut total = lanes.iter().fold(0u64, |sum, lane| sum.wrapping_add(*lane));
        let mut last = [0u8; 4 * LANES];
        for (to, at) in last.iter_mut().zip(i..self.len) {
            // SAFETY: at < len.
            let p = unsafe { self.base.add(at) };
            // SAFETY: one mapped byte.
            *to = unsafe { p.read() };
        }
        for word in last.as_chunks::<4>().0 {
            total = total.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        total = u64::from(u16::from_be(total as u16)) + u64::from(acc);
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    /// Asks the processor to fetch the window's lines, all at once, before they are read one after the other. A hint.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        for at in (0..self.len).step_by(LINE) {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: at < len; a prefetch reads nothing that the program could see, and faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().add(at).cast()) };
        }
    }

    /// The address, for iovecs.
    #[inline]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}
