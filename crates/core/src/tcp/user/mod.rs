//! What a program asks of a connection. Nothing here blocks: `WouldBlock` is an answer, and waiting is the caller's.

pub mod accept;
pub mod close;
pub mod connect;
pub mod handover;
pub mod info;
pub mod lease;
pub mod listen;
pub(crate) mod oob;
pub mod recv;
pub mod send;
pub mod takeover;
