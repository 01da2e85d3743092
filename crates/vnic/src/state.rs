//! [`NicState`]: the part of a V-NIC that lives in the stack's shared memory, because the processes of a
//! stack use the V-NIC in turn. Written by the holder of the stack's lock.

use flyover_shm::{CellField as _, SharedCell, shm_struct};

/// Most frames in the UMEM of one XDP V-NIC.
pub const MAX_FRAMES: usize = 4096;

shm_struct! {
    /// Cursors, free frames and counters of one V-NIC. All zero is a V-NIC that has not been used.
    pub struct NicState {
        /// Packet kind: slots given back so far; modulo their number, the slot that the kernel fills next.
        pub rx_slot: SharedCell<u32>,
        /// Packet kind: super-frames that the device refused in a row.
        pub tso_refused: SharedCell<u32>,
        /// Packet kind: super-frames still to be cut by the CPU before the device is tried again.
        pub tso_cpu: SharedCell<u32>,
        /// Xdp kind: 1 once all frames have been put on the free stack.
        pub started: SharedCell<u32>,
        /// Xdp kind: entries of `free` in use.
        pub free_len: SharedCell<u16>,
        /// Xdp kind: the same at the end of `free`: frames that were sent. To send, these are taken first: nobody but this
        /// processor has written them, while the lines of a received frame are the sender's as well.
        pub sent_len: SharedCell<u16>,
        /// Packet kind: 1 + the slot that is being given back; 0: none is.
        pub rx_releasing: SharedCell<u32>,
        /// Packet kind: super-frames still to be sent scattered before one piece is asked for again.
        pub scattered: SharedCell<u32>,
        /// Packet kind: super-frames in a row for which there was no memory in one piece.
        pub piece_refused: SharedCell<u32>,
        /// What happened since the stack was made.
        pub count: NicCounters,
        /// Xdp kind: free frame numbers: two stacks that grow towards each other from the ends of the UMEM's part.
        pub free: [SharedCell<u16>; MAX_FRAMES],
        /// Xdp kind: where each frame is (`xdp::Place`). Invariant: a frame is on `free` iff it says Free.
        pub place: [SharedCell<u8>; MAX_FRAMES],
    }
}

shm_struct! {
    /// Counters of one V-NIC: frames, unless the name says otherwise.
    pub struct NicCounters {
        /// Received and given to the stack; a super-frame counts once.
        pub rx_frames: SharedCell<u64>,
        /// Bytes of these, Ethernet headers included.
        pub rx_bytes: SharedCell<u64>,
        /// Received through the socket's queue (super-frames).
        pub rx_fetched: SharedCell<u64>,
        /// Dropped: longer than a slot, and the socket's queue was full.
        pub rx_truncated: SharedCell<u64>,
        /// Dropped: their bytes were no longer in the socket's queue.
        pub rx_lost: SharedCell<u64>,
        /// Passed over: tagged, so they belong to a VLAN interface.
        pub rx_tagged: SharedCell<u64>,
        /// Passed over: a slot or descriptor that made no sense.
        pub rx_bad: SharedCell<u64>,
        /// Sent; a super-frame counts once.
        pub tx_frames: SharedCell<u64>,
        /// Bytes of these.
        pub tx_bytes: SharedCell<u64>,
        /// Super-frames that the device cut.
        pub tx_super: SharedCell<u64>,
        /// Super-frames that the kernel did not take in one piece, and took otherwise.
        pub tx_scattered: SharedCell<u64>,
        /// Super-frames that the CPU cut.
        pub tx_cut: SharedCell<u64>,
        /// Times that a frame found no room and stayed with the stack.
        pub tx_full: SharedCell<u64>,
        /// Lost: interface down, frame too long.
        pub tx_dropped: SharedCell<u64>,
        /// Doorbells (system calls).
        pub kicks: SharedCell<u64>,
        /// Doorbells rung again because the first did not empty the ring.
        pub kicks_again: SharedCell<u64>,
        /// Free-list entries that contradicted `place`.
        pub bad_frames: SharedCell<u64>,
    }
}

/// Adds to a counter.
#[cfg(feature = "linux")]
pub(crate) fn add(counter: &SharedCell<u64>, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}

impl NicState {
    /// Makes this the state of a V-NIC that has not been used. For a slot that gets another V-NIC.
    pub fn reset(&self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyover_shm::{Arena, HeapMap, Idx, Object};

    #[test]
    fn it_is_small_and_can_be_reset() {
        assert!(size_of::<NicState>() <= 16 << 10);
        assert_eq!(NicState::FIELDS.len(), 12);
        let map = HeapMap::new(size_of::<NicState>());
        let arena: Arena<'_, NicState> = Arena::new(map.region(), 0, 1).unwrap();
        let state = arena.at(Idx::new(0));
        state.count.kicks.set(7);
        state.free[MAX_FRAMES - 1].set(9);
        state.reset();
        assert_eq!(
            (state.count.kicks.get(), state.free[MAX_FRAMES - 1].get()),
            (0, 0)
        );
    }
}
