//! The keeper storm: the stack's keeper is killed at random moments, beside verified transfers of living programs and
//! programs that write and exit at once, whose data only the keeper can deliver. Nothing may be lost.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::lab::{CLIENT, Host, Lab, SERVER, Setup, Side, wait_until};
use flyover_e2e::pattern::Random;
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::Case;
use flyover_e2e::wiring;
use rustix::process::Signal;

use super::kills::{dump, number, resets, sockets, verdict, workload};

const LIMIT: Duration = Duration::from_secs(30);
const SINK: u16 = 7801;
const SERVED: u16 = 7803;
const ECHO: u16 = 7805;
/// Killed in continuous integration.
const IN_CI: u64 = 8;
/// What a program writes before it exits.
const BYTES: u64 = 3_000_000;

/// What continuous integration runs.
pub fn cases(cases: &mut Vec<Case>) {
    let storm = |setup: &Setup| case(setup, IN_CI, 1);
    let ci = Case::new("storm.keeper.server".to_owned(), storm);
    cases.push(ci.only_flyover());
}

pub fn case(setup: &Setup, kills: u64, seed: u64) -> Result<()> {
    let lab = wiring::pair(setup, Side::Server)?;
    storm(&lab, kills, seed)?;
    lab.finish()
}

fn storm(lab: &Lab, kills: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let sink = lab
        .workload(Host::Client, "storm")
        .args(&format!("sink {CLIENT}:{SINK}"));
    let mut sink = sink.spawn()?;
    lab.wait_for_port_on(Host::Client, Proto::Tcp, SINK, &mut sink)?;
    let served = workload(lab, Host::Server, "echo").args(&format!("serve {SERVER}:{SERVED}"));
    let mut served = served.spawn()?;
    lab.wait_for_port(Proto::Tcp, SERVED, &mut served)?;
    let echo = lab.workload(Host::Client, "echo");
    let mut echo = echo.args(&format!("serve {CLIENT}:{ECHO}")).spawn()?;
    lab.wait_for_port_on(Host::Client, Proto::Tcp, ECHO, &mut echo)?;
    let load = || {
        workload(lab, Host::Client, "echo")
            .args(&format!(
                "load {SERVER}:{SERVED} --connections 3 --seconds 3 --max 60000 --resets"
            ))
            .spawn()
    };
    let mut client = load()?;
    let mut hurt = 0;
    for round in 1..=kills {
        let keeper = wait_until(LIMIT, || keeper(lab))?;
        // It writes and exits: from then on its data is the keeper's business.
        let writer = workload(lab, Host::Server, "storm")
            .args(&format!("leave {CLIENT}:{SINK} {round} {BYTES}"))
            .spawn()?;
        // It dies just before the keeper, who may have heard of it and not yet done anything about it.
        let victim = workload(lab, Host::Server, "echo")
            .args(&format!(
                "load {CLIENT}:{ECHO} --connections 20 --seconds 20 --max 60000 --resets"
            ))
            .spawn()?;
        thread::sleep(Duration::from_micros(random.below(60_000)));
        victim.signal(Signal::KILL);
        thread::sleep(Duration::from_micros(random.below(8_000)));
        cleanup::signal(keeper, Signal::KILL);
        victim.finish(LIMIT)?.forget();
        writer.finish(LIMIT)?.success()?.forget();
        let (bytes, end) = wait_until(LIMIT, || Ok(verdict(&sink, round)))
            .with_context(|| format!("keeper {round}: what the program left is not delivered"))?;
        ensure!(
            bytes == BYTES && end == "eof",
            "keeper {round}: {bytes} of {BYTES} bytes, then {end}"
        );
        served.ensure_running()?;
        if client.has_ended()? {
            hurt += resets(std::mem::replace(&mut client, load()?))?;
        }
    }
    hurt += resets(client)?;
    let inside = settle(lab)?;
    eprintln!("    {kills} keepers killed, {inside} inside the lock; {hurt} connections reset");
    ensure!(
        hurt <= inside,
        "{hurt} connections reset, but only {inside} deaths inside the lock"
    );
    for program in [served, sink, echo] {
        program.signal(Signal::KILL);
    }
    Ok(())
}

/// The keeper that serves now.
fn keeper(lab: &Lab) -> Result<Option<u32>> {
    let daemon = lab.daemon_pid().context("no daemon")?;
    let alive = |pid: &u32| procfs::is_running(*pid);
    Ok(procfs::descendants(daemon).into_iter().find(alive))
}

/// Waits until only the server's own sockets are left, and returns how many deaths were inside the lock.
fn settle(lab: &Lab) -> Result<u64> {
    let mut last = String::new();
    let inside = wait_until(Duration::from_secs(60), || {
        let dump = dump(lab)?;
        let left = ["sockets_used", "buffers_used"].map(|name| number(&dump, name));
        last = format!("{left:?}; {}", sockets(&dump));
        Ok((left[0] <= 2 && left[1] == 0).then(|| number(&dump, "takeovers")))
    });
    inside.with_context(|| format!("sockets and buffers that are left in the stack: {last}"))
}
