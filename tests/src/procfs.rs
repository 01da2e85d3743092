//! What the kernel says about processes and namespaces: trees, CPU time, ports, SNMP counters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Fields of `/proc/<pid>/stat` (proc_pid_stat(5)), counted from the state, which is field 3.
struct Stat {
    state: char,
    parent: u32,
    /// Own user and system time, then that of reaped children, in ticks of 10 ms.
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and brackets: the fields start after the last one.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields
        .get(11..15)?
        .iter()
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks,
    })
}

fn all() -> Vec<(u32, Stat)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect()
}

/// All processes below `root`, without it. Zombies are included.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, stat) in all() {
        children.entry(stat.parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        for &child in children.get(&parent).into_iter().flatten() {
            found.push(child);
            next.push(child);
        }
    }
    found
}

/// Children of `parent` that have ended and wait to be reaped.
pub fn zombie_children(parent: u32) -> Vec<u32> {
    let ended = |stat: &Stat| stat.parent == parent && stat.state == 'Z';
    all()
        .into_iter()
        .filter(|(_, stat)| ended(stat))
        .map(|(pid, _)| pid)
        .collect()
}

/// Is there such a process, and is it more than a zombie?
pub fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// CPU time used so far by these processes together, children that they reaped included. The
/// kernel scales it to the exact run time but shows it in ticks of 10 ms.
pub fn cpu_time(pids: &[u32]) -> Duration {
    let ticks: u64 = pids
        .iter()
        .filter_map(|&pid| stat(pid))
        .map(|stat| stat.ticks)
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Memory that these processes use together, bytes: what several map counts once (`Pss` of proc_pid_smaps_rollup(5)).
pub fn memory(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

/// CPU time used by all processes of this run, and by the kernel threads that process packets.
pub fn cpu_of_run() -> Duration {
    let mut pids = descendants(std::process::id());
    pids.push(std::process::id());
    for (pid, stat) in all() {
        // Kernel threads are children of kthreadd, which is always process 2.
        if stat.parent == 2 && name_of(pid).is_some_and(|name| name.starts_with("ksoftirqd/")) {
            pids.push(pid);
        }
    }
    cpu_time(&pids)
}

/// The short command name.
pub fn name_of(pid: u32) -> Option<String> {
    Some(
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()?
            .trim()
            .to_owned(),
    )
}

/// Processes whose environment names a daemon socket below `directory`, or the place of an ordinary user's daemon: the
/// daemon of a lab, its keepers, and the programs that were started under it.
pub fn using_directory(directory: &Path) -> Vec<u32> {
    let wanted = ["FLYOVER_SOCKET", "XDG_RUNTIME_DIR"]
        .map(|name| format!("{name}={}/", directory.display()));
    all()
        .into_iter()
        .map(|(pid, _)| pid)
        .filter(|&pid| pid != std::process::id())
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| {
                wanted
                    .iter()
                    .any(|wanted| entry.starts_with(wanted.as_bytes()))
            })
        })
        .collect()
}

/// TCP or UDP, as seen in `/proc/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

impl Proto {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Ports of the namespace with a listening TCP (or a bound UDP) socket, of both families.
pub fn listening_ports(netns: &Netns, proto: Proto) -> Result<BTreeSet<u16>> {
    let read = |family: &str| {
        fs::read_to_string(format!("/proc/thread-self/net/{}{family}", proto.name()))
            .unwrap_or_default()
    };
    let tables = netns.enter(|| [read(""), read("6")])?;
    // TCP_LISTEN is 0A; a UDP socket without a peer is shown as TCP_CLOSE, 07.
    let state = match proto {
        Proto::Tcp => "0A",
        Proto::Udp => "07",
    };
    let mut ports = BTreeSet::new();
    for line in tables.iter().flat_map(|table| table.lines().skip(1)) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(&found)) = (fields.get(1), fields.get(3)) else {
            continue;
        };
        let port = local
            .rsplit_once(':')
            .and_then(|(_, hex)| u16::from_str_radix(hex, 16).ok());
        if let (true, Some(port)) = (found == state, port) {
            ports.insert(port);
        }
    }
    Ok(ports)
}

/// Counters of one namespace's own stack, by name as in `/proc/net/snmp` (`Tcp.InSegs`).
#[derive(Clone, Debug)]
pub struct Snmp(BTreeMap<String, u64>);

impl Snmp {
    /// Reads them now. UDP over IPv6 is added to the UDP counters.
    pub fn read(netns: &Netns) -> Result<Self> {
        let (v4, v6) = netns.enter(|| {
            (
                fs::read_to_string("/proc/thread-self/net/snmp"),
                fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default(),
            )
        })?;
        let v4 = v4.context("reading /proc/net/snmp")?;
        let mut counters = BTreeMap::new();
        let lines: Vec<&str> = v4.lines().collect();
        for pair in lines.chunks_exact(2) {
            let (names, values) = (pair[0].split_whitespace(), pair[1].split_whitespace());
            let group = pair[0].split(':').next().unwrap_or_default();
            for (name, value) in names.zip(values).skip(1) {
                if let Ok(value) = value.parse() {
                    counters.insert(format!("{group}.{name}"), value);
                }
            }
        }
        for line in v6.lines() {
            let mut fields = line.split_whitespace();
            if let (Some(name), Some(Ok(value))) = (fields.next(), fields.next().map(str::parse))
                && let Some(name) = name.strip_prefix("Udp6")
            {
                let value: u64 = value;
                *counters.entry(format!("Udp.{name}")).or_default() += value;
            }
        }
        Ok(Self(counters))
    }

    /// How far a counter has moved since `earlier`.
    pub fn since(&self, earlier: &Self, name: &str) -> u64 {
        let at = |snmp: &Self| snmp.0.get(name).copied().unwrap_or(0);
        at(self).saturating_sub(at(earlier))
    }
}

/// Bytes and packets that an interface of the namespace has sent so far.
pub fn sent_by(netns: &Netns, interface: &str) -> Result<(u64, u64)> {
    let text = netns
        .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?
        .context("reading /proc/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))
        .with_context(|| format!("no interface {interface} in {}", netns.name()))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    match fields.get(8..10) {
        Some(&[bytes, packets]) => Ok((bytes, packets)),
        _ => anyhow::bail!("unexpected line in /proc/net/dev: {line}"),
    }
}
