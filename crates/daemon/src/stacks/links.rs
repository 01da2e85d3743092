//! V-NICs follow the interfaces: new ones get V-NICs, those of gone ones are given up.

use flyover_proto::Control;

use super::stack::{Life, Stack};
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
}
