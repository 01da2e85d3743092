//! The network changes under live connections: neighbour's MAC, MTU, link, addresses.
//!
//! Each case runs with Flyover on the server (which answers) and on the client (which asks).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::echo::{self, Probe};
use flyover_e2e::lab::{CLIENT, Host, Lab, SERVER, Side, server, server6};
use flyover_e2e::runner::Case;
use flyover_e2e::wiring;

use super::{each_side, on_pair};

const PORT: u16 = 7700;
const SOON: Duration = Duration::from_secs(5);
/// Time for retransmissions that have backed off during an outage.
const RECOVERY: Duration = Duration::from_secs(20);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "cplane.neighbour-mac", neighbour_mac);
    // Known gap: with the stack on the client side the connection does not find the new address within 30 s.
    cases.push(on_pair(
        "cplane.neighbour-mac-unannounced",
        Side::Server,
        neighbour_mac_unannounced,
    ));
    each_side(cases, "cplane.mtu-lowered", mtu_lowered);
    each_side(cases, "cplane.link-down-up", link_down_up);
    each_side(cases, "cplane.address-removed", address_removed);
    cases.push(on_pair("cplane.address-added", Side::Server, address_added));
    cases.push(on_pair(
        "cplane.interface-added",
        Side::Server,
        interface_added,
    ));
}

/// The host whose view of the network is changed: the accelerated one.
fn subject(lab: &Lab) -> Host {
    if lab.side == Side::Client {
        Host::Client
    } else {
        Host::Server
    }
}

fn other(host: Host) -> Host {
    match host {
        Host::Server => Host::Client,
        Host::Client => Host::Server,
    }
}

/// An echo server, and one live connection that has proved itself.
fn live(lab: &Lab) -> Result<(flyover_e2e::cmd::Proc, Probe)> {
    let serving = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe.echo(10_000, SOON).context("before the change")?;
    lab.ensure_accelerated(subject(lab), flyover_e2e::procfs::Proto::Tcp, PORT)?;
    Ok((serving, probe))
}

/// The plain neighbour gets a new MAC and announces it (gratuitous ARP).
fn neighbour_mac(lab: &Lab) -> Result<()> {
    let neighbour = lab.netns(other(subject(lab)));
    neighbour.sysctl("net/ipv4/conf/eth0/arp_notify", "1")?;
    neighbour.sysctl("net/ipv6/conf/eth0/ndisc_notify", "1")?;
    let (_serving, mut probe) = live(lab)?;
    for mac in ["02:00:00:00:77:01", "02:00:00:00:77:02"] {
        // The interface must go down: only then the kernel announces the address when it is up.
        neighbour.ip("link set eth0 down")?;
        neighbour.ip(&format!("link set eth0 address {mac}"))?;
        neighbour.ip("link set eth0 up")?;
        probe
            .echo(10_000, RECOVERY)
            .with_context(|| format!("after the change to {mac}"))?;
    }
    Ok(())
}

/// The neighbour changes its MAC and says nothing, not even in an ARP request of its own: the kernel
/// finds out when its entry gets old or the stack reports that it makes no progress.
fn neighbour_mac_unannounced(lab: &Lab) -> Result<()> {
    let (_serving, mut probe) = live(lab)?;
    // The usual intervals are many seconds long; the mechanism is the same with short ones.
    let host = lab.netns(subject(lab));
    for (name, value) in [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "1"),
    ] {
        host.sysctl(&format!("net/ipv4/neigh/eth0/{name}"), value)?;
    }
    host.sysctl("net/ipv4/neigh/eth0/retrans_time_ms", "200")?;
    // A delayed acknowledgement must not make the neighbour ask with its new address.
    std::thread::sleep(Duration::from_millis(500));
    let mac = host.mac("eth0")?;
    let address = if lab.side == Side::Client {
        CLIENT
    } else {
        SERVER
    };
    let neighbour = lab.netns(other(subject(lab)));
    neighbour.ip("link set eth0 address 02:00:00:00:77:03")?;
    neighbour.ip(&format!(
        "neigh replace {address} lladdr {mac} dev eth0 nud permanent"
    ))?;
    probe
        .echo(10_000, Duration::from_secs(30))
        .context("after the change")
}

/// Both ends go down to 1000 bytes; segments larger than that are dropped by the wire.
fn mtu_lowered(lab: &Lab) -> Result<()> {
    for host in [Host::Server, Host::Client] {
        wiring::offloads_off(lab.netns(host), "eth0")?;
    }
    let (_serving, mut probe) = live(lab)?;
    probe.echo(500_000, SOON).context("before")?;
    for host in [subject(lab), other(subject(lab))] {
        lab.netns(host).ip("link set eth0 mtu 1000")?;
    }
    probe
        .echo(500_000, RECOVERY)
        .context("with an MTU of 1000")?;
    for host in [subject(lab), other(subject(lab))] {
        lab.netns(host).ip("link set eth0 mtu 1500")?;
    }
    probe
        .echo(500_000, RECOVERY)
        .context("with an MTU of 1500 again")?;
    let mut second = Probe::connect(lab, server(PORT))?;
    second.echo(500_000, SOON).context("on a new connection")
}

fn link_down_up(lab: &Lab) -> Result<()> {
    let (_serving, mut probe) = live(lab)?;
    let host = lab.netns(subject(lab));
    for pause in [200, 1500] {
        host.ip("link set eth0 down")?;
        probe.ask(10_000)?;
        std::thread::sleep(Duration::from_millis(pause));
        ensure!(
            !probe.has_answer(),
            "an echo came although the link is down"
        );
        host.ip("link set eth0 up")?;
        probe.answer(RECOVERY).context("with the link up again")?;
    }
    probe.echo(100_000, SOON)?;
    Probe::connect(lab, server(PORT))?
        .echo(1_000, SOON)
        .context("on a new connection")
}

/// As in the kernel: while the address is away nothing arrives, and nothing is lost for good.
fn address_removed(lab: &Lab) -> Result<()> {
    let (_serving, mut probe) = live(lab)?;
    let host = subject(lab);
    let address = if host == Host::Server { SERVER } else { CLIENT };
    lab.netns(host)
        .ip(&format!("addr del {address}/24 dev eth0"))?;
    std::thread::sleep(Duration::from_millis(100));
    probe.ask(10_000)?;
    std::thread::sleep(Duration::from_millis(700));
    ensure!(
        !probe.has_answer(),
        "an echo came although the address is gone"
    );
    lab.netns(host)
        .ip(&format!("addr add {address}/24 dev eth0"))?;
    probe.answer(RECOVERY).context("with the address back")?;
    Probe::connect(lab, server6(PORT))?
        .echo(1_000, SOON)
        .context("over IPv6")
}

/// A wildcard listener serves an address that is added later, on the fast path.
fn address_added(lab: &Lab) -> Result<()> {
    let (_serving, _probe) = live(lab)?;
    lab.server.ip("addr add 10.77.0.50/24 dev eth0")?;
    std::thread::sleep(Duration::from_millis(100));
    let watch = lab.watch_kernel()?;
    Probe::connect(lab, "10.77.0.50:7700".parse()?)?.echo(10_000, SOON)?;
    watch.ensure_tcp_bypassed()
}

/// A wildcard listener also serves an interface that is added later, at least through the kernel.
fn interface_added(lab: &Lab) -> Result<()> {
    let (_serving, mut probe) = live(lab)?;
    flyover_e2e::netns::ip(&[
        "link",
        "add",
        "eth1",
        "netns",
        lab.server.name(),
        "type",
        "veth",
        "peer",
        "name",
        "eth1",
        "netns",
        lab.client.name(),
    ])?;
    lab.server.ip("addr add 10.79.0.1/24 dev eth1")?;
    lab.client.ip("addr add 10.79.0.2/24 dev eth1")?;
    lab.server.ip("link set eth1 up")?;
    lab.client.ip("link set eth1 up")?;
    Probe::connect(lab, "10.79.0.1:7700".parse()?)?.echo(100_000, SOON)?;
    probe.echo(10_000, SOON).context("on the first interface")
}
