//! What a stack leaves to the next daemon.

use std::io;

use super::stack::{Live, Stack, Whose};
use crate::daemon::Daemon;
use crate::nic::Nic;
use crate::records::{Build, Ident, Known, NicNote, NsNote, OwnerNotes, Record, Records};

impl Stack {
    /// Notes the stack as it is now. Called with its life held, before anybody is told of what changed.
    pub(super) fn note(&self, daemon: &Daemon, live: &Live) {
        self.note_in(daemon.records.as_deref(), live);
    }

    pub(super) fn note_in(&self, records: Option<&Records>, live: &Live) {
        let Some(records) = records else { return };
        let noted = self.record(live).and_then(|record| records.write(&record));
        if let Err(e) = noted {
            tracing::error!(
                stack = self.id,
                "the stack will not outlive this daemon: {e}"
            );
        }
    }

    /// The notes of the stack's processes.
    pub(super) fn owner_notes(&self, daemon: &Daemon, fresh: bool) -> Option<OwnerNotes> {
        let notes = daemon.records.as_ref()?.owner_notes(self.id, fresh);
        notes
            .inspect_err(|e| tracing::error!(stack = self.id, "no notes of processes: {e}"))
            .ok()
    }

    fn record(&self, live: &Live) -> io::Result<Record> {
        let wanted = &self.wanted;
        let keeper = live.keeper.as_ref().and_then(|keeper| keeper.id());
        let known = match &self.key {
            None => Known::Private,
            Some(key) => match (&key.whose, key.name.clone()) {
                (Whose::Policy, Some(name)) => Known::Shared(name),
                (_, Some(name)) => Known::Named(name),
                (_, None) => Known::Default,
            },
        };
        let nics: io::Result<Vec<NicNote>> = live.nics.iter().map(nic).collect();
        Ok(Record {
            build: Build::OURS,
            id: self.id,
            token: (self.token.a, self.token.b),
            uid: wanted.uid,
            gid: wanted.gid,
            container: wanted.site.container.id(),
            name: wanted.name.clone(),
            known,
            opts: wanted.opts.to_words().to_vec(),
            len: wanted.len,
            interfaces: wanted.interfaces.clone(),
            pref: wanted.policy.pref as u8,
            ns: NsNote {
                cookie: live.net.cookie(),
                file: Ident::of(live.net.ns())?,
            },
            maps: live.net.flows().map().id(),
            dims: live.net.cplane().dims().to_words().to_vec(),
            memory: Ident::of(&live.memory)?,
            deaths: Ident::of(&live.deaths)?,
            claim: Ident::of(&live.claim)?,
            keeper: keeper.ok_or_else(|| io::Error::other("no keeper"))?,
            nic_gen: live.nic_gen,
            nics: nics?,
        })
    }
}

fn nic(nic: &Nic) -> io::Result<NicNote> {
    let fds: io::Result<Vec<Ident>> = nic.fds().map(Ident::of).collect();
    Ok(NicNote::new(&nic.desc, &nic.name, &nic.why, fds?))
}
