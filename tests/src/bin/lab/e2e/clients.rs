//! Our own workloads as programs like any other: many short connections, small messages, datagrams
//! larger than a frame, two servers on one stack.

use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::echo;
use flyover_e2e::lab::{Host, Lab, Side, server, server6};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::tools::{RedisLoad, json, number, redis_benchmark};

use super::{each_side, on_pair, with_options};

const LIMIT: Duration = Duration::from_secs(30);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "clients.pingpong", ping_pong);
    cases.push(on_pair("clients.pingpong", Side::Both, ping_pong).only_flyover());
    let xdp = &["--vnic", "xdp"];
    cases.push(with_options("clients.pingpong.xdp", Side::Both, xdp, ping_pong).only_flyover());
    each_side(cases, "clients.connections", connections);
    each_side(cases, "clients.echo", echoes);
    cases.push(on_pair("clients.two-servers", Side::Server, two_servers));
}

/// Small messages over TCP and UDP, blocking and spinning, both families.
fn ping_pong(lab: &Lab) -> Result<()> {
    let watch = lab.watch_kernel()?;
    let mut port = 7200;
    for (proto, flag) in [(Proto::Tcp, ""), (Proto::Udp, "--udp")] {
        for spin in ["", "--spin"] {
            let address = if spin.is_empty() {
                server(port)
            } else {
                server6(port)
            };
            // Two spinning programs fill a machine with two cores.
            let count = if spin.is_empty() { 5_000 } else { 500 };
            let mut answering = lab
                .workload(Host::Server, "pingpong")
                .args(&format!("server {address} {flag} {spin}"))
                .spawn()?;
            lab.wait_for_port(proto, port, &mut answering)?;
            let report = lab
                .workload(Host::Client, "pingpong")
                .args(&format!(
                    "client {address} {flag} {spin} --count {count} --warmup 100"
                ))
                .run(LIMIT)?;
            ensure!(
                number(&json(&report)?, "lost")? == 0.0,
                "datagrams were lost"
            );
            port += 1;
        }
    }
    watch.ensure_tcp_bypassed()?;
    watch.ensure_udp_bypassed()
}

/// Some thousand connections one after the other, from several threads.
fn connections(lab: &Lab) -> Result<()> {
    let mut accepting = lab
        .workload(Host::Server, "connrate")
        .args(&format!("server {}", server(7300)))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7300, &mut accepting)?;
    let watch = lab.watch_kernel()?;
    for threads in [1, 8] {
        let report = lab
            .workload(Host::Client, "connrate")
            .args(&format!(
                "client {} --threads {threads} --seconds 2",
                server(7300)
            ))
            .run(LIMIT)?;
        let rate = number(&json(&report)?, "connections_per_second")?;
        ensure!(rate > 100.0, "only {rate} connections a second");
        // Port pairs that the server has in TIME_WAIT come up again: their SYNs must be taken at once.
        let slow = number(&json(&report)?, "p999_ns")?;
        ensure!(
            slow < 0.8e9,
            "some connections took {slow} ns: SYNs were sent again"
        );
    }
    watch.ensure_tcp_bypassed()
}

/// Messages of random length, many connections; datagrams up to 20 kB, which are fragments on the
/// wire and therefore the kernel's.
fn echoes(lab: &Lab) -> Result<()> {
    let _server = echo::serve(lab, 7400)?;
    let watch = lab.watch_kernel()?;
    let load = |words: &str| {
        lab.workload(Host::Client, "echo")
            .args(&format!("load {words}"))
            .run(LIMIT)
    };
    load(&format!(
        "{} --connections 30 --seconds 2 --max 200000",
        server(7400)
    ))?;
    load(&format!(
        "{} --connections 3 --seconds 1 --max 50",
        server6(7400)
    ))?;
    watch.ensure_tcp_bypassed()?;
    load(&format!(
        "{} --udp --connections 3 --seconds 1 --max 1400",
        server(7400)
    ))?;
    watch.ensure_udp_bypassed()?;
    load(&format!(
        "{} --udp --connections 2 --seconds 1 --max 20000",
        server(7400)
    ))?;
    load(&format!(
        "{} --udp --connections 2 --seconds 1 --max 20000",
        server6(7400)
    ))?;
    Ok(())
}

/// Two programs of one user share a stack; ending one does not disturb the other.
fn two_servers(lab: &Lab) -> Result<()> {
    let first = flyover_e2e::servers::redis(lab)?;
    let second = echo::serve(lab, 7500)?;
    let load = RedisLoad {
        tests: "get",
        clients: 10,
        requests: 20_000,
        port: 6379,
    };
    let mut echoing = lab
        .workload(Host::Client, "echo")
        .args(&format!(
            "load {} --connections 5 --seconds 3",
            server(7500)
        ))
        .spawn()?;
    redis_benchmark(lab, load)?;
    first.stop(LIMIT)?.success()?;
    echoing.ensure_running()?;
    echoing.finish(LIMIT)?.success()?;
    drop(second);
    Ok(())
}
