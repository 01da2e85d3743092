//! The keeper's loop: it sleeps on the V-NICs, and on one epoll set with everything else; then it works.
//! `orders.rs`: what the daemon and the processes say. `chores.rs`: what needs the stack lock or the daemon.
//! `filters.rs`: filters that a dead process did not give back. `successor.rs`: from a daemon that died to the next one.

mod chores;
mod filters;
mod lease;
mod orders;
mod successor;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::Context as _;
use flyover_core::sock::{OS_DATA, OS_ERROR};
use flyover_core::{IcmpError, Instant, SockRef, Unfinished};
use flyover_proto::{Control, FdBag, MAX_MESSAGE, Notice};
use flyover_wire::{FlowKey, Seq};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::deaths::Deaths;
use super::mode::{Look, Machine, Step};
use super::served::{Served, monotonic};
use super::sockets::{Parked, watched};

/// Epoll data of the daemon's channel and of the reports of deaths; an owner's channel has its slot above these.
const CONTROL: u64 = 0;
const DEATHS: u64 = 1;
const CALLS: u64 = 2;
const CHANNELS: u64 = 1 << 16;

const MS: u64 = 1_000_000;
/// How often that is looked at, ns.
const IDLE_TICK: u64 = 250 * MS;
/// Pause before buffers are looked at again that could not be sorted out, ns.
const MEND: u64 = 20 * MS;
/// Work that needs the lock is tried again after this time, ns.
const RETRY: u64 = 2 * MS;

/// Work that needs the stack lock and could not be done yet.
#[derive(Default)]
struct Pending {
    gone: BTreeMap<u16, Unfinished>,
    cookies: BTreeSet<u64>,
    events: Vec<(SockRef, u32)>,
    icmp: Vec<(FlowKey, Option<Seq>, IcmpError)>,
}

/// See the module.
pub struct Duty {
    served: Served,
    machine: Machine,
    epoll: OwnedFd,
    deaths: Deaths,
    parked: Parked,
    channels: BTreeMap<u16, OwnedFd>,
    /// The other ends, of processes that have not come for theirs: they must not close with a daemon that dies.
    unclaimed: BTreeMap<u16, OwnedFd>,
    /// Owner slots in use.
    attached: BTreeSet<u16>,
    /// Owner slots of processes that ended: the lock is taken from these.
    dead: BTreeSet<u16>,
    /// `OwnerGone` messages so far.
    epoch: u64,
    pending: Pending,
    audit: filters::Audit,
    /// Other people's sockets end too: reports of deaths are read again, and looked into, not before this time.
    next_walk: u64,
    /// A process ended: which connections nobody has open any more is asked, not before the time that follows.
    look_due: bool,
    next_look: u64,
    /// A short queue of reports is read again at this time while the next walk is waited for.
    next_read: u64,
    /// Reports of deaths are not listened to at present.
    deaf: bool,
    /// Sockets may have ended unheard, of those with the cookies that follow: a census tells.
    uninformed: bool,
    doubtful: BTreeSet<u64>,
    /// Since when nobody needs the reports of deaths.
    needless_since: Option<u64>,
    /// Since when no process is attached.
    alone_since: Option<u64>,
    /// Since when no socket is left either.
    idle_since: Option<u64>,
    /// The daemon was told so.
    told_idle: bool,
    /// Holders of lent ports.
    lent: lease::Lent,
    outbox: VecDeque<Notice>,
    /// The daemon; `None` when it is gone. The keeper then goes on as long as it is needed.
    control: Option<OwnedFd>,
    buf: Box<[u8]>,
    done: bool,
    /// What the next daemon needs of the stack.
    estate: successor::Estate,
}

impl Duty {
    /// Takes up its duty as the daemon's first message says.
    ///
    /// # Errors
    /// The message is another one, or its memories cannot be mapped.
    pub fn new(setup: Control, mut fds: FdBag, daemon_uid: u32) -> anyhow::Result<Self> {
        let Control::Setup {
            stack_id,
            token,
            fresh,
            deaf: uninformed,
            owners,
            epoch,
            stack_len,
            opts,
            cplane_len,
            dims,
            nic_gen,
            nics,
            local_only,
        } = setup
        else {
            anyhow::bail!("the first message is no setup");
        };
        let (Some(stack), Some(cplane), Some(deaths), Some(claim)) =
            (fds.pop(), fds.pop(), fds.pop(), fds.pop())
        else {
            anyhow::bail!("descriptors are missing");
        };
        let programs = if local_only { None } else { fds.pop() };
        let memory = (stack.as_fd(), stack_len, &opts[..]);
        let mut served = Served::new(stack_id, memory, (cplane.as_fd(), cplane_len, &dims[..]))
            .context("mapping the stack")?;
        if fresh {
            served.init().context("initialising the stack")?;
        }
        served
            .set_nics(nic_gen, &nics, &mut fds, !fresh)
            .context("taking over the V-NICs")?;
        let mut deaths = Deaths::new(deaths);
        deaths.lost = uninformed;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        listen_once(epoll::add, epoll.as_fd(), deaths.as_fd())?;
        let machine = Machine::new(served.stack().poll_seq());
        let mut duty = Self {
            served,
            machine,
            epoll,
            deaths,
            parked: Parked::default(),
            channels: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            attached: owners.iter().copied().collect(),
            dead: BTreeSet::new(),
            epoch,
            pending: Pending::default(),
            audit: filters::Audit::default(),
            next_walk: 0,
            look_due: false,
            next_look: 0,
            next_read: 0,
            deaf: false,
            uninformed,
            doubtful: BTreeSet::new(),
            needless_since: None,
            alone_since: None,
            idle_since: None,
            told_idle: false,
            lent: lease::Lent::default(),
            outbox: VecDeque::new(),
            control: None,
            buf: vec![0; MAX_MESSAGE].into_boxed_slice(),
            done: false,
            estate: successor::Estate::new(token, daemon_uid, stack, programs, claim),
        };
        if !fresh {
            duty.succeed();
        }
        if duty.served.stack().reports_are_on() {
            duty.hear(true);
        }
        if uninformed {
            duty.doubtful = duty.served.stack().cookies().collect();
        }
        Ok(duty)
    }

    /// After the death of an earlier keeper: the lock may be his, and deaths of processes may have passed unnoticed.
    fn succeed(&mut self) {
        if self.served.take_over(0) {
            tracing::warn!("the keeper before died with the lock; the stack was recovered");
        }
        self.pending
            .cookies
            .extend(self.served.stack().noted_deaths());
        let max = self
            .served
            .stack()
            .opts()
            .max_owners
            .min(u32::from(u16::MAX)) as u16;
        self.dead
            .extend((1..max).filter(|o| !self.attached.contains(o)));
        // There are thousands of slots, and each burial looks at every socket: only those that left something.
        let (gone, dead) = (&mut self.pending.gone, &self.dead);
        self.served.stack().each_owner(|owner| {
            if dead.contains(&owner) {
                gone.insert(owner, Unfinished::Unknown);
            }
        });
    }

    /// Serves until the daemon says that it is enough, or until the daemon is gone and nothing is left to do.
    pub fn run(mut self, control: OwnedFd) {
        if add(self.epoll.as_fd(), control.as_fd(), CONTROL).is_err() {
            return;
        }
        self.control = Some(control);
        // The first poll gives the V-NICs their buffers.
        self.served.poll();
        let mut woken = false;
        while !self.done {
            self.work();
            let stack = self.served.stack();
            let look = Look {
                now: monotonic(),
                poll_seq: stack.poll_seq(),
                pending: self.served.has_frames(),
                deadline: stack.next_deadline().map(|at| at.0),
                woken: std::mem::take(&mut woken),
            };
            match self.machine.step(look) {
                Step::Poll => {
                    if self.served.poll() {
                        self.machine.polled(monotonic(), stack.poll_seq());
                    } else {
                        self.machine.busy(monotonic(), stack.poll_seq());
                    }
                    woken = self.wait(Some(0), false);
                }
                Step::Sleep { until, all } => woken = self.sleep(until, all),
            }
        }
    }

    /// Sleeps; true when a V-NIC or a poke ended it.
    fn sleep(&mut self, until: Option<u64>, all: bool) -> bool {
        let stack = self.served.stack();
        if all {
            stack.set_keeper_sleep(Instant(until.unwrap_or(u64::MAX)));
            // Whoever arms a deadline from now on pokes. One that was armed before shows here.
            let armed = stack.next_deadline().map_or(u64::MAX, |at| at.0);
            if armed < until.unwrap_or(u64::MAX).saturating_sub(MS) {
                stack.set_keeper_sleep(Instant(0));
                return self.wait(Some(0), false);
            }
        }
        let own = self.own_deadline();
        let until = match (until, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let woken = self.wait(until, all);
        stack.set_keeper_sleep(Instant(0));
        woken
    }

    /// When the keeper itself has something to do.
    fn own_deadline(&self) -> Option<u64> {
        let now = monotonic();
        let Pending {
            gone,
            cookies,
            events,
            icmp,
        } = &self.pending;
        let locked = !gone.is_empty() || !events.is_empty() || !icmp.is_empty();
        let retry = locked || (self.control.is_some() && !self.outbox.is_empty());
        // A reader that is stopped may take long.
        let mend = self.served.is_unmended().then_some(now + MEND);
        let walk = (self.deaf || !cookies.is_empty()).then_some(self.next_walk.max(now + RETRY));
        let read = (self.deaf && self.deaths.short).then_some(self.next_read.max(now));
        let look = self.look_due.then_some(self.next_look.max(now));
        let needless = self
            .needless_since
            .map(|since| since.saturating_add(chores::NEEDLESS));
        let alone = (self.attached.is_empty() && !self.told_idle).then_some(now + IDLE_TICK);
        retry
            .then_some(now + RETRY)
            .into_iter()
            .chain(mend)
            .chain(walk)
            .chain(read)
            .chain(look)
            .chain(needless)
            .chain(alone)
            .chain(self.audit.due())
            .chain(self.lease_due())
            .chain(self.estate.due())
            .min()
    }

    /// Waits for descriptors until a point in time, and handles what came. True: a V-NIC is readable, or a poke.
    fn wait(&mut self, until: Option<u64>, nics: bool) -> bool {
        let left = until.map(|at| at.saturating_sub(monotonic()));
        let left = left.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let mut list = vec![PollFd::from_borrowed_fd(self.epoll.as_fd(), PollFlags::IN)];
        if nics {
            list.extend(
                self.served
                    .nic_fds()
                    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
            );
        }
        if poll(&mut list, left.as_ref()).unwrap_or(0) == 0 {
            return false;
        }
        let other = !list[0].revents().is_empty();
        let seen: Vec<PollFlags> = list[1..].iter().map(PollFd::revents).collect();
        let failed = seen
            .iter()
            .enumerate()
            .filter(|(_, r)| r.intersects(PollFlags::ERR | PollFlags::HUP));
        failed.for_each(|(place, _)| self.served.on_poll_error(place));
        let frames = seen.iter().any(|r| r.contains(PollFlags::IN));
        frames | (other && self.drain())
    }

    /// Handles what the epoll set reports; true when there was a poke.
    fn drain(&mut self) -> bool {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&now)).is_err() {
            return false;
        }
        let mut poked = false;
        for event in &events {
            let data = event.data.u64();
            match data {
                CONTROL => self.control(),
                CALLS => self.answer_calls(),
                DEATHS => {
                    self.hear_deaths();
                    self.deaf = true;
                    self.next_read = monotonic() + chores::READ_PAUSE;
                }
                _ => match watched(data) {
                    Some(sock) => self.pending.events.push((sock, what(event.flags))),
                    None => poked |= self.channel(data.wrapping_sub(CHANNELS) as u16),
                },
            }
        }
        poked
    }
}

/// What a kernel socket has, as the endpoint notes it.
fn what(flags: epoll::EventFlags) -> u32 {
    let data = flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP);
    let error = flags.contains(epoll::EventFlags::ERR);
    (u32::from(data) * OS_DATA) | (u32::from(error) * OS_ERROR)
}

/// The next report of deaths counts, and no further one: see [`Duty::close_dead`].
fn listen_once<'f>(
    how: fn(
        BorrowedFd<'f>,
        BorrowedFd<'f>,
        epoll::EventData,
        epoll::EventFlags,
    ) -> Result<(), Errno>,
    epoll: BorrowedFd<'f>,
    deaths: BorrowedFd<'f>,
) -> Result<(), Errno> {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
    how(epoll, deaths, epoll::EventData::new_u64(DEATHS), flags)
}

fn add(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>, data: u64) -> Result<(), Errno> {
    epoll::add(
        epoll,
        fd,
        epoll::EventData::new_u64(data),
        epoll::EventFlags::IN,
    )
}
