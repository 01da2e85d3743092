//! The laboratory: two hosts, each a whole stack on the heap, and the wire between them, on one virtual clock.
//!
//! ```
//! use flyover_core::{Kind, ev};
//! use flyover_sim::{Net, NetConfig};
//! use flyover_wire::Endpoint;
//!
//! let config = NetConfig::clean(1);
//! let memory = config.memory();
//! let mut net = Net::new(&memory, &config);
//! let server = Endpoint { ip: net.hosts[1].ip(), port: 80 };
//! let client = Endpoint { ip: net.hosts[0].ip(), port: 4000 };
//! net.hosts[1].locked(|l| {
//!     let s = l.sock_alloc(Kind::Tcp, false, 0).unwrap();
//!     l.tcp_listen(s.id, server, false, 5).unwrap();
//! });
//! let sock = net.hosts[0].locked(|l| {
//!     let s = l.sock_alloc(Kind::Tcp, false, 0).unwrap();
//!     l.tcp_connect(s.id, client, server).unwrap();
//!     s
//! });
//! net.run_for(1_000_000);
//! assert_ne!(net.hosts[0].stack.readiness(sock.id) & ev::OUT, 0);
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`rng`] | chance, seeded |
//! | [`link`] | one direction of a wire: latency, rate, loss, reordering, duplication, corruption |
//! | [`lint`] | what a TCP must never do, watched on the wire |
//! | [`host`] | a stack with its V-NIC, control plane, and somebody who performs its wishes |
//! | [`net`] | both hosts and both directions on one clock; the check that nothing is left |
//! | [`stream`] | the oracle: every byte once, in order |
//! | [`session`] | programs at both ends that read, write, pause and close at random |
//! | [`matrix`] | one seed, one experiment |
//! | [`fuzz`] | a program that makes any call in any order |
//! | [`mutate`] | damaged frames |
//! | [`adversary`] | who scribbles over the stack's memory |
//! | [`peer`] | segments made by hand |
//! | [`script`] | packet scripts |
//! | [`trace`] | a line per frame |

#![forbid(unsafe_code)]

pub mod adversary;
pub mod fuzz;
pub mod host;
pub mod link;
pub mod lint;
pub mod matrix;
pub mod mutate;
pub mod net;
pub mod peer;
pub mod rng;
pub mod script;
pub mod session;
pub mod stream;
pub mod trace;

pub use host::{Host, Memory};
pub use link::Impair;
pub use net::{Net, NetConfig};
pub use rng::Rng;
pub use stream::Pattern;
