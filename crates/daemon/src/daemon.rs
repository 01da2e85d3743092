//! What all parts of the daemon share.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flyover_config::DaemonOpts;
use rustix::event::{EventfdFlags, eventfd};

use crate::net::Nets;
use crate::power::Power;
use crate::records::Records;
use crate::shares::Shares;
use crate::stacks::Registry;

/// Connections at the same time: all, of one user, of root.
const MAX_SESSIONS: usize = 8192;
const MAX_USER_SESSIONS: usize = 6144;

/// See the module.
pub struct Daemon {
    /// Its options.
    pub opts: DaemonOpts,
    /// What it may do.
    pub power: Power,
    /// Interfaces that may be used at all; empty: all.
    pub interfaces: Vec<String>,
    /// Who may share a stack.
    pub shares: Shares,
    /// The stacks.
    pub stacks: Registry,
    /// The network namespaces.
    pub nets: Nets,
    /// Notes for the next daemon, and of the one before.
    pub records: Option<Arc<Records>>,
    /// When it started.
    pub started: Instant,
    /// What clients did not get.
    pub denials: Denials,
    /// Clients are accepted.
    pub serving: AtomicBool,
    sessions: Mutex<HashMap<u32, usize>>,
    /// Readable once the daemon is to end.
    stop: OwnedFd,
}

impl Daemon {
    /// A daemon without stacks.
    ///
    /// # Errors
    /// A policy that cannot be read; as eventfd(2).
    pub fn new(
        opts: DaemonOpts,
        power: Power,
        interfaces: Vec<String>,
    ) -> anyhow::Result<Arc<Self>> {
        let shares = Shares::read(opts.share.as_str())?;
        // An ordinary user's daemon has no filters and no V-NICs: its stacks need no other one.
        let records = if power.is_user() {
            Ok(None)
        } else {
            Records::open(opts.socket.as_str())
        };
        let records = records
            .inspect_err(|e| tracing::error!("stacks will not outlive this daemon: {e}"))
            .ok()
            .flatten()
            .map(Arc::new);
        Ok(Arc::new(Self {
            opts,
            nets: Nets::new(interfaces.clone(), power.is_user(), records.clone()),
            power,
            records,
            interfaces,
            shares,
            stacks: Registry::default(),
            started: Instant::now(),
            denials: Denials::default(),
            serving: AtomicBool::new(false),
            sessions: Mutex::default(),
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        }))
    }

    /// Ends every session soon.
    pub fn stop(&self) {
        if let Err(e) = rustix::io::write(&self.stop, &1u64.to_ne_bytes()) {
            tracing::error!("telling the sessions to end: {e}");
        }
    }

    /// Becomes readable when the daemon is to end.
    pub fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Counts a connection of a user; `None` when there are too many.
    pub fn admit(self: &Arc<Self>, uid: u32) -> Option<Ticket> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = sessions.values().sum();
        let own = sessions.entry(uid).or_default();
        // Root keeps the reserve, so that the daemon can still be asked when users are at their limit.
        let full = if uid == 0 {
            all >= MAX_SESSIONS
        } else {
            all >= MAX_SESSIONS - 64 || *own >= MAX_USER_SESSIONS
        };
        if full {
            return None;
        }
        *own += 1;
        Some(Ticket {
            daemon: self.clone(),
            uid,
        })
    }

    /// Connections now.
    pub fn session_count(&self) -> usize {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum()
    }
}

/// What clients did not get since the start; `flyover ps --json` shows it.
#[derive(Debug, Default)]
pub struct Denials {
    /// Requests that were answered with a no.
    pub refused: AtomicU64,
    /// Connections that were ended because the client does not keep to the protocol.
    pub broken: AtomicU64,
    /// Connections that were not accepted because there are too many.
    pub turned_away: AtomicU64,
}

/// A counted connection.
pub struct Ticket {
    daemon: Arc<Daemon>,
    uid: u32,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut sessions = self
            .daemon
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = sessions.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                sessions.remove(&self.uid);
            }
        }
    }
}
