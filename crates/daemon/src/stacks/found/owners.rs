//! The processes of a stack that an earlier daemon attached: known from its notes, watched until they connect.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flyover_proto::Control;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::daemon::Daemon;
use crate::peer::has_ended;
use crate::records::ProcessId;
use crate::stacks::attach::Owner;
use crate::stacks::stack::{Life, Live, Stack};

/// How often it is looked at whether they have connected.
const TICK: Duration = Duration::from_secs(5);

/// An owner slot, its process, and a descriptor of that; none when it has ended.
pub type Watched = (u16, ProcessId, Option<OwnedFd>);

/// The keeper's end of a process's channel, and the other one if the process has not come for it.
pub type Ends = (OwnedFd, Option<OwnedFd>);

/// Enters the processes that both the notes and the keeper know. Returns those that are to be watched.
pub fn owners(
    live: &mut Live,
    noted: Vec<(u16, ProcessId)>,
    mut channels: BTreeMap<u16, Ends>,
) -> Vec<Watched> {
    let mut watched = Vec::new();
    for (owner, id) in noted {
        let Some((keeper_end, theirs)) = channels.remove(&owner) else {
            // The keeper knows that it is gone.
            live.forget_owner(owner);
            continue;
        };
        watched.push((owner, id, id.open()));
        live.last_owner = live.last_owner.max(owner);
        live.owners
            .insert(owner, Owner::awaited(id, keeper_end, theirs));
    }
    // Attached, and not noted: nobody can prove to be these. Their channels end here.
    for owner in channels.into_keys() {
        live.epoch += 1;
        let epoch = live.epoch;
        if let Some(keeper) = &live.keeper {
            let _ = keeper.say(&Control::OwnerLost { owner, epoch }, &[]);
        }
    }
    watched
}

impl Live {
    pub(super) fn forget_owner(&self, owner: u16) {
        if let Some(notes) = &self.owner_notes {
            notes.set(owner, None);
        }
    }
}

/// Watches the processes until they are gone or have connected, in a thread of its own.
pub fn watch_owners(daemon: Arc<Daemon>, stack: Arc<Stack>, mut watched: Vec<Watched>) {
    let tick = Timespec {
        tv_sec: TICK.as_secs() as i64,
        tv_nsec: 0,
    };
    let watch = move || {
        while !watched.is_empty() {
            let stop = daemon.stop_fd();
            let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
            let living = watched.iter().filter_map(|(_, _, pidfd)| pidfd.as_ref());
            fds.extend(living.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
            // One that is gone already is not waited for.
            let none_gone = watched.iter().all(|(_, _, pidfd)| pidfd.is_some());
            let ready = if none_gone {
                poll(&mut fds, Some(&tick))
            } else {
                Ok(0)
            };
            if ready.is_ok() && !fds[0].revents().is_empty() {
                return;
            }
            watched.retain(|(owner, id, pidfd)| {
                let gone = pidfd.as_ref().is_none_or(|fd| has_ended(fd.as_fd()));
                if gone {
                    stack.lost(&daemon, *owner, Some(*id));
                }
                !gone && stack.awaits(*owner, *id)
            });
        }
    };
    if let Err(e) = thread::Builder::new()
        .name("owners".into())
        .stack_size(256 << 10)
        .spawn(watch)
    {
        tracing::error!("no thread to watch processes: {e}");
    }
}

impl Stack {
    /// True while the process has not connected to this daemon.
    fn awaits(&self, owner: u16, id: ProcessId) -> bool {
        let life = self.life();
        let Life::Live(live) = &*life else {
            return false;
        };
        let known = live.owners.get(&owner);
        known.is_some_and(|o| !o.in_session && o.id == Some(id))
    }
}
