//! Processes come to a stack and go.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use flyover_proto::{Attach, Attached, Control, List, MAX_OWNERS, Moved, RefusedCode, StackName};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::rand::{GetRandomFlags, getrandom};

use super::registry::UserQuota;
use super::stack::{Life, Live, Stack, StackKey, Wanted, Whose};
use crate::container::Site;
use crate::daemon::Daemon;
use crate::net::Net;
use crate::netns::NetNs;
use crate::nic::NicPolicy;
use crate::peer::{Peer, command_of};
use crate::records::{Ident, ProcessId};
use crate::refusal::Refusal;
use crate::session::Progress;

/// An attached process.
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// What tells it from others with that number; `None` when it ended at once.
    pub id: Option<ProcessId>,
    /// Its command line when it attached, for people.
    pub command: String,
    /// The keeper's end of its channel: for a new keeper.
    pub keeper_end: OwnedFd,
    /// Its own end, of one whose channel ended with its keeper and that has not connected since.
    pub channel: Option<OwnedFd>,
    /// A session of this daemon watches it. False of those that a daemon before this one attached, until they connect.
    pub in_session: bool,
}

impl Owner {
    /// One that a daemon before this one attached, and that has not connected yet.
    pub fn awaited(id: ProcessId, keeper_end: OwnedFd, channel: Option<OwnedFd>) -> Self {
        Self {
            pid: id.pid,
            id: Some(id),
            command: command_of(id.pid),
            keeper_end,
            channel,
            in_session: false,
        }
    }
}

/// A process's membership of a stack.
pub struct Member {
    /// The stack.
    pub stack: Arc<Stack>,
    /// Its namespace.
    pub net: Arc<Net>,
    /// The process's owner slot.
    pub owner: u16,
}

/// The answer to a process that attached: the message, and the descriptors that go with it.
pub struct Grant {
    /// The message.
    pub attached: Attached,
    fds: Vec<OwnedFd>,
}

impl Grant {
    /// The descriptors.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(|fd| fd.as_fd()).collect()
    }
}

/// A stack can end between being found and being attached to, and its number can be taken; then another one is made.
/// This often.
const TRIES: u32 = 20;

/// All processes of a stack, and its keeper, have to have the same clock.
fn one_clock(peer: &Peer) -> Result<(), Refusal> {
    let text = "the process is in another time namespace than flyoverd, with another clock: start a flyoverd there, or the program here";
    peer.shares_clock()
        .then_some(())
        .ok_or_else(|| Refusal::new(RefusedCode::Denied, text))
}

impl Member {
    /// Attaches a process to the stack that it asks for, which is made when there is none.
    ///
    /// # Errors
    /// A quota, or what did not work.
    pub fn attach(
        daemon: &Arc<Daemon>,
        peer: &Peer,
        attach: &Attach,
        progress: &mut Progress<'_>,
    ) -> Result<(Self, Grant), Refusal> {
        one_clock(peer)?;
        let (site, ns) = Site::of(peer, &daemon.power)?;
        let policy = NicPolicy {
            pref: attach.vnic,
            mode: daemon.opts.xdp_mode,
            zero_copy: daemon.opts.zero_copy,
        };
        let wanted = Wanted::read(attach, peer, site.clone(), policy)?;
        let quota = UserQuota {
            stacks: daemon.opts.user_stacks,
            memory: u64::from(daemon.opts.user_memory_mib) << 20,
        };
        let key = key(daemon, peer, site, &attach.stack);
        for attempt in 0..TRIES {
            let stack = daemon
                .stacks
                .find_or_add(key.clone(), wanted.clone(), quota)?;
            let mut life = stack.life_for(progress);
            if matches!(*life, Life::New) {
                match stack.make_in(daemon, &ns, progress) {
                    Ok(Some(live)) => *life = Life::Live(live),
                    Ok(None) => {
                        stack.end(daemon, &mut life);
                        // The next number first; then one that nobody can guess.
                        daemon.stacks.skip(if attempt < 3 { 0 } else { random() });
                        continue;
                    }
                    Err(refusal) => {
                        stack.end(daemon, &mut life);
                        return Err(refusal);
                    }
                }
            }
            let Life::Live(live) = &mut *life else {
                continue;
            };
            let (owner, grant) = stack.admit(live, peer)?;
            let net = live.net.clone();
            drop(life);
            return Ok((Self { stack, net, owner }, grant));
        }
        Err(Refusal::failed(
            "attaching",
            "no stack could be made or found",
        ))
    }

    /// Attaches a process to the stack whose memory it holds: a child that `fork` made, perhaps of another user by now.
    ///
    /// # Errors
    /// No stack has that memory, it was opened for reading only, or the process is in another network namespace.
    pub fn attach_inherited(
        daemon: &Daemon,
        peer: &Peer,
        memory: BorrowedFd<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<(Self, Grant), Refusal> {
        one_clock(peer)?;
        let unknown = || Refusal::new(RefusedCode::NotFound, "no stack has that memory");
        let writable = rustix::fs::fcntl_getfl(memory)
            .is_ok_and(|f| f & rustix::fs::OFlags::RWMODE == rustix::fs::OFlags::RDWR);
        let wanted = rustix::fs::fstat(memory).map_err(|_| unknown())?;
        if !writable {
            return Err(Refusal::new(
                RefusedCode::Denied,
                "the memory was opened for reading only",
            ));
        }
        let ns = daemon.power.netns_of(peer)?;
        for stack in daemon.stacks.list() {
            let mut life = stack.life_for(progress);
            let Life::Live(live) = &mut *life else {
                continue;
            };
            let same = rustix::fs::fstat(&live.memory)
                .is_ok_and(|s| (s.st_dev, s.st_ino) == (wanted.st_dev, wanted.st_ino));
            if !same {
                continue;
            }
            if live.net.ns().id() != ns.id() {
                return Err(Refusal::new(
                    RefusedCode::Denied,
                    "the stack is of another network namespace",
                ));
            }
            let (owner, grant) = stack.admit(live, peer)?;
            let net = live.net.clone();
            drop(life);
            return Ok((Self { stack, net, owner }, grant));
        }
        Err(unknown())
    }

    /// A process that a daemon before this one attached connects to this one; it shows the stack's memory. Returns its end
    /// of a new channel to the keeper, if the old one has ended.
    ///
    /// # Errors
    /// It has not that slot of the stack.
    pub fn rejoin(
        daemon: &Daemon,
        peer: &Peer,
        owner: u16,
        memory: BorrowedFd<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<(Self, Option<OwnedFd>), Refusal> {
        let unknown = || Refusal::new(RefusedCode::NotFound, "no stack has that memory");
        let wanted = Ident::of(memory).map_err(|_| unknown())?;
        for stack in daemon.stacks.list() {
            let mut life = stack.life_for(progress);
            let Life::Live(live) = &mut *life else {
                continue;
            };
            if Ident::of(&live.memory).ok() != Some(wanted) {
                continue;
            }
            let of = live.owners.get_mut(&owner);
            let own = of.filter(|o| !o.in_session && o.id.is_some() && o.id == peer.id());
            let own = own.ok_or_else(|| {
                Refusal::new(RefusedCode::Denied, "another process has that owner slot")
            })?;
            own.in_session = true;
            let channel = own.channel.take();
            tracing::debug!(stack = stack.id, owner, pid = peer.pid, "process is back");
            let net = live.net.clone();
            drop(life);
            return Ok((Self { stack, net, owner }, channel));
        }
        Err(unknown())
    }

    /// The process has ended its connection, and will come back ([`Self::rejoin`]).
    pub fn part(&self) {
        if let Life::Live(live) = &mut *self.stack.life()
            && let Some(own) = live.owners.get_mut(&self.owner)
        {
            own.in_session = false;
        }
    }

    /// The process is gone. `moved`: what its last request gave to the kernel.
    pub fn leave(&self, daemon: &Daemon, moved: Option<Moved>) {
        let owner = self.owner;
        self.stack.gone(
            daemon,
            owner,
            |o| o.in_session,
            |epoch| Control::OwnerGone {
                owner,
                epoch,
                moved,
            },
        );
    }
}

/// What finds the stack that a process asks for.
fn key(daemon: &Daemon, peer: &Peer, site: Site, asked: &StackName) -> Option<StackKey> {
    let name = match asked {
        StackName::Private | StackName::Inherited => return None,
        StackName::Default => None,
        StackName::Named(name) => Some(name.as_str().to_owned()),
    };
    let shared = |name: &String| daemon.shares.allow(name, peer.uid);
    let whose = if name.as_ref().is_some_and(shared) {
        Whose::Policy
    } else {
        Whose::User(peer.uid, site.container)
    };
    let ns = site.ns;
    Some(StackKey { ns, whose, name })
}

fn random() -> u16 {
    let mut bytes = [0; 2];
    // Without entropy the next number has to do.
    let _: rustix::io::Result<usize> = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
    u16::from_ne_bytes(bytes)
}

impl Stack {
    /// Makes the stack in a namespace; `None` when its number is taken there.
    fn make_in(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        ns: &Arc<NetNs>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Box<Live>>, Refusal> {
        let net = daemon.nets.open(ns, progress)?;
        let claim = self
            .claim(&net)
            .map_err(|e| Refusal::failed("claiming the stack's number", e))?;
        let Some(claim) = claim else {
            return Ok(None);
        };
        self.make(daemon, net, claim, progress).map(Some)
    }

    /// A process is gone that a daemon before this one attached, and that never came back; if `id` is given, only that
    /// one.
    pub fn lost(&self, daemon: &Daemon, owner: u16, id: Option<ProcessId>) {
        let is_meant = |o: &Owner| !o.in_session && (id.is_none() || o.id == id);
        self.gone(daemon, owner, is_meant, |epoch| Control::OwnerLost {
            owner,
            epoch,
        });
    }

    fn gone(
        &self,
        daemon: &Daemon,
        owner: u16,
        is_meant: impl Fn(&Owner) -> bool,
        message: impl FnOnce(u64) -> Control,
    ) {
        let mut life = self.life();
        let Life::Live(live) = &mut *life else { return };
        if !live.owners.get(&owner).is_some_and(is_meant) {
            return;
        }
        live.owners.remove(&owner);
        if let Some(notes) = &live.owner_notes {
            notes.set(owner, None);
        }
        live.epoch += 1;
        tracing::debug!(stack = self.id, owner, "process gone");
        match &live.keeper {
            // When that fails the keeper is being replaced, and the new one is told who is left.
            Some(keeper) => drop(keeper.say(&message(live.epoch), &[])),
            None if live.owners.is_empty() => self.end(daemon, &mut life),
            None => {}
        }
    }

    /// Gives a process an owner slot and everything that it needs.
    fn admit(&self, live: &mut Live, peer: &Peer) -> Result<(u16, Grant), Refusal> {
        let most = (self.wanted.opts.max_owners as usize).min(MAX_OWNERS) as u16;
        // Round and round: a slot is not used again at once.
        let free = |slot: &u16| !live.owners.contains_key(slot);
        let after =
            (live.last_owner + 1..most).chain(1..=live.last_owner.min(most.saturating_sub(1)));
        let owner = after.into_iter().find(free).ok_or_else(|| {
            Refusal::new(
                RefusedCode::Quota,
                format!("the stack has {} processes already", live.owners.len()),
            )
        })?;
        let failed = |e: rustix::io::Errno| Refusal::failed("making a channel to the keeper", e);
        let (theirs, keepers) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let id = peer.id();
        if let Some(notes) = &live.owner_notes {
            notes.set(owner, id);
        }
        if let Some(keeper) = &live.keeper {
            // Before the process can take the lock: the keeper must not mistake it for the slot's last owner.
            // When that fails the keeper is being replaced, and the new one is told.
            let _ = keeper.say(&Control::Owner { owner }, &[keepers.as_fd()]);
        }
        let grant = self
            .grant(live, owner, theirs)
            .map_err(|e| Refusal::failed("duplicating descriptors", e))?;
        live.last_owner = owner;
        live.owners.insert(
            owner,
            Owner {
                pid: peer.pid,
                id,
                command: peer.command(),
                keeper_end: keepers,
                channel: None,
                in_session: true,
            },
        );
        tracing::debug!(stack = self.id, owner, pid = peer.pid, "process attached");
        Ok((owner, grant))
    }

    fn grant(&self, live: &Live, owner: u16, channel: OwnedFd) -> std::io::Result<Grant> {
        let (nics, nic_fds) = Self::nic_list(live);
        let cplane = live.net.cplane();
        let mut fds = vec![
            live.memory.try_clone()?,
            cplane.memfd().try_clone_to_owned()?,
            channel,
        ];
        // With a process that lives, its connections do, whoever else has died.
        if let Some(keepalive) = &live.keepalive {
            fds.push(keepalive.try_clone()?);
        }
        for fd in nic_fds {
            fds.push(fd.try_clone_to_owned()?);
        }
        let attached = Attached {
            stack_id: self.id,
            owner,
            stack_len: self.wanted.len,
            opts: List::new(self.wanted.opts.to_words()),
            cplane_len: cplane.len(),
            dims: List::new(cplane.dims().to_words()),
            nic_gen: live.nic_gen,
            nics,
            local_only: live.net.is_local_only(),
            shared: self.is_shared(),
        };
        Ok(Grant { attached, fds })
    }

    /// The keeper finds nothing left: the stack ends, unless somebody came meanwhile.
    pub fn end_if_idle(&self, daemon: &Daemon, epoch: u64) {
        let mut life = self.life();
        let idle =
            matches!(&*life, Life::Live(live) if live.owners.is_empty() && live.epoch == epoch);
        if idle {
            self.end(daemon, &mut life);
        }
    }
}
