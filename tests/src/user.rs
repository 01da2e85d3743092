//! Programs of an ordinary user, with nothing of Flyover running and no privilege, and the daemon that they start.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cleanup;
use crate::cmd::{Cmd, Output, Proc};
use crate::lab::{Host, Lab, wait_until};
use crate::procfs;

/// What anything here may take.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The least time after which an idle daemon ends, s.
const IDLE_S: &str = "1";

/// An ordinary user of a lab. No such user needs to exist.
#[derive(Debug)]
pub struct User<'lab> {
    lab: &'lab Lab,
    /// Number of user and group.
    pub uid: u32,
    /// `$XDG_RUNTIME_DIR`; without it the daemon is in /tmp, /var/tmp or /dev/shm.
    runtime: Option<PathBuf>,
    /// Words before `flyover`: `unshare -r`, say.
    pub before: Vec<OsString>,
}

impl<'lab> User<'lab> {
    /// A user with a runtime directory.
    pub fn new(lab: &'lab Lab) -> Result<Self> {
        let mut user = Self::homeless(lab);
        let runtime = lab.directory().join("run");
        fs::create_dir(&runtime)?;
        chown(&runtime, Some(user.uid), Some(user.uid))?;
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700))?;
        user.runtime = Some(runtime);
        Ok(user)
    }

    /// A user without one, as in a container; no two runs have the same.
    pub fn homeless(lab: &'lab Lab) -> Self {
        Self {
            lab,
            uid: 100_000 + std::process::id() % 1_000_000,
            runtime: None,
            before: Vec::new(),
        }
    }

    /// The directory of the daemon, for a user with a runtime directory.
    pub fn place(&self) -> PathBuf {
        let runtime = self.runtime.as_deref().unwrap_or(Path::new("/nowhere"));
        runtime.join("flyover")
    }

    /// The one socket in the place.
    pub fn socket(&self) -> Result<PathBuf> {
        let names = fs::read_dir(self.place())?.flatten().map(|e| e.path());
        let mut sockets = names.filter(|p| p.extension().is_some_and(|e| e == "sock"));
        sockets.next().context("no socket in the place")
    }

    /// `flyover` with these words, as the user. Nothing of the machine's own `/run` is seen, and nothing is chosen by name.
    pub fn flyover(&self, host: Host, words: &str) -> Cmd<'lab> {
        let hide = "mount -t tmpfs tmpfs /run && exec \"$@\"";
        let mut wrapper: Vec<OsString> = ["unshare", "-m", "sh", "-c", hide, "sh", "env"]
            .map(OsString::from)
            .into();
        wrapper.extend(["-u", "FLYOVER_SOCKET", "-u", "XDG_RUNTIME_DIR"].map(OsString::from));
        wrapper.push(format!("FLYOVER_IDLE_EXIT_S={IDLE_S}").into());
        // A daemon that is not there is told at this level only.
        wrapper.push("FLYOVER_LOG=info".into());
        if let Some(runtime) = &self.runtime {
            let mut word = OsString::from("XDG_RUNTIME_DIR=");
            word.push(runtime);
            wrapper.push(word);
        }
        wrapper.push("setpriv".into());
        wrapper.push(format!("--reuid={}", self.uid).into());
        wrapper.push(format!("--regid={}", self.uid).into());
        wrapper.push("--clear-groups".into());
        wrapper.extend(self.before.iter().cloned());
        let program = self.lab.bin().join("flyover");
        self.lab.wrapped(host, wrapper, program).args(words)
    }

    /// A program that uses a stack until it is told to end, or ends at once.
    pub fn attacher(&self, host: Host) -> Cmd<'lab> {
        let script = crate::runner::scripts().join("user_attach.py");
        self.flyover(host, "run -- /usr/bin/python3").arg(script)
    }

    /// The same, once it does.
    pub fn attached(&self, host: Host) -> Result<Proc> {
        let mut program = self.attacher(host).piped().spawn()?;
        wait_for_line(&mut program)?;
        Ok(program)
    }

    /// What `flyover ps` says.
    pub fn ps(&self, host: Host) -> Result<Value> {
        let said = self.flyover(host, "ps --json").run(LIMIT)?;
        Ok(serde_json::from_str(&said.stdout)?)
    }

    /// Running processes of the user below this run, by name.
    fn processes(&self, named: impl Fn(&str) -> bool) -> Vec<u32> {
        let mut pids = procfs::descendants(std::process::id());
        pids.retain(|&pid| {
            let owner = fs::metadata(format!("/proc/{pid}")).map(|m| m.uid());
            let name = procfs::name_of(pid).unwrap_or_default();
            owner.is_ok_and(|uid| uid == self.uid) && procfs::is_running(pid) && named(&name)
        });
        pids
    }

    /// The user's daemons.
    pub fn daemons(&self) -> Vec<u32> {
        self.processes(|name| name == "flyoverd")
    }

    /// Waits until nothing of the user runs, and nothing is left in the place.
    pub fn ensure_gone(&self) -> Result<()> {
        let place = self.place();
        wait_until(LIMIT, || {
            cleanup::reap_orphans();
            let over = self.processes(|_| true).is_empty() && !place.exists();
            Ok(over.then_some(()))
        })
        .with_context(|| format!("left: {:?}, {}", self.processes(|_| true), place.display()))
    }
}

/// Waits until a program has said something.
pub fn wait_for_line(program: &mut Proc) -> Result<()> {
    wait_until(LIMIT, || {
        if program.stdout().contains('\n') {
            return Ok(Some(()));
        }
        program.ensure_running()?;
        Ok(None)
    })
}

/// Fails unless the program ended well and Flyover had nothing to complain of.
pub fn ensure_quiet(output: Output) -> Result<()> {
    let said = output.stderr.clone();
    drop(output.success()?);
    ensure!(said.is_empty(), "it said: {said}");
    Ok(())
}
