//! One host, an ordinary user, nothing started beforehand: real programs over loopback. While the load runs,
//! `flyover ss` has to show most connections on the path `shm`; how many is part of the table.

use anyhow::Result;
use flyover_e2e::lab::{Lab, Side};
use flyover_e2e::local::{Shares, programs, while_shared};
use flyover_e2e::servers::{MEMCACHED_PORT, NGINX_PORT, REDIS_PORT};
use flyover_e2e::table::short;
use flyover_e2e::workloads::{self, Measured};

use super::{Stage, Workload};

pub(super) const STAGE: Stage = Stage {
    workloads: WORKLOADS,
    sides: &[Side::Neither, Side::Both],
    lab: Lab::within_host,
    place: |side| match side {
        Side::Neither => "- (kernel)",
        _ => "both, shm",
    },
    about: "Two programs on one host, loopback, as an ordinary user; the first `flyover run` starts\n\
            the daemon. Flyover: default settings.",
};

/// Programs, or files, and the Debian packages that bring them.
pub(super) const NEEDED: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("curl", "curl"),
    ("/usr/lib/postgresql", "postgresql"),
    ("pgbench", "postgresql-client-common"),
    ("memcached", "memcached"),
    ("/usr/bin/python3", "python3"),
    ("node", "nodejs"),
];

const fn workload(
    name: &'static str,
    unit: &'static str,
    run: fn(&Lab, f64) -> Result<(Measured, String)>,
) -> Workload {
    Workload {
        name,
        unit,
        options: &[],
        run,
    }
}

/// Does the load; the share of its connections on the path `shm` comes before the other proof.
fn shared(
    lab: &Lab,
    usual_port: u16,
    load: impl FnOnce() -> Result<(Measured, String)>,
) -> Result<(Measured, String)> {
    with_share(while_shared(lab, lab.port(usual_port), load)?)
}

fn with_share(
    ((measured, proof), shares): ((Measured, String), Shares),
) -> Result<(Measured, String)> {
    let proof = match shares.all {
        0 => proof,
        _ => format!("{shares}; {proof}"),
    };
    Ok((measured, proof))
}

fn compared((measured, bytes): (Measured, f64)) -> (Measured, String) {
    (measured, format!("{}B compared", short(bytes)))
}

const WORKLOADS: &[Workload] = &[
    workload("redis GET, 50 connections", "req/s", |lab, seconds| {
        let requests = (seconds * 100_000.0) as u32;
        let bytes = programs::redis_values(lab)?;
        let proof = format!("a value of {}B equal", short(bytes));
        shared(lab, REDIS_PORT, || {
            Ok((workloads::redis_get(lab, 50, requests)?, proof))
        })
    }),
    workload(
        "nginx 1 KiB, wrk, 50 connections",
        "req/s",
        |lab, seconds| {
            workloads::nginx_download(lab)?;
            shared(lab, NGINX_PORT, || {
                let measured = workloads::nginx_wrk(lab, 50, seconds.ceil() as u32)?;
                Ok((measured, "SHA-256 of 100 MB, all 200 OK".to_owned()))
            })
        },
    ),
    workload(
        "PostgreSQL, pgbench -S, 4 clients",
        "tps",
        |lab, seconds| with_share(programs::pgbench(lab, seconds)?),
    ),
    workload("memcached, 8 connections", "req/s", |lab, seconds| {
        shared(lab, MEMCACHED_PORT, || {
            Ok(compared(programs::memcached(lab, seconds)?))
        })
    }),
    workload(
        "Python asyncio echo, 20 connections",
        "msg/s",
        |lab, seconds| {
            shared(lab, workloads::ASYNCIO_PORT, || {
                Ok(compared(workloads::asyncio_echo(lab, seconds)?))
            })
        },
    ),
    workload("Node echo, 20 connections", "msg/s", |lab, seconds| {
        shared(lab, workloads::NODE_PORT, || {
            Ok(compared(workloads::node_echo(lab, seconds)?))
        })
    }),
];
