//! What an interface is and can do, and which kind of V-NIC suits it.

use std::io;

use flyover_wire::Mac;

use super::ethtool::does_tso;
use super::netlink::{Netlink, Request, word16, word32};
use crate::VnicKind;

// linux/rtnetlink.h, linux/if_link.h
const RTM_GETLINK: u16 = 18;
const IFINFO: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
// linux/genetlink.h, linux/netdev.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_REDIRECT: u32 = 2;
const NETDEV_XDP_ACT_XSK_ZEROCOPY: u32 = 8;
const GENL_HEADER: usize = 4;
/// Longest MTU that fits a 4096-byte UMEM frame behind the headroom.
const XDP_MTU_MAX: u32 = 3822;

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// In the core, after it is made.
    Generic,
    /// On the card.
    Offloaded,
    /// Several programs in several modes.
    Several,
}

/// An interface of the calling thread's network namespace.
#[derive(Clone, Debug)]
pub struct Interface {
    /// The kernel's index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its address; zero when it has none of six bytes.
    pub mac: Mac,
    /// Largest L3 packet, bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// It is Ethernet (ARPHRD_ETHER), not loopback, not a tunnel.
    pub ethernet: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Kind of a virtual interface ("veth", "bridge", ...); empty for a physical one.
    pub kind: String,
    /// Receive queues.
    pub rx_queues: u32,
    /// The device cuts TCP super-frames from scattered memory, right now.
    pub tso: bool,
    /// Largest super-frame that the device cuts, bytes.
    pub gso_max_size: u32,
    /// Most segments of one super-frame.
    pub gso_max_segs: u32,
    /// The XDP program on it, by anyone: how it is attached and the kernel's id of it.
    pub xdp: Option<(XdpMode, u32)>,
    /// The driver runs XDP programs itself and redirects their frames.
    pub native_xdp: bool,
    /// The driver exchanges frames with AF_XDP sockets without a copy.
    pub zero_copy: bool,
}

impl Interface {
    /// Whether any super-frame that a packet V-NIC sends will be cut by the device.
    pub fn cuts_all_super_frames(&self) -> bool {
        self.tso && self.gso_max_size >= 65_536 && self.gso_max_segs >= 65_535
    }
}

/// Asks the kernel about an interface.
///
/// # Errors
/// ENODEV, or what netlink says.
pub fn interface(ifindex: u32) -> io::Result<Interface> {
    let mut header = [0; IFINFO];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let answer = Netlink::open(libc::NETLINK_ROUTE)?.ask(&Request::new(RTM_GETLINK, &header))?;
    let info = answer.header();
    let hardware = word16(info, 2).ok_or(io::ErrorKind::InvalidData)?;
    let flags = word32(info, 8).unwrap_or(0);
    let attributes = answer.attributes(IFINFO);
    let name = attributes.text(IFLA_IFNAME);
    let xdp_features = xdp_features(ifindex).unwrap_or(0);
    let address = attributes
        .value(IFLA_ADDRESS)
        .and_then(|a| <[u8; 6]>::try_from(a).ok());
    let xdp = attributes.nested(IFLA_XDP);
    let mode = match xdp.value(IFLA_XDP_ATTACHED) {
        Some([1]) => Some(XdpMode::Native),
        Some([2]) => Some(XdpMode::Generic),
        Some([3]) => Some(XdpMode::Offloaded),
        Some([4]) => Some(XdpMode::Several),
        _ => None,
    };
    Ok(Interface {
        ifindex,
        mac: Mac(address.unwrap_or_default()),
        mtu: attributes.u32(IFLA_MTU).unwrap_or(0),
        up: flags & libc::IFF_UP as u32 != 0,
        ethernet: hardware == libc::ARPHRD_ETHER,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        kind: attributes.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND),
        rx_queues: attributes.u32(IFLA_NUM_RX_QUEUES).unwrap_or(1),
        tso: does_tso(&name).unwrap_or(false),
        gso_max_size: attributes.u32(IFLA_GSO_MAX_SIZE).unwrap_or(0),
        gso_max_segs: attributes.u32(IFLA_GSO_MAX_SEGS).unwrap_or(0),
        xdp: mode.map(|mode| (mode, xdp.u32(IFLA_XDP_PROG_ID).unwrap_or(0))),
        native_xdp: xdp_features & NETDEV_XDP_ACT_REDIRECT != 0,
        zero_copy: xdp_features & NETDEV_XDP_ACT_XSK_ZEROCOPY != 0,
        name,
    })
}

/// Asks the "netdev" family (Linux 6.3) for the driver's XDP features.
fn xdp_features(ifindex: u32) -> io::Result<u32> {
    let netlink = Netlink::open(libc::NETLINK_GENERIC)?;
    let family = Request::new(GENL_ID_CTRL, &[CTRL_CMD_GETFAMILY, 1, 0, 0])
        .attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = netlink.ask(&family)?;
    let id = answer.attributes(GENL_HEADER).value(CTRL_ATTR_FAMILY_ID);
    let id = id
        .and_then(|id| word16(id, 0))
        .ok_or(io::ErrorKind::InvalidData)?;
    let device = Request::new(id, &[NETDEV_CMD_DEV_GET, 1, 0, 0])
        .attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
    let answer = netlink.ask(&device)?;
    let features = answer
        .attributes(GENL_HEADER)
        .u32(NETDEV_A_DEV_XDP_FEATURES);
    Ok(features.unwrap_or(0))
}

/// A kind of V-NIC and the reason for it, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// None: no V-NIC on this interface.
    pub kind: Option<VnicKind>,
    /// Why.
    pub why: &'static str,
}

/// The kind of V-NIC that suits an interface.
pub fn choose(interface: &Interface) -> Choice {
    let (kind, why) = if interface.loopback {
        (None, "loopback: the local path serves it")
    } else if !interface.ethernet {
        (None, "not an Ethernet interface")
    } else if interface.mac == Mac([0; 6]) {
        (None, "no Ethernet address")
    } else if !interface.zero_copy {
        (
            Some(VnicKind::Packet),
            "the driver has no zero-copy XDP: super-frames are faster",
        )
    } else if interface.xdp.is_some() {
        (
            Some(VnicKind::Packet),
            "an XDP program of somebody else is attached",
        )
    } else if interface.mtu > XDP_MTU_MAX {
        (Some(VnicKind::Packet), "the MTU does not fit an XDP frame")
    } else {
        (Some(VnicKind::Xdp), "the driver has zero-copy XDP")
    };
    Choice { kind, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised() {
        let lo = interface(1).unwrap();
        assert_eq!(
            (lo.name.as_str(), lo.loopback, lo.ethernet),
            ("lo", true, false)
        );
        assert!(lo.mtu >= 1500 && lo.rx_queues >= 1);
        assert_eq!(choose(&lo).kind, None);
    }

    #[test]
    fn an_interface_that_does_not_exist_is_enodev() {
        let error = interface(0x7fff_fff0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
