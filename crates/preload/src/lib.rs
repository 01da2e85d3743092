//! `libflyover.so`, to be named in `LD_PRELOAD`: every call of libc that can touch a socket, in front of libc's.
//!
//! | file | what |
//! |---|---|
//! | `export/` | the C functions; three lines each: fast check, decode, call the socket layer |
//! | `fast.rs` | the fast check: a descriptor that is none of our business goes straight to libc |
//! | `args.rs` | pointers of the application -> slices |
//! | `fault.rs` | memory that is not there: `EFAULT`, not a crash |
//! | `next.rs` | libc's own functions |
//! | `init.rs`, `environ.rs`, `room.rs` | start-up, fork hooks, the environment across `exec` |
//! | `signal/` | handlers of the application, never inside the stack |
//! | `cancel.rs` | cancelled threads let go of the stack first |
//! | `os_linux.rs`, `sys.rs` | the operating system, by raw system calls |
//! | `leave.rs`, `target.rs` | descriptors that go where the library is not: handed over to the kernel first |
//! | `uring.rs` | what a program asks an `io_uring` for: its sockets are handed over first |
//! | `errand.rs` | `flyover handover`: a program that only hands over what it was given |
//! | `link.rs` | the daemon, the keeper, the mappings |
//!
//! This code runs in other people's processes: in signal handlers, before `main`, after `fork` of a threaded program.
//! So: no I/O of `std`, no threads, no allocation on the paths that carry data, no thread-locals with destructors.
#![allow(
    clippy::missing_safety_doc,
    reason = "the exported functions have the contracts of their libc namesakes"
)]

mod args;
mod borrow;
mod cancel;
mod environ;
mod errand;
mod errno;
mod export;
mod fast;
mod fault;
mod init;
mod leave;
mod link;
mod next;
mod os_linux;
mod rejoin;
mod room;
mod short;
mod signal;
mod sys;
mod target;
mod uring;
