//! One host, an ordinary user, nothing started beforehand: real programs over loopback. Of every program under Flyover
//! `flyover ss` has to show the connections on the path `shm` while the load runs.

use anyhow::Result;
use flyover_e2e::lab::{Lab, Side};
use flyover_e2e::local::programs;
use flyover_e2e::local::while_shared;
use flyover_e2e::servers::{MEMCACHED_PORT, NGINX_PORT, POSTGRES_PORT, REDIS_PORT};
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

const WORKLOADS: &[Workload] = &[
    workload("redis GET, 50 connections", "req/s", |lab, seconds| {
        let requests = (seconds * 100_000.0) as u32;
        let bytes = programs::redis_values(lab)?;
        let measured = while_shared(lab, lab.port(REDIS_PORT), || {
            workloads::redis_get(lab, 50, requests)
        })?;
        Ok((measured, format!("values of {}B equal", short(bytes))))
    }),
    workload(
        "nginx 1 KiB, wrk, 50 connections",
        "req/s",
        |lab, seconds| {
            let port = lab.port(NGINX_PORT);
            workloads::nginx_download(lab)?;
            let measured = while_shared(lab, port, || {
                workloads::nginx_wrk(lab, 50, seconds.ceil() as u32)
            })?;
            Ok((measured, "SHA-256 of 100 MB, all 200 OK".to_owned()))
        },
    ),
    workload(
        "PostgreSQL, pgbench -S, 4 clients",
        "tps",
        |lab, seconds| {
            while_shared(lab, lab.port(POSTGRES_PORT), || {
                programs::pgbench(lab, seconds)
            })
        },
    ),
    workload("memcached, 8 connections", "req/s", |lab, seconds| {
        let (measured, bytes) = while_shared(lab, lab.port(MEMCACHED_PORT), || {
            programs::memcached(lab, seconds)
        })?;
        Ok((measured, format!("{}B compared", short(bytes))))
    }),
    workload(
        "Python asyncio echo, 20 connections",
        "msg/s",
        |lab, seconds| {
            let (measured, bytes) = while_shared(lab, lab.port(workloads::ASYNCIO_PORT), || {
                workloads::asyncio_echo(lab, seconds)
            })?;
            Ok((measured, format!("{}B compared", short(bytes))))
        },
    ),
    workload("Node echo, 20 connections", "msg/s", |lab, seconds| {
        let (measured, bytes) = while_shared(lab, lab.port(workloads::NODE_PORT), || {
            workloads::node_echo(lab, seconds)
        })?;
        Ok((measured, format!("{}B compared", short(bytes))))
    }),
];
