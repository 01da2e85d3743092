//! What Flyover costs when it does nothing. The limits are wide, since other work may run beside a
//! test; `cargo xtask bench` measures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, Side, wait_until};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::stats::Sample;
use flyover_e2e::workloads;

use super::on_pair;

const LIMIT: Duration = Duration::from_secs(20);
const IDLE: usize = 1_000;
const CROWD_LIMIT: Duration = Duration::from_secs(180);

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("cost.idle-connections", Side::Server, idle));
    cases.push(on_pair("cost.idle-connections", Side::Client, idle).only_flyover());
    cases.push(on_pair("cost.crowd", Side::Server, crowd));
    cases.push(on_pair("cost.crowd", Side::Client, crowd).only_flyover());
    cases.push(on_pair("cost.run-true", Side::Server, run_true).only_flyover());
}

/// A thousand idle connections: the daemon, the keepers and the programs together sleep.
fn idle(lab: &Lab) -> Result<()> {
    let watch = lab.watch_kernel()?;
    let percent = workloads::idle_connections(lab, IDLE, 6.0)?;
    watch.ensure_tcp_bypassed()?;
    // The bar is 0.5 %; the clock ticks in 10 ms.
    ensure!(
        percent <= 0.7,
        "{IDLE} idle connections cost {percent:.2} % of a core"
    );
    Ok(())
}

/// Connections of `cost.crowd`; `E2E_CROWD` sets another number.
const CROWD: usize = 19_000;
/// Descriptors of a process that are no connections of the crowd.
const OTHERS: usize = 500;
/// Connections from one source address: Linux has some 28,000 ephemeral ports.
const PER_SOURCE: usize = 25_000;

/// Thousands of connections in one epoll set: none is lost, an echo on one more costs little more than alone, an idle
/// one takes at most 2 KiB of the stack's memory. All are in one process; more than it may have descriptors are shared
/// out to several on one stack. Both ends sleep while they wait, so that an echo is the same work each time: whether
/// a spin of 20 us is enough may change between two measurements.
fn crowd(lab: &Lab) -> Result<()> {
    let count = std::env::var("E2E_CROWD").map_or(Ok(CROWD), |n| n.parse())?;
    let parts = count.div_ceil(descriptors(lab)?.saturating_sub(OTHERS).max(1));
    let each = count / parts;
    let mut held = Vec::new();
    let watch = lab.watch_kernel()?;
    for part in 0..parts {
        let port = 8200 + part as u16;
        let addresses = each.div_ceil(PER_SOURCE);
        let source = |n: usize| format!("10.77.0.{}", 10 + part * addresses + n);
        let sources: Vec<String> = (0..addresses).map(source).collect();
        for source in &sources {
            lab.netns(Host::Client)
                .ip(&format!("addr add {source}/24 dev eth0"))?;
        }
        let mut serving = lab
            .python(Host::Server, "crowd_server.py")
            .env("FLYOVER_SPIN", "0")
            .args(&format!("{SERVER} {port}"))
            .spawn()?;
        lab.wait_for_port(Proto::Tcp, port, &mut serving)?;
        let mut opening = lab
            .python(Host::Client, "crowd_client.py")
            .env("FLYOVER_SPIN", "0")
            .args(&format!("{SERVER} {port} {each} {}", sources.join(" ")))
            .piped()
            .spawn()?;
        wait_until(CROWD_LIMIT, || {
            opening.ensure_running()?;
            serving.ensure_running()?;
            Ok(opening.stdout().contains("ready").then_some(()))
        })?;
        held.push((serving, opening));
    }
    let said = held.last().context("a part")?.1.stdout();
    let number = |word: &str| -> Result<f64> {
        let mut words = said.split_whitespace().skip_while(|w| *w != word).skip(1);
        Ok(words.next().context("a number")?.parse()?)
    };
    let (alone, among) = (number("alone")?, number("among")?);
    if !lab.is_plain() {
        let bytes = memory_of_each(lab)?;
        println!(
            "{count} connections, {each} in one process: {bytes} bytes each, echo {alone} us alone, {among} us among"
        );
        ensure!(bytes <= 2048, "a connection takes {bytes} bytes");
    }
    for (_serving, opening) in held {
        opening.finish(CROWD_LIMIT)?.success()?;
    }
    watch.ensure_tcp_bypassed()?;
    // The bar is 10 %, on a machine that does nothing else.
    ensure!(
        among <= alone * 1.6 + 20.0,
        "an echo takes {alone} us alone, {among} us among {count} idle connections"
    );
    Ok(())
}

/// How many descriptors a process may have, when it raises its limit as far as it can, as the programs of the crowd do.
fn descriptors(lab: &Lab) -> Result<usize> {
    let most = "ulimit -n 200000 2>/dev/null || ulimit -n \"$(ulimit -Hn)\"; ulimit -n";
    let said = lab
        .plain(Host::Client, "/bin/sh")
        .arg("-c")
        .arg(most)
        .run(LIMIT)?;
    Ok(said.stdout.trim().parse()?)
}

/// What `flyover ps` says that a connection takes.
fn memory_of_each(lab: &Lab) -> Result<u64> {
    let said = lab
        .plain(Host::Server, lab.bin().join("flyover"))
        .args("ps --json")
        .run(LIMIT)?;
    let said: serde_json::Value = serde_json::from_str(&said.stdout)?;
    let stacks = said["stacks"].as_array().context("stacks")?;
    let of = |name: &str| -> u64 {
        let one = |s: &serde_json::Value| s[name].as_u64().unwrap_or(0);
        stacks.iter().map(one).sum()
    };
    Ok(of("used_bytes") / of("sockets").max(1))
}

fn run_true(lab: &Lab) -> Result<()> {
    let plain = alone(lab)?;
    let under = workloads::run_true(lab, 20)?;
    ensure!(
        under - plain < 60.0,
        "flyover run adds {:.1} ms",
        under - plain
    );
    Ok(())
}

/// Milliseconds of `/bin/true` alone.
fn alone(lab: &Lab) -> Result<f64> {
    let mut sample = Sample::default();
    for _ in 0..20 {
        let begun = Instant::now();
        lab.plain(Host::Server, "/bin/true").run(LIMIT)?;
        sample.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(sample.median().unwrap_or(0.0))
}
