//! iperf3: both directions, parallel streams, UDP.

use std::time::Duration;

use anyhow::{Result, ensure};
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
            iperf3(lab, PORT, 1, extra)?;
        }
        watch.ensure_tcp_bypassed()
    })
}

fn udp(lab: &Lab) -> Result<()> {
    with_server(lab, || {
        let watch = lab.watch_kernel()?;
        for extra in ["-u -b 100M", "-u -b 100M -R"] {
            let result = iperf3(lab, PORT, 1, extra)?;
            ensure!(
                result.lost_percent < 20.0,
                "{extra}: {} % lost",
                result.lost_percent
            );
        }
        watch.ensure_udp_bypassed()
    })
}
