//! Which kernel sockets are still open: what the keeper of a stack asks that nobody looked after for a while. The kernel has
//! no list of them (sock_diag(7) lists neither unbound sockets nor those of a dead connection), so every process is
//! looked at, and every one of its sockets. A socket can be on its way from one process to another meanwhile: what two looks
//! did not see, a while apart, is closed; unless descriptors are waiting in Unix sockets, or something may not be looked at.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Duration;

use flyover_proto::Control;
use flyover_shm::host::sealed_memfd;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::records::ProcessId;
use crate::stacks::stack::{Life, Stack};

/// Between the two looks.
const WHILE: Duration = Duration::from_secs(1);

/// Why nothing can be said.
enum Doubt {
    /// Descriptors wait in a Unix socket.
    Underway,
    /// A process, or what it holds, may not be looked at.
    Hidden(u32, io::Error),
}

/// Tells the stack's keeper which sockets are open, if that can be found out. Takes a second.
pub fn tell(stack: &Stack) {
    let mut open = BTreeSet::new();
    for pause in [Duration::ZERO, WHILE] {
        thread::sleep(pause);
        match look(&mut open) {
            Ok(()) => {}
            Err(Doubt::Underway) => {
                tracing::warn!(
                    stack = stack.id,
                    "descriptors are on their way between processes: sockets that ended while there was no keeper stay open"
                );
                return;
            }
            Err(Doubt::Hidden(pid, e)) => {
                tracing::warn!(
                    stack = stack.id,
                    pid,
                    "a process cannot be looked at ({e}): sockets that ended while there was no keeper stay open"
                );
                return;
            }
        }
    }
    let told = memory(&open).and_then(|list| {
        let life = stack.life();
        let Life::Live(live) = &*life else {
            return Ok(());
        };
        let Some(keeper) = &live.keeper else {
            return Ok(());
        };
        let sockets = open.len() as u64;
        Ok(keeper.say(&Control::Census { sockets }, &[list.as_fd()])?)
    });
    if let Err(e) = told {
        tracing::error!(
            stack = stack.id,
            "telling the keeper which sockets are open: {e}"
        );
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
