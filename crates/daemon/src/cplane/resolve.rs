//! Making the kernel resolve a neighbour, on behalf of a stack.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flyover_cplane::{NeighState, Reader, Resolve};
use flyover_wire::Ip;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::send;

/// The same neighbour is not asked for more often: the kernel has its own pace.
const PAUSE: Duration = Duration::from_millis(100);
/// Neighbours whose pause is remembered.
const MOST: usize = 1024;

/// Asks the kernel. Usable from any thread.
pub(super) struct Resolver {
    socket: Socket,
    asked: Mutex<HashMap<(u32, Ip), Instant>>,
}

impl Resolver {
    /// Opens in the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket,
            asked: Mutex::default(),
        })
    }

    /// Asks for a neighbour, unless it was asked for just now or no route leads to it. A neighbour
    /// that is known is marked as used, so that the kernel keeps it and checks that it still lives; one that was entered by
    /// hand stays alone: to Linux `NTF_USE` also says that it is permanent no longer (`__neigh_update`).
    pub(super) fn ask(&self, reader: &Reader<'_>, ifindex: u32, ip: Ip) -> io::Result<()> {
        if !is_neighbour(reader, ifindex, ip) || !self.is_time(ifindex, ip, Instant::now()) {
            return Ok(());
        }
        let known = reader.neigh(ifindex, ip);
        if known.is_some_and(|neigh| neigh.state == NeighState::Permanent) {
            return Ok(());
        }
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.flags = NeighbourFlags::Use;
        let address = match ip.to_std() {
            std::net::IpAddr::V4(v4) => {
                message.header.family = AddressFamily::Inet;
                NeighbourAddress::Inet(v4)
            }
            std::net::IpAddr::V6(v6) => {
                message.header.family = AddressFamily::Inet6;
                NeighbourAddress::Inet6(v6)
            }
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(address));
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_CREATE;
        send(
            &self.socket,
            header,
            RouteNetlinkMessage::NewNeighbour(message),
        )?;
        self.complaints()
    }

    /// Only refusals are answered. They must not pile up.
    fn complaints(&self) -> io::Result<()> {
        let mut answer = [0_u8; 512];
        let mut refused = Ok(());
        while let Ok((len, _)) = rustix::net::recv(
            &self.socket,
            &mut answer[..],
            rustix::net::RecvFlags::DONTWAIT,
        ) {
            // struct nlmsgerr follows the header; its first word is the negative error number.
            if let Some(code) = answer.get(16..20).filter(|_| len >= 20) {
                let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                if code != 0 {
                    refused = Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                }
            }
        }
        refused
    }

    fn is_time(&self, ifindex: u32, ip: Ip, now: Instant) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= MOST {
            asked.retain(|_, last| now.saturating_duration_since(*last) < PAUSE);
        }
        match asked.get(&(ifindex, ip)) {
            Some(last) if now.saturating_duration_since(*last) < PAUSE => false,
            None if asked.len() >= MOST => false,
            _ => {
                asked.insert((ifindex, ip), now);
                true
            }
        }
    }
}

/// Would a packet ever be sent straight to `ip` on this interface? Keeps stacks from making the
/// kernel look for arbitrary addresses.
fn is_neighbour(reader: &Reader<'_>, ifindex: u32, ip: Ip) -> bool {
    if ifindex == 0 || ip.is_multicast() || ip.is_unspecified() {
        return false;
    }
    let on_link = match reader.resolve(ip, None, ifindex) {
        Resolve::Ready(fwd) => fwd.nexthop == ip,
        Resolve::NeedNeigh { nexthop, .. } => nexthop == ip,
        Resolve::Local | Resolve::Unreachable(_) => false,
    };
    on_link
        || reader
            .routes()
            .any(|r| r.hop.ifindex == ifindex && r.hop.gateway == Some(ip))
}
