//! What there is, as JSON, for `flyover ps` and `flyover ss`. Users see their own stacks, root sees all.

use std::sync::atomic::Ordering::Relaxed;

use flyover_proto::{FilterSpec, NicDesc};
use serde::Serialize;

use crate::daemon::Daemon;
use crate::nic::Nic;
use crate::peer::Peer;
use crate::stacks::{Life, Live, Stack};

#[derive(Serialize)]
struct Report {
    daemon: DaemonRow,
    stacks: Vec<StackRow>,
}

#[derive(Serialize)]
struct DaemonRow {
    pid: u32,
    version: &'static str,
    /// It is an ordinary user's: no V-NICs.
    local_only: bool,
    uptime_seconds: u64,
    connections: usize,
    /// Since the start: requests that were refused, connections that were ended because the client does not keep to
    /// the protocol, connections that were not accepted because there were too many.
    refused: u64,
    broken: u64,
    turned_away: u64,
}

#[derive(Serialize)]
struct StackRow {
    id: u32,
    name: String,
    uid: u32,
    /// Its users are those of the policy (`--share`); `uid` is the first one's.
    shared: bool,
    /// As `ls -l /proc/PID/ns/net` shows it; empty while the stack is being made.
    netns: String,
    /// `making`, `busy` (changing right now), `live`.
    state: &'static str,
    memory_bytes: u64,
    keeper_pid: Option<u32>,
    processes: Vec<ProcessRow>,
    vnics: Vec<VnicRow>,
    problems: Vec<ProblemRow>,
    filters: Vec<FilterRow>,
    /// Local ports that the stack is lent.
    lent_ports: usize,
}

#[derive(Serialize)]
struct ProcessRow {
    owner: u16,
    pid: u32,
    command: String,
}

#[derive(Serialize)]
struct VnicRow {
    slot: u16,
    interface: String,
    ifindex: u32,
    kind: &'static str,
    queue: u32,
    mtu: u32,
    mac: String,
    why: String,
    /// How the XDP program is attached.
    xdp_mode: Option<String>,
}

#[derive(Serialize)]
struct ProblemRow {
    ifindex: u32,
    why: String,
}

#[derive(Serialize)]
struct FilterRow {
    id: u32,
    protocol: &'static str,
    local: String,
    remote: Option<String>,
    dual: bool,
}

/// The report that `peer` may see.
pub fn json(daemon: &Daemon, peer: &Peer) -> String {
    let visible = |stack: &Stack| stack.is_open_to(daemon, peer);
    let report = Report {
        daemon: DaemonRow {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            local_only: daemon.power.is_user(),
            uptime_seconds: daemon.started.elapsed().as_secs(),
            connections: daemon.session_count(),
            refused: daemon.denials.refused.load(Relaxed),
            broken: daemon.denials.broken.load(Relaxed),
            turned_away: daemon.denials.turned_away.load(Relaxed),
        },
        stacks: daemon
            .stacks
            .list()
            .iter()
            .filter(|s| visible(s))
            .filter_map(|s| row(s))
            .collect(),
    };
    serde_json::to_string(&report).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
}

fn row(stack: &Stack) -> Option<StackRow> {
    let mut row = StackRow {
        id: stack.id,
        name: stack.wanted.name.clone(),
        uid: stack.wanted.uid,
        shared: stack.is_shared(),
        netns: String::new(),
        state: "busy",
        memory_bytes: stack.wanted.len,
        keeper_pid: None,
        processes: Vec::new(),
        vnics: Vec::new(),
        problems: Vec::new(),
        filters: Vec::new(),
        lent_ports: 0,
    };
    // A stack that is being changed is not waited for.
    let Some(life) = stack.life_soon() else {
        return Some(row);
    };
    match &*life {
        Life::New => row.state = "making",
        Life::Gone => return None,
        Life::Live(live) => fill(&mut row, stack, live),
    }
    Some(row)
}

fn fill(row: &mut StackRow, stack: &Stack, live: &Live) {
    row.state = "live";
    row.netns = live.net.ns().id().to_string();
    row.keeper_pid = live.keeper.as_ref().map(|keeper| keeper.pid());
    let owners = live.owners.iter();
    row.processes = owners
        .map(|(owner, o)| ProcessRow {
            owner: *owner,
            pid: o.pid,
            command: o.command.clone(),
        })
        .collect();
    let flows = live.net.flows();
    row.vnics = live
        .nics
        .iter()
        .map(|nic| vnic(nic, flows.map().xdp_mode(nic.desc.ifindex)))
        .collect();
    row.problems = live
        .problems
        .iter()
        .map(|(i, why)| ProblemRow {
            ifindex: *i,
            why: why.clone(),
        })
        .collect();
    row.filters = flows
        .of_stack(stack.id)
        .into_iter()
        .map(|(id, spec)| filter(id, spec))
        .collect();
    row.lent_ports = flows.lent(stack.id).len();
}

fn vnic(nic: &Nic, mode: Option<String>) -> VnicRow {
    let NicDesc {
        slot,
        kind,
        ifindex,
        queue,
        mtu,
        mac,
        ..
    } = &nic.desc;
    let is_xdp = *kind == NicDesc::XDP;
    VnicRow {
        slot: *slot,
        interface: nic.name.clone(),
        ifindex: *ifindex,
        kind: if is_xdp { "xdp" } else { "packet" },
        queue: *queue,
        mtu: *mtu,
        mac: mac.to_string(),
        why: nic.why.clone(),
        xdp_mode: mode.filter(|_| is_xdp),
    }
}

fn filter(id: u32, spec: FilterSpec) -> FilterRow {
    let FilterSpec {
        proto,
        local,
        remote,
        dual,
    } = spec;
    FilterRow {
        id,
        protocol: if proto == 6 { "tcp" } else { "udp" },
        local: local.to_string(),
        remote: remote.map(|r| r.to_string()),
        dual,
    }
}
