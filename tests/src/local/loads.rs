//! Our own workloads within the host. Each opens its connections and warms up, then waits: the path of its connections is
//! looked at, the CPU time so far is noted, and only then what is measured begins.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::shares;
use crate::cmd::{Cmd, Proc};
use crate::lab::{Host, Lab, Side, wait_until};
use crate::procfs::{self, Proto};
use crate::tools::{json, number};
use crate::workloads::Measured;

const LIMIT: Duration = Duration::from_secs(60);

/// Where the two ends run and how they wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Non-blocking calls in a loop, each end on a processor of its own.
    Spinning,
    /// Blocking calls, wherever the scheduler likes.
    Free,
    /// Blocking calls, each end on a processor of its own.
    Apart,
    /// Blocking calls, both ends on the same processor.
    OneCore,
}

impl Ends {
    fn words(self, host: Host) -> &'static str {
        match (self, host) {
            (Self::Spinning, _) => "--spin",
            (Self::Free, _) => "",
            (Self::Apart, Host::Client) | (Self::OneCore, _) => "--cpu 0",
            (Self::Apart, Host::Server) => "--cpu 1",
        }
    }
}

/// What a workload printed, and the CPU time of everything that took part.
struct Report {
    printed: Value,
    cpu: Duration,
}

impl Report {
    fn number(&self, name: &str) -> Result<f64> {
        number(&self.printed, name)
    }
}

/// Lets a client start that waits at its gate, once both ends are on the path `shm`: so often it warms up.
fn gated(lab: &Lab, port: u16, client: Cmd<'_>) -> Result<Report> {
    const WARM_UPS: usize = 20;
    let mut client = client.piped().spawn()?;
    for times in 1.. {
        wait_ready(&mut client, times)?;
        if lab.side == Side::Neither {
            break;
        }
        let shares = shares(lab, port)?;
        if shares.is_all() {
            break;
        }
        ensure!(times < WARM_UPS, "after {times} warm-ups {shares}");
        eprintln!("    after warm-up {times}: {shares}");
        client.write_line("more")?;
    }
    let before = procfs::cpu_of_run();
    client.write_line("go")?;
    let output = client.finish(LIMIT)?.success()?;
    Ok(Report {
        printed: json(&output)?,
        cpu: procfs::cpu_of_run().saturating_sub(before),
    })
}

/// Waits until it has said so often that it is ready.
fn wait_ready(program: &mut Proc, times: usize) -> Result<()> {
    wait_until(LIMIT, || {
        program.ensure_running()?;
        Ok((program.stdout().matches("ready").count() >= times).then_some(()))
    })
}

/// 64 bytes there and back, one message at a time; every answer is compared. The rate is round trips a second, `cpu_us` that
/// of one round trip.
pub fn ping_pong(lab: &Lab, ends: Ends, seconds: f64) -> Result<Measured> {
    /// Of the fastest round trips, so many a second.
    const MOST: f64 = 4e6;
    let at = lab.at(7200);
    let mut answering = lab
        .workload(Host::Server, "pingpong")
        .args(&format!("server {at} {}", ends.words(Host::Server)))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, at.port(), &mut answering)?;
    let client = lab
        .workload(Host::Client, "pingpong")
        .args(&format!("client {at} {}", ends.words(Host::Client)))
        .args(&format!(
            "--gate --warmup 5000 --seconds {seconds} --count {}",
            (seconds * MOST) as u64
        ));
    let report = gated(lab, at.port(), client)?;
    let mut measured = Measured::from_latencies(&report.printed, "messages_per_second")?;
    measured.cpu_us = report.cpu.as_secs_f64() * 1e6 / report.number("count")?;
    measured.cores = measured.cpu_us * measured.rate / 1e6;
    Ok(measured)
}

/// How a stream is written and read.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    /// Bytes of one write.
    pub write: usize,
    /// Bytes that one read takes at most.
    pub read: usize,
}

impl Pieces {
    /// The longest read that the workload knows.
    const READ: usize = 256 << 10;

    /// Writes of this length, and reads that take what there is.
    pub fn of(write: usize) -> Self {
        Self {
            write,
            read: Self::READ,
        }
    }

    /// As words of `load stream` and `load ring stream`.
    fn sent(self, seconds: f64) -> String {
        format!(
            "--write {} --seconds {seconds} --gate-after 0.1",
            self.write
        )
    }

    fn received(self) -> String {
        format!("--verify-ends --read {}", self.read)
    }
}

/// A stream from the client to the server. The ends of every read are compared, and the bytes are counted. The rate is Gb/s,
/// `cpu_us` that of one megabyte.
pub fn stream(lab: &Lab, ends: Ends, pieces: Pieces, seconds: f64) -> Result<Measured> {
    let at = lab.at(7100);
    let mut receiving = lab
        .workload(Host::Server, "stream")
        .args(&format!("receive --listen {at} {}", pieces.received()))
        .args(ends.words(Host::Server))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, at.port(), &mut receiving)?;
    let client = lab
        .workload(Host::Client, "stream")
        .args(&format!("send --connect {at} {}", pieces.sent(seconds)))
        .args(ends.words(Host::Client));
    let report = gated(lab, at.port(), client)?;
    receiving.finish(LIMIT)?.success()?;
    stream_measured(&report)
}

fn stream_measured(report: &Report) -> Result<Measured> {
    let megabytes = report.number("bytes")? / 1e6;
    let cpu = report.cpu.as_secs_f64();
    Ok(Measured {
        rate: report.number("gbit_per_second")?,
        cpu_us: cpu * 1e6 / megabytes,
        cores: cpu / report.number("seconds")?,
        ..Measured::default()
    })
}

/// Round trips over the bare ring.
pub fn ring_ping_pong(lab: &Lab, seconds: f64) -> Result<Measured> {
    let output = lab
        .plain(Host::Client, lab.bin().join("load"))
        .args(&format!(
            "ring pingpong --warmup 5000 --seconds {seconds} --count {}",
            (seconds * 1e7) as u64
        ))
        .run(LIMIT)?;
    Measured::from_latencies(&json(&output)?, "messages_per_second")
}

/// A stream over the bare ring.
pub fn ring_stream(lab: &Lab, pieces: Pieces, seconds: f64) -> Result<Measured> {
    let client = lab
        .plain(Host::Client, lab.bin().join("load"))
        .args("ring stream")
        .args(&format!("{} {}", pieces.sent(seconds), pieces.received()));
    let mut client = client.piped().spawn()?;
    wait_ready(&mut client, 1)?;
    client.write_line("go")?;
    let printed = json(&client.finish(LIMIT)?.success()?)?;
    stream_measured(&Report {
        printed,
        cpu: Duration::ZERO,
    })
}

/// What an idle connection costs, with both of its ends, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Memory of all processes of the run: programs, daemon, keeper.
    pub processes: f64,
    /// What the stack says that it uses; 0 without Flyover.
    pub stack: f64,
}

/// Memory of `count` idle connections, each divided by `count`. A hundred before them take what is there only once.
pub fn idle_memory(lab: &Lab, count: usize) -> Result<Idle> {
    const FIRST: usize = 100;
    let at = lab.at(8100);
    let mut holding = lab
        .workload(Host::Server, "hold")
        .args(&format!("server {at}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, at.port(), &mut holding)?;
    let mut opening = lab
        .workload(Host::Client, "hold")
        .args(&format!("client {at} --connections {FIRST}"))
        .piped()
        .spawn()?;
    let look = |opening: &mut Proc, held: usize, times: usize| -> Result<(u64, u64)> {
        wait_ready(opening, times)?;
        wait_until(LIMIT, || {
            let open = fs::read_dir(format!("/proc/{}/fd", holding.pid()))?.count();
            Ok((open > held).then_some(()))
        })
        .context("waiting for the server to accept all")?;
        let stack = match lab.side {
            Side::Neither => 0,
            _ => used_bytes(lab)?,
        };
        Ok((
            procfs::memory(&procfs::descendants(std::process::id())),
            stack,
        ))
    };
    let before = look(&mut opening, FIRST, 1)?;
    opening.write_line(&count.to_string())?;
    let after = look(&mut opening, FIRST + count, 2)?;
    if lab.side != Side::Neither {
        let shares = shares(lab, at.port())?;
        ensure!(
            shares.is_all() && shares.all == 2 * (FIRST + count),
            "{shares}"
        );
    }
    opening.finish(LIMIT)?.success()?;
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / count as f64;
    Ok(Idle {
        processes: each(before.0, after.0),
        stack: each(before.1, after.1),
    })
}

/// What `flyover ps` says that all stacks use.
fn used_bytes(lab: &Lab) -> Result<u64> {
    let said = lab
        .plain(Host::Server, lab.bin().join("flyover"))
        .args("ps --json")
        .run(LIMIT)?;
    said.forget();
    let said = json(&said)?;
    let stacks = said["stacks"].as_array().context("flyover ps: no stacks")?;
    Ok(stacks.iter().filter_map(|s| s["used_bytes"].as_u64()).sum())
}
