//! Who has which UMEM frame: the stack of free frames and every frame's place, both in [`NicState`].
//!
//! A frame is marked as the kernel's *before* its address enters a ring, and given back to the free stack
//! *after* it left one. So a holder that dies in between loses at most a batch of frames; none is ever in two
//! places.

use crate::state::{NicState, add};

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// Nowhere: the pool has not been started.
    Unknown = 0,
    /// On the free stack.
    Free = 1,
    /// With the kernel, to receive into; or received and not given back.
    Receive = 2,
    /// With the kernel, to be sent.
    Send = 3,
}

impl Place {
    fn of(byte: u8) -> Self {
        match byte {
            1 => Self::Free,
            2 => Self::Receive,
            3 => Self::Send,
            _ => Self::Unknown,
        }
    }
}

/// The frames of one UMEM. `count` is a power of two, at most `MAX_FRAMES`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool<'m> {
    pub(super) state: &'m NicState,
    pub(super) count: u32,
}

impl Pool<'_> {
    /// Puts all frames on the free stack, once in the life of the V-NIC.
    pub(super) fn start(self) {
        if self.state.started.get() != 0 {
            return;
        }
        self.state.free_len.set(0);
        (0..self.count).for_each(|frame| self.push(frame));
        self.state.started.set(1);
    }

    /// Free frames.
    pub(super) fn free(self) -> u32 {
        self.state.free_len.get().min(self.count)
    }

    pub(super) fn place(self, frame: u32) -> Place {
        self.state
            .place
            .get(frame as usize)
            .map_or(Place::Unknown, |cell| Place::of(cell.get()))
    }

    fn set_place(self, frame: u32, place: Place) {
        if let Some(cell) = self.state.place.get(frame as usize) {
            cell.set(place as u8);
        }
    }

    /// Takes a free frame and marks where it goes.
    pub(super) fn pop(self, place: Place) -> Option<u32> {
        loop {
            let top = self.free().checked_sub(1)?;
            self.state.free_len.set(top);
            let frame = u32::from(self.state.free.get(top as usize)?.get()) & (self.count - 1);
            if self.place(frame) == Place::Free {
                self.set_place(frame, place);
                return Some(frame);
            }
            add(&self.state.count.bad_frames, 1);
        }
    }

    /// Makes a frame free.
    pub(super) fn push(self, frame: u32) {
        let top = self.free();
        if self.place(frame) == Place::Free || top >= self.count {
            add(&self.state.count.bad_frames, 1);
            return;
        }
        if let Some(cell) = self.state.free.get(top as usize) {
            cell.set(frame as u16);
            self.set_place(frame, Place::Free);
            self.state.free_len.set(top + 1);
        }
    }

    /// Rebuilds the free stack from the frames' places, after a holder died.
    pub(super) fn rebuild(self) {
        let mut top = 0;
        for frame in (0..self.count).filter(|frame| self.place(*frame) == Place::Free) {
            if let Some(cell) = self.state.free.get(top as usize) {
                cell.set(frame as u16);
                top += 1;
            }
        }
        self.state.free_len.set(top);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyover_shm::{Arena, HeapMap, Idx};

    fn with_pool(count: u32, test: impl FnOnce(Pool<'_>)) {
        let map = HeapMap::new(size_of::<NicState>());
        let arena: Arena<'_, NicState> = Arena::new(map.region(), 0, 1).unwrap();
        test(Pool {
            state: arena.at(Idx::new(0)),
            count,
        });
    }

    #[test]
    fn frames_come_and_go() {
        with_pool(8, |pool| {
            pool.start();
            pool.start();
            assert_eq!(pool.free(), 8);
            let all: Vec<u32> = core::iter::from_fn(|| pool.pop(Place::Send)).collect();
            assert_eq!(all.len(), 8);
            assert!(all.iter().all(|f| pool.place(*f) == Place::Send));
            pool.push(3);
            pool.push(3);
            assert_eq!((pool.free(), pool.state.count.bad_frames.get()), (1, 1));
            assert_eq!(pool.pop(Place::Receive), Some(3));
        });
    }

    #[test]
    fn a_scribbled_stack_never_gives_a_frame_twice() {
        with_pool(8, |pool| {
            pool.start();
            pool.state.free.iter().for_each(|cell| cell.set(0xfff5));
            pool.state.free_len.set(u32::MAX);
            let all: Vec<u32> = core::iter::from_fn(|| pool.pop(Place::Send)).collect();
            assert_eq!(all, [5]);
        });
    }

    #[test]
    fn rebuilding_finds_all_free_frames() {
        with_pool(8, |pool| {
            pool.start();
            let sent = pool.pop(Place::Send).unwrap();
            pool.state.free_len.set(2);
            pool.rebuild();
            assert_eq!(pool.free(), 7);
            let all: Vec<u32> = core::iter::from_fn(|| pool.pop(Place::Receive)).collect();
            assert!(!all.contains(&sent));
        });
    }
}
