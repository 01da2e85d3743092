//! The V-NICs of this process, for the holder of the stack lock.

use std::sync::{MutexGuard, PoisonError};

use flyover_core::stack::locked::NicSet;
use flyover_vnic::Vnic;

use super::Attachment;

/// The V-NICs, made on first use.
#[derive(Default)]
pub(super) struct Nics(Option<Vec<Option<Box<dyn Vnic + Send>>>>);

/// Only the holder of the stack lock touches a V-NIC, so one set per process is enough. Its mutex is taken under the
/// stack lock and released just after it: there is nobody to wait for but a thread in between.
pub(super) struct HeldNics<'a> {
    att: &'a Attachment,
    guard: Option<MutexGuard<'a, Nics>>,
}

impl NicSet for HeldNics<'_> {
    fn count(&self) -> usize {
        self.att.nic_count
    }

    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic> {
        if self.guard.is_none() {
            self.begin();
        }
        let list = self.guard.as_mut()?.0.as_mut()?;
        match list.get_mut(i)? {
            Some(b) => Some(b.as_mut()),
            None => None,
        }
    }
}

impl<'a> HeldNics<'a> {
    pub(super) fn new(att: &'a Attachment) -> Self {
        Self { att, guard: None }
    }

    /// The first look at a V-NIC in this hold of the lock.
    fn begin(&mut self) {
        let att = self.att;
        let mut guard = att.nics.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.0.is_none() {
            guard.0 = Some((0..att.nic_count).map(|i| (att.make_nic)(i)).collect());
        }
        self.guard = Some(guard);
    }
}
