//! chrony: an NTP server and a client that asks it once, over UDP.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, wait_until};
use flyover_e2e::procfs::{Proto, listening_ports};
use flyover_e2e::runner::Case;

use super::each_side;

const LIMIT: Duration = Duration::from_secs(30);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "chrony.query", query);
}

/// The server serves its own clock; the client (`-Q`) prints the offset and sets nothing. Both ask for
/// timestamps of what they send, which is the kernel's then; what the client gets still comes by the V-NIC.
fn query(lab: &Lab) -> Result<()> {
    let here = lab.directory();
    let path = here.join("chrony.conf");
    fs::write(
        &path,
        format!(
            "local stratum 5\nallow all\ncmdport 0\nbindcmdaddress /\npidfile {0}/chronyd.pid\ndriftfile {0}/drift\n",
            here.display()
        ),
    )?;
    let mut server = lab
        .cmd(Host::Server, "/usr/sbin/chronyd")
        .args("-d -x -u root -F 0 -f")
        .arg(&path)
        .spawn()?;
    wait_until(LIMIT, || {
        server.ensure_running()?;
        Ok(listening_ports(&lab.server, Proto::Udp)?
            .contains(&123)
            .then_some(()))
    })?;
    let watch = lab.watch_kernel()?;
    for (name, address) in [("v4", SERVER.to_string()), ("v6", SERVER6.to_string())] {
        let client = lab
            .cmd(Host::Client, "/usr/sbin/chronyd")
            .args("-Q -d -t 8 -u root")
            .arg(format!("pidfile {}/{name}.pid", here.display()))
            .arg(format!("server {address} iburst maxsamples 1"));
        let said = client.run(LIMIT)?;
        let text = format!("{}{}", said.stdout, said.stderr);
        ensure!(
            text.contains("System clock wrong by"),
            "chronyd said\n{text}"
        );
    }
    // Which way the server's socket takes is not what the case is about.
    if lab.side == Side::Client {
        watch.ensure_udp_received()?;
    }
    server.stop(LIMIT)?;
    Ok(())
}
