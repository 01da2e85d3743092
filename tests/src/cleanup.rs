//! Nothing is left behind: after a failure, after Ctrl-C, and after a run that was killed.
//!
//! Every process that a run starts is a descendant of the runner (it is a child subreaper, so
//! daemons that detach themselves stay below it), every namespace carries the runner's process id
//! in its name, every directory too. So what belongs to a run is known without a list on disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{netns, procfs};

#[derive(Default)]
struct Live {
    namespaces: BTreeSet<String>,
    directories: BTreeSet<PathBuf>,
    /// Runners below this one.
    lanes: BTreeSet<u32>,
}

static LIVE: Mutex<Live> = Mutex::new(Live {
    namespaces: BTreeSet::new(),
    directories: BTreeSet::new(),
    lanes: BTreeSet::new(),
});

/// An interrupted run cleans up on another thread than the one that runs the tests.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Called before anything is made that must be removed again: never returns when the run ends.
pub fn may_continue() {
    while STOPPING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// First call of a runner that makes namespaces: checks for root, then [`prepare_anyone`].
pub fn prepare() -> Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root: run this as root"
    );
    prepare_anyone()
}

/// First call of a runner that needs no root: becomes the subreaper of everything it starts,
/// raises the limit of open files, arranges the clean-up on signals and panics, and removes what
/// killed runs left.
pub fn prepare_anyone() -> Result<()> {
    // The value is only a flag here: any process id turns the setting on.
    set_child_subreaper(Some(rustix::process::getpid())).context("becoming a subreaper")?;
    let limit = getrlimit(Resource::Nofile);
    // Not more than this: some servers close every possible fd when they start.
    let enough = limit.maximum.unwrap_or(u64::MAX).min(65_536);
    let raised = Rlimit {
        current: Some(enough),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .context("installing signal handlers")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            STOPPING.store(true, Ordering::SeqCst);
            eprintln!("\ninterrupted: removing namespaces and processes");
            everything();
            std::process::exit(128 + signal);
        }
    });
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        everything();
    }));
    std::thread::spawn(reap_forever);
    sweep();
    Ok(())
}

/// Orphans that ended are collected as the run goes on: every look at the processes of a run reads all of them, and a
/// long run leaves thousands.
fn reap_forever() {
    let mut before = BTreeSet::new();
    loop {
        std::thread::sleep(Duration::from_secs(3));
        let now: BTreeSet<u32> = procfs::zombie_children(std::process::id())
            .into_iter()
            .collect();
        // What we started ourselves has somebody who waits for it, and who has got it by now.
        for pid in now.intersection(&before) {
            reap(*pid);
        }
        before = now;
    }
}

/// Kills every descendant and removes every namespace and directory of this run.
pub fn everything() {
    end_lanes();
    let me = std::process::id();
    kill_all(&procfs::descendants(me));
    let (namespaces, directories) = {
        let mut live = live();
        (
            std::mem::take(&mut live.namespaces),
            std::mem::take(&mut live.directories),
        )
    };
    for name in namespaces {
        remove_netns(&name);
    }
    for directory in directories {
        let _ = fs::remove_dir_all(directory);
    }
}

/// Notes a runner that this one has started.
pub fn register_lane(pid: u32) {
    may_continue();
    live().lanes.insert(pid);
}

/// It has ended.
pub fn forget_lane(pid: u32) {
    live().lanes.remove(&pid);
}

/// Other runners clean up for themselves.
fn end_lanes() {
    let lanes = std::mem::take(&mut live().lanes);
    for &pid in &lanes {
        signal(pid, Signal::TERM);
    }
    let until = Instant::now() + Duration::from_secs(10);
    while lanes.iter().any(|&pid| procfs::is_running(pid)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills these processes and waits until they are gone (at most 5 s). Ours are reaped.
pub fn kill_all(pids: &[u32]) {
    for &pid in pids {
        signal(pid, Signal::KILL);
    }
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        reap_orphans();
        if !pids.iter().any(|&pid| procfs::is_running(pid)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal; a process that is gone already is not an error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Collects children that were not started by us but fell to us (their parent died).
pub fn reap_orphans() {
    procfs::zombie_children(std::process::id())
        .into_iter()
        .for_each(reap);
}

fn reap(pid: u32) {
    if crate::cmd::is_known_child(pid) {
        return;
    }
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Notes that this namespace is to be removed.
pub fn register_netns(name: &str) {
    may_continue();
    live().namespaces.insert(name.to_owned());
}

/// Kills what runs in the namespace and deletes it.
pub fn remove_netns(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        let pids: Vec<u32> = String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .filter(|&pid| pid != std::process::id())
            .collect();
        kill_all(&pids);
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
    live().namespaces.remove(name);
}

/// Makes a directory of this run below the system's temporary directory. Readable by everyone,
/// because servers drop to other users.
pub fn make_directory(number: u32) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    may_continue();
    let name = format!("{}{}-{number}", netns::PREFIX, std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    live().directories.insert(path.clone());
    Ok(path)
}

/// Removes such a directory.
pub fn remove_directory(path: &Path) {
    let _ = fs::remove_dir_all(path);
    live().directories.remove(path);
}

/// Removes namespaces, directories and processes of runners that no longer exist.
fn sweep() {
    let namespaces = match rustix::process::geteuid().is_root() {
        true => entries(Path::new("/run/netns")),
        false => Vec::new(),
    };
    for name in namespaces {
        if owner(&name).is_some_and(is_gone) {
            eprintln!("removing namespace {name} of a run that was killed");
            remove_netns(&name);
        }
    }
    for name in entries(&std::env::temp_dir()) {
        if !owner(&name).is_some_and(is_gone) {
            continue;
        }
        let path = std::env::temp_dir().join(&name);
        kill_all(&procfs::using_directory(&path));
        let _ = fs::remove_dir_all(&path);
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(netns::PREFIX)?
        .split('-')
        .next()?
        .parse()
        .ok()
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}
