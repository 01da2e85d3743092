//! The V-NIC over the four rings of an AF_XDP socket (Documentation/networking/af_xdp.rst).
//!
//! ```text
//! free -> fill ring -> kernel -> rx ring -> rx_next .. rx_done -> free
//! free -> tx ring -> kernel -> completion ring -> free
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use flyover_shm::ShmBytes;
use flyover_wire::checksum;
use rustix::io::Errno;
use rustix::net::sockopt::{socket_error, xdp_mmap_offsets};
use rustix::net::xdp::{
    XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING,
    XdpRingOffset,
};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::desc::{ADDR_LEN, Chunk, DESC_LEN, Frames};
use super::pool::{Place, Pool};
use super::ring::{Offsets, Ring};
use crate::copy::{copy_windows, gather, head_of, part_of, total};
use crate::gso::Cutter;
use crate::state::{NicState, add};
use crate::window::Window;
use crate::{Caps, Csum, HEAD_LEN, RxMeta, TxOffload, TxResult, Vnic, VnicKind, XdpGeometry};

/// Received frames between two refills of the fill ring: a power of two.
const REFILL_EVERY: u32 = 64;
/// Where the kernel puts a received frame in its piece of memory (`XDP_PACKET_HEADROOM`). Bytes.
const HEADROOM: usize = 256;
/// What is fetched ahead of a received frame: headers and a small payload. Bytes.
const AHEAD: usize = 192;
/// Sent frames that are taken back together.
const REAP_EVERY: u32 = 32;
/// Doorbells of one `flush`. In copy mode one call sends a bounded number of frames (32).
const MAX_KICKS: u32 = 64;
/// Doorbells in a row after which nothing moved.
const MAX_STUCK: u32 = 2;
/// Longest super-frame that is taken, bytes: some sixteen segments. To cut one here costs far less than a pass
/// of the stack for each segment; a longer one would find the ring full more often, and all of it has to wait then.
const CUT_MAX: u32 = 24 << 10;
/// Windows of one packet.
const MAX_WINDOWS: usize = 8;

/// An AF_XDP socket's rings and frames in one process.
#[derive(Debug)]
pub struct XdpNic<'m> {
    fd: OwnedFd,
    rx: Ring,
    fill: Ring,
    tx: Ring,
    completion: Ring,
    umem: Window,
    geometry: XdpGeometry,
    state: &'m NicState,
    current: Option<Current>,
}

/// The frame between `rx_next` and `rx_done`.
#[derive(Clone, Copy, Debug)]
struct Current {
    /// Its index in the rx ring: when the ring says otherwise, this is left over from an earlier hold.
    at: u32,
    chunk: Chunk,
}

impl<'m> XdpNic<'m> {
    /// The V-NIC of a socket and UMEM memfd that `host::create_xdp` made. Maps rings and frames; the
    /// caller needs no privilege.
    ///
    /// # Errors
    /// A geometry that no `create_xdp` returns, or what the system calls say.
    pub fn attach(
        fd: OwnedFd,
        umem: BorrowedFd<'_>,
        geometry: XdpGeometry,
        state: &'m NicState,
    ) -> io::Result<Self> {
        if !geometry.is_valid() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let offsets = xdp_mmap_offsets(fd.as_fd())?;
        let map = |at: u64, ring: &XdpRingOffset, size: u32, entry_len: usize| {
            let offsets = Offsets {
                producer: ring.producer as usize,
                consumer: ring.consumer as usize,
                flags: ring.flags.ok_or(io::ErrorKind::Unsupported)? as usize,
                entries: ring.desc as usize,
            };
            Ring::map(fd.as_fd(), at, offsets, size, entry_len)
        };
        let (rx_size, tx_size) = (geometry.rx_ring, geometry.tx_ring);
        Ok(Self {
            rx: map(XDP_PGOFF_RX_RING, &offsets.rx, rx_size, DESC_LEN)?,
            fill: map(XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, rx_size, ADDR_LEN)?,
            tx: map(XDP_PGOFF_TX_RING, &offsets.tx, tx_size, DESC_LEN)?,
            completion: map(
                XDP_UMEM_PGOFF_COMPLETION_RING,
                &offsets.cr,
                tx_size,
                ADDR_LEN,
            )?,
            umem: Window::map(umem, 0, geometry.umem_len())?,
            fd,
            geometry,
            state,
            current: None,
        })
    }

    /// The shared part, with the counters.
    pub fn state(&self) -> &'m NicState {
        self.state
    }

    fn pool(&self) -> Pool<'m> {
        Pool {
            state: self.state,
            count: self.geometry.frames,
        }
    }

    fn frames(&self) -> Frames {
        Frames {
            count: self.geometry.frames,
            size: self.geometry.frame_size,
        }
    }

    fn current(&mut self) -> Option<Current> {
        let at = self.rx.consumer();
        self.current = self.current.filter(|c| c.at == at);
        self.current
    }

    fn frame(&self, current: &Current) -> ShmBytes<'_> {
        self.umem.bytes(current.chunk.at, current.chunk.len)
    }

    /// Fetches the next descriptor and the frame that it should name ahead. Copy mode uses the frames in the order of
    /// the fill ring, so that is known without the descriptor. Where it is wrong, nothing is lost but the fetch.
    fn prefetch(&self) {
        let at = self.rx.consumer();
        self.rx.prefetch(at);
        let frame = (self.fill.addr(at) as usize).wrapping_add(HEADROOM);
        self.umem.bytes(frame, AHEAD).prefetch();
    }

    /// Frames that the kernel could have more to receive into.
    fn wanted(&self) -> u32 {
        let with_kernel = self.fill.producer().wrapping_sub(self.rx.consumer());
        self.geometry.rx_ring.saturating_sub(with_kernel)
    }

    /// Gives the kernel frames to receive into, leaving enough for sending.
    fn refill(&self) {
        let pool = self.pool();
        pool.start();
        let wanted = self.wanted();
        let n = wanted.min(self.fill.room());
        let first = self.fill.producer();
        let mut at = first;
        for _ in 0..n {
            let Some(frame) = pool.pop(Place::Receive) else {
                break;
            };
            self.fill.set_addr(at, self.frames().addr_of(frame));
            at = at.wrapping_add(1);
            // A holder that dies here takes the unpublished frames with it.
            if at.is_multiple_of(REFILL_EVERY) {
                self.fill.set_producer(at);
            }
        }
        if at == first {
            return;
        }
        self.fill.set_producer(at);
        if self.fill.needs_wakeup() {
            add(&self.state.count.kicks, 1);
            let _ = recv(self.fd.as_fd(), &mut [0u8; 0], RecvFlags::DONTWAIT);
        }
    }

    /// Takes back the frames that have been sent.
    fn reap(&self) {
        let pool = self.pool();
        let mut at = self.completion.consumer();
        for _ in 0..self.completion.pending() {
            let frame = self.frames().frame_of(self.completion.addr(at));
            at = at.wrapping_add(1);
            self.completion.set_consumer(at);
            match frame {
                Some(frame) if pool.place(frame) == Place::Send => pool.push(frame),
                _ => add(&self.state.count.bad_frames, 1),
            }
        }
    }

    /// Whether `n` packets can be queued now.
    fn has_room(&mut self, n: u32) -> bool {
        self.pool().start();
        if self.tx.room() >= n && self.pool().free() >= n {
            return true;
        }
        self.flush();
        self.tx.room() >= n && self.pool().free() >= n
    }

    /// Copies one packet into a frame, finishes its checksum and queues it. There is room.
    fn queue(&self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult {
        let len = hdr.len() + total(payload);
        if len > self.geometry.mtu as usize + 18 || len > self.geometry.frame_size as usize {
            return TxResult::Dropped;
        }
        let Some(frame) = self.pool().pop(Place::Send) else {
            return TxResult::Full;
        };
        let addr = self.frames().addr_of(frame);
        let bytes = self.umem.bytes(addr as usize, len);
        let _ = bytes.copy_in(hdr);
        let _ = gather(payload, bytes.sub(hdr.len(), len));
        finish_checksum(bytes, off);
        let at = self.tx.producer();
        self.tx.set_desc(at, addr, len as u32);
        self.tx.set_producer(at.wrapping_add(1));
        TxResult::Sent
    }

    /// Cuts a super-frame: all of it is queued, or nothing.
    fn queue_cut(&mut self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult {
        let Some(cutter) = Cutter::new(hdr, total(payload), off) else {
            return TxResult::Dropped;
        };
        if !self.has_room(cutter.count() as u32) {
            return TxResult::Full;
        }
        add(&self.state.count.tx_cut, 1);
        for i in 0..cutter.count() {
            let mut head = [0; HEAD_LEN];
            let segment = cutter.segment(i, &mut head);
            let mut windows = [ShmBytes::EMPTY; MAX_WINDOWS];
            let n = part_of(payload, segment.payload, &mut windows);
            match self.queue(&head[..hdr.len()], &windows[..n], &segment.off) {
                TxResult::Sent => {}
                other => return other,
            }
        }
        TxResult::Sent
    }

    /// Makes the kernel send until the ring is empty, or until it makes no progress.
    fn kick(&self) {
        let mut stuck = 0;
        for round in 0..MAX_KICKS {
            if self.tx.pending() == 0 || !self.tx.needs_wakeup() || stuck >= MAX_STUCK {
                return;
            }
            add(&self.state.count.kicks, 1);
            add(&self.state.count.kicks_again, u64::from(round > 0));
            let before = self.tx.consumer();
            match send(self.fd.as_fd(), &[], SendFlags::DONTWAIT) {
                // AGAIN: a batch went out and more is left, or the completion ring is full. BUSY: the device
                // dropped one. NOBUFS: no memory now.
                Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {
                    self.reap();
                }
                Err(_) => return,
            }
            stuck = if self.tx.consumer() == before {
                stuck + 1
            } else {
                0
            };
        }
    }
}

/// Stores the checksum of a frame whose field holds the folded pseudo-header sum.
fn finish_checksum(frame: ShmBytes<'_>, off: &TxOffload) {
    if off.csum_start == 0 {
        return;
    }
    let covered = frame.sub(off.csum_start.into(), frame.len());
    let sum = covered.sum(0);
    let field = if off.l4_tcp {
        checksum::finish(sum)
    } else {
        checksum::finish_udp(sum)
    };
    let _ = covered
        .sub(off.csum_offset.into(), 2)
        .copy_in(&field.to_be_bytes());
}

impl Vnic for XdpNic<'_> {
    fn caps(&self) -> Caps {
        Caps {
            kind: VnicKind::Xdp,
            mtu: self.geometry.mtu,
            mac: self.geometry.mac,
            ifindex: self.geometry.ifindex,
            tx_csum: false,
            rx_gro: false,
            tso_max: CUT_MAX,
        }
    }

    fn rx_next(&mut self, head: &mut [u8; HEAD_LEN]) -> Option<RxMeta> {
        while self.current().is_none() {
            if self.rx.pending() == 0 {
                // Not for a few: whoever waits here looks again at once, and the ring's other end lies with the processor
                // that brings the next frame.
                if self.wanted() >= REFILL_EVERY.min(self.geometry.rx_ring / 8) {
                    self.refill();
                }
                return None;
            }
            let at = self.rx.consumer();
            let chunk = self.frames().chunk(self.rx.addr(at), self.rx.len(at));
            match chunk.filter(|c| self.pool().place(c.frame) == Place::Receive) {
                Some(chunk) => {
                    self.current = Some(Current { at, chunk });
                    add(&self.state.count.rx_frames, 1);
                    add(&self.state.count.rx_bytes, chunk.len as u64);
                }
                None => {
                    add(&self.state.count.rx_bad, 1);
                    self.rx.set_consumer(at.wrapping_add(1));
                }
            }
        }
        let current = self.current()?;
        let head_len = head_of(self.frame(&current), head);
        let frame_len = current.chunk.len as u32;
        Some(RxMeta {
            frame_len,
            head_len,
            csum: Csum::Unknown,
            gso_size: 0,
            by_call: false,
        })
    }

    fn rx_payload(&mut self, skip: usize, into: &[ShmBytes<'_>]) -> usize {
        let Some(current) = self.current() else {
            return 0;
        };
        let frame = self.frame(&current);
        copy_windows(frame.sub(skip, frame.len()), into)
    }

    fn rx_sum(&mut self, from: usize, len: usize) -> u16 {
        let Some(current) = self.current() else {
            return 0;
        };
        self.frame(&current).sub(from, len).sum(0)
    }

    fn rx_done(&mut self) {
        let Some(current) = self.current() else {
            return;
        };
        self.current = None;
        self.rx.set_consumer(current.at.wrapping_add(1));
        self.pool().push(current.chunk.frame);
        if current.at % REFILL_EVERY == REFILL_EVERY - 1 {
            self.refill();
        }
    }

    fn tx(&mut self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult {
        let bytes = total(payload);
        let result = if off.gso_size > 0 && bytes > usize::from(off.gso_size) {
            self.queue_cut(hdr, payload, off)
        } else if self.has_room(1) {
            self.queue(hdr, payload, off)
        } else {
            TxResult::Full
        };
        let count = &self.state.count;
        match result {
            TxResult::Sent => {
                add(&count.tx_frames, 1);
                add(&count.tx_bytes, (hdr.len() + bytes) as u64);
            }
            TxResult::Full => add(&count.tx_full, 1),
            TxResult::Dropped => add(&count.tx_dropped, 1),
        }
        result
    }

    fn flush(&mut self) {
        self.kick();
        self.reap();
    }

    fn flush_later(&mut self) -> bool {
        // The others wait until there are many, or no frame is left (`has_room`).
        let many = self.tx.pending() > self.geometry.tx_ring / 2;
        if many || self.completion.pending() >= REAP_EVERY {
            self.reap();
        }
        let ring = self.tx.pending() != 0 && self.tx.needs_wakeup();
        add(&self.state.count.kicks, u64::from(ring));
        ring
    }

    fn rx_pending(&self) -> bool {
        let pending = self.rx.pending() != 0;
        if pending {
            self.prefetch();
        }
        pending
    }

    fn on_poll_error(&mut self) {
        let _ = socket_error(self.fd.as_fd());
    }

    fn recover(&mut self) {
        self.current = None;
        self.pool().rebuild();
    }
}

impl AsFd for XdpNic<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
