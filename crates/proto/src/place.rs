//! Where the daemon of an ordinary user listens: a directory that nobody else can enter or put in place of ours, and in it
//! one socket per network namespace.
//!
//! Nothing in a directory is trusted before its owner and mode were looked at, and before it is certain that no other
//! user can rename it. The directory itself is the lock of those who start a daemon in it or end one.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, Mode, OFlags, Stat, access, fstat, mkdir, open, stat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;
/// Write permissions of others.
const OTHERS_WRITE: u32 = 0o022;
/// `S_ISVTX`: only their owners rename entries of this directory.
const STICKY: u32 = 0o1000;

/// Longest name of a socket in a place, with the slash: the number of a network namespace has 32 bits.
const LONGEST_NAME: usize = "/net-4294967295.sock".len();
/// Longest path of a socket, bytes (`sun_path` without the end, unix(7)).
const LONGEST_SOCKET: usize = 107;

/// Why a directory does not serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    /// The directory that is at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: Flaw,
}

/// What is wrong with a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It cannot be made or opened; `ENOTDIR` or `ELOOP` also for what is no directory.
    Os(Errno),
    /// It belongs to this user.
    Owner(u32),
    /// Others may enter it; its mode.
    Open(u32),
    /// Others may rename what is in it; its mode.
    Writable(u32),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match self.why {
            Flaw::Os(e) => e.fmt(f),
            Flaw::Owner(uid) => write!(f, "belongs to user {uid}"),
            Flaw::Open(mode) => write!(f, "is open to others (mode {mode:o})"),
            Flaw::Writable(mode) => write!(f, "can be written by others (mode {mode:o})"),
        }
    }
}

impl std::error::Error for Unfit {}

/// A place that may be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What the directory is in.
    base: PathBuf,
    /// `base` must be this user's alone, too.
    own_base: bool,
    name: String,
}

impl Candidate {
    /// In the order in which they are used: `$XDG_RUNTIME_DIR/flyover` and `/run/user/UID/flyover`, when these are this
    /// user's alone; else a directory of the user's name where everybody may make one.
    pub fn all() -> Vec<Self> {
        let uid = geteuid().as_raw();
        let mut bases: Vec<PathBuf> = Vec::new();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        bases.extend(runtime.filter(|path| path.is_absolute()));
        let usual = PathBuf::from(format!("/run/user/{uid}"));
        if !bases.contains(&usual) {
            bases.push(usual);
        }
        let own = bases.into_iter().map(|base| Self {
            base,
            own_base: true,
            name: "flyover".to_owned(),
        });
        let shared = ["/tmp", "/var/tmp", "/dev/shm"].map(|base| Self {
            base: base.into(),
            own_base: false,
            name: format!("flyover-{uid}"),
        });
        own.chain(shared).collect()
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    /// Opens the directory if it is there and this user's alone.
    ///
    /// # Errors
    /// What is wrong with it or with the directory that it is in.
    pub fn open(&self) -> Result<Place, Unfit> {
        self.check_base()?;
        Place::open(self.path())
    }

    /// The same; makes the directory if it is not there.
    ///
    /// # Errors
    /// As [`Self::open`], mkdir(2).
    pub fn make(&self) -> Result<Place, Unfit> {
        self.check_base()?;
        match mkdir(self.path(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Place::open(self.path()),
            Err(e) => Err(unfit(&self.path(), Flaw::Os(e))),
        }
    }

    /// What [`Self::make`] would give, without making anything.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub fn look(&self) -> Result<PathBuf, Unfit> {
        match self.open() {
            Err(Unfit {
                why: Flaw::Os(Errno::NOENT),
                path,
            }) if path != self.base => {
                let may = access(&self.base, Access::WRITE_OK | Access::EXEC_OK);
                may.map_err(|e| unfit(&self.base, Flaw::Os(e)))?;
            }
            found => drop(found?),
        }
        Ok(self.path())
    }

    fn check_base(&self) -> Result<(), Unfit> {
        if self.path().as_os_str().len() + LONGEST_NAME > LONGEST_SOCKET {
            return Err(unfit(&self.path(), Flaw::Os(Errno::NAMETOOLONG)));
        }
        let found = stat(&self.base).map_err(|e| unfit(&self.base, Flaw::Os(e)))?;
        let mode = found.st_mode & 0o7777;
        if self.own_base {
            return check_own(&self.base, found.st_uid, mode);
        }
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Err(unfit(&self.base, Flaw::Writable(mode)));
        }
        Ok(())
    }
}

fn first<T>(get: impl Fn(&Candidate) -> Result<T, Unfit>) -> Result<T, Vec<Unfit>> {
    let mut all = Vec::new();
    for candidate in Candidate::all() {
        match get(&candidate) {
            Ok(found) => return Ok(found),
            Err(unfit) => all.push(unfit),
        }
    }
    Err(all)
}

fn unfit(path: &Path, why: Flaw) -> Unfit {
    Unfit {
        path: path.to_owned(),
        why,
    }
}

fn check_own(path: &Path, owner: u32, mode: u32) -> Result<(), Unfit> {
    if owner != geteuid().as_raw() {
        return Err(unfit(path, Flaw::Owner(owner)));
    }
    if mode & OTHERS != 0 {
        return Err(unfit(path, Flaw::Open(mode)));
    }
    Ok(())
}

/// A directory that is this user's alone.
#[derive(Debug)]
pub struct Place {
    dir: OwnedFd,
    path: PathBuf,
}

impl Place {
    fn open(path: PathBuf) -> Result<Self, Unfit> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let os = |e| unfit(&path, Flaw::Os(e));
        let dir = open(&path, flags, Mode::empty()).map_err(os)?;
        let found = fstat(&dir).map_err(os)?;
        check_own(&path, found.st_uid, found.st_mode & 0o7777)?;
        Ok(Self { dir, path })
    }

    /// The place in which a socket of this path is, when it is one of this user's places.
    ///
    /// # Errors
    /// It is, and something is wrong with it.
    pub fn of_socket(socket: &Path) -> Result<Option<Self>, Unfit> {
        let all = Candidate::all();
        let found = all.iter().find(|c| socket.parent() == Some(&c.path()));
        found.map(Candidate::open).transpose()
    }

    /// Where [`Self::make_first`] would be, without making anything.
    ///
    /// # Errors
    /// As [`Self::make_first`].
    pub fn look_first() -> Result<PathBuf, Vec<Unfit>> {
        first(Candidate::look)
    }

    /// The first place that serves, made if need be.
    ///
    /// # Errors
    /// What is wrong with each.
    pub fn make_first() -> Result<Self, Vec<Unfit>> {
        first(Candidate::make)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket of the daemon that serves the network namespace of the calling process.
    ///
    /// # Errors
    /// As stat(2): there is no `/proc`.
    pub fn socket(&self) -> Result<PathBuf, Errno> {
        let ns = stat("/proc/self/ns/net")?;
        Ok(self.path.join(format!("net-{}.sock", ns.st_ino)))
    }

    /// False when it has been removed, or another one has its name.
    pub fn is_there(&self) -> bool {
        let same =
            |ours: Stat, there: Stat| (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino);
        matches!((fstat(&self.dir), stat(&self.path)), (Ok(ours), Ok(there)) if same(ours, there))
    }

    /// Locks the directory against others that start or end a daemon in it; it is unlocked with the end of the value.
    /// Waits, or gives up at once. `None` when it is no longer the directory of that name, or is locked and not waited for.
    ///
    /// # Errors
    /// As flock(2).
    pub fn lock(&self, wait: bool) -> Result<Option<Locked<'_>>, Errno> {
        let how = if wait {
            FlockOperation::LockExclusive
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        loop {
            match rustix::fs::flock(&self.dir, how) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        let locked = Locked(self);
        Ok(self.is_there().then_some(locked))
    }
}

/// A [`Place`] in which nobody else starts or ends a daemon.
#[derive(Debug)]
pub struct Locked<'p>(&'p Place);

impl Locked<'_> {
    /// Removes the directory if nothing is in it.
    pub fn remove_if_empty(&self) {
        // Another network namespace's daemon may be in it.
        let _: Result<(), Errno> = rustix::fs::rmdir(&self.0.path);
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _: Result<(), Errno> = rustix::fs::flock(&self.0.dir, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, mode: u32) -> Self {
            let path = std::env::temp_dir().join(format!("flyplace-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Self(path)
        }

        fn candidate(&self, own_base: bool) -> Candidate {
            Candidate {
                base: self.0.clone(),
                own_base,
                name: "flyover".to_owned(),
            }
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_place_is_made_private_and_found_again() {
        let scratch = Scratch::new("made", 0o700);
        let candidate = scratch.candidate(true);
        assert_eq!(candidate.open().unwrap_err().why, Flaw::Os(Errno::NOENT));
        assert_eq!(candidate.look().unwrap(), candidate.path());
        assert!(!candidate.path().exists());
        let place = candidate.make().unwrap();
        let mode = fs::metadata(place.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        assert_eq!(candidate.open().unwrap().path(), place.path());
        let socket = place.socket().unwrap();
        assert_eq!(socket.parent(), Some(place.path()));
    }

    #[test]
    fn what_others_may_enter_or_replace_is_refused() {
        let open = Scratch::new("open", 0o755);
        assert_eq!(
            open.candidate(true).make().unwrap_err().why,
            Flaw::Open(0o755)
        );
        let shared = Scratch::new("shared", 0o777);
        let why = shared.candidate(false).make().unwrap_err().why;
        assert_eq!(why, Flaw::Writable(0o777));
        // As /tmp.
        fs::set_permissions(&shared.0, fs::Permissions::from_mode(0o1777)).unwrap();
        drop(shared.candidate(false).make().unwrap());
        let planted = shared.0.join("flyover");
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o770)).unwrap();
        let why = shared.candidate(false).make().unwrap_err().why;
        assert_eq!(why, Flaw::Open(0o770));
        fs::remove_dir(&planted).unwrap();
        let elsewhere = shared.0.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &planted).unwrap();
        assert!(matches!(
            shared.candidate(false).make().unwrap_err().why,
            Flaw::Os(Errno::LOOP | Errno::NOTDIR)
        ));
        fs::remove_file(&planted).unwrap();
        fs::write(&planted, "").unwrap();
        let why = shared.candidate(false).make().unwrap_err().why;
        assert_eq!(why, Flaw::Os(Errno::NOTDIR));
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let scratch = Scratch::new("long", 0o700);
        let mut candidate = scratch.candidate(true);
        candidate.base.push("x".repeat(90));
        let why = candidate.make().unwrap_err().why;
        assert_eq!(why, Flaw::Os(Errno::NAMETOOLONG));
    }

    #[test]
    fn another_user_s_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let scratch = Scratch::new("owner", 0o1777);
        drop(scratch.candidate(false).make().unwrap());
        let planted = scratch.0.join("flyover");
        std::os::unix::fs::chown(&planted, Some(65_533), None).unwrap();
        let unfit = scratch.candidate(false).make().unwrap_err();
        assert_eq!(unfit.why, Flaw::Owner(65_533));
        assert!(
            unfit
                .to_string()
                .ends_with("/flyover: belongs to user 65533")
        );
    }

    #[test]
    fn one_holder_of_the_lock_and_none_of_a_removed_directory() {
        let scratch = Scratch::new("lock", 0o700);
        let (a, b) = (scratch.candidate(true), scratch.candidate(true));
        let (a, b) = (a.make().unwrap(), b.make().unwrap());
        let held = a.lock(true).unwrap().unwrap();
        assert!(b.lock(false).unwrap().is_none());
        held.remove_if_empty();
        drop(held);
        assert!(b.lock(true).unwrap().is_none());
        let again = scratch.candidate(true).make().unwrap();
        let held = again.lock(false).unwrap().unwrap();
        fs::write(again.path().join("x"), "").unwrap();
        held.remove_if_empty();
        assert!(again.path().exists());
    }
}
