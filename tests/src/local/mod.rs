//! The local path, measured and shown as an ordinary user: programs on this host, over loopback, without root and with
//! nothing started beforehand.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | becoming an ordinary user; the proof of the path |
//! | `programs.rs` | real programs that only the demonstration of the local path runs |
//! | `loads.rs` | our own workloads, whose measurement begins when both ends have been looked at |

pub mod loads;
pub mod programs;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;

use crate::cleanup;
use crate::lab::{Host, Lab, Side};
use crate::netns::Netns;
use crate::runner;

/// The ordinary user that root becomes. PostgreSQL wants one with a name.
const USER: &str = "nobody";
/// What the runner and the programs that it starts are made of.
const BUILT: [&str; 5] = ["flyover", "flyoverd", "libflyover.so", "lab", "load"];

/// Where the programs of `tests/programs` are, for a runner that was copied.
pub const SCRIPTS_VARIABLE: &str = "E2E_SCRIPTS";

/// Whether this process is root's, and its work was done by another one, an ordinary user's, with the same command line.
///
/// # Errors
/// That one failed.
pub fn becomes_ordinary() -> Result<bool> {
    if !geteuid().is_root() {
        return Ok(false);
    }
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = as_ordinary_user(&words)?;
    ensure!(status.success(), "as an ordinary user: {status}");
    Ok(true)
}

/// `PATH` with the directories of daemons, which an ordinary user's usually lacks.
pub fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Fails with the names of the packages that are missing of these programs or files, each with its package.
pub fn ensure_installed(needed: &[(&str, &str)]) -> Result<()> {
    let directories: Vec<PathBuf> = std::env::split_paths(&path()).collect();
    let is_there = |thing: &str| directories.iter().any(|place| place.join(thing).exists());
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(thing, _)| !is_there(thing))
        .map(|&(_, package)| package)
        .collect();
    ensure!(
        missing.is_empty(),
        "these packages are missing; root installs them with\n  apt-get install -y {}",
        missing.join(" ")
    );
    Ok(())
}

/// Runs `lab` with these words as an ordinary user, in a network namespace of its own in which nothing listens, with copies
/// of everything that was built: the source tree may be closed to others.
fn as_ordinary_user(words: &[OsString]) -> Result<ExitStatus> {
    cleanup::prepare()?;
    let netns = Netns::create("host")?;
    let directory = cleanup::make_directory(0)?;
    let bin = runner::built_programs()?;
    for name in BUILT {
        let from = bin.join(name);
        fs::copy(&from, directory.join(name))
            .with_context(|| format!("copying {}", from.display()))?;
    }
    let scripts = directory.join("programs");
    fs::create_dir(&scripts)?;
    for entry in fs::read_dir(runner::scripts())? {
        let from = entry?.path();
        if let Some(name) = from.file_name().filter(|_| from.is_file()) {
            fs::copy(&from, scripts.join(name))?;
        }
    }
    open_to_all(&directory)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", "nogroup"])
        .args(["--clear-groups", "--inh-caps=-all"])
        .arg(directory.join("lab"))
        .args(words)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", &directory)
        .env(SCRIPTS_VARIABLE, &scripts)
        .current_dir(&directory);
    let status = netns
        .enter(|| command.status())?
        .context("starting setpriv (package util-linux)")?;
    cleanup::everything();
    Ok(status)
}

fn open_to_all(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// How many ends of established connections are on the path `shm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Those.
    pub shared: usize,
    /// All.
    pub all: usize,
}

impl Shares {
    /// There are some, and they all are.
    pub fn is_all(self) -> bool {
        self.all > 0 && self.shared == self.all
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ends shm", self.shared, self.all)
    }
}

/// Those of connections with this port, both ends of which are under Flyover.
pub fn shares(lab: &Lab, port: u16) -> Result<Shares> {
    let mut lines = lab.ss(Host::Server)?;
    lines.retain(|line| line.has_port(port) && line.state == "ESTAB");
    Ok(Shares {
        shared: lines.iter().filter(|line| line.path == "shm").count(),
        all: lines.len(),
    })
}

/// Does `work`, and looks a few times meanwhile which path its connections with `port` take, until all of them are on the path
/// `shm`. Returns what was the best look; of programs on the kernel there is none.
///
/// # Errors
/// Never were more than half of them on that path.
pub fn while_shared<T>(
    lab: &Lab,
    port: u16,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Shares)> {
    const PAUSE: Duration = Duration::from_millis(100);
    /// Each takes some milliseconds of a processor.
    const LOOKS: usize = 5;
    if lab.side == Side::Neither {
        return Ok((work()?, Shares::default()));
    }
    let (done, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let looking = scope.spawn(move || {
            let (mut best, mut looks) = (Shares::default(), 0);
            while looks < LOOKS && !best.is_all() {
                if ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                // Before the first program runs nobody answers.
                let seen = shares(lab, port).unwrap_or_default();
                looks += usize::from(seen.all > 0);
                if seen.shared > best.shared || best.all == 0 {
                    best = seen;
                }
            }
            best
        });
        let result = work();
        drop(done);
        let Ok(best) = looking.join() else {
            bail!("the thread that looks at the path panicked");
        };
        let result = result?;
        ensure!(2 * best.shared > best.all, "the path: {best}");
        Ok((result, best))
    })
}
