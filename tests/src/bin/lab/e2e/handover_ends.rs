//! Handovers that come to nothing: the program that does it is killed, the daemon is killed, the kernel refuses.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::cmd::Cmd;
use flyover_e2e::daemon::SOCKET_VARIABLE;
use flyover_e2e::echo::{self, Probe};
use flyover_e2e::lab::{CLIENT, Host, Lab, Setup, Side, server, wait_until};
use flyover_e2e::pattern::Random;
use flyover_e2e::runner::Case;
use flyover_e2e::wiring;
use serde_json::Value;

use super::handover::{Tally, move_all};
use super::on_pair;

const PORT: u16 = 7910;
const SOON: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(30);
/// Helpers killed.
const KILLS: u32 = 12;
/// A helper takes about this long, microseconds.
const ERRAND: u64 = 40_000;
const CONNECTIONS: u32 = 12;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("handover.verified", Side::Server, verified).only_flyover());
    cases.push(on_pair("handover.helper-killed", Side::Server, helper_killed).only_flyover());
    cases.push(Case::new("handover.daemon-killed.server".to_owned(), daemon_killed).only_flyover());
    cases.push(on_pair("handover.refused", Side::Server, refused).only_flyover());
}

fn flyover<'lab>(lab: &'lab Lab, words: &str) -> Cmd<'lab> {
    lab.plain(Host::Server, lab.bin().join("flyover"))
        .args(words)
        .env(SOCKET_VARIABLE, lab.socket())
}

/// Echoes of a plain client that verifies every byte, and counts connections that were reset.
fn load<'lab>(lab: &'lab Lab, seconds: u32) -> Cmd<'lab> {
    lab.workload(Host::Client, "echo").args(&format!(
        "load {} --connections {CONNECTIONS} --seconds {seconds} --max 60000 --resets",
        server(PORT)
    ))
}

/// Echoes of all sizes while connections go there and back as fast as the commands run: no byte is wrong, none is lost.
fn verified(lab: &Lab) -> Result<()> {
    let mut serving = echo::serve(lab, PORT)?;
    let mut client = load(lab, 5).spawn()?;
    let mut tally = Tally::default();
    while !client.has_ended()? {
        for command in ["handover", "takeover"] {
            tally.count(command, move_all(lab, command)?);
        }
    }
    tally.print("echoes");
    let output = client.finish(LIMIT)?.success().context("the load")?;
    let report: Value = serde_json::from_str(&output.stdout)?;
    ensure!(report["resets"] == 0, "connections were reset: {report}");
    serving.ensure_running()
}

/// Whoever moves connections is killed in the middle of it, in both directions. Connections go on, or end with an error,
/// at most the one that was being moved; none hangs, and no byte is wrong.
fn helper_killed(lab: &Lab) -> Result<()> {
    let mut serving = echo::serve(lab, PORT)?;
    let mut random = Random::new(11);
    let client = load(lab, 8).spawn()?;
    for round in 0..KILLS {
        let command = match round % 2 {
            0 => "handover --all",
            _ => "takeover --all",
        };
        let mover = flyover(lab, command).spawn()?;
        std::thread::sleep(Duration::from_micros(random.below(ERRAND)));
        cleanup::kill_all(&mover.tree());
        mover.finish(LIMIT)?.forget();
        serving.ensure_running()?;
    }
    move_all(lab, "takeover")?;
    let output = client.finish(LIMIT)?.success().context("the load")?;
    let report: Value = serde_json::from_str(&output.stdout)?;
    let resets = report["resets"].as_u64().context("no count of resets")?;
    eprintln!("    {KILLS} killed, {resets} connections reset");
    ensure!(
        resets <= u64::from(KILLS),
        "{resets} connections were reset by {KILLS} deaths"
    );
    // The stack and the daemon are well.
    Probe::connect(lab, server(PORT))?.echo(100_000, SOON)?;
    load(lab, 1).run(LIMIT)?.forget();
    Ok(())
}

/// The daemon is killed in the middle of handovers: connections go on where they are.
fn daemon_killed(setup: &Setup) -> Result<()> {
    let lab = wiring::pair(setup, Side::Server)?;
    {
        let mut serving = echo::serve(&lab, PORT)?;
        let mut probes = (0..CONNECTIONS)
            .map(|_| Probe::connect(&lab, server(PORT)))
            .collect::<Result<Vec<_>>>()?;
        for probe in &mut probes {
            probe.echo(10_000, SOON)?;
        }
        let mover = flyover(&lab, "handover --all").spawn()?;
        std::thread::sleep(Duration::from_micros(Random::new(5).below(ERRAND)));
        if let Some(daemon) = lab.daemon() {
            daemon.kill()?;
        }
        mover.finish(LIMIT)?.forget();
        serving.ensure_running()?;
        for (number, probe) in probes.iter_mut().enumerate() {
            probe
                .echo(100_000, SOON)
                .with_context(|| format!("connection {number}"))?;
        }
    }
    drop(lab);
    Ok(())
}

/// The kernel has no way to the peer: the connection stays in the stack, and goes on there when there is a way again.
fn refused(lab: &Lab) -> Result<()> {
    let mut serving = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe.echo(10_000, SOON)?;
    let route = |verb: &str| {
        lab.plain(Host::Server, "ip")
            .args(&format!("route {verb} unreachable {CLIENT}/32"))
            .run(LIMIT)
            .map(|output| output.forget())
    };
    route("add")?;
    let output = flyover(lab, &format!("handover {} --json", serving.pid())).output(LIMIT)?;
    let rows: Vec<Value> = serde_json::from_str(&output.stdout).context("the answer")?;
    output.forget();
    let stays = rows.iter().filter(|row| row["result"] == "stays").count();
    ensure!(stays == 1, "not one connection stays: {rows:?}");
    route("del")?;
    probe.echo(100_000, SOON)?;
    // It was in the stack until now.
    let moved = || {
        let moved = move_all(lab, "handover")?;
        Ok((moved.connections() == 1).then_some(()))
    };
    wait_until(SOON, moved)?;
    probe.echo(100_000, SOON)?;
    serving.ensure_running()
}
