//! Two hosts on a veth pair: Flyover on the server, on the client, on both.

use anyhow::Result;
use flyover_e2e::lab::{Lab, Side};
use flyover_e2e::procfs::Proto;
use flyover_e2e::table::short;
use flyover_e2e::wiring;
use flyover_e2e::workloads::{self, Measured, Waiting};

use super::{Stage, Workload};

pub(super) const STAGE: Stage = Stage {
    workloads: WORKLOADS,
    sides: &[Side::Neither, Side::Server, Side::Client, Side::Both],
    lab: wiring::pair,
    place,
    about: "Two network namespaces joined by a veth pair; the kernel uses cubic.",
};

fn place(side: Side) -> &'static str {
    match side {
        Side::Neither => "- (kernel)",
        side => side.name(),
    }
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "redis GET, 50 connections",
        unit: "req/s",
        options: &[],
        run: |lab, seconds| {
            let requests = (seconds * 50_000.0) as u32;
            let measured = workloads::redis_get(lab, 50, requests)?;
            Ok((measured, format!("{requests} answers")))
        },
    },
    Workload {
        name: "nginx 1 KiB, wrk, 50 connections",
        unit: "req/s",
        options: &[],
        run: |lab, seconds| {
            let measured = workloads::nginx_wrk(lab, 50, seconds.ceil() as u32)?;
            Ok((measured, "all 200 OK".to_owned()))
        },
    },
    Workload {
        name: "nginx 100 MB, curl",
        unit: "Gb/s",
        options: &[],
        run: |lab, _| Ok((workloads::nginx_download(lab)?, "SHA-256 equal".to_owned())),
    },
    Workload {
        name: "Python asyncio echo, 20 connections",
        unit: "msg/s",
        options: &[],
        run: |lab, seconds| {
            let (measured, bytes) = workloads::asyncio_echo(lab, seconds)?;
            Ok((measured, format!("{}B compared", short(bytes))))
        },
    },
    Workload {
        name: "UDP ping-pong 64 B, sleeping",
        unit: "msg/s",
        options: &[],
        run: |lab, seconds| ping_pong(lab, Waiting::Blocking, seconds),
    },
    // The kernel spins in a loop of non-blocking calls; so does the program under Flyover.
    Workload {
        name: "UDP ping-pong 64 B, spinning",
        unit: "msg/s",
        options: &[],
        run: |lab, seconds| ping_pong(lab, Waiting::Looping, seconds),
    },
    Workload {
        name: "TCP stream, 64 KiB writes",
        unit: "Gb/s",
        options: &[],
        run: |lab, seconds| {
            let measured = workloads::stream(lab, 65_536, seconds, true)?;
            Ok((measured, "every byte compared".to_owned()))
        },
    },
];

fn ping_pong(lab: &Lab, waiting: Waiting, seconds: f64) -> Result<(Measured, String)> {
    let count = (seconds * 15_000.0) as u32;
    let measured = workloads::ping_pong(lab, Proto::Udp, waiting, count)?;
    Ok((measured, format!("{count} answers compared")))
}
