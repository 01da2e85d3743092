//! The frames that did not fit in their slot: the packet socket's queue, read in the order of the slots.
//!
//! The kernel queues the frame and takes the slot under one lock (`tpacket_rcv`), so queue and slots
//! agree on the order. They disagree only after a process died between taking a frame and releasing its
//! slot, or when somebody scribbled over the ring. Every fetched frame is therefore compared with what
//! its slot shows of it.

use std::os::fd::BorrowedFd;

use flyover_shm::ShmBytes;
use rustix::io::Errno;

use super::ring::{Content, Ring, Slot, TP_STATUS_COPY};
use super::vnet::VNET_LEN;
use crate::HEAD_LEN;
use crate::iov::Parts;

/// How many stale frames are thrown away in search of the right one.
const MAX_STALE: u32 = 64;
/// How far ahead the slot of a wrong frame is looked for.
const MAX_AHEAD: u32 = 256;

/// What became of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// So many bytes after `skip` are in the windows.
    Bytes(usize),
    /// The queue no longer has this frame.
    Lost,
}

/// Takes the frame of `slot`, number `at`, from the queue: its bytes from `skip` on go to the windows.
pub(crate) fn fetch(
    fd: BorrowedFd<'_>,
    ring: &Ring,
    (at, slot): (u32, &Slot),
    skip: usize,
    into: &[ShmBytes<'_>],
) -> Fetched {
    let skip = skip.min(HEAD_LEN);
    for _ in 0..MAX_STALE {
        let mut vnet = [0; VNET_LEN];
        let mut head = [0; HEAD_LEN];
        let mut parts = Parts::new();
        let _ = parts.sink(&mut vnet);
        let _ = parts.sink(&mut head[..skip]);
        let _ = parts.windows(into);
        let room = parts.bytes() - VNET_LEN - skip;
        let Ok(len) = receive(fd, &mut parts) else {
            return Fetched::Lost;
        };
        let len = len.saturating_sub(VNET_LEN);
        let head = &head[..skip];
        if is_of(ring, slot, len, head) {
            return Fetched::Bytes(len.saturating_sub(skip).min(room));
        }
        if let Some(owner) = owner_ahead(ring, at, len, head) {
            ring.forget_copy(owner);
            return Fetched::Lost;
        }
    }
    Fetched::Lost
}

/// Throws away the frame at the head of the queue. False when it is empty.
pub(crate) fn discard(fd: BorrowedFd<'_>) -> bool {
    let mut vnet = [0; VNET_LEN];
    let mut parts = Parts::new();
    let _ = parts.sink(&mut vnet);
    receive(fd, &mut parts).is_ok()
}

/// Throws away what no slot belongs to. A frame that arrives meanwhile is found missing and counted.
pub(crate) fn drain(fd: BorrowedFd<'_>, slots: u32) {
    for _ in 0..slots {
        if !discard(fd) {
            break;
        }
    }
}

fn receive(fd: BorrowedFd<'_>, parts: &mut Parts<'_>) -> Result<usize, Errno> {
    match parts.receive(fd) {
        // The pending error of an interface that went down comes before the frames, once.
        Err(Errno::NETDOWN) => parts.receive(fd),
        other => other,
    }
}

/// Whether a fetched frame is the one that `slot` shows the beginning of.
fn is_of(ring: &Ring, slot: &Slot, len: usize, head: &[u8]) -> bool {
    let mut shown = [0; HEAD_LEN];
    let n = ring.frame(slot).copy_out(&mut shown[..head.len()]);
    len == slot.frame_len && shown[..n] == head[..n]
}

/// The later slot that a fetched frame belongs to.
fn owner_ahead(ring: &Ring, from: u32, len: usize, head: &[u8]) -> Option<u32> {
    let mut at = from;
    for _ in 0..MAX_AHEAD.min(ring.slots() - 1) {
        at = ring.next(at);
        match ring.read(at) {
            Content::Empty => return None,
            Content::Frame(slot) if slot.status & TP_STATUS_COPY != 0 => {
                if is_of(ring, &slot, len, head) {
                    return Some(at);
                }
            }
            Content::Frame(_) | Content::Garbage { .. } => {}
        }
    }
    None
}
