//! `cargo xtask test | demo | bench | storm | lint | loc`: everything that is done with the source tree as
//! a whole. Needs root for all but `lint`, `loc`, and what is `--local`; root installs the Debian packages that are missing.
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
use packages::For;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [FILTER...]      unit, model and simulation tests, then the end-to-end tests
                        (with filters: only the end-to-end cases whose name contains one)
  demo [--quick]        real programs on the kernel and on Flyover, side by side
  demo --local          the same on one host, over shared memory, as an ordinary user
  bench [--json] [--runs N] [FILTER...]
                        the measurements behind the numbers, with medians and spread
  bench --local         the same of the local path
  storm [--of processes|keeper|daemon|handover] [--kills N] [--seed S]
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
        "demo" | "bench" if rest.iter().any(|word| word == "--local") => {
            prepare(For::Local)?;
            steps::become_lab(&command, &rest)
        }
        "demo" => {
            prepare(For::Hosts)?;
            steps::become_lab("demo", &rest)
        }
        "bench" => {
            prepare(For::Hosts)?;
            steps::raw_floor()?;
            steps::become_lab("bench", &rest)
        }
        "storm" => {
            packages::install_missing(For::Hosts)?;
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
fn prepare(what: For) -> Result<()> {
    packages::install_missing(what)?;
    steps::build()
}

/// All tests. A failed step does not hide the results of the later ones; the exit status tells.
fn test(filters: &[String]) -> Result<()> {
    prepare(For::Tests)?;
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
    arguments.push("--again".to_owned());
    if !failed.is_empty() {
        arguments.push(format!("--failed-before={}", failed.join(",")));
    }
    steps::become_lab("test", &arguments)
}
