//! Two hosts on a veth pair: Flyover's V-NICs beside the kernel's stack.

use anyhow::Result;
use flyover_e2e::lab::Lab;
use flyover_e2e::procfs::Proto;
use flyover_e2e::wiring;
use flyover_e2e::workloads::{self, Measured, Waiting};

use super::plan::Column::{Both, Client, Kernel, RawPacket, RawXdp, Server, Xdp};
use super::plan::{Column, Floor, Group, Plan, Row, count, higher, lower, value};

/// See [`super::Args`].
pub const PLAN: Plan = Plan {
    rows: ROWS,
    columns: &[Kernel, Both, Server, Client, Xdp, RawPacket, RawXdp],
    compared: Both,
    groups: GROUPS,
    lab: wiring::pair,
    legend: "kernel: cubic, both hosts. both, server, client: where Flyover runs; in streams the\n\
             client sends. both xdp: the V-NIC kind xdp. raw: frames without any protocol.\n\
             both/kernel: > 1 is better than the kernel.\n",
    bars: super::veth_bars::bars,
};

/// All rows, in the order of the table.
const ROWS: &[Row] = &[
    lower("TCP 64 B round trip, spinning, p50", "us"),
    lower("TCP 64 B round trip, spinning, p99", "us"),
    lower("TCP 64 B round trip, spinning, p99.9", "us"),
    lower("TCP 64 B round trip, --profile latency, p50", "us"),
    lower("TCP 64 B round trip, --profile latency, p99", "us"),
    lower("TCP 64 B round trip, sleeping, p50", "us"),
    lower("TCP 64 B round trip, sleeping, p99", "us"),
    lower("TCP 64 B round trip, sleeping, p99.9", "us"),
    lower("TCP 64 B message, CPU", "us"),
    lower("UDP 64 B round trip, spinning, p50", "us"),
    lower("UDP 64 B round trip, spinning, p99", "us"),
    lower("UDP 64 B round trip, sleeping, p50", "us"),
    lower("UDP 64 B round trip, sleeping, p99", "us"),
    higher("stream, 64 B writes", "Gb/s"),
    higher("stream, 1 KB writes", "Gb/s"),
    higher("stream, 64 KB writes", "Gb/s"),
    lower("stream, 64 KB writes, CPU for 1 MB", "us"),
    higher("connections, 1 thread", "1/s"),
    higher("connections, 8 threads", "1/s"),
    higher("redis GET -c 1", "1/s"),
    lower("redis GET -c 1, p99", "us"),
    higher("redis GET -c 50", "1/s"),
    lower("redis GET -c 50, p99", "us"),
    lower("redis GET -c 50, CPU of a request", "us"),
    lower("pipe read, 1 B", "ns"),
    lower("start and end of `true`", "ms"),
    lower("fork, least", "us"),
    lower("fork and exec, least", "us"),
    lower("posix_spawn, least", "us"),
    lower("fork of python3, least", "us"),
    lower("start and end of python3, least", "us"),
    lower("close of a file, least", "us"),
    lower("close of a fresh socket, least", "us"),
    lower("1000 idle connections, CPU of one core", "%"),
];

const STACKS: &[Column] = &[Kernel, Both, Server, Client, Xdp];

/// Everything that is measured.
const GROUPS: &[Group] = &[
    Group {
        name: "tcp-spinning",
        columns: STACKS,
        options: &[],
        floor: Some(Floor::SpinningRoundTrip),
        run: |lab, _, seconds| {
            let measured =
                workloads::ping_pong(lab, Proto::Tcp, Waiting::Looping, count(seconds, 40_000.0))?;
            Ok(vec![
                (
                    "TCP 64 B round trip, spinning, p50",
                    value(measured.p50_us)?,
                ),
                (
                    "TCP 64 B round trip, spinning, p99",
                    value(measured.p99_us)?,
                ),
                (
                    "TCP 64 B round trip, spinning, p99.9",
                    value(measured.p999_us)?,
                ),
            ])
        },
    },
    Group {
        name: "tcp-latency-profile",
        columns: &[Both, Server, Client, Xdp],
        options: &["--profile", "latency"],
        floor: None,
        run: |lab, _, seconds| {
            let measured =
                workloads::ping_pong(lab, Proto::Tcp, Waiting::Blocking, count(seconds, 40_000.0))?;
            Ok(vec![
                (
                    "TCP 64 B round trip, --profile latency, p50",
                    value(measured.p50_us)?,
                ),
                (
                    "TCP 64 B round trip, --profile latency, p99",
                    value(measured.p99_us)?,
                ),
            ])
        },
    },
    Group {
        name: "tcp-sleeping",
        columns: STACKS,
        options: &[],
        floor: Some(Floor::SleepingRoundTrip),
        run: |lab, _, seconds| {
            let measured =
                workloads::ping_pong(lab, Proto::Tcp, Waiting::Blocking, count(seconds, 25_000.0))?;
            Ok(vec![
                (
                    "TCP 64 B round trip, sleeping, p50",
                    value(measured.p50_us)?,
                ),
                (
                    "TCP 64 B round trip, sleeping, p99",
                    value(measured.p99_us)?,
                ),
                (
                    "TCP 64 B round trip, sleeping, p99.9",
                    value(measured.p999_us)?,
                ),
                ("TCP 64 B message, CPU", measured.cpu_us),
            ])
        },
    },
    Group {
        name: "udp-spinning",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            let measured =
                workloads::ping_pong(lab, Proto::Udp, Waiting::Looping, count(seconds, 40_000.0))?;
            Ok(vec![
                (
                    "UDP 64 B round trip, spinning, p50",
                    value(measured.p50_us)?,
                ),
                (
                    "UDP 64 B round trip, spinning, p99",
                    value(measured.p99_us)?,
                ),
            ])
        },
    },
    Group {
        name: "udp-sleeping",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            let measured =
                workloads::ping_pong(lab, Proto::Udp, Waiting::Blocking, count(seconds, 25_000.0))?;
            Ok(vec![
                (
                    "UDP 64 B round trip, sleeping, p50",
                    value(measured.p50_us)?,
                ),
                (
                    "UDP 64 B round trip, sleeping, p99",
                    value(measured.p99_us)?,
                ),
            ])
        },
    },
    Group {
        name: "stream-64",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            Ok(vec![(
                "stream, 64 B writes",
                stream(lab, 64, seconds)?.rate,
            )])
        },
    },
    Group {
        name: "stream-1k",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            Ok(vec![(
                "stream, 1 KB writes",
                stream(lab, 1_024, seconds)?.rate,
            )])
        },
    },
    Group {
        name: "stream-64k",
        columns: STACKS,
        options: &[],
        floor: Some(Floor::Bulk),
        run: |lab, _, seconds| {
            let measured = stream(lab, 65_536, seconds)?;
            Ok(vec![
                ("stream, 64 KB writes", measured.rate),
                ("stream, 64 KB writes, CPU for 1 MB", measured.cpu_us),
            ])
        },
    },
    Group {
        name: "connections",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            Ok(vec![(
                "connections, 1 thread",
                workloads::connections(lab, 1, seconds)?.rate,
            )])
        },
    },
    Group {
        name: "connections-8",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            Ok(vec![(
                "connections, 8 threads",
                workloads::connections(lab, 8, seconds)?.rate,
            )])
        },
    },
    Group {
        name: "redis-1",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            let measured = workloads::redis_get(lab, 1, count(seconds, 20_000.0))?;
            Ok(vec![
                ("redis GET -c 1", measured.rate),
                ("redis GET -c 1, p99", value(measured.p99_us)?),
            ])
        },
    },
    Group {
        name: "redis-50",
        columns: STACKS,
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            let measured = workloads::redis_get(lab, 50, count(seconds, 80_000.0))?;
            Ok(vec![
                ("redis GET -c 50", measured.rate),
                ("redis GET -c 50, p99", value(measured.p99_us)?),
                ("redis GET -c 50, CPU of a request", measured.cpu_us),
            ])
        },
    },
    Group {
        name: "call",
        columns: &[Kernel, Server],
        options: &[],
        floor: None,
        run: |lab, _, _| Ok(vec![("pipe read, 1 B", workloads::pipe_read(lab)?)]),
    },
    Group {
        name: "run-true",
        columns: &[Kernel, Server],
        options: &[],
        floor: None,
        run: |lab, _, _| {
            Ok(vec![(
                "start and end of `true`",
                workloads::run_true(lab, 20)?,
            )])
        },
    },
    Group {
        name: "processes",
        columns: &[Kernel, Server],
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            let costs = workloads::process_costs(lab, seconds)?;
            let names = [
                "fork, least",
                "fork and exec, least",
                "posix_spawn, least",
                "close of a file, least",
                "close of a fresh socket, least",
                "fork of python3, least",
                "start and end of python3, least",
            ];
            Ok(names.into_iter().zip(costs).collect())
        },
    },
    Group {
        name: "idle",
        columns: &[Kernel, Server, Client],
        options: &[],
        floor: None,
        run: |lab, _, seconds| {
            let percent = workloads::idle_connections(lab, 1_000, (seconds * 4.0).max(2.0))?;
            Ok(vec![("1000 idle connections, CPU of one core", percent)])
        },
    },
];

/// The receiver only counts: comparing would cost every configuration the same.
fn stream(lab: &Lab, write: usize, seconds: f64) -> Result<Measured> {
    workloads::stream(lab, write, seconds, false)
}
