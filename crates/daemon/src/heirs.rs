//! Processes that will look for this daemon when they make their first socket, and have not yet: those that a program under
//! `flyover run` left behind. The name of the daemon's socket in their environment tells.

use std::os::unix::fs::MetadataExt as _;

use flyover_proto::SOCKET_ENV;

/// True when another process of this user was started with this daemon's socket in its environment. Those that may not be
/// looked at (`PR_SET_DUMPABLE`, another process namespace) are not seen.
pub fn any(socket: &str, uid: u32) -> bool {
    let entry = format!("{SOCKET_ENV}={socket}");
    let Ok(all) = std::fs::read_dir("/proc") else {
        return false;
    };
    let mut pids = all
        .flatten()
        .filter(|process| process.metadata().is_ok_and(|m| m.uid() == uid))
        .filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    pids.any(|pid| pid != std::process::id() && has(pid, entry.as_bytes()))
}

fn has(pid: u32, entry: &[u8]) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|b| *b == 0).any(|found| found == entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_environment_tells() {
        let socket = format!("/nowhere/{}/s", std::process::id());
        let uid = rustix::process::geteuid().as_raw();
        assert!(!any(&socket, uid));
        let mut command = Command::new("cat");
        command.env(SOCKET_ENV, &socket).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        assert!(any(&socket, uid));
        assert!(!any(&format!("{socket}x"), uid));
        assert!(!any(&socket, uid + 1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!any(&socket, uid));
    }
}
