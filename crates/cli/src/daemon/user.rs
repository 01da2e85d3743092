//! The daemon of an ordinary user: found in one of the user's places, or started there. It makes stacks without V-NICs, for
//! the local path, and ends by itself after its last client.
//!
//! The directory's lock is held from the look that finds no daemon until the new one answers: of several programs that
//! start at once, one starts it. A daemon that ends does so under the same lock.

use std::path::{Path, PathBuf};

use flyover_core::LAYOUT_HASH;
use flyover_proto::{Candidate, Client, Place, Unfit};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use super::start::{self, Life};
use super::{ANY_LAYOUT, DaemonError, Found, connect_for};
use crate::places;

/// A directory or a daemon can go away between being found and being used. This often.
const TRIES: u32 = 16;

/// The daemon that runs, for commands that map no stack.
pub(crate) fn find() -> Result<Option<Found>, DaemonError> {
    find_for(ANY_LAYOUT)
}

/// Where a daemon of this user may be listening.
pub(super) fn sockets() -> impl Iterator<Item = String> {
    let places = Candidate::all().into_iter().filter_map(|c| c.open().ok());
    places.filter_map(|place| socket_in(&place).ok())
}

fn find_for(layout: u64) -> Result<Option<Found>, DaemonError> {
    for socket in sockets() {
        match connect_for(&socket, layout) {
            Ok(client) if is_ours(&client) => return Ok(Some(Found { socket, client })),
            Ok(_) => return Err(DaemonError::Denied(socket)),
            Err(DaemonError::NotRunning) => {}
            Err(DaemonError::Version(text)) => return Err(DaemonError::OwnVersion(text)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The place is this user's alone, so the daemon is. Should it not be, programs shall not trust it.
fn is_ours(client: &Client) -> bool {
    let daemon = client.as_fd().and_then(|fd| socket_peercred(fd).ok());
    daemon.is_some_and(|daemon| daemon.uid == geteuid())
}

fn socket_in(place: &Place) -> Result<String, DaemonError> {
    let path = place
        .socket()
        .map_err(|e| DaemonError::Start(format!("looking at /proc/self/ns/net: {e}")))?;
    let path = path.into_os_string().into_string();
    path.map_err(|path| DaemonError::Start(format!("{} is no text", path.display())))
}

/// Whether a socket of this name is, or was, in one of this user's places.
pub(crate) fn is_own(socket: &str) -> bool {
    let place = Path::new(socket).parent();
    Candidate::all().iter().any(|c| place == Some(&c.path()))
}

/// Where a daemon would be started now; makes nothing.
pub(crate) fn place() -> Result<PathBuf, DaemonError> {
    Place::look_first().map_err(no_place)
}

fn no_place(unfit: Vec<Unfit>) -> DaemonError {
    let each: Vec<_> = unfit.iter().map(ToString::to_string).collect();
    DaemonError::NoPlace(each.join("; "))
}

/// The daemon for programs of this build: the one that runs, else one that is started now.
pub(crate) fn ensure() -> Result<Found, DaemonError> {
    obtain(Life::User)
}

/// The same, with a daemon that goes on without clients when it is started now.
pub(super) fn obtain(life: Life) -> Result<Found, DaemonError> {
    let mut failed = false;
    for _ in 0..TRIES {
        if let Some(found) = find_for(LAYOUT_HASH)? {
            return Ok(found);
        }
        let place = Place::make_first().map_err(no_place)?;
        let locked = place
            .lock(true)
            .map_err(|e| DaemonError::Start(format!("locking {}: {e}", place.path().display())))?;
        let Some(_locked) = locked else { continue };
        if let Some(found) = find_for(LAYOUT_HASH)? {
            return Ok(found);
        }
        let program = places::daemon().ok_or(DaemonError::NoProgram)?;
        let socket = socket_in(&place)?;
        let log = PathBuf::from(format!("{socket}.log"));
        match start::launch(&program, &log, &socket, life) {
            Ok(()) => {}
            // It may have been ended between its start and our look.
            Err(DaemonError::Start(_)) if !failed => failed = true,
            Err(error) => return Err(error),
        }
    }
    Err(DaemonError::Start("it ends again and again".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_sockets_are_known_by_their_place() {
        let uid = geteuid().as_raw();
        assert!(is_own(&format!("/tmp/flyover-{uid}/net-1.sock")));
        assert!(is_own(&format!("/run/user/{uid}/flyover/net-1.sock")));
        let foreign = uid + 1;
        assert!(!is_own(&format!("/tmp/flyover-{foreign}/net-1.sock")));
        assert!(!is_own(flyover_config::DEFAULT_SOCKET));
        assert!(!is_own("@name") && !is_own("net-1.sock"));
    }
}
