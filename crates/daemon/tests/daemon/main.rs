//! `flyoverd` from outside, by a client that speaks the protocol directly: in network namespaces of its own, as root.
//!
//! The cases run one after the other in the main thread, because the daemon looks at the namespace of the client's
//! main thread. Arguments: a part of the names of the cases to run. Without root everything is skipped.

mod cases;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "helper") {
        world::helper(&args[1..]);
        return ExitCode::SUCCESS;
    }
    if args.first().is_some_and(|arg| arg == "hello") {
        world::hello(&args[1..]);
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return ExitCode::SUCCESS;
    }
    let filter = args
        .iter()
        .find(|arg| !arg.starts_with('-'))
        .cloned()
        .unwrap_or_default();
    if args.iter().any(|arg| arg == "--list") {
        cases::ALL
            .iter()
            .for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, case) in cases::ALL.iter().filter(|(name, _)| name.contains(&filter)) {
        println!("test {name} ...");
        let start = std::time::Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(case)).is_ok();
        println!(
            "test {name} ... {} ({} ms)",
            if passed { "ok" } else { "FAILED" },
            start.elapsed().as_millis()
        );
        failed += u32::from(!passed);
    }
    println!("test result: {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
