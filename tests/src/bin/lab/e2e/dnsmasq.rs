//! dnsmasq answering dig, over UDP and TCP, bound to one address and to all.

use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;

use super::each_side;

const PORT: u16 = 5353;
const LIMIT: Duration = Duration::from_secs(20);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "dnsmasq.address", |lab| {
        queries(
            lab,
            &format!("--listen-address={SERVER},{SERVER6} --bind-interfaces"),
        )
    });
    each_side(cases, "dnsmasq.wildcard", |lab| queries(lab, ""));
}

fn queries(lab: &Lab, listening: &str) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "dnsmasq")
        .args(&format!(
            "-k -p {PORT} {listening} --conf-file=/dev/null --no-resolv --no-hosts"
        ))
        .args("--user=root --pid-file= --address=/fly.test/10.1.2.3 --address=/fly.test/fd00::1")
        .spawn()?;
    lab.wait_for_port(Proto::Udp, PORT, &mut server)?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut server)?;
    let watch = lab.watch_kernel()?;
    let names = lab.directory().join("names");
    let lines: String = (0..50)
        .map(|number| format!("n{number}.fly.test A\n"))
        .collect();
    std::fs::write(&names, lines)?;
    for (address, transport) in [
        (SERVER.to_string(), ""),
        (SERVER6.to_string(), ""),
        (SERVER.to_string(), "+tcp"),
        (SERVER6.to_string(), "+tcp"),
    ] {
        let answers = lab
            .cmd(Host::Client, "dig")
            .args(&format!(
                "@{address} -p {PORT} +short +time=2 +tries=2 {transport} -f"
            ))
            .arg(&names)
            .run(LIMIT)?
            .stdout;
        let right = answers
            .lines()
            .filter(|line| line.trim() == "10.1.2.3")
            .count();
        ensure!(
            right == 50,
            "{address} {transport}: {right} of 50 answers are right\n{answers}"
        );
    }
    // dig asks with SO_REUSEPORT, and such a socket stays with the kernel. A server on all
    // addresses answers with a source address that it chooses (IP_PKTINFO), through the kernel.
    match lab.side {
        Side::Client => {}
        _ if listening.is_empty() => watch.ensure_udp_received()?,
        _ => watch.ensure_udp_bypassed()?,
    }
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?;
    Ok(())
}
