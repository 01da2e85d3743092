//! Stacks that outlived their daemon: this one takes them over before it serves anybody.
//!
//! A keeper is called by the name of its stack's number, with the stack's token; it offers descriptors and says who is
//! attached. Nothing of that is believed beyond what the notes of the daemon before say: each descriptor must be the one
//! that is noted there, by numbers that the kernel gives only once. So a keeper, which is its user's, can offer its own
//! stack as it was, or nothing.
//!
//! - `offer.rs`: calling a keeper, and what it offers. `owners.rs`: the processes.
//! - `heirs.rs`: a stack whose keeper died as well: what its processes hold. `census.rs`: which sockets are still open.

mod census;
mod heirs;
mod offer;
mod owners;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use flyover_cplane::Dims;
use flyover_proto::{Control, Deadline, List, Token};

use super::keeper::KeeperProcess;
use super::lease::hold_again;
use super::stack::{Life, Live, Stack, StackKey, Wanted, Whose};
use crate::container::{Container, Site};
use crate::daemon::Daemon;
use crate::net::{Left, Net};
use crate::netns::{NetNs, NetNsId};
use crate::nic::{Nic, NicPolicy};
use crate::records::{Head, Ident, Known, Note, Record, Records};
use crate::refusal::Refusal;
use heirs::Heirs;
use offer::{Offer, bad, call, receive, verify};
use owners::{owners, watch_owners};

/// How long clients of this daemon wait for keepers that do not answer at once. Those are still taken over when they
/// answer later.
const START: Duration = Duration::from_secs(3);
/// How long a keeper may take: it may be stopped, or its machine frozen.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who has what is left of a stack.
enum Heir {
    Keeper(OwnedFd),
    /// The keeper is dead.
    Processes(Heirs),
}

/// Takes over what an earlier daemon left.
pub fn find_all(daemon: &Arc<Daemon>) {
    let Some(records) = daemon.records.clone() else {
        return;
    };
    let mut alive = Vec::new();
    let (tell, told) = mpsc::channel();
    let mut waiting = 0;
    for note in records.list() {
        let head = note.head();
        let heir = match head.keeper.open() {
            Some(pidfd) => Heir::Keeper(pidfd),
            None => Heir::Processes(Heirs::of(&records, head.id)),
        };
        if matches!(&heir, Heir::Processes(heirs) if heirs.is_empty()) {
            tracing::info!(stack = head.id, "a stack ended while no daemon ran");
            records.forget(head.id);
            continue;
        }
        alive.push(head);
        daemon.stacks.reserve(head.id);
        match note {
            Note::Foreign(head) => foreign(&head),
            Note::Ours(record) => {
                let (daemon, records, tell) = (daemon.clone(), records.clone(), tell.clone());
                let work = move || {
                    let id = record.id;
                    let net = match heir {
                        Heir::Keeper(pidfd) => find(&daemon, &records, &record, pidfd),
                        Heir::Processes(heirs) => heirs::inherit(&daemon, &records, &record, heirs),
                    };
                    let net = net.inspect_err(|e| {
                        tracing::error!(
                            stack = id,
                            "a stack of the daemon before is left to itself, its connections go on, new sockets of its \
                             programs stay with the kernel: {e}"
                        );
                    });
                    // The receiver may have given up waiting.
                    let _: Result<(), _> = tell.send(net.ok());
                };
                match thread::Builder::new().name("found".into()).spawn(work) {
                    Ok(_) => waiting += 1,
                    Err(e) => tracing::error!(stack = head.id, "no thread to find a stack: {e}"),
                }
            }
        }
    }
    let end = Instant::now() + START;
    // Held until all are found: a namespace's maps go with its last stack.
    let mut nets: Vec<Arc<Net>> = Vec::new();
    for _ in 0..waiting {
        let Ok(net) = told.recv_timeout(end.saturating_duration_since(Instant::now())) else {
            tracing::warn!("a keeper of the daemon before does not answer yet");
            break;
        };
        nets.extend(net);
    }
    let maps: Vec<u32> = alive.iter().map(|head| head.maps.flows).collect();
    records.tidy(&maps);
    let alive: BTreeSet<u32> = alive.iter().map(|head| head.id).collect();
    nets.iter().for_each(|net| sweep(net, &alive));
    daemon.serving.store(true, SeqCst);
    for stack in daemon.stacks.list() {
        stack.tell_serving();
    }
}

/// Of another build: what its memory or its maps mean is not known here.
fn foreign(head: &Head) {
    tracing::warn!(
        stack = head.id,
        keeper = head.keeper.pid,
        "a stack of a daemon of another build: its connections go on with its keeper, new sockets of its programs stay \
         with the kernel"
    );
}

/// Takes out of a namespace's maps what belonged to stacks that ended while no daemon ran.
fn sweep(net: &Net, alive: &BTreeSet<u32>) {
    let mut flows = net.flows();
    let mut seen: BTreeSet<u32> = flows.stacks().into_iter().collect();
    seen.extend(flows.map().users());
    for stack in seen.difference(alive) {
        flows.remove_stack(*stack);
        flows.map_mut().leave_all(*stack);
    }
}

/// The stack's namespace, if the process is in it.
fn namespace(record: &Record, pid: u32) -> Result<Arc<NetNs>, Refusal> {
    let failed = |e: std::io::Error| Refusal::failed("finding the network namespace", e);
    let ns = NetNs::of_process(pid).map_err(failed)?;
    if Ident::of(&ns).ok() != Some(record.ns.file)
        || ns.cookie().map_err(failed)? != record.ns.cookie
    {
        return Err(bad("it is of another network namespace"));
    }
    Ok(Arc::new(ns))
}

/// Takes one stack over from its keeper.
fn find(
    daemon: &Arc<Daemon>,
    records: &Records,
    record: &Record,
    pidfd: OwnedFd,
) -> Result<Arc<Net>, Refusal> {
    let ns = namespace(record, record.keeper.pid)?;
    let deadline = Deadline::after(PATIENCE);
    let control = call(&ns, record, deadline)?;
    let offer = receive(&control, record, deadline)?;
    let nics = verify(record, &offer)?;
    let (stack, net) = known(daemon, records, record, &ns, &offer.keepalive)?;
    let keeper = KeeperProcess::found(record.keeper, pidfd, control);
    settle(daemon, &stack, &net, keeper, offer, nics);
    Ok(net)
}

/// The stack as the notes say, which does not live yet, and its namespace.
fn known(
    daemon: &Arc<Daemon>,
    records: &Records,
    record: &Record,
    ns: &Arc<NetNs>,
    keepalive: &OwnedFd,
) -> Result<(Arc<Stack>, Arc<Net>), Refusal> {
    let dims = Dims::from_words(&record.dims).ok_or_else(|| bad("its tables make no sense"))?;
    let wanted = wanted(daemon, record, ns.id()).ok_or_else(|| bad("its options make no sense"))?;
    let mount = keepalive.as_fd().try_clone_to_owned();
    let left = Left {
        mount: mount.map_err(|e| Refusal::failed("duplicating descriptors", e))?,
        maps: record.maps,
        dims,
        records,
    };
    let net = daemon.nets.find(ns, left)?;
    let user = Whose::User(record.uid, Container::noted(record.container));
    let key = match &record.known {
        Known::Private => None,
        Known::Default => Some((user, None)),
        Known::Named(name) => Some((user, Some(name.clone()))),
        Known::Shared(name) => Some((Whose::Policy, Some(name.clone()))),
    };
    let key = key.map(|(whose, name)| StackKey {
        ns: ns.id(),
        whose,
        name,
    });
    let token = Token {
        a: record.token.0,
        b: record.token.1,
    };
    Ok((Arc::new(Stack::known(record.id, key, wanted, token)), net))
}

fn wanted(daemon: &Daemon, record: &Record, ns: NetNsId) -> Option<Wanted> {
    let opts = record.opts()?;
    let fits = record.len == flyover_core::layout_len(&opts);
    fits.then(|| Wanted {
        uid: record.uid,
        gid: record.gid,
        site: Site {
            ns,
            container: Container::noted(record.container),
        },
        name: record.name.clone(),
        opts,
        len: record.len,
        interfaces: record.interfaces.clone(),
        policy: NicPolicy {
            pref: record.pref(),
            mode: daemon.opts.xdp_mode,
            zero_copy: daemon.opts.zero_copy,
        },
    })
}

/// The stack is this daemon's from here on.
fn settle(
    daemon: &Arc<Daemon>,
    stack: &Arc<Stack>,
    net: &Arc<Net>,
    keeper: KeeperProcess,
    offer: Offer,
    nics: Vec<Nic>,
) {
    let notes = stack.owner_notes(daemon, false);
    let noted = notes.as_ref().and_then(|notes| notes.list().ok());
    let control = keeper.control();
    let mut live = Box::new(Live {
        net: net.clone(),
        memory: offer.memory,
        deaths: offer.deaths,
        claim: offer.claim,
        keepalive: Some(offer.keepalive),
        keeper: Some(keeper),
        deaf: offer.deaf,
        nics,
        nic_gen: offer.nic_gen,
        problems: BTreeMap::new(),
        owners: BTreeMap::new(),
        owner_notes: notes,
        lent: hold_again(net, stack.id),
        last_owner: 0,
        epoch: offer.epoch,
    });
    let welcome = Control::Adopted {
        cplane_len: net.cplane().len(),
        dims: List::new(net.cplane().dims().to_words()),
    };
    if let Some(keeper) = &live.keeper {
        // When that fails it has died, and its watcher starts another one.
        let _ = keeper.say(&welcome, &[net.cplane().memfd()]);
    }
    let watched = owners(&mut live, noted.unwrap_or_default(), offer.channels);
    stack.note(daemon, &live);
    tracing::info!(
        stack = stack.id,
        name = stack.wanted.name,
        uid = stack.wanted.uid,
        ns = %net.ns().id(),
        vnics = live.nics.len(),
        filters = net.flows().count(stack.id),
        processes = watched.len(),
        "stack of the daemon before taken over"
    );
    *stack.life() = Life::Live(live);
    stack.taken_up(daemon, net, control);
    if offer.deaf {
        census::begin(stack);
    }
    watch_owners(daemon.clone(), stack.clone(), watched);
}

impl Stack {
    /// Lets the processes connect to this daemon.
    fn tell_serving(&self) {
        if let Life::Live(live) = &*self.life()
            && let Some(keeper) = &live.keeper
        {
            // When that fails it has died: the processes connect when they need the daemon.
            let _ = keeper.say(&Control::Serving {}, &[]);
        }
    }
}
