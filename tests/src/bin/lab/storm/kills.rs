//! The kill storm: processes share one stack, each with live transfers that are verified, and one of them is killed
//! with SIGKILL at a random instant, again and again. What must hold:
//!
//! - nobody who lives notices: no wrong, lost or late byte, no reset connection;
//! - what `send` took before the death reaches the peer, and then FIN. Only the one connection that was being changed by
//!   a process that died inside the stack's lock may be reset; such deaths are counted;
//! - afterwards nothing is left: no socket but the survivors', no buffer, no filter.
//!
//! With a library whose critical sections are stretched (`cargo xtask storm`), many deaths are inside the lock.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flyover_e2e::cmd::{Cmd, Proc};
use flyover_e2e::lab::{CLIENT, Host, Lab, SERVER, Setup, Side, wait_until};
use flyover_e2e::pattern::Random;
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::Case;
use flyover_e2e::wiring;
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
/// A killed sender's data, its FIN included, is at the peer within this time.
const DELIVERY: Duration = Duration::from_secs(15);
/// Killed in CI.
const IN_CI: u64 = 300;
const SINK: u16 = 7801;
const ECHO: u16 = 7802;
const SERVED: u16 = 7803;

/// What continuous integration runs.
pub(super) fn cases(cases: &mut Vec<Case>) {
    let wire = |setup: &Setup| case(setup, WIRE, IN_CI, 1);
    cases.push(Case::new(WIRE.name, wire));
    let local = |setup: &Setup| case(setup, LOCAL, IN_CI / 3, 1);
    cases.push(Case::new(LOCAL.name, local));
}

/// Where the peers of those who die are.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) name: &'static str,
    host: Host,
    /// The peers' address, and the server's own.
    peers: Ipv4Addr,
    own: Ipv4Addr,
}

/// On another host, plain.
pub(super) const WIRE: Place = Place {
    name: "storm.kills.server",
    host: Host::Client,
    peers: CLIENT,
    own: SERVER,
};

/// On the same host, under Flyover: all connections are pairs, or become such.
pub(super) const LOCAL: Place = Place {
    name: "storm.kills.local",
    host: Host::Server,
    peers: Ipv4Addr::LOCALHOST,
    own: Ipv4Addr::LOCALHOST,
};

pub(super) fn case(setup: &Setup, place: Place, kills: u64, seed: u64) -> Result<()> {
    let lab = wiring::pair(setup, Side::Server)?;
    storm(&lab, place, kills, seed)?;
    lab.finish()
}

/// The programs that live through it.
struct Survivors {
    sink: Proc,
    echo: Proc,
    served: Proc,
    clients: Vec<Proc>,
}

impl Survivors {
    fn start(lab: &Lab, place: Place) -> Result<Self> {
        let Place {
            host, peers, own, ..
        } = place;
        let sink = workload(lab, host, "storm").args(&format!("sink {peers}:{SINK}"));
        let mut sink = sink.spawn()?;
        let echo = workload(lab, host, "echo").args(&format!("serve {peers}:{ECHO}"));
        let mut echo = echo.spawn()?;
        wait_for(lab, host, SINK, &mut sink)?;
        wait_for(lab, host, ECHO, &mut echo)?;
        // On the stack: a server with clients among the peers, and a client of the peers' server.
        let served = workload(lab, Host::Server, "echo").args(&format!("serve {own}:{SERVED}"));
        let mut served = served.spawn()?;
        wait_for(lab, Host::Server, SERVED, &mut served)?;
        let clients = vec![load(lab, place, 0)?, load(lab, place, 1)?];
        Ok(Self {
            sink,
            echo,
            served,
            clients,
        })
    }

    fn ensure_well(&mut self) -> Result<()> {
        [&mut self.sink, &mut self.echo, &mut self.served]
            .into_iter()
            .try_for_each(Proc::ensure_running)
    }
}

/// Waits until the port listens; a listener on the loopback is the kernel's.
fn wait_for(lab: &Lab, host: Host, port: u16, program: &mut Proc) -> Result<()> {
    wait_until(LIMIT, || {
        program.ensure_running()?;
        let ports = procfs::listening_ports(lab.netns(host), Proto::Tcp)?;
        Ok(ports.contains(&port).then_some(()))
    })
}

/// The surviving client number `i`, for a few seconds: it comes and goes in rounds, so that the storm's length need not be
/// known.
fn load(lab: &Lab, place: Place, i: usize) -> Result<Proc> {
    let (host, to) = match i {
        0 => (place.host, format!("{}:{SERVED}", place.own)),
        _ => (Host::Server, format!("{}:{ECHO}", place.peers)),
    };
    workload(lab, host, "echo")
        .args(&format!(
            "load {to} --connections 3 --seconds 4 --max 60000 --resets"
        ))
        .spawn()
}

/// A workload. TIME_WAIT is short, so that the end, when nothing may be left, comes soon.
pub(super) fn workload<'lab>(lab: &'lab Lab, host: Host, name: &str) -> Cmd<'lab> {
    lab.workload(host, name).env("FLYOVER_TIME_WAIT_MS", "2000")
}

/// What became of the streams of the dead.
#[derive(Default)]
struct Tally {
    delivered: u64,
    reset: u64,
    /// Killed before the first byte was taken.
    early: u64,
    /// Connections of survivors that were reset.
    hurt: u64,
}

fn storm(lab: &Lab, place: Place, kills: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    let mut survivors = Survivors::start(lab, place)?;
    let begun = Instant::now();
    for number in 1..=kills {
        one_death(lab, place, &mut random, number, &mut survivors, &mut tally)
            .with_context(|| format!("death {number} of {kills}"))?;
        survivors.ensure_well()?;
        renew(lab, place, &mut survivors, &mut tally)?;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    for client in std::mem::take(&mut survivors.clients) {
        tally.hurt += resets(client)?;
    }
    let paired = lab.counter(Host::Server, "local_pairs")?;
    ensure!(
        lab.is_plain() || place.host == Host::Client || paired >= kills,
        "only {paired} connections went through shared memory"
    );
    let inside = if lab.is_plain() { 0 } else { settle(lab)? };
    eprintln!(
        "    {kills} killed in {elapsed:.0} s, {inside} of them inside the lock: {} streams delivered whole, {} reset, \
         {} not begun; {} connections of survivors reset",
        tally.delivered, tally.reset, tally.early, tally.hurt
    );
    ensure!(
        tally.reset + tally.hurt <= inside,
        "{} + {} connections reset, but only {inside} deaths inside the lock",
        tally.reset,
        tally.hurt
    );
    for program in [survivors.served, survivors.sink, survivors.echo] {
        program.signal(Signal::KILL);
    }
    Ok(())
}

/// Clients that have finished must have succeeded; new ones take their place.
fn renew(lab: &Lab, place: Place, survivors: &mut Survivors, tally: &mut Tally) -> Result<()> {
    for (i, client) in survivors.clients.iter_mut().enumerate() {
        if client.has_ended()? {
            let fresh = load(lab, place, i)?;
            tally.hurt += resets(std::mem::replace(client, fresh))?;
        }
    }
    Ok(())
}

/// The end of a verifying client: the connections of it that were reset. Anything else that happened to it is a failure.
pub(super) fn resets(client: Proc) -> Result<u64> {
    let output = client
        .finish(LIMIT)?
        .success()
        .context("a survivor was hurt")?;
    let report: Value = serde_json::from_str(&output.stdout)?;
    output.forget();
    report["resets"].as_u64().context("no count of resets")
}

fn one_death(
    lab: &Lab,
    place: Place,
    random: &mut Random,
    number: u64,
    survivors: &mut Survivors,
    tally: &mut Tally,
) -> Result<()> {
    let peers = place.peers;
    let note = lab.directory().join("note");
    fs::write(&note, [0; 8])?;
    let mut victim = workload(lab, Host::Server, "storm")
        .args(&format!("victim {peers}:{SINK} {peers}:{ECHO} {number}"))
        .arg(&note)
        .spawn()?;
    // Most die while they work, some while they start.
    if !random.percent(5.0) {
        wait_until(LIMIT, || {
            victim.ensure_running()?;
            Ok((taken(&note)? > 0).then_some(()))
        })
        .context("the victim does not send")?;
    }
    std::thread::sleep(Duration::from_micros(random.below(15_000)));
    victim.signal(Signal::KILL);
    let log = victim.finish(LIMIT)?;
    let taken = taken(&note)?;
    log.forget();
    if taken == 0 {
        tally.early += 1;
        return Ok(());
    }
    let (bytes, end) =
        wait_until(DELIVERY, || Ok(verdict(&survivors.sink, number))).with_context(|| {
            let left = dump(lab).map_or_else(|e| format!("{e:#}"), |dump| in_full(&dump));
            format!("the sink waits for the end of a stream of {taken} bytes; {left}")
        })?;
    match end.as_str() {
        "eof" => {
            ensure!(
                bytes >= taken,
                "only {bytes} of {taken} bytes that send took were delivered"
            );
            tally.delivered += 1;
        }
        "ConnectionReset" => tally.reset += 1,
        other => bail!("the stream ended as {other} after {bytes} of {taken} bytes"),
    }
    Ok(())
}

/// Bytes that the victim's `send` took.
fn taken(note: &Path) -> Result<u64> {
    let bytes = fs::read(note)?;
    Ok(u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
}

/// The sink's line about a stream: its bytes, and how it ended.
pub(super) fn verdict(sink: &Proc, number: u64) -> Option<(u64, String)> {
    let printed = sink.stdout();
    // The last line may be half written.
    let (whole, _) = printed.rsplit_once('\n')?;
    let mut lines = whole.lines().rev().map(str::split_whitespace);
    lines.find_map(|mut words| {
        let about = words.next()?.parse::<u64>().ok()?;
        let bytes = words.next()?.parse().ok()?;
        (about == number).then(|| (bytes, words.next().unwrap_or_default().to_owned()))
    })
}

/// Waits until only the listeners' sockets are left in the stack, and returns how many deaths were inside the lock.
fn settle(lab: &Lab) -> Result<u64> {
    let mut last = String::new();
    let inside = wait_until(Duration::from_secs(90), || {
        let dump = dump(lab)?;
        let count = |name: &str| number(&dump, name);
        let left = ["sockets_used", "buffers_used", "items_used"].map(|n| (n, count(n)));
        let filters = dump["filters"].as_array().map_or(0, Vec::len);
        last = format!("{left:?}, {filters} filters; {}", sockets(&dump));
        // The echo server's listener and its datagram socket, each with a filter.
        let clean = left.iter().all(|(name, value)| match *name {
            "sockets_used" => *value <= 2,
            // The threads that wait for connections and datagrams.
            "items_used" => *value <= 2,
            _ => *value == 0,
        });
        Ok((clean && filters <= 2).then(|| count("takeovers")))
    });
    inside.with_context(|| format!("something is left in the stack: {last}"))
}

/// The stack's memory, from `flyover stackdump --json`.
pub fn dump(lab: &Lab) -> Result<Value> {
    let flyover: PathBuf = lab.bin().join("flyover");
    let printed = lab
        .plain(Host::Server, flyover)
        .args("stackdump --all --json")
        .run(LIMIT)?;
    printed.forget();
    let value: Value = serde_json::from_str(&printed.stdout)?;
    value.get(0).cloned().context("no stack")
}

/// Everything that a dump says of sockets that are no listener's, less what is 0.
fn in_full(dump: &Value) -> String {
    let sockets = dump["sockets"].as_array().into_iter().flatten();
    let connected = sockets.filter(|sock| sock["state"] != "LISTEN");
    let row = |sock: &Value| {
        let fields = sock.as_object().into_iter().flatten();
        let told = fields.filter(|(_, value)| value.as_u64() != Some(0));
        told.map(|(name, value)| format!(" {name}={value}"))
            .collect::<String>()
    };
    connected.map(|sock| format!("\n{}", row(sock))).collect()
}

/// The sockets of a dump, with what tells why they are there.
pub fn sockets(dump: &Value) -> String {
    const SHOWN: [&str; 7] = [
        "slot", "state", "local", "remote", "flags", "cookie", "filter",
    ];
    let all = dump.get("sockets").and_then(Value::as_array);
    let line =
        |socket: &Value| SHOWN.map(|name| socket.get(name).unwrap_or(&Value::Null).to_string());
    all.map(|all| {
        all.iter()
            .map(|s| line(s).join(" "))
            .collect::<Vec<_>>()
            .join("; ")
    })
    .unwrap_or_default()
}

/// A number somewhere in the dump, wherever it stands; 0 when it is not there.
pub fn number(dump: &Value, name: &str) -> u64 {
    let all: HashMap<&str, u64> = ["root", "counters"]
        .iter()
        .filter_map(|part| dump.get(part)?.as_object())
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_u64()?)))
        .collect();
    all.get(name).copied().unwrap_or(0)
}
