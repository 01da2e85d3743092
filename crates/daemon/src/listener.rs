//! The daemon's socket: only one daemon listens on it, and a daemon that was killed does not keep the next one away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use flyover_config::DaemonOpts;
use flyover_proto::Place;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// What is beside the socket: the file that its daemon has locked, and what `flyover run` lets it write.
const LOCK: &str = ".lock";
const LOG: &str = ".log";

/// A daemon that ends removes its socket first; its lock is free this much later at most.
const HANDOVER: Duration = Duration::from_secs(5);
/// Mode of an ordinary user's socket, whatever the options say.
const PRIVATE: u32 = 0o600;

/// The listening socket; its name goes away with it.
#[derive(Debug)]
pub struct Listener {
    /// Non-blocking.
    pub sock: OwnedFd,
    path: Option<PathBuf>,
    /// The directory, when it is the user's place for daemons: nothing is left in it.
    place: Option<Place>,
    /// Held as long as the daemon lives.
    _lock: Option<File>,
}

impl Listener {
    /// Listens as the options say; for this user only when `private`. A path that starts with `@` is an abstract name
    /// (unix(7)).
    ///
    /// # Errors
    /// Another daemon listens there already; no permission; no such group; others than this user can get at the place.
    pub fn open(opts: &DaemonOpts, private: bool) -> anyhow::Result<Self> {
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
                place: None,
                _lock: None,
            });
        }
        let path = Path::new(name);
        let place = if private {
            Place::of_socket(path)?
        } else {
            None
        };
        if let (Some(dir), None) = (path.parent(), &place) {
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
        permit(path, opts, private)
            .with_context(|| format!("setting the permissions of {}", path.display()))?;
        listen(&sock, BACKLOG)?;
        Ok(Self {
            sock,
            path: Some(path.to_owned()),
            place,
            _lock: Some(lock),
        })
    }

    /// Removes the names if `idle` says, while nobody can start another daemon, that there is no client. False when there
    /// is one, or somebody is about to come.
    pub fn retire(&mut self, idle: impl FnOnce(BorrowedFd<'_>) -> bool) -> bool {
        let place = self.place.take();
        let Some(found) = &place else {
            return idle(self.sock.as_fd());
        };
        let over = match found.lock(false) {
            Ok(Some(locked)) => {
                let over = idle(self.sock.as_fd());
                if over && let Some(path) = self.path.take() {
                    remove(&path);
                    locked.remove_if_empty();
                }
                over
            }
            // Somebody has the directory's lock, and will find this daemon.
            Ok(None) if found.is_there() => false,
            // The directory is gone, and nobody can come.
            Ok(None) => idle(self.sock.as_fd()),
            Err(e) => {
                tracing::warn!("locking {}: {e}", found.path().display());
                false
            }
        };
        self.place = place;
        over
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let Some(place) = &self.place else {
            let _: io::Result<()> = std::fs::remove_file(path);
            return;
        };
        // When the directory is gone, one of its name is another daemon's.
        if place.is_there() {
            remove(&path);
        }
        if let Ok(Some(locked)) = place.lock(false) {
            locked.remove_if_empty();
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes everything of a daemon from the user's place. The socket goes first: who finds none waits for the lock.
fn remove(path: &Path) {
    for name in [path.to_owned(), beside(path, LOG), beside(path, LOCK)] {
        let _: io::Result<()> = std::fs::remove_file(name);
    }
}

/// A file beside the socket, locked as long as the daemon lives; the kernel unlocks it whatever its end.
fn lock(path: &Path) -> anyhow::Result<File> {
    let name = beside(path, LOCK);
    let until = Instant::now() + HANDOVER;
    loop {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o644)
            .open(&name)
            .with_context(|| format!("opening {}", name.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Its last holder may have removed it meanwhile; then the name is another file's, or free.
            let (ours, there) = (file.metadata()?, std::fs::metadata(&name));
            if there.is_ok_and(|t| (t.dev(), t.ino()) == (ours.dev(), ours.ino())) {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(file);
            }
        } else if Instant::now() > until || answers(path) {
            let holder = std::fs::read_to_string(&name).unwrap_or_default();
            bail!(
                "another flyoverd (process {}) listens on {}",
                holder.trim(),
                path.display()
            );
        } else {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether somebody listens.
fn answers(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let sock = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let to = SocketAddrUnix::new(path);
    matches!((sock, to), (Ok(sock), Ok(to)) if matches!(connect(&sock, &to), Ok(()) | Err(Errno::AGAIN)))
}

/// Nobody can connect before this: the socket does not listen yet.
fn permit(path: &Path, opts: &DaemonOpts, private: bool) -> anyhow::Result<()> {
    if private {
        let mode = std::fs::Permissions::from_mode(PRIVATE);
        return Ok(std::fs::set_permissions(path, mode)?);
    }
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
        let first = Listener::open(&opts(&path), false).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o777, 0o640);
        let error = Listener::open(&opts(&path), false).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(!path.exists());
        // Left behind by a daemon that was killed.
        std::fs::write(&path, "").unwrap();
        drop(Listener::open(&opts(&path), false).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(group_id("no-such-group").is_err());
        assert_eq!(group_id("root").unwrap(), 0);
    }
}
