//! `flyover handover` gives the sockets of running programs to the kernel, in mid-connection, and `flyover takeover`
//! takes them over again. The work is done by the library in a program of its own (`crates/preload/src/errand.rs`), which
//! gets the stack's memory and the numbers of the sockets from here. It takes each out of its process and lets go of it
//! at once: that needs no cooperation, only permission (`pidfd_getfd(2)`).

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;

use anyhow::{Context as _, anyhow};
use flyover_proto::SOCKET_ENV;
use rustix::fs::{fstat, stat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::daemon::Found as Daemon;
use crate::stacks::{self, StackInfo};
use crate::{Failure, Form, Outcome, help, places, show, show_json};

/// Sockets that one helper moves: their numbers fit the longest variable of an environment.
const BATCH: usize = 4000;

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

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// To the kernel.
    Out,
    /// Into the stack.
    In,
}

/// What became of one socket.
#[derive(Serialize)]
struct Row {
    pid: u32,
    fd: i32,
    /// To the kernel: `moved`, `listener` (new connections are the kernel's), `kernel` (it was the kernel's already),
    /// `stays`. Back: `taken`, `resumed` (a listener, a datagram socket), `here` (it was the stack's already), `stays`.
    /// `unreachable`: the stack, or the process, did not let the helper in.
    result: String,
    /// Why it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// How long the connection stood still, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_us: Option<f64>,
}

impl Row {
    /// From a line of the helper: a word, and a number of nanoseconds or a reason.
    fn of(found: &Found, line: Option<&str>) -> Self {
        let line = line.unwrap_or("unreachable");
        let (result, rest) = match line.split_once(": ") {
            Some((result, why)) => (result, Some(why)),
            None => (line, None),
        };
        let (result, ns) = match result.split_once(' ') {
            Some((result, ns)) => (result, ns.parse::<f64>().ok()),
            None => (result, None),
        };
        Self {
            pid: found.pid,
            fd: found.fd,
            result: result.to_owned(),
            why: rest.map(str::to_owned),
            pause_us: ns.map(|ns| ns / 1e3),
        }
    }

    fn failed(&self) -> bool {
        self.result == "stays" || self.result == "unreachable"
    }
}

/// A socket of a process.
struct Found {
    pid: u32,
    fd: i32,
    inode: u64,
    process: Rc<OwnedFd>,
}

/// Runs `flyover handover` or `flyover takeover`.
pub(crate) fn main(way: Way, args: &[OsString]) -> Outcome {
    let (targets, form) = parse(way, args)?;
    if form == Form::HelpShown {
        return Ok(ExitCode::SUCCESS);
    }
    let mut daemon = stacks::connect()?;
    let list = stacks::list(&mut daemon.client)?.stacks;
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
        rows.extend(one_stack(&mut daemon, way, stack, &targets)?);
    }
    if form == Form::Json {
        show_json(&rows)?;
    } else {
        show(&text(&rows));
    }
    Ok(if rows.iter().any(Row::failed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn parse(way: Way, args: &[OsString]) -> Result<(Vec<Target>, Form), Failure> {
    let mut targets = Vec::new();
    let mut form = Form::Text;
    for arg in args {
        match arg.to_str() {
            Some("--json") => form = Form::Json,
            Some("--all") => targets.push(Target::All),
            Some("--help" | "-h") => {
                show(match way {
                    Way::Out => help::HANDOVER,
                    Way::In => help::TAKEOVER,
                });
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
    let dull = |r: &&Row| r.result != "kernel" && r.result != "here" || r.why.is_some();
    for r in rows.iter().filter(dull) {
        let why = r.why.as_ref().map_or(String::new(), |w| format!(": {w}"));
        let pause = r
            .pause_us
            .map_or(String::new(), |us| format!(" ({us:.0} us)"));
        let _: std::fmt::Result = writeln!(out, "{}:{} {}{why}{pause}", r.pid, r.fd, r.result);
    }
    if out.is_empty() {
        out.push_str("nothing to do\n");
    }
    out
}

fn one_stack(
    daemon: &mut Daemon,
    way: Way,
    stack: &StackInfo,
    targets: &[Target],
) -> anyhow::Result<Vec<Row>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for p in &stack.processes {
        let wanted = |fd: i32| targets.iter().any(|t| t.covers(p.pid, fd));
        let whole = targets
            .iter()
            .any(|t| t.process().is_none_or(|pid| pid == p.pid));
        if whole {
            find(p.pid, wanted, &mut seen, &mut found)?;
        }
    }
    let all = targets.contains(&Target::All);
    // Any of them may just have ended.
    let inside = found.iter().map(|t| t.pid);
    let inside = inside.chain(stack.keeper_pid.filter(|_| all));
    let Some(net) = inside.into_iter().find_map(netns_of) else {
        return Ok(Vec::new());
    };
    let mut rows = Vec::new();
    if way == Way::In {
        rows = leave_out_shared(stack, &mut found);
    }
    // The helper attaches, and wakes sleepers, in the network namespace of the stack.
    enter_netns(&net)?;
    let (memory, ..) = daemon
        .client
        .stack_fd(stack.id)
        .with_context(|| format!("asking for the memory of stack {}", stack.id))?;
    if all {
        // New sockets from here on.
        move_them(&daemon.socket, &memory, way, true, &[])?;
    }
    for batch in found.chunks(BATCH) {
        rows.extend(move_them(&daemon.socket, &memory, way, false, batch)?);
    }
    Ok(rows)
}

/// The network namespace of a process; `None` when it has ended.
fn netns_of(pid: u32) -> Option<std::fs::File> {
    std::fs::File::open(format!("/proc/{pid}/ns/net")).ok()
}

/// Enters a network namespace. Where this process is already, that takes no privilege.
fn enter_netns(net: &std::fs::File) -> anyhow::Result<()> {
    let (wanted, ours) = (fstat(net)?, stat("/proc/thread-self/ns/net")?);
    if (wanted.st_dev, wanted.st_ino) == (ours.st_dev, ours.st_ino) {
        return Ok(());
    }
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering the network namespace of the process")
}

/// Sockets that a program without the library holds as well stay where that one can use them.
fn leave_out_shared(stack: &StackInfo, found: &mut Vec<Found>) -> Vec<Row> {
    let mut ours: HashSet<u32> = stack.processes.iter().map(|p| p.pid).collect();
    ours.extend(stack.keeper_pid);
    ours.insert(std::process::id());
    let inet = inet_inodes(stack);
    let wanted = found.iter().map(|f| f.inode);
    let wanted: HashSet<u64> = wanted.filter(|inode| inet.contains(inode)).collect();
    let foreign = held_by_others(&ours, &wanted);
    let mut rows = Vec::new();
    found.retain(|f| {
        let holder = foreign.get(&f.inode);
        if let Some(pid) = holder {
            let line = format!("stays: process {pid} holds it, too, without Flyover");
            rows.push(Row::of(f, Some(&line)));
        }
        holder.is_none()
    });
    rows
}

/// The numbers of the TCP and UDP sockets of the stack's namespace that are in use.
fn inet_inodes(stack: &StackInfo) -> HashSet<u64> {
    let Some(inside) = stack.processes.first() else {
        return HashSet::new();
    };
    let read = |table| std::fs::read_to_string(format!("/proc/{}/net/{table}", inside.pid));
    let tables = ["tcp", "tcp6", "udp", "udp6"]
        .into_iter()
        .filter_map(|t| read(t).ok());
    let mut numbers = HashSet::new();
    for table in tables {
        // The tenth word; the head line has none that is a number.
        let inode = |line: &str| line.split_whitespace().nth(9)?.parse::<u64>().ok();
        numbers.extend(table.lines().filter_map(inode));
    }
    numbers
}

/// Which of these sockets processes other than `ours` hold, and one of those processes.
fn held_by_others(ours: &HashSet<u32>, wanted: &HashSet<u64>) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| !ours.contains(pid)) {
        let list = std::fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in list.into_iter().flatten().flatten() {
            let inode = socket_inode(&entry.path());
            if let Some(inode) = inode.filter(|i| wanted.contains(i)) {
                found.insert(inode, pid);
            }
        }
    }
    found
}

/// The sockets of a process, each only once however many hold it.
fn find(
    pid: u32,
    wanted: impl Fn(i32) -> bool,
    seen: &mut HashSet<u64>,
    into: &mut Vec<Found>,
) -> anyhow::Result<()> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = match id.map(|id| pidfd_open(id, PidfdFlags::empty())) {
        Some(Ok(fd)) => Rc::new(fd),
        // It has ended meanwhile.
        Some(Err(Errno::SRCH)) | None => return Ok(()),
        Some(Err(e)) => return Err(e).with_context(|| format!("looking at process {pid}")),
    };
    let list = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .with_context(|| format!("looking at the descriptors of process {pid} (try as root)"))?;
    for entry in list.flatten() {
        let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let fd = number.filter(|fd| wanted(*fd));
        if let Some((fd, inode)) = fd.zip(socket_inode(&entry.path()))
            && seen.insert(inode)
        {
            into.push(Found {
                pid,
                fd,
                inode,
                process: process.clone(),
            });
        }
    }
    Ok(())
}

/// The number of the socket that a link in `/proc/PID/fd` shows.
fn socket_inode(link: &Path) -> Option<u64> {
    let shown = std::fs::read_link(link).ok()?;
    let number = shown
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?;
    number.parse().ok()
}

/// Runs the helper with these sockets; `switch`: it also says what becomes of new ones.
fn move_them(
    socket: &str,
    memory: &OwnedFd,
    way: Way,
    switch: bool,
    batch: &[Found],
) -> anyhow::Result<Vec<Row>> {
    let library = places::library().ok_or_else(|| anyhow!("libflyover.so is not installed"))?;
    let mut order = match way {
        Way::Out => "out".to_owned(),
        Way::In => "in".to_owned(),
    };
    if switch {
        order.push('+');
    }
    let _: std::fmt::Result = write!(order, ",{}", memory.as_raw_fd());
    for f in batch {
        let _: std::fmt::Result = write!(order, ",{}:{}", f.process.as_raw_fd(), f.fd);
    }
    let processes = batch.iter().map(|f| &*f.process);
    for fd in std::iter::once(memory).chain(processes) {
        fcntl_setfd(fd, FdFlags::empty()).context("letting the helper inherit a descriptor")?;
    }
    // Any dynamically linked program will do: the library ends it before its `main`.
    let output = Command::new("/proc/self/exe")
        .arg("--version")
        .env("LD_PRELOAD", library)
        .env("_FLYOVER_HANDOVER", order)
        .env(SOCKET_ENV, socket)
        .env("FLYOVER_ACCELERATE", "1")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running the helper")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut results = said.lines();
    Ok(batch.iter().map(|t| Row::of(t, results.next())).collect())
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
        let row = |fd, line: &str| {
            let process = Rc::new(std::fs::File::open("/dev/null").unwrap().into());
            let found = Found {
                pid: 5,
                fd,
                inode: 0,
                process,
            };
            Row::of(&found, Some(line))
        };
        assert_eq!(
            text(&[row(3, "kernel"), row(4, "moved 812345")]),
            "5:4 moved (812 us)\n"
        );
        assert_eq!(text(&[row(3, "stays: option X")]), "5:3 stays: option X\n");
        assert!(row(3, "stays: option X").failed() && !row(3, "taken 5").failed());
        assert_eq!(text(&[row(3, "kernel"), row(4, "here")]), "nothing to do\n");
    }
}
