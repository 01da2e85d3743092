//! The filters of one flow map: numbers, and what they mean. (The map itself, which the kernel keeps, has neither.) A
//! filter has a place of fixed length in a file: adding or removing one costs one short write.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use flyover_proto::{Field as _, FilterSpec, Reader, Writer};

use crate::filters::Noted;

/// Bytes of a place.
const PLACE: usize = 64;
/// Bits of a place's flags.
const PASS: u8 = 1;
const NARROWED: u8 = 2;

/// See the module. Once the map is ours, its file goes with it: the map is then no longer of use to anybody.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
    places: HashMap<u32, u64>,
    free: Vec<u64>,
    /// Places that were ever used.
    used: u64,
    /// What the file held.
    found: Vec<Noted>,
    /// Its file goes with it.
    owned: bool,
}

impl Ledger {
    pub(super) fn new(mut file: File, path: PathBuf) -> io::Result<Self> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut ledger = Self {
            file,
            path,
            places: HashMap::new(),
            free: Vec::new(),
            used: 0,
            found: Vec::new(),
            owned: false,
        };
        for (at, place) in (0..).zip(bytes.chunks_exact(PLACE)) {
            ledger.used = at + 1;
            match decode(place) {
                Some(noted) if !ledger.places.contains_key(&noted.id) => {
                    ledger.places.insert(noted.id, at);
                    ledger.found.push(noted);
                }
                _ => ledger.free.push(at),
            }
        }
        Ok(ledger)
    }

    /// What an earlier daemon noted; once.
    pub fn found(&mut self) -> Vec<Noted> {
        std::mem::take(&mut self.found)
    }

    /// The map is ours: from now on its file goes with it.
    pub fn own(&mut self) {
        self.owned = true;
    }

    /// Notes a filter, or what it has become.
    pub fn set(&mut self, noted: &Noted) {
        let at = match self.places.get(&noted.id) {
            Some(at) => *at,
            None => self.free.pop().unwrap_or_else(|| {
                self.used += 1;
                self.used - 1
            }),
        };
        self.places.insert(noted.id, at);
        match encode(noted) {
            Some(place) => self.write(at, &place),
            None => tracing::error!("a filter does not fit its note"),
        }
    }

    /// A filter is removed.
    pub fn remove(&mut self, id: u32) {
        if let Some(at) = self.places.remove(&id) {
            self.write(at, &[0; PLACE]);
            self.free.push(at);
        }
    }

    fn write(&self, at: u64, place: &[u8; PLACE]) {
        if let Err(e) = self.file.write_all_at(place, at * PLACE as u64) {
            tracing::error!("noting a filter: {e}");
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.owned {
            super::remove(&self.path);
        }
    }
}

fn encode(noted: &Noted) -> Option<[u8; PLACE]> {
    let mut place = [0; PLACE];
    let mut w = Writer::new(&mut place);
    noted.id.put(&mut w).ok()?;
    noted.stack.put(&mut w).ok()?;
    let flags = (u8::from(noted.pass) * PASS) | (u8::from(noted.narrowed) * NARROWED);
    flags.put(&mut w).ok()?;
    noted.spec.put(&mut w).ok()?;
    noted.leased.put(&mut w).ok()?;
    Some(place)
}

fn decode(place: &[u8]) -> Option<Noted> {
    let mut r = Reader::new(place);
    let id = u32::take(&mut r).ok().filter(|id| *id != 0)?;
    let stack = u32::take(&mut r).ok()?;
    let flags = u8::take(&mut r).ok()?;
    Some(Noted {
        id,
        stack,
        spec: FilterSpec::take(&mut r).ok()?,
        pass: flags & PASS != 0,
        narrowed: flags & NARROWED != 0,
        leased: flyover_proto::Field::take(&mut r).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyover_wire::{Endpoint, Ip};

    fn noted(id: u32, port: u16) -> Noted {
        let end = |byte| Endpoint {
            ip: Ip::v6([byte; 16]),
            port,
        };
        Noted {
            id,
            stack: 3,
            spec: FilterSpec {
                proto: 6,
                local: end(1),
                remote: Some(end(2)),
                dual: false,
            },
            pass: id.is_multiple_of(2),
            narrowed: id.is_multiple_of(3),
            leased: id.is_multiple_of(5).then_some(u64::MAX - u64::from(id)),
        }
    }

    #[test]
    fn what_is_noted_is_found() {
        let path = std::env::temp_dir().join(format!("flyd-ledger-{}", std::process::id()));
        let open = || Ledger::new(super::super::private(&path, false).unwrap(), path.clone());
        let mut ledger = open().unwrap();
        (1..=9).for_each(|id| ledger.set(&noted(id, 80)));
        ledger.remove(4);
        ledger.remove(5);
        // In one of the places that are free now.
        ledger.set(&noted(10, 81));
        ledger.set(&noted(1, 82));
        // The daemon dies.
        std::mem::forget(ledger);
        let mut next = open().unwrap();
        next.own();
        let mut found = next.found();
        found.sort_unstable_by_key(|noted| noted.id);
        let mut wanted = vec![noted(1, 82)];
        wanted.extend([2, 3, 6, 7, 8, 9].map(|id| noted(id, 80)));
        wanted.push(noted(10, 81));
        assert_eq!(found, wanted);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 9 * PLACE as u64);
        next.set(&noted(11, 80));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 9 * PLACE as u64);
        drop(next);
        assert!(!path.exists());
    }
}
