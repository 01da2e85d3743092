//! Frames that leave after the stack lock is dropped ([`Outbox`]).

use core::sync::atomic::{AtomicU64, Ordering};

use flyover_core::Outbox;
use flyover_core::time::Instant;

use super::{Attachment, CONTEXTS};
use crate::errno::Errno;

/// Bytes of one outbox: four frames of an MTU, or many short ones.
const ROOM: usize = 8192;
/// Calls to send what is in a ring: the kernel sends 32 frames in each.
const BELLS: u32 = 64;
/// After a refusal frames are sent under the lock for so long, ns: there the stack hears of it and keeps them back.
const REFUSED: u64 = 1_000_000_000;

/// When a frame was refused last; 0: never.
#[derive(Debug, Default)]
pub(super) struct Outgoing(AtomicU64);

impl Outgoing {
    /// True when the V-NICs are too busy to be given frames that nobody keeps.
    pub(super) fn refused_lately(&self, now: Instant) -> bool {
        let at = self.0.load(Ordering::Relaxed);
        at != 0 && now.0.saturating_sub(at) < REFUSED
    }
}

/// Memory for the outboxes of all contexts: zero pages until they are used.
pub(super) fn rooms(nics: usize) -> impl Iterator<Item = &'static mut [u8]> {
    let len = if nics == 0 { 0 } else { CONTEXTS * ROOM };
    vec![0u8; len].leak().chunks_exact_mut(ROOM)
}

impl Attachment {
    pub(super) fn send_outbox(&self, outbox: &mut Outbox) {
        for nic in outbox.rung() {
            self.ring_nic(nic);
        }
        outbox.drain(|nic, frame| {
            let Some(&fd) = self.tx_fds.get(nic) else {
                return self.stack.count_outbox_lost();
            };
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let mut sent = self.os.send(fd, frame, flags);
            if sent == Err(Errno::ENETDOWN) {
                // Perhaps left over from an interface that is up again: reading the error cleared it.
                sent = self.os.send(fd, frame, flags);
            }
            if sent.is_err() {
                self.outgoing.0.store(self.os.now(), Ordering::Relaxed);
                self.stack.count_outbox_lost();
            }
        });
    }

    /// What one call leaves in the ring the next one sends; what the last one leaves goes with the next frame.
    fn ring_nic(&self, nic: usize) {
        let Some(&fd) = self.tx_fds.get(nic) else {
            return;
        };
        for _ in 0..BELLS {
            let rung = self.os.send(fd, &[], libc::MSG_DONTWAIT);
            // BUSY: the device dropped a frame, and those behind it are left.
            if !matches!(
                rung,
                Err(Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS | Errno::EINTR)
            ) {
                return;
            }
        }
    }
}
