//! The private truth about stacks: who owns them, how large they are, what they have. Never read from their memory,
//! which the daemon does not even map.
//!
//! - `registry.rs`: all stacks, by key and by number; quotas of users.
//! - `stack.rs`: one stack and its life: made by the first process, given up when the keeper says that nothing is left.
//! - `attach.rs`: processes come and go.
//! - `keeper.rs`: the keeper process: started, watched, replaced.
//! - `lease.rs`: local ports that are lent.
//! - `links.rs`: V-NICs follow the interfaces.
//! - `note.rs`: what is noted for the next daemon; `found.rs`: what the one before has left.

mod attach;
mod ends;
mod found;
mod keeper;
mod lease;
mod links;
mod note;
mod registry;
mod stack;

pub use attach::Member;
pub use found::find_all;
pub use registry::Registry;
pub use stack::{Life, Live, Stack};
