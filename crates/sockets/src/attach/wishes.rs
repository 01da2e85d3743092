//! What is done once the stack lock is dropped.

use core::sync::atomic::Ordering;

use flyover_core::effects::{Effect, Effects};

use super::Attachment;

impl Attachment {
    /// Carries out the stack's wishes; no lock of the stack is held.
    pub(super) fn perform(&self, fx: &mut Effects) {
        if self.stack.daemons() != self.daemons.load(Ordering::Relaxed) {
            self.meet_daemon();
        }
        if fx.is_empty() && fx.outbox.is_empty() {
            return;
        }
        if fx.first_wakes_lock() {
            // Before the frames: somebody waits for what is free now.
            self.wake_lock();
        }
        if !fx.outbox.is_empty() {
            self.send_outbox(&mut fx.outbox);
        }
        while let Some(e) = fx.pop() {
            match e {
                Effect::Wake(w) => self.wake(w),
                Effect::FutexWakeLock => self.wake_lock(),
                Effect::PokeKeeper => self.keeper.poke(),
                Effect::ResolveNeigh { ifindex, ip } => self.daemon(|d| d.resolve(ifindex, ip)),
                Effect::DelFilter(id) => self.daemon(|d| d.del_filter(id)),
                Effect::Narrow { filter, listener } => {
                    let flows: Vec<_> = self.stack.child_flows(listener).collect();
                    self.daemon(|d| d.narrow(filter, &flows));
                }
                Effect::CloseParked(sock) => self.keeper.unpark(sock),
            }
        }
        if core::mem::take(&mut fx.overflow) {
            self.stack.each_waiter().for_each(|w| self.wake(w));
        }
    }

    fn wake_lock(&self) {
        self.os
            .futex_wake(self.stack.lock().seq.as_atomic(), i32::MAX as u32);
    }

    /// The daemon died, and another one has taken the stack over: its control plane is the one that is up to date.
    #[cold]
    fn meet_daemon(&self) {
        let count = self.stack.daemons();
        if self.daemon(|d| d.meet()) {
            self.daemons.store(count, Ordering::Relaxed);
        }
    }
}
