//! A mapping over ordinary memory, for tests and the simulator.

use crate::region::Region;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// Zeroed, page-aligned memory that is used as if it were shared.
#[derive(Debug)]
pub struct HeapMap {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an address range like `Region`.
unsafe impl Send for HeapMap {}
// SAFETY: as above.
unsafe impl Sync for HeapMap {}

impl HeapMap {
    /// `len` zero bytes (at least one page).
    ///
    /// # Panics
    /// When `len` overflows a layout.
    pub fn new(len: usize) -> Self {
        let layout =
            Layout::from_size_align(len.max(4096), 4096).expect("length of a test mapping");
        // SAFETY: the size is not zero.
        let p = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(p) else {
            handle_alloc_error(layout)
        };
        Self { base, layout }
    }

    /// The memory.
    pub fn region(&self) -> Region<'_> {
        // SAFETY: allocated above, lives as long as self, and is only handed out as a region.
        unsafe { Region::from_raw(self.base, self.layout.size()) }
    }
}

impl Drop for HeapMap {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
