//! The daemon is killed and started anew under load: nothing stops, and what old programs open from then on is
//! accelerated as if nothing had been.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::echo::{Probe, serve};
use flyover_e2e::lab::{CLIENT, Host, Lab, SERVER, Side, ensure_equal, server, wait_until};
use flyover_e2e::pattern::Random;
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{NGINX_PORT, REDIS_PORT, nginx, nginx_pid, redis};
use flyover_e2e::tools::{RedisLoad, redis_benchmark, wrk};
use rustix::process::Signal;
use serde_json::Value;

use super::handover::move_all;
use super::on_pair;

const LIMIT: Duration = Duration::from_secs(20);
/// What a keeper that rests may take in a second.
const RESTING: Duration = Duration::from_millis(50);
/// Another listener of a program that is old by then.
const SECOND: u16 = 6380;
/// A plain redis on the other host, to which the old one connects.
const PLAIN: u16 = 6399;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("daemon.redis", Side::Server, under_redis).only_flyover());
    cases.push(on_pair("daemon.idle", Side::Server, keepers_rest).only_flyover());
    cases.push(on_pair("daemon.nginx", Side::Server, under_nginx).only_flyover());
    cases.push(on_pair("daemon.handover", Side::Server, in_a_handover).only_flyover());
    cases.push(on_pair("daemon.routes", Side::Server, routes).only_flyover());
    cases.push(on_pair("daemon.another-build", Side::Server, another_build).only_flyover());
}

/// Kills the daemon, and starts another one after a while.
fn replace(lab: &Lab, pause: u64) -> Result<()> {
    let daemon = lab.daemon().context("no daemon")?;
    daemon.kill()?;
    thread::sleep(Duration::from_millis(pause));
    daemon.succeed()
}

/// Several times while something runs.
fn replace_beside<R: Send>(lab: &Lab, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    thread::scope(|scope| {
        let running = scope.spawn(work);
        for pause in [0, 300, 0, 700] {
            thread::sleep(Duration::from_millis(600));
            replace(lab, pause)?;
        }
        let ended = running.join();
        ended.map_err(|_| anyhow::anyhow!("the load panicked"))?
    })
}

/// Everything to the kernel and back, by the new daemon.
fn move_there_and_back(lab: &Lab, least: usize) -> Result<()> {
    for command in ["handover", "takeover"] {
        let moved = move_all(lab, command)?;
        ensure!(
            moved.connections() >= least,
            "{command} of {} connections, not {least}",
            moved.connections()
        );
    }
    Ok(())
}

fn cli(lab: &Lab, port: u16, words: &str) -> Result<String> {
    let command = lab
        .cmd(Host::Client, "redis-cli")
        .args(&format!("-h {SERVER} -p {port} {words}"));
    Ok(command.run(LIMIT)?.stdout.trim().to_owned())
}

/// The stacks that `flyover ps` shows.
pub(super) fn stacks(lab: &Lab) -> Result<Vec<Value>> {
    let printed = lab
        .plain(Host::Server, lab.bin().join("flyover"))
        .args("ps --json")
        .run(LIMIT)?;
    printed.forget();
    let report: Value = serde_json::from_str(&printed.stdout)?;
    Ok(report["stacks"].as_array().cloned().unwrap_or_default())
}

fn under_redis(lab: &Lab) -> Result<()> {
    let server = redis(lab)?;
    let plain = lab
        .cmd(Host::Client, "redis-server")
        .args(&format!("--bind {CLIENT} --port {PLAIN}"))
        .args("--protected-mode no --appendonly no")
        .arg("--save")
        .arg("")
        .arg("--dir")
        .arg(lab.directory());
    let mut plain = plain.spawn()?;
    lab.wait_for_port_on(Host::Client, Proto::Tcp, PLAIN, &mut plain)?;
    let load = RedisLoad {
        tests: "set,get",
        clients: 20,
        requests: 150_000,
        port: REDIS_PORT,
    };
    // Its connections last as long as it does: one that breaks ends it.
    replace_beside(lab, || redis_benchmark(lab, load))?;
    ensure_equal("stacks", stacks(lab)?.len(), 1)?;
    // A new listener of the old process, and connections to it.
    ensure_equal(
        "CONFIG",
        cli(lab, REDIS_PORT, &format!("config set port {SECOND}"))?.as_str(),
        "OK",
    )?;
    lab.wait_accelerated_listener(Host::Server, Proto::Tcp, SECOND)?;
    let watch = lab.watch_kernel()?;
    ensure_equal("PING", cli(lab, SECOND, "ping")?.as_str(), "PONG")?;
    watch.ensure_tcp_bypassed()?;
    // A new connection of the old process to somebody else.
    cli(lab, SECOND, &format!("replicaof {CLIENT} {PLAIN}"))?;
    wait_until(LIMIT, || {
        let info = cli(lab, SECOND, "info replication")?;
        Ok(info.contains("master_link_status:up").then_some(()))
    })?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, PLAIN)?;
    move_there_and_back(lab, 1)?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, PLAIN)?;
    ensure_equal("PING", cli(lab, SECOND, "ping")?.as_str(), "PONG")?;
    for program in [server, plain] {
        program.stop(LIMIT)?.success()?;
    }
    Ok(())
}

/// A keeper whose daemon is gone has nothing to do while its programs have nothing to do.
fn keepers_rest(lab: &Lab) -> Result<()> {
    let server = redis(lab)?;
    ensure_equal("PING", cli(lab, REDIS_PORT, "ping")?.as_str(), "PONG")?;
    let daemon = lab.daemon().context("no daemon")?;
    let keepers = procfs::descendants(daemon.pid());
    ensure!(!keepers.is_empty(), "no keeper");
    daemon.kill()?;
    thread::sleep(Duration::from_millis(500));
    let before = procfs::cpu_time(&keepers);
    thread::sleep(Duration::from_secs(1));
    let took = procfs::cpu_time(&keepers).saturating_sub(before);
    daemon.succeed()?;
    ensure!(took < RESTING, "a keeper ran for {took:?} of a second");
    let _ = server.stop(LIMIT)?.success()?;
    Ok(())
}

fn under_nginx(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let url = format!("http://{SERVER}/");
    replace_beside(lab, || wrk(lab, 16, 6, &url, ""))?;
    ensure_equal("stacks", stacks(lab)?.len(), 1)?;
    // Workers that the old master forks now.
    let workers = || -> Result<Vec<u64>> {
        let all = stacks(lab)?;
        let processes = all.first().and_then(|s| s["processes"].as_array().cloned());
        let pids = processes.unwrap_or_default().into_iter();
        Ok(pids.filter_map(|p| p["pid"].as_u64()).collect())
    };
    let before = workers()?;
    let master: i32 = std::fs::read_to_string(nginx_pid(lab))?.trim().parse()?;
    flyover_e2e::cleanup::signal(u32::try_from(master)?, Signal::HUP);
    wait_until(LIMIT, || {
        let now = workers()?;
        let fresh = now.iter().filter(|pid| !before.contains(pid)).count();
        // Workers attach when they first use a socket. The old ones close connections that wait for a request.
        wrk(lab, 4, 1, &url, "Connection: close")?;
        Ok((fresh >= 2).then_some(()))
    })
    .context("new workers in the old stack")?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, NGINX_PORT)?;
    let watch = lab.watch_kernel()?;
    thread::scope(|scope| -> Result<()> {
        let pages = scope.spawn(|| wrk(lab, 16, 3, &url, ""));
        thread::sleep(Duration::from_secs(1));
        // Before anything is moved, all of it was accelerated.
        watch.ensure_tcp_bypassed()?;
        move_there_and_back(lab, 8)?;
        pages
            .join()
            .map_err(|_| anyhow::anyhow!("wrk panicked"))?
            .map(drop)
    })?;
    server.stop(LIMIT)?;
    Ok(())
}

/// The daemon dies while it moves connections to the kernel: the next one finishes what it had begun.
fn in_a_handover(lab: &Lab) -> Result<()> {
    const ROUNDS: u64 = 12;
    let daemon = lab.daemon().context("no daemon")?;
    let mut serving = serve(lab, 7800)?;
    let mut probes = (0..24)
        .map(|_| Probe::connect(lab, server(7800)))
        .collect::<Result<Vec<_>>>()?;
    let mut random = Random::new(7);
    for round in 0..ROUNDS {
        for probe in &mut probes {
            probe.echo(20_000, LIMIT)?;
        }
        let mover = lab
            .plain(Host::Server, lab.bin().join("flyover"))
            .args("handover --all")
            .spawn()?;
        thread::sleep(Duration::from_micros(random.below(60_000)));
        daemon.kill()?;
        daemon.succeed()?;
        mover.finish(LIMIT)?.forget();
        for (number, probe) in probes.iter_mut().enumerate() {
            probe
                .echo(100_000, LIMIT)
                .with_context(|| format!("round {round}, connection {number}"))?;
        }
        move_all(lab, "takeover")?;
    }
    for probe in &mut probes {
        probe.echo(20_000, LIMIT)?;
    }
    serving.ensure_running()
}

/// What changes in the namespace after the daemon's death is heard of from the next one, by processes that do nothing
/// but go on with their connections.
fn routes(lab: &Lab) -> Result<()> {
    let mut serving = serve(lab, 7800)?;
    let mut probe = Probe::connect(lab, server(7800))?;
    probe.echo(10_000, LIMIT)?;
    let daemon = lab.daemon().context("no daemon")?;
    daemon.kill()?;
    // Another address of the peer's interface: what the tables say of the neighbour is wrong from now on.
    let run = |host, words: &str| {
        let output = lab.plain(host, "ip").args(words).run(LIMIT)?;
        output.forget();
        Ok::<(), anyhow::Error>(())
    };
    run(Host::Client, "link set eth0 address 02:00:00:00:77:77")?;
    run(Host::Server, "neigh flush dev eth0")?;
    daemon.succeed()?;
    probe
        .echo(100_000, LIMIT)
        .context("over the neighbour's new address")?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, 7800)?;
    serving.ensure_running()
}

/// A daemon of another build leaves the stack alone, says so, and serves new programs.
fn another_build(lab: &Lab) -> Result<()> {
    let mut serving = serve(lab, 7800)?;
    let mut probe = Probe::connect(lab, server(7800))?;
    probe.echo(10_000, LIMIT)?;
    let daemon = lab.daemon().context("no daemon")?;
    daemon.kill()?;
    // As if a daemon of another layout had written it.
    for note in std::fs::read_dir(daemon.notes())? {
        let path = note?.path();
        if path.extension().is_some_and(|end| end == "json") {
            let mut note: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            note["build"]["layout"] = Value::from(1);
            std::fs::write(&path, note.to_string())?;
        }
    }
    daemon.succeed()?;
    let log = daemon.log();
    ensure!(
        log.contains("a stack of a daemon of another build"),
        "the log says nothing:\n{log}"
    );
    ensure_equal("stacks", stacks(lab)?.len(), 0)?;
    probe.echo(100_000, LIMIT).context("the old connection")?;
    Probe::connect(lab, server(7800))?
        .echo(10_000, LIMIT)
        .context("a new connection of the old program")?;
    let mut second = serve(lab, 7801)?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, 7801)?;
    second.ensure_running()?;
    serving.ensure_running()
}
