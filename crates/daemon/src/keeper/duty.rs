//! The keeper's loop: descriptors in, work out. It sleeps on the V-NICs, and on one epoll set with everything else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use flyover_core::{Instant, SockRef};
use flyover_proto::{Control, Deadline, FdBag, KeeperMsg, MAX_MESSAGE, Notice, Packet, recv, send};
use flyover_shm::Idx;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use super::deaths::Deaths;
use super::mode::{Look, Machine, Step};
use super::served::{Served, Wish, monotonic};
use super::sockets::{Parked, watch, watched};

/// Epoll data of the daemon's channel and of the reports of deaths; an owner's channel has its slot above these.
const CONTROL: u64 = 0;
const DEATHS: u64 = 1;
const CHANNELS: u64 = 1 << 16;

const MS: u64 = 1_000_000;
/// A stack without processes and sockets is given up after this time, ns.
const LINGER: u64 = 1_000 * MS;
/// How often that is looked at, ns.
const IDLE_TICK: u64 = 250 * MS;
/// When reports of deaths were lost and no process is attached for this long, all sockets count as dead, ns.
const LOST_LINGER: u64 = 10_000 * MS;
/// Work that needs the lock is tried again after this time, ns.
const RETRY: u64 = 2 * MS;
/// Least time between two walks for dead sockets, ns.
const WALK_PAUSE: u64 = 5 * MS;
/// Messages taken from one channel before the others have their turn.
const TURN: usize = 64;
/// Wishes that wait for the daemon.
const MAX_OUTBOX: usize = 4096;

/// Work that needs the stack lock and could not be done yet.
#[derive(Default)]
struct Pending {
    gone: BTreeSet<u16>,
    cookies: BTreeSet<u64>,
    events: Vec<SockRef>,
}

/// See the module.
pub struct Duty {
    served: Served,
    machine: Machine,
    epoll: OwnedFd,
    deaths: Deaths,
    parked: Parked,
    channels: BTreeMap<u16, OwnedFd>,
    /// Owner slots in use.
    attached: BTreeSet<u16>,
    /// Owner slots of processes that ended: the lock is taken from these.
    dead: BTreeSet<u16>,
    /// `OwnerGone` messages so far.
    epoch: u64,
    pending: Pending,
    /// Other people's sockets end too: reports of deaths are read again, and looked into, not before this time.
    next_walk: u64,
    /// Reports of deaths are not listened to at present.
    deaf: bool,
    /// Since when no process is attached.
    alone_since: Option<u64>,
    /// Since when no socket is left either.
    idle_since: Option<u64>,
    /// The daemon was told so.
    told_idle: bool,
    outbox: VecDeque<Notice>,
    /// The daemon; `None` when it is gone. The keeper then goes on as long as it is needed.
    control: Option<OwnedFd>,
    buf: Box<[u8]>,
    done: bool,
}

impl Duty {
    /// Takes up its duty as the daemon's first message says.
    ///
    /// # Errors
    /// The message is another one, or its memories cannot be mapped.
    pub fn new(setup: Control, mut fds: FdBag) -> anyhow::Result<Self> {
        let Control::Setup {
            stack_id,
            fresh,
            owners,
            epoch,
            stack_len,
            opts,
            cplane_len,
            dims,
            nic_gen,
            nics,
        } = setup
        else {
            anyhow::bail!("the first message is no setup");
        };
        let (Some(stack), Some(cplane), Some(deaths)) = (fds.pop(), fds.pop(), fds.pop()) else {
            anyhow::bail!("descriptors are missing");
        };
        let memory = (stack.as_fd(), stack_len, &opts[..]);
        let mut served = Served::new(stack_id, memory, (cplane.as_fd(), cplane_len, &dims[..]))
            .context("mapping the stack")?;
        if fresh {
            served.init().context("initialising the stack")?;
        }
        served
            .set_nics(nic_gen, &nics, &mut fds, !fresh)
            .context("taking over the V-NICs")?;
        let deaths = Deaths::new(deaths);
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
            attached: owners.iter().copied().collect(),
            dead: BTreeSet::new(),
            epoch,
            pending: Pending::default(),
            next_walk: 0,
            deaf: false,
            alone_since: None,
            idle_since: None,
            told_idle: false,
            outbox: VecDeque::new(),
            control: None,
            buf: vec![0; MAX_MESSAGE].into_boxed_slice(),
            done: false,
        };
        if !fresh {
            duty.succeed();
        }
        Ok(duty)
    }

    /// After the death of an earlier keeper: the lock may be his, and deaths of processes may have passed unnoticed.
    fn succeed(&mut self) {
        if self.served.take_over(0) {
            tracing::warn!("the keeper before died with the lock; the stack was recovered");
        }
        let max = self
            .served
            .stack()
            .opts()
            .max_owners
            .min(u32::from(u16::MAX)) as u16;
        for owner in (1..max).filter(|o| !self.attached.contains(o)) {
            self.pending.gone.insert(owner);
            self.dead.insert(owner);
        }
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
        } = &self.pending;
        let retry = !gone.is_empty() || !events.is_empty() || !self.outbox.is_empty();
        let walk = (self.deaf || !cookies.is_empty()).then_some(self.next_walk.max(now + RETRY));
        let alone = (self.attached.is_empty() && !self.told_idle).then_some(now + IDLE_TICK);
        retry
            .then_some(now + RETRY)
            .into_iter()
            .chain(walk)
            .chain(alone)
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
                DEATHS => {
                    let cookies = &mut self.pending.cookies;
                    self.deaths.drain(|cookie| cookies.extend([cookie]));
                    self.deaf = true;
                }
                _ => match watched(data) {
                    Some(sock) => self.pending.events.push(sock),
                    None => poked |= self.channel(data.wrapping_sub(CHANNELS) as u16),
                },
            }
        }
        poked
    }

    /// Messages of the daemon.
    fn control(&mut self) {
        for _ in 0..TURN {
            let Some(control) = &self.control else { return };
            match recv(control.as_fd(), &mut self.buf, Deadline::NOW) {
                Ok(Packet::Message(len, fds)) => match Control::decode(&self.buf[..len]) {
                    Ok((_, message)) => self.obey(message, fds),
                    Err(e) => tracing::error!("message of the daemon: {e}"),
                },
                Err(Errno::TIMEDOUT) => return,
                Ok(Packet::Closed) | Err(_) => {
                    tracing::warn!(
                        "the daemon is gone; the stack goes on until its processes and sockets are gone"
                    );
                    self.control = None;
                    let left = |owner: &u16| !self.channels.contains_key(owner);
                    let gone: Vec<u16> = self.attached.iter().copied().filter(left).collect();
                    gone.into_iter().for_each(|owner| self.owner_gone(owner));
                }
            }
        }
    }

    fn obey(&mut self, message: Control, mut fds: FdBag) {
        match message {
            Control::Setup { .. } => tracing::error!("a second setup"),
            Control::Nics { nic_gen, nics } => {
                if let Err(e) = self.served.set_nics(nic_gen, &nics, &mut fds, false) {
                    tracing::error!("taking over V-NICs: {e}");
                }
                self.served.poll();
            }
            Control::Owner { owner } => {
                let Some(channel) = fds.pop() else { return };
                self.dead.remove(&owner);
                self.attached.insert(owner);
                self.alone_since = None;
                if let Err(e) = add(
                    self.epoll.as_fd(),
                    channel.as_fd(),
                    CHANNELS + u64::from(owner),
                ) {
                    tracing::error!(owner, "watching a process's channel: {e}");
                }
                self.channels.insert(owner, channel);
            }
            Control::OwnerGone { owner, epoch } => {
                self.epoch = epoch;
                self.owner_gone(owner);
            }
            Control::Exit {} => self.done = true,
        }
    }

    fn owner_gone(&mut self, owner: u16) {
        self.attached.remove(&owner);
        self.channels.remove(&owner);
        self.dead.insert(owner);
        self.pending.gone.insert(owner);
        self.parked.sweep(self.served.stack());
        self.told_idle = false;
    }

    /// Messages of a process; true when there was a poke.
    fn channel(&mut self, owner: u16) -> bool {
        let mut poked = false;
        for _ in 0..TURN {
            let Some(channel) = self.channels.get(&owner) else {
                return poked;
            };
            match recv(channel.as_fd(), &mut self.buf, Deadline::NOW) {
                Ok(Packet::Message(len, mut fds)) => match KeeperMsg::decode(&self.buf[..len]) {
                    Ok((_, KeeperMsg::Poke {})) => poked = true,
                    Ok((_, message)) => self.serve(message, &mut fds),
                    Err(e) => tracing::debug!(owner, "message of a process: {e}"),
                },
                Err(Errno::TIMEDOUT) => return poked,
                Ok(Packet::Closed) | Err(_) => {
                    self.channels.remove(&owner);
                    // Otherwise the daemon tells, which watches the process itself.
                    if self.control.is_none() {
                        self.owner_gone(owner);
                    }
                }
            }
        }
        poked
    }

    fn serve(&mut self, message: KeeperMsg, fds: &mut FdBag) {
        let stack = self.served.stack();
        let known = |sock: u32, generation: u32| {
            (sock < stack.limits().socks).then_some(SockRef {
                id: Idx::new(sock),
                generation,
            })
        };
        match message {
            KeeperMsg::RegOs {
                sock,
                generation,
                listen: _,
            } => {
                let (Some(sock), Some(fd)) = (known(sock, generation), fds.pop()) else {
                    return;
                };
                if let Err(e) = watch(self.epoll.as_fd(), sock, fd.as_fd()) {
                    tracing::warn!("watching a kernel socket: {e}");
                }
            }
            KeeperMsg::Park { sock, generation } => {
                let (Some(sock), Some(fd)) = (known(sock, generation), fds.pop()) else {
                    return;
                };
                self.parked.park(stack, sock, fd);
            }
            KeeperMsg::Unpark { sock, generation } => {
                known(sock, generation)
                    .into_iter()
                    .for_each(|sock| self.parked.close(sock));
            }
            KeeperMsg::Poke {} => {}
        }
    }

    /// Everything that needs the lock or the daemon, as far as these can be had now.
    fn work(&mut self) {
        self.take_over_from_dead();
        self.bury();
        self.raise();
        self.close_dead();
        self.look_after_end();
        self.pass_wishes();
    }

    fn take_over_from_dead(&mut self) {
        let holder = self
            .served
            .lock_owner()
            .filter(|owner| self.dead.contains(owner));
        let Some(owner) = holder else { return };
        // The slot may be in use again: the daemon says so before its process can take the lock.
        self.control();
        if self.dead.contains(&owner) && self.served.take_over(owner) {
            tracing::warn!(
                owner,
                "a process died with the lock; the stack was recovered"
            );
        }
    }

    fn bury(&mut self) {
        while let Some(owner) = self.pending.gone.first().copied() {
            if self
                .served
                .locked(|locked| locked.owner_gone(owner))
                .is_none()
            {
                return;
            }
            self.pending.gone.remove(&owner);
        }
    }

    fn raise(&mut self) {
        if self.pending.events.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.pending.events);
        if self
            .served
            .locked(|locked| events.iter().for_each(|sock| locked.os_event(*sock)))
            .is_none()
        {
            self.pending.events = events;
        }
    }

    /// The first death after a pause is seen to at once; those that follow it at most every 5 ms together, and in at most
    /// a tenth of the time.
    fn close_dead(&mut self) {
        let start = monotonic();
        if start < self.next_walk {
            return;
        }
        if self.pending.cookies.is_empty() {
            if std::mem::take(&mut self.deaf)
                && let Err(e) = listen_once(epoll::modify, self.epoll.as_fd(), self.deaths.as_fd())
            {
                tracing::error!("listening for the end of sockets: {e}");
            }
            return;
        }
        if self.served.stack().socks_used() == 0
            || self.served.close_dead(&self.pending.cookies).is_some()
        {
            self.pending.cookies.clear();
        }
        let end = monotonic();
        self.next_walk =
            end.saturating_add(end.saturating_sub(start).saturating_mul(9).max(WALK_PAUSE));
    }

    /// A stack that nobody uses any longer ends.
    fn look_after_end(&mut self) {
        if !self.attached.is_empty() {
            (self.alone_since, self.idle_since) = (None, None);
            return;
        }
        let now = monotonic();
        let alone = *self.alone_since.get_or_insert(now);
        let (held, orphans) = self.served.stack().live_sockets();
        if held + orphans > 0 || !self.pending.gone.is_empty() {
            self.idle_since = None;
            if held > 0 && self.deaths.lost && now.saturating_sub(alone) >= LOST_LINGER {
                self.close_all();
            }
            return;
        }
        let idle = *self.idle_since.get_or_insert(now);
        if self.told_idle || now.saturating_sub(idle) < LINGER {
            return;
        }
        if self.control.is_none() {
            self.done = true;
        } else {
            self.outbox.push_back(Notice::Idle { epoch: self.epoch });
            self.told_idle = true;
        }
    }

    /// Reports of deaths were lost, and no process is left: whatever is still held is held by nobody.
    fn close_all(&mut self) {
        let stack = self.served.stack();
        let closed = self
            .served
            .locked(|locked| stack.each_sock().for_each(|sock| locked.close(sock.id)));
        if closed.is_some() {
            self.deaths.lost = false;
        }
    }

    fn pass_wishes(&mut self) {
        for wish in std::mem::take(&mut self.served.wishes) {
            let notice = match wish {
                Wish::CloseParked(sock) => {
                    self.parked.close(sock);
                    continue;
                }
                Wish::Resolve { ifindex, ip } => Notice::Resolve { ifindex, ip },
                Wish::DelFilter(id) => Notice::DelFilter { id },
            };
            if self.outbox.len() < MAX_OUTBOX {
                self.outbox.push_back(notice);
            }
        }
        let Some(control) = &self.control else {
            self.outbox.clear();
            return;
        };
        while let Some(notice) = self.outbox.front() {
            let mut buf = [0; 64];
            let Ok(len) = notice.encode(0, &mut buf) else {
                break;
            };
            if send(
                control.as_fd(),
                &buf[..len],
                &[],
                Deadline::after(Duration::ZERO),
            )
            .is_err()
            {
                return;
            }
            self.outbox.pop_front();
        }
    }
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
