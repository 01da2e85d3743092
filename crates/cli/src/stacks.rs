//! What the daemon says of its stacks, and a look into their memory.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, anyhow};
use flyover_config::{ProcessOpts, StackOpts, vars};
use flyover_core::{Stack, layout_len};
use flyover_proto::Client;
use flyover_shm::Map;
use serde::{Deserialize, Serialize};

use crate::daemon::{self, Found};

/// The daemon's answer to `Ps`. Fields that another version leaves out are empty.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(crate) struct Stacks {
    /// The daemon itself; root's, when this user has one, too.
    pub(crate) daemon: DaemonInfo,
    /// The user's own, beside root's.
    pub(crate) own_daemon: Option<DaemonInfo>,
    /// Stacks that this user may see.
    pub(crate) stacks: Vec<StackInfo>,
}

/// The daemon, and what clients did not get since its start.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(crate) struct DaemonInfo {
    /// Process number.
    pub(crate) pid: u32,
    /// It is an ordinary user's, and makes no V-NICs.
    pub(crate) local_only: bool,
    /// Connections of clients.
    pub(crate) connections: u64,
    /// Requests that were refused.
    pub(crate) refused: u64,
    /// Connections that were ended because the client does not keep to the protocol.
    pub(crate) broken: u64,
    /// Connections that were not accepted because there were too many.
    pub(crate) turned_away: u64,
}

/// One stack.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(crate) struct StackInfo {
    /// Its number.
    pub(crate) id: u32,
    /// `default`, `private`, or the name that the user gave.
    pub(crate) name: String,
    /// User; of a shared one the first.
    pub(crate) uid: u32,
    /// The daemon's policy lets several users share it.
    pub(crate) shared: bool,
    /// Network namespace, as `/proc/PID/ns/net` names it.
    pub(crate) netns: String,
    /// `live`, or what is happening to it.
    pub(crate) state: String,
    /// Bytes reserved.
    pub(crate) memory_bytes: u64,
    /// Bytes that were ever touched, and so take memory; `None` when the memory could not be looked at.
    pub(crate) used_bytes: Option<u64>,
    /// Sockets in the stack's table.
    pub(crate) sockets: Option<u32>,
    /// Process number of the keeper.
    pub(crate) keeper_pid: Option<u32>,
    /// Attached processes.
    pub(crate) processes: Vec<ProcessInfo>,
    /// V-NICs.
    pub(crate) vnics: Vec<VnicInfo>,
    /// Interfaces that could not get a V-NIC.
    pub(crate) problems: Vec<ProblemInfo>,
    /// Flow filters.
    pub(crate) filters: Vec<FilterInfo>,
    /// Local ports that the daemon has lent to it.
    pub(crate) lent_ports: u32,
}

/// A process that uses a stack.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(crate) struct ProcessInfo {
    /// Process number.
    pub(crate) pid: u32,
    /// Owner slot in the stack.
    pub(crate) owner: u32,
    /// Name of the program.
    pub(crate) command: String,
}

/// A V-NIC of a stack.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(crate) struct VnicInfo {
    /// Index in the stack's table.
    pub(crate) slot: u32,
    /// `packet` or `xdp`.
    pub(crate) kind: String,
    /// Interface.
    pub(crate) interface: String,
    /// Its index.
    pub(crate) ifindex: u32,
    /// Its queue.
    pub(crate) queue: u32,
    /// Why it is of this kind.
    pub(crate) why: String,
}

/// An interface without V-NIC.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(crate) struct ProblemInfo {
    /// Its index.
    pub(crate) ifindex: u32,
    /// What is in the way.
    pub(crate) why: String,
}

/// A flow filter.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(crate) struct FilterInfo {
    /// Its number.
    pub(crate) id: u32,
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// Local address and port.
    pub(crate) local: String,
    /// The peer, of a connection.
    pub(crate) remote: Option<String>,
    /// IPv4 and IPv6.
    pub(crate) dual: bool,
}

impl StackInfo {
    /// The kind of the V-NIC in a slot.
    pub(crate) fn kind_of(&self, slot: u32) -> Option<&str> {
        self.vnics
            .iter()
            .find(|v| v.slot == slot)
            .map(|v| v.kind.as_str())
    }
}

/// Connections to the daemons that this user may ask, at least one.
pub(crate) fn connect_all() -> anyhow::Result<Vec<Found>> {
    let options: ProcessOpts = vars::from_env()?;
    Ok(daemon::all(options.socket.as_str())?)
}

/// A connection to the first of them: root's, if it runs.
pub(crate) fn connect() -> anyhow::Result<Found> {
    let first = connect_all()?.into_iter().next();
    first.ok_or_else(|| daemon::DaemonError::NotRunning.into())
}

/// The stacks that this user may see.
pub(crate) fn list(client: &mut Client) -> anyhow::Result<Stacks> {
    let text = client.ps().context("asking for the stacks")?;
    serde_json::from_str(&text).context("reading the list of stacks")
}

/// A stack's memory, mapped read-only.
pub(crate) struct View {
    map: Map,
    opts: StackOpts,
    used_bytes: u64,
}

impl View {
    /// Maps it.
    pub(crate) fn open(client: &mut Client, id: u32) -> anyhow::Result<Self> {
        let (memory, len, words) = client
            .stack_fd(id)
            .with_context(|| format!("asking for the memory of stack {id}"))?;
        let opts = StackOpts::from_words(&words)?;
        if len < layout_len(&opts) {
            return Err(anyhow!("stack {id} is smaller than its options say"));
        }
        let len = usize::try_from(len)?;
        let map = Map::ro(&memory, len).context("mapping a stack's memory")?;
        // Blocks of 512 bytes, see stat(2).
        let used_bytes = File::from(memory)
            .metadata()
            .context("asking how large a stack is")?
            .blocks()
            * 512;
        let view = Self {
            map,
            opts,
            used_bytes,
        };
        if view.stack()?.is_ready() {
            Ok(view)
        } else {
            Err(anyhow!("stack {id} is of another version of Flyover"))
        }
    }

    /// Bytes of the memory that were ever touched.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The stack.
    pub(crate) fn stack(&self) -> anyhow::Result<Stack<'_>> {
        Stack::new(self.map.region(), &self.opts)
            .map_err(|_| anyhow!("the stack's memory does not fit its options"))
    }

    /// Copies bytes of the memory from `at` on; returns how many there were.
    pub(crate) fn copy_out(&self, at: usize, into: &mut [u8]) -> usize {
        self.map.region().bytes(at, into.len()).copy_out(into)
    }
}

/// The network namespace of this process, as the daemon names namespaces.
pub(crate) fn own_netns() -> anyhow::Result<String> {
    let link = std::fs::read_link("/proc/self/ns/net").context("looking at /proc/self/ns/net")?;
    Ok(link.to_string_lossy().into_owned())
}
