//! What the daemon could do for a client's network namespace, as JSON, for `flyover check`. Makes nothing.

use flyover_vnic::VnicKind;
use flyover_vnic::host::{Interface, choose, interface};
use serde::Serialize;

use crate::daemon::Daemon;
use crate::netns::NetNs;
use crate::peer::Peer;
use crate::power::NO_PRIVILEGE;
use crate::refusal::Refusal;

#[derive(Serialize)]
struct Report {
    daemon_pid: u32,
    version: &'static str,
    /// It is an ordinary user's: no V-NICs.
    local_only: bool,
    /// Interfaces that the daemon may use; empty: all.
    allowed_interfaces: Vec<String>,
    interfaces: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    ifindex: u32,
    mtu: u32,
    up: bool,
    /// Kind of V-NIC that an automatic choice gives: `packet`, `xdp`, or none.
    vnic: Option<&'static str>,
    why: String,
}

/// The report for `peer`'s namespace.
///
/// # Errors
/// The namespace cannot be entered.
pub fn json(daemon: &Daemon, peer: &Peer) -> Result<String, Refusal> {
    let ns = daemon.power.netns_of(peer)?;
    let interfaces =
        interfaces(&ns).map_err(|e| Refusal::failed("looking at the interfaces", e))?;
    let report = Report {
        daemon_pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION"),
        local_only: daemon.power.is_user(),
        allowed_interfaces: daemon.interfaces.clone(),
        interfaces: interfaces.iter().map(|i| row(daemon, i)).collect(),
    };
    serde_json::to_string(&report).map_err(|e| Refusal::failed("writing the report", e))
}

fn row(daemon: &Daemon, device: &Interface) -> Row {
    let allowed = daemon.interfaces.is_empty() || daemon.interfaces.contains(&device.name);
    let choice = choose(device);
    let (kind, why) = if daemon.power.is_user() {
        (None, NO_PRIVILEGE)
    } else if allowed {
        (choice.kind, choice.why)
    } else {
        (None, "not among the daemon's interfaces")
    };
    let vnic = kind.map(|kind| match kind {
        VnicKind::Packet => "packet",
        VnicKind::Xdp => "xdp",
        VnicKind::Mem => "mem",
    });
    Row {
        name: device.name.clone(),
        ifindex: device.ifindex,
        mtu: device.mtu,
        up: device.up,
        vnic,
        why: why.to_owned(),
    }
}

/// The interfaces of a namespace, by way of its own `/proc/net/dev`.
fn interfaces(ns: &NetNs) -> std::io::Result<Vec<Interface>> {
    ns.run(|| {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let names = table
            .lines()
            .skip(2)
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        let mut list: Vec<Interface> = names
            .filter_map(|name| {
                interface(rustix::net::netdevice::name_to_index(&probe().ok()?, &name).ok()?).ok()
            })
            .collect();
        list.sort_by_key(|i| i.ifindex);
        Ok(list)
    })?
}

fn probe() -> std::io::Result<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    Ok(socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}
