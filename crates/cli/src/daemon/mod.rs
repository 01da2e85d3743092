//! Finding, starting and stopping `flyoverd`.

mod start;
mod stop;

use std::ffi::OsString;
use std::process::ExitCode;

use flyover_config::{DaemonOpts, vars};
use flyover_proto::{Client, ClientError, RefusedCode};
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
    #[error("only root can start flyoverd; try sudo")]
    NotRoot,
    /// The socket is not for this user.
    #[error("no permission to use {0}; ask to be in the group that owns it")]
    Denied(String),
    /// It listens and says nothing.
    #[error("flyoverd does not answer; see its log, or restart it with `flyover daemon stop`")]
    Silent,
    /// Another version.
    #[error("{0}; restart it with `flyover daemon stop` (as root) after an upgrade")]
    Version(String),
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

/// A daemon for programs of this build: the one that runs, else one that is started now, which
/// root can.
pub(crate) fn ensure(socket: &str) -> Result<(), DaemonError> {
    match connect_for(socket, flyover_core::LAYOUT_HASH) {
        Ok(_) => Ok(()),
        Err(DaemonError::NotRunning) if rustix::process::geteuid().is_root() => {
            start::start(socket, start::Life::UntilIdle)
        }
        Err(error) => Err(error),
    }
}

/// `flyover daemon ...`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let options: DaemonOpts = vars::from_env()?;
    let socket = options.socket.as_str();
    let words: Vec<_> = args.iter().map(|a| a.to_str()).collect();
    match words[..] {
        [Some("start")] => match connect(socket) {
            Ok(_) => {
                show_line(&format!(
                    "flyoverd is running already{}",
                    stop::pid_text(socket)
                ));
                Ok(ExitCode::SUCCESS)
            }
            Err(DaemonError::NotRunning) => {
                start::start(socket, start::Life::UntilStopped)?;
                show_line("flyoverd started");
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => Err(error.into()),
        },
        [Some("stop")] => stop::stop(socket),
        [Some("status")] => stop::status(socket),
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
