//! `cargo xtask test | demo | bench | storm | lint | loc`: everything that is done with the source tree as
//! a whole. Needs root for all but `lint` and `loc`; installs the Debian packages that are missing.
//!
//! | file | what lives there |
//! |---|---|
//! | `packages.rs` | which programs are needed, and their installation |
//! | `steps.rs` | running cargo and the built programs, with progress |
//! | `loc.rs` | the limit on the length of source files |
#![forbid(unsafe_code)]

mod loc;
mod packages;
mod steps;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [FILTER...]      unit, model and simulation tests, then the end-to-end tests
                        (with filters: only the end-to-end cases whose name contains one)
  demo [--quick]        real programs on the kernel and on Flyover, side by side
  bench [--json] [--runs N] [FILTER...]
                        the measurements behind the numbers, with medians and spread
  storm [--of processes|keeper|handover] [--kills N] [--seed S]
                        kills processes that share a stack, 20,000 by default, in a build where many
                        die inside the stack's lock; or keepers; or moves everything to the kernel and
                        back
  lint                  formatting, clippy, loc
  loc                   fail when a source file is longer than 500 lines without its tests
";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match command.as_str() {
        "test" => test(&rest),
        "demo" => {
            prepare(false)?;
            steps::become_lab("demo", &rest)
        }
        "bench" => {
            prepare(false)?;
            steps::raw_floor()?;
            steps::become_lab("bench", &rest)
        }
        "storm" => {
            packages::install_missing(false)?;
            let lab = steps::build_stretched()?;
            steps::become_program(&lab, "storm", &rest)
        }
        "lint" => {
            steps::lint()?;
            loc::check()
        }
        "loc" => loc::check(),
        "" | "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        unknown => bail!("unknown command {unknown:?}\n\n{USAGE}"),
    }
}

/// What every command with programs needs: packages, and one release build.
fn prepare(for_tests: bool) -> Result<()> {
    packages::install_missing(for_tests)?;
    steps::build()
}

/// All tests. A failed step does not hide the results of the later ones; the exit status tells.
fn test(filters: &[String]) -> Result<()> {
    prepare(true)?;
    let mut failed = Vec::new();
    if filters.is_empty() {
        for (name, result) in [
            ("file lengths", loc::check()),
            ("unit tests", steps::unit_tests()),
            ("loom tests", steps::loom()),
            ("simulation", steps::simulation()),
        ] {
            if let Err(error) = result {
                eprintln!("xtask: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    let mut arguments = filters.to_vec();
    if !failed.is_empty() {
        arguments.push(format!("--failed-before={}", failed.join(",")));
    }
    steps::become_lab("test", &arguments)
}
