//! Sizes of a V-NIC's rings and frames: decided by the daemon when it makes the sockets, carried to the
//! processes as words, private memory in each of them.

use flyover_wire::Mac;

use crate::state::MAX_FRAMES;

/// Sizes of a packet socket's ring, and what its interface can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketGeometry {
    /// The kernel's index of the interface.
    pub ifindex: u32,
    /// The interface's own address.
    pub mac: Mac,
    /// Largest L3 packet, bytes.
    pub mtu: u32,
    /// Slots in the receive ring, a power of two.
    pub slots: u32,
    /// Bytes per slot, a power of two from 512 on.
    pub slot_size: u32,
    /// Largest frame that `tx` takes, headers included, bytes; 0: no super-frames.
    pub tso_max: u32,
    /// So much of a super-frame the kernel is asked to keep in one piece, bytes; 0: no more than the headers.
    pub one_piece: u32,
}

impl PacketGeometry {
    /// Words in [`to_words`](Self::to_words).
    pub const WORDS: usize = 7;

    /// For the way to another process.
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        let Self {
            ifindex,
            mac,
            mtu,
            slots,
            slot_size,
            tso_max,
            one_piece,
        } = *self;
        [
            ifindex.into(),
            mac.to_u64(),
            mtu.into(),
            slots.into(),
            slot_size.into(),
            tso_max.into(),
            one_piece.into(),
        ]
    }

    /// The reverse; None when there are too few words or one is out of range.
    pub fn from_words(words: &[u64]) -> Option<Self> {
        let [ifindex, mac, mtu, slots, slot_size, tso_max, one_piece, ..] = *words else {
            return None;
        };
        let geometry = Self {
            ifindex: u32::try_from(ifindex).ok()?,
            mac: Mac::from_u64(mac),
            mtu: u32::try_from(mtu).ok()?,
            slots: u32::try_from(slots).ok()?,
            slot_size: u32::try_from(slot_size).ok()?,
            tso_max: u32::try_from(tso_max).ok()?,
            one_piece: u32::try_from(one_piece).ok()?,
        };
        geometry.ring_len().map(|_| geometry)
    }

    /// Bytes of the mapped ring; None when the sizes are not powers of two or are too large.
    pub fn ring_len(&self) -> Option<usize> {
        let sane = self.slots.is_power_of_two() && self.slot_size.is_power_of_two();
        let len = u64::from(self.slots).checked_mul(self.slot_size.into())?;
        (sane && len <= 1 << 31).then_some(len as usize)
    }
}

/// Sizes of an AF_XDP socket's rings and its UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpGeometry {
    /// The kernel's index of the interface.
    pub ifindex: u32,
    /// The interface's own address.
    pub mac: Mac,
    /// Largest L3 packet, bytes.
    pub mtu: u32,
    /// The queue of the interface that the socket is bound to.
    pub queue: u32,
    /// Frames in the UMEM, a power of two.
    pub frames: u32,
    /// Bytes per frame, 2048 or 4096.
    pub frame_size: u32,
    /// Entries of the receive ring, and of the fill ring: powers of two.
    pub rx_ring: u32,
    /// Entries of the transmit ring, and of the completion ring: powers of two.
    pub tx_ring: u32,
    /// Frames are exchanged with the device without a copy.
    pub zero_copy: bool,
}

impl XdpGeometry {
    /// Words in [`to_words`](Self::to_words).
    pub const WORDS: usize = 9;

    /// For the way to another process.
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        let Self {
            ifindex,
            mac,
            mtu,
            queue,
            frames,
            frame_size,
            rx_ring,
            tx_ring,
            zero_copy,
        } = *self;
        [
            ifindex.into(),
            mac.to_u64(),
            mtu.into(),
            queue.into(),
            frames.into(),
            frame_size.into(),
            rx_ring.into(),
            tx_ring.into(),
            zero_copy.into(),
        ]
    }

    /// The reverse; None when there are too few words or the sizes do not fit together.
    pub fn from_words(words: &[u64]) -> Option<Self> {
        let [
            ifindex,
            mac,
            mtu,
            queue,
            frames,
            frame_size,
            rx_ring,
            tx_ring,
            zero_copy,
            ..,
        ] = *words
        else {
            return None;
        };
        let geometry = Self {
            ifindex: u32::try_from(ifindex).ok()?,
            mac: Mac::from_u64(mac),
            mtu: u32::try_from(mtu).ok()?,
            queue: u32::try_from(queue).ok()?,
            frames: u32::try_from(frames).ok()?,
            frame_size: u32::try_from(frame_size).ok()?,
            rx_ring: u32::try_from(rx_ring).ok()?,
            tx_ring: u32::try_from(tx_ring).ok()?,
            zero_copy: zero_copy != 0,
        };
        geometry.is_valid().then_some(geometry)
    }

    /// Whether the sizes fit together: the receive side never takes the frames that sending needs.
    pub fn is_valid(&self) -> bool {
        let powers = [self.frames, self.frame_size, self.rx_ring, self.tx_ring];
        powers.into_iter().all(u32::is_power_of_two)
            && matches!(self.frame_size, 2048 | 4096)
            && self.frames as usize <= MAX_FRAMES
            && self.rx_ring < self.frames
            && self.tx_ring <= self.frames
    }

    /// Bytes of the UMEM.
    pub fn umem_len(&self) -> usize {
        self.frames as usize * self.frame_size as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        let packet = PacketGeometry {
            ifindex: 3,
            mac: Mac([2, 0, 0, 1, 2, 3]),
            mtu: 1500,
            slots: 2048,
            slot_size: 2048,
            tso_max: 65535,
            one_piece: 64_512,
        };
        assert_eq!(PacketGeometry::from_words(&packet.to_words()), Some(packet));
        assert_eq!(PacketGeometry::from_words(&packet.to_words()[..5]), None);
        assert_eq!(PacketGeometry { slots: 3, ..packet }.ring_len(), None);
        let xdp = XdpGeometry {
            ifindex: 3,
            mac: packet.mac,
            mtu: 1500,
            queue: 1,
            frames: 4096,
            frame_size: 2048,
            rx_ring: 2048,
            tx_ring: 1024,
            zero_copy: true,
        };
        assert_eq!(XdpGeometry::from_words(&xdp.to_words()), Some(xdp));
        let mut words = xdp.to_words();
        words[4] = 8192;
        assert_eq!(XdpGeometry::from_words(&words), None);
    }
}
