//! Starts a program in a namespace, plain or under `flyover run`; captures what it prints; ends it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::cleanup;
use crate::netns::Netns;
use crate::procfs;

/// Children that a [`Proc`] or a daemon guard waits for itself.
static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Notes that somebody here waits for this child.
pub fn know_child(pid: u32) {
    CHILDREN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(pid);
}

/// The child has been waited for.
pub fn forget_child(pid: u32) {
    CHILDREN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&pid);
}

/// Is this a process that somebody here will reap?
pub fn is_known_child(pid: u32) -> bool {
    CHILDREN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(&pid)
}

/// A program to be started in a namespace.
#[derive(Debug)]
pub struct Cmd<'lab> {
    netns: &'lab Netns,
    /// Words put in front of the program: empty, or `flyover run … --`.
    wrapper: Vec<OsString>,
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    directory: PathBuf,
    /// Standard output and error go to `<log>.out` and `<log>.err`.
    log: PathBuf,
    input: Input,
}

#[derive(Debug)]
enum Input {
    Nothing,
    File(PathBuf),
    Pipe,
}

impl<'lab> Cmd<'lab> {
    /// Normally made by [`crate::lab::Lab::cmd`], which knows the wrapper and the log's name.
    pub fn new(
        netns: &'lab Netns,
        wrapper: Vec<OsString>,
        program: impl Into<OsString>,
        directory: &Path,
        log: PathBuf,
    ) -> Self {
        Self {
            netns,
            wrapper,
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            directory: directory.to_owned(),
            log,
            input: Input::Nothing,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds the words of a line, split at white space.
    pub fn args(mut self, words: &str) -> Self {
        self.args
            .extend(words.split_whitespace().map(OsString::from));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Standard input comes from this file.
    pub fn input(mut self, file: impl Into<PathBuf>) -> Self {
        self.input = Input::File(file.into());
        self
    }

    /// Standard input is a pipe that [`Proc::write_line`] writes to.
    pub fn piped(mut self) -> Self {
        self.input = Input::Pipe;
        self
    }

    /// Starts it. The child leads a process group of its own, so that Ctrl-C reaches only the
    /// runner, which then ends everything in order.
    pub fn spawn(self) -> Result<Proc> {
        cleanup::may_continue();
        let mut words = self.wrapper.iter().chain([&self.program]).chain(&self.args);
        let program = words.next().context("an empty command")?;
        let mut command = Command::new(program);
        command
            .args(words)
            .envs(self.envs.iter().map(|(name, value)| (name, value)));
        let out = with_suffix(&self.log, ".out");
        let err = with_suffix(&self.log, ".err");
        // Our own workload programs shall fail with a line, not with a page.
        command
            .env("RUST_LIB_BACKTRACE", "0")
            .env("RUST_BACKTRACE", "0");
        command.current_dir(&self.directory).process_group(0);
        command
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?);
        command.stdin(match &self.input {
            Input::Nothing => Stdio::null(),
            Input::File(path) => {
                Stdio::from(File::open(path).with_context(|| format!("{}", path.display()))?)
            }
            Input::Pipe => Stdio::piped(),
        });
        let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.program.to_string_lossy().into_owned();
        let child = self
            .netns
            .enter(|| command.spawn())?
            .with_context(|| format!("starting {name}"))?;
        children.insert(child.id());
        Ok(Proc {
            child,
            name,
            out,
            err,
            status: None,
        })
    }

    /// Runs it to its end, which must come within `limit`, whatever the exit status.
    pub fn output(self, limit: Duration) -> Result<Output> {
        self.spawn()?.finish(limit)
    }

    /// Runs it to its end; a status other than 0 is an error that quotes what it printed.
    pub fn run(self, limit: Duration) -> Result<Output> {
        self.output(limit)?.success()
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A program that has ended.
#[derive(Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are no UTF-8 are replaced.
    pub stderr: String,
    out: PathBuf,
}

impl Output {
    /// Removes what it printed from the logs of the test: it is of no interest when the test fails.
    pub fn forget(&self) {
        let _ = fs::remove_file(&self.out);
        let _ = fs::remove_file(self.out.with_extension("err"));
    }

    /// Standard output exactly as it was printed.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        fs::read(&self.out).with_context(|| format!("reading {}", self.out.display()))
    }

    /// An error that quotes the output, unless the status is 0.
    pub fn success(self) -> Result<Self> {
        ensure!(
            self.status.success(),
            "{}: {}\n{}",
            self.name,
            describe(self.status),
            tail(&format!("{}{}", self.stdout, self.stderr), 15)
        );
        Ok(self)
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A running program. Dropping it kills it and everything it started.
#[derive(Debug)]
pub struct Proc {
    child: Child,
    name: String,
    out: PathBuf,
    err: PathBuf,
    status: Option<ExitStatus>,
}

impl Proc {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The program and all it started.
    pub fn tree(&self) -> Vec<u32> {
        let mut pids = procfs::descendants(self.pid());
        pids.push(self.pid());
        pids
    }

    /// What it has printed so far on standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// What it has printed so far on standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Has it ended?
    pub fn has_ended(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status.is_some())
    }

    /// Fails with what it printed when it has ended although it should be running.
    pub fn ensure_running(&mut self) -> Result<()> {
        if self.has_ended()? {
            let how = self.status.map_or_else(String::new, describe);
            let printed = tail(&format!("{}{}", self.stdout(), self.stderr()), 15);
            bail!("{} has ended ({how})\n{printed}", self.name);
        }
        Ok(())
    }

    /// Writes a line to its standard input (see [`Cmd::piped`]).
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let input = self
            .child
            .stdin
            .as_mut()
            .context("standard input is not a pipe")?;
        writeln!(input, "{line}")?;
        input
            .flush()
            .with_context(|| format!("writing to {}", self.name))
    }

    /// Waits for its end; kills it and fails when that does not come within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Output> {
        drop(self.child.stdin.take());
        let until = Instant::now() + limit;
        while !self.has_ended()? {
            if Instant::now() >= until {
                let printed = tail(&format!("{}{}", self.stdout(), self.stderr()), 15);
                bail!("{} did not end within {limit:?}\n{printed}", self.name);
            }
            // Seldom for what takes long: on a machine of two cores a look disturbs what is measured.
            let age = until.saturating_duration_since(Instant::now());
            let young = limit.saturating_sub(age) < Duration::from_millis(100);
            std::thread::sleep(Duration::from_millis(if young { 2 } else { 20 }));
        }
        let status = self.status.context("no exit status")?;
        Ok(Output {
            name: self.name.clone(),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
            out: self.out.clone(),
        })
    }

    /// Sends a signal to the program itself.
    pub fn signal(&self, signal: Signal) {
        cleanup::signal(self.pid(), signal);
    }

    /// Asks it to end (SIGTERM) and waits for it, with all its children, at most `limit`.
    pub fn stop(mut self, limit: Duration) -> Result<Output> {
        self.ensure_running()?;
        let tree = self.tree();
        self.signal(Signal::TERM);
        let name = self.name.clone();
        let output = self
            .finish(limit)
            .with_context(|| format!("stopping {name}"))?;
        let until = Instant::now() + limit;
        while tree.iter().any(|&pid| procfs::is_running(pid)) {
            ensure!(
                Instant::now() < until,
                "{name}: children did not end within {limit:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(output)
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.status.is_none() {
            let tree = self.tree();
            // The program first: one whose workers die starts others.
            for &pid in tree.iter().rev() {
                cleanup::signal(pid, Signal::KILL);
            }
            let _ = self.child.wait();
            cleanup::kill_all(&tree);
        }
        forget_child(self.child.id());
    }
}
