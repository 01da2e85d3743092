//! A descriptor of an AF_XDP ring, copied out once and checked (`struct xdp_desc`, linux/if_xdp.h).

/// Length of a receive or transmit descriptor, bytes.
pub(super) const DESC_LEN: usize = 16;
/// Length of a fill or completion entry, bytes.
pub(super) const ADDR_LEN: usize = 8;

/// A range of bytes in one UMEM frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) frame: u32,
    /// Where the bytes start in the UMEM.
    pub(super) at: usize,
    pub(super) len: usize,
}

/// How addresses are divided into frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frames {
    /// Number of frames, a power of two.
    pub(super) count: u32,
    /// Bytes per frame, a power of two.
    pub(super) size: u32,
}

impl Frames {
    /// The frame that an address lies in; None when it lies in none.
    pub(super) fn frame_of(self, addr: u64) -> Option<u32> {
        let frame = addr / u64::from(self.size);
        (frame < u64::from(self.count)).then_some(frame as u32)
    }

    /// Where a frame starts.
    pub(super) fn addr_of(self, frame: u32) -> u64 {
        u64::from(frame & (self.count - 1)) * u64::from(self.size)
    }

    /// What a descriptor names, cut to its frame.
    pub(super) fn chunk(self, addr: u64, len: u32) -> Option<Chunk> {
        let frame = self.frame_of(addr)?;
        let offset = (addr % u64::from(self.size)) as u32;
        let len = len.min(self.size - offset) as usize;
        Some(Chunk {
            frame,
            at: addr as usize,
            len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_cut_to_their_frame() {
        let frames = Frames {
            count: 4,
            size: 2048,
        };
        assert_eq!(
            frames.chunk(2048 + 256, 60),
            Some(Chunk {
                frame: 1,
                at: 2304,
                len: 60
            })
        );
        assert_eq!(frames.chunk(2048 + 2000, 60).unwrap().len, 48);
        assert_eq!(frames.chunk(4 * 2048, 60), None);
        assert_eq!(frames.chunk(u64::MAX, u32::MAX), None);
        assert_eq!(frames.addr_of(7), 3 * 2048);
    }
}
