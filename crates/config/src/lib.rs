//! Every option of Flyover, declared once.
//!
//! ```text
//! table.rs    options!: one row per option -> struct field, default, parser, words, documentation
//! value.rs    what can be an option's value, and how it is read from text
//! text.rs     Text, Names: inline strings, so that option structs are plain Copy data
//! problem.rs  OptError: which option, which value, what is wrong with it
//! stack.rs    StackOpts: fixed when a stack is made; crosses the daemon protocol as words
//! process.rs  ProcessOpts: one process's use of its stack
//! daemon.rs   DaemonOpts: flyoverd
//! vars.rs     from environment variables
//! docs.rs     --help lines and docs/options.md (feature std)
//! ```
//!
//! To add an option, add a row in `stack.rs`, `process.rs` or `daemon.rs`. Nothing else.
//!
//! Without the feature `std` this crate neither allocates nor touches the operating system: the
//! preloaded library uses it that way, with the environment handed in as bytes.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

mod daemon;
#[cfg(feature = "std")]
pub mod docs;
mod problem;
mod process;
mod stack;
mod table;
mod text;
mod value;
pub mod vars;

pub use crate::daemon::{DaemonOpts, XdpMode, ZeroCopy};
pub use crate::problem::{OptError, Problem};
pub use crate::process::{LogLevel, ProcessOpts, Profile, StackSelect, VnicChoice};
pub use crate::stack::StackOpts;
pub use crate::table::{Category, Kind, Options, Spec, Unit};
pub use crate::text::{IfName, Names, Text};
pub use crate::value::{Value, Word};

/// Where `flyoverd` listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/flyover/flyoverd.sock";
