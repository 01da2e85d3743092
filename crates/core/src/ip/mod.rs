//! The network layer: what is done with a parsed frame, and how one is sent.

pub mod icmp;
pub(crate) mod rx;
pub(crate) mod tx;
