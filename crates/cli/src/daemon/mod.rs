//! Finding, starting and stopping `flyoverd`.

mod start;
mod stop;
pub(crate) mod user;

use std::ffi::OsString;
use std::process::ExitCode;

use flyover_config::{DEFAULT_SOCKET, DaemonOpts, vars};
use flyover_proto::{Client, ClientError, RefusedCode};
use flyover_vnic::host::missing_privileges;
use rustix::io::Errno;

use crate::{Failure, Outcome, help, show, show_line};

/// For commands that map no stack: any build of the daemon will do.
const ANY_LAYOUT: u64 = 0;

/// Why there is no daemon to talk to, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Nobody listens, and this user cannot change that.
    #[error(
        "flyoverd is not running; start it as root with `systemctl start flyoverd` or \
         `flyover daemon start`"
    )]
    NotRunning,
    /// Somebody without privilege tried to start it.
    #[error("only root can start a flyoverd for V-NICs; try sudo")]
    NotRoot,
    /// There is no directory for an ordinary user's daemon.
    #[error("an own flyoverd needs a directory of this user alone: {0}")]
    NoPlace(String),
    /// The socket is not for this user.
    #[error("no permission to use {0}; ask to be in the group that owns it")]
    Denied(String),
    /// It listens and says nothing.
    #[error("flyoverd does not answer; see its log, or restart it with `flyover daemon stop`")]
    Silent,
    /// Another version.
    #[error("{0}; restart it with `flyover daemon stop` (as root) after an upgrade")]
    Version(String),
    /// The user's own is of another version.
    #[error("this user's own flyoverd: {0}; end it with `flyover daemon stop` after an upgrade")]
    OwnVersion(String),
    /// Some other refusal.
    #[error("flyoverd refuses: {0}")]
    Refused(String),
    /// Its program is missing.
    #[error("flyoverd is not running, and its program is not beside this one; install it there")]
    NoProgram,
    /// It could not be started.
    #[error("flyoverd could not be started: {0}")]
    Start(String),
}

/// A daemon that answers.
pub(crate) struct Found {
    /// Its socket.
    pub(crate) socket: String,
    /// A connection to it.
    pub(crate) client: Client,
}

/// Connects and says hello.
pub(crate) fn connect(socket: &str) -> Result<Client, DaemonError> {
    connect_for(socket, ANY_LAYOUT)
}

fn connect_for(socket: &str, layout: u64) -> Result<Client, DaemonError> {
    Client::connect(socket.as_bytes(), layout).map_err(|error| match error {
        ClientError::Absent(Errno::ACCESS | Errno::PERM) => DaemonError::Denied(socket.to_owned()),
        ClientError::Absent(_) => DaemonError::NotRunning,
        ClientError::Timeout => DaemonError::Silent,
        ClientError::Refused(RefusedCode::Version | RefusedCode::Layout, text) => {
            DaemonError::Version(text)
        }
        ClientError::Refused(_, text) => DaemonError::Refused(text),
        ClientError::Protocol(what) => DaemonError::Version(format!("flyoverd sent {what}")),
    })
}

/// Whether a daemon that this process starts can make V-NICs.
pub(crate) fn is_privileged() -> bool {
    missing_privileges().is_empty()
}

/// Whether the socket is one that nobody chose by name: that of root's daemon, or of this user's.
pub(crate) fn is_usual(socket: &str) -> bool {
    socket == DEFAULT_SOCKET || user::is_own(socket)
}

/// What [`ensure`] came to.
#[derive(Default)]
pub(crate) struct Ensured {
    /// The daemon's socket, when it is another one than was asked for.
    pub(crate) socket: Option<String>,
    /// Why root's daemon, which runs, cannot be used.
    pub(crate) instead_of: Option<DaemonError>,
}

/// A daemon for programs of this build: the one that runs, else one that is started now: by root for everybody, by an
/// ordinary user for himself.
pub(crate) fn ensure(socket: &str) -> Result<Ensured, DaemonError> {
    if user::is_own(socket) && !is_privileged() {
        // From a `flyover run` around this one: that daemon may have ended, or be another network namespace's.
        return own(None);
    }
    match connect_for(socket, flyover_core::LAYOUT_HASH) {
        Ok(_) => Ok(Ensured::default()),
        Err(DaemonError::NotRunning) if is_privileged() => {
            start::start(socket, start::Life::UntilIdle).map(|()| Ensured::default())
        }
        Err(error) if is_privileged() || socket != DEFAULT_SOCKET => Err(error),
        // Who is not to use root's daemon need not hear of it every time.
        Err(DaemonError::NotRunning | DaemonError::Denied(_)) => own(None),
        Err(error) => own(Some(error)),
    }
}

/// This user's own daemon, which counts this process as a client from here on.
fn own(instead_of: Option<DaemonError>) -> Result<Ensured, DaemonError> {
    let mut found = user::ensure()?;
    stay(&mut found.client);
    Ok(Ensured {
        socket: Some(found.socket),
        instead_of,
    })
}

/// An ordinary user's daemon ends soon after its last client. This process is one until its end, so that the program which
/// it becomes finds the daemon however late it makes a socket.
fn stay(client: &mut Client) {
    // A daemon that is gone already is an ordinary state of affairs for the program.
    let _: Result<(), ClientError> = client.stay();
}

/// The daemons that this user may ask, at least one: that of the socket, and unless that one was chosen by name, the user's
/// own. No answer of the one does not keep from asking the other.
pub(crate) fn all(socket: &str) -> Result<Vec<Found>, DaemonError> {
    let own = if socket == DEFAULT_SOCKET {
        user::find().ok().flatten()
    } else {
        None
    };
    let first = connect(socket).map(|client| Found {
        socket: socket.to_owned(),
        client,
    });
    match (first, own) {
        (Err(error), None) => Err(error),
        (first, own) => Ok(first.into_iter().chain(own).collect()),
    }
}

/// `flyover daemon ...`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let options: DaemonOpts = vars::from_env()?;
    let socket = options.socket.as_str();
    let words: Vec<_> = args.iter().map(|a| a.to_str()).collect();
    match words[..] {
        [Some("start")] => start_by_name(socket),
        [Some("stop")] => stop::stop(&in_charge_of(socket)),
        [Some("status")] => stop::status(&in_charge_of(socket)),
        [Some(start::DETACHED), Some(program), Some(log)] => start::detached(program, log),
        [Some("--help" | "-h")] => {
            show(help::DAEMON);
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::Usage(
            "daemon takes start, stop or status".to_owned(),
        )),
    }
}

/// An ordinary user is in charge of his own daemon, if it runs; of root's he only sees whether it does.
fn in_charge_of(socket: &str) -> String {
    if socket == DEFAULT_SOCKET
        && !is_privileged()
        && let Some(own) = user::sockets().find(|own| stop::is_heard(own))
    {
        return own;
    }
    socket.to_owned()
}

fn start_by_name(socket: &str) -> Outcome {
    let own = is_usual(socket) && !is_privileged();
    match connect(socket) {
        Ok(_) => {
            let pid = stop::pid_text(socket);
            show_line(&format!("flyoverd is running already{pid}"));
        }
        Err(DaemonError::NotRunning | DaemonError::Denied(_)) if own => {
            let found = user::obtain(start::Life::UntilStopped)?;
            show_line(&format!(
                "flyoverd of this user is running on {}, without V-NICs, which take root",
                found.socket
            ));
        }
        Err(DaemonError::NotRunning) => {
            start::start(socket, start::Life::UntilStopped)?;
            show_line("flyoverd started");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}
