//! PostgreSQL, which forks a process for each connection, with pgbench; redis with an append-only
//! file and a replica.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{CLIENT, Host, Lab, SERVER, Side, ensure_equal, wait_until};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::servers::postgres;
use flyover_e2e::tools::{RedisLoad, redis_benchmark};
use rustix::process::Signal;

use super::{each_side, on_pair};

const LIMIT: Duration = Duration::from_secs(40);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "postgres.pgbench", pgbench);
    each_side(cases, "redis.replication", replication);
    cases.push(on_pair("redis.aof", Side::Server, append_only));
}

/// Tables made over the network, transactions of several clients, a connection per transaction.
fn pgbench(lab: &Lab) -> Result<()> {
    let mut server = postgres(lab)?;
    let watch = lab.watch_kernel()?;
    let bench = |words: &str| {
        lab.cmd(Host::Client, "pgbench")
            .args(&format!("-h {SERVER} -U postgres {words} postgres"))
            .run(LIMIT)
    };
    bench("-i -q -s 2")?;
    for words in ["-c 8 -j 2 -t 100", "-c 4 -j 2 -t 10 -C -S"] {
        let printed = bench(words)?.stdout;
        ensure!(
            printed.contains("number of failed transactions: 0 "),
            "transactions failed\n{printed}"
        );
    }
    let printed = lab
        .cmd(Host::Client, "psql")
        .args(&format!("-h {SERVER} -U postgres -A -t -c"))
        .arg(
            "select md5(string_agg(n::text, ',')), count(*) from generate_series(1,200000) n; \
             select repeat('x', 3000000)",
        )
        .arg("postgres")
        .run(LIMIT)?
        .stdout;
    let mut lines = printed.lines();
    let first = lines.next().unwrap_or_default();
    ensure!(first.ends_with("|200000"), "psql printed {first:?}");
    ensure_equal(
        "bytes of a long value",
        lines.next().map_or(0, str::len),
        3_000_000,
    )?;
    watch.ensure_tcp_bypassed()?;
    // A fast shutdown: SIGINT ends the connections, too.
    server.signal(Signal::INT);
    wait_until(LIMIT, || Ok(server.has_ended()?.then_some(())))?;
    server.finish(LIMIT)?.success().map(|_| ())
}

fn redis_on(lab: &Lab, host: Host, port: u16, words: &str, directory: &str) -> Result<Proc> {
    let path = lab.directory().join(directory);
    fs::create_dir_all(&path)?;
    let mut server = lab
        .cmd(host, "redis-server")
        .args(&format!(
            "--bind 0.0.0.0 --protected-mode no --enable-debug-command yes --daemonize no --port {port} {words} --dir"
        ))
        .arg(&path)
        .spawn()?;
    lab.wait_for_port_on(host, Proto::Tcp, port, &mut server)?;
    Ok(server)
}

/// Asks the redis of `host` from the other host.
fn ask(lab: &Lab, host: Host, port: u16, words: &str) -> Result<String> {
    let (from, address) = match host {
        Host::Server => (Host::Client, SERVER),
        Host::Client => (Host::Server, CLIENT),
    };
    let asked = lab
        .cmd(from, "redis-cli")
        .args(&format!("-h {address} -p {port} {words}"));
    Ok(asked.run(LIMIT)?.stdout.trim().to_owned())
}

/// A replica on the client's host follows the server: the first copy, and what comes after it.
fn replication(lab: &Lab) -> Result<()> {
    let main = redis_on(
        lab,
        Host::Server,
        6379,
        "--repl-diskless-sync-delay 0",
        "main",
    )?;
    ask(lab, Host::Server, 6379, "debug populate 20000 key 500")?;
    let watch = lab.watch_kernel()?;
    let follows = format!("--replicaof {SERVER} 6379");
    let replica = redis_on(lab, Host::Client, 6380, &follows, "replica")?;
    let load = RedisLoad {
        tests: "set,lpush",
        clients: 10,
        requests: 20_000,
        port: 6379,
    };
    redis_benchmark(lab, load)?;
    wait_until(LIMIT, || {
        let said = ask(lab, Host::Client, 6380, "info replication")?;
        Ok(said.contains("master_link_status:up").then_some(()))
    })
    .context("waiting for the replica")?;
    let wanted = digest(lab, Host::Server, 6379)?;
    wait_until(LIMIT, || {
        Ok((digest(lab, Host::Client, 6380)? == wanted).then_some(()))
    })
    .context("the replica does not catch up")?;
    watch.ensure_tcp_bypassed()?;
    replica.stop(LIMIT)?.success()?;
    main.stop(LIMIT)?.success().map(|_| ())
}

/// A sum over all that it holds.
fn digest(lab: &Lab, host: Host, port: u16) -> Result<String> {
    let said = ask(lab, host, port, "debug digest")?;
    ensure!(said.len() == 40, "debug digest: {said}");
    Ok(said)
}

/// Every write goes to a file at once; the file is rewritten by a child meanwhile; after a kill -9
/// all is there.
fn append_only(lab: &Lab) -> Result<()> {
    let words = "--appendonly yes --appendfsync always";
    let server = redis_on(lab, Host::Server, 6379, words, "aof")?;
    let watch = lab.watch_kernel()?;
    let load = RedisLoad {
        tests: "set,incr,lpush",
        clients: 10,
        requests: 5_000,
        port: 6379,
    };
    redis_benchmark(lab, load)?;
    ask(lab, Host::Server, 6379, "bgrewriteaof")?;
    redis_benchmark(lab, load)?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, 6379)?;
    let before = digest(lab, Host::Server, 6379)?;
    server.signal(Signal::KILL);
    drop(server);
    let server = redis_on(lab, Host::Server, 6379, words, "aof")?;
    wait_until(LIMIT, || {
        let said = ask(lab, Host::Server, 6379, "info persistence")?;
        let is_loaded = said.lines().any(|line| line.trim() == "loading:0");
        Ok(is_loaded.then_some(()))
    })?;
    let after = digest(lab, Host::Server, 6379)?;
    ensure_equal("digest after kill -9", after, before)?;
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?.success().map(|_| ())
}
