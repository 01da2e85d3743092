//! The thread of a namespace: hears changes, writes them down, and asks for full lists whenever
//! hearing is not enough.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use flyover_cplane::writer::{Change, Kinds, Outcome, Writer};
use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::RouteNetlinkMessage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::netlink::{Drained, Dumper, Listener, Notice};
use super::snapshot::{self, Snapshot};

/// The kernel flushes IPv4 routes without saying so when a link goes down or an address goes away,
/// and does so after it has spoken of the link: a list is asked for after this time.
const SOON: Duration = Duration::from_millis(20);
/// And once more, for a kernel that was slower than that.
const LATER: Duration = Duration::from_secs(1);
/// Full lists are compared now and then, against whatever else may go unheard.
const ROUTINE: Duration = Duration::from_secs(60);

/// Keeps the tables of one namespace.
pub(super) struct Follower<'m> {
    pub(super) writer: Writer<'m>,
    pub(super) listener: Listener,
    pub(super) dumper: Dumper,
    pub(super) due: Due,
    /// Told when links or addresses changed.
    pub(super) changed: SyncSender<()>,
}

/// When to ask for which lists.
pub(super) struct Due {
    routes_soon: Option<Instant>,
    routes_later: Option<Instant>,
    everything: Instant,
}

impl Due {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            routes_soon: None,
            routes_later: None,
            everything: now + ROUTINE,
        }
    }

    fn next(&self) -> Instant {
        let routes = self.routes_soon.into_iter().chain(self.routes_later);
        routes.fold(self.everything, Instant::min)
    }

    /// The routes may be different from what was heard.
    fn recheck(&mut self, now: Instant) {
        self.routes_soon.get_or_insert(now + SOON);
        self.routes_later = Some(now + LATER);
    }

    /// Lists to ask for now. Forgets them: a failure sets a new time.
    fn take(&mut self, now: Instant) -> Option<Kinds> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.everything <= now {
            *self = Self::new(now);
            return Some(Kinds::ALL);
        }
        let (soon, later) = (is_due(self.routes_soon), is_due(self.routes_later));
        if soon {
            self.routes_soon = None;
        }
        if later {
            self.routes_later = None;
        }
        (soon || later).then_some(Kinds::ROUTES)
    }
}

impl Follower<'_> {
    /// Runs until `stop` becomes readable.
    pub(super) fn run(mut self, stop: &OwnedFd) {
        while self.wait(stop) {
            match self.drain() {
                Ok(Drained::Lost) => {
                    tracing::debug!("netlink messages were lost, reading everything again");
                    self.due.everything = Instant::now();
                }
                Ok(Drained::All | Drained::Some) => {}
                Err(error) => {
                    tracing::warn!("hearing of network changes: {error}");
                    self.due.everything = Instant::now() + LATER;
                    std::thread::sleep(SOON);
                }
            }
            if let Some(kinds) = self.due.take(Instant::now())
                && let Err(error) = self.resync(kinds)
            {
                tracing::warn!("reading the network configuration: {error}");
                self.due.everything = Instant::now() + LATER;
            }
        }
    }

    /// Sleeps until there is something to do; false when it is time to end.
    fn wait(&self, stop: &OwnedFd) -> bool {
        let left = self.due.next().saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => !fds[1].revents().contains(PollFlags::IN),
            Err(error) => {
                tracing::error!("waiting for network changes: {error}");
                false
            }
        }
    }

    fn drain(&mut self) -> io::Result<Drained> {
        let mut heard = Heard::default();
        let (writer, now) = (&mut self.writer, Instant::now());
        let drained = self.listener.drain(|notice| heard.take_in(writer, notice));
        if heard.recheck {
            self.due.recheck(now);
        }
        if heard.rules {
            self.due.routes_soon = Some(now);
        }
        if heard.changed {
            self.tell();
        }
        drained
    }

    /// Asks for full lists of these tables and makes ours the same.
    pub(super) fn resync(&mut self, kinds: Kinds) -> io::Result<()> {
        let snapshot = Snapshot::take(&mut self.dumper, kinds)?;
        if self.write(kinds, snapshot) {
            self.tell();
        }
        Ok(())
    }

    /// True when links or addresses changed.
    pub(super) fn write(&mut self, kinds: Kinds, snapshot: Snapshot) -> bool {
        // The rules first: while in doubt, the kernel decides.
        self.writer.apply(Change::Policy(snapshot.policy));
        self.writer.apply(Change::ResyncBegin(kinds));
        let mut changed = false;
        for change in snapshot.changes {
            let concerns = concerns_vnics(&change);
            changed |= self.writer.apply(change) != Outcome::Unchanged && concerns;
        }
        let swept = self.writer.apply(Change::ResyncEnd(kinds));
        changed || (swept != Outcome::Unchanged && kinds.contains(Kinds::LINKS))
    }

    fn tell(&self) {
        // Full: it will be told already. Closed: nobody is left who wants to know.
        let _: Result<(), _> = self.changed.try_send(());
    }
}

/// What came of a batch of notices.
#[derive(Default)]
struct Heard {
    changed: bool,
    recheck: bool,
    rules: bool,
}

impl Heard {
    fn take_in(&mut self, writer: &mut Writer<'_>, notice: Notice) {
        let (flags, message) = match notice {
            Notice::Message(flags, message) => (flags, message),
            Notice::Recheck => {
                self.recheck = true;
                return;
            }
        };
        if matches!(
            message,
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_)
        ) {
            self.rules = true;
            return;
        }
        let mut changes = snapshot::changes(&message);
        // What one of several next hops means depends on the others, and differs between families.
        self.recheck |= changes.len() > 1;
        if flags & NLM_F_REPLACE != 0 && matches!(message, RouteNetlinkMessage::NewRoute(_)) {
            self.recheck = true;
            changes = vec![replacing(changes)];
        }
        for change in changes {
            let forgets = matches!(change, Change::DelRoute(_));
            let concerns = concerns_vnics(&change);
            match writer.apply(change) {
                Outcome::Unchanged => self.recheck |= forgets,
                Outcome::Changed | Outcome::Full => {
                    self.changed |= concerns;
                    self.recheck |= concerns;
                }
            }
        }
    }
}

fn replacing(changes: Vec<Change>) -> Change {
    let routes = changes.into_iter().filter_map(|change| match change {
        Change::Route(route) => Some(route),
        _ => None,
    });
    Change::ReplaceRoutes(routes.collect())
}

/// Changes that V-NICs and filters may have to follow, and after which the kernel may drop routes.
fn concerns_vnics(change: &Change) -> bool {
    matches!(
        change,
        Change::Link(_) | Change::DelLink { .. } | Change::Addr(_) | Change::DelAddr(_)
    )
}
