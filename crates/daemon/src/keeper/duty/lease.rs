//! Local ports lent to the stack: their holders, and the end of a lease that nobody uses.

use std::os::fd::OwnedFd;

use flyover_core::Instant;
use flyover_proto::{FdBag, Notice};

use super::{Duty, MS};
use crate::keeper::served::monotonic;

/// A lease ends when nobody has connected from its ports for so long, ns, and no connection has one. The kernel's own
/// programs then have the ports again.
const IDLE: u64 = 30_000 * MS;
/// From one look at a lease whose time has come, but whose ports are in use, to the next, ns.
const AGAIN: u64 = 5_000 * MS;

/// Sockets that hold the ports; the daemon has others, or copies. Those here outlive it.
#[derive(Debug, Default)]
pub(super) struct Lent {
    lease: u64,
    holders: Vec<OwnedFd>,
    /// No look before this time.
    next: u64,
}

impl Lent {
    /// More of them.
    pub(super) fn hold(&mut self, lease: u64, fds: &mut FdBag) {
        if self.lease != lease {
            self.holders.clear();
            self.lease = lease;
        }
        self.holders.extend(std::iter::from_fn(|| fds.pop()));
    }
}

impl Duty {
    /// When to look whether the lease is over.
    pub(super) fn lease_due(&self) -> Option<u64> {
        self.control.as_ref()?;
        let used = self.served.stack().lease_used()?;
        Some(used.0.saturating_add(IDLE).max(self.lent.next))
    }

    /// Gives ports back that nobody uses.
    pub(super) fn end_lease(&mut self) {
        let now = monotonic();
        if self.lease_due().is_none_or(|due| due > now) {
            return;
        }
        self.lent.next = now.saturating_add(AGAIN);
        let since = Instant(now.saturating_sub(IDLE));
        let over = self.served.locked(|locked| locked.end_idle_lease(since));
        if let Some(next) = over.flatten() {
            self.lent.holders.clear();
            self.outbox.push_back(Notice::LeaseOver { lease: next });
        }
    }
}
