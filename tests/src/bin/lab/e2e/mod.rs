//! End-to-end tests: unmodified programs, with a plain kernel peer on the other side.
//!
//! `e2e [--plain] [FILTER…]` runs the cases whose name contains a filter. A name is
//! `program.what.side`; the side says which host runs under Flyover.

mod absent;
mod bulk;
mod clients;
mod cost;
mod cplane;
mod daemon;
mod databases;
mod dnsmasq;
mod files;
pub mod handover;
mod handover_calls;
mod handover_ends;
mod inherited;
mod iperf;
mod lent;
mod life;
mod local;
mod local_races;
mod memcached;
mod neighbours;
mod nginx;
mod openssl;
mod prefork;
mod proxies;
mod python;
mod redis;
mod routed;
mod runtimes;
mod shared;
mod sockperf;
mod time;
mod upgrades;
mod user;
mod user_places;
mod visible;
mod wire;

use anyhow::Result;
use flyover_e2e::lab::{Lab, Side};
use flyover_e2e::runner::{self, Case};
use flyover_e2e::{cleanup, lanes, wiring};

#[derive(clap::Args)]
pub struct Args {
    /// Run only cases whose name contains one of these.
    filters: Vec<String>,
    /// Run every program on the kernel's stack: shows that the tests themselves are right.
    #[arg(long)]
    plain: bool,
    /// Print the names and do nothing.
    #[arg(long)]
    list: bool,
    /// Run what failed once more at the end.
    #[arg(long)]
    again: bool,
    /// Names of steps that failed before; the exit status says so at the end.
    #[arg(long, value_delimiter = ',')]
    failed_before: Vec<String>,
    /// Be one of two runners of another one.
    #[arg(long, hide = true)]
    lane: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let cases = cases();
    if args.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(());
    }
    cleanup::prepare()?;
    let setup = runner::setup(args.plain)?;
    if args.lane {
        lanes::serve(&cases, &setup, || crate::diff::count().to_json())?;
        cleanup::everything();
        return Ok(());
    }
    let mut lane = vec!["test".to_owned(), "--lane".to_owned()];
    lane.extend(args.plain.then(|| "--plain".to_owned()));
    let (summary, last) =
        runner::run_again(&cases, &setup, &args.filters, args.again, Some(&lane))?;
    cleanup::everything();
    for step in &args.failed_before {
        println!("failed earlier: {step}");
    }
    let count = last
        .iter()
        .map(crate::diff::Count::from_json)
        .fold(crate::diff::count(), |all, lane| all + lane);
    if count.any() {
        println!("differential suite: {count}");
    }
    println!("{summary}");
    if summary.failed > 0 || summary.passed == 0 || !args.failed_before.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    redis::cases(&mut cases);
    nginx::cases(&mut cases);
    memcached::cases(&mut cases);
    python::cases(&mut cases);
    iperf::cases(&mut cases);
    sockperf::cases(&mut cases);
    openssl::cases(&mut cases);
    dnsmasq::cases(&mut cases);
    bulk::cases(&mut cases);
    clients::cases(&mut cases);
    visible::cases(&mut cases);
    wire::cases(&mut cases);
    neighbours::cases(&mut cases);
    cplane::cases(&mut cases);
    routed::cases(&mut cases);
    life::cases(&mut cases);
    absent::cases(&mut cases);
    daemon::cases(&mut cases);
    lent::cases(&mut cases);
    prefork::cases(&mut cases);
    handover::cases(&mut cases);
    handover_calls::cases(&mut cases);
    handover_ends::cases(&mut cases);
    files::cases(&mut cases);
    databases::cases(&mut cases);
    proxies::cases(&mut cases);
    runtimes::cases(&mut cases);
    time::cases(&mut cases);
    upgrades::cases(&mut cases);
    inherited::cases(&mut cases);
    local::cases(&mut cases);
    local_races::cases(&mut cases);
    shared::cases(&mut cases);
    user::cases(&mut cases);
    user_places::cases(&mut cases);
    crate::suites::quick(&mut cases);
    super::storm::cases(&mut cases);
    cost::cases(&mut cases);
    crate::matrix::cases(&mut cases);
    crate::diff::cases(&mut cases);
    cases
}

/// A case on a pair of hosts, of which `side` is accelerated.
fn on_pair(name: &str, side: Side, work: fn(&Lab) -> Result<()>) -> Case {
    with_options(name, side, &[], work)
}

/// The same with options of `flyover run`.
fn with_options(
    name: &str,
    side: Side,
    options: &'static [&'static str],
    work: fn(&Lab) -> Result<()>,
) -> Case {
    Case::new(format!("{name}.{}", side.name()), move |setup| {
        let mut setup = setup.clone();
        setup.options = options.iter().map(|&word| word.to_owned()).collect();
        let lab = wiring::pair(&setup, side)?;
        work(&lab)?;
        lab.finish()
    })
}

/// The case twice: Flyover on the server, then on the client, each with a plain peer. Without
/// Flyover both would be the same.
fn each_side(cases: &mut Vec<Case>, name: &str, work: fn(&Lab) -> Result<()>) {
    cases.push(on_pair(name, Side::Server, work));
    cases.push(on_pair(name, Side::Client, work).only_flyover());
}
