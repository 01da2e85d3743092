//! What this daemon may do: all that root's does, or only what takes no privilege.

use std::io;
use std::sync::Arc;

use flyover_proto::RefusedCode;
use flyover_vnic::host::missing_privileges;
use rustix::process::geteuid;

use crate::heirs;
use crate::netns::NetNs;
use crate::peer::Peer;
use crate::refusal::Refusal;

/// Why an ordinary user's daemon makes no V-NIC and moves no connection.
pub const NO_PRIVILEGE: &str = "this flyoverd is an ordinary user's: V-NICs, filters, handover and takeover need the flyoverd of root";

/// See the module.
#[derive(Debug)]
pub enum Power {
    /// Every user and network namespace, with V-NICs.
    System,
    /// The local path for one user in one network namespace.
    User(Home),
}

/// Whom and where an ordinary user's daemon serves.
#[derive(Debug)]
pub struct Home {
    uid: u32,
    ns: Arc<NetNs>,
    cookie: u64,
}

impl Power {
    /// What this process may do, as the kernel says. Its user number does not count: root of a container or of a user
    /// namespace may be without the privileges that V-NICs take.
    ///
    /// # Errors
    /// As open(2), socket(2), for the process's own network namespace.
    pub fn of_this_process() -> io::Result<Self> {
        let missing = missing_privileges();
        if missing.is_empty() {
            return Ok(Self::System);
        }
        let uid = geteuid().as_raw();
        tracing::info!(
            uid,
            missing = missing.join(", "),
            "serving the local path of one user only, without V-NICs"
        );
        let ns = NetNs::here()?;
        let cookie = ns.cookie()?;
        let ns = Arc::new(ns);
        Ok(Self::User(Home { uid, ns, cookie }))
    }

    /// Only what takes no privilege.
    pub fn is_user(&self) -> bool {
        matches!(self, Self::User(_))
    }

    /// True when a process may still come that is no client yet. Root's daemon does not look, but waits long.
    pub fn has_heirs(&self, socket: &str) -> bool {
        matches!(self, Self::User(home) if heirs::any(socket, home.uid))
    }

    /// False for other users than the one that this daemon serves.
    pub fn serves(&self, uid: u32) -> bool {
        match self {
            Self::System => true,
            Self::User(home) => home.uid == uid,
        }
    }

    /// The network namespace in which a client is served: its own.
    ///
    /// # Errors
    /// It is gone, or this daemon cannot serve that namespace.
    pub fn netns_of(&self, peer: &Peer) -> Result<Arc<NetNs>, Refusal> {
        let Self::User(home) = self else {
            let ns = peer.netns();
            return ns
                .map(Arc::new)
                .map_err(|e| Refusal::failed("finding the network namespace", e));
        };
        // What /proc says is denied of processes that must not be looked at (PR_SET_DUMPABLE); the socket is enough.
        if peer.netns_cookie == Some(home.cookie) {
            return Ok(home.ns.clone());
        }
        let text = format!(
            "this flyoverd serves {} only; `flyover run` in the other network namespace starts another one",
            home.ns.id()
        );
        Err(Refusal::new(RefusedCode::Unprivileged, text))
    }

    /// For requests that only root's daemon grants.
    ///
    /// # Errors
    /// This is an ordinary user's.
    pub fn needed(&self) -> Result<(), Refusal> {
        if self.is_user() {
            return Err(Refusal::new(RefusedCode::Unprivileged, NO_PRIVILEGE));
        }
        Ok(())
    }
}
