//! Ending `flyoverd`, and saying whether it runs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::DaemonError;
use crate::{Outcome, show_line};

/// Its keepers send what is queued before they end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// LSB: program is not running.
const NOT_RUNNING: u8 = 3;

/// Process number of the daemon: that of whoever listens, as the kernel says. It need not answer:
/// a daemon of another version can be ended too. `None` when it is in a process namespace that we
/// cannot see into.
fn listener(socket: &str) -> rustix::io::Result<Option<Pid>> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(socket)?,
    };
    let fd = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&fd, &address)?;
    Ok(socket_peercred(&fd).ok().map(|peer| peer.pid))
}

/// Whether somebody listens, of whatever version.
pub(super) fn is_heard(socket: &str) -> bool {
    listener(socket).is_ok()
}

/// ", process 123", for messages.
pub(super) fn pid_text(socket: &str) -> String {
    match listener(socket) {
        Ok(Some(pid)) => format!(", process {}", pid.as_raw_nonzero()),
        _ => String::new(),
    }
}

/// Ends the daemon and waits until it is gone.
pub(super) fn stop(socket: &str) -> Outcome {
    let pid = match listener(socket) {
        Ok(pid) => pid.context("cannot see the daemon's process from here")?,
        Err(Errno::NOENT | Errno::CONNREFUSED) => {
            show_line("flyoverd is not running");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(anyhow!("reaching flyoverd on {socket}: {error}").into()),
    };
    // From here on this is the process that answered, or no process at all.
    let process = pidfd_open(pid, PidfdFlags::empty()).context("finding the daemon's process")?;
    pidfd_send_signal(&process, Signal::TERM).context("ending flyoverd")?;
    let until = Instant::now() + STOP_LIMIT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(anyhow!("flyoverd does not end within {STOP_LIMIT:?}").into()),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(anyhow!("waiting for flyoverd: {error}").into()),
        }
    }
    show_line("flyoverd stopped");
    Ok(ExitCode::SUCCESS)
}

/// Says whether the daemon runs.
pub(super) fn status(socket: &str) -> Outcome {
    match super::connect(socket) {
        Ok(_) => {
            show_line(&format!(
                "flyoverd is running{}, on {socket}",
                pid_text(socket)
            ));
            Ok(ExitCode::SUCCESS)
        }
        Err(DaemonError::NotRunning) => {
            show_line(&format!("flyoverd is not running (no answer on {socket})"));
            Ok(ExitCode::from(NOT_RUNNING))
        }
        Err(error) => Err(error.into()),
    }
}
