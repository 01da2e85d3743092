//! What needs an operating system: memfds, mappings, futexes.

mod futex;
mod heap;
mod map;

pub use futex::{futex_wait, futex_wake};
pub use heap::HeapMap;
pub use map::{Map, sealed_memfd};
