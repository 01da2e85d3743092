//! One stack: what it was made as, and what it has while it lives.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use flyover_config::StackOpts;
use flyover_cplane::Dims;
use flyover_proto::{Attach, Control, List, MAX_NICS, NicDesc, Token};
use flyover_shm::host::sealed_memfd;
use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with, sockopt,
};
use rustix::rand::{GetRandomFlags, getrandom};

use super::attach::Owner;
use super::keeper::{KeeperProcess, Start, watch_keeper};
use super::lease::Lent;
use crate::container::{Container, Site};
use crate::daemon::Daemon;
use crate::filters::FlowTable;
use crate::keeper::listen_for_deaths;
use crate::net::{Net, Steer, within};
use crate::netns::NetNsId;
use crate::nic::{Nic, NicPolicy};
use crate::peer::Peer;
use crate::records::OwnerNotes;
use crate::refusal::Refusal;
use crate::session::Progress;

/// How often, every 2 ms, a report looks at a stack that somebody is changing.
const SOON_LOOKS: u32 = 100;

/// What finds a default or named stack.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StackKey {
    /// Network namespace.
    pub ns: NetNsId,
    /// Whose it is.
    pub whose: Whose,
    /// Name; `None` is the default stack.
    pub name: Option<String>,
}

/// Who finds a stack.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Whose {
    /// A user's processes in one container.
    User(u32, Container),
    /// Those of the users whom the policy lets share the stack of this name, in any container.
    Policy,
}

/// What a stack is made as.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// User of the first process; the keeper runs as this user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Where that process was.
    pub site: Site,
    /// What people call it.
    pub name: String,
    /// Its sizes and behaviour.
    pub opts: StackOpts,
    /// Bytes of its memory.
    pub len: u64,
    /// Interfaces to accelerate; empty: all that can be.
    pub interfaces: Vec<String>,
    /// How V-NICs are made.
    pub policy: NicPolicy,
}

impl Wanted {
    /// Reads what a client wants of a new stack.
    ///
    /// # Errors
    /// Options out of range or contradicting each other.
    pub fn read(
        attach: &Attach,
        peer: &Peer,
        site: Site,
        policy: NicPolicy,
    ) -> Result<Self, Refusal> {
        let opts = match &attach.opts[..] {
            [] => StackOpts::default(),
            words => StackOpts::from_words(words)
                .map_err(|e| Refusal::bad(format!("stack options: {e}")))?,
        };
        if let Some(conflict) = opts.conflict() {
            return Err(Refusal::bad(format!("stack options: {conflict}")));
        }
        let name = match &attach.stack {
            flyover_proto::StackName::Default => "default".to_owned(),
            flyover_proto::StackName::Named(name) => name.as_str().to_owned(),
            flyover_proto::StackName::Private => "private".to_owned(),
            flyover_proto::StackName::Inherited => "inherited".to_owned(),
        };
        let interfaces = attach
            .interfaces
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect();
        let len = flyover_core::layout_len(&opts);
        Ok(Self {
            uid: peer.uid,
            gid: peer.gid,
            site,
            name,
            opts,
            len,
            interfaces,
            policy,
        })
    }
}

/// See the module.
pub struct Stack {
    /// Its number.
    pub id: u32,
    /// What finds it; `None` for a private one.
    pub key: Option<StackKey>,
    /// What it was made as.
    pub wanted: Wanted,
    /// Known to its keepers and its daemons only.
    pub(super) token: Token,
    life: Mutex<Life>,
}

/// The ages of a stack. It is made under its own lock, so that only those who want this stack wait.
pub enum Life {
    /// Somebody is about to make it.
    New,
    /// It works.
    Live(Box<Live>),
    /// Given up; whoever still has it looks for another one.
    Gone,
}

/// What a living stack has.
pub struct Live {
    /// Its network namespace.
    pub net: Arc<Net>,
    /// Its memory, sealed.
    pub memory: OwnedFd,
    /// Hears of the end of kernel sockets, for keepers.
    pub deaths: OwnedFd,
    /// Holds the stack's number in its namespace, for keepers.
    pub claim: OwnedFd,
    /// Keeps maps and programs in place when the daemon dies, for keepers; `None` when there are none.
    pub keepalive: Option<OwnedFd>,
    /// Its keeper; `None` after too many deaths.
    pub keeper: Option<KeeperProcess>,
    /// Sockets may have ended unheard: the keeper waits for a census.
    pub deaf: bool,
    /// Its V-NICs.
    pub nics: Vec<Nic>,
    /// Generation of that list.
    pub nic_gen: u32,
    /// Interfaces that could not get a V-NIC, and why.
    pub problems: BTreeMap<u32, String>,
    /// Processes, by owner slot.
    pub owners: BTreeMap<u16, Owner>,
    /// The same for the next daemon.
    pub owner_notes: Option<OwnerNotes>,
    /// Local ports that it is lent.
    pub lent: Vec<Lent>,
    /// Owner slot given out last.
    pub last_owner: u16,
    /// Processes that are gone, counted.
    pub epoch: u64,
}

impl Stack {
    /// A stack that is not made yet.
    pub fn new(id: u32, key: Option<StackKey>, wanted: Wanted) -> Self {
        let token = Token {
            a: random(),
            b: random(),
        };
        Self::known(id, key, wanted, token)
    }

    /// One that a daemon before this one made.
    pub(super) fn known(id: u32, key: Option<StackKey>, wanted: Wanted, token: Token) -> Self {
        Self {
            id,
            key,
            wanted,
            token,
            life: Mutex::new(Life::New),
        }
    }

    /// The users of the stack are those of the policy.
    pub fn is_shared(&self) -> bool {
        let whose = self.key.as_ref().map(|key| &key.whose);
        whose == Some(&Whose::Policy)
    }

    /// True for processes that may look at all that is in it: its users', and root's. From within a container only what is
    /// there can be seen.
    pub fn is_open_to(&self, daemon: &Daemon, peer: &Peer) -> bool {
        let Ok((from, _)) = Site::of(peer, &daemon.power) else {
            return false;
        };
        let site = &self.wanted.site;
        let shares = self.is_shared() && daemon.shares.allow(&self.wanted.name, peer.uid);
        let owns = peer.uid == 0 || peer.uid == self.wanted.uid;
        shares && from.ns == site.ns || owns && (from.container.is_home() || from == *site)
    }

    /// Its life, when nobody else is at it.
    pub fn try_life(&self) -> Option<MutexGuard<'_, Life>> {
        match self.life.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Its life, waiting a moment for whoever is at it.
    pub fn life_soon(&self) -> Option<MutexGuard<'_, Life>> {
        (0..SOON_LOOKS).find_map(|_| {
            let life = self.try_life();
            if life.is_none() {
                thread::sleep(Duration::from_millis(2));
            }
            life
        })
    }

    /// Its life, waiting for whoever is at it.
    pub fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, for a client that must be told that it takes a while.
    pub fn life_for(&self, progress: &mut Progress<'_>) -> MutexGuard<'_, Life> {
        loop {
            if let Some(guard) = self.try_life() {
                return guard;
            }
            thread::sleep(Duration::from_millis(2));
            progress.tick();
        }
    }

    /// Tells the keeper something short that may be lost, without waiting for anybody.
    pub fn mention(&self, message: &Control) {
        if let Some(life) = self.try_life()
            && let Life::Live(live) = &*life
            && let Some(keeper) = &live.keeper
        {
            keeper.mention(message);
        }
    }

    /// Takes possession of the stack's number in its namespace, where the names of waiters' wake sockets contain it:
    /// a stack of another daemon, or one that outlived its daemon, may have it. `None` when it is taken.
    ///
    /// # Errors
    /// As socket(2).
    pub fn claim(&self, net: &Net) -> io::Result<Option<OwnedFd>> {
        let name = claim_name(self.id);
        within(net.ns(), || {
            let sock = socket_with(
                AddressFamily::UNIX,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            match bind(&sock, &SocketAddrUnix::new_abstract_name(name.as_bytes())?) {
                // The next daemon calls the keeper by this name, which asks the kernel who calls.
                Ok(()) => {
                    sockopt::set_socket_passcred(&sock, true)?;
                    Ok(Some(sock))
                }
                Err(Errno::ADDRINUSE) => Ok(None),
                Err(e) => Err(e.into()),
            }
        })
    }

    /// Makes the stack: memory, V-NICs, keeper. Called with its life held in [`Life::New`].
    ///
    /// # Errors
    /// What did not work. Nothing is left behind.
    pub fn make(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        net: Arc<Net>,
        claim: OwnedFd,
        progress: &mut Progress<'_>,
    ) -> Result<Box<Live>, Refusal> {
        let memory = sealed_memfd(&format!("flyover-stack-{}", self.id), self.wanted.len)
            .and_then(|fd| {
                fcntl_add_seals(&fd, SealFlags::SEAL)?;
                Ok(fd)
            })
            .map_err(|e| Refusal::failed("making the stack's memory", e))?;
        let deaths = within(net.ns(), listen_for_deaths)
            .map_err(|e| Refusal::failed("listening for socket ends", e))?;
        let keep =
            |flows: &FlowTable<Steer>| flows.map().keepalive().map(|fd| fd.try_clone_to_owned());
        let keepalive = keep(&net.flows()).transpose();
        let keepalive = keepalive.map_err(|e| Refusal::failed("duplicating descriptors", e))?;
        let mut live = Box::new(Live {
            net: net.clone(),
            memory,
            deaths,
            claim,
            keepalive,
            keeper: None,
            deaf: false,
            nics: Vec::new(),
            nic_gen: 1,
            problems: BTreeMap::new(),
            owners: BTreeMap::new(),
            owner_notes: self.owner_notes(daemon, true),
            lent: Vec::new(),
            last_owner: 0,
            epoch: 0,
        });
        progress.tick();
        self.sync_nics(&mut live, progress);
        let started = KeeperProcess::start(self, &live, Start::Fresh, progress);
        let keeper = match started {
            Ok(keeper) => keeper,
            Err(refusal) => {
                self.withdraw(&live);
                return Err(refusal);
            }
        };
        watch_keeper(daemon.clone(), self.clone(), net.clone(), keeper.control());
        live.keeper = Some(keeper);
        self.note(daemon, &live);
        net.add_stack(Arc::downgrade(self));
        tracing::info!(
            stack = self.id,
            name = self.wanted.name,
            uid = self.wanted.uid,
            ns = %net.ns().id(),
            vnics = live.nics.len(),
            mib = self.wanted.len >> 20,
            "stack made"
        );
        Ok(live)
    }

    /// Takes the stack out of the kernel's maps.
    fn withdraw(&self, live: &Live) {
        let mut flows = live.net.flows();
        flows.remove_stack(self.id);
        for nic in &live.nics {
            flows.map_mut().leave(nic.desc.ifindex, self.id);
        }
        flows.map_mut().forget(self.id);
    }

    /// Gives the stack up, whatever is left in it. Called with its life held.
    pub fn end(&self, daemon: &Daemon, life: &mut Life) {
        if let Life::Live(mut live) = std::mem::replace(life, Life::Gone) {
            if let Some(keeper) = live.keeper.take() {
                keeper.dismiss();
            }
            self.withdraw(&live);
            if let Some(records) = &daemon.records {
                records.forget(self.id);
            }
            tracing::info!(stack = self.id, name = self.wanted.name, "stack ended");
        }
        daemon.stacks.forget(self);
    }

    /// The V-NICs for a message, and their descriptors.
    pub fn nic_list(live: &Live) -> (List<NicDesc, MAX_NICS>, Vec<BorrowedFd<'_>>) {
        let list = List::new(live.nics.iter().map(|nic| nic.desc.clone()));
        (list, live.nics.iter().flat_map(Nic::fds).collect())
    }

    /// The setup message for a keeper, and its descriptors.
    pub fn setup<'l>(&self, live: &'l Live, how: Start) -> (Control, Vec<BorrowedFd<'l>>) {
        let (nics, nic_fds) = Self::nic_list(live);
        let dims: Dims = live.net.cplane().dims();
        let mut fds = vec![
            live.memory.as_fd(),
            live.net.cplane().memfd(),
            live.deaths.as_fd(),
            live.claim.as_fd(),
        ];
        fds.extend(live.keepalive.as_ref().map(|fd| fd.as_fd()));
        fds.extend(nic_fds);
        let control = Control::Setup {
            stack_id: self.id,
            token: self.token,
            fresh: how == Start::Fresh,
            deaf: how == Start::Deaf,
            owners: List::new(live.owners.keys().copied()),
            epoch: live.epoch,
            stack_len: self.wanted.len,
            opts: List::new(self.wanted.opts.to_words()),
            cplane_len: live.net.cplane().len(),
            dims: List::new(dims.to_words()),
            nic_gen: live.nic_gen,
            nics,
            local_only: live.net.is_local_only(),
        };
        (control, fds)
    }
}

/// The abstract name of the socket that holds a stack's number in its namespace.
pub(super) fn claim_name(id: u32) -> String {
    format!("flyover-stack/{id}")
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Fails only for signals, and never for long (getrandom(2)): there is no second best for a secret.
    while getrandom(&mut bytes, GetRandomFlags::empty()) != Ok(bytes.len()) {}
    u64::from_ne_bytes(bytes)
}
