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

/// Fails with the names of the packages that are missing of these programs or files, each with its package.
pub fn ensure_installed(needed: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .collect();
    let mut missing: Vec<&str> = needed
        .iter()
        .filter(|(thing, _)| !directories.iter().any(|place| place.join(thing).exists()))
        .map(|&(_, package)| package)
        .collect();
    missing.dedup();
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
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
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

/// How many connections with this port are established, if all of them are on the path `shm`.
///
/// # Errors
/// One is on another path, or there is none.
pub fn ensure_shared(lab: &Lab, port: u16) -> Result<usize> {
    let mut all = lab.ss(Host::Server)?;
    all.retain(|line| line.has_port(port) && line.state == "ESTAB");
    ensure!(!all.is_empty(), "no connection with port {port}");
    if let Some(other) = all.iter().find(|line| line.path != "shm") {
        bail!("not on the path shm: {other:?}");
    }
    Ok(all.len())
}

/// Does `work`, and looks meanwhile which path its connections with `port` take: until once all of them were on the path
/// `shm` where programs run under Flyover.
pub fn while_shared<T>(lab: &Lab, port: u16, work: impl FnOnce() -> Result<T>) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(100);
    if lab.side == Side::Neither {
        return work();
    }
    let (done, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let looking = scope.spawn(move || {
            let mut seen = Err(anyhow::anyhow!("it ended before anybody looked"));
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PAUSE) {
                seen = ensure_shared(lab, port);
                if seen.is_ok() {
                    break;
                }
            }
            seen
        });
        let result = work();
        drop(done);
        let seen = match looking.join() {
            Ok(seen) => seen,
            Err(_) => bail!("the thread that looks at the path panicked"),
        };
        let result = result?;
        seen.context("looking at the path")?;
        Ok(result)
    })
}
