//! UDP (RFC 768): datagrams in and out. What the V-NIC does not bring (fragments, multicast, other interfaces) and what
//! it cannot send goes through the kernel socket behind the fd; that is the caller's business.

pub(crate) mod rx;
pub mod user;
