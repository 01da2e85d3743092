//! What needs privilege: making V-NIC sockets, loading and attaching the flow programs, looking at
//! interfaces. Used by the daemon, the tests and the benchmarks; never by a process of a stack.
//!
//! Interfaces are named by index and belong to the calling thread's network namespace.

mod attach;
#[cfg(feature = "bpf")]
pub mod bpf;
mod ethtool;
mod netlink;
mod packet;
mod privilege;
mod probe;
pub mod repair;
mod sockopt;
mod xdp;

pub use attach::attach_filter;
pub use ethtool::{Offloads, offloads};
pub use packet::{PacketConfig, create_packet};
pub use privilege::missing_privileges;
pub use probe::{Choice, Interface, XdpMode, choose, interface};
pub use sockopt::packet_drops;
pub use xdp::{XdpConfig, XdpSocket, XdpTransfer, create_xdp};
