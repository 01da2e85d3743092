//! `flyoverd`, the root daemon, and the keeper, its unprivileged companion per stack.
//!
//! The daemon decides from its own tables and from kernel facts only: who the client is (`SO_PEERCRED`, pidfd), what
//! its kernel socket holds (`getsockname`). It never maps a stack's memory.
//!
//! - `main.rs`, `args.rs`, `server.rs`, `listener.rs`: start, listen, end.
//! - `heirs.rs`: who may still come.
//! - `session.rs`: one client, one thread; `peer.rs`: who it is; `container.rs`: where; `rate.rs`: how fast it may ask.
//! - `daemon.rs`: what all parts share; `power.rs`: what it may do at all; `shares.rs`: who may share a stack.
//! - `stacks/`: the private truth about stacks; their keepers.
//! - `net/`: per network namespace: control plane, flow maps, programs; `netns.rs`: entering it.
//! - `nic/`: making V-NICs.
//! - `filters/`: which flows go where, and who may have them.
//! - `cplane/`: netlink in, control-plane tables out.
//! - `records/`: what the next daemon has to know; `stacks/found/`: what the one before has left.
//! - `ps.rs`, `check.rs`: reports.
//! - `keeper/`: the keeper itself.
//!
//! Locks, in the order they are taken: a stack's life, then a namespace's flow table. The registry's and the other
//! locks are never held while another is taken.

#![forbid(unsafe_code)]

pub mod args;
mod check;
mod container;
pub mod cplane;
mod daemon;
mod filters;
mod handover;
mod heirs;
pub mod keeper;
mod listener;
mod net;
mod netns;
mod nic;
mod peer;
mod power;
mod ps;
mod rate;
mod records;
mod refusal;
pub mod server;
mod session;
mod shares;
mod stacks;
