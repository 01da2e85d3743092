//! The stack itself: TCP, UDP and IP over V-NICs, with all state in shared memory.
//!
//! A packet's journey in: a V-NIC has a frame -> [`stack::poll`] copies its headers and parses the copy -> `ip::rx`
//! verifies -> [`demux`] finds the socket -> `tcp::rx` walks the steps of RFC 9293 -> the payload goes to the receive
//! queue, events go to the ready sets ([`stack::wake`]) -> at the end of the batch `tcp::tx` sends what became due.
//!
//! Three laws: no clock (time is an argument), no input or output (frames come and go through [`flyover_vnic::Vnic`],
//! wishes through [`effects`]), no panic (the memory may hold anything: indices are masked, walks are bounded,
//! arithmetic wraps or saturates).
//!
//! | folder | what |
//! |---|---|
//! | `stack/` | layout, lock, poll, timers, buffers, ready sets, recovery |
//! | `demux/` | from addresses to a socket |
//! | `ip/` | checksums, routes, ICMP errors |
//! | `local/` | pairs: both ends of a connection in this stack |
//! | `sock/` | the slot that every endpoint has, its queues and options |
//! | `tcp/`, `udp/` | the protocols |
//! | `dump/` | what tools see |

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod demux;
pub mod dump;
pub mod effects;
pub mod error;
pub mod ip;
pub mod local;
pub mod outbox;
pub mod sock;
pub mod stack;
mod stretch;
pub mod tcp;
pub mod time;
pub mod udp;

pub use effects::{Effect, Effects};
pub use error::Error;
pub use ip::icmp::IcmpError;
pub use local::{Facts, Seen};
pub use outbox::Outbox;
pub use sock::opts::SockOpt;
pub use sock::{Kind, SHUT_RD, SHUT_WR, Sock, SockId, SockRef};
pub use stack::layout::{LAYOUT_HASH, layout_len};
pub use stack::locked::{Env, Locked, NicSet};
pub use stack::poll::SPARE;
pub use stack::wake::{ItemId, ItemMode, Ready, SetId, Wait, WaiterId, ev};
pub use stack::{LayoutError, Stack};
pub use tcp::state::TcpState;
pub use tcp::user::handover::{Handover, ItemView, REASON_UNFINISHED, Unfinished};
pub use tcp::user::info::TcpInfo;
pub use tcp::user::lease::LEASED;
pub use tcp::user::recv::{Placed, Recv, RecvFlags};
pub use tcp::user::send::SendFlags;
pub use time::Instant;
pub use udp::user::{UdpMsg, UdpVia};
