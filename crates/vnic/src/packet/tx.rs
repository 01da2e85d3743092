//! Sending through a packet socket: one `sendmsg` per frame, cut and checksummed by the device layer.
//!
//! With `PACKET_QDISC_BYPASS` the kernel drops, as ENOBUFS, a super-frame that the device can not cut
//! itself (`__dev_direct_xmit`). `host` asks for the bypass only when the device can, but its features may
//! change later. So after some failures in a row the CPU cuts for a while; then the device gets a new chance.

use std::os::fd::BorrowedFd;

use flyover_shm::ShmBytes;
use rustix::io::Errno;

use super::vnet::{self, Cut, VNET_LEN};
use crate::copy::{gather, part_of, private, total};
use crate::gso::Cutter;
use crate::iov::Parts;
use crate::state::{NicState, add};
use crate::{HEAD_LEN, TxOffload, TxResult};

/// Super-frames refused in a row before the CPU cuts.
const MAX_REFUSED: u32 = 8;
/// Super-frames that the CPU then cuts before the device is tried again.
const CUT_BY_CPU: u32 = 256;
/// Shorter super-frames are not asked for in one piece, bytes: up to 32 KiB the kernel takes pages from the lists that this is
/// to avoid, and what is not much longer would be counted as 64 KiB against the receiver's buffer.
const LONG: usize = 48 << 10;
/// Super-frames sent scattered after the kernel had no memory for any in one piece.
const SCATTERED: u32 = 4096;
/// So many in a row must have found none.
const PIECES_REFUSED: u32 = 3;
/// Windows of one segment.
const MAX_WINDOWS: usize = 32;

/// Why a frame did not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// No room in the socket's buffer.
    Busy,
    /// No memory, or no room in the device's queue.
    Refused,
    /// Trying again does not help.
    Lost,
}

/// Through which socket, and how.
pub(super) struct Way<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) state: &'a NicState,
    /// So much of a super-frame is to lie in one piece, bytes.
    pub(super) one_piece: usize,
}

pub(super) fn send(
    way: &Way<'_>,
    hdr: &[u8],
    payload: &[ShmBytes<'_>],
    off: &TxOffload,
) -> TxResult {
    let state = way.state;
    let bytes = total(payload);
    let super_frame = off.gso_size > 0 && bytes > usize::from(off.gso_size);
    let result = if super_frame {
        send_super(way, hdr, (payload, bytes), off)
    } else {
        post(way.fd, hdr, payload, off, Cut::Whole)
    };
    let count = &state.count;
    match result {
        Ok(()) => {
            add(&count.tx_frames, 1);
            add(&count.tx_bytes, (hdr.len() + bytes) as u64);
            TxResult::Sent
        }
        Err(Failure::Busy | Failure::Refused) => {
            add(&count.tx_full, 1);
            TxResult::Full
        }
        Err(Failure::Lost) => {
            add(&count.tx_dropped, 1);
            TxResult::Dropped
        }
    }
}

/// Writes a frame as [`post_encoded`] takes it; it counts as sent from here on.
pub(super) fn encode(
    state: &NicState,
    hdr: &[u8],
    payload: &[ShmBytes<'_>],
    off: &TxOffload,
    into: &mut [u8],
) -> Option<usize> {
    let bytes = total(payload);
    let start = VNET_LEN + hdr.len();
    if off.gso_size > 0 || start + bytes > into.len() {
        return None;
    }
    into.get_mut(..VNET_LEN)?
        .copy_from_slice(&vnet::encode(off, Cut::Whole));
    into.get_mut(VNET_LEN..start)?.copy_from_slice(hdr);
    let _: usize = gather(payload, private(into.get_mut(start..)?));
    add(&state.count.tx_frames, 1);
    add(&state.count.tx_bytes, (hdr.len() + bytes) as u64);
    Some(start + bytes)
}

/// Sends what [`encode`] wrote.
pub(super) fn post_encoded(fd: BorrowedFd<'_>, state: &NicState, encoded: &[u8]) -> TxResult {
    let mut parts = Parts::new();
    let result = match parts.source(encoded) {
        true => deliver(fd, &parts),
        false => Err(Failure::Lost),
    };
    match result {
        Ok(()) => TxResult::Sent,
        Err(_) => {
            add(&state.count.tx_dropped, 1);
            TxResult::Dropped
        }
    }
}

/// Leaves the cutting to the device. In one piece if the kernel has the memory: a block of 64 KiB may be hard to find.
fn send_uncut(
    way: &Way<'_>,
    hdr: &[u8],
    (payload, bytes): (&[ShmBytes<'_>], usize),
    off: &TxOffload,
) -> Result<(), Failure> {
    let (state, len) = (way.state, hdr.len() + bytes);
    let scattered = || post(way.fd, hdr, payload, off, Cut::Segments { in_one: 0 });
    if way.one_piece == 0 || len < LONG {
        return scattered();
    }
    if let Some(left) = state.scattered.get().checked_sub(1) {
        state.scattered.set(left);
        return scattered();
    }
    let in_one = len.min(way.one_piece) as u16;
    let result = post(way.fd, hdr, payload, off, Cut::Segments { in_one });
    if result != Err(Failure::Refused) {
        state.piece_refused.set(0);
        return result;
    }
    // Perhaps it was not the memory: a device's queue that is full says the same.
    let result = scattered();
    if result.is_ok() {
        add(&state.count.tx_scattered, 1);
        let refused = state.piece_refused.get().saturating_add(1);
        state.piece_refused.set(refused);
        if refused >= PIECES_REFUSED {
            state.piece_refused.set(0);
            state.scattered.set(SCATTERED);
        }
    }
    result
}

fn send_super(
    way: &Way<'_>,
    hdr: &[u8],
    (payload, bytes): (&[ShmBytes<'_>], usize),
    off: &TxOffload,
) -> Result<(), Failure> {
    let (fd, state) = (way.fd, way.state);
    let by_cpu = state.tso_cpu.get();
    if by_cpu == 0 {
        let result = send_uncut(way, hdr, (payload, bytes), off);
        if !matches!(result, Err(Failure::Busy | Failure::Refused)) {
            add(&state.count.tx_super, 1);
            state.tso_refused.set(0);
            return result;
        }
        let refused = state.tso_refused.get().saturating_add(1);
        state.tso_refused.set(refused);
        if refused < MAX_REFUSED {
            return result;
        }
        // One more refusal after the next trial is enough.
        state.tso_refused.set(MAX_REFUSED - 1);
    }
    send_cut(fd, hdr, (payload, bytes), off)?;
    add(&state.count.tx_cut, 1);
    state
        .tso_cpu
        .set(if by_cpu == 0 { CUT_BY_CPU } else { by_cpu - 1 });
    Ok(())
}

/// Cuts a super-frame here. A queue that fills up midway loses the rest, as a queue on the way would.
fn send_cut(
    fd: BorrowedFd<'_>,
    hdr: &[u8],
    (payload, bytes): (&[ShmBytes<'_>], usize),
    off: &TxOffload,
) -> Result<(), Failure> {
    let cutter = Cutter::new(hdr, bytes, off).ok_or(Failure::Lost)?;
    for i in 0..cutter.count() {
        let mut head = [0; HEAD_LEN];
        let segment = cutter.segment(i, &mut head);
        let mut windows = [ShmBytes::EMPTY; MAX_WINDOWS];
        let n = part_of(payload, segment.payload, &mut windows);
        let sent = post(
            fd,
            &head[..hdr.len()],
            &windows[..n],
            &segment.off,
            Cut::Whole,
        );
        if sent.is_err() {
            return if i == 0 { sent } else { Ok(()) };
        }
    }
    Ok(())
}

fn post(
    fd: BorrowedFd<'_>,
    hdr: &[u8],
    payload: &[ShmBytes<'_>],
    off: &TxOffload,
    cut: Cut,
) -> Result<(), Failure> {
    let vnet = vnet::encode(off, cut);
    let mut parts = Parts::new();
    if !(parts.source(&vnet) && parts.source(hdr) && parts.windows(payload)) {
        return Err(Failure::Lost);
    }
    deliver(fd, &parts)
}

fn deliver(fd: BorrowedFd<'_>, parts: &Parts<'_>) -> Result<(), Failure> {
    let mut sent = parts.send(fd);
    if sent == Err(Errno::NETDOWN) {
        // Perhaps left over from an interface that is up again: reading the error cleared it.
        sent = parts.send(fd);
    }
    match sent {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN | Errno::INTR) => Err(Failure::Busy),
        Err(Errno::NOBUFS | Errno::NOMEM) => Err(Failure::Refused),
        Err(_) => Err(Failure::Lost),
    }
}
