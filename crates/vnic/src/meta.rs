//! What a V-NIC and the stack tell each other about a frame. No frame bytes here.

use flyover_wire::Mac;

/// What carries a V-NIC's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VnicKind {
    /// A packet socket with a mapped ring and super-frames (AF_PACKET, `PACKET_VNET_HDR`).
    Packet = 1,
    /// An AF_XDP socket: MTU-sized frames in a UMEM.
    Xdp = 2,
    /// Queues in this process's memory: tests and the simulator.
    Mem = 3,
}

impl VnicKind {
    /// The kind with this number, or None.
    pub const fn from_u32(n: u32) -> Option<Self> {
        match n {
            1 => Some(Self::Packet),
            2 => Some(Self::Xdp),
            3 => Some(Self::Mem),
            _ => None,
        }
    }
}

/// What a V-NIC can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// What carries the frames.
    pub kind: VnicKind,
    /// Largest L3 packet on the wire, in bytes (Ethernet header not counted).
    pub mtu: u32,
    /// The interface's own address.
    pub mac: Mac,
    /// The kernel's index of the interface.
    pub ifindex: u32,
    /// The device finishes L4 checksums; when false the V-NIC does it with the CPU.
    pub tx_csum: bool,
    /// Received frames may be super-frames: TCP segments merged, longer than the MTU.
    pub rx_gro: bool,
    /// Largest super-frame that `tx` takes, headers included, in bytes (at most 65535). 0: none.
    pub tso_max: u32,
}

/// What is known about the current received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxMeta {
    /// Length of the whole frame from the Ethernet header on, in bytes.
    pub frame_len: u32,
    /// How many bytes of it `rx_next` copied to `head`: `min(256, frame_len)`.
    pub head_len: u32,
    /// What the device says about the L4 checksum.
    pub csum: Csum,
    /// Payload bytes per merged segment, or 0 when the frame is a single packet.
    pub gso_size: u16,
    /// A system call brings the payload: a window that is not mapped (any more) costs the frame and does not end the
    /// process, so the windows may be a program's own memory.
    pub by_call: bool,
}

/// What the device says about a received frame's L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Csum {
    /// The device verified it.
    Good,
    /// Never computed: the frame did not leave this host (`CHECKSUM_PARTIAL`). Accept it.
    Partial,
    /// Not looked at: verify it with [`rx_sum`](crate::Vnic::rx_sum). A field that holds exactly the folded
    /// pseudo-header sum is a partial checksum whose mark got lost (veth under XDP): accept it.
    Unknown,
}

/// What the device has to do to a frame on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxOffload {
    /// Where the checksummed part starts: offset of the L4 header in the frame, bytes.
    pub csum_start: u16,
    /// Where the checksum is stored, counted from `csum_start` (TCP 16, UDP 6).
    pub csum_offset: u16,
    /// Payload bytes per segment when the frame is a super-frame, else 0.
    pub gso_size: u16,
    /// TCP (true) or UDP. Only TCP frames may be super-frames.
    pub l4_tcp: bool,
    /// IPv6 (true) or IPv4.
    pub v6: bool,
    /// Length of all headers, bytes: where the payload starts.
    pub hdr_len: u16,
}

/// What became of a frame given to `tx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TxResult {
    /// Taken over.
    Sent,
    /// No room now: the frame was not sent; try again later.
    Full,
    /// Lost for a reason that trying again does not cure (interface down, too long); counted.
    Dropped,
}
