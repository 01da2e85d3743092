//! Workloads that run plain or under Flyover: small programs in one file. Each prints one line of
//! JSON, and compares every byte that it gets.
#![forbid(unsafe_code)]

mod call;
mod connrate;
mod echo;
mod hold;
mod memcached;
mod pingpong;
mod ring;
mod start;
mod storm;
mod stream;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Workloads of the tests and benchmarks")]
enum Load {
    /// Round trips of small messages.
    Pingpong(pingpong::Args),
    /// One bulk stream.
    Stream(stream::Args),
    /// Connections per second.
    Connrate(connrate::Args),
    /// Echo server and verifying clients.
    Echo(echo::Args),
    /// A client of memcached that compares every value.
    Memcached(memcached::Args),
    /// Many idle connections.
    Hold(hold::Args),
    /// What the kill storm runs.
    Storm(storm::Args),
    /// Two processes and a bare ring in shared memory: the floor of the local path.
    Ring(ring::Args),
    /// What a call costs that is not accelerated.
    Call,
}

fn main() -> ExitCode {
    flyover_e2e::runner::report(match Load::parse() {
        Load::Pingpong(args) => pingpong::run(args),
        Load::Stream(args) => stream::run(args),
        Load::Connrate(args) => connrate::run(args),
        Load::Echo(args) => echo::run(args),
        Load::Memcached(args) => memcached::run(args),
        Load::Hold(args) => hold::run(args),
        Load::Storm(args) => storm::run(args),
        Load::Ring(args) => ring::run(args),
        Load::Call => call::run(),
    })
}
