//! Which processes have which owner slots of a stack: one fixed place in a file for each slot, so that an attaching
//! process costs one short write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::ident::ProcessId;

/// Bytes of a place: number, time of start.
const PLACE: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct OwnerNotes(File);

impl OwnerNotes {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// Notes who has the slot; `None` is nobody.
    pub fn set(&self, slot: u16, process: Option<ProcessId>) {
        let mut place = [0; PLACE];
        if let Some(ProcessId { pid, start }) = process {
            place[..4].copy_from_slice(&pid.to_ne_bytes());
            place[8..].copy_from_slice(&start.to_ne_bytes());
        }
        let at = u64::from(slot) * PLACE as u64;
        if let Err(e) = self.0.write_all_at(&place, at) {
            tracing::error!("noting a process: {e}");
        }
    }

    /// All that are noted.
    ///
    /// # Errors
    /// As read(2).
    pub fn list(&self) -> io::Result<Vec<(u16, ProcessId)>> {
        let mut bytes = vec![0; usize::from(u16::MAX) * PLACE];
        let mut have = 0;
        while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        let places = bytes.get(..have).unwrap_or_default().chunks_exact(PLACE);
        Ok((0..)
            .zip(places)
            .filter_map(|(slot, place)| {
                let pid = u32::from_ne_bytes(*place.first_chunk()?);
                let start = u64::from_ne_bytes(*place.last_chunk()?);
                (pid != 0).then_some((slot, ProcessId { pid, start }))
            })
            .collect())
    }
}
