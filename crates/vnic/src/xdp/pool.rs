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
        // Whoever dies here leaves it to the next one, who begins again.
        (0..self.count).for_each(|frame| self.set_place(frame, Place::Free));
        self.rebuild();
        self.state.started.set(1);
    }

    /// Free frames.
    pub(super) fn free(self) -> u32 {
        self.received() + self.sent()
    }

    /// Free frames that were received, or not used yet.
    fn received(self) -> u32 {
        u32::from(self.state.free_len.get()).min(self.count)
    }

    /// Free frames that were sent.
    fn sent(self) -> u32 {
        u32::from(self.state.sent_len.get()).min(self.count - self.received())
    }

    /// Where the frame with so many sent ones below it lies in `free`.
    fn sent_at(self, below: u32) -> usize {
        (self.count - 1).saturating_sub(below) as usize
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

    /// Takes a free frame and marks where it goes: one that was used for the same before, if there is one.
    pub(super) fn pop(self, place: Place) -> Option<u32> {
        loop {
            let (received, sent) = (self.received(), self.sent());
            let at = if sent > 0 && (place == Place::Send || received == 0) {
                self.state.sent_len.set((sent - 1) as u16);
                self.sent_at(sent - 1)
            } else {
                let top = received.checked_sub(1)?;
                self.state.free_len.set(top as u16);
                top as usize
            };
            let frame = u32::from(self.state.free.get(at)?.get()) & (self.count - 1);
            if self.place(frame) == Place::Free {
                self.set_place(frame, place);
                return Some(frame);
            }
            add(&self.state.count.bad_frames, 1);
        }
    }

    /// Makes a frame free, on the stack of what it was used for.
    pub(super) fn push(self, frame: u32) {
        let (received, sent) = (self.received(), self.sent());
        let was = self.place(frame);
        if was == Place::Free || received + sent >= self.count {
            add(&self.state.count.bad_frames, 1);
            return;
        }
        let (at, len, now) = if was == Place::Send {
            (self.sent_at(sent), &self.state.sent_len, sent + 1)
        } else {
            (received as usize, &self.state.free_len, received + 1)
        };
        if let Some(cell) = self.state.free.get(at) {
            cell.set(frame as u16);
            self.set_place(frame, Place::Free);
            len.set(now as u16);
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
        self.state.free_len.set(top as u16);
        self.state.sent_len.set(0);
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
    fn a_start_that_was_not_finished_is_made_again() {
        with_pool(8, |pool| {
            pool.start();
            pool.state.started.set(0);
            pool.state.free_len.set(3);
            pool.start();
            assert_eq!(pool.free(), 8);
            let all: Vec<u32> = core::iter::from_fn(|| pool.pop(Place::Send)).collect();
            assert_eq!(all.len(), 8);
        });
    }

    #[test]
    fn a_frame_serves_again_for_what_it_was_used_for() {
        with_pool(4, |pool| {
            pool.start();
            let sent = pool.pop(Place::Send).unwrap();
            let received = pool.pop(Place::Receive).unwrap();
            pool.push(sent);
            pool.push(received);
            assert_eq!(pool.free(), 4);
            assert_eq!(pool.pop(Place::Send), Some(sent));
            assert_eq!(pool.pop(Place::Receive), Some(received));
            pool.push(sent);
            // Where there are no more of its own kind, the other kind's serve.
            let rest: Vec<u32> = core::iter::from_fn(|| pool.pop(Place::Receive)).collect();
            assert_eq!((rest.len(), rest.last()), (3, Some(&sent)));
            rest.iter().for_each(|frame| pool.push(*frame));
            let all: Vec<u32> = core::iter::from_fn(|| pool.pop(Place::Send)).collect();
            assert_eq!(all.len(), 3);
        });
    }

    #[test]
    fn a_scribbled_stack_never_gives_a_frame_twice() {
        with_pool(8, |pool| {
            pool.start();
            pool.state.free.iter().for_each(|cell| cell.set(0xfff5));
            pool.state.free_len.set(u16::MAX);
            pool.state.sent_len.set(u16::MAX);
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
