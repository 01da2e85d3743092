//! Which kernel sockets are still open: what the keeper of a stack asks that nobody looked after for a while. The kernel has
//! no list of them (sock_diag(7) lists neither unbound sockets nor those of a dead connection), so every process is
//! looked at, and every one of its sockets. A socket can be on its way from one process to another meanwhile: what two looks
//! did not see, a while apart, is closed; unless descriptors are waiting in Unix sockets, or something may not be looked at.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flyover_proto::Control;
use flyover_shm::host::sealed_memfd;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::records::ProcessId;
use crate::stacks::keeper::KeeperProcess;
use crate::stacks::stack::{Life, Stack};

/// Between the two looks.
const WHILE: Duration = Duration::from_secs(1);
/// Before a census that came to no result is held again.
const PAUSES: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(240),
    Duration::from_secs(960),
];

/// Why nothing can be said.
enum Doubt {
    /// Descriptors wait in a Unix socket.
    Underway,
    /// A process, or what it holds, may not be looked at.
    Hidden(u32, io::Error),
}

/// What became of a census.
enum Outcome {
    /// The keeper knows.
    Told,
    /// Nothing to tell any more.
    Needless,
    /// To be made again.
    Again,
}

/// Tells the stack's keeper which sockets are open, as soon as that can be found out, in a thread of its own.
pub fn begin(stack: &Arc<Stack>) {
    let stack = stack.clone();
    let work = move || {
        for pause in PAUSES {
            match hold(&stack) {
                Outcome::Told | Outcome::Needless => return,
                Outcome::Again => thread::sleep(pause),
            }
        }
        tracing::warn!(
            stack = stack.id,
            "sockets that ended while there was no keeper stay open until the stack ends"
        );
    };
    if let Err(e) = thread::Builder::new().name("census".into()).spawn(work) {
        tracing::error!("no thread to count sockets: {e}");
    }
}

/// The keeper to be told: what it asks about is what the stack had when it began.
fn asker(stack: &Stack) -> Option<u32> {
    match &*stack.life() {
        Life::Live(live) if live.deaf => live.keeper.as_ref().map(KeeperProcess::pid),
        _ => None,
    }
}

fn hold(stack: &Stack) -> Outcome {
    let Some(asker) = asker(stack) else {
        return Outcome::Needless;
    };
    let mut open = BTreeSet::new();
    for pause in [Duration::ZERO, WHILE] {
        thread::sleep(pause);
        match look(&mut open) {
            Ok(()) => {}
            Err(Doubt::Underway) => return Outcome::Again,
            Err(Doubt::Hidden(pid, e)) => {
                tracing::warn!(stack = stack.id, pid, "a process cannot be looked at: {e}");
                return Outcome::Again;
            }
        }
    }
    let mut life = stack.life();
    let Life::Live(live) = &mut *life else {
        return Outcome::Needless;
    };
    let Some(keeper) = live.keeper.as_ref().filter(|k| k.pid() == asker) else {
        return Outcome::Again;
    };
    let sockets = open.len() as u64;
    let told = memory(&open)
        .and_then(|list| Ok(keeper.say(&Control::Census { sockets }, &[list.as_fd()])?));
    match told {
        Ok(()) => {
            live.deaf = false;
            Outcome::Told
        }
        Err(e) => {
            tracing::error!(stack = stack.id, "telling which sockets are open: {e}");
            Outcome::Again
        }
    }
}

fn memory(open: &BTreeSet<u64>) -> io::Result<OwnedFd> {
    let bytes: Vec<u8> = open
        .iter()
        .flat_map(|cookie| cookie.to_ne_bytes())
        .collect();
    let fd = sealed_memfd("flyover-census", bytes.len().max(1) as u64)?;
    let file = fs::File::from(fd);
    file.write_all_at(&bytes, 0)?;
    Ok(file.into())
}

/// Adds the cookies of all sockets of all processes.
fn look(open: &mut BTreeSet<u64>) -> Result<(), Doubt> {
    let all = fs::read_dir("/proc").map_err(|e| Doubt::Hidden(0, e))?;
    for entry in all.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if pid != std::process::id() {
            look_at(pid, open)?;
        }
    }
    Ok(())
}

fn look_at(pid: u32, open: &mut BTreeSet<u64>) -> Result<(), Doubt> {
    // One that has ended meanwhile holds nothing.
    let Some(process) = ProcessId::of(pid).and_then(ProcessId::open) else {
        return Ok(());
    };
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| Doubt::Hidden(pid, e))?,
    };
    for entry in entries.flatten() {
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let (true, Some(number)) = (is_socket, number) else {
            continue;
        };
        let fd = match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::BADF | Errno::SRCH) => continue,
            Err(e) => return Err(Doubt::Hidden(pid, e.into())),
        };
        let Ok(cookie) = sockopt::socket_cookie(&fd) else {
            continue;
        };
        open.insert(cookie);
        drop(fd);
        if holds_descriptors(pid, number) {
            return Err(Doubt::Underway);
        }
    }
    Ok(())
}

/// A Unix socket in whose queue descriptors wait (`scm_fds` in fdinfo, Linux 5.6).
fn holds_descriptors(pid: u32, number: i32) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let waiting = info.lines().find_map(|line| line.strip_prefix("scm_fds:"));
    waiting.is_some_and(|count| count.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn sockets_of_other_processes_are_seen() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let cookie = sockopt::socket_cookie(&theirs).unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut open = BTreeSet::new();
        let seen = look_at(child.id(), &mut open).is_ok() && open.contains(&cookie);
        drop(ours);
        child.wait().unwrap();
        // Nobody has it any more.
        let mut open = BTreeSet::new();
        assert!(look_at(child.id(), &mut open).is_ok() && open.is_empty());
        assert!(seen || !rustix::process::geteuid().is_root());
    }
}
