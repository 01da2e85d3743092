//! Packets: scenarios (`tests/wire/*.py`) of raw segments and socket calls, against the TCP of the server host. What the
//! kernel's TCP does in each of them lies in `tests/wire/expected`, recorded with `WIRE_RECORD=1 lab test wire --plain`;
//! Flyover has to do the same, segment by segment, but for [`KNOWN`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{Host, Lab, SERVER, Side};
use flyover_e2e::runner::Case;

use super::on_pair;

/// The kernel remembers of a path what the last scenario of `sending` tells of it.
const GROUPS: [&str; 13] = [
    "opening",
    "receiving",
    "closing",
    "strange",
    "congested",
    "dice",
    "recovery",
    "details",
    "states",
    "windows",
    "growth",
    "calls",
    "sending",
];
/// So many run at a time.
const AT_ONCE: usize = 7;
/// The address of the peer that is made of frames.
const PEER: &str = "10.77.0.99";
const LIMIT: Duration = Duration::from_secs(120);
/// Scenarios that ran when the expectations were recorded.
const SCENARIOS: usize = 310;
/// How often what differs runs again.
const AGAIN: u32 = 3;

/// Scenarios in which Flyover does something else, and why.
const KNOWN: [(&str, &str); 3] = [
    (
        "states.close_wait",
        "an urgent byte behind the peer's FIN cannot be read",
    ),
    (
        "states.syn_sent",
        "SIOCOUTQ of a refused connection: 2 for 3",
    ),
    (
        "growth.info_times",
        "how long a connection was busy is not measured",
    ),
];

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(
        on_pair("wire", Side::Server, wire)
            .lasting(Duration::from_secs(300))
            .calm(),
    );
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("wire")
}

fn wire(lab: &Lab) -> Result<()> {
    let macs = [mac(lab, Host::Client)?, mac(lab, Host::Server)?];
    let offloads = "ethtool -K eth0 tso off gso off gro off tx off";
    lab.server.tool(offloads)?;
    // Nor does the kernel remember round trips of the scenarios before.
    lab.server
        .tool("sysctl -qw net.ipv4.tcp_no_metrics_save=1")?;
    // The usual buffers, from which the scale of the window comes, whatever this machine is set to.
    lab.server
        .sysctl("net/ipv4/tcp_rmem", "4096 131072 6291456")?;
    lab.server.ip(&format!(
        "neigh add {PEER} lladdr {} dev eth0 nud permanent",
        macs[0]
    ))?;
    let mut differ = Vec::new();
    let mut scenarios = 0;
    // Most of the time is spent on waiting for segments that must not come.
    let at_once = if lab.is_plain() { 1 } else { AT_ONCE };
    let only = std::env::var("WIRE_ONLY").ok();
    let chosen: Vec<_> = GROUPS
        .into_iter()
        .filter(|group| {
            only.as_deref()
                .is_none_or(|only| only.split('.').next() == Some(*group))
        })
        .collect();
    for groups in chosen.chunks(at_once) {
        let running: Vec<_> = groups
            .iter()
            .map(|group| {
                let filter = match &only {
                    Some(one) if one.contains('.') => one.clone(),
                    _ => format!("{group}."),
                };
                Ok((*group, begin(lab, group, &filter, &macs, 0)?))
            })
            .collect::<Result<_>>()?;
        for (group, (script, _puppet)) in running {
            let said = script.finish(LIMIT)?.success()?.stdout;
            let found = compare(group, &said, lab.is_plain())?;
            scenarios += found.scenarios;
            differ.extend(found.bad.into_iter().map(|bad| (group, bad)));
        }
    }
    print!(" {scenarios} scenarios");
    ensure!(
        only.is_some() || scenarios == SCENARIOS,
        "not all scenarios ran"
    );
    // A timer that fires late because others have the processor is no difference: what differs runs again, alone.
    let again_at_most = std::env::var("WIRE_AGAIN").ok();
    let again_at_most = again_at_most.and_then(|n| n.parse().ok()).unwrap_or(AGAIN);
    for attempt in 0..again_at_most {
        differ = again(lab, &macs, attempt, differ)?;
    }
    ensure!(
        differ.is_empty(),
        "{} scenarios differ from the kernel's TCP:\n{}",
        differ.len(),
        differ
            .iter()
            .map(|(_, bad)| bad.text.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    );
    Ok(())
}

/// Those of `differ` that still differ, each with a puppet of its own.
fn again<'g>(
    lab: &Lab,
    macs: &[String; 2],
    attempt: u32,
    differ: Vec<(&'g str, Bad)>,
) -> Result<Vec<(&'g str, Bad)>> {
    let mut still = Vec::new();
    for (number, (group, bad)) in differ.into_iter().enumerate() {
        print!(" ({} again)", bad.name);
        let word = format!("{number}-{attempt}");
        let (script, _puppet) = begin(lab, &word, &bad.name, macs, 1100 * (attempt + 1))?;
        let said = script.finish(LIMIT)?.success()?.stdout;
        let found = compare(group, &said, lab.is_plain())?;
        still.extend(
            found
                .bad
                .into_iter()
                .filter(|b| b.name == bad.name)
                .map(|b| (group, b)),
        );
    }
    Ok(still)
}

/// A script with its puppet; `filter`: which scenarios; `number`: of the first one, which decides about the ports. What
/// an earlier run has left half closed must not be met again.
fn begin(
    lab: &Lab,
    word: &str,
    filter: &str,
    macs: &[String; 2],
    number: u32,
) -> Result<(Proc, Proc)> {
    let control = lab.directory().join(format!("wire-{word}"));
    let script = lab
        .plain(Host::Client, "/usr/bin/python3")
        .arg("-u")
        .arg(directory().join("wire.py"))
        .args(&format!("eth0 {} {} {PEER} {SERVER}", macs[0], macs[1]))
        .arg(&control)
        .arg(filter)
        .env("WIRE_NUMBER", number.to_string())
        .piped()
        .spawn()?;
    let puppet = lab
        .cmd(Host::Server, "/usr/bin/python3")
        .arg(directory().join("puppet.py"))
        .arg(&control)
        .spawn()?;
    Ok((script, puppet))
}

fn mac(lab: &Lab, host: Host) -> Result<String> {
    let link = lab.netns(host).tool("ip -br link show eth0")?;
    let word = link.split_whitespace().nth(2);
    Ok(word.context("a MAC address")?.to_owned())
}

/// A scenario that differs.
struct Bad {
    name: String,
    /// Both versions.
    text: String,
}

/// What a comparison found.
struct Found {
    scenarios: usize,
    bad: Vec<Bad>,
}

fn compare(group: &str, said: &str, plain: bool) -> Result<Found> {
    let file = directory().join(format!("expected/{group}.txt"));
    if plain && std::env::var_os("WIRE_RECORD").is_some() {
        std::fs::write(&file, said).with_context(|| format!("writing {}", file.display()))?;
    }
    let expected =
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let (kernel, here) = (split(&expected), split(said));
    let mut bad = Vec::new();
    for (name, lines) in &here {
        let expected = kernel.get(name).map_or("nothing", String::as_str);
        let known = KNOWN.iter().find(|(known, _)| known == name);
        match (expected == lines, known.filter(|_| !plain)) {
            (true, Some((_, why))) => print!("\n    {name} is equal now; known: {why}"),
            (false, None) => bad.push(Bad {
                name: name.clone(),
                text: format!("== {name}\nkernel:\n{expected}\nhere:\n{lines}"),
            }),
            _ => {}
        }
    }
    Ok(Found {
        scenarios: here.len(),
        bad,
    })
}

fn split(text: &str) -> BTreeMap<String, String> {
    let parts = text.split("== ").filter(|part| !part.trim().is_empty());
    let named = parts.filter_map(|part| part.split_once('\n'));
    named
        .map(|(name, lines)| (name.to_owned(), lines.trim_end().to_owned()))
        .collect()
}
