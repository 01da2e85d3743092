//! [`PacketNic`]: a packet socket as V-NIC. Small frames are read from the mapped ring, super-frames with
//! one `recvmsg` into the stack's buffers; every frame is sent with one `sendmsg`.

mod queue;
mod ring;
mod tx;
mod vnet;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use flyover_shm::ShmBytes;
use flyover_wire::checksum;
use rustix::net::sockopt::socket_error;

use crate::copy::{copy_windows, head_of};
use crate::state::{NicState, add};
use crate::window::Window;
use crate::{Caps, HEAD_LEN, PacketGeometry, RxMeta, TxOffload, TxResult, Vnic, VnicKind};
use queue::Fetched;
use ring::{Content, Ring, Slot, TP_STATUS_COPY, TP_STATUS_VLAN_VALID};

/// Frames that wait: some 4 MB of super-frames, a small part of what the socket's queue holds (32 MB and more).
const DEEP: u32 = 56;

/// Room for a whole frame whose checksum the CPU has to verify before its bytes are delivered.
const BOUNCE_LEN: usize = 65_535 + HEAD_LEN;

/// A packet socket's rings and descriptor in one process.
#[derive(Debug)]
pub struct PacketNic<'m> {
    fd: OwnedFd,
    ring: Ring,
    geometry: PacketGeometry,
    state: &'m NicState,
    current: Option<Current>,
    bounce: Box<[u8]>,
}

/// The frame between `rx_next` and `rx_done`.
#[derive(Clone, Copy, Debug)]
struct Current {
    /// Its slot's number.
    at: u32,
    /// The shared cursor: when it says otherwise now, this is left over from an earlier hold.
    turn: u32,
    slot: Slot,
    meta: RxMeta,
    body: Body,
}

/// Where the bytes of the current frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// All in the slot.
    Slot,
    /// In the socket's queue.
    Queue,
    /// So many in `bounce`.
    Bounce(usize),
    /// Fetched already, or gone.
    Taken,
}

impl<'m> PacketNic<'m> {
    /// The V-NIC of a packet socket that `host::create_packet` made. Maps the ring.
    ///
    /// # Errors
    /// A geometry that no `create_packet` returns, or what `mmap` says.
    pub fn attach(fd: OwnedFd, geometry: PacketGeometry, state: &'m NicState) -> io::Result<Self> {
        let len = geometry.ring_len().ok_or(io::ErrorKind::InvalidInput)?;
        let window = Window::map(fd.as_fd(), 0, len)?;
        let ring = Ring::new(window, geometry.slots, geometry.slot_size)?;
        Ok(Self::over(fd, ring, geometry, state))
    }

    /// The shared part, with the counters.
    pub fn state(&self) -> &'m NicState {
        self.state
    }

    fn over(fd: OwnedFd, ring: Ring, geometry: PacketGeometry, state: &'m NicState) -> Self {
        let bounce = vec![0; BOUNCE_LEN].into_boxed_slice();
        Self {
            fd,
            ring,
            geometry,
            state,
            current: None,
            bounce,
        }
    }

    /// The slot that the kernel fills next, as the last holder left it.
    fn at(&self) -> u32 {
        self.state.rx_slot.get() & (self.ring.slots() - 1)
    }

    fn current(&mut self) -> Option<Current> {
        let turn = self.state.rx_slot.get();
        self.current = self.current.filter(|c| c.turn == turn);
        self.current
    }

    /// The cursor goes on. It is not masked: after a whole round it is another one.
    fn advance(&self) {
        let turn = self.state.rx_slot.get();
        self.state.rx_slot.set(turn.wrapping_add(1));
    }

    /// Passes over a slot that holds no frame for the stack.
    fn skip(&mut self, at: u32, status: u32) {
        if status & TP_STATUS_COPY != 0 {
            let _: bool = queue::discard(self.fd.as_fd());
        }
        self.release(at);
    }

    fn release(&mut self, at: u32) {
        self.state.rx_releasing.set(at.wrapping_add(1));
        self.ring.release(at);
        self.advance();
        self.state.rx_releasing.set(0);
    }

    /// Completes what a holder that died in [`release`](Self::release) began. Otherwise the cursor stays on a
    /// slot that the kernel fills only after all others. True when there was something to complete.
    fn complete_release(&mut self) -> bool {
        let begun = self.state.rx_releasing.get();
        if begun == 0 {
            return false;
        }
        self.state.rx_releasing.set(0);
        let Some(at) = begun.checked_sub(1).filter(|at| *at == self.at()) else {
            return false;
        };
        // Filled: it died before it gave the slot back. The frame is then seen a second time.
        if self.ring.is_filled(at) {
            return false;
        }
        self.advance();
        true
    }

    /// Why a slot's frame is not for the stack, counted; None when it is.
    #[inline(always)]
    fn refuse(&self, slot: &Slot) -> Option<()> {
        let count = &self.state.count;
        if slot.status & TP_STATUS_VLAN_VALID != 0 {
            // The tag is in metadata; the frame belongs to the VLAN interface, which has its own V-NIC.
            add(&count.rx_tagged, 1);
        } else if slot.in_slot < slot.frame_len && slot.status & TP_STATUS_COPY == 0 {
            // The queue was full (SO_RCVBUF), or the frame in it went missing.
            add(&count.rx_truncated, 1);
        } else {
            return None;
        }
        Some(())
    }

    #[inline(always)]
    fn start(&mut self, at: u32, slot: Slot, head: &mut [u8; HEAD_LEN]) -> RxMeta {
        let vnet = vnet::decode(&self.ring.vnet(&slot));
        let head_len = head_of(self.ring.frame(&slot), head);
        let body = if slot.in_slot < slot.frame_len {
            Body::Queue
        } else {
            Body::Slot
        };
        let meta = RxMeta {
            frame_len: slot.frame_len as u32,
            head_len,
            csum: vnet.csum,
            gso_size: vnet.gso_size,
            by_call: body == Body::Queue,
        };
        self.current = Some(Current {
            at,
            turn: self.state.rx_slot.get(),
            slot,
            meta,
            body,
        });
        add(&self.state.count.rx_frames, 1);
        add(&self.state.count.rx_bytes, slot.frame_len as u64);
        meta
    }

    /// Brings the current frame from the queue to `bounce`.
    fn fetch_to_bounce(&mut self, current: &mut Current) {
        let bounce = crate::copy::private(&mut self.bounce);
        let place = (current.at, &current.slot);
        current.body = match queue::fetch(self.fd.as_fd(), &self.ring, place, 0, &[bounce]) {
            Fetched::Bytes(n) => Body::Bounce(n),
            Fetched::Lost => Body::Taken,
        };
        self.current = Some(*current);
    }
}

impl Vnic for PacketNic<'_> {
    fn caps(&self) -> Caps {
        let geometry = &self.geometry;
        Caps {
            kind: VnicKind::Packet,
            mtu: geometry.mtu,
            mac: geometry.mac,
            ifindex: geometry.ifindex,
            tx_csum: true,
            rx_gro: true,
            tso_max: geometry.tso_max,
        }
    }

    fn rx_next(&mut self, head: &mut [u8; HEAD_LEN]) -> Option<RxMeta> {
        if self.current.is_some()
            && let Some(current) = self.current()
        {
            let _ = head_of(self.ring.frame(&current.slot), head);
            return Some(current.meta);
        }
        for _ in 0..self.ring.slots() {
            let at = self.at();
            match self.ring.read(at) {
                Content::Empty if self.complete_release() => {}
                Content::Empty => return None,
                Content::Garbage { status } => {
                    add(&self.state.count.rx_bad, 1);
                    self.skip(at, status);
                }
                Content::Frame(slot) => match self.refuse(&slot) {
                    Some(()) => self.skip(at, slot.status),
                    None => return Some(self.start(at, slot, head)),
                },
            }
        }
        None
    }

    fn rx_payload(&mut self, skip: usize, into: &[ShmBytes<'_>]) -> usize {
        let Some(mut current) = self.current() else {
            return 0;
        };
        match current.body {
            Body::Slot => {
                let frame = self.ring.frame(&current.slot);
                copy_windows(frame.sub(skip, frame.len()), into)
            }
            Body::Bounce(n) => {
                let frame = crate::copy::private(&mut self.bounce).sub(0, n);
                copy_windows(frame.sub(skip, n), into)
            }
            Body::Taken => 0,
            Body::Queue => {
                current.body = Body::Taken;
                self.current = Some(current);
                let place = (current.at, &current.slot);
                match queue::fetch(self.fd.as_fd(), &self.ring, place, skip, into) {
                    Fetched::Bytes(n) => {
                        add(&self.state.count.rx_fetched, 1);
                        n
                    }
                    Fetched::Lost => {
                        add(&self.state.count.rx_lost, 1);
                        0
                    }
                }
            }
        }
    }

    fn rx_sum(&mut self, from: usize, len: usize) -> u16 {
        let Some(mut current) = self.current() else {
            return 0;
        };
        if current.body == Body::Queue {
            self.fetch_to_bounce(&mut current);
        }
        match current.body {
            Body::Slot => self.ring.frame(&current.slot).sub(from, len).sum(0),
            Body::Bounce(n) => {
                let frame = self.bounce.get(..n).unwrap_or_default();
                let part = frame.get(from..).unwrap_or_default();
                checksum::sum(part.get(..len).unwrap_or(part), 0)
            }
            Body::Queue | Body::Taken => 0,
        }
    }

    fn rx_done(&mut self) {
        let turn = self.state.rx_slot.get();
        let Some((at, body)) = self
            .current
            .as_ref()
            .filter(|c| c.turn == turn)
            .map(|c| (c.at, c.body))
        else {
            self.current = None;
            return;
        };
        if body == Body::Queue {
            let _: bool = queue::discard(self.fd.as_fd());
        }
        self.release(at);
        self.current = None;
    }

    fn tx(&mut self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult {
        let way = tx::Way {
            fd: self.fd.as_fd(),
            state: self.state,
            one_piece: self.geometry.one_piece as usize,
        };
        tx::send(&way, hdr, payload, off)
    }

    fn encode(
        &mut self,
        hdr: &[u8],
        payload: &[ShmBytes<'_>],
        off: &TxOffload,
        into: &mut [u8],
    ) -> Option<usize> {
        tx::encode(self.state, hdr, payload, off, into)
    }

    fn post(&mut self, encoded: &[u8]) -> TxResult {
        tx::post_encoded(self.fd.as_fd(), self.state, encoded)
    }

    fn flush(&mut self) {}

    fn rx_pending(&self) -> bool {
        let at = self.at();
        let filled = self.ring.is_filled(at);
        if filled {
            self.ring.prefetch(at);
        }
        filled
    }

    fn rx_deep(&self) -> bool {
        self.ring
            .is_filled(self.at().wrapping_add(DEEP) & (self.ring.slots() - 1))
    }

    fn recover(&mut self) {
        self.current = None;
        let _: bool = self.complete_release();
        if !self.rx_pending() {
            // A frame left in the queue would make the descriptor readable for ever.
            queue::drain(self.fd.as_fd(), self.ring.slots());
        }
    }

    fn on_poll_error(&mut self) {
        // Reading the pending error (ENETDOWN) clears it, or every poll returned at once.
        let _ = socket_error(self.fd.as_fd());
    }
}

impl AsFd for PacketNic<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
