//! Proof that the stack lock is held. Dropping it runs the work that others left, then releases the lock.
//!
//! What the lock protects: every `SharedCell` of a stack but those of a receive queue's consumer. Who may hold it:
//! any attached process and the keeper. How long: one bounded batch. What the unlocker owes: the deferred work, the
//! post-poll list, the V-NICs' doorbells, the published deadline, and a wake for those who sleep on the lock.

use super::Stack;
use super::deferred::defer;
use crate::effects::{Effect, Effects};
use crate::sock::SockId;
use crate::time::Instant;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use flyover_cplane::Reader;
use flyover_shm::{ShmBytes, Unlock};
use flyover_vnic::{TxOffload, TxResult, Vnic};

/// The V-NICs that the calling process can use. The index is that of the stack's V-NIC table.
pub trait NicSet {
    /// One more than the highest index in use.
    fn count(&self) -> usize;
    /// The V-NIC at `i`, if this process has it.
    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic>;
}

/// So long, ns, no process stands still between its look at the clock and the lock: a time that lies further in the future is
/// damage to the memory.
const FAR: u64 = 30 * 24 * 3_600 * 1_000_000_000;

/// What the caller lends to the stack for one lock hold.
pub struct Env<'e> {
    /// The caller's clock.
    pub now: Instant,
    /// Its V-NICs.
    pub nics: &'e mut dyn NicSet,
    /// The control plane.
    pub cp: Reader<'e>,
    /// Wishes, performed by the caller after the lock is dropped.
    pub fx: &'e mut Effects,
    /// The caller's owner slot; 0 is the keeper.
    pub me: u16,
    /// Fresh entropy.
    pub rng: u64,
}

impl core::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Env")
            .field("now", &self.now)
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

/// The lock is held as long as this lives.
#[derive(Debug)]
pub struct Locked<'a, 'e, 'm> {
    pub(crate) st: Stack<'m>,
    pub(crate) env: &'a mut Env<'e>,
    pub(crate) dirty: bool,
}

impl<'m> Stack<'m> {
    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock<'a, 'e>(self, env: &'a mut Env<'e>) -> Option<Locked<'a, 'e, 'm>> {
        self.state.lock.try_lock(env.me).then(|| self.held(env))
    }

    /// Takes the lock if it is free; else leaves `work` for `id` to whoever holds it. One atomic step decides, so
    /// the work is never lost.
    pub fn lock_or_defer<'a, 'e>(
        self,
        env: &'a mut Env<'e>,
        id: SockId,
        work: u32,
    ) -> Option<Locked<'a, 'e, 'm>> {
        if self.state.lock.try_lock(env.me) {
            let mut l = self.held(env);
            l.do_work(id, work);
            return Some(l);
        }
        defer(self, id, work);
        self.state
            .lock
            .lock_or_defer(env.me, super::deferred::SOCKS)
            .then(|| self.held(env))
    }

    /// Wraps a lock that the caller obtained by [`flyover_shm::StackLock`] itself, for instance after sleeping on it
    /// or by taking it over from a dead owner.
    pub fn assume_locked<'a, 'e>(self, env: &'a mut Env<'e>) -> Option<Locked<'a, 'e, 'm>> {
        (self.state.lock.owner() == Some(env.me)).then(|| self.held(env))
    }

    /// The lock is held. The stack's time does not go back: the caller may have looked at his clock and lost the processor
    /// before he got the lock, and what others did since must not lie in his future.
    #[inline]
    fn held<'a, 'e>(self, env: &'a mut Env<'e>) -> Locked<'a, 'e, 'm> {
        let (clock, now) = (&self.state.clock, env.now.0);
        let ahead = clock.get().wrapping_sub(now);
        if ahead != 0 && ahead < FAR {
            env.now = Instant(clock.get());
        } else {
            clock.set(now);
        }
        Locked {
            st: self,
            env,
            dirty: false,
        }
    }
}

impl<'m> Locked<'_, '_, 'm> {
    /// The stack.
    pub fn stack(&self) -> Stack<'m> {
        self.st
    }

    /// The caller's clock.
    pub fn now(&self) -> Instant {
        self.env.now
    }

    /// Gives a frame to a V-NIC: small ones wait in the outbox until the lock is dropped, where there is one.
    pub(crate) fn give(
        &mut self,
        nic: usize,
        hdr: &[u8],
        payload: &[ShmBytes<'_>],
        off: &TxOffload,
    ) -> TxResult {
        let env = &mut *self.env;
        let Some(vnic) = env.nics.nic(nic) else {
            return TxResult::Dropped;
        };
        let outbox = &mut env.fx.outbox;
        let written = outbox
            .place()
            .and_then(|place| vnic.encode(hdr, payload, off, place));
        if let Some(len) = written {
            outbox.keep(nic, len);
            return TxResult::Sent;
        }
        self.send_outbox();
        self.dirty = true;
        match self.env.nics.nic(nic) {
            Some(vnic) => vnic.tx(hdr, payload, off),
            None => TxResult::Dropped,
        }
    }

    /// What comes next must not overtake what waits.
    fn send_outbox(&mut self) {
        let env = &mut *self.env;
        let (nics, stats) = (&mut *env.nics, &self.st.state.stats);
        env.fx.outbox.drain(|nic, frame| {
            let sent = nics.nic(nic).map(|nic| nic.post(frame));
            if sent != Some(TxResult::Sent) {
                let _: u64 = stats.tx_dropped.fetch_add(1, Relaxed);
            }
        });
    }

    /// Publishes the earliest deadline, and wakes the keeper when it sleeps longer than that.
    fn publish_deadline(&mut self) {
        let st = self.st.state;
        let min = st.wheel_min.get();
        if st.next_deadline.load(Acquire) != min {
            st.next_deadline.store(min, Release);
            // See `Stack::set_keeper_sleep`.
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        }
        if min != 0 && self.env.me != 0 && st.keeper_sleep.load(Acquire) > min {
            st.keeper_sleep.store(0, Release);
            self.env.fx.push(Effect::PokeKeeper);
        }
    }

    fn finish(&mut self) {
        self.run_post();
        let n = self.env.nics.count();
        if self.dirty {
            for i in 0..n {
                let env = &mut *self.env;
                let Some(nic) = env.nics.nic(i) else {
                    continue;
                };
                if !env.fx.outbox.is_open() {
                    nic.flush();
                } else if nic.flush_later() {
                    env.fx.outbox.ring(i);
                }
            }
            self.dirty = false;
        }
        self.publish_deadline();
    }
}

impl Drop for Locked<'_, '_, '_> {
    fn drop(&mut self) {
        // Bounded: each round needs somebody else to leave new work.
        for _ in 0..1024 {
            self.finish();
            match self.st.state.lock.try_unlock() {
                Unlock::Released { wake } => {
                    if wake {
                        self.env.fx.push(Effect::FutexWakeLock);
                    }
                    return;
                }
                Unlock::Deferred(bits) => self.run_deferred(bits),
            }
        }
        let wake = self.st.state.lock.force_unlock();
        if wake {
            self.env.fx.push(Effect::FutexWakeLock);
        }
    }
}
