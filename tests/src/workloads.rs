//! What the demonstration and the benchmarks measure: a server, a load, the numbers.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Host, Lab, wait_until};
use crate::pattern::{sha256, write_file};
use crate::procfs::{self, Proto};
use crate::servers;
use crate::tools::{self, Load, RedisLoad, json, number};

const LIMIT: Duration = Duration::from_secs(60);

/// Numbers of one workload; what it does not measure is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Operations per second, or Gb/s for streams.
    pub rate: f64,
    /// Latencies in microseconds: median, 99 %, 99.9 %.
    pub p50_us: Option<f64>,
    /// See above.
    pub p99_us: Option<f64>,
    /// See above.
    pub p999_us: Option<f64>,
    /// CPU time of everything that took part, in cores (1.0 is one core all the time).
    pub cores: f64,
    /// Microseconds of CPU time for one operation, or for one megabyte of a stream.
    pub cpu_us: f64,
}

impl Measured {
    fn from_load(load: Load) -> Self {
        Self {
            rate: load.per_second,
            p50_us: Some(load.p50_us),
            p99_us: Some(load.p99_us),
            ..Self::default()
        }
    }

    /// From what our own workloads print; `rate` names the rate.
    pub fn from_latencies(report: &Value, rate: &str) -> Result<Self> {
        let microseconds = |name| Ok::<_, anyhow::Error>(Some(number(report, name)? / 1e3));
        Ok(Self {
            rate: number(report, rate)?,
            p50_us: microseconds("p50_ns")?,
            p99_us: microseconds("p99_ns")?,
            p999_us: microseconds("p999_ns")?,
            ..Self::default()
        })
    }
}

/// Runs a load and adds what all processes of the run spent on it.
pub fn with_cpu(load: impl FnOnce() -> Result<Measured>) -> Result<Measured> {
    let (cpu, begun) = (procfs::cpu_of_run(), Instant::now());
    let mut measured = load()?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = (procfs::cpu_of_run().saturating_sub(cpu)).as_secs_f64();
    measured.cores = used / seconds;
    measured.cpu_us = measured.cores / measured.rate.max(f64::MIN_POSITIVE) * 1e6;
    Ok(measured)
}

/// `redis-benchmark -t get`.
pub fn redis_get(lab: &Lab, clients: u32, requests: u32) -> Result<Measured> {
    let _server = servers::redis(lab)?;
    with_cpu(|| {
        let load = RedisLoad {
            tests: "get",
            clients,
            requests,
            port: servers::REDIS_PORT,
        };
        let results = tools::redis_benchmark(lab, load)?;
        let first = results
            .first()
            .context("redis-benchmark measured nothing")?;
        Ok(Measured::from_load(first.1))
    })
}

/// A page of 1 KiB over `connections` that stay open.
pub fn nginx_wrk(lab: &Lab, connections: u32, seconds: u32) -> Result<Measured> {
    let _server = servers::nginx(lab)?;
    let url = format!("http://{}/", lab.at(servers::NGINX_PORT));
    with_cpu(|| {
        Ok(Measured::from_load(tools::wrk(
            lab,
            connections,
            seconds,
            &url,
            "",
        )?))
    })
}

/// 100 MB from nginx through curl. The rate is Gb/s; the hash of what came must be right.
pub fn nginx_download(lab: &Lab) -> Result<Measured> {
    const BYTES: usize = 100_000_000;
    let file = servers::www(lab).join("big");
    let _server = servers::nginx(lab)?;
    write_file(&file, BYTES, 6)?;
    let copy = lab.directory().join("copy");
    let mut measured = with_cpu(|| {
        let output = lab
            .cmd(Host::Client, "curl")
            .args("-s -S -f -w %{speed_download} -o")
            .arg(&copy)
            .arg(format!("http://{}/big", lab.at(servers::NGINX_PORT)))
            .run(LIMIT)?;
        let bytes_per_second: f64 = output.stdout.trim().parse()?;
        Ok(Measured {
            rate: bytes_per_second * 8.0 / 1e9,
            ..Measured::default()
        })
    })?;
    measured.cpu_us = per_megabyte(measured);
    ensure!(
        sha256(&copy)? == sha256(&file)?,
        "the download is not what was served"
    );
    Ok(measured)
}

fn per_megabyte(stream: Measured) -> f64 {
    stream.cores * 1e6 / (stream.rate * 1e9 / 8.0 / 1e6).max(f64::MIN_POSITIVE)
}

/// Port of [`asyncio_echo`].
pub const ASYNCIO_PORT: u16 = 7007;
/// Port of [`node_echo`].
pub const NODE_PORT: u16 = 7601;

/// Python's asyncio echo server and twenty verified connections with messages up to 1 KiB. Returns
/// the bytes that were compared, too.
pub fn asyncio_echo(lab: &Lab, seconds: f64) -> Result<(Measured, f64)> {
    let mut serving = lab
        .python(Host::Server, "asyncio_echo.py")
        .arg(lab.port(ASYNCIO_PORT).to_string())
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, lab.port(ASYNCIO_PORT), &mut serving)?;
    verified_echo(lab, ASYNCIO_PORT, seconds)
}

/// The same with Node.js.
pub fn node_echo(lab: &Lab, seconds: f64) -> Result<(Measured, f64)> {
    let port = lab.port(NODE_PORT);
    let mut serving = lab
        .cmd(Host::Server, "node")
        .arg(crate::runner::scripts().join("node_http.js"))
        .args(&format!("server {}", port - 1))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, port, &mut serving)?;
    verified_echo(lab, NODE_PORT, seconds)
}

fn verified_echo(lab: &Lab, port: u16, seconds: f64) -> Result<(Measured, f64)> {
    let mut bytes = 0.0;
    let measured = with_cpu(|| {
        let output = lab
            .workload(Host::Client, "echo")
            .args(&format!(
                "load {} --connections 20 --max 1024",
                lab.at(port)
            ))
            .args(&format!("--seconds {seconds}"))
            .run(LIMIT)?;
        let report = json(&output)?;
        bytes = number(&report, "bytes_verified")?;
        Measured::from_latencies(&report, "messages_per_second")
    })?;
    Ok((measured, bytes))
}

/// How a ping-pong waits for its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Blocking calls.
    Blocking,
    /// Non-blocking calls in a loop.
    Looping,
}

/// 64 bytes there and back, one at a time; every answer is compared.
pub fn ping_pong(lab: &Lab, proto: Proto, waiting: Waiting, count: u32) -> Result<Measured> {
    let udp = if proto == Proto::Udp { "--udp" } else { "" };
    let spin = if waiting == Waiting::Looping {
        "--spin"
    } else {
        ""
    };
    let mut answering = lab
        .workload(Host::Server, "pingpong")
        .args(&format!("server {} {udp} {spin}", lab.at(7200)))
        .spawn()?;
    lab.wait_for_port(proto, lab.port(7200), &mut answering)?;
    with_cpu(|| {
        let output = lab
            .workload(Host::Client, "pingpong")
            .args(&format!(
                "client {} {udp} {spin} --count {count}",
                lab.at(7200)
            ))
            .run(LIMIT)?;
        let report = json(&output)?;
        ensure!(
            number(&report, "lost")? == 0.0,
            "datagrams were lost: {report}"
        );
        Measured::from_latencies(&report, "messages_per_second")
    })
}

/// A stream from the client to the server in writes of `write` bytes. The rate is Gb/s.
pub fn stream(lab: &Lab, write: usize, seconds: f64, verify: bool) -> Result<Measured> {
    let mut receiving = lab
        .workload(Host::Server, "stream")
        .args(&format!("receive --listen {}", lab.at(7100)))
        .args(if verify { "" } else { "--no-verify" })
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, lab.port(7100), &mut receiving)?;
    let mut measured = with_cpu(|| {
        let sent = lab
            .workload(Host::Client, "stream")
            .args(&format!("send --connect {} --write {write}", lab.at(7100)))
            .args(&format!("--seconds {seconds}"))
            .run(LIMIT)?;
        receiving.finish(LIMIT)?.success()?;
        let rate = number(&json(&sent)?, "gbit_per_second")?;
        Ok(Measured {
            rate,
            ..Measured::default()
        })
    })?;
    measured.cpu_us = per_megabyte(measured);
    Ok(measured)
}

/// Connect, one byte each way, close.
pub fn connections(lab: &Lab, threads: u32, seconds: f64) -> Result<Measured> {
    let mut accepting = lab
        .workload(Host::Server, "connrate")
        .args(&format!("server {}", lab.at(7300)))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, lab.port(7300), &mut accepting)?;
    with_cpu(|| {
        let output = lab
            .workload(Host::Client, "connrate")
            .args(&format!("client {} --threads {threads}", lab.at(7300)))
            .args(&format!("--seconds {seconds}"))
            .run(LIMIT)?;
        Measured::from_latencies(&json(&output)?, "connections_per_second")
    })
}

/// Nanoseconds of one read from a pipe on the server host.
pub fn pipe_read(lab: &Lab) -> Result<f64> {
    let output = lab.workload(Host::Server, "call").run(LIMIT)?;
    number(&json(&output)?, "ns_per_read")
}

/// Microseconds of one fork, one exec, one `posix_spawn`, and one close of a file and of a fresh socket, by a program
/// without a connection on the server host that does nothing else (`process_cost.c`), and of a fork and a start of
/// python3, a program of ordinary size (`process_cost.py`): the least of what was seen in `seconds`.
pub fn process_costs(lab: &Lab, seconds: f64) -> Result<Vec<f64>> {
    let program = lab.directory().join("process_cost");
    let built = Command::new("cc")
        .args(["-O1", "-o"])
        .arg(&program)
        .arg(crate::runner::scripts().join("process_cost.c"))
        .status()
        .context("running cc")?;
    ensure!(built.success(), "cc process_cost.c: {built}");
    let each = (seconds * 300.0).max(100.0) as u32;
    let output = lab
        .cmd(Host::Server, program)
        .arg(each.to_string())
        .run(LIMIT)?;
    let cost = |line: &str| -> Result<f64> {
        let (_, ns) = line.split_once(' ').context("a line without a number")?;
        Ok(ns.parse::<f64>()? / 1e3)
    };
    let ordinary = lab
        .cmd(Host::Server, "/usr/bin/python3")
        .arg(crate::runner::scripts().join("process_cost.py"))
        .arg((each * 2).to_string())
        .run(LIMIT)?;
    let both = output.stdout.lines().chain(ordinary.stdout.lines());
    both.map(cost).collect()
}

/// Milliseconds that `/bin/true` takes on the server host, as the median of `times`.
pub fn run_true(lab: &Lab, times: u32) -> Result<f64> {
    let mut sample = crate::stats::Sample::default();
    for _ in 0..times {
        let begun = Instant::now();
        lab.cmd(Host::Server, "/bin/true").run(LIMIT)?;
        sample.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    sample.median().context("no run")
}

/// Percent of a core that everything together uses while `count` connections are idle.
pub fn idle_connections(lab: &Lab, count: usize, seconds: f64) -> Result<f64> {
    let mut holding = lab
        .workload(Host::Server, "hold")
        .args(&format!("server {}", lab.at(8100)))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, lab.port(8100), &mut holding)?;
    let mut opening = lab
        .workload(Host::Client, "hold")
        .args(&format!("client {} --connections {count}", lab.at(8100)))
        .piped()
        .spawn()?;
    wait_until(LIMIT, || {
        opening.ensure_running()?;
        Ok(opening.stdout().contains("ready").then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(1));
    let mut pids = holding.tree();
    pids.extend(opening.tree());
    pids.extend(lab.daemon().map(|daemon| daemon.tree()).unwrap_or_default());
    let (before, begun) = (procfs::cpu_time(&pids), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let used = procfs::cpu_time(&pids).saturating_sub(before);
    let percent = used.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    opening.finish(LIMIT)?.success()?;
    Ok(percent)
}
