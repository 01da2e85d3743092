//! Topologies. The server's and the client's interface is always called `eth0`.

use std::path::Path;

use anyhow::Result;

use crate::cmd::Proc;
use crate::lab::{CLIENT, CLIENT6, Host, Lab, SERVER, SERVER6, Setup, Side};
use crate::netns::{Netns, ip};
use crate::procfs::{self};

/// Server and client on one veth pair, with IPv4 and IPv6.
pub fn pair(setup: &Setup, side: Side) -> Result<Lab> {
    let (server, client) = (Netns::create("srv")?, Netns::create("cli")?);
    veth((&server, "eth0"), (&client, "eth0"))?;
    address_ends(&server, &client)?;
    Lab::new(setup, side, server, client, Vec::new())
}

/// Impairments of the middlebox, in percent of the frames.
#[derive(Clone, Copy, Debug)]
pub struct Impairment {
    /// Frames that vanish.
    pub loss: f64,
    /// Frames that are held back until a few later ones have passed.
    pub reorder: f64,
    /// Frames that come twice.
    pub duplicate: f64,
    /// Where the sequence of random decisions starts.
    pub seed: u64,
}

/// Server and client on two veth pairs; a program between them forwards, loses, reorders and
/// duplicates frames. Offloads are off, so that every frame is of MTU size. The middlebox ends when
/// the returned process is dropped.
pub fn lossy(setup: &Setup, side: Side, impairment: Impairment) -> Result<(Lab, Proc)> {
    let (server, client) = (Netns::create("srv")?, Netns::create("cli")?);
    let middle = Netns::create("mid")?;
    // The kernel in the middle must not say anything of its own.
    middle.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    veth((&server, "eth0"), (&middle, "left"))?;
    veth((&client, "eth0"), (&middle, "right"))?;
    for (netns, interface) in [
        (&server, "eth0"),
        (&client, "eth0"),
        (&middle, "left"),
        (&middle, "right"),
    ] {
        offloads_off(netns, interface)?;
    }
    address_ends(&server, &client)?;
    let log = setup.directory.join("middlebox");
    let program = setup.bin.join("lab");
    let mut middlebox = crate::cmd::Cmd::new(&middle, Vec::new(), program, &setup.directory, log)
        .args("middlebox left right")
        .arg(format!("--loss={}", impairment.loss))
        .arg(format!("--reorder={}", impairment.reorder))
        .arg(format!("--duplicate={}", impairment.duplicate))
        .arg(format!("--seed={}", impairment.seed))
        .spawn()?;
    crate::lab::wait_until(std::time::Duration::from_secs(5), || {
        middlebox.ensure_running()?;
        Ok(middlebox.stdout().contains("forwarding").then_some(()))
    })?;
    let lab = Lab::new(setup, side, server, client, vec![middle])?;
    Ok((lab, middlebox))
}

/// Address of the first gateway on the server's network in [`gateways`].
pub const GATEWAY1: &str = "10.77.0.11";
/// Address of the second one.
pub const GATEWAY2: &str = "10.77.0.12";
/// Address of the client behind the gateways.
pub const FAR_CLIENT: &str = "10.78.0.2";

/// The server on one network, the client on another, two gateways between them. Both hosts route
/// through the first. `others` holds the first gateway, the second, and the two switches.
pub fn gateways(setup: &Setup, side: Side) -> Result<Lab> {
    let (server, client) = (Netns::create("srv")?, Netns::create("cli")?);
    let routers = [Netns::create("gw1")?, Netns::create("gw2")?];
    let switches = [Netns::create("sw1")?, Netns::create("sw2")?];
    for switch in &switches {
        switch.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        switch.ip("link add br0 type bridge")?;
        switch.ip("link set br0 up")?;
    }
    plug(&server, "eth0", &switches[0], "host")?;
    plug(&client, "eth0", &switches[1], "host")?;
    for (number, router) in routers.iter().enumerate() {
        plug(router, "near", &switches[0], &format!("gw{number}"))?;
        plug(router, "far", &switches[1], &format!("gw{number}"))?;
        router.ip(&format!("addr add 10.77.0.{}/24 dev near", 11 + number))?;
        router.ip(&format!("addr add 10.78.0.{}/24 dev far", 11 + number))?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        // The way back may go through the other gateway.
        router.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        router.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    }
    server.ip(&format!("addr add {SERVER}/24 dev eth0"))?;
    client.ip(&format!("addr add {FAR_CLIENT}/24 dev eth0"))?;
    server.ip(&format!("route add 10.78.0.0/24 via {GATEWAY1}"))?;
    client.ip("route add 10.77.0.0/24 via 10.78.0.11")?;
    let [first, second] = routers;
    let [near, far] = switches;
    Lab::new(setup, side, server, client, vec![first, second, near, far])
}

fn plug(host: &Netns, interface: &str, switch: &Netns, port: &str) -> Result<()> {
    veth((host, interface), (switch, port))?;
    switch.ip(&format!("link set {port} master br0"))
}

/// Joins two interfaces by a veth pair and sets both up.
fn veth(one: (&Netns, &str), other: (&Netns, &str)) -> Result<()> {
    ip(&[
        "link",
        "add",
        one.1,
        "netns",
        one.0.name(),
        "type",
        "veth",
        "peer",
        "name",
        other.1,
        "netns",
        other.0.name(),
    ])?;
    for (netns, interface) in [one, other] {
        netns.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

fn address_ends(server: &Netns, client: &Netns) -> Result<()> {
    for (netns, v4, v6) in [(server, SERVER, SERVER6), (client, CLIENT, CLIENT6)] {
        netns.ip(&format!("addr add {v4}/24 dev eth0"))?;
        netns.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
    }
    Ok(())
}

/// Segmentation, merging and checksums in software, as on a simple network card.
pub fn offloads_off(netns: &Netns, interface: &str) -> Result<()> {
    netns
        .tool(&format!(
            "ethtool -K {interface} tx off tso off gso off gro off"
        ))
        .map(|_| ())
}

/// Does the directory hold everything that an accelerated run needs?
pub fn is_built(bin: &Path) -> bool {
    ["flyover", "flyoverd", "libflyover.so"]
        .iter()
        .all(|name| bin.join(name).exists())
}

/// Bytes that a host's `eth0` has sent.
pub fn bytes_sent(lab: &Lab, host: Host) -> Result<u64> {
    Ok(procfs::sent_by(lab.netns(host), "eth0")?.0)
}
