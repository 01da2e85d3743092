//! What needs the stack lock or the daemon, done as far as these can be had.

use std::os::fd::AsFd as _;

use flyover_proto::{Deadline, List, MAX_MESSAGE, Notice, send};
use rustix::event::epoll;

use super::{Duty, MS, listen_once};
use crate::keeper::served::{Wish, monotonic};

/// A stack without processes and sockets is given up after this time, ns.
const LINGER: u64 = 1_000 * MS;
/// When reports of deaths were lost and no process is attached for this long, all sockets count as dead, ns.
const LOST_LINGER: u64 = 10_000 * MS;
/// Without sockets the reports of their end go on for so long, ns.
pub(super) const NEEDLESS: u64 = 1_000 * MS;
/// Least time between two walks for dead sockets, ns.
const WALK_PAUSE: u64 = 5 * MS;
/// A short queue of reports is read this often meanwhile, ns.
pub(super) const READ_PAUSE: u64 = MS;
/// Wishes that wait for the daemon.
const MAX_OUTBOX: usize = 4096;

impl Duty {
    /// Everything that needs the lock or the daemon, as far as these can be had now.
    pub(super) fn work(&mut self) {
        self.hear_on_demand();
        self.take_over_from_dead();
        self.served.mend();
        self.bury();
        self.raise();
        self.report_icmp();
        self.look_for_closed();
        self.close_dead();
        self.audit_filters();
        self.end_lease();
        self.look_after_end();
        self.listen_again();
        self.pass_wishes();
    }

    /// Reports of the end of sockets begin when somebody asks for them, and end some time after the last socket.
    fn hear_on_demand(&mut self) {
        let stack = self.served.stack();
        if stack.reports_are_wanted() {
            self.hear(true);
            stack.reports_begin();
        }
        if stack.socks_used() > 0 || !stack.reports_are_on() {
            self.needless_since = None;
            return;
        }
        let now = monotonic();
        let since = *self.needless_since.get_or_insert(now);
        if now.saturating_sub(since) >= NEEDLESS {
            self.needless_since = None;
            if stack.reports_end() {
                self.hear(false);
            }
        }
    }

    pub(super) fn hear(&self, on: bool) {
        if let Err(e) = self.deaths.hear(on) {
            tracing::error!(on, "the reports of the end of sockets: {e}");
        }
    }

    fn take_over_from_dead(&mut self) {
        let holder = self
            .served
            .lock_owner()
            .filter(|owner| self.dead.contains(owner));
        let Some(owner) = holder else { return };
        // The slot may be in use again: the daemon says so before its process can take the lock.
        self.control();
        if self.dead.contains(&owner) && self.served.take_over(owner) {
            tracing::warn!(
                owner,
                "a process died with the lock; the stack was recovered"
            );
        }
    }

    fn bury(&mut self) {
        while let Some((owner, unfinished)) = self.pending.gone.first_key_value() {
            let (owner, unfinished) = (*owner, *unfinished);
            if !self.served.owner_gone(owner, unfinished) {
                return;
            }
            self.pending.gone.remove(&owner);
            self.audit.order(monotonic());
        }
    }

    fn raise(&mut self) {
        if self.pending.events.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.pending.events);
        if self
            .served
            .locked(|locked| {
                for (sock, what) in &events {
                    locked.os_event(*sock, *what);
                }
            })
            .is_none()
        {
            self.pending.events = events;
        }
    }

    fn report_icmp(&mut self) {
        if self.pending.icmp.is_empty() {
            return;
        }
        let reports = std::mem::take(&mut self.pending.icmp);
        let told = self.served.locked(|locked| {
            for (flow, seq, what) in &reports {
                locked.icmp_error(*flow, *seq, *what);
            }
        });
        if told.is_none() {
            self.pending.icmp = reports;
        }
    }

    /// The first death after a pause is seen to at once; those that follow it at most every 5 ms together, and in at most
    /// a tenth of the time. Reports that the kernel has no room for meanwhile are taken every millisecond.
    fn close_dead(&mut self) {
        let start = monotonic();
        if self.deaf && self.deaths.short && start >= self.next_read {
            self.hear_deaths();
            self.next_read = start + READ_PAUSE;
        }
        if start < self.next_walk {
            return;
        }
        if self.pending.cookies.is_empty() {
            if std::mem::take(&mut self.deaf)
                && let Err(e) = listen_once(epoll::modify, self.epoll.as_fd(), self.deaths.as_fd())
            {
                tracing::error!("listening for the end of sockets: {e}");
            }
            return;
        }
        if self.served.stack().socks_used() == 0
            || self.served.close_dead(&self.pending.cookies).is_some()
        {
            self.served
                .stack()
                .forget_deaths(self.pending.cookies.len());
            self.pending.cookies.clear();
        }
        let end = monotonic();
        self.next_walk =
            end.saturating_add(end.saturating_sub(start).saturating_mul(9).max(WALK_PAUSE));
    }

    /// Takes the reports that came, and notes them where the next keeper finds them.
    pub(super) fn hear_deaths(&mut self) {
        let (cookies, stack) = (&mut self.pending.cookies, self.served.stack());
        self.deaths.drain(|cookie| {
            if stack.socks_used() > 0 {
                let _: bool = stack.note_death(cookies.len(), cookie);
            }
            cookies.extend([cookie]);
        });
    }

    /// A stack that nobody uses any longer ends.
    fn look_after_end(&mut self) {
        if !self.attached.is_empty() {
            (self.alone_since, self.idle_since) = (None, None);
            return;
        }
        let now = monotonic();
        let alone = *self.alone_since.get_or_insert(now);
        let (held, orphans) = self.served.stack().live_sockets();
        if held + orphans > 0 || !self.pending.gone.is_empty() {
            self.idle_since = None;
            if held > 0 && self.deaths.lost && now.saturating_sub(alone) >= LOST_LINGER {
                self.close_all();
            }
            return;
        }
        let idle = *self.idle_since.get_or_insert(now);
        if self.told_idle || now.saturating_sub(idle) < LINGER {
            return;
        }
        if self.control.is_none() {
            self.done = true;
        } else {
            self.outbox.push_back(Notice::Idle { epoch: self.epoch });
            self.told_idle = true;
        }
    }

    /// Reports of deaths were lost, and no process is left: whatever is still held is held by nobody.
    fn close_all(&mut self) {
        let stack = self.served.stack();
        let closed = self
            .served
            .locked(|locked| stack.each_sock().for_each(|sock| locked.close(sock.id)));
        if closed.is_some() {
            self.deaths.lost = false;
        }
    }

    fn pass_wishes(&mut self) {
        for wish in std::mem::take(&mut self.served.wishes) {
            let notice = match wish {
                Wish::CloseParked(sock) => {
                    self.parked.close(sock);
                    continue;
                }
                Wish::Resolve { ifindex, ip } => Notice::Resolve { ifindex, ip },
                Wish::DelFilter(id) => Notice::DelFilter { id },
                Wish::Narrow(id, to) => Notice::Narrow {
                    id,
                    to: List::new(to),
                },
            };
            if self.outbox.len() < MAX_OUTBOX {
                self.outbox.push_back(notice);
            }
        }
        let Some(control) = &self.control else {
            // These the next daemon must hear of; the rest concerned the one that died.
            self.outbox
                .retain(|n| matches!(n, Notice::DelFilter { .. } | Notice::Narrow { .. }));
            return;
        };
        while let Some(notice) = self.outbox.front() {
            let mut buf = [0; MAX_MESSAGE];
            let Ok(len) = notice.encode(0, &mut buf) else {
                break;
            };
            if send(control.as_fd(), &buf[..len], &[], Deadline::NOW).is_err() {
                return;
            }
            self.outbox.pop_front();
        }
    }
}
