//! Starting `flyoverd` so that it belongs to nobody: not to the terminal, not to the program that
//! `flyover run` is about to become.
//!
//! ```text
//! flyover run X          spawns, waits for     flyover daemon --detached
//!   waits until it answers, becomes X            setsid, closes what it inherited,
//!                                                spawns flyoverd, ends
//! ```
//!
//! Without the process in between, flyoverd would be a child of X, which would meet it in wait(2).

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use flyover_config::vars;
use rustix::fs::{FlockOperation, flock};

use super::{DaemonError, connect};
use crate::{Outcome, places, show_line};

/// The command of the process in between.
pub(super) const DETACHED: &str = "--detached";

/// Loading and verifying the BPF programs takes a fraction of a second.
const START_LIMIT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// A log longer than this starts anew.
const LOG_LIMIT: u64 = 1 << 20;
/// For a daemon that nobody asked for by name.
const IDLE_EXIT_VAR: &str = "FLYOVER_IDLE_EXIT_S";
const IDLE_EXIT_S: &str = "600";
/// The same for an ordinary user's, which the next `flyover run` starts again at once.
const USER_IDLE_EXIT_S: &str = "10";

/// One of the directories in which an ordinary user's daemon may be.
const RUNTIME_VAR: &str = "XDG_RUNTIME_DIR";

/// How long the daemon is to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    /// Until `flyover daemon stop`.
    UntilStopped,
    /// Until it has had no client for a while.
    UntilIdle,
    /// An ordinary user's: until it has had no client for a short while.
    User,
}

/// Starts the daemon and waits until it answers.
pub(super) fn start(socket: &str, life: Life) -> Result<(), DaemonError> {
    if !super::is_privileged() {
        return Err(DaemonError::NotRoot);
    }
    let program = places::daemon().ok_or(DaemonError::NoProgram)?;
    let text = |what: &str, e: std::io::Error| DaemonError::Start(format!("{what}: {e}"));
    let directory = directory_of(socket);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder
        .create(&directory)
        .map_err(|e| text(&directory.display().to_string(), e))?;

    // Of several that find no daemon, one starts it, and the others find that one.
    let lock = File::create(directory.join("start.lock")).map_err(|e| text("start.lock", e))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| text("start.lock", e.into()))?;
    if connect(socket).is_ok() {
        return Ok(());
    }

    launch(&program, &directory.join("flyoverd.log"), socket, life)
}

/// Starts the program and waits until it answers.
pub(super) fn launch(
    program: &Path,
    log: &Path,
    socket: &str,
    life: Life,
) -> Result<(), DaemonError> {
    let text =
        |what: &Path, e: std::io::Error| DaemonError::Start(format!("{}: {e}", what.display()));
    let log_start = prepare_log(log).map_err(|e| text(log, e))?;
    let pid = spawn(program, log, socket, life).map_err(|e| text(program, e))?;
    wait(socket, pid).map_err(|error| match error {
        DaemonError::Start(what) => DaemonError::Start(match last_words(log, log_start) {
            Some(words) => format!("{what}: {words}"),
            None => format!("{what}; see {}", log.display()),
        }),
        other => other,
    })
}

/// Where the socket is; an abstract one has no place, so the default's.
fn directory_of(socket: &str) -> PathBuf {
    let path = if socket.starts_with('@') {
        flyover_config::DEFAULT_SOCKET
    } else {
        socket
    };
    match Path::new(path).parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes sure that the log exists and is not too long; returns its length.
fn prepare_log(path: &Path) -> std::io::Result<u64> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    if file.metadata()?.len() > LOG_LIMIT {
        file.set_len(0)?;
    }
    Ok(file.metadata()?.len())
}

/// Runs the process in between; returns the daemon's process number.
fn spawn(program: &Path, log: &Path, socket: &str, life: Life) -> std::io::Result<i32> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["daemon", DETACHED]).arg(program).arg(log);
    // The daemon gets its options and nothing else of this environment, but for what tells an ordinary user's where it is.
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let idle = match life {
        Life::UntilStopped => None,
        Life::UntilIdle => Some(IDLE_EXIT_S),
        Life::User => Some(USER_IDLE_EXIT_S),
    };
    if let Some(idle) = idle {
        command.env(IDLE_EXIT_VAR, idle);
    }
    if let Some(directory) = std::env::var_os(RUNTIME_VAR) {
        command.env(RUNTIME_VAR, directory);
    }
    for (name, value) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(vars::PREFIX.as_bytes()) {
            command.env(name, value);
        }
    }
    command.env("FLYOVER_SOCKET", socket);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let pid = String::from_utf8_lossy(&output.stdout).trim().parse();
    pid.map_err(|_| std::io::Error::other("it did not start"))
}

/// The process in between.
pub(super) fn detached(program: &str, log: &str) -> Outcome {
    close_inherited()?;
    // Fails only for the leader of a process group, which has no terminal to lose.
    let _: rustix::io::Result<_> = rustix::process::setsid();
    let log = OpenOptions::new().append(true).open(log)?;
    let child = Command::new(program)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    show_line(&child.id().to_string());
    Ok(ExitCode::SUCCESS)
}

/// Closes every descriptor above stderr: a daemon must not keep the pipes and locks of the shell
/// that happened to start it.
fn close_inherited() -> std::io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        if let Some(fd) = entry?
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        {
            open.push(fd);
        }
    }
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The directory's own is closed already: EBADF.
        let _: nix::Result<()> = nix::unistd::close(fd);
    }
    Ok(())
}

/// Waits until the daemon answers or is gone.
fn wait(socket: &str, pid: i32) -> Result<(), DaemonError> {
    let until = Instant::now() + START_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        match connect(socket) {
            Ok(_) => return Ok(()),
            Err(DaemonError::NotRunning) => {}
            Err(error) => return Err(error),
        }
        if !is_running(pid) {
            return Err(DaemonError::Start("it ended".to_owned()));
        }
        if Instant::now() > until {
            return Err(DaemonError::Start("it does not listen".to_owned()));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether the process exists and is no zombie (somebody else is its parent).
pub(super) fn is_running(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // proc_pid_stat(5): the state follows the name, which may itself contain parentheses.
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}

/// The last line that the daemon wrote.
fn last_words(log: &Path, since: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(since.max(len.saturating_sub(4096))))
        .ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        assert_eq!(directory_of("/run/x/y.sock"), Path::new("/run/x"));
        assert_eq!(directory_of("@name"), Path::new("/run/flyover"));
        assert_eq!(directory_of("y.sock"), Path::new("."));
    }

    #[test]
    fn processes() {
        assert!(is_running(std::process::id() as i32));
        assert!(!is_running(i32::MAX));
    }

    #[test]
    fn last_line_of_a_log() {
        let path = std::env::temp_dir().join(format!("flyover-log-{}", std::process::id()));
        fs::write(&path, "old\nnew 1\nnew 2\n\n").unwrap();
        assert_eq!(last_words(&path, 4).as_deref(), Some("new 2"));
        assert_eq!(last_words(&path, 17), None);
        let _ = fs::remove_file(&path);
    }
}
