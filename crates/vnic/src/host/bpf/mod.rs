//! Flow steering in the kernel: loads `bpf/flow.bpf.c` and keeps its maps and attachments.
//!
//! One [`FlowMaps`] per network namespace. Attachments are BPF links: when this process dies, however, and
//! nobody else holds [`FlowMaps::keepalive`], the interfaces are as they were before.

mod found;
mod key;
mod link;
mod pins;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData, MapError, XskMap};
use aya::programs::{ProgramError, SocketFilter};
use aya::{Ebpf, EbpfError, EbpfLoader};

pub use found::{ABI, Found};
pub use key::Flow;
use key::{FlowKey, VnicKey, VnicValue};
pub use link::{DropLink, XdpAttach, XdpAttachment};
use pins::Pins;

use crate::VnicKind;

/// The compiled programs, aligned as an ELF parser wants them.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/flow.bpf.o")));

/// The stack id that means "the kernel's": a flow given to it passes although a wildcard would match.
pub const PASS: u32 = u32::MAX;
/// With a stack id: the kernel's, and [`PASS`] once a packet of the flow was seen where that stack's V-NIC receives.
pub const WATCH: u32 = 1 << 31;
/// Entries of the map of XDP sockets.
pub const MAX_XSKS: u32 = 4096;

/// Why flow steering does not work.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The object does not load: old kernel, no privilege, or the verifier refused it.
    #[error("loading the flow programs")]
    Load(#[from] EbpfError),
    /// A program does not load or attach.
    #[error("flow program {0}")]
    Program(&'static str, #[source] ProgramError),
    /// A map operation failed.
    #[error("flow map {0}")]
    Map(&'static str, #[source] MapError),
    /// The object lacks a map or program that this crate knows.
    #[error("the flow object has no {0}")]
    Missing(&'static str),
    /// Another XDP program is on the interface.
    #[error("interface {ifindex} has an XDP program of somebody else")]
    Foreign {
        /// The interface.
        ifindex: u32,
    },
    /// A system call failed.
    #[error("{0}")]
    Os(&'static str, #[source] io::Error),
}

/// Where a stack receives on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VnicTarget {
    /// Its packet socket, which has this stack's filter.
    Packet,
    /// Its XDP sockets, one per queue, at `xsk_base + queue` of the map.
    Xdp {
        /// Index of queue 0's socket.
        xsk_base: u32,
        /// Queues.
        queues: u32,
    },
}

/// The flow maps and programs of one network namespace.
pub struct FlowMaps {
    ebpf: Ebpf,
    flows: HashMap<MapData, FlowKey, u32>,
    ports: Array<MapData, u32>,
    /// What is known to be set there, by port.
    used: Box<[u8]>,
    vnics: HashMap<MapData, VnicKey, VnicValue>,
    xsks: XskMap<MapData>,
    pins: Pins,
}

impl FlowMaps {
    /// Loads maps and programs; attaches nothing.
    ///
    /// # Errors
    /// EPERM without CAP_BPF and CAP_NET_ADMIN, or whatever the verifier says.
    pub fn load() -> Result<Self, BpfError> {
        let pins = Pins::new().map_err(|e| BpfError::Os("making a private bpffs", e))?;
        Self::load_at(pins)
    }

    /// Maps that the file system holds already are used as they are.
    fn load_at(pins: Pins) -> Result<Self, BpfError> {
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.path())
            .load(&OBJECT.0)?;
        link::load(&mut ebpf)?;
        let flows = HashMap::try_from(take(&mut ebpf, "flows")?);
        let ports = Array::try_from(take(&mut ebpf, "ports")?);
        let vnics = HashMap::try_from(take(&mut ebpf, "vnics")?);
        let xsks = XskMap::try_from(take(&mut ebpf, "xsks")?);
        Ok(Self {
            flows: flows.map_err(|e| BpfError::Map("flows", e))?,
            ports: ports.map_err(|e| BpfError::Map("ports", e))?,
            used: vec![0; 1 << 16].into(),
            vnics: vnics.map_err(|e| BpfError::Map("vnics", e))?,
            xsks: xsks.map_err(|e| BpfError::Map("xsks", e))?,
            ebpf,
            pins,
        })
    }

    /// A descriptor that keeps maps and attachments when this process dies, for a process that goes on with
    /// the V-NICs. It opens nothing to an unprivileged one.
    pub fn keepalive(&self) -> BorrowedFd<'_> {
        self.pins.mount()
    }

    /// Gives a flow to a stack (or to [`PASS`]); replaces what it was.
    ///
    /// # Errors
    /// E2BIG when there are 262144 flows.
    pub fn insert(&mut self, flow: &Flow, stack: u32) -> Result<(), BpfError> {
        let key = FlowKey::of(flow);
        self.note_port(&key)
            .map_err(|e| BpfError::Map("ports", e))?;
        self.flows
            .insert(key, stack, 0)
            .map_err(|e| BpfError::Map("flows", e))
    }

    /// From now on packets to its port are looked up where this flow is found.
    fn note_port(&mut self, key: &FlowKey) -> Result<(), MapError> {
        let (port, bit) = (key.port(), key.use_of_port());
        let known = self.used.get(port as usize).copied().unwrap_or_default();
        if u32::from(known) & bit != 0 {
            return Ok(());
        }
        let uses = self.ports.get(&port, 0)? | bit;
        self.ports.set(port, uses, 0)?;
        if let Some(known) = self.used.get_mut(port as usize) {
            *known = uses as u8;
        }
        Ok(())
    }

    /// Takes a flow from whoever has it. Fine when nobody has.
    ///
    /// # Errors
    /// What the system call says.
    pub fn remove(&mut self, flow: &Flow) -> Result<(), BpfError> {
        gone("flows", self.flows.remove(&FlowKey::of(flow)))
    }

    /// The stack that has exactly this flow.
    pub fn owner(&self, flow: &Flow) -> Option<u32> {
        self.flows.get(&FlowKey::of(flow), 0).ok()
    }

    /// Says where a stack receives on an interface. Until then its flows there pass to the kernel.
    ///
    /// # Errors
    /// What the system call says.
    pub fn set_vnic(&mut self, ifindex: u32, stack: u32, at: VnicTarget) -> Result<(), BpfError> {
        let value = match at {
            VnicTarget::Packet => VnicValue {
                kind: VnicKind::Packet as u32,
                xsk_base: 0,
                queues: 0,
            },
            VnicTarget::Xdp { xsk_base, queues } => VnicValue {
                kind: VnicKind::Xdp as u32,
                xsk_base,
                queues,
            },
        };
        let key = VnicKey { ifindex, stack };
        self.vnics
            .insert(key, value, 0)
            .map_err(|e| BpfError::Map("vnics", e))
    }

    /// The stack no longer receives on the interface. Fine when it did not.
    ///
    /// # Errors
    /// What the system call says.
    pub fn remove_vnic(&mut self, ifindex: u32, stack: u32) -> Result<(), BpfError> {
        gone("vnics", self.vnics.remove(&VnicKey { ifindex, stack }))
    }

    /// Puts an XDP socket into the map.
    ///
    /// # Errors
    /// An index from [`MAX_XSKS`] on.
    pub fn set_xsk(&mut self, index: u32, xsk: BorrowedFd<'_>) -> Result<(), BpfError> {
        self.xsks
            .set(index, xsk.as_raw_fd(), 0)
            .map_err(|e| BpfError::Map("xsks", e))
    }

    /// Takes an XDP socket out. Fine when there is none: a closed socket leaves by itself.
    ///
    /// # Errors
    /// An index from [`MAX_XSKS`] on.
    pub fn remove_xsk(&mut self, index: u32) -> Result<(), BpfError> {
        gone("xsks", self.xsks.unset(index))
    }

    /// Steers an interface's packets to XDP sockets. Packets of flows without an XDP V-NIC pass.
    ///
    /// # Errors
    /// [`BpfError::Foreign`] when another XDP program is attached; it is left alone.
    pub fn attach_xdp(&mut self, ifindex: u32, how: XdpAttach) -> Result<XdpAttachment, BpfError> {
        link::attach_xdp(&mut self.ebpf, &self.pins.path(), ifindex, how)
    }

    /// Keeps the kernel's stack from the packets that packet V-NICs on this interface receive. Runs before
    /// other tcx programs.
    ///
    /// # Errors
    /// What the kernel says; tcx needs Linux 6.6.
    pub fn attach_drop(&mut self, ifindex: u32) -> Result<DropLink, BpfError> {
        link::attach_drop(&mut self.ebpf, &self.pins.path(), ifindex)
    }

    /// A socket filter that takes the flows of one stack; for [`attach_filter`](super::attach_filter). The
    /// program stays loaded as long as a socket has it.
    ///
    /// # Errors
    /// What loading says.
    pub fn stack_filter(&self, stack: u32) -> Result<OwnedFd, BpfError> {
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(self.pins.path())
            .override_global("my_stack", &stack, true)
            .load(&OBJECT.0)?;
        let program = ebpf
            .program_mut("sock_flow")
            .ok_or(BpfError::Missing("sock_flow"))?;
        let failed = |e| BpfError::Program("sock_flow", e);
        let filter: &mut SocketFilter = program.try_into().map_err(failed)?;
        filter.load().map_err(failed)?;
        let fd = filter.fd().map_err(failed)?;
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|e| BpfError::Os("keeping a socket filter", e))
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, BpfError> {
    ebpf.take_map(name).ok_or(BpfError::Missing(name))
}

/// "It was not there" is as good as "it is no longer there".
fn gone(map: &'static str, result: Result<(), MapError>) -> Result<(), BpfError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map_err(|e| BpfError::Map(map, e)),
    }
}
