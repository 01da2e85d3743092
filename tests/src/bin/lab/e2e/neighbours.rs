//! Who shares the interface with an accelerated server and must not notice it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::lab::{CLIENT6, Host, Lab, SERVER, SERVER6, Side, server, wait_until};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::servers::nginx;
use flyover_e2e::tools::wrk;

use super::{on_pair, with_options};

const LIMIT: Duration = Duration::from_secs(20);
/// A service that Flyover knows nothing of, as sshd would be.
const PLAIN_PORT: u16 = 22;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("neighbours.undisturbed", Side::Server, undisturbed));
    let xdp = &["--vnic", "xdp"];
    let case = with_options("neighbours.undisturbed.xdp", Side::Server, xdp, undisturbed);
    cases.push(case.only_flyover());
    cases.push(on_pair("neighbours.by-hand", Side::Server, by_hand));
}

/// An entry that the administrator made stays as it is when nobody answers there any more: a stack that doubts its
/// neighbour has the kernel check it.
fn by_hand(lab: &Lab) -> Result<()> {
    const SECOND: &str = "10.77.0.98";
    const PORT: u16 = 7300;
    let link = lab.client.tool("ip -br link show eth0")?;
    let mac = link.split_whitespace().nth(2).context("a MAC address")?;
    lab.client.ip(&format!("addr add {SECOND}/24 dev eth0"))?;
    lab.server.ip(&format!(
        "neigh add {SECOND} lladdr {mac} dev eth0 nud permanent"
    ))?;
    let mut echo = lab
        .plain(Host::Client, lab.bin().join("load"))
        .args(&format!("echo serve 0.0.0.0:{PORT}"))
        .spawn()?;
    wait_until(LIMIT, || {
        echo.ensure_running()?;
        let ports = flyover_e2e::procfs::listening_ports(&lab.client, Proto::Tcp)?;
        Ok(ports.contains(&PORT).then_some(()))
    })?;
    let mut calling = lab
        .workload(Host::Server, "echo")
        .args(&format!("interactive {SECOND}:{PORT}"))
        .piped()
        .spawn()?;
    wait_until(LIMIT, || {
        calling.ensure_running()?;
        Ok(calling.stdout().contains("ok").then_some(()))
    })?;
    lab.client.ip(&format!("addr del {SECOND}/24 dev eth0"))?;
    calling.write_line("100")?;
    // Sent again twice or more by then.
    std::thread::sleep(Duration::from_millis(1500));
    let entries = lab
        .server
        .tool(&format!("ip neigh show to {SECOND} dev eth0"))?;
    ensure!(entries.contains("PERMANENT"), "{entries}");
    Ok(())
}

/// nginx is accelerated and under load; beside it a plain TCP and UDP service, ping over both
/// families, and neighbour discovery of an address that nobody knows yet.
fn undisturbed(lab: &Lab) -> Result<()> {
    let mut web = nginx(lab)?;
    let mut plain = lab
        .plain(Host::Server, lab.bin().join("load"))
        .args(&format!("echo serve [::]:{PLAIN_PORT}"))
        .spawn()?;
    wait_until(LIMIT, || {
        plain.ensure_running()?;
        let ports = flyover_e2e::procfs::listening_ports(&lab.server, Proto::Tcp)?;
        Ok(ports.contains(&PLAIN_PORT).then_some(()))
    })?;
    let load = lab
        .cmd(Host::Client, "wrk")
        .args("-t1 -c20 -d8s")
        .arg(format!("http://{SERVER}/"))
        .spawn()?;

    let run = |program: &str, words: &str| lab.plain(Host::Client, program).args(words).run(LIMIT);
    let echo = |words: &str| {
        let echo = lab.plain(Host::Client, lab.bin().join("load"));
        echo.args(&format!("echo load {words}")).run(LIMIT)
    };
    echo(&format!(
        "{} --connections 4 --seconds 1",
        server(PLAIN_PORT)
    ))
    .context("plain TCP")?;
    echo(&format!(
        "{} --udp --connections 2 --seconds 1 --max 8000",
        server(PLAIN_PORT)
    ))
    .context("plain UDP")?;
    for address in [SERVER.to_string(), SERVER6.to_string()] {
        let pings = run("ping", &format!("-c 20 -i 0.05 -W 2 {address}"))?.stdout;
        ensure!(pings.contains(" 0% packet loss"), "{pings}");
    }
    // Large pings are fragments.
    let pings = run("ping", &format!("-c 5 -i 0.1 -W 2 -s 20000 {SERVER}"))?.stdout;
    ensure!(pings.contains(" 0% packet loss"), "{pings}");

    discovery(lab)?;
    web.ensure_running()?;
    let report = load.finish(LIMIT)?.success()?.stdout;
    ensure!(!report.contains("Socket errors"), "{report}");
    wrk(lab, 5, 1, &format!("http://{SERVER}/"), "")?;
    Ok(())
}

/// Forgets the neighbours on both hosts and adds an address: everyone must be found again.
fn discovery(lab: &Lab) -> Result<()> {
    lab.server.ip("-6 neigh flush dev eth0")?;
    lab.client.ip("-6 neigh flush dev eth0")?;
    lab.server.ip("-4 neigh flush dev eth0")?;
    lab.server.ip("addr add fd77::99/64 dev eth0 nodad")?;
    for (host, address) in [
        (Host::Client, "fd77::99".to_owned()),
        (Host::Client, SERVER6.to_string()),
        (Host::Server, CLIENT6.to_string()),
    ] {
        lab.plain(host, "ping")
            .args(&format!("-c 2 -i 0.1 -W 3 {address}"))
            .run(LIMIT)
            .with_context(|| format!("neighbour discovery of {address}"))?;
    }
    Ok(())
}
