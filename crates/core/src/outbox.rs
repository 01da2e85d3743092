//! Small frames, and doorbells, that leave after the lock is dropped: sending takes several microseconds of the kernel's, in which it
//! walks the frame through the peer's whole stack when that is on this host, and nobody else could use the stack.
//!
//! Frames leave in the order in which they were put here; what cannot wait here (super-frames) first sends what does.
//! Two threads may overtake one another between the unlock and the call, as packets do on any network. A frame whose
//! thread is killed just then is lost, and repeated.

/// Longest frame, with the V-NIC's own header, bytes.
const FRAME: usize = 2048;
/// Most frames.
const FRAMES: usize = 16;

/// Frames in the form that their V-NIC's descriptor takes.
#[derive(Debug)]
pub struct Outbox {
    room: &'static mut [u8],
    used: usize,
    /// V-NIC and length of each.
    frames: [(u8, u16); FRAMES],
    len: usize,
    /// A bit for each V-NIC whose doorbell is to be rung.
    bells: u64,
    paused: bool,
}

impl Outbox {
    /// Takes nothing: for those who send under the lock.
    pub const fn closed() -> Self {
        Self {
            room: &mut [],
            used: 0,
            frames: [(0, 0); FRAMES],
            len: 0,
            bells: 0,
            paused: false,
        }
    }

    /// Keeps frames in `room`.
    pub const fn open(room: &'static mut [u8]) -> Self {
        Self {
            room,
            ..Self::closed()
        }
    }

    /// Whether to take nothing for now.
    pub fn pause(&mut self, on: bool) {
        self.paused = on;
    }

    /// True when nothing has to be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.bells == 0
    }

    /// True when there is somebody who sends what is left here.
    pub(crate) fn is_open(&self) -> bool {
        !self.room.is_empty()
    }

    /// The doorbell of this V-NIC is to be rung.
    pub(crate) fn ring(&mut self, nic: usize) {
        self.bells |= 1 << (nic % 64);
    }

    /// Takes out the V-NICs whose doorbell is to be rung.
    pub fn rung(&mut self) -> impl Iterator<Item = usize> + use<> {
        let mut bells = core::mem::take(&mut self.bells);
        core::iter::from_fn(move || {
            let lowest = bells.trailing_zeros() as usize;
            bells &= bells.checked_sub(1)?;
            Some(lowest)
        })
    }

    /// Where the next frame may be written, if there is room for any.
    pub(crate) fn place(&mut self) -> Option<&mut [u8]> {
        if self.paused || self.len >= FRAMES {
            return None;
        }
        self.room.get_mut(self.used..self.used + FRAME)
    }

    /// The frame written at [`place`](Self::place), `len` bytes, is for this V-NIC.
    pub(crate) fn keep(&mut self, nic: usize, len: usize) {
        if let Some(slot) = self.frames.get_mut(self.len) {
            *slot = (nic as u8, len as u16);
            self.len += 1;
            self.used += len;
        }
    }

    /// Takes all frames out, in order: V-NIC and bytes.
    pub fn drain(&mut self, mut send: impl FnMut(usize, &[u8])) {
        let mut at = 0;
        for &(nic, len) in self.frames.iter().take(self.len) {
            let end = at + usize::from(len);
            if let Some(frame) = self.room.get(at..end) {
                send(usize::from(nic), frame);
            }
            at = end;
        }
        self.len = 0;
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn put(b: &mut Outbox, nic: usize, frame: &[u8]) -> bool {
        let Some(place) = b.place() else { return false };
        place[..frame.len()].copy_from_slice(frame);
        b.keep(nic, frame.len());
        true
    }

    fn taken(b: &mut Outbox) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        b.drain(|nic, frame| all.push((nic, frame.to_vec())));
        all
    }

    #[test]
    fn frames_leave_in_order_and_once() {
        let mut b = Outbox::open(vec![0; 8192].leak());
        assert!(b.is_empty());
        assert!(put(&mut b, 3, b"one"));
        assert!(put(&mut b, 1, &[7; 2048]));
        assert!(!b.is_empty());
        assert_eq!(taken(&mut b), [(3, b"one".to_vec()), (1, vec![7; 2048])]);
        assert!(b.is_empty());
        assert_eq!(taken(&mut b), []);
    }

    #[test]
    fn bells_are_rung_once() {
        let mut b = Outbox::open(vec![0; 8192].leak());
        b.ring(0);
        b.ring(5);
        b.ring(5);
        assert!(!b.is_empty());
        assert_eq!(b.rung().collect::<Vec<_>>(), [0, 5]);
        assert!(b.is_empty());
    }

    #[test]
    fn it_takes_no_more_than_fits() {
        let mut b = Outbox::open(vec![0; 4096].leak());
        let n = (0..100).take_while(|_| put(&mut b, 0, &[1; 700])).count();
        assert_eq!(n, 3);
        assert_eq!(taken(&mut b).len(), 3);
        let mut b = Outbox::open(vec![0; 1 << 20].leak());
        let n = (0..100).take_while(|_| put(&mut b, 0, b"x")).count();
        assert_eq!(n, FRAMES);
        b.pause(true);
        assert_eq!(taken(&mut b).len(), FRAMES);
        assert!(!put(&mut b, 0, b"x"));
        b.pause(false);
        assert!(put(&mut b, 0, b"x"));
        assert!(!put(&mut Outbox::closed(), 0, b"x"));
    }
}
