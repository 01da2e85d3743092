//! Questions to a driver that netlink attributes of the link do not answer (SIOCETHTOOL).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

// linux/ethtool.h
const ETHTOOL_GRXCSUM: u32 = 0x14;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GSG: u32 = 0x18;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GGSO: u32 = 0x23;
const ETHTOOL_GGRO: u32 = 0x2b;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// What is switched on of the work that a device, or the kernel's device layer, does for a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums of received packets are verified.
    pub rx_checksum: bool,
    /// Checksums of sent packets are finished.
    pub tx_checksum: bool,
    /// TCP super-frames are cut by the device.
    pub tso: bool,
    /// Super-frames are cut in software.
    pub gso: bool,
    /// Received segments are merged.
    pub gro: bool,
}

/// Asks about the offloads of an interface.
///
/// # Errors
/// ENODEV, or EOPNOTSUPP when the device has no ethtool interface.
pub fn offloads(name: &str) -> io::Result<Offloads> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let on = |command| ask(&socket, name, command).map(|value| value != 0);
    Ok(Offloads {
        rx_checksum: on(ETHTOOL_GRXCSUM)?,
        tx_checksum: on(ETHTOOL_GTXCSUM)?,
        tso: on(ETHTOOL_GTSO)?,
        gso: on(ETHTOOL_GGSO)?,
        gro: on(ETHTOOL_GGRO)?,
    })
}

/// Whether the device cuts TCP super-frames itself, from scattered memory.
pub(super) fn does_tso(name: &str) -> io::Result<bool> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(ask(&socket, name, ETHTOOL_GTSO)? != 0 && ask(&socket, name, ETHTOOL_GSG)? != 0)
}

fn ask(socket: &OwnedFd, name: &str, command: u32) -> io::Result<u32> {
    let mut value = Value { command, data: 0 };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCETHTOOL reads the ifreq and reads and writes the ethtool_value that it points to; both live.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if rc == 0 {
        Ok(value.data)
    } else {
        Err(io::Error::last_os_error())
    }
}
