//! What a process that died left in its private bpffs, for its successor: maps, their contents, attachments.

use std::os::fd::{AsFd, OwnedFd};

use aya::maps::MapInfo;
use flyover_wire::{Endpoint, Ip};
use rustix::fs::{AtFlags, FsWord, StatxFlags, fstatfs, makedev, statx};

use super::link::{DROP_NAME, XDP_NAME, found_drop, found_xdp};
use super::pins::Pins;
use super::{BpfError, DropLink, Flow, FlowKey, FlowMaps, VnicTarget, XdpAttachment};
use crate::VnicKind;

/// Changes with what the programs and their users agree on (bpf/flow.h): maps and programs of another one are not to
/// be touched. FNV-1a.
pub const ABI: u64 = {
    let text = include_bytes!("../../../../../bpf/flow.h");
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < text.len() {
        hash = (hash ^ text[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
};

/// `BPF_FS_MAGIC`.
const BPF_FS: FsWord = 0xcafe_4a11;

/// What [`FlowMaps::found`] brings besides the maps.
#[derive(Debug, Default)]
pub struct Found {
    /// `tc_drop`, by interface.
    pub drops: Vec<(u32, DropLink)>,
    /// `xdp_flow`, by interface.
    pub xdps: Vec<(u32, XdpAttachment)>,
    /// Where stacks receive: interface, stack, how.
    pub vnics: Vec<(u32, u32, VnicTarget)>,
    /// Which stack has which flow.
    pub flows: Vec<(Flow, u32)>,
}

impl FlowMaps {
    /// The number of the map of flows, which the kernel gives to no other map, and that of the file system.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn identity(&self) -> Result<(u32, u64), BpfError> {
        let map = map_id(&self.pins)?;
        let dev = device(&self.pins.mount())?;
        Ok((map, dev))
    }

    /// Takes over what the holder of `mount` kept from the process that made it. `identity` is what
    /// [`FlowMaps::identity`] said there: whatever else the descriptor is, it is refused. (It comes from an unprivileged
    /// process: nothing is asked of its file system before it is known.)
    ///
    /// # Errors
    /// It is another one; else as [`FlowMaps::load`].
    pub fn found(mount: OwnedFd, identity: (u32, u64)) -> Result<(Self, Found), BpfError> {
        let other = || BpfError::Missing("file system of the daemon before");
        let is_bpf = |fd: &OwnedFd| fstatfs(fd).is_ok_and(|s| s.f_type == BPF_FS);
        if device(&mount)? != identity.1 || !is_bpf(&mount) {
            return Err(other());
        }
        let pins = Pins::of(mount);
        if map_id(&pins)? != identity.0 {
            return Err(other());
        }
        let maps = Self::load_at(pins)?;
        // Last: they are detached when they are dropped.
        let (drops, xdps) = attachments(&maps.pins)?;
        let found = Found {
            drops,
            xdps,
            vnics: maps.vnics(),
            flows: maps.flows(),
        };
        Ok((maps, found))
    }

    fn vnics(&self) -> Vec<(u32, u32, VnicTarget)> {
        let rows = self.vnics.iter().flatten();
        rows.map(|(key, value)| {
            let at = if value.kind == VnicKind::Xdp as u32 {
                VnicTarget::Xdp {
                    xsk_base: value.xsk_base,
                    queues: value.queues,
                }
            } else {
                VnicTarget::Packet
            };
            (key.ifindex, key.stack, at)
        })
        .collect()
    }

    fn flows(&self) -> Vec<(Flow, u32)> {
        let rows = self.flows.iter().flatten();
        rows.map(|(key, stack)| (flow(&key), stack)).collect()
    }
}

fn flow(key: &FlowKey) -> Flow {
    let end = |ip: [u8; 16], port: [u8; 2]| Endpoint {
        ip: Ip(ip),
        port: u16::from_be_bytes(port),
    };
    let any = key.raddr == [0; 16] && key.rport == [0; 2];
    Flow {
        proto: key.proto,
        local: end(key.laddr, key.lport),
        remote: (!any).then(|| end(key.raddr, key.rport)),
    }
}

fn map_id(pins: &Pins) -> Result<u32, BpfError> {
    let info = MapInfo::from_pin(pins.path().join("flows"));
    Ok(info.map_err(|e| BpfError::Map("flows", e))?.id())
}

/// The number of the file system, as the kernel has it, without a question to whoever serves the file system.
fn device(mount: &impl AsFd) -> Result<u64, BpfError> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(mount, "", flags, StatxFlags::TYPE);
    let stat = stat.map_err(|e| BpfError::Os("looking at a file system", e.into()))?;
    Ok(makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

type Attachments = (Vec<(u32, DropLink)>, Vec<(u32, XdpAttachment)>);

/// Attachments of interfaces that are gone are passed over: so is their name.
fn attachments(pins: &Pins) -> Result<Attachments, BpfError> {
    let names = |kind| {
        let list = pins.interfaces(kind);
        list.map_err(|e| BpfError::Os("reading a private bpffs", e))
    };
    let path = pins.path();
    let drops = names(DROP_NAME)?.into_iter();
    let xdps = names(XDP_NAME)?.into_iter();
    Ok((
        drops
            .filter_map(|i| Some((i, found_drop(&path, i).ok()?)))
            .collect(),
        xdps.filter_map(|i| Some((i, found_xdp(&path, i).ok()?)))
            .collect(),
    ))
}
