//! The mapped receive ring of a packet socket: `TPACKET_V2` slots (packet(7),
//! Documentation/networking/packet_mmap.rst). No system calls, no cursor: the caller says which slot.

use core::sync::atomic::Ordering;
use std::io;

use flyover_shm::ShmBytes;

use super::vnet::VNET_LEN;
use crate::window::Window;

// `struct tpacket2_hdr`: offsets of its fields and its length.
const STATUS: usize = 0;
const LEN: usize = 4;
const SNAPLEN: usize = 8;
const MAC: usize = 12;
const HDR_LEN: usize = 32;

/// Smallest slot: the kernel's headers and the first 256 bytes of a frame fit.
pub(crate) const MIN_SLOT: usize = 512;

/// What is fetched ahead follows the line with the status, which is there already: the kernel's other headers, and the
/// first 130 bytes or so of the frame. Bytes.
const FIRST_LINE: usize = 64;
const AHEAD: usize = 192;

const TP_STATUS_KERNEL: u32 = 0;
const TP_STATUS_USER: u32 = 1;
/// The whole frame also waits in the socket's queue.
pub(crate) const TP_STATUS_COPY: u32 = 1 << 1;
pub(crate) const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

/// Longest frame that is believed; the kernel's own limit (GRO_MAX_SIZE) is 512 KiB.
const MAX_FRAME: usize = 1 << 20;

/// The ring: `slots` slots of `slot_size` bytes, both powers of two.
#[derive(Debug)]
pub(crate) struct Ring {
    window: Window,
    mask: u32,
    slot_size: usize,
}

/// A filled slot, read once; offsets are in the mapping and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) status: u32,
    /// Length of the frame on the wire.
    pub(crate) frame_len: usize,
    /// How much of the frame is in the slot.
    pub(crate) in_slot: usize,
    /// Where the frame starts in the mapping; the virtio header is right before it.
    frame_at: usize,
}

/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The kernel has not filled it yet.
    Empty,
    Frame(Slot),
    /// Filled, but the header makes no sense. The status says whether the queue has a frame for it.
    Garbage {
        status: u32,
    },
}

impl Ring {
    /// A ring over `window`. Fails when the geometry is not one that `host::create_packet` makes.
    pub(crate) fn new(window: Window, slots: u32, slot_size: u32) -> io::Result<Self> {
        let size = slot_size as usize;
        let fits = (slots as usize)
            .checked_mul(size)
            .is_some_and(|all| all <= window.len());
        if !slots.is_power_of_two() || !size.is_power_of_two() || size < MIN_SLOT || !fits {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            window,
            mask: slots - 1,
            slot_size: size,
        })
    }

    /// The memory once more, for a second process.
    #[cfg(test)]
    pub(crate) fn alias_window(&self) -> Window {
        self.window.alias()
    }

    pub(crate) fn slots(&self) -> u32 {
        self.mask + 1
    }

    /// The slot after `slot`.
    pub(crate) fn next(&self, slot: u32) -> u32 {
        slot.wrapping_add(1) & self.mask
    }

    fn base(&self, slot: u32) -> usize {
        (slot & self.mask) as usize * self.slot_size
    }

    /// Whether the kernel has filled the slot: one load.
    pub(crate) fn is_filled(&self, slot: u32) -> bool {
        let status = self.window.u32_at(self.base(slot) + STATUS);
        status.load(Ordering::Relaxed) & TP_STATUS_USER != 0
    }

    /// Fetches the beginning of a slot ahead: the headers of a frame, and a small payload.
    pub(crate) fn prefetch(&self, slot: u32) {
        self.window
            .bytes(self.base(slot) + FIRST_LINE, AHEAD)
            .prefetch();
    }

    /// Reads a slot's header. The slot's bytes stay until [`release`](Self::release).
    #[inline(always)]
    pub(crate) fn read(&self, slot: u32) -> Content {
        let base = self.base(slot);
        // Pairs with the kernel's barrier before it sets the status: the rest is visible then.
        let status = self.window.u32_at(base + STATUS).load(Ordering::Acquire);
        if status & TP_STATUS_USER == 0 {
            return Content::Empty;
        }
        let frame_len = self.window.u32_at(base + LEN).load(Ordering::Relaxed) as usize;
        let in_slot = self.window.u32_at(base + SNAPLEN).load(Ordering::Relaxed) as usize;
        let mac = usize::from(self.window.u16_at(base + MAC).load(Ordering::Relaxed));
        let room = self.slot_size.saturating_sub(mac);
        if mac < HDR_LEN + VNET_LEN
            || in_slot > room
            || in_slot > frame_len
            || frame_len > MAX_FRAME
        {
            return Content::Garbage { status };
        }
        Content::Frame(Slot {
            status,
            frame_len,
            in_slot,
            frame_at: base + mac,
        })
    }

    /// The frame's bytes in its slot.
    pub(crate) fn frame(&self, slot: &Slot) -> ShmBytes<'_> {
        self.window.bytes(slot.frame_at, slot.in_slot)
    }

    /// The virtio header of the frame.
    pub(crate) fn vnet(&self, slot: &Slot) -> [u8; VNET_LEN] {
        // Word by word: it lies at an even address, before the frame (`TPACKET_ALIGN` and the Ethernet header).
        let at = slot.frame_at.wrapping_sub(VNET_LEN);
        let word = |i: usize| {
            let word = self.window.u16_at(at.wrapping_add(2 * i));
            word.load(Ordering::Relaxed).to_ne_bytes()
        };
        let [[a, b], [c, d], [e, f], [g, h], [i, j]] =
            [word(0), word(1), word(2), word(3), word(4)];
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// Records that the queue no longer has the frame of this slot, which thereby is truncated.
    pub(crate) fn forget_copy(&self, slot: u32) {
        let status = self.window.u32_at(self.base(slot) + STATUS);
        status.store(
            status.load(Ordering::Relaxed) & !TP_STATUS_COPY,
            Ordering::Relaxed,
        );
    }

    /// Gives a slot back to the kernel.
    pub(crate) fn release(&self, slot: u32) {
        let status = self.window.u32_at(self.base(slot) + STATUS);
        status.store(TP_STATUS_KERNEL, Ordering::Release);
    }
}

/// The kernel's side of a ring in test memory.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    pub(crate) struct Kernel {
        pub(crate) ring: Ring,
        pub(crate) head: u32,
    }

    /// Offset of the frame in a slot as Linux chooses it for Ethernet and a virtio header.
    const FRAME_AT: usize = 76;

    impl Kernel {
        /// A ring, and the kernel's hold of the same memory.
        pub(crate) fn ring(slots: u32, slot_size: u32) -> (Ring, Self) {
            let window = Window::heap(slots as usize * slot_size as usize);
            let ring = Ring::new(window.alias(), slots, slot_size).unwrap();
            (
                Ring::new(window, slots, slot_size).unwrap(),
                Self { ring, head: 0 },
            )
        }

        /// Fills the next slot as tpacket_rcv does. The caller queues the frame if `status` has COPY.
        pub(crate) fn deliver(&mut self, vnet: [u8; VNET_LEN], frame: &[u8], status: u32) {
            let base = self.ring.base(self.head);
            let window = &self.ring.window;
            let snap = frame.len().min(self.ring.slot_size - FRAME_AT);
            let word = |at: usize, v: usize| {
                window.u32_at(base + at).store(v as u32, Ordering::Relaxed);
            };
            word(LEN, frame.len());
            word(SNAPLEN, snap);
            window
                .u16_at(base + MAC)
                .store(FRAME_AT as u16, Ordering::Relaxed);
            window
                .bytes(base + FRAME_AT - VNET_LEN, VNET_LEN)
                .copy_in(&vnet);
            window.bytes(base + FRAME_AT, snap).copy_in(&frame[..snap]);
            window
                .u32_at(base)
                .store(TP_STATUS_USER | status, Ordering::Release);
            self.head = self.ring.next(self.head);
        }

        /// Writes arbitrary words over a slot's header.
        pub(crate) fn scribble(&mut self, slot: u32, words: [u32; 4]) {
            let base = self.ring.base(slot);
            for (i, word) in words.into_iter().enumerate() {
                self.ring
                    .window
                    .u32_at(base + 4 * i)
                    .store(word, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Kernel;
    use super::*;

    #[test]
    fn geometry_is_checked() {
        for (slots, size) in [(3, 2048), (4, 1000), (4, 256), (8, 2048)] {
            assert!(Ring::new(Window::heap(4 * 2048), slots, size).is_err());
        }
        assert!(Ring::new(Window::heap(4 * 2048), 4, 2048).is_ok());
    }

    #[test]
    fn a_delivered_frame_is_read_and_released() {
        let (ring, mut kernel) = Kernel::ring(4, 2048);
        assert_eq!(ring.read(0), Content::Empty);
        kernel.deliver([7; VNET_LEN], &[1, 2, 3, 4], 0);
        let Content::Frame(slot) = ring.read(0) else {
            panic!("no frame")
        };
        assert_eq!((slot.frame_len, slot.in_slot), (4, 4));
        assert_eq!(ring.vnet(&slot), [7; VNET_LEN]);
        let mut bytes = [0; 4];
        ring.frame(&slot).copy_out(&mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4]);
        ring.release(0);
        assert_eq!(ring.read(0), Content::Empty);
        assert_eq!((ring.next(3), ring.next(u32::MAX)), (0, 0));
    }

    #[test]
    fn senseless_headers_are_garbage() {
        let (ring, mut kernel) = Kernel::ring(4, 2048);
        // {status, len, snaplen, mac | net << 16}
        for words in [
            [1, 60, 60, 4],
            [1, 60, 60, 2040],
            [1, 60, 61, 76],
            [1, 4096, 4096, 76],
            [1, u32::MAX, 60, 76],
            [1, 60, 60, 0xffff],
        ] {
            kernel.scribble(2, words);
            assert_eq!(ring.read(2), Content::Garbage { status: 1 }, "{words:?}");
        }
    }
}
