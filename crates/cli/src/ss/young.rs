//! Connections within this host that have no mark in the stack: they are too young for one (`sockets/local/young.rs`), or will
//! never have one. The stack knows nothing of them; but their descriptors are in processes of the stack, and the kernel has both of
//! their ends.
//!
//! What cannot be seen: those of processes that had no other sockets yet, so that no daemon knows them, and those of processes
//! of other users, to who is not root.

use std::collections::HashSet;
use std::fs;

use super::kernel::Sockets;
use super::row::{Netid, Row};
use crate::stacks::StackInfo;

/// Those of the stack's processes; `known`: cookies that the stack has rows of.
pub(super) fn rows(stack: &StackInfo, known: &HashSet<u64>, kernel: &Sockets) -> Vec<Row> {
    let held: HashSet<u32> = stack
        .processes
        .iter()
        .flat_map(|process| sockets_of(process.pid))
        .collect();
    if held.is_empty() {
        return Vec::new();
    }
    let ends: HashSet<_> = kernel
        .values()
        .filter(|s| s.proto == Netid::Tcp)
        .map(|s| (s.local, s.remote))
        .collect();
    kernel
        .iter()
        .filter(|(cookie, s)| {
            s.proto == Netid::Tcp
                && s.remote.port != 0
                && held.contains(&s.inode)
                && ends.contains(&(s.remote, s.local))
                && !known.contains(cookie)
        })
        .map(|(cookie, s)| Row::young(*cookie, s, stack))
        .collect()
}

/// Inodes of the sockets that a process has open; none of one that may not be looked at, or is gone.
fn sockets_of(pid: u32) -> Vec<u32> {
    let Ok(all) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    all.filter_map(|entry| inode(fs::read_link(entry.ok()?.path()).ok()?.to_str()?))
        .collect()
}

/// `socket:[4711]`.
fn inode(link: &str) -> Option<u32> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::sockopt::socket_cookie;

    use super::super::kernel;
    use super::*;
    use crate::stacks::ProcessInfo;

    #[test]
    fn links_of_sockets() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        for other in ["pipe:[4711]", "socket:[", "socket:[x]", "/dev/null", ""] {
            assert_eq!(inode(other), None, "{other}");
        }
    }

    #[test]
    fn both_ends_of_what_has_no_mark() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let cookies = [&near, &far].map(|s| socket_cookie(s).unwrap());
        let me = StackInfo {
            id: 3,
            processes: vec![ProcessInfo {
                pid: std::process::id(),
                ..ProcessInfo::default()
            }],
            ..StackInfo::default()
        };
        let kernel = kernel::sockets().unwrap();
        let shown = |known: &[u64]| -> HashSet<String> {
            let known = known.iter().copied().collect();
            let rows = rows(&me, &known, &kernel);
            assert!(rows.iter().all(|r| (r.reason, r.stack) == ("young", 3)));
            rows.into_iter().map(|r| r.cookie).collect()
        };
        let names = cookies.map(|c| format!("{c:x}"));
        let all = shown(&[]);
        assert!(names.iter().all(|n| all.contains(n)), "{all:?}");
        let listener = format!("{:x}", socket_cookie(&listener).unwrap());
        assert!(!all.contains(&listener));
        let one = shown(&cookies[..1]);
        assert_eq!(
            (one.contains(&names[0]), one.contains(&names[1])),
            (false, true)
        );
        let nobody = StackInfo::default();
        assert_eq!(rows(&nobody, &HashSet::new(), &kernel), []);
    }
}
