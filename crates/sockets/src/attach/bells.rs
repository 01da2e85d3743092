//! Waking a thread that sleeps. Its wake socket can be reached by name, without any descriptor of its process. Whoever wakes
//! the same thread often takes a copy of its bell instead, an eventfd: writing to it costs a fifth of a datagram. And the
//! kernel takes a datagram's sender for one that is about to sleep, and moves the receiver to its processor, where the
//! two are in one another's way when the sender goes on, or spins, and another processor is free.

use std::io::IoSlice;
use std::sync::Mutex;

use flyover_core::stack::wake::{Bell, WaiterId};

use super::{Attachment, wake_name};
use crate::entry::Entry;
use crate::errno::Errno;

/// Sleepers that are known.
const MOST: usize = 16;
/// So many wakes of a sleeper are worth a copy of its bell.
const OFTEN: u32 = 16;

/// A sleeper that was woken.
#[derive(Debug)]
struct Known {
    waiter: WaiterId,
    bell: u32,
    wakes: u32,
    /// The copy; -1: none.
    fd: i32,
}

/// The sleepers that this process has woken lately.
#[derive(Debug, Default)]
pub(super) struct Bells(Mutex<Vec<Known>>);

impl Attachment {
    pub(super) fn wake(&self, w: WaiterId) {
        if self.ring(w) {
            return;
        }
        let byte = [IoSlice::new(&[0])];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let to = wake_name(self.stack_id, w);
        let _: Result<usize, Errno> = self.os.sendmsg(self.wake_tx, &byte, Some(&to), &[], flags);
    }

    /// False: its bell is not at hand.
    fn ring(&self, w: WaiterId) -> bool {
        let Some(bell) = self.stack.waiter_bell(w) else {
            return false;
        };
        // Only tried: another thread may be at it, and a child of `fork` may find it locked for ever.
        let Ok(mut known) = self.bells.0.try_lock() else {
            return false;
        };
        let Some(at) = known.iter().position(|k| k.waiter == w) else {
            self.note(&mut known, w, bell);
            return false;
        };
        let Some(k) = known.get_mut(at) else {
            return false;
        };
        if k.bell != bell.id {
            // The waiter is another thread's by now.
            let gone = known.swap_remove(at);
            self.forget(&gone);
            self.note(&mut known, w, bell);
            return false;
        }
        k.wakes = k.wakes.saturating_add(1);
        if k.wakes == OFTEN {
            k.fd = self.copy_of(bell);
        }
        if k.fd < 0 {
            return false;
        }
        // A bell that is so full that it takes no more has been rung.
        let rung = self.os.write(k.fd, &1u64.to_ne_bytes());
        let ok = matches!(rung, Ok(_) | Err(Errno::EAGAIN));
        if ok {
            self.stack.count_bell();
        }
        ok
    }

    fn note(&self, known: &mut Vec<Known>, w: WaiterId, bell: Bell) {
        if known.len() >= MOST {
            let oldest = known.remove(0);
            self.forget(&oldest);
        }
        known.push(Known {
            waiter: w,
            bell: bell.id,
            wakes: 1,
            fd: -1,
        });
    }

    fn copy_of(&self, bell: Bell) -> i32 {
        let Ok(fd) = self.os.borrow_eventfd(bell.pid, bell.fd, bell.id) else {
            return -1;
        };
        match crate::os::move_high(self.os, fd) {
            Ok(high) => {
                let _: bool = self.table.store(high, Entry::Ours);
                high
            }
            Err(_) => {
                let _: Result<(), Errno> = self.os.close(fd);
                -1
            }
        }
    }

    fn forget(&self, k: &Known) {
        if k.fd >= 0 {
            let _: bool = self.table.store(k.fd, Entry::Unknown);
            let _: Result<(), Errno> = self.os.close(k.fd);
        }
    }
}
