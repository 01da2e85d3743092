//! What Flyover costs when it does nothing. The limits are wide, since other work may run beside a
//! test; `cargo xtask bench` measures.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, Side};
use flyover_e2e::runner::Case;
use flyover_e2e::stats::Sample;
use flyover_e2e::workloads;

use super::on_pair;

const LIMIT: Duration = Duration::from_secs(20);
const IDLE: usize = 1_000;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("cost.idle-connections", Side::Server, idle));
    cases.push(on_pair("cost.idle-connections", Side::Client, idle).only_flyover());
    cases.push(on_pair("cost.run-true", Side::Server, run_true).only_flyover());
}

/// A thousand idle connections: the daemon, the keepers and the programs together sleep.
fn idle(lab: &Lab) -> Result<()> {
    let watch = lab.watch_kernel()?;
    let percent = workloads::idle_connections(lab, IDLE, 6.0)?;
    watch.ensure_tcp_bypassed()?;
    // The bar is 0.5 %; the clock ticks in 10 ms.
    ensure!(
        percent <= 0.7,
        "{IDLE} idle connections cost {percent:.2} % of a core"
    );
    Ok(())
}

fn run_true(lab: &Lab) -> Result<()> {
    let plain = alone(lab)?;
    let under = workloads::run_true(lab, 20)?;
    ensure!(
        under - plain < 60.0,
        "flyover run adds {:.1} ms",
        under - plain
    );
    Ok(())
}

/// Milliseconds of `/bin/true` alone.
fn alone(lab: &Lab) -> Result<f64> {
    let mut sample = Sample::default();
    for _ in 0..20 {
        let begun = Instant::now();
        lab.plain(Host::Server, "/bin/true").run(LIMIT)?;
        sample.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(sample.median().unwrap_or(0.0))
}
