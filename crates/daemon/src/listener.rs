//! The daemon's socket: only one daemon listens on it, and a daemon that was killed does not keep the next one away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use flyover_config::DaemonOpts;
use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listening socket; its name goes away with it.
#[derive(Debug)]
pub struct Listener {
    /// Non-blocking.
    pub sock: OwnedFd,
    path: Option<PathBuf>,
    /// Held as long as the daemon lives.
    _lock: Option<File>,
}

impl Listener {
    /// Listens as the options say. A path that starts with `@` is an abstract name (unix(7)).
    ///
    /// # Errors
    /// Another daemon listens there already; no permission; no such group.
    pub fn open(opts: &DaemonOpts) -> anyhow::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let sock = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let name = opts.socket.as_str();
        if let Some(name) = name.strip_prefix('@') {
            bind(&sock, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)
                .with_context(|| format!("listening on @{name}"))?;
            listen(&sock, BACKLOG)?;
            return Ok(Self {
                sock,
                path: None,
                _lock: None,
            });
        }
        let path = Path::new(name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let lock = lock(path)?;
        // Whoever had the name is gone, or the lock would be taken.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).context("removing an old socket");
            }
            _ => {}
        }
        bind(&sock, &SocketAddrUnix::new(path)?)
            .with_context(|| format!("listening on {}", path.display()))?;
        permit(path, opts)
            .with_context(|| format!("setting the permissions of {}", path.display()))?;
        listen(&sock, BACKLOG)?;
        Ok(Self {
            sock,
            path: Some(path.to_owned()),
            _lock: Some(lock),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _: io::Result<()> = std::fs::remove_file(path);
        }
    }
}

/// A file beside the socket, locked as long as the daemon lives; the kernel unlocks it whatever its end.
fn lock(path: &Path) -> anyhow::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o644)
        .open(&name)
        .with_context(|| format!("opening {}", name.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = std::fs::read_to_string(&name).unwrap_or_default();
        bail!(
            "another flyoverd (process {}) listens on {}",
            holder.trim(),
            path.display()
        );
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Nobody can connect before this: the socket does not listen yet.
fn permit(path: &Path, opts: &DaemonOpts) -> anyhow::Result<()> {
    if !opts.group.as_str().is_empty() {
        let gid = group_id(opts.group.as_str())?;
        std::os::unix::fs::chown(path, None, Some(gid))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(opts.mode))?;
    Ok(())
}

/// A group's number, from `/etc/group` (group(5)) or given as a number.
fn group_id(name: &str) -> anyhow::Result<u32> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let table = std::fs::read_to_string("/etc/group").context("reading /etc/group")?;
    let entry = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        found.then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    entry.with_context(|| format!("there is no group {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyover_config::Options as _;
    use std::os::unix::fs::FileTypeExt as _;

    fn opts(path: &Path) -> DaemonOpts {
        let mut opts = DaemonOpts::DEFAULT;
        opts.set("socket", path.to_str().unwrap()).unwrap();
        opts.set("mode", "640").unwrap();
        opts.set("group", "0").unwrap();
        opts
    }

    #[test]
    fn one_daemon_per_socket_and_no_stale_ones() {
        let dir = std::env::temp_dir().join(format!("flyd-listener-{}", std::process::id()));
        let path = dir.join("sub/flyoverd.sock");
        let first = Listener::open(&opts(&path)).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o777, 0o640);
        let error = Listener::open(&opts(&path)).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(!path.exists());
        // Left behind by a daemon that was killed.
        std::fs::write(&path, "").unwrap();
        drop(Listener::open(&opts(&path)).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(group_id("no-such-group").is_err());
        assert_eq!(group_id("root").unwrap(), 0);
    }
}
