//! What the next daemon has to know of the stacks that outlive this one. Notes that only this daemon's user can read or
//! write, in a directory beside the socket: they are what makes a keeper's word, and the descriptors that it brings,
//! more than a claim. Whoever holds the descriptors can only offer what the notes say.
//!
//! - `record.rs`: a stack. `owners.rs`: its processes. `ledger.rs`: the filters of a namespace.
//! - `ident.rs`: what tells files, sockets and processes from all others.
//!
//! Notes are written before what they tell of has effects elsewhere, so that a daemon can die between any two steps.

mod ident;
mod ledger;
mod owners;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub use ident::{Ident, ProcessId};
pub use ledger::Ledger;
pub use owners::OwnerNotes;
pub use record::{Build, Head, Known, MapsId, NicNote, Note, NsNote, Record};

/// The directory.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// The notes of the daemon that listens on this socket, and of its predecessors. None on an abstract name, which no
    /// directory belongs to: its stacks then end with their processes.
    ///
    /// # Errors
    /// The directory cannot be made, or is not this user's alone.
    pub fn open(socket: &str) -> io::Result<Option<Self>> {
        if socket.starts_with('@') {
            return Ok(None);
        }
        let dir = std::path::absolute(format!("{socket}.stacks"))?;
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let meta = fs::symlink_metadata(&dir)?;
        let own = meta.uid() == rustix::process::geteuid().as_raw();
        if !meta.is_dir() || !own || meta.mode() & 0o077 != 0 {
            let text = format!("{} is not a directory of this user alone", dir.display());
            return Err(io::Error::other(text));
        }
        Ok(Some(Self { dir }))
    }

    fn record(&self, id: u32) -> PathBuf {
        self.dir.join(format!("stack-{id}.json"))
    }

    fn owners(&self, id: u32) -> PathBuf {
        self.dir.join(format!("stack-{id}.owners"))
    }

    fn flows(&self, map: u32) -> PathBuf {
        self.dir.join(format!("flows-{map}"))
    }

    /// Notes a stack, in the place of what was noted of it: whoever reads sees one or the other.
    ///
    /// # Errors
    /// As open(2), write(2), rename(2).
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.record(record.id);
        let next = path.with_extension("next");
        let text = serde_json::to_vec(record)?;
        private(&next, true)?.write_all(&text)?;
        fs::rename(&next, &path)
    }

    /// The stack has ended.
    pub fn forget(&self, id: u32) {
        remove(&self.record(id));
        remove(&self.owners(id));
    }

    /// All stacks of earlier daemons. Notes that cannot be read are removed.
    pub fn list(&self) -> Vec<Note> {
        self.names()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .filter_map(|path| {
                let read = fs::read(&path).map_err(|e| e.to_string());
                let read = read.and_then(|text| Note::read(&text));
                read.inspect_err(|e| {
                    tracing::warn!(path = %path.display(), "notes of an earlier daemon: {e}");
                    remove(&path);
                })
                .ok()
            })
            .collect()
    }

    /// The processes of a stack; empty when it is `fresh`.
    ///
    /// # Errors
    /// As open(2).
    pub fn owner_notes(&self, id: u32, fresh: bool) -> io::Result<OwnerNotes> {
        Ok(OwnerNotes::new(private(&self.owners(id), fresh)?))
    }

    /// The filters of the flow map with this number, an empty ledger when it is `fresh`.
    ///
    /// # Errors
    /// As open(2), read(2).
    pub fn ledger(&self, map: u32, fresh: bool) -> io::Result<Ledger> {
        let path = self.flows(map);
        Ledger::new(private(&path, fresh)?, path)
    }

    /// Removes ledgers of flow maps that no record names any longer.
    pub fn tidy(&self, maps: &[u32]) {
        for path in self.names() {
            let name = path.file_name().and_then(|name| name.to_str());
            let map = name.and_then(|name| name.strip_prefix("flows-")?.parse().ok());
            if map.is_some_and(|map: u32| !maps.contains(&map)) {
                remove(&path);
            }
        }
    }

    fn names(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).map(|list| list.flatten().map(|e| e.path()));
        match entries {
            Ok(entries) => entries.collect(),
            Err(e) => {
                tracing::warn!(dir = %self.dir.display(), "notes of earlier daemons: {e}");
                Vec::new()
            }
        }
    }
}

fn private(path: &Path, fresh: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(fresh)
        .mode(0o600)
        .open(path)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "removing a note: {e}");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn place(name: &str) -> (PathBuf, String) {
        let dir = std::env::temp_dir().join(format!("flyd-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("s").to_str().unwrap().to_owned();
        (dir, socket)
    }

    #[test]
    fn others_cannot_prepare_the_directory() {
        let (dir, socket) = place("records");
        let notes = PathBuf::from(format!("{socket}.stacks"));
        fs::create_dir(&notes).unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Records::open(&socket).is_err());
        fs::remove_dir(&notes).unwrap();
        std::os::unix::fs::symlink("/", &notes).unwrap();
        assert!(Records::open(&socket).is_err());
        fs::remove_file(&notes).unwrap();
        let records = Records::open(&socket).unwrap().unwrap();
        assert_eq!(fs::metadata(&notes).unwrap().mode() & 0o777, 0o700);
        assert!(Records::open("@name").unwrap().is_none());
        fs::write(notes.join("stack-7.json"), "{\"id\":7").unwrap();
        assert!(records.list().is_empty());
        assert!(!notes.join("stack-7.json").exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn ledgers_of_other_maps_go() {
        let (dir, socket) = place("tidy");
        let records = Records::open(&socket).unwrap().unwrap();
        drop((records.ledger(1, true), records.ledger(2, true)));
        for map in [1, 2] {
            private(&records.flows(map), true).unwrap();
        }
        records.tidy(&[2]);
        assert!(!records.flows(1).exists() && records.flows(2).exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
