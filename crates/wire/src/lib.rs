//! Bytes to headers and back.
//!
//! ```text
//! addr.rs         Ip (IPv4 kept v4-mapped), Mac, Endpoint, FlowKey
//! seq.rs          Seq: sequence-space arithmetic without `<`
//! checksum.rs     ones-complement sums, pseudo-headers, incremental update
//! reason.rs       Drop: every way a frame can be unacceptable, each a counter
//! tcp.rs          TcpFlags, TcpHdr
//! tcp_options.rs  TcpOpts: parse, and emit in Linux's order
//! frame.rs        parse(): one pass Ethernet -> VLAN -> IP -> TCP/UDP
//! emit.rs         single headers into a byte slice
//! template.rs     TcpSpec/UdpSpec: a whole header stack in one call
//! icmp.rs         what an ICMP error quotes of the packet that caused it
//! pretty.rs       tcpdump-like one-line text
//! ```
//!
//! What does not live here: policy. Whether an address is ours, whether a segment is in the window,
//! whether a checksum that does not add up may be a partial one, is for the stack to say.
//!
//! Contract: nothing here allocates, and nothing panics, for any input. Parsers read the *copy* of
//! the headers that the caller made, never shared memory. All numbers in structs are in host order,
//! all checksums are numbers read from the wire in network order (so `0x1234` is bytes `12 34`).

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod addr;
pub mod checksum;
pub mod emit;
pub mod frame;
pub mod icmp;
pub mod pretty;
mod reason;
pub mod seq;
pub mod tcp;
pub mod tcp_options;
pub mod template;

pub use crate::addr::{Endpoint, FlowKey, Ip, Mac};
pub use crate::frame::{Headers, L4, UdpHdr};
pub use crate::reason::Drop;
pub use crate::seq::Seq;
pub use crate::tcp::{TcpFlags, TcpHdr};
pub use crate::tcp_options::TcpOpts;
pub use crate::template::{TcpSpec, UdpSpec};

/// IANA protocol number of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;
/// EtherType of IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of an 802.1Q customer tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag; never accelerated.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
