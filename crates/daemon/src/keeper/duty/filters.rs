//! Filters that nobody uses any longer. Whoever frees a socket wishes its filter away after he let go of the stack lock;
//! when he dies in between, the wish is lost. So after deaths the keeper asks the daemon for the stack's filters and
//! compares. A filter that no socket has may belong to a socket that is just being made: only one that has no socket a
//! second time, some seconds later, goes.

use std::collections::BTreeSet;

use flyover_proto::{MAX_FILTER_IDS, Notice};

use super::{Duty, MS};
use crate::keeper::served::monotonic;

/// From a death to the comparison, ns: several deaths are looked at together.
const PAUSE: u64 = 1_000 * MS;
/// From one comparison to the next, ns: longer than any process needs from its filter's number to its socket.
const AGAIN: u64 = 3_000 * MS;
/// The daemon's answer is waited for this long, ns; messages to a busy keeper may get lost.
const PATIENCE: u64 = 2_000 * MS;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// When to begin the next comparison, or to give up the present one.
    due: Option<u64>,
    /// A comparison is under way.
    asked: bool,
    /// Had no socket in the comparison before.
    doubtful: BTreeSet<u32>,
    /// Have no socket in this one.
    found: BTreeSet<u32>,
    /// A process died meanwhile.
    again: bool,
}

impl Audit {
    /// A process died.
    pub(super) fn order(&mut self, now: u64) {
        if self.due.is_some() {
            self.again = true;
        } else {
            self.due = Some(now.saturating_add(PAUSE));
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// A comparison is complete: which filters go?
    fn conclude(&mut self, now: u64) -> Vec<u32> {
        self.asked = false;
        let found = std::mem::take(&mut self.found);
        let (gone, new): (BTreeSet<u32>, _) =
            found.into_iter().partition(|id| self.doubtful.contains(id));
        let more = std::mem::take(&mut self.again) || !new.is_empty();
        self.due = more.then(|| now.saturating_add(AGAIN));
        self.doubtful = new;
        gone.into_iter().collect()
    }
}

impl Duty {
    pub(super) fn audit_filters(&mut self) {
        let now = monotonic();
        if self.audit.due.is_none_or(|due| due > now) {
            return;
        }
        if self.control.is_none() {
            self.audit = Audit::default();
            return;
        }
        // An answer that did not come is asked for again.
        self.audit.asked = true;
        self.audit.found.clear();
        self.audit.due = Some(now.saturating_add(PATIENCE));
        self.outbox.push_back(Notice::ListFilters { after: 0 });
    }

    /// A part of the daemon's list.
    pub(super) fn hear_filters(&mut self, ids: &[u32]) {
        if !self.audit.asked {
            return;
        }
        let used = self.served.filters_used();
        self.audit
            .found
            .extend(ids.iter().filter(|id| !used.contains(id)));
        if ids.len() == MAX_FILTER_IDS
            && let Some(last) = ids.last()
        {
            self.outbox.push_back(Notice::ListFilters { after: *last });
            return;
        }
        let gone = self.audit.conclude(monotonic());
        if !gone.is_empty() {
            tracing::debug!(filters = gone.len(), "filters of dead processes go");
        }
        self.outbox
            .extend(gone.into_iter().map(|id| Notice::DelFilter { id }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(audit: &mut Audit, now: u64, without_socket: &[u32]) -> Vec<u32> {
        audit.asked = true;
        audit.found = without_socket.iter().copied().collect();
        audit.conclude(now)
    }

    #[test]
    fn only_what_has_no_socket_twice_goes() {
        let mut audit = Audit::default();
        audit.order(0);
        assert_eq!(audit.due(), Some(PAUSE));
        assert!(compare(&mut audit, PAUSE, &[3, 7]).is_empty());
        assert_eq!(audit.due(), Some(PAUSE + AGAIN));
        // 7 got its socket, 9 is new.
        assert_eq!(compare(&mut audit, PAUSE + AGAIN, &[3, 9]), [3]);
        assert!(compare(&mut audit, PAUSE + 2 * AGAIN, &[]).is_empty());
        assert_eq!(audit.due(), None);
    }

    #[test]
    fn a_death_during_a_comparison_asks_for_another_one() {
        let mut audit = Audit::default();
        audit.order(0);
        audit.order(1);
        assert!(compare(&mut audit, PAUSE, &[]).is_empty());
        assert_eq!(audit.due(), Some(PAUSE + AGAIN));
        assert!(compare(&mut audit, PAUSE + AGAIN, &[]).is_empty());
        assert_eq!(audit.due(), None);
    }
}
