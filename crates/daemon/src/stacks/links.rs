//! V-NICs follow the interfaces: new ones get V-NICs, those of gone ones are given up.

use flyover_core::stack::layout::NICS;
use flyover_proto::{Control, MAX_NICS};

use super::stack::{Life, Live, Stack};
use crate::net::within;
use crate::nic;
use crate::power::NO_PRIVILEGE;
use crate::records::Records;
use crate::session::Progress;

impl Stack {
    /// Looks at the interfaces again. The keeper publishes the new generation in the stack's memory, and processes then
    /// ask for the list.
    pub fn follow_links(&self, records: Option<&Records>) {
        let mut life = self.life();
        let Life::Live(live) = &mut *life else { return };
        if !self.sync_nics(live, &mut Progress::none()) {
            return;
        }
        live.nic_gen = live.nic_gen.wrapping_add(1).max(1);
        tracing::info!(
            stack = self.id,
            vnics = live.nics.len(),
            generation = live.nic_gen,
            "V-NICs changed"
        );
        self.note_in(records, live);
        let (nics, fds) = Self::nic_list(live);
        if let Some(keeper) = &live.keeper {
            // When that fails the keeper is being replaced, and the new one gets the list.
            let _ = keeper.say(
                &Control::Nics {
                    nic_gen: live.nic_gen,
                    nics,
                },
                &fds,
            );
        }
    }

    /// Adds V-NICs for interfaces that have none, and removes those whose interface is gone. True when there was a
    /// change.
    pub fn sync_nics(&self, live: &mut Live, progress: &mut Progress<'_>) -> bool {
        let links = live.net.eligible(&self.wanted.interfaces);
        let has = |ifindex: u32| live.nics.iter().any(|nic| nic.desc.ifindex == ifindex);
        let new: Vec<u32> = links
            .iter()
            .map(|link| link.ifindex)
            .filter(|i| !has(*i))
            .collect();
        // In doubt (a change that takes long is under way) it exists: the end of the change brings us here again.
        let exists = |ifindex: u32| live.net.cplane().reader().has_link(ifindex) != Some(false);
        let before = live.nics.len();
        let gone: Vec<u32> = live
            .nics
            .iter()
            .map(|nic| nic.desc.ifindex)
            .filter(|i| !exists(*i))
            .collect();
        live.nics.retain(|nic| !gone.contains(&nic.desc.ifindex));
        live.problems.retain(|ifindex, _| exists(*ifindex));
        if live.net.is_local_only() {
            let no = |ifindex| (ifindex, NO_PRIVILEGE.to_owned());
            live.problems.extend(new.into_iter().map(no));
            return false;
        }
        gone.iter()
            .for_each(|ifindex| live.net.flows().map_mut().leave(*ifindex, self.id));
        let mut changed = live.nics.len() != before;
        for ifindex in new {
            // A refusal of an interface is not asked for again at every change.
            if live.problems.contains_key(&ifindex) {
                continue;
            }
            let slots = self.free_slots(live);
            let made = within(live.net.ns(), || {
                nic::make(
                    ifindex,
                    self.id,
                    self.wanted.policy,
                    &slots,
                    &mut live.net.flows(),
                )
            });
            match made {
                Ok(nics) => {
                    live.nics.extend(nics);
                    changed = true;
                }
                Err(e) => {
                    tracing::warn!(stack = self.id, ifindex, "no V-NIC: {e}");
                    live.problems.insert(ifindex, e.to_string());
                }
            }
            progress.tick();
        }
        changed
    }

    /// Slots without a V-NIC, those that never had one first: a process that has not heard of a change yet may still
    /// use what an old slot meant.
    fn free_slots(&self, live: &Live) -> Vec<u16> {
        let most = (NICS as usize)
            .min(MAX_NICS)
            .min(self.wanted.opts.max_nics as usize) as u16;
        let used = |slot: u16| live.nics.iter().any(|nic| nic.desc.slot == slot);
        (0..most).filter(|slot| !used(*slot)).collect()
    }
}
