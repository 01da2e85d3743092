//! What applications, tools, the daemon and the keepers say to one another, and how file descriptors travel.
//!
//! Three conversations, all over `SOCK_SEQPACKET` Unix sockets (one message = one packet, unix(7)):
//!
//! | who | messages | file |
//! |---|---|---|
//! | application or tool -> `flyoverd`, and its answers | [`Request`], [`Reply`] | `msg.rs` |
//! | attached process -> keeper of its stack | [`KeeperMsg`] | `keeper.rs` |
//! | `flyoverd` <-> keeper | [`Control`], [`Notice`] | `keeper.rs` |
//!
//! - `codec.rs`, `field.rs`: bytes to values and back; total (any bytes give a value or an error), bounded by
//!   `limits.rs`.
//! - `fds.rs`: `SCM_RIGHTS` with `CLOEXEC`, and moving descriptors out of the way of the program's own numbers.
//! - `channel.rs`: send and receive one message before a deadline, whatever signals arrive.
//! - `place.rs`: where the daemon of an ordinary user listens.
//! - `client.rs`: the blocking client that the preload library, the CLI and the tests use; `rejoin.rs`: what it does when
//!   the daemon dies; `patience.rs`: when it is silent.
//!
//! The first exchange is always `Hello` -> `Welcome`: it compares [`VERSION`] and, for processes that will map a
//! stack, the layout hash of `flyover-core`. The receiver of a message trusts nothing in it: indices, lengths and
//! file descriptors are checked where they are used.

#![forbid(unsafe_code)]

mod channel;
mod client;
mod codec;
mod fds;
mod field;
mod keeper;
mod limits;
mod msg;
mod nic;
mod patience;
mod place;
mod rejoin;

pub use channel::{Deadline, Packet, recv, send};
pub use client::{AttachedFds, Client, ClientError, NicFds};
pub use codec::{CodecError, Reader, Writer};
pub use fds::{FdBag, move_high};
pub use field::{Field, List, Text};
pub use keeper::{Call, Control, KeeperLink, KeeperMsg, Notice, Token};
pub use limits::*;
pub use msg::{
    Attach, Attached, Connection, FilterSpec, Moved, RefusedCode, Reply, Request, StackName,
    TcpImage, VnicPref,
};
pub use nic::NicDesc;
pub use place::{Candidate, Flaw, Locked, Place, Unfit};
pub use rejoin::Rejoined;
