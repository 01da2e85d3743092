//! [`Arena`]: the one place where an index becomes a reference.

use crate::idx::Idx;
use crate::object::Object;
use crate::region::{Region, RegionError};
use core::marker::PhantomData;
use core::ptr::NonNull;

/// A table of `T` in a region. Base and mask are private; copies are free.
pub struct Arena<'m, T: Object> {
    base: NonNull<T>,
    mask: u32,
    _life: PhantomData<&'m T>,
}

impl<T: Object> Clone for Arena<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Object> Copy for Arena<'_, T> {}

// SAFETY: the arena only hands out `&T`, and `T` consists of atomics.
unsafe impl<T: Object> Send for Arena<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Object> Sync for Arena<'_, T> {}

impl<'m, T: Object> Arena<'m, T> {
    /// `count` objects from offset `off` on.
    ///
    /// # Errors
    /// [`RegionError`] when they do not fit, `off` is not aligned for `T`, or `count` is not a power of two.
    pub fn new(region: Region<'m>, off: usize, count: u32) -> Result<Self, RegionError> {
        let bytes = (count as usize)
            .checked_mul(size_of::<T>())
            .ok_or(RegionError)?;
        let part = region.sub(off, bytes)?;
        let base = part.base().cast::<T>();
        if !count.is_power_of_two() || !base.is_aligned() {
            return Err(RegionError);
        }
        Ok(Self {
            base,
            mask: count - 1,
            _life: PhantomData,
        })
    }

    /// The object at an index. Masked: a corrupt index is a wrong object, never a wrong address.
    #[inline]
    pub fn at(&self, i: Idx<T>) -> &'m T {
        let n = (i.raw() & self.mask) as usize;
        // SAFETY: n < count, and `new` checked that count objects fit the region.
        let p = unsafe { self.base.add(n) };
        // SAFETY: mapped for 'm, aligned, and `Object` says that any bytes are a valid T of atomics.
        unsafe { p.as_ref() }
    }

    /// The object at an index, or None when the index is out of range.
    #[inline]
    pub fn get(&self, i: Idx<T>) -> Option<&'m T> {
        (i.raw() <= self.mask).then(|| self.at(i))
    }

    /// How many objects there are.
    #[inline]
    pub const fn count(&self) -> u32 {
        self.mask + 1
    }
}

impl<T: Object> core::fmt::Debug for Arena<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Arena<{}>[{}]", T::NAME, self.count())
    }
}
