//! iperf3: both directions, parallel streams, UDP.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::lab::{Host, Lab};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::tools::iperf3;

use super::each_side;

const PORT: u16 = 5201;

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "iperf3.tcp", tcp);
    each_side(cases, "iperf3.udp", udp);
}

fn with_server(lab: &Lab, work: impl Fn() -> Result<()>) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "iperf3")
        .args(&format!("-s -p {PORT}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut server)?;
    work()?;
    server.signal(rustix::process::Signal::TERM);
    server.finish(Duration::from_secs(10))?;
    Ok(())
}

fn tcp(lab: &Lab) -> Result<()> {
    with_server(lab, || {
        let watch = lab.watch_kernel()?;
        for extra in ["", "-R", "-P 4", "-P 4 -R", "--bidir"] {
            once_it_listens(|| iperf3(lab, PORT, 1, extra).map(drop))?;
        }
        watch.ensure_tcp_bypassed()
    })
}

/// iperf3 closes its listener after each test and opens it again: whoever comes in between is refused, on any stack.
fn once_it_listens(mut test: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..10 {
        match test() {
            Err(e) if format!("{e:#}").contains("Connection refused") => {
                std::thread::sleep(Duration::from_millis(200));
            }
            other => return other,
        }
    }
    test()
}

fn udp(lab: &Lab) -> Result<()> {
    with_server(lab, || {
        let watch = lab.watch_kernel()?;
        for extra in ["-u -b 100M", "-u -b 100M -R"] {
            let mut result = None;
            once_it_listens(|| {
                result = Some(iperf3(lab, PORT, 1, extra)?);
                Ok(())
            })?;
            let result = result.context("no result")?;
            ensure!(
                result.lost_percent < 20.0,
                "{extra}: {} % lost",
                result.lost_percent
            );
        }
        watch.ensure_udp_bypassed()
    })
}
