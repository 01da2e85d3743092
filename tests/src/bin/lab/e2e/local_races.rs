//! Connections within one host whose ends race: short ones (`tests/local/race.c`), and such on which other threads set
//! options, copy and pass descriptors, fork and ask while they are paired (`tests/local/meddle.c`). Every byte is verified by
//! the program; here, that they went through shared memory, and that nothing is left in the stack.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, Side, wait_until};
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::Case;

use super::on_pair;
use crate::diff::program::compile;
use crate::storm::{dump, number};

/// Connections of one run, unless `LOCAL_RACES` says another number.
const CONNECTIONS: u64 = 2000;
const THREADS: u32 = 6;

/// Address, `--local-after`, and of how many connections at least one is paired: many end before.
const RUNS: [(&str, u32, u64); 4] = [
    ("127.0.0.1", 0, 2),
    ("127.0.0.1", 2, 10),
    ("::1", 4, 20),
    ("own", 1, 10),
];

/// Address, `--local-after`, connections.
const MEDDLED: [(&str, u32, u64); 6] = [
    ("127.0.0.1", 0, 30),
    ("127.0.0.1", 1, 40),
    ("::1", 2, 40),
    ("127.0.0.1", 3, 40),
    ("::1", 4, 40),
    ("127.0.0.1", 12, 40),
];

pub fn cases(cases: &mut Vec<Case>) {
    let limit = Duration::from_secs(60 + connections() / 10);
    cases.push(on_pair("local.races", Side::Server, races).lasting(limit));
    cases.push(on_pair("local.wakes", Side::Server, wakes).only_flyover());
    cases.push(on_pair("local.short", Side::Server, short).only_flyover());
    cases.push(on_pair("local.opening", Side::Server, opening).lasting(Duration::from_secs(60)));
    cases.push(on_pair("local.warm", Side::Server, warm).only_flyover());
    let limit = Duration::from_secs(120 * more());
    cases.push(on_pair("local.meddlers", Side::Server, meddlers).lasting(limit));
}

/// How much more than usual is asked for.
fn more() -> u64 {
    connections().div_ceil(CONNECTIONS)
}

/// Two programs that sleep for one another hardly ever need a datagram to be woken.
fn wakes(lab: &Lab) -> Result<()> {
    let sleeping = |role: &str| {
        let ends = lab.workload(Host::Server, "pingpong");
        ends.env("FLYOVER_SPIN", "0").args(role)
    };
    let mut server = sleeping("server 127.0.0.1:7900").spawn()?;
    await_listener(lab, 7900, &mut server)?;
    let counted = || {
        Ok::<_, anyhow::Error>((
            lab.counter(Host::Server, "wakes")?,
            lab.counter(Host::Server, "bells")?,
        ))
    };
    sleeping("client 127.0.0.1:7900 --count 2000 --warmup 100")
        .run(Duration::from_secs(30))?
        .success()?;
    let (wakes, bells) = counted()?;
    ensure!(
        wakes >= 2000 && bells >= wakes * 9 / 10,
        "of {wakes} wakes {bells} by a bell"
    );
    Ok(())
}

/// Connections that are still being opened when `connect` returns are paired like others.
fn opening(lab: &Lab) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("local/opening.c");
    let program = lab.directory().join("opening");
    compile(&source, &program, &[])?;
    let before = pairs(lab)?;
    lab.cmd(Host::Server, &program)
        .args("7903 8")
        .run(Duration::from_secs(60))?
        .success()?;
    ensure_paired(lab, before, 8, 1)?;
    nothing_left(lab)
}

/// Of streams whose ends are busy all the time nearly all are paired within their first twenty calls.
fn warm(lab: &Lab) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("local/warm.c");
    let program = lab.directory().join("warm");
    compile(&source, &program, &[])?;
    let count = 200 * more();
    let before = pairs(lab)?;
    lab.cmd(Host::Server, &program)
        .args(&format!("7904 {count} 20"))
        .run(Duration::from_secs(60))?
        .success()?;
    let paired = pairs(lab)? - before;
    print!(" {paired}/{count}");
    ensure!(paired * 100 >= count * 98, "only {paired} of {count}");
    nothing_left(lab)
}

fn await_listener(lab: &Lab, port: u16, server: &mut flyover_e2e::cmd::Proc) -> Result<()> {
    wait_until(Duration::from_secs(15), || {
        server.ensure_running()?;
        let ports = procfs::listening_ports(lab.netns(Host::Server), Proto::Tcp)?;
        Ok(ports.contains(&port).then_some(()))
    })
}

/// Connections that end after one request and its answer are none of the stack's.
fn short(lab: &Lab) -> Result<()> {
    let mut server = lab
        .workload(Host::Server, "connrate")
        .args("server 127.0.0.1:7901")
        .spawn()?;
    await_listener(lab, 7901, &mut server)?;
    let marks = || lab.counter(Host::Server, "local_marks");
    // One that goes on for longer makes a stack that can be asked.
    let mut other = lab
        .workload(Host::Server, "pingpong")
        .args("server 127.0.0.1:7902")
        .spawn()?;
    await_listener(lab, 7902, &mut other)?;
    lab.workload(Host::Server, "pingpong")
        .args("client 127.0.0.1:7902 --count 100 --warmup 10")
        .run(Duration::from_secs(30))?
        .success()?;
    let before = marks()?;
    ensure!(before == 2, "{before} marks of two ends");
    lab.workload(Host::Server, "connrate")
        .args("client 127.0.0.1:7901 --threads 2 --seconds 0.5")
        .run(Duration::from_secs(30))?
        .success()?;
    let after = marks()?;
    ensure!(
        after == before,
        "{} marks for short connections",
        after - before
    );
    Ok(())
}

fn connections() -> u64 {
    let asked = std::env::var("LOCAL_RACES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(CONNECTIONS)
}

fn meddlers(lab: &Lab) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("local/meddle.c");
    let program = lab.directory().join("meddle");
    compile(&source, &program, &[])?;
    for (seed, (address, after, count)) in (1..).zip(MEDDLED) {
        let count = count * more();
        let before = pairs(lab)?;
        lab.cmd(Host::Server, &program)
            .env("FLYOVER_LOCAL_AFTER", after.to_string())
            .args(&format!("{address} {count} {}", seed * 1_000_000))
            .run(Duration::from_secs(60 + count / 4))?
            .success()
            .with_context(|| format!("{address}, paired after {after} calls"))?;
        ensure_paired(lab, before, count, 4)?;
    }
    nothing_left(lab)
}

fn races(lab: &Lab) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("local/race.c");
    let program = lab.directory().join("race");
    compile(&source, &program, &[])?;
    for (seed, (address, after, share)) in (1..).zip(RUNS) {
        let address = match address {
            "own" => SERVER.to_string(),
            other => other.to_owned(),
        };
        one_run(lab, &program, &address, after, seed, share)
            .with_context(|| format!("{address}, paired after {after} calls"))?;
    }
    Ok(())
}

fn one_run(
    lab: &Lab,
    program: &Path,
    address: &str,
    after: u32,
    seed: u64,
    share: u64,
) -> Result<()> {
    let count = connections();
    let before = pairs(lab)?;
    lab.cmd(Host::Server, program)
        .env("FLYOVER_LOCAL_AFTER", after.to_string())
        .args(&format!("{address} {count} {seed} {THREADS}"))
        .run(Duration::from_secs(30 + count / 50))?
        .success()?;
    ensure_paired(lab, before, count, share)?;
    nothing_left(lab)
}

fn pairs(lab: &Lab) -> Result<u64> {
    match lab.is_plain() {
        true => Ok(0),
        false => lab.counter(Host::Server, "local_pairs"),
    }
}

/// Of so many connections, one of `share` was paired at least.
fn ensure_paired(lab: &Lab, before: u64, count: u64, share: u64) -> Result<()> {
    if lab.is_plain() {
        return Ok(());
    }
    let pairs = pairs(lab)? - before;
    print!(" {pairs}/{count}");
    ensure!(
        pairs >= count / share,
        "only {pairs} of {count} connections went through shared memory"
    );
    Ok(())
}

fn nothing_left(lab: &Lab) -> Result<()> {
    if lab.is_plain() {
        return Ok(());
    }
    let mut left = Vec::new();
    wait_until(Duration::from_secs(20), || {
        let dump = dump(lab)?;
        left = ["sockets_used", "buffers_used", "items_used", "sets_used"]
            .map(|name| (name, number(&dump, name)))
            .to_vec();
        Ok(left.iter().all(|(_, n)| *n == 0).then_some(()))
    })
    .with_context(|| format!("left in the stack: {left:?}"))
}
