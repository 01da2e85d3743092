//! The laboratory: end-to-end tests, the demonstration, the benchmarks, and the wire with faults.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod diff;
mod e2e;
mod matrix;
mod middlebox;
mod storm;
mod suites;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Tests, demonstration and benchmarks of Flyover. Needs root.")]
enum Lab {
    /// End-to-end tests: unmodified programs with a plain kernel peer.
    Test(e2e::Args),
    /// The differential suite: the same program plain and under Flyover, compared line by line.
    Diff(diff::Args),
    /// The life of a process: kinds of socket x what happens to their holders x states, plain and under Flyover.
    Matrix(matrix::Args),
    /// Other people's test suites, plain and under Flyover.
    Suites(suites::Args),
    /// Real programs on the kernel and on Flyover, side by side.
    Demo(demo::Args),
    /// Measures Flyover beside the kernel; wants a quiet machine.
    Bench(bench::Args),
    /// Kills processes that share a stack, thousands of times, beside survivors that verify every byte.
    Storm(storm::Args),
    /// Forwards frames between two interfaces, and loses, reorders and duplicates some.
    Middlebox(middlebox::Args),
}

fn main() -> ExitCode {
    flyover_e2e::runner::report(match Lab::parse() {
        Lab::Test(args) => e2e::run(&args),
        Lab::Diff(args) => diff::run(&args),
        Lab::Matrix(args) => matrix::run(&args),
        Lab::Suites(args) => suites::run(&args),
        Lab::Demo(args) => demo::run(&args),
        Lab::Bench(args) => bench::run(&args),
        Lab::Storm(args) => storm::run(&args),
        Lab::Middlebox(args) => middlebox::run(&args),
    })
}
