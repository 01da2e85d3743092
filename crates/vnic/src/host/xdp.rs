//! Making the socket and the UMEM of an XDP V-NIC.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use flyover_shm::{Map, sealed_memfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::probe::interface;
use super::sockopt::{set, set_int};
use crate::XdpGeometry;

/// Headroom that the kernel keeps in each frame for XDP programs (XDP_PACKET_HEADROOM).
const HEADROOM: u32 = 256;
/// Ethernet header and one VLAN tag.
const LINK_HEADER: u32 = 18;
/// The kernel tears a closed socket's UMEM down in the background; until then the queue is busy.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How frames get between UMEM and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpTransfer {
    /// Without a copy where the driver can, else copied.
    Auto,
    /// Copied: works with every driver, and in generic mode.
    Copy,
    /// Without a copy, or not at all.
    ZeroCopy,
}

/// Sizes of an XDP V-NIC.
#[derive(Clone, Copy, Debug)]
pub struct XdpConfig {
    /// Frames in the UMEM: a power of two, at most 4096.
    pub frames: u32,
    /// Entries of the receive and fill rings: a power of two, less than `frames`.
    pub rx_ring: u32,
    /// Entries of the transmit and completion rings: a power of two.
    pub tx_ring: u32,
    /// Copy or not.
    pub transfer: XdpTransfer,
}

impl Default for XdpConfig {
    fn default() -> Self {
        Self {
            frames: 4096,
            rx_ring: 2048,
            tx_ring: 1024,
            transfer: XdpTransfer::Auto,
        }
    }
}

/// The descriptors of an XDP V-NIC: both go to the processes of the stack.
#[derive(Debug)]
pub struct XdpSocket {
    /// The AF_XDP socket, bound.
    pub xsk: OwnedFd,
    /// The memory of its frames: a sealed memfd.
    pub umem: OwnedFd,
    /// Sizes.
    pub geometry: XdpGeometry,
}

/// Makes the AF_XDP socket of one queue of an interface. It receives nothing until it is in the map that
/// the interface's XDP program redirects to.
///
/// # Errors
/// EPERM without CAP_NET_RAW; ENODEV; EBUSY when another socket has the queue; EINVAL for an MTU that does
/// not fit a frame (3822) or for a queue that does not exist.
pub fn create_xdp(ifindex: u32, queue: u32, config: &XdpConfig) -> io::Result<XdpSocket> {
    let device = interface(ifindex)?;
    let room = device.mtu + LINK_HEADER + HEADROOM;
    let mut geometry = XdpGeometry {
        ifindex,
        mac: device.mac,
        mtu: device.mtu,
        queue,
        frames: config.frames,
        frame_size: if room <= 2048 { 2048 } else { 4096 },
        rx_ring: config.rx_ring,
        tx_ring: config.tx_ring,
        zero_copy: false,
    };
    if room > 4096 || !geometry.is_valid() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let umem = sealed_memfd("flyover-umem", geometry.umem_len() as u64)?;
    let xsk = socket_with(
        AddressFamily::XDP,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    register(&xsk, &umem, &geometry)?;
    geometry.zero_copy = bind(&xsk, &geometry, config.transfer)?;
    Ok(XdpSocket {
        xsk,
        umem,
        geometry,
    })
}

/// Registers the memory and sizes the rings.
fn register(xsk: &OwnedFd, umem: &OwnedFd, geometry: &XdpGeometry) -> io::Result<()> {
    // The pages are pinned by the registration and outlive this mapping.
    let map = Map::rw(umem.as_fd(), geometry.umem_len())?;
    let memory = map.region().bytes(0, geometry.umem_len());
    // The older, shorter struct: also known to kernels before transmit metadata.
    let registration = libc::xdp_umem_reg_v1 {
        addr: memory.as_ptr() as u64,
        len: geometry.umem_len() as u64,
        chunk_size: geometry.frame_size,
        headroom: 0,
    };
    let set_xdp = |name, size: u32| set(xsk.as_fd(), libc::SOL_XDP, name, &size);
    set(
        xsk.as_fd(),
        libc::SOL_XDP,
        libc::XDP_UMEM_REG,
        &registration,
    )?;
    set_xdp(libc::XDP_UMEM_FILL_RING, geometry.rx_ring)?;
    set_xdp(libc::XDP_UMEM_COMPLETION_RING, geometry.tx_ring)?;
    set_xdp(libc::XDP_RX_RING, geometry.rx_ring)?;
    set_xdp(libc::XDP_TX_RING, geometry.tx_ring)?;
    // In copy mode every packet under way is an skb on the socket's account.
    set_int(xsk.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8 << 20)
}

/// Binds to the queue; returns whether without a copy.
fn bind(xsk: &OwnedFd, geometry: &XdpGeometry, transfer: XdpTransfer) -> io::Result<bool> {
    let attempts: &[bool] = match transfer {
        XdpTransfer::Auto => &[true, false],
        XdpTransfer::Copy => &[false],
        XdpTransfer::ZeroCopy => &[true],
    };
    let mut last = io::ErrorKind::InvalidInput.into();
    for &zero_copy in attempts {
        match bind_patiently(xsk, geometry, zero_copy) {
            Ok(()) => return Ok(zero_copy),
            // Nothing is gained by asking for the busy queue in another way.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Err(e),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn bind_patiently(xsk: &OwnedFd, geometry: &XdpGeometry, zero_copy: bool) -> io::Result<()> {
    let mode = if zero_copy {
        libc::XDP_ZEROCOPY
    } else {
        libc::XDP_COPY
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: mode | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: geometry.ifindex,
        sxdp_queue_id: geometry.queue,
        sxdp_shared_umem_fd: 0,
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    let mut tries = 0;
    loop {
        // SAFETY: the kernel reads `len` bytes of the address.
        let rc = unsafe { libc::bind(xsk.as_raw_fd(), core::ptr::from_ref(&address).cast(), len) };
        let error = io::Error::last_os_error();
        tries += 1;
        match rc {
            0 => return Ok(()),
            _ if error.raw_os_error() == Some(libc::EBUSY) && tries < BUSY_TRIES => {
                sleep(BUSY_PAUSE);
            }
            _ => return Err(error),
        }
    }
}
