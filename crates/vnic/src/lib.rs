//! V-NICs: what moves Ethernet frames between a stack and an interface, and nothing else.
//!
//! | module | what | feature |
//! |---|---|---|
//! | `meta` | [`Caps`], [`RxMeta`], [`TxOffload`]: what is said about a frame | |
//! | `state` | [`NicState`]: cursors, free frames and counters, in the stack's shared memory | |
//! | `geometry` | [`PacketGeometry`], [`XdpGeometry`]: sizes of the rings, as the daemon made them | |
//! | `packet` | [`PacketNic`]: a packet socket with super-frames | `linux` |
//! | `xdp` | [`XdpNic`]: an AF_XDP socket | `linux` |
//! | `mem` | [`MemNic`]: queues in memory | `mem` |
//! | `host` | making sockets, loading the flow programs, probing interfaces; needs root | `host`, `bpf` |
//!
//! Several processes use one V-NIC alternately, each under its stack's lock. Whatever must outlive a lock
//! hold is therefore in [`NicState`] or in the rings; the structs here only hold descriptors and
//! mappings. Ring and frame contents are never trusted: indices are masked, lengths clamped.

#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(any(feature = "linux", feature = "mem"))]
mod copy;
mod geometry;
#[cfg(any(feature = "linux", feature = "mem"))]
mod gso;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "linux")]
mod iov;
#[cfg(feature = "mem")]
pub mod mem;
mod meta;
#[cfg(feature = "linux")]
mod packet;
mod state;
#[cfg(all(test, any(feature = "linux", feature = "mem")))]
mod test_frames;
#[cfg(feature = "linux")]
mod window;
#[cfg(feature = "linux")]
mod xdp;

pub use geometry::{PacketGeometry, XdpGeometry};
#[cfg(feature = "mem")]
pub use mem::{MemConfig, MemCsum, MemCut, MemFrame, MemNic};
pub use meta::{Caps, Csum, RxMeta, TxOffload, TxResult, VnicKind};
#[cfg(feature = "linux")]
pub use packet::PacketNic;
pub use state::{MAX_FRAMES, NicCounters, NicState};
#[cfg(feature = "linux")]
pub use xdp::XdpNic;

use flyover_shm::ShmBytes;

/// How much of a frame [`Vnic::rx_next`] copies out: enough for every header the stack understands.
pub const HEAD_LEN: usize = 256;

/// A protected virtual interface: frames in, frames out, one doorbell.
///
/// All calls are made by the holder of the stack's lock. None of them blocks or panics. The frame that
/// [`rx_next`](Self::rx_next) returned is *current* until [`rx_done`](Self::rx_done), and both happen
/// within one lock hold.
pub trait Vnic {
    /// What this V-NIC can do. Constant for the life of the object.
    fn caps(&self) -> Caps;

    /// Makes the next received frame current and copies its first `head_len <= 256` bytes to `head`.
    /// Called again without `rx_done`, it returns the same frame. None: nothing has arrived.
    fn rx_next(&mut self, head: &mut [u8; HEAD_LEN]) -> Option<RxMeta>;

    /// Copies the current frame's bytes from offset `skip` (at most 256) into the windows, in order, and
    /// returns how many bytes it copied: fewer than the windows hold when the frame ends first, 0 when
    /// the frame's bytes are lost (then the frame must be dropped). At most once per frame.
    fn rx_payload(&mut self, skip: usize, into: &[ShmBytes<'_>]) -> usize;

    /// Folded ones-complement sum (RFC 1071, not inverted) of the current frame's bytes
    /// `[from, from + len)`, an odd last byte padded with zero. Call before `rx_payload`.
    fn rx_sum(&mut self, from: usize, len: usize) -> u16;

    /// Gives the current frame back to the V-NIC. Without a current frame it does nothing.
    fn rx_done(&mut self);

    /// Sends `hdr` (Ethernet, IP and L4 headers, at most 256 bytes) and the windows of `payload` as one
    /// frame, or as one super-frame when `off.gso_size > 0`. The bytes are copied before it returns.
    ///
    /// The L4 checksum field holds the folded pseudo-header sum; the V-NIC finishes it when the device
    /// can not. [`TxResult::Full`]: try again after the next poll or a millisecond, whichever comes first.
    fn tx(&mut self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult;

    /// Writes what [`post`](Self::post) takes for this single frame (no super-frame) to `into` and returns its length.
    /// None: not this kind of V-NIC, or no room; it goes through [`tx`](Self::tx). Once it is written it counts as sent,
    /// and may be written to the V-NIC's descriptor by `sendmsg`, without the stack's lock.
    fn encode(
        &mut self,
        hdr: &[u8],
        payload: &[ShmBytes<'_>],
        off: &TxOffload,
        into: &mut [u8],
    ) -> Option<usize> {
        let _: (&[u8], &[ShmBytes<'_>], &TxOffload, &mut [u8]) = (hdr, payload, off, into);
        None
    }

    /// Sends what [`encode`](Self::encode) wrote.
    fn post(&mut self, encoded: &[u8]) -> TxResult {
        let _: &[u8] = encoded;
        TxResult::Dropped
    }

    /// Rings the doorbell for what `tx` queued: once per batch, always before the lock is released.
    fn flush(&mut self);

    /// As [`flush`](Self::flush), but leaves the doorbell to the caller: true when an empty `sendmsg` on the V-NIC's
    /// descriptor, which needs no lock, has to follow, again while it says EAGAIN.
    fn flush_later(&mut self) -> bool {
        self.flush();
        false
    }

    /// Whether `rx_next` would return a frame: one load, no system call. If so, the frame's first lines are on their way
    /// from the processor that wrote them when this returns: what the caller does until he reads them costs no time.
    fn rx_pending(&self) -> bool;

    /// Whether so many frames wait that they had better be taken out before there is no room for more.
    fn rx_deep(&self) -> bool {
        false
    }

    /// The V-NIC's descriptor polled as `POLLERR`: takes the error, so that the next poll can sleep again.
    fn on_poll_error(&mut self) {}

    /// A former lock holder died at an unknown point: makes what it left in shared memory consistent.
    fn recover(&mut self) {}
}
