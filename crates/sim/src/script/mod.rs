//! Packet scripts: one stack, and a peer whose segments are written down by hand. Whatever the stack sends must be
//! written down as well, when and how, *and nothing else may be sent*.
//!
//! One statement a line; `#` begins a comment. Sequence numbers count from each side's SYN, whose number is 0, as
//! tcpdump shows them; sizes are bytes; times have a unit (`ms`, `s`, `us`).
//!
//! | statement | meaning |
//! |---|---|
//! | `set FLYOVER_X value` | a stack option; before the first other statement |
//! | `mtu n` | the interface's; before the first other statement |
//! | `isn n` | the peer's initial sequence number, absolute |
//! | `port n` | the peer's port from now on |
//! | `listen`, `accept`, `connect` | the socket calls; `accept` and `connect` make *the* socket |
//! | `connect fresh` | connects again from the same address |
//! | `send n [= m] [more] [oob]` | queue n bytes, of which m fit (all, unless said) |
//! | `send = ERROR` | sending fails |
//! | `recv n = m`, `recv = eof`, `recv = ERROR` | read up to n bytes of the peer's stream |
//! | `shutdown rd`, `wr` or `rdwr`; `close`; `abort` | |
//! | `opt NAME n` | a socket option |
//! | `state NAME` | as `ss` prints it; `none` once the slot is free |
//! | `error ERROR` | `SO_ERROR`; `0` is none |
//! | `ready IN OUT ..` | exactly these poll bits |
//! | `stat NAME n` | a counter has this value |
//! | `wait t` | nothing is sent for this long |
//! | `< FLAGS a[:b] ..` | a segment from the peer |
//! | `[+t] > FLAGS a[:b] ..` | the stack sends this, now or t from now |
//!
//! Segments: flags are tcpdump's letters; then `ack n`, `win n`, `urg n`, `mss n`, `ws n`, `sackok`, `ts val ecr`,
//! `sack a:b c:d`. In an expectation what is not named is not looked at, except: the options of a SYN must be exactly
//! those named, and SACK blocks must be named. `*` is any value. In timestamps `last` is the latest the other side
//! sent. Sequence numbers before the SYN of a side was seen, and those with `=`, are absolute.

mod parse;
mod run;
mod segment;

pub use parse::{Line, Statement, parse};
pub use run::run;
