//! [`XdpNic`]: an AF_XDP socket as V-NIC: one frame of the UMEM per packet, one socket per queue.

mod desc;
mod nic;
mod pool;
mod ring;

pub use nic::XdpNic;
