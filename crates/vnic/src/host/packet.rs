//! Making the socket of a packet V-NIC.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::attach::deny_all;
use super::probe::{Interface, interface};
use super::sockopt::{set, set_int};
use crate::PacketGeometry;

// linux/if_packet.h
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// Slots are kept in blocks of consecutive memory of at most this size.
const BLOCK: u32 = 1 << 16;
/// Largest super-frame: what an IPv4 length field can say, plus nothing.
const TSO_MAX: u32 = 65_535;

/// Bytes of a super-frame that are to lie in one piece: with the kernel's own headers they fill 64 KiB.
const ONE_PIECE: u32 = 64_512;

/// How much of a super-frame is to lie in one piece.
///
/// The kernel puts a long frame into pages that it takes from lists of the sending processor. Over veth the packet is
/// freed by the processor of its receiver, whose lists fill up (to tens of megabytes) before any page comes back: so
/// every frame is written to pages that have left all caches. Blocks of 64 KiB have no such lists, and the
/// last one freed is the next one taken. A card frees on the sender's side, and its driver may not like long pieces.
fn one_piece(device: &Interface) -> u32 {
    if device.kind == "veth" { ONE_PIECE } else { 0 }
}

/// Sizes of a packet V-NIC.
#[derive(Clone, Copy, Debug)]
pub struct PacketConfig {
    /// Slots of the receive ring, a power of two.
    pub slots: u32,
    /// Bytes per slot, a power of two from 512 to 65536. Longer frames go through the socket's queue.
    pub slot_size: u32,
    /// Limit of that queue, bytes of kernel memory (`SO_RCVBUFFORCE`). A super-frame of 64 KB takes about 70 KB.
    pub receive_queue: u32,
    /// Limit of frames on their way out, bytes of kernel memory (`SO_SNDBUFFORCE`).
    pub send_queue: u32,
}

impl Default for PacketConfig {
    fn default() -> Self {
        Self {
            slots: 2048,
            slot_size: 2048,
            receive_queue: 32 << 20,
            send_queue: 8 << 20,
        }
    }
}

/// Makes the socket of a packet V-NIC on an interface. It receives nothing until
/// [`attach_filter`](super::attach_filter).
///
/// # Errors
/// EPERM without CAP_NET_RAW; ENODEV; EINVAL for sizes that are not powers of two.
pub fn create_packet(ifindex: u32, config: &PacketConfig) -> io::Result<(OwnedFd, PacketGeometry)> {
    let device = interface(ifindex)?;
    let geometry = PacketGeometry {
        ifindex,
        mac: device.mac,
        mtu: device.mtu,
        slots: config.slots,
        slot_size: config.slot_size,
        tso_max: TSO_MAX.min(device.gso_max_size.saturating_sub(1)),
        one_piece: one_piece(&device),
    };
    let sane = (512..=BLOCK).contains(&config.slot_size) && geometry.ring_len().is_some();
    if !sane {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a system call without pointers. Protocol 0: receives nothing before bind.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    configure(&fd, config, &device)?;
    deny_all(fd.as_fd())?;
    bind(&fd, ifindex)?;
    Ok((fd, geometry))
}

fn configure(fd: &OwnedFd, config: &PacketConfig, device: &Interface) -> io::Result<()> {
    let packet = |name: i32, value: i32| set_int(fd.as_fd(), libc::SOL_PACKET, name, value);
    packet(
        libc::PACKET_VERSION,
        libc::tpacket_versions::TPACKET_V2 as i32,
    )?;
    packet(libc::PACKET_VNET_HDR, 1)?;
    packet(libc::PACKET_COPY_THRESH, 1)?;
    packet(PACKET_IGNORE_OUTGOING, 1)?;
    // Bypassing the queueing discipline also bypasses the kernel's own segmentation: a super-frame that the
    // device does not cut would be dropped.
    packet(
        libc::PACKET_QDISC_BYPASS,
        device.cuts_all_super_frames().into(),
    )?;
    let socket = |name: i32, value: u32| {
        set_int(
            fd.as_fd(),
            libc::SOL_SOCKET,
            name,
            i32::try_from(value).unwrap_or(i32::MAX),
        )
    };
    socket(libc::SO_RCVBUFFORCE, config.receive_queue)?;
    socket(libc::SO_SNDBUFFORCE, config.send_queue)?;
    let block = BLOCK.min(config.slots * config.slot_size).max(4096);
    let ring = libc::tpacket_req {
        tp_block_size: block,
        tp_block_nr: config.slots * config.slot_size / block,
        tp_frame_size: config.slot_size,
        tp_frame_nr: config.slots,
    };
    set(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, &ring)
}

fn bind(fd: &OwnedFd, ifindex: u32) -> io::Result<()> {
    // ETH_P_ALL taps run before tcx, so the program that keeps the kernel out does not keep us out.
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of the address.
    let rc = unsafe { libc::bind(fd.as_raw_fd(), core::ptr::from_ref(&address).cast(), len) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
