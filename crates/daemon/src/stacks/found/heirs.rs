//! A stack that lost its keeper while no daemon ran: what the next daemon and keeper need is in its processes. Nothing is
//! asked of them, since they may be stopped: the daemon copies the descriptors out of their tables (`pidfd_getfd(2)`), those
//! that the notes name, by numbers that the kernel gives only once. So a process can offer the stack as it was, or nothing.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::offer::{bad, is_writable, nics_of};
use super::owners::{Watched, watch_owners};
use super::{census, known, namespace};
use crate::daemon::Daemon;
use crate::keeper::listen_for_deaths;
use crate::net::{Net, within};
use crate::nic::Nic;
use crate::records::{Ident, ProcessId, Record, Records};
use crate::refusal::Refusal;
use crate::session::Progress;
use crate::stacks::attach::Owner;
use crate::stacks::keeper::{KeeperProcess, Start, watch_keeper};
use crate::stacks::lease::hold_again;
use crate::stacks::stack::{Life, Live, Stack};

/// Descriptors looked at in one process. The library's have the highest numbers.
const LOOKS: usize = 1024;

/// The noted processes of a stack: those that live, and the slots of those that do not.
#[derive(Default)]
pub struct Heirs {
    living: Vec<(u16, ProcessId, OwnedFd)>,
    gone: Vec<u16>,
}

impl Heirs {
    /// Of a stack.
    pub fn of(records: &Records, id: u32) -> Self {
        let mut heirs = Self::default();
        let noted = records
            .owner_notes(id, false)
            .and_then(|notes| notes.list());
        for (owner, process) in noted.unwrap_or_default() {
            match process.open() {
                Some(pidfd) => heirs.living.push((owner, process, pidfd)),
                None => heirs.gone.push(owner),
            }
        }
        heirs
    }

    /// Nobody has the stack any more.
    pub fn is_empty(&self) -> bool {
        self.living.is_empty()
    }
}

/// What the descriptors are, of those that the notes name.
struct Left {
    memory: OwnedFd,
    keepalive: OwnedFd,
    nics: Vec<Nic>,
}

/// Takes the stack over from its processes, with a new keeper.
pub fn inherit(
    daemon: &Arc<Daemon>,
    records: &Records,
    record: &Record,
    heirs: Heirs,
) -> Result<Arc<Net>, Refusal> {
    let mut places = heirs.living.iter();
    // A process may have entered another namespace since.
    let ns = places.find_map(|(_, id, _)| namespace(record, id.pid).ok());
    let ns = ns.ok_or_else(|| bad("none of its processes is in its network namespace"))?;
    let left = gather(record, &heirs)?;
    let (stack, net) = known(daemon, records, record, &ns, &left.keepalive)?;
    let failed = |e: std::io::Error| Refusal::failed("what only a keeper held", e);
    let claim = stack.claim(&net).map_err(failed)?;
    let claim = claim.ok_or_else(|| bad("somebody else has its number"))?;
    let deaths = within(net.ns(), listen_for_deaths).map_err(failed)?;
    let mut live = Box::new(Live {
        net: net.clone(),
        memory: left.memory,
        deaths,
        claim,
        keepalive: Some(left.keepalive),
        keeper: None,
        deaf: true,
        nics: left.nics,
        nic_gen: record.nic_gen,
        problems: BTreeMap::new(),
        owners: BTreeMap::new(),
        owner_notes: stack.owner_notes(daemon, false),
        lent: hold_again(&net, stack.id),
        last_owner: 0,
        // Not that of an earlier keeper's report that the stack is idle.
        epoch: 1 << 32,
    });
    for owner in heirs.gone {
        live.forget_owner(owner);
    }
    let watched = enter(&mut live, heirs.living).map_err(|e| failed(e.into()))?;
    let keeper = KeeperProcess::start(&stack, &live, Start::next(&live), &mut Progress::none())?;
    let control = keeper.control();
    live.keeper = Some(keeper);
    stack.note(daemon, &live);
    tracing::warn!(
        stack = stack.id,
        name = stack.wanted.name,
        uid = stack.wanted.uid,
        processes = watched.len(),
        "stack of the daemon before, whose keeper had died too, taken over from its processes"
    );
    *stack.life() = Life::Live(live);
    stack.taken_up(daemon, &net, control);
    watch_owners(daemon.clone(), stack.clone(), watched);
    census::begin(&stack);
    Ok(net)
}

/// Finds the descriptors in the processes.
fn gather(record: &Record, heirs: &Heirs) -> Result<Left, Refusal> {
    let mut wanted = Wanted::of(record);
    for (_, id, pidfd) in &heirs.living {
        for number in numbers(*id).into_iter().take(LOOKS) {
            if wanted.has_all(record) {
                break;
            }
            if let Ok(fd) = pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
                wanted.look(record, fd);
            }
        }
    }
    let memory = wanted
        .memory
        .ok_or_else(|| bad("no process holds its memory"))?;
    let keepalive = wanted
        .keepalive
        .ok_or_else(|| bad("no process holds its flow programs"))?;
    let of = |ident: &Ident| wanted.nics.get(ident)?.as_ref()?.try_clone().ok();
    let offered = record.nics.iter().filter_map(|note| {
        let fds: Option<Vec<OwnedFd>> = note.fds.iter().map(of).collect();
        Some((note.desc(), fds?))
    });
    let nics = nics_of(record, &offered.collect::<Vec<_>>())?;
    Ok(Left {
        memory,
        keepalive,
        nics,
    })
}

/// What is looked for, and was found.
struct Wanted {
    memory: Option<OwnedFd>,
    keepalive: Option<OwnedFd>,
    nics: BTreeMap<Ident, Option<OwnedFd>>,
}

impl Wanted {
    fn of(record: &Record) -> Self {
        let nics = record.nics.iter().flat_map(|note| &note.fds);
        Self {
            memory: None,
            keepalive: None,
            nics: nics.map(|ident| (*ident, None)).collect(),
        }
    }

    fn has_all(&self, record: &Record) -> bool {
        let found = self.nics.values().filter(|fd| fd.is_some()).count();
        let all = record.nics.iter().map(|note| note.fds.len()).sum::<usize>();
        self.memory.is_some() && self.keepalive.is_some() && found == all
    }

    fn look(&mut self, record: &Record, fd: OwnedFd) {
        let Ok(ident) = Ident::of(&fd) else { return };
        if ident == record.memory && is_writable(&fd) {
            self.memory = Some(fd);
        } else if let Some(place) = self.nics.get_mut(&ident) {
            *place = Some(fd);
        } else if matches!(ident, Ident::File(device, _) if device == record.maps.device) {
            self.keepalive = Some(fd);
        }
    }
}

/// The numbers of a process's descriptors, the highest first.
fn numbers(id: ProcessId) -> Vec<i32> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", id.pid));
    let entries = entries.into_iter().flatten().flatten();
    let mut numbers: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

/// Enters the processes, each with a new channel, which it gets when it connects.
fn enter(live: &mut Live, living: Vec<(u16, ProcessId, OwnedFd)>) -> Result<Vec<Watched>, Errno> {
    let mut watched = Vec::new();
    for (owner, id, pidfd) in living {
        let cloexec = SocketFlags::CLOEXEC;
        let (theirs, keeper_end) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, cloexec, None)?;
        live.last_owner = live.last_owner.max(owner);
        live.owners
            .insert(owner, Owner::awaited(id, keeper_end, Some(theirs)));
        watched.push((owner, id, Some(pidfd)));
    }
    Ok(watched)
}

impl Stack {
    /// The stack, which lives, is this daemon's from here on.
    pub(super) fn taken_up(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        net: &Arc<Net>,
        control: Arc<OwnedFd>,
    ) {
        daemon.stacks.found(self);
        // Entered first, looked at second: either we see it, or whoever sets it sees the stack.
        if daemon.serving.load(std::sync::atomic::Ordering::SeqCst) {
            self.tell_serving();
        }
        watch_keeper(daemon.clone(), self.clone(), net.clone(), control);
        net.add_stack(Arc::downgrade(self));
        // Interfaces may have come and gone.
        self.follow_links(daemon.records.as_deref());
    }
}
