//! Who holds a socket. A connection that a program without the library holds as well must stay where that one can use it; the
//! kernel tells only by the lists of every process.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use flyover_proto::RefusedCode;
use rustix::fs::fstat;

use crate::refusal::Refusal;

/// How long the lists are read. The client waits meanwhile, and its connection stands still.
const PATIENCE: Duration = Duration::from_millis(200);
/// The number of the first process namespace (`PROC_PID_INIT_INO`): who is in another one does not see every process.
const FIRST: &str = "pid:[4026531836]";

/// Makes sure that only `ours`, and this process, hold the socket. A descriptor that is under way in a Unix socket is not seen.
///
/// # Errors
/// Another one does, or it cannot be found out.
pub fn only(ours: &BTreeSet<u32>, sock: BorrowedFd<'_>) -> Result<(), Refusal> {
    let unknown = |why: String| Refusal::new(RefusedCode::Failed, why);
    let inode = fstat(sock)
        .map_err(|e| Refusal::failed("asking for the socket's number", e))?
        .st_ino;
    if fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns.as_os_str() != FIRST) {
        return Err(unknown(
            "flyoverd is in a container, and does not see who else holds the socket".into(),
        ));
    }
    let until = Instant::now() + PATIENCE;
    let wanted = format!("socket:[{inode}]");
    let all = fs::read_dir("/proc").map_err(|e| unknown(format!("reading /proc: {e}")))?;
    let pids = all
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| !ours.contains(pid) && *pid != std::process::id()) {
        let list = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(list) => list,
            // It has ended.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(unknown(format!("looking at process {pid}: {e}"))),
        };
        let shows = |link: &fs::DirEntry| {
            fs::read_link(link.path()).is_ok_and(|shown| shown.as_os_str() == wanted.as_str())
        };
        if list.flatten().any(|link| shows(&link)) {
            return Err(unknown(format!("process {pid} holds it, too")));
        }
        if Instant::now() > until {
            return Err(unknown(
                "there are too many processes and files to find out who else holds the socket"
                    .into(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::{AsFd as _, AsRawFd as _};
    use std::process::Command;

    #[test]
    fn another_process_that_holds_it_is_found() {
        if fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns.as_os_str() != FIRST) {
            return;
        }
        let sock = UdpSocket::bind("127.0.0.1:0").unwrap();
        let none = BTreeSet::new();
        only(&none, sock.as_fd()).unwrap();
        rustix::io::fcntl_setfd(&sock, rustix::io::FdFlags::empty()).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let link = format!("/proc/{}/fd/{}", child.id(), sock.as_raw_fd());
        let there = fs::read_link(link).is_ok();
        let found = only(&none, sock.as_fd());
        let allowed = only(&BTreeSet::from([child.id()]), sock.as_fd());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(there);
        assert!(found.is_err());
        allowed.unwrap();
        only(&none, sock.as_fd()).unwrap();
    }
}
