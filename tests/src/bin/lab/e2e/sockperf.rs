//! sockperf ping-pong over UDP and TCP.

use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::tools::sockperf;

use super::each_side;

const PORT: u16 = 11111;

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "sockperf.udp", |lab| ping_pong(lab, Proto::Udp));
    each_side(cases, "sockperf.tcp", |lab| ping_pong(lab, Proto::Tcp));
}

fn ping_pong(lab: &Lab, proto: Proto) -> Result<()> {
    // A datagram to a neighbour that the control plane does not know yet goes through the kernel, which resolves it. On a
    // busy machine the daemon comes late to that, and every round trip until then takes the kernel's way: the neighbours
    // are known before.
    lab.client.tool(&format!("ping -c 1 -W 5 {SERVER}"))?;
    let mut server = lab
        .cmd(Host::Server, "sockperf")
        .args(&format!("server -i {SERVER} -p {PORT}"))
        .args(if proto == Proto::Tcp { "--tcp" } else { "" })
        .spawn()?;
    lab.wait_for_port(proto, PORT, &mut server)?;
    let watch = lab.watch_kernel()?;
    let load = sockperf(lab, PORT, 2, proto == Proto::Tcp)?;
    ensure!(
        load.per_second > 100.0,
        "only {} messages a second",
        load.per_second
    );
    match proto {
        Proto::Tcp => watch.ensure_tcp_bypassed()?,
        Proto::Udp => watch.ensure_udp_bypassed()?,
    }
    server.signal(rustix::process::Signal::INT);
    server.finish(Duration::from_secs(10))?;
    Ok(())
}
