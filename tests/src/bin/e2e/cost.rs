//! What Flyover costs when it does nothing. The limits are wide, since other work may run beside a
//! test; `cargo xtask bench` measures.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, Side, server, wait_until};
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::Case;
use flyover_e2e::stats::Sample;

use crate::on_pair;

const LIMIT: Duration = Duration::from_secs(20);
const IDLE: usize = 1_000;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("cost.idle-connections", Side::Server, idle));
    cases.push(on_pair("cost.idle-connections", Side::Client, idle).only_flyover());
    cases.push(on_pair("cost.run-true", Side::Server, run_true).only_flyover());
}

/// A thousand idle connections: the daemon, the keepers and the program together sleep.
fn idle(lab: &Lab) -> Result<()> {
    let mut holding = lab
        .workload(Host::Server, "hold")
        .args(&format!("server {}", server(8100)))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 8100, &mut holding)?;
    let watch = lab.watch_kernel()?;
    let mut opening = lab
        .workload(Host::Client, "hold")
        .args(&format!("client {} --connections {IDLE}", server(8100)))
        .piped()
        .spawn()?;
    wait_until(LIMIT, || {
        opening.ensure_running()?;
        Ok(opening.stdout().contains("ready").then_some(()))
    })?;
    watch.ensure_tcp_bypassed()?;
    std::thread::sleep(Duration::from_secs(1));
    let mut pids = holding.tree();
    pids.extend(opening.tree());
    pids.extend(lab.daemon().map(|daemon| daemon.tree()).unwrap_or_default());
    let (before, begun) = (procfs::cpu_time(&pids), Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    let used = procfs::cpu_time(&pids) - before;
    let percent = used.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    // The bar is 0.5 %; the clock ticks in 10 ms.
    ensure!(
        percent <= 0.7,
        "{IDLE} idle connections cost {percent:.2} % of a core"
    );
    opening.finish(LIMIT)?.success()?;
    Ok(())
}

fn run_true(lab: &Lab) -> Result<()> {
    let mut plain = Sample::default();
    let mut under = Sample::default();
    for _ in 0..20 {
        for (sample, command) in [
            (&mut plain, lab.plain(Host::Server, "/bin/true")),
            (&mut under, lab.cmd(Host::Server, "/bin/true")),
        ] {
            let begun = Instant::now();
            command.run(LIMIT)?;
            sample.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    let added = under.median().unwrap_or(0.0) - plain.median().unwrap_or(0.0);
    ensure!(added < 60.0, "flyover run adds {added:.1} ms");
    Ok(())
}
