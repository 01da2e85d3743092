//! Memory that others write while we read.
//!
//! Every process attached to a stack may store any value anywhere in it, at any moment. So:
//!
//! 1. A field is a cell, an atomic of one width: [`SharedCell`] (for the holder of a lock) or [`Shared32`] and
//!    [`Shared64`] (lock-free; every use names its ordering). There is never a `&u32` into the mapping.
//! 2. Objects are declared by [`shm_struct!`], which proves at compile time that they consist of cells only and have
//!    no padding, and gives the field table and the layout hash. All-zero bytes are a valid object.
//! 3. An index becomes a reference in one place, [`Arena::at`], which masks it: a corrupt index is a wrong object,
//!    never a wrong address. Base, capacity and mask are private memory.
//! 4. Payload is copied opaquely through [`ShmBytes`]; there is never a `&[u8]` into the mapping.
//! 5. Walks are bounded by private numbers.
//!
//! | module | what |
//! |---|---|
//! | [`cell`], [`atomic`] | a field |
//! | [`object`] | a struct of fields |
//! | [`idx`], [`arena`], [`region`] | from a number to an object |
//! | [`bytes`] | payload |
//! | [`slots`] | free-list allocator with owner tags |
//! | [`gate`] | calls that are counted in and out, and who shuts them out |
//! | [`lock`] | the stack lock with its deferred-work bits |
//! | [`seqlock`] | one writer, many readers |
//! | [`host`] | memfd, mmap, futex |
//!
//! Under `--cfg loom` the lock-free atomics are loom's, which are not plain words: [`shm_struct!`] then makes ordinary
//! structs that are no [`Object`]s, and nothing can be mapped. `tests/loom_*.rs` check the algorithms in that build.

#![cfg_attr(not(feature = "host"), no_std)]

pub mod arena;
pub mod atomic;
pub mod bytes;
pub mod cell;
mod copy;
pub mod gate;
#[cfg(all(feature = "host", not(loom)))]
pub mod host;
pub mod idx;
pub mod lock;
pub mod object;
pub mod region;
pub mod seqlock;
pub mod slots;

pub use arena::Arena;
pub use atomic::{Shared32, Shared64};
pub use bytes::ShmBytes;
pub use cell::{ByteCell, HalfCell, Scalar, SharedCell};
#[cfg(all(feature = "host", not(loom)))]
pub use host::{HeapMap, Map, futex_wait, futex_wake, sealed_memfd};
pub use idx::{Idx, OptIdx};
pub use lock::{StackLock, Unlock};
pub use object::{CellField, Field, Object};
pub use region::{Region, RegionError};
pub use seqlock::SeqCount;
pub use slots::{SlotHdr, SlotObject, Slots};
