//! Making the V-NICs of a stack. Everything here runs in a thread of the stack's network namespace.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use flyover_config::{XdpMode as Mode, ZeroCopy};
use flyover_proto::{List, NicDesc, VnicPref};
use flyover_vnic::VnicKind;
use flyover_vnic::host::bpf::XdpAttach;
use flyover_vnic::host::{
    Interface, PacketConfig, XdpConfig, XdpTransfer, attach_filter, choose, create_packet,
    create_xdp, interface,
};

use crate::filters::FlowTable;
use crate::net::Steer;

/// A V-NIC that the daemon made, with its own copies of the descriptors: for the keeper, and for later processes.
#[derive(Debug)]
pub struct Nic {
    /// What goes to the processes with the descriptors.
    pub desc: NicDesc,
    /// The interface's name when it was made, for people.
    pub name: String,
    /// Why it is of this kind, for people.
    pub why: String,
    fds: Vec<OwnedFd>,
}

impl Nic {
    /// One that a daemon before this one made.
    pub fn found(desc: NicDesc, name: String, why: String, fds: Vec<OwnedFd>) -> Self {
        Self {
            desc,
            name,
            why,
            fds,
        }
    }

    /// Its descriptors, [`NicDesc::fd_count`] of them.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds.iter().map(|fd| fd.as_fd())
    }
}

/// How V-NICs are made.
#[derive(Clone, Copy, Debug)]
pub struct NicPolicy {
    /// What the client asks for.
    pub pref: VnicPref,
    /// How XDP programs are attached.
    pub mode: Mode,
    /// Whether AF_XDP sockets ask for zero-copy.
    pub zero_copy: ZeroCopy,
}

/// Makes the V-NICs of `stack` on one interface: one, or one per queue. Their slots are the first of `slots`; with too
/// few of them, none is made. When XDP was not demanded and does not work, a packet socket is.
///
/// # Errors
/// What the kernel says, for people.
pub fn make(
    ifindex: u32,
    stack: u32,
    policy: NicPolicy,
    slots: &[u16],
    flows: &mut FlowTable<Steer>,
) -> io::Result<Vec<Nic>> {
    let device = interface(ifindex)?;
    let choice = choose(&device);
    let kind = match (choice.kind, policy.pref) {
        (None, _) => return Err(io::Error::other(choice.why)),
        (Some(_), VnicPref::Packet) => VnicKind::Packet,
        (Some(_), VnicPref::Xdp) => VnicKind::Xdp,
        (Some(kind), VnicPref::Auto) => kind,
    };
    let why = if policy.pref == VnicPref::Auto {
        choice.why
    } else {
        "asked for"
    };
    if kind != VnicKind::Xdp {
        return make_packet(&device, stack, slots, flows, why.to_owned()).map(|nic| vec![nic]);
    }
    match make_xdp(&device, stack, policy, slots, flows, why) {
        Ok(nics) => Ok(nics),
        Err(e) => {
            tracing::warn!(
                interface = device.name,
                "no XDP V-NIC, a packet socket instead: {e}"
            );
            let why = format!("XDP does not work here: {e}");
            make_packet(&device, stack, slots, flows, why).map(|nic| vec![nic])
        }
    }
}

fn make_packet(
    device: &Interface,
    stack: u32,
    slots: &[u16],
    flows: &mut FlowTable<Steer>,
    why: String,
) -> io::Result<Nic> {
    let slot = *slots.first().ok_or(io::ErrorKind::StorageFull)?;
    let (sock, geometry) = create_packet(device.ifindex, &PacketConfig::default())?;
    // Locked in: whoever gets the socket can neither remove nor replace the filter.
    attach_filter(sock.as_fd(), flows.map_mut().stack_filter(stack)?.as_fd())?;
    flows.map_mut().use_packet(device.ifindex, stack)?;
    let desc = NicDesc {
        slot,
        kind: NicDesc::PACKET,
        ifindex: device.ifindex,
        queue: 0,
        mtu: geometry.mtu,
        mac: geometry.mac,
        geometry: List::new(geometry.to_words()),
    };
    Ok(Nic {
        desc,
        name: device.name.clone(),
        why,
        fds: vec![sock],
    })
}

fn make_xdp(
    device: &Interface,
    stack: u32,
    policy: NicPolicy,
    slots: &[u16],
    flows: &mut FlowTable<Steer>,
    why: &str,
) -> io::Result<Vec<Nic>> {
    let how = match policy.mode {
        Mode::Auto => XdpAttach::Auto,
        Mode::Native => XdpAttach::Native,
        Mode::Generic => XdpAttach::Generic,
    };
    flows.map_mut().prepare_xdp(device.ifindex, how)?;
    let made = make_queues(device, policy, slots, why).and_then(|nics| {
        let socks: Vec<_> = nics.iter().filter_map(|nic| nic.fds().next()).collect();
        flows.map_mut().use_xdp(device.ifindex, stack, &socks)?;
        Ok(nics)
    });
    if made.is_err() {
        flows.map_mut().leave(device.ifindex, stack);
    }
    made
}

/// One socket per queue: a packet reaches only a socket of its own queue.
fn make_queues(
    device: &Interface,
    policy: NicPolicy,
    slots: &[u16],
    why: &str,
) -> io::Result<Vec<Nic>> {
    let transfer = match policy.zero_copy {
        ZeroCopy::Auto => XdpTransfer::Auto,
        ZeroCopy::On => XdpTransfer::ZeroCopy,
        ZeroCopy::Off => XdpTransfer::Copy,
    };
    let config = XdpConfig {
        transfer,
        ..XdpConfig::default()
    };
    let mut nics = Vec::new();
    for queue in 0..device.rx_queues.max(1) {
        let made = match create_xdp(device.ifindex, queue, &config) {
            Ok(made) => made,
            // The kernel counts the queues that the device could have; those in use come first.
            Err(e) if queue > 0 && e.kind() == io::ErrorKind::InvalidInput => break,
            Err(e) => return Err(e),
        };
        let Some(slot) = slots.get(nics.len()) else {
            return Err(io::Error::other(format!(
                "{} queues, more than the stack has room for",
                device.rx_queues
            )));
        };
        let geometry = made.geometry;
        let desc = NicDesc {
            slot: *slot,
            kind: NicDesc::XDP,
            ifindex: device.ifindex,
            queue,
            mtu: geometry.mtu,
            mac: geometry.mac,
            geometry: List::new(geometry.to_words()),
        };
        let copies = if geometry.zero_copy {
            "zero-copy"
        } else {
            "copy"
        };
        let why = format!("{why}; {copies}");
        nics.push(Nic {
            desc,
            name: device.name.clone(),
            why,
            fds: vec![made.xsk, made.umem],
        });
    }
    Ok(nics)
}
