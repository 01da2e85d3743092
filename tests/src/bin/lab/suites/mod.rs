//! Test suites that others wrote for their own programs, run plain and under `flyover run`: a test that
//! passes plain must pass under Flyover.
//!
//! | file | what lives there |
//! |---|---|
//! | `crates.rs` | tokio's, polling's and async-io's own tests |
//! | `python.rs` | the modules of CPython's suite that use sockets and signals |
//! | `sources.rs` | libuv's and libevent's own tests, from Debian's source packages |
//! | `wheels.rs` | tornado's, trio's and Twisted's own tests, from PyPI |

mod crates;
mod python;
mod sources;
mod wheels;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flyover_e2e::lab::{Host, Lab, Side};
use flyover_e2e::runner::{self, Case};
use flyover_e2e::{cleanup, wiring};

/// Tests that passed plain, and so had to pass under Flyover.
static COMPARED: AtomicUsize = AtomicUsize::new(0);

/// How each test of a run ended.
type Results = BTreeMap<String, String>;

#[derive(clap::Args)]
pub struct Args {
    /// Run only suites whose name contains one of these.
    filters: Vec<String>,
    /// Print the names and do nothing.
    #[arg(long)]
    list: bool,
}

/// `lab suites`: all of them; what `cargo xtask test` runs are the quick ones.
pub fn run(args: &Args) -> Result<()> {
    let cases = all();
    if args.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    cleanup::prepare()?;
    let setup = runner::setup(false)?;
    let summary = runner::run(&cases, &setup, &args.filters)?;
    cleanup::everything();
    let tests = COMPARED.load(Ordering::Relaxed);
    println!("{tests} tests pass plain");
    println!("{summary}");
    if summary.failed > 0 || summary.passed == 0 {
        bail!("suites differ");
    }
    Ok(())
}

fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    python::cases(&mut cases, false);
    sources::cases(&mut cases);
    crates::cases(&mut cases);
    wheels::cases(&mut cases);
    cases
}

/// The suites that take no more than seconds.
pub fn quick(cases: &mut Vec<Case>) {
    python::cases(cases, true);
}

/// A case on two hosts, of which the client's is accelerated: the suite runs on both at the same time.
fn case(
    name: &str,
    limit: Duration,
    work: impl Fn(&Lab) -> Result<()> + Send + Sync + 'static,
) -> Case {
    let mut case = Case::new(format!("suite.{name}"), move |setup| {
        let lab = wiring::pair(setup, Side::Client)?;
        work(&lab)?;
        lab.finish()
    });
    case.limit = limit;
    case.only_flyover()
}

/// What our runners in Python wrote: a line for each test, its name and how it ended.
fn written(output: &Path) -> Result<Results> {
    let text = fs::read_to_string(output).context("no results")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, how)| (name.to_owned(), how.to_owned()))
        .collect())
}

/// Runs the suite on both hosts at the same time: plain, under Flyover.
fn both(results: impl Fn(Host) -> Result<Results> + Sync) -> Result<[Results; 2]> {
    std::thread::scope(|scope| {
        let plain = scope.spawn(|| results(Host::Server));
        let flyover = results(Host::Client);
        let Ok(plain) = plain.join() else {
            bail!("the plain side panicked");
        };
        Ok([plain?, flyover?])
    })
}

/// Fails when a test that passes plain does not under Flyover. `again` runs tests once more, by name, under Flyover:
/// other people's tests depend on time, too.
fn compare(
    plain: &Results,
    flyover: &Results,
    again: impl FnOnce() -> Result<Results>,
) -> Result<()> {
    let passed = |results: &Results, name: &str| results.get(name).is_some_and(|how| how == "ok");
    let names = plain.keys().filter(|name| passed(plain, name));
    let names: Vec<&String> = names.collect();
    let _: usize = COMPARED.fetch_add(names.len(), Ordering::Relaxed);
    let worse: Vec<&String> = names
        .into_iter()
        .filter(|name| !passed(flyover, name))
        .collect();
    ensure!(
        plain.values().any(|how| how == "ok"),
        "no test passes plain"
    );
    if worse.is_empty() {
        return Ok(());
    }
    let second = again()?;
    let still: Vec<String> = worse
        .into_iter()
        .filter(|name| !passed(&second, name))
        .map(|name| {
            let how = flyover.get(name).map_or("does not end", String::as_str);
            format!("{name}: {how}")
        })
        .collect();
    ensure!(
        still.is_empty(),
        "{} tests pass plain and not under Flyover\n{}",
        still.len(),
        still.join("\n")
    );
    Ok(())
}
