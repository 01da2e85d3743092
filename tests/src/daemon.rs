//! A private `flyoverd` for one lab, and who belongs to it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Signal;

use crate::cleanup;
use crate::cmd::{forget_child, know_child, tail};
use crate::procfs;

/// Environment variable with the path of the daemon's socket.
pub const SOCKET_VARIABLE: &str = "FLYOVER_SOCKET";

/// Environment variable with the directory in which the daemon of an ordinary user has its own.
pub const RUNTIME_VARIABLE: &str = "XDG_RUNTIME_DIR";

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running daemon with its own socket, so that a test never meets a daemon of the system.
#[derive(Debug)]
pub struct Flyoverd {
    /// It can be killed and replaced beside programs that run.
    child: Mutex<Child>,
    bin: PathBuf,
    directory: PathBuf,
    options: Vec<String>,
    stopped: AtomicBool,
}

impl Flyoverd {
    /// The socket of the daemon of this directory.
    pub fn socket(directory: &Path) -> PathBuf {
        directory.join("flyoverd.sock")
    }

    /// Starts it outside every test namespace and waits until it accepts connections.
    pub fn start(bin: &Path, directory: &Path, options: &[String]) -> Result<Self> {
        let daemon = Self {
            child: Mutex::new(spawn(bin, directory, options)?),
            bin: bin.to_owned(),
            directory: directory.to_owned(),
            options: options.to_owned(),
            stopped: AtomicBool::new(false),
        };
        daemon.wait()?;
        Ok(daemon)
    }

    fn wait(&self) -> Result<()> {
        let socket = Self::socket(&self.directory);
        let until = Instant::now() + START_LIMIT;
        while !answers(&socket) {
            if let Some(status) = self.child().try_wait()? {
                bail!("flyoverd ended with {status}\n{}", self.log_tail());
            }
            ensure!(
                Instant::now() < until,
                "flyoverd does not answer\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Where it notes what the next daemon must know.
    pub fn notes(&self) -> PathBuf {
        self.directory.join("flyoverd.sock.stacks")
    }

    /// Its log so far, those of its predecessors included.
    pub fn log(&self) -> String {
        let log = fs::read(self.directory.join("flyoverd.err")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The daemon and its keepers.
    pub fn tree(&self) -> Vec<u32> {
        let mut pids = procfs::descendants(self.pid());
        pids.push(self.pid());
        pids
    }

    /// Kills the daemon alone (SIGKILL); its keepers stay as they are.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child();
        child.kill()?;
        let _ = child.wait()?;
        forget_child(child.id());
        self.stopped.store(true, SeqCst);
        Ok(())
    }

    /// Starts another one in the place of one that was killed.
    pub fn succeed(&self) -> Result<()> {
        *self.child() = spawn(&self.bin, &self.directory, &self.options)?;
        self.stopped.store(false, SeqCst);
        self.wait()
    }

    /// Ends it in order (SIGTERM), then everything that used its socket must be gone: what is left
    /// is an error. Call it when the programs of the test have ended.
    pub fn stop(self) -> Result<()> {
        if !self.stopped.load(SeqCst) {
            cleanup::signal(self.pid(), Signal::TERM);
            let until = Instant::now() + STOP_LIMIT;
            while self.child().try_wait()?.is_none() {
                ensure!(
                    Instant::now() < until,
                    "flyoverd ignores SIGTERM\n{}",
                    self.log_tail()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            self.stopped.store(true, SeqCst);
        }
        ensure_ended(|| procfs::using_directory(&self.directory))
    }

    fn log_tail(&self) -> String {
        tail(&self.log(), 15)
    }
}

impl Drop for Flyoverd {
    fn drop(&mut self) {
        if !self.stopped.load(SeqCst) {
            let tree = self.tree();
            let _ = self.child().kill();
            let _ = self.child().wait();
            cleanup::kill_all(&tree);
        }
        forget_child(self.pid());
        cleanup::kill_all(&procfs::using_directory(&self.directory));
    }
}

/// Waits until none of these processes runs any more.
///
/// # Errors
/// One does not end soon; its name is told.
pub fn ensure_ended(pids: impl Fn() -> Vec<u32>) -> Result<()> {
    let until = Instant::now() + STOP_LIMIT;
    loop {
        cleanup::reap_orphans();
        let left: Vec<String> = pids()
            .into_iter()
            .filter(|&pid| procfs::is_running(pid))
            .map(|pid| format!("{pid} {}", procfs::name_of(pid).unwrap_or_default()))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "left behind: {}", left.join(", "));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spawn(bin: &Path, directory: &Path, options: &[String]) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("flyoverd.err"))?;
    let child = Command::new(bin.join("flyoverd"))
        .args(options)
        .env(SOCKET_VARIABLE, Flyoverd::socket(directory))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", bin.join("flyoverd").display()))?;
    know_child(child.id());
    Ok(child)
}

/// Can a client connect to the socket? The daemon speaks `SOCK_SEQPACKET`.
pub fn answers(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else {
        return false;
    };
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .is_ok_and(|socket| connect(&socket, &address).is_ok())
}
