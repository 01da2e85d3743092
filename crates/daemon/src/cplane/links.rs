//! What a link message means.

use flyover_cplane::writer::Change;
use flyover_cplane::{Link, LinkFlags, LinkKind, LinkName};
use flyover_wire::Mac;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoKind, LinkAttribute, LinkFlags as Iff, LinkInfo, LinkLayerType,
    LinkMessage,
};

/// An interface that is there. `None` for what is not about an interface as a whole: bridge ports
/// (another family), wireless events (without MTU).
pub(super) fn new_link(message: &LinkMessage) -> Option<Change> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec || header.index == 0 {
        return None;
    }
    let has = |flag: Iff| header.flags.contains(flag);
    let mut link = Link {
        ifindex: header.index,
        mac: Mac::ZERO,
        mtu: 0,
        up: has(Iff::Up) && has(Iff::LowerUp),
        kind: if has(Iff::Loopback) {
            LinkKind::Loopback
        } else {
            LinkKind::Device
        },
        flags: LinkFlags::empty(),
        master: 0,
        lower: 0,
        name: LinkName::default(),
    };
    let pairs = [
        (
            header.link_layer_type == LinkLayerType::Ether,
            LinkFlags::ETHER,
        ),
        (has(Iff::Loopback), LinkFlags::LOOPBACK),
        (has(Iff::Up), LinkFlags::ADMIN_UP),
        (has(Iff::Noarp), LinkFlags::NOARP),
        (has(Iff::Pointopoint), LinkFlags::POINT_TO_POINT),
        (prefers_temporary(message), LinkFlags::TEMPORARY),
    ];
    for (_, flag) in pairs.into_iter().filter(|(set, _)| *set) {
        link.flags = link.flags.with(flag);
    }
    let mut lower_elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = LinkName::new(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice())
                    .map(Mac)
                    .unwrap_or_default();
            }
            LinkAttribute::Controller(master) => link.master = *master,
            LinkAttribute::Link(lower) => link.lower = *lower,
            LinkAttribute::LinkNetNsId(_) => lower_elsewhere = true,
            LinkAttribute::LinkInfo(info) => {
                let kind = info.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
                link.kind = kind.map_or(link.kind, kind_of);
            }
            _ => {}
        }
    }
    if lower_elsewhere {
        link.lower = 0;
    }
    (link.mtu != 0).then_some(Change::Link(link))
}

/// An interface that is gone. A port that leaves its bridge is not.
pub(super) fn del_link(message: &LinkMessage) -> Option<Change> {
    let whole = message.header.interface_family == AddressFamily::Unspec;
    whole.then_some(Change::DelLink {
        ifindex: message.header.index,
    })
}

fn kind_of(kind: &InfoKind) -> LinkKind {
    match kind {
        InfoKind::Veth => LinkKind::Veth,
        InfoKind::Vlan => LinkKind::Vlan,
        InfoKind::Bridge => LinkKind::Bridge,
        InfoKind::Bond | InfoKind::Team => LinkKind::Bond,
        InfoKind::MacVlan | InfoKind::MacVtap => LinkKind::Macvlan,
        InfoKind::IpVlan | InfoKind::IpVtap => LinkKind::Ipvlan,
        InfoKind::Tun => LinkKind::Tun,
        InfoKind::Dummy => LinkKind::Dummy,
        InfoKind::Vrf => LinkKind::Vrf,
        _ => LinkKind::Other,
    }
}

/// `net.ipv6.conf.*.use_tempaddr` (kernel documentation, ip-sysctl): 2 and more prefer them.
fn prefers_temporary(message: &LinkMessage) -> bool {
    let families = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::AfSpecUnspec(families) => Some(families),
            _ => None,
        });
    let v6 = families.flatten().filter_map(|family| match family {
        AfSpecUnspec::Inet6(v6) => Some(v6),
        _ => None,
    });
    v6.flatten()
        .any(|v6| matches!(v6, AfSpecInet6::DevConf(conf) if conf.use_tempaddr >= 2))
}
