//! One host, an ordinary user, loopback: the local path beside the kernel, and beside a bare ring in shared memory.
//!
//! Every measurement has a directory, a daemon and a stack of its own. Both ends run under the same conditions in every
//! column. Our own workloads begin when `flyover ss` has shown both ends on the path `shm`; under the others' load it is
//! looked at a few times.

use anyhow::Result;
use flyover_e2e::lab::Lab;
use flyover_e2e::local::loads::{self, Ends, Pieces};
use flyover_e2e::local::while_shared;
use flyover_e2e::servers::{NGINX_PORT, REDIS_PORT};
use flyover_e2e::workloads::{self, Measured};

use super::plan::Better::{self, Higher, Lower};
use super::plan::Column::{self, Kernel, Local, LocalLatency, Ring};
use super::plan::{Group, Plan, Row, Values, count, higher, lower, value};
use super::report::{Bar, Results};

/// See [`super::Args`].
pub const PLAN: Plan = Plan {
    rows: ROWS,
    columns: &[Kernel, Local, LocalLatency, Ring],
    compared: Local,
    groups: GROUPS,
    lab: Lab::within_host,
    legend: "kernel: loopback (with cubic, where root made the namespace). flyover: both programs under\n\
             `flyover run` of an ordinary user, path shm. latency: the same with --profile latency. bare\n\
             ring: two processes that spin on a ring in shared memory, no sockets. flyover/kernel: > 1 is\n\
             better than the kernel. Spinning: non-blocking calls in a loop, each end on a core of its own.\n\
             Blocking: blocking calls, default settings. CPU: of everything that took part.\n",
    bars,
};

/// Programs, and the Debian packages that bring them.
pub const NEEDED: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
];

const SPIN_P50: &str = "64 B round trip, spinning, p50";
const SPIN_P99: &str = "64 B round trip, spinning, p99";
const SPIN_P999: &str = "64 B round trip, spinning, p99.9";
const BLOCK: &str = "64 B round trips, blocking, two free cores";
const BLOCK_P50: &str = "64 B round trip, blocking, two free cores, p50";
const BLOCK_P99: &str = "64 B round trip, blocking, two free cores, p99";
const BLOCK_CPU: &str = "64 B round trip, blocking, CPU";
const ONE_CORE: &str = "64 B round trips, blocking, both on one core";
const ONE_CORE_CPU: &str = "64 B round trip, both on one core, CPU";
const ONE_WAY: &str = "64 B messages one way, spinning";
const ONE_WAY_BLOCK: &str = "64 B messages one way, blocking";
const STREAM_1K: &str = "stream, 1 KB writes";
const STREAM_4K: &str = "stream, 4 KB writes";
const STREAM_64K: &str = "stream, 64 KB writes";
const STREAM_CPU: &str = "stream, 64 KB writes, CPU for 1 MB";
const REDIS_1: &str = "redis GET -c 1";
const REDIS_1_P99: &str = "redis GET -c 1, p99";
const REDIS_50: &str = "redis GET -c 50";
const REDIS_50_P99: &str = "redis GET -c 50, p99";
const REDIS_CPU: &str = "redis GET -c 50, CPU of a request";
const NGINX: &str = "nginx 1 KB, wrk -c 50, keep-alive";
const NGINX_P99: &str = "nginx 1 KB, wrk -c 50, p99";
const CONNECT: &str = "connect + 1 byte each way + close";
const IDLE: &str = "idle connection of 10,000, both ends: processes";
const IDLE_STACK: &str = "idle connection of 10,000, both ends: stack";

const ROWS: &[Row] = &[
    lower(SPIN_P50, "ns"),
    lower(SPIN_P99, "ns"),
    lower(SPIN_P999, "ns"),
    higher(BLOCK, "1/s"),
    lower(BLOCK_P50, "us"),
    lower(BLOCK_P99, "us"),
    lower(BLOCK_CPU, "us"),
    higher(ONE_CORE, "1/s"),
    lower(ONE_CORE_CPU, "us"),
    higher(ONE_WAY, "1/s"),
    higher(ONE_WAY_BLOCK, "1/s"),
    higher(STREAM_1K, "Gb/s"),
    higher(STREAM_4K, "Gb/s"),
    higher(STREAM_64K, "Gb/s"),
    lower(STREAM_CPU, "us"),
    higher(REDIS_1, "1/s"),
    lower(REDIS_1_P99, "us"),
    higher(REDIS_50, "1/s"),
    lower(REDIS_50_P99, "us"),
    lower(REDIS_CPU, "us"),
    higher(NGINX, "1/s"),
    lower(NGINX_P99, "us"),
    higher(CONNECT, "1/s"),
    lower(IDLE, "bytes"),
    lower(IDLE_STACK, "bytes"),
];

const BOTH: &[Column] = &[Kernel, Local];
const WITH_LATENCY: &[Column] = &[Kernel, Local, LocalLatency];
const WITH_RING: &[Column] = &[Kernel, Local, Ring];

const fn group(
    name: &'static str,
    columns: &'static [Column],
    run: fn(&Lab, Column, f64) -> Result<Values>,
) -> Group {
    Group {
        name,
        columns,
        options: &[],
        floor: None,
        run,
    }
}

/// Everything that is measured.
const GROUPS: &[Group] = &[
    group("spinning", WITH_RING, |lab, column, seconds| {
        let measured = match column {
            Ring => loads::ring_ping_pong(lab, seconds)?,
            _ => loads::ping_pong(lab, Ends::Spinning, seconds)?,
        };
        let ns = |us: Option<f64>| Ok::<_, anyhow::Error>(value(us)? * 1e3);
        Ok(vec![
            (SPIN_P50, ns(measured.p50_us)?),
            (SPIN_P99, ns(measured.p99_us)?),
            (SPIN_P999, ns(measured.p999_us)?),
        ])
    }),
    group("blocking", WITH_LATENCY, |lab, _, seconds| {
        let measured = loads::ping_pong(lab, Ends::Free, seconds)?;
        Ok(vec![
            (BLOCK, measured.rate),
            (BLOCK_P50, value(measured.p50_us)?),
            (BLOCK_P99, value(measured.p99_us)?),
            (BLOCK_CPU, measured.cpu_us),
        ])
    }),
    group("one-core", BOTH, |lab, _, seconds| {
        let measured = loads::ping_pong(lab, Ends::OneCore, seconds)?;
        Ok(vec![
            (ONE_CORE, measured.rate),
            (ONE_CORE_CPU, measured.cpu_us),
        ])
    }),
    group("one-way", WITH_RING, |lab, column, seconds| {
        Ok(vec![(
            ONE_WAY,
            messages(lab, column, Ends::Spinning, seconds)?,
        )])
    }),
    group("one-way-blocking", BOTH, |lab, column, seconds| {
        Ok(vec![(
            ONE_WAY_BLOCK,
            messages(lab, column, Ends::Apart, seconds)?,
        )])
    }),
    group("stream-1k", WITH_RING, |lab, column, seconds| {
        let measured = stream(lab, column, Ends::Apart, Pieces::of(1 << 10), seconds)?;
        Ok(vec![(STREAM_1K, measured.rate)])
    }),
    group("stream-4k", WITH_RING, |lab, column, seconds| {
        let measured = stream(lab, column, Ends::Apart, Pieces::of(4 << 10), seconds)?;
        Ok(vec![(STREAM_4K, measured.rate)])
    }),
    group("stream-64k", WITH_RING, |lab, column, seconds| {
        let measured = stream(lab, column, Ends::Apart, Pieces::of(64 << 10), seconds)?;
        let mut values = vec![(STREAM_64K, measured.rate)];
        values.extend((column != Ring).then_some((STREAM_CPU, measured.cpu_us)));
        Ok(values)
    }),
    group("redis-1", BOTH, |lab, _, seconds| {
        let measured = redis(lab, 1, count(seconds, 30_000.0))?;
        Ok(vec![
            (REDIS_1, measured.rate),
            (REDIS_1_P99, value(measured.p99_us)?),
        ])
    }),
    group("redis-50", BOTH, |lab, _, seconds| {
        let measured = redis(lab, 50, count(seconds, 150_000.0))?;
        Ok(vec![
            (REDIS_50, measured.rate),
            (REDIS_50_P99, value(measured.p99_us)?),
            (REDIS_CPU, measured.cpu_us),
        ])
    }),
    group("nginx", BOTH, |lab, _, seconds| {
        let port = lab.port(NGINX_PORT);
        let seconds = seconds.ceil() as u32;
        let measured = shared(lab, port, || workloads::nginx_wrk(lab, 50, seconds))?;
        Ok(vec![
            (NGINX, measured.rate),
            (NGINX_P99, value(measured.p99_us)?),
        ])
    }),
    group("connections", BOTH, |lab, _, seconds| {
        Ok(vec![(
            CONNECT,
            workloads::connections(lab, 1, seconds)?.rate,
        )])
    }),
    Group {
        // Connections that never moved a byte would otherwise be left to the kernel.
        options: &["--local-after", "0"],
        ..group("idle", BOTH, |lab, column, _| {
            let idle = loads::idle_memory(lab, 10_000)?;
            let mut values = vec![(IDLE, idle.processes)];
            values.extend((column == Local).then_some((IDLE_STACK, idle.stack)));
            Ok(values)
        })
    },
];

fn redis(lab: &Lab, clients: u32, requests: u32) -> Result<Measured> {
    shared(lab, lab.port(REDIS_PORT), || {
        workloads::redis_get(lab, clients, requests)
    })
}

/// Says so when not all connections of a load were on the path `shm`.
fn shared(lab: &Lab, port: u16, load: impl FnOnce() -> Result<Measured>) -> Result<Measured> {
    let (measured, shares) = while_shared(lab, port, load)?;
    if shares.all > 0 && !shares.is_all() {
        eprintln!("    {shares}");
    }
    Ok(measured)
}

fn stream(lab: &Lab, column: Column, ends: Ends, pieces: Pieces, seconds: f64) -> Result<Measured> {
    match column {
        Ring => loads::ring_stream(lab, pieces, seconds),
        _ => loads::stream(lab, ends, pieces, seconds),
    }
}

/// Messages of 64 bytes a second, each sent and received by a call of its own.
fn messages(lab: &Lab, column: Column, ends: Ends, seconds: f64) -> Result<f64> {
    const SIZE: usize = 64;
    let pieces = Pieces {
        write: SIZE,
        read: SIZE,
    };
    let measured = stream(lab, column, ends, pieces, seconds)?;
    Ok(measured.rate * 1e9 / 8.0 / SIZE as f64)
}

/// How a bar is compared.
enum Against {
    /// The value itself.
    Value,
    /// The value divided by the kernel's.
    Kernel,
    /// The value without the kernel's.
    BeyondKernel,
}

/// What is promised of the local path (issue 5).
fn bars(results: &Results) -> Vec<Bar> {
    use Against::{BeyondKernel, Kernel as TimesKernel, Value};
    let bars: [(&str, &str, Against, f64, Better); 13] = [
        (SPIN_P50, "<= 450 ns", Value, 450.0, Lower),
        (SPIN_P99, "<= 700 ns", Value, 700.0, Lower),
        (BLOCK, ">= 5 x kernel", TimesKernel, 5.0, Higher),
        (BLOCK_CPU, "<= 0.6 x kernel", TimesKernel, 0.6, Lower),
        (ONE_CORE, ">= 1 x kernel", TimesKernel, 1.0, Higher),
        (ONE_WAY, ">= 2.0 M/s", Value, 2e6, Higher),
        (STREAM_1K, ">= 5 x kernel", TimesKernel, 5.0, Higher),
        (STREAM_4K, ">= 5 x kernel", TimesKernel, 5.0, Higher),
        (STREAM_64K, ">= 2.5 x kernel", TimesKernel, 2.5, Higher),
        (REDIS_1, ">= 2.5 x kernel", TimesKernel, 2.5, Higher),
        (REDIS_50, ">= 2.5 x kernel", TimesKernel, 2.5, Higher),
        (NGINX, ">= 1.5 x kernel", TimesKernel, 1.5, Higher),
        (CONNECT, ">= 0.9 x kernel", TimesKernel, 0.9, Higher),
    ];
    let memory = [(IDLE, "<= 1 KB beyond kernel", BeyondKernel, 1024.0, Lower)];
    bars.into_iter()
        .chain(memory)
        .filter_map(|(row, name, against, limit, better)| {
            let local = results.median(row, Local)?;
            let kernel = results.median(row, Kernel);
            Some(Bar {
                name,
                row: Some(row),
                measured: match against {
                    Value => local,
                    TimesKernel => local / kernel?,
                    BeyondKernel => local - kernel?,
                },
                limit,
                better,
            })
        })
        .collect()
}
