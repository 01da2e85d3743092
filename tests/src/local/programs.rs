//! Real programs of the demonstration, each with the proof that what they transfer is right.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Shares, while_shared};
use crate::lab::{Host, Lab, ensure_equal};
use crate::pattern::{sha256, write_file};
use crate::servers;
use crate::stats::Latencies;
use crate::tools::{json, number};
use crate::workloads::{Measured, with_cpu};

const LIMIT: Duration = Duration::from_secs(60);

/// A value of 4 MB goes to redis and comes back; its length.
pub fn redis_values(lab: &Lab) -> Result<f64> {
    const LENGTH: usize = 4_000_000;
    let _server = servers::redis(lab)?;
    let (value, copy) = (lab.directory().join("value"), lab.directory().join("copy"));
    write_file(&value, LENGTH, 1)?;
    let cli = |words: &str| {
        lab.cmd(Host::Client, "redis-cli").args(&format!(
            "-h {} -p {} {words}",
            lab.address(),
            lab.port(servers::REDIS_PORT)
        ))
    };
    let set = cli("-x set v").input(&value).run(LIMIT)?;
    ensure_equal("SET", set.stdout.trim(), "OK")?;
    // redis-cli ends what it prints with a newline of its own.
    let got = cli("get v").run(LIMIT)?.bytes()?;
    fs::write(&copy, got.strip_suffix(b"\n").unwrap_or(&got))?;
    ensure_equal("hash of the value", sha256(&copy)?, sha256(&value)?)?;
    Ok(LENGTH as f64)
}

/// PostgreSQL with pgbench: selects of four clients, prepared, whose path is looked at; before them a result that is known.
pub fn pgbench(lab: &Lab, seconds: f64) -> Result<((Measured, String), Shares)> {
    let _server = servers::postgres(lab)?;
    let words = format!(
        "-h {} -p {} -U postgres",
        lab.address(),
        lab.port(servers::POSTGRES_PORT)
    );
    let bench = |more: &str| {
        lab.cmd(Host::Client, "pgbench")
            .args(&format!("{words} {more} postgres"))
            .run(LIMIT)
    };
    bench("-i -q -s 2")?;
    let proof = lab
        .cmd(Host::Client, "psql")
        .args(&format!("{words} -A -t -c"))
        .arg("select repeat(md5('x'), 100000)")
        .arg("postgres")
        .run(LIMIT)?
        .stdout;
    ensure!(
        proof.trim() == "9dd4e461268c8034f5c8564e155c67a6".repeat(100_000),
        "psql printed {} other bytes",
        proof.len()
    );
    let whole = seconds.ceil();
    let log = lab.directory().join("pgbench");
    let run = || {
        let printed = bench(&format!(
            "-n -S -M prepared -c 4 -j 2 -T {whole} --log --log-prefix={}",
            log.display()
        ))?
        .stdout;
        ensure!(
            printed.contains("number of failed transactions: 0 "),
            "transactions failed\n{printed}"
        );
        let rate = printed.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = rate.and_then(|rest| rest.split_whitespace().next());
        Ok(Measured {
            rate: rate.context("pgbench: no tps")?.parse()?,
            ..Measured::default()
        })
    };
    let port = lab.port(servers::POSTGRES_PORT);
    let (mut measured, shares) = while_shared(lab, port, || with_cpu(run))?;
    let latencies = logged(lab)?.to_json();
    let microseconds = |name| Ok::<_, anyhow::Error>(Some(number(&latencies, name)? / 1e3));
    measured.p50_us = microseconds("p50_ns")?;
    measured.p99_us = microseconds("p99_ns")?;
    let proof = "3.2 MB equal, no transaction failed".to_owned();
    Ok(((measured, proof), shares))
}

/// What pgbench's threads logged: of each transaction the client, its number, and the microseconds that it took.
fn logged(lab: &Lab) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for entry in fs::read_dir(lab.directory())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("pgbench.") {
            continue;
        }
        for line in fs::read_to_string(&path)?.lines() {
            let taken = line.split_whitespace().nth(2);
            let taken: u64 = taken.context("a short line in pgbench's log")?.parse()?;
            latencies.push(taken * 1_000);
        }
    }
    ensure!(latencies.count() > 0, "pgbench logged nothing");
    Ok(latencies)
}

/// memcached with clients that compare every value; the bytes compared, too.
pub fn memcached(lab: &Lab, seconds: f64) -> Result<(Measured, f64)> {
    let _server = servers::memcached(lab)?;
    let mut bytes = 0.0;
    let measured = with_cpu(|| {
        let output = lab
            .workload(Host::Client, "memcached")
            .args(&format!(
                "{} --connections 8",
                lab.at(servers::MEMCACHED_PORT)
            ))
            .args(&format!("--seconds {seconds}"))
            .run(LIMIT)?;
        let report = json(&output)?;
        bytes = number(&report, "bytes_verified")?;
        Measured::from_latencies(&report, "messages_per_second")
    })?;
    Ok((measured, bytes))
}
