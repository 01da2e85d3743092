//! redis-server with redis-cli and redis-benchmark; BGSAVE forks while connections are open.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, ensure_equal, wait_until};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{REDIS_PORT as PORT, redis};
use flyover_e2e::tools::{RedisLoad, redis_benchmark};

use super::{each_side, on_pair, with_options};

const LIMIT: Duration = Duration::from_secs(15);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "redis.values", values);
    each_side(cases, "redis.benchmark", benchmark);
    cases.push(on_pair("redis.benchmark", Side::Both, benchmark).only_flyover());
    cases.push(on_pair("redis.bgsave", Side::Server, background_save));
    let xdp = &["--vnic", "xdp"];
    cases.push(with_options("redis.xdp", Side::Server, xdp, benchmark).only_flyover());
    cases.push(with_options("redis.xdp", Side::Client, xdp, benchmark).only_flyover());
    let latency = &["--profile", "latency"];
    cases.push(with_options("redis.latency", Side::Server, latency, values).only_flyover());
}

fn cli(lab: &Lab, host: &str, words: &str) -> Result<String> {
    let command = lab
        .cmd(Host::Client, "redis-cli")
        .args(&format!("-h {host} -p {PORT} {words}"));
    Ok(command.run(LIMIT)?.stdout.trim().to_owned())
}

/// A value of 4 MB there and back, IPv4 and IPv6, and clients on the server's own host.
fn values(lab: &Lab) -> Result<()> {
    let server = redis(lab)?;
    let watch = lab.watch_kernel()?;
    ensure_equal(
        "PING",
        cli(lab, &SERVER.to_string(), "ping")?.as_str(),
        "PONG",
    )?;
    ensure_equal(
        "PING over IPv6",
        cli(lab, &SERVER6.to_string(), "ping")?.as_str(),
        "PONG",
    )?;

    let file = lab.directory().join("value");
    write_file(&file, 4_000_000, 1)?;
    let set = lab
        .cmd(Host::Client, "redis-cli")
        .args(&format!("-h {SERVER} -p {PORT} -x set v"));
    ensure_equal("SET", set.input(&file).run(LIMIT)?.stdout.trim(), "OK")?;
    let get = lab
        .cmd(Host::Client, "redis-cli")
        .args(&format!("-h {SERVER} -p {PORT} get v"));
    let got = get.spawn()?;
    let copy = lab.directory().join("copy");
    // redis-cli ends what it prints with a newline of its own.
    let printed = got.finish(LIMIT)?.success()?.bytes()?;
    std::fs::write(&copy, printed.strip_suffix(b"\n").unwrap_or(&printed))?;
    ensure_equal("hash of the value", sha256(&copy)?, sha256(&file)?)?;
    watch.ensure_tcp_bypassed()?;

    for own in ["127.0.0.1", "::1", &SERVER.to_string()] {
        let local = lab
            .plain(Host::Server, "redis-cli")
            .args(&format!("-h {own} -p {PORT} ping"));
        ensure_equal(
            "PING on the host itself",
            local.run(LIMIT)?.stdout.trim(),
            "PONG",
        )?;
    }
    server.stop(LIMIT)?.success()?;
    Ok(())
}

fn benchmark(lab: &Lab) -> Result<()> {
    let server = redis(lab)?;
    let watch = lab.watch_kernel()?;
    let load = RedisLoad {
        tests: "set,get",
        clients: 50,
        requests: 20_000,
        port: PORT,
    };
    let results = redis_benchmark(lab, load)?;
    ensure!(results.len() == 2, "only {} results", results.len());
    let load = RedisLoad {
        tests: "lrange_300,mset",
        clients: 5,
        requests: 1_000,
        port: PORT,
    };
    redis_benchmark(lab, load)?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, PORT)?;
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?.success()?;
    Ok(())
}

/// BGSAVE forks a child that inherits every connection; the parent goes on serving.
fn background_save(lab: &Lab) -> Result<()> {
    let server = redis(lab)?;
    let host = SERVER.to_string();
    let load = RedisLoad {
        tests: "set",
        clients: 10,
        requests: 20_000,
        port: PORT,
    };
    redis_benchmark(lab, load)?;
    for round in 0..3 {
        cli(lab, &host, "bgsave")?;
        redis_benchmark(
            lab,
            RedisLoad {
                requests: 5_000,
                ..load
            },
        )?;
        wait_until(Duration::from_secs(10), || {
            let info = cli(lab, &host, "info persistence")?;
            Ok(info.contains("rdb_bgsave_in_progress:0").then_some(()))
        })
        .with_context(|| format!("saving, round {round}"))?;
        let info = cli(lab, &host, "info persistence")?;
        ensure!(
            info.contains("rdb_last_bgsave_status:ok"),
            "saving failed\n{info}"
        );
    }
    ensure!(
        lab.directory().join("dump.rdb").exists(),
        "no dump.rdb was written"
    );
    server.stop(LIMIT)?.success()?;
    Ok(())
}
