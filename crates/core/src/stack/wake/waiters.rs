//! Threads that sleep, and which of them watch the V-NICs.

use super::objects::{Bell, SetId, Wait, WaiterId, wstate};
use crate::error::Error;
use crate::stack::Stack;
use crate::stack::locked::Locked;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use flyover_shm::OptIdx;

/// Sleepers that watch the V-NICs at the same time. Two: a packet then wakes two threads at the most, and one
/// resigning does not leave the V-NICs unwatched while its successor wakes.
const MAX_LEADERS: u32 = 2;

impl Stack<'_> {
    /// The name suffix of a waiter's wake socket.
    pub fn waiter_owner(self, w: WaiterId) -> u16 {
        self.waiters.at(w).owner.get() as u16
    }

    /// The eventfd of a waiter that has one; needs no lock, so what it says is to be verified.
    pub fn waiter_bell(self, w: WaiterId) -> Option<Bell> {
        let waiter = self.waiters.at(w);
        let id = waiter.bell_id.get();
        (id != 0).then(|| Bell {
            pid: waiter.bell_pid.get() as i32,
            fd: waiter.bell.get() as i32,
            id,
        })
    }

    /// A waiter was woken by its bell.
    pub fn count_bell(self) {
        let _: u64 = self.state.stats.bells.fetch_add(1, Relaxed);
    }

    /// True while nobody has woken this waiter; needs no lock.
    pub fn still_asleep(self, w: WaiterId) -> bool {
        self.waiters.at(w).state.load(Acquire) == wstate::ASLEEP
    }
}

impl Locked<'_, '_, '_> {
    /// A waiter for the calling thread. It keeps it as long as it lives.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] when all are in use.
    pub fn waiter_alloc(&mut self) -> Result<WaiterId, Error> {
        let st = self.st;
        let tag = u32::from(self.env.me) + 1;
        let id = st
            .state
            .waiter_slots
            .alloc(st.waiters, tag)
            .ok_or(Error::NoBuffers)?;
        let w = st.waiters.at(id);
        w.state.store(wstate::AWAKE, Release);
        w.owner.set(u32::from(self.env.me));
        w.next.set(OptIdx::NONE);
        w.set.set(OptIdx::NONE);
        w.leader.set(0);
        w.following.set(0);
        w.bell_id.set(0);
        Ok(id)
    }

    /// The thread of `w` can be woken by an eventfd as well.
    pub fn waiter_has_bell(&mut self, w: WaiterId, bell: Bell) {
        let w = self.st.waiters.at(w);
        w.bell.set(bell.fd as u32);
        w.bell_pid.set(bell.pid as u32);
        w.bell_id.set(bell.id);
    }

    /// Gives a waiter back.
    pub fn waiter_free(&mut self, w: WaiterId) {
        self.leave(w);
        let _: bool = self.st.state.waiter_slots.free(self.st.waiters, w);
    }

    /// Announces that the thread of `w` is about to sleep until something in `set` is ready.
    pub fn wait_begin(&mut self, set: SetId, w: WaiterId) -> Wait {
        if !self.announce(set, w) {
            return Wait::Ready;
        }
        let st = self.st;
        let waiter = st.waiters.at(w);
        let leader = st.state.leaders.load(Relaxed) < MAX_LEADERS;
        if leader {
            waiter.leader.set(1);
            let _: u32 = st.state.leaders.fetch_add(1, Relaxed);
        } else if waiter.following.get() == 0 {
            waiter.following.set(1);
            waiter.fnext.set(st.state.followers.get());
            st.state.followers.set(w.into());
        }
        Wait::Sleep { leader }
    }

    /// [`Locked::wait_begin`] for a short sleep during which others handle what the V-NICs receive: the thread does not
    /// watch them, and is not asked to.
    pub fn wait_aside(&mut self, set: SetId, w: WaiterId) -> Wait {
        if self.announce(set, w) {
            Wait::Sleep { leader: false }
        } else {
            Wait::Ready
        }
    }

    /// False when something is ready.
    fn announce(&mut self, set: SetId, w: WaiterId) -> bool {
        let st = self.st;
        let owner = st.sets.at(set);
        if owner.ready_len.load(Relaxed) != 0 {
            return false;
        }
        let waiter = st.waiters.at(w);
        waiter.set.set(set.into());
        waiter.next.set(owner.waiters.get());
        owner.waiters.set(w.into());
        waiter.state.store(wstate::ASLEEP, Release);
        true
    }

    /// The thread of `w` is awake and about to poll: events that it raises itself need no wake.
    pub fn wait_awake(&mut self, w: WaiterId) {
        self.st.waiters.at(w).state.store(wstate::AWAKE, Release);
    }

    /// The thread of `w` is awake again. When it was the last that watched the V-NICs, a follower is promoted.
    pub fn wait_end(&mut self, w: WaiterId) {
        self.leave(w);
    }

    fn leave(&mut self, w: WaiterId) {
        let st = self.st;
        let waiter = st.waiters.at(w);
        waiter.state.store(wstate::AWAKE, Release);
        if let Some(set) = waiter.set.get().opt() {
            unlink_waiter(st, set, w);
            waiter.set.set(OptIdx::NONE);
        }
        if waiter.following.get() != 0 {
            waiter.following.set(0);
            unlink_follower(st, w);
        }
        if waiter.leader.get() != 0 {
            waiter.leader.set(0);
            let left = st.state.leaders.load(Relaxed).saturating_sub(1);
            st.state.leaders.store(left, Relaxed);
            if left == 0
                && let Some(f) = st.state.followers.get().opt()
            {
                let next = st.waiters.at(f);
                st.state.followers.set(next.fnext.get());
                next.following.set(0);
                let _: u64 = st.state.stats.promotions.fetch_add(1, Relaxed);
                let _: bool = self.wake_waiter(f);
            }
        }
    }
}

fn unlink_waiter(st: Stack<'_>, set: SetId, w: WaiterId) {
    let owner = st.sets.at(set);
    let mut cur = owner.waiters.get().opt();
    if cur == Some(w) {
        owner.waiters.set(st.waiters.at(w).next.get());
        return;
    }
    let mut guard = st.limits().waiters;
    while let Some(i) = cur {
        if guard == 0 {
            return;
        }
        guard -= 1;
        let next = st.waiters.at(i).next.get();
        if next.opt() == Some(w) {
            st.waiters.at(i).next.set(st.waiters.at(w).next.get());
            return;
        }
        cur = next.opt();
    }
}

fn unlink_follower(st: Stack<'_>, w: WaiterId) {
    let mut cur = st.state.followers.get().opt();
    if cur == Some(w) {
        st.state.followers.set(st.waiters.at(w).fnext.get());
        return;
    }
    let mut guard = st.limits().waiters;
    while let Some(i) = cur {
        if guard == 0 {
            return;
        }
        guard -= 1;
        let next = st.waiters.at(i).fnext.get();
        if next.opt() == Some(w) {
            st.waiters.at(i).fnext.set(st.waiters.at(w).fnext.get());
            return;
        }
        cur = next.opt();
    }
}
