//! What an address message means.

use flyover_cplane::{Addr, AddrFlags, Scope};
use flyover_wire::Ip;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

/// The address that a message is about; `None` for other families.
pub(super) fn addr(message: &AddressMessage) -> Option<Addr> {
    let header = &message.header;
    let v4 = match header.family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return None,
    };
    let (mut local, mut peer) = (None, None);
    let mut bits = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(Ip::from(*ip)),
            AddressAttribute::Address(ip) => peer = Some(Ip::from(*ip)),
            // The header holds the first eight of them only.
            AddressAttribute::Flags(flags) => bits = *flags,
            _ => {}
        }
    }
    // Without a far end, IPv6 names one address only (rtnetlink(7), IFA_LOCAL).
    let ip = local.or(peer)?;
    let peer = peer.unwrap_or(ip);
    if ip.is_v4() != v4 || peer.is_v4() != v4 || header.index == 0 {
        return None;
    }
    Some(Addr {
        ifindex: header.index,
        ip,
        peer,
        prefix_len: header.prefix_len,
        scope: Scope(header.scope.into()),
        flags: flags(bits, v4),
    })
}

fn flags(bits: AddressFlags, v4: bool) -> AddrFlags {
    let has = |flag| bits.contains(flag);
    let optimistic = has(AddressFlags::Optimistic);
    let pairs = [
        (has(AddressFlags::Secondary) && v4, AddrFlags::SECONDARY),
        // The same bit means something else for IPv6 (IFA_F_TEMPORARY).
        (has(AddressFlags::Secondary) && !v4, AddrFlags::TEMPORARY),
        // An optimistic address may be used, but better not (RFC 4429).
        (
            has(AddressFlags::Deprecated) || optimistic,
            AddrFlags::DEPRECATED,
        ),
        (
            has(AddressFlags::Tentative) && !optimistic,
            AddrFlags::TENTATIVE,
        ),
        (has(AddressFlags::Dadfailed), AddrFlags::TENTATIVE),
    ];
    let set = pairs.into_iter().filter(|(set, _)| *set);
    set.fold(AddrFlags::empty(), |flags, (_, flag)| flags.with(flag))
}
