//! `flyover handover`: gives the sockets of running programs to the kernel, in mid-connection. The work is done by the
//! library in a program of its own (`crates/preload/src/errand.rs`), which gets the sockets and the stack's memory from
//! here: taking sockets out of other processes needs no cooperation of theirs, only permission (`pidfd_getfd(2)`).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, anyhow};
use flyover_config::{ProcessOpts, vars};
use flyover_proto::Client;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::stacks::{self, StackInfo};
use crate::{Failure, Form, Outcome, help, places, show, show_json};

/// Sockets given to one helper: well below the usual limit of descriptors.
const BATCH: usize = 400;

/// Whose sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    All,
    Process(u32),
    One(u32, i32),
}

impl Target {
    fn covers(self, pid: u32, fd: i32) -> bool {
        match self {
            Self::All => true,
            Self::Process(p) => p == pid,
            Self::One(p, f) => p == pid && f == fd,
        }
    }

    fn process(self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::Process(p) | Self::One(p, _) => Some(p),
        }
    }
}

/// What became of one socket.
#[derive(Serialize)]
struct Row {
    pid: u32,
    fd: i32,
    /// `moved`, `listener` (new connections are the kernel's), `kernel` (it was the kernel's already), `stays`,
    /// `unreachable` (the stack did not let the helper in).
    result: String,
}

/// A socket out of a process.
struct Taken {
    pid: u32,
    fd: i32,
    socket: OwnedFd,
}

/// Runs `flyover handover`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let (targets, form) = parse(args)?;
    if form == Form::HelpShown {
        return Ok(ExitCode::SUCCESS);
    }
    let mut client = stacks::connect()?;
    let list = stacks::list(&mut client)?.stacks;
    for pid in targets.iter().filter_map(|t| t.process()) {
        if !list
            .iter()
            .any(|s| s.processes.iter().any(|p| p.pid == pid))
        {
            return Err(anyhow!("process {pid} uses no stack; see flyover ps").into());
        }
    }
    let mut rows = Vec::new();
    for stack in &list {
        rows.extend(one_stack(&mut client, stack, &targets)?);
    }
    if form == Form::Json {
        show_json(&rows)?;
    } else {
        show(&text(&rows));
    }
    let failed = rows
        .iter()
        .any(|r| r.result == "stays" || r.result == "unreachable");
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn parse(args: &[OsString]) -> Result<(Vec<Target>, Form), Failure> {
    let mut targets = Vec::new();
    let mut form = Form::Text;
    for arg in args {
        match arg.to_str() {
            Some("--json") => form = Form::Json,
            Some("--all") => targets.push(Target::All),
            Some("--help" | "-h") => {
                show(help::HANDOVER);
                return Ok((targets, Form::HelpShown));
            }
            Some(text) => targets.push(target(text).ok_or_else(|| {
                Failure::Usage(format!("{text} is neither PID, PID:FD nor --all"))
            })?),
            None => return Err(Failure::Usage(format!("what is {}", arg.display()))),
        }
    }
    if targets.is_empty() {
        return Err(Failure::Usage("whose sockets? PID, PID:FD or --all".into()));
    }
    Ok((targets, form))
}

fn target(text: &str) -> Option<Target> {
    match text.split_once(':') {
        None => Some(Target::Process(text.parse().ok()?)),
        Some((pid, fd)) => Some(Target::One(
            pid.parse().ok()?,
            fd.parse().ok().filter(|fd| *fd >= 0)?,
        )),
    }
}

fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for r in rows.iter().filter(|r| r.result != "kernel") {
        let _: std::fmt::Result = writeln!(out, "{}:{} {}", r.pid, r.fd, r.result);
    }
    if out.is_empty() {
        out.push_str("no accelerated sockets\n");
    }
    out
}

fn one_stack(
    client: &mut Client,
    stack: &StackInfo,
    targets: &[Target],
) -> anyhow::Result<Vec<Row>> {
    let mut seen = HashSet::new();
    let mut taken = Vec::new();
    for p in &stack.processes {
        let wanted = |fd: i32| targets.iter().any(|t| t.covers(p.pid, fd));
        let whole = targets
            .iter()
            .any(|t| t.process().is_none_or(|pid| pid == p.pid));
        if whole {
            take(p.pid, wanted, &mut seen, &mut taken)?;
        }
    }
    let Some(first) = taken.first() else {
        return Ok(Vec::new());
    };
    // The helper attaches, and wakes sleepers, in the network namespace of the stack.
    let net = std::fs::File::open(format!("/proc/{}/ns/net", first.pid))
        .context("opening the network namespace of the process")?;
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering the network namespace of the process")?;
    let (memory, ..) = client
        .stack_fd(stack.id)
        .with_context(|| format!("asking for the memory of stack {}", stack.id))?;
    let mut rows = Vec::new();
    for batch in taken.chunks(BATCH) {
        rows.extend(send_out(&memory, batch)?);
    }
    Ok(rows)
}

/// Takes the TCP and UDP sockets of a process, each only once however many hold it.
fn take(
    pid: u32,
    wanted: impl Fn(i32) -> bool,
    seen: &mut HashSet<u64>,
    into: &mut Vec<Taken>,
) -> anyhow::Result<()> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = match id.map(|id| pidfd_open(id, PidfdFlags::empty())) {
        Some(Ok(fd)) => fd,
        // It has ended meanwhile.
        Some(Err(Errno::SRCH)) | None => return Ok(()),
        Some(Err(e)) => return Err(e).with_context(|| format!("looking at process {pid}")),
    };
    let list = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .with_context(|| format!("looking at the descriptors of process {pid}"))?;
    for entry in list.flatten() {
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|l| l.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let Some(fd) = number.filter(|fd| is_socket && wanted(*fd)) else {
            continue;
        };
        let socket = match pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            Err(Errno::BADF | Errno::SRCH) => continue,
            Err(e) => {
                return Err(e).with_context(|| {
                    format!("taking descriptor {fd} of process {pid} (try as root)")
                });
            }
        };
        let inet = sockopt::socket_domain(&socket)
            .is_ok_and(|d| d == AddressFamily::INET || d == AddressFamily::INET6);
        if inet && sockopt::socket_cookie(&socket).is_ok_and(|c| seen.insert(c)) {
            into.push(Taken { pid, fd, socket });
        }
    }
    Ok(())
}

/// Runs the helper with these sockets.
fn send_out(memory: &OwnedFd, batch: &[Taken]) -> anyhow::Result<Vec<Row>> {
    let options: ProcessOpts = vars::from_env()?;
    let library = places::library().ok_or_else(|| anyhow!("libflyover.so is not installed"))?;
    let mut order = memory.as_raw_fd().to_string();
    for t in batch {
        let _: std::fmt::Result = write!(order, ",{}", t.socket.as_raw_fd());
    }
    for fd in std::iter::once(memory).chain(batch.iter().map(|t| &t.socket)) {
        fcntl_setfd(fd, FdFlags::empty()).context("letting the helper inherit a socket")?;
    }
    // Any dynamically linked program will do: the library ends it before its `main`.
    let output = Command::new("/proc/self/exe")
        .arg("--version")
        .env("LD_PRELOAD", library)
        .env("_FLYOVER_HANDOVER", order)
        .env("FLYOVER_SOCKET", options.socket.as_str())
        .env("FLYOVER_ACCELERATE", "1")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running the helper")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut results = said.lines();
    Ok(batch
        .iter()
        .map(|t| Row {
            pid: t.pid,
            fd: t.fd,
            result: results.next().unwrap_or("unreachable").to_owned(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_processes_and_single_sockets() {
        assert_eq!(target("12"), Some(Target::Process(12)));
        assert_eq!(target("12:7"), Some(Target::One(12, 7)));
        for bad in ["", "x", "12:", "12:-1", ":7", "1:2:3"] {
            assert_eq!(target(bad), None, "{bad}");
        }
        assert!(Target::All.covers(1, 2));
        assert!(Target::One(1, 2).covers(1, 2) && !Target::One(1, 2).covers(1, 3));
    }

    #[test]
    fn what_was_the_kernels_before_is_not_worth_a_line() {
        let row = |fd, result: &str| Row {
            pid: 5,
            fd,
            result: result.to_owned(),
        };
        assert_eq!(text(&[row(3, "kernel"), row(4, "moved")]), "5:4 moved\n");
        assert_eq!(text(&[row(3, "kernel")]), "no accelerated sockets\n");
    }
}
