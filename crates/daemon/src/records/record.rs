//! A stack's note.

use flyover_config::StackOpts;
use flyover_proto::{List, NicDesc, VERSION, VnicPref};
use flyover_wire::Mac;
use serde::{Deserialize, Serialize};

use super::ident::{Ident, ProcessId};

/// What must be the same in the daemon that made a stack and in the one that takes it over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Build {
    /// Of these notes.
    pub notes: u32,
    /// Of the messages between daemon and keeper.
    pub protocol: u32,
    /// Layout of the stack's memory.
    pub layout: u64,
    /// Layout of the control plane.
    pub cplane: u64,
    /// Of the flow maps.
    pub flows: u64,
}

impl Build {
    /// This one.
    pub const OURS: Self = Self {
        notes: 2,
        protocol: VERSION,
        layout: flyover_core::LAYOUT_HASH,
        cplane: flyover_cplane::LAYOUT_HASH,
        flows: flyover_vnic::host::bpf::ABI,
    };
}

/// A network namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NsNote {
    /// `SO_NETNS_COOKIE`: no other namespace ever has it.
    pub cookie: u64,
    /// The file that stands for it.
    pub file: Ident,
}

/// The flow maps: number of the first one, and of the file system that keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MapsId {
    /// No other BPF map ever has it.
    pub flows: u32,
    /// Device number.
    pub device: u64,
}

/// Who finds the stack.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Known {
    /// Nobody but its own processes.
    Private,
    /// Its user's processes.
    Default,
    /// Those that give this name.
    Named(String),
    /// Those that give this name and whom the policy lets.
    Shared(String),
}

/// A V-NIC.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NicNote {
    slot: u16,
    kind: u8,
    ifindex: u32,
    queue: u32,
    mtu: u32,
    mac: [u8; 6],
    geometry: Vec<u64>,
    /// The interface's name, for people.
    pub name: String,
    /// Why it is of this kind, for people.
    pub why: String,
    /// Its descriptors.
    pub fds: Vec<Ident>,
}

impl NicNote {
    /// Of a V-NIC.
    pub fn new(desc: &NicDesc, name: &str, why: &str, fds: Vec<Ident>) -> Self {
        Self {
            slot: desc.slot,
            kind: desc.kind,
            ifindex: desc.ifindex,
            queue: desc.queue,
            mtu: desc.mtu,
            mac: desc.mac.0,
            geometry: desc.geometry.to_vec(),
            name: name.to_owned(),
            why: why.to_owned(),
            fds,
        }
    }

    /// Its description for processes.
    pub fn desc(&self) -> NicDesc {
        NicDesc {
            slot: self.slot,
            kind: self.kind,
            ifindex: self.ifindex,
            queue: self.queue,
            mtu: self.mtu,
            mac: Mac(self.mac),
            geometry: List::new(self.geometry.iter().copied()),
        }
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The daemon's.
    pub build: Build,
    /// Number of the stack.
    pub id: u32,
    /// Proves to the keeper that the sender is a daemon of this stack.
    pub token: (u64, u64),
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its container; `None`: the daemon's own.
    pub container: Option<Ident>,
    /// What people call it.
    pub name: String,
    /// Who finds it.
    pub known: Known,
    /// Its options, as words.
    pub opts: Vec<u64>,
    /// Bytes of its memory.
    pub len: u64,
    /// Interfaces to accelerate; empty: all that can be.
    pub interfaces: Vec<String>,
    /// The kind of V-NICs that was asked for: 0, 1, 2 as [`VnicPref`].
    pub pref: u8,
    /// Its network namespace.
    pub ns: NsNote,
    /// The flow maps that its sockets look into.
    pub maps: MapsId,
    /// Table sizes of its control plane, as words.
    pub dims: Vec<u64>,
    /// Its memory.
    pub memory: Ident,
    /// The socket that hears of the end of sockets.
    pub deaths: Ident,
    /// The socket that holds its number.
    pub claim: Ident,
    /// Its keeper.
    pub keeper: ProcessId,
    /// Generation of the list of V-NICs.
    pub nic_gen: u32,
    /// The V-NICs.
    pub nics: Vec<NicNote>,
}

/// What the notes of every build contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub struct Head {
    /// The daemon's.
    pub build: Build,
    /// Number of the stack.
    pub id: u32,
    /// Its keeper.
    pub keeper: ProcessId,
    /// The flow maps that its sockets look into.
    pub maps: MapsId,
}

/// A note as it is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// Of this build: everything.
    Ours(Box<Record>),
    /// Of another one.
    Foreign(Head),
}

impl Note {
    /// From its text.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let head: Head = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if head.build != Build::OURS {
            return Ok(Self::Foreign(head));
        }
        let record = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        Ok(Self::Ours(Box::new(record)))
    }

    /// What every note has.
    pub fn head(&self) -> Head {
        match self {
            Self::Foreign(head) => *head,
            Self::Ours(record) => Head {
                build: record.build,
                id: record.id,
                keeper: record.keeper,
                maps: record.maps,
            },
        }
    }
}

impl Record {
    /// Its options.
    pub fn opts(&self) -> Option<StackOpts> {
        StackOpts::from_words(&self.opts).ok()
    }

    /// The kind of V-NICs that was asked for.
    pub fn pref(&self) -> VnicPref {
        match self.pref {
            1 => VnicPref::Packet,
            2 => VnicPref::Xdp,
            _ => VnicPref::Auto,
        }
    }
}
