//! What the kernel knows about the network, mirrored: links, addresses, routes, neighbours.
//!
//! One memfd per network namespace holds the tables. The daemon writes it ([`writer`], feature
//! `writer`); every process of the namespace maps it read-only and asks it ([`Reader`]).
//!
//! - `dims`: how big the tables are and where each lies. Comes from the daemon's message, never
//!   from the mapping.
//! - `link`, `addr`, `route`, `neigh`: per table, the value that callers see and the row that
//!   carries it, with a seqlock per row.
//! - `tables`: the header, the arenas, the hash chains.
//! - `reader`, `lookup`, `source`: questions. `lookup` is the longest-prefix match, `source` the
//!   choice of a source address.
//! - `writer`: [`writer::Change`] in, rows and versions out.
//!
//! **What a version means.** Each neighbour row has a version word. A [`Fwd`] names its row and the
//! version it was made from and stays correct for as long as `reader.version(fwd.row) ==
//! fwd.version`: one load and one compare. A change of a link, an address, a route or the rule
//! set moves the versions of all rows; a change of a neighbour's MAC, or of whether it has one,
//! moves that of its row. A neighbour that only goes from reachable to stale and back moves
//! nothing. Row 0 belongs to no neighbour: it stands for destinations that need none (multicast,
//! links without ARP).
//!
//! **What a reader may assume.** Nothing. Every row may be changed while it is read, and a mapping
//! may hold garbage: look-ups are bounded, and what cannot be answered is
//! [`Resolve::Unreachable`], which callers treat as "leave it to the kernel".
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[cfg(any(test, feature = "writer"))]
extern crate std;

mod addr;
mod dims;
mod fwd;
mod link;
mod lookup;
mod neigh;
mod reader;
mod route;
mod source;
mod tables;
#[cfg(feature = "writer")]
pub mod writer;

pub use addr::{Addr, AddrFlags, Scope};
pub use dims::{Dims, DimsError};
pub use fwd::{Fwd, Reason, Resolve};
pub use link::{Link, LinkFlags, LinkKind, LinkName};
pub use neigh::{Neigh, NeighState};
pub use reader::{Policy, Reader, Status};
pub use route::{Hop, Route, RouteKind, Table};
pub use tables::LAYOUT_HASH;
