//! What a neighbour message means.

use flyover_cplane::writer::Change;
use flyover_cplane::{Neigh, NeighState};
use flyover_wire::{Ip, Mac};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

/// A neighbour that is there. What the kernel fills in without asking anybody (`NUD_NOARP`) is not
/// kept: readers know those addresses from the link.
pub(super) fn new_neigh(message: &NeighbourMessage) -> Option<Change> {
    let (ifindex, ip) = key(message)?;
    let lladdr = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                <[u8; 6]>::try_from(bytes.as_slice()).ok()
            }
            _ => None,
        });
    let state = match message.header.state {
        NeighbourState::Noarp => return Some(Change::DelNeigh { ifindex, ip }),
        NeighbourState::Incomplete => NeighState::Incomplete,
        NeighbourState::Reachable => NeighState::Reachable,
        NeighbourState::Stale => NeighState::Stale,
        NeighbourState::Delay => NeighState::Delay,
        NeighbourState::Probe => NeighState::Probe,
        NeighbourState::Failed => NeighState::Failed,
        NeighbourState::Permanent => NeighState::Permanent,
        _ => NeighState::None,
    };
    let state = if lladdr.is_none() && state.is_usable() {
        NeighState::None
    } else {
        state
    };
    Some(Change::Neigh(Neigh {
        ifindex,
        ip,
        mac: lladdr.map(Mac).unwrap_or_default(),
        state,
    }))
}

/// A neighbour that is gone.
pub(super) fn del_neigh(message: &NeighbourMessage) -> Option<Change> {
    key(message).map(|(ifindex, ip)| Change::DelNeigh { ifindex, ip })
}

fn key(message: &NeighbourMessage) -> Option<(u32, Ip)> {
    // Addresses that this host answers for are no neighbours.
    if message.header.flags.contains(NeighbourFlags::Proxy) || message.header.ifindex == 0 {
        return None;
    }
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                Some((message.header.ifindex, Ip::from(*ip)))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                Some((message.header.ifindex, Ip::from(*ip)))
            }
            _ => None,
        })
}
