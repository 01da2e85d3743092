//! The handover storm: everything is handed over to the kernel, and taken over again, once a second, while iperf3 sends,
//! wrk asks for pages, pgbench runs transactions (a process for each connection), and a file is loaded down whose hash
//! must be right. No request may fail. How long each connection stood still is measured.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, Setup, Side, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{nginx, www};
use flyover_e2e::tools::{iperf3, wrk};
use flyover_e2e::wiring;

use crate::e2e::handover::{Tally, move_all};
use flyover_e2e::servers::postgres;

const LIMIT: Duration = Duration::from_secs(60);
/// From one move to the next one: there and back within a second.
const TURN: Duration = Duration::from_millis(500);
/// Rounds in continuous integration.
const IN_CI: u64 = 6;
const PORT: u16 = 5201;
/// Loaded down at a rate that makes it last.
const BYTES_PER_SECOND: usize = 8 << 20;

/// What continuous integration runs.
pub fn cases(cases: &mut Vec<Case>) {
    let storm = |setup: &Setup| case(setup, IN_CI);
    let ci = Case::new("storm.handover.server".to_owned(), storm);
    cases.push(ci.only_flyover());
}

pub fn case(setup: &Setup, rounds: u64) -> Result<()> {
    let lab = wiring::pair(setup, Side::Server)?;
    storm(&lab, rounds)?;
    lab.finish()
}

fn storm(lab: &Lab, rounds: u64) -> Result<()> {
    let seconds = u32::try_from(rounds)? + 2;
    let web = nginx(lab)?;
    let mut streams = lab
        .cmd(Host::Server, "iperf3")
        .args(&format!("-s -p {PORT}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut streams)?;
    let database = postgres(lab)?;
    let bench = |words: &str, limit| {
        lab.cmd(Host::Client, "pgbench")
            .args(&format!("-h {SERVER} -U postgres {words} postgres"))
            .run(limit)
    };
    bench("-i -q -s 1", LIMIT)?;
    let file = www(lab).join("file");
    write_file(&file, BYTES_PER_SECOND * seconds as usize, 9)?;
    let wanted = sha256(&file)?;
    let long = LIMIT + Duration::from_secs(4 * u64::from(seconds));
    let begun = Instant::now();
    let tally = thread::scope(|scope| -> Result<Tally> {
        let url = format!("http://{SERVER}/");
        let pages = scope.spawn(move || wrk(lab, 16, seconds, &url, ""));
        let stream = scope.spawn(move || iperf3(lab, PORT, seconds, "-b 400M"));
        let back = scope.spawn(move || {
            let printed = bench(&format!("-n -c 4 -j 1 -T {seconds}"), long)?.stdout;
            ensure!(
                printed.contains("number of failed transactions: 0 "),
                "transactions failed\n{printed}"
            );
            Ok(())
        });
        let load = scope.spawn(move || download(lab, long));
        let moved = move_about(lab, rounds);
        let join = |name: &'static str, r: thread::Result<Result<()>>| {
            r.map_err(|_| anyhow::anyhow!("{name} panicked"))?
                .context(name)
        };
        let ends = [
            join("wrk", pages.join().map(|r| r.map(drop))),
            join("iperf3", stream.join().map(|r| r.map(drop))),
            join("pgbench", back.join()),
            join("curl", load.join()),
        ];
        ends.into_iter().collect::<Result<Vec<()>>>()?;
        moved
    });
    let mut tally = tally?;
    tally.print(&format!(
        "{rounds} rounds in {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    let copy = lab.directory().join("copy");
    ensure_equal("hash of the download", sha256(&copy)?, wanted)?;
    ensure!(
        tally.went() >= rounds && tally.came() >= rounds,
        "hardly a connection was moved"
    );
    for server in [web, streams, database] {
        server.stop(LIMIT)?;
    }
    Ok(())
}

fn download(lab: &Lab, limit: Duration) -> Result<()> {
    lab.cmd(Host::Client, "curl")
        .args(&format!(
            "-s -S -f --limit-rate {BYTES_PER_SECOND} http://{SERVER}/file -o"
        ))
        .arg(lab.directory().join("copy"))
        .run(limit)
        .map(drop)
}

fn move_about(lab: &Lab, rounds: u64) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut next = Instant::now();
    for _ in 0..rounds {
        for command in ["handover", "takeover"] {
            next += TURN;
            thread::sleep(next.saturating_duration_since(Instant::now()));
            tally.count(command, move_all(lab, command)?);
        }
    }
    Ok(tally)
}
