//! What a BSD socket call means when there is a user-level stack: the fd table, the life of a descriptor, data,
//! options, waiting. Safe Rust; every call of the operating system goes through [`os::Os`], every call of the daemon
//! through [`attach::Connector`], so that all of it runs in tests.
//!
//! **The life of a descriptor.** `socket` makes a kernel socket, and that is what the application holds until it
//! closes it. The table notes it as *fresh*. `connect`, `listen` or a UDP `bind` decide: if a V-NIC of the stack serves
//! the addresses, an endpoint is attached and the entry becomes *tcp* or *udp*; else the descriptor is the *kernel's* for
//! good, with a reason that `flyover ss` shows. Identity is the kernel socket's cookie: a descriptor that this process
//! has not seen (inherited, received, duplicated) is *unknown*, and the cookie tells its endpoint on first use. `close`
//! ends the connection at once when it certainly was the last one, else the keeper learns it from the kernel.
//!
//! | module | what |
//! |---|---|
//! | `process` | [`Sockets`]: everything of one process; look-up and probing of descriptors |
//! | `generations` | attaching to the stack; fork |
//! | `entry`, `fdtable` | one descriptor in one word; the table |
//! | `attach` | the stack: lock, V-NICs, daemon, keeper, wishes |
//! | `policy` | what is accelerated, and the reason if not |
//! | `life/` | bind, connect, listen, accept, close, dup, names |
//! | `io/` | send, recv, options, sendfile |
//! | `wait/` | spin, sleep, poll, select, epoll |
//! | `enter` | "inside the library": signals wait until a thread is out |
//!
//! Locks, outermost first: the epoll gate, one epoll set's members, a lock context, the stack lock, the V-NICs. The
//! free list of sleepers and the daemon's connection are leaves.
#![forbid(unsafe_code)]

pub mod addr;
pub mod attach;
pub mod enter;
pub mod entry;
pub mod errno;
pub mod fdtable;
mod generations;
pub mod io;
pub mod life;
pub mod local;
pub mod os;
pub mod policy;
pub mod process;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wait;

pub use addr::Addr;
pub use errno::Errno;
pub use fdtable::FdTable;
pub use generations::{GENERATIONS, Generation};
pub use process::Sockets;
