//! The keeper process as the daemon sees it: started as the client's user in its network namespace, spoken to over a
//! socket pair, replaced when it dies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use flyover_proto::{
    Control, Deadline, List, MAX_FILTER_IDS, MAX_MESSAGE, Notice, Packet, recv, send,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};

use super::lease::give_to_keeper;
use super::stack::{Life, Live, Stack};
use crate::daemon::Daemon;
use crate::net::Net;
use crate::netns::NetNs;
use crate::peer::has_ended;
use crate::records::ProcessId;
use crate::refusal::Refusal;
use crate::session::Progress;

/// How long a keeper may take to initialise the stack's memory.
const START: Duration = Duration::from_secs(10);
/// How long a keeper may leave a message unread before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(1);
/// Keepers of one stack that may die within [`DEATHS_WITHIN`]; the next one is started after a [`RESPITE`] then.
const MAX_DEATHS: usize = 5;
const DEATHS_WITHIN: Duration = Duration::from_secs(60);
const RESPITE: Duration = Duration::from_secs(1);
/// How often a keeper that does not start is started again.
const STARTS: u32 = 5;

/// What a keeper begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// A new stack.
    Fresh,
    /// A stack whose keeper has died.
    Next,
    /// One whose daemon had died before: nobody heard of ends of sockets since.
    Deaf,
}

impl Start {
    /// Of another keeper.
    pub fn next(live: &Live) -> Self {
        if live.deaf { Self::Deaf } else { Self::Next }
    }
}

/// A running keeper.
pub struct KeeperProcess {
    control: Arc<OwnedFd>,
    process: Process,
}

enum Process {
    /// Our child.
    Child(Child),
    /// A child of a daemon that died: init's now.
    Found(ProcessId, OwnedFd),
}

impl KeeperProcess {
    /// Starts a keeper and waits until it serves the stack.
    ///
    /// # Errors
    /// It does not start, or does not get ready; then it is gone.
    pub fn start(
        stack: &Stack,
        live: &Live,
        how: Start,
        progress: &mut Progress<'_>,
    ) -> Result<Self, Refusal> {
        let failed = |e: io::Error| Refusal::failed("starting the keeper", e);
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| failed(e.into()))?;
        // An ordinary user's daemon is that user already.
        let user = (stack.wanted.uid, stack.wanted.gid);
        let user = (!live.net.is_local_only()).then_some(user);
        let child = spawn(live.net.ns(), theirs, user).map_err(failed)?;
        let keeper = Self {
            control: Arc::new(ours),
            process: Process::Child(child),
        };
        let (setup, fds) = stack.setup(live, how);
        let started = keeper.say(&setup, &fds).map_err(|e| failed(e.into()));
        let started = started
            .and_then(|()| keeper.wait_ready(progress))
            .and_then(|()| keeper.introduce(live));
        match started {
            Ok(()) => Ok(keeper),
            Err(refusal) => {
                keeper.kill();
                Err(refusal)
            }
        }
    }

    /// One that a daemon before this one started; `pidfd` stands for it.
    pub fn found(id: ProcessId, pidfd: OwnedFd, control: OwnedFd) -> Self {
        Self {
            control: Arc::new(control),
            process: Process::Found(id, pidfd),
        }
    }

    /// Tells it of every process that is attached.
    fn introduce(&self, live: &Live) -> Result<(), Refusal> {
        for (owner, who) in &live.owners {
            // The process's end too, until it has come for it: it must not close with this daemon.
            let ends: Vec<BorrowedFd<'_>> = std::iter::once(&who.keeper_end)
                .chain(&who.channel)
                .map(AsFd::as_fd)
                .collect();
            self.say(&Control::Owner { owner: *owner }, &ends)
                .map_err(|e| Refusal::failed("talking to the keeper", e))?;
        }
        give_to_keeper(&live.lent, |message, fds| {
            // When that fails it has died: whoever talks to it next is told.
            let _ = self.say(message, fds);
        });
        Ok(())
    }

    fn wait_ready(&self, progress: &mut Progress<'_>) -> Result<(), Refusal> {
        let end = Instant::now() + START;
        let mut buf = vec![0; MAX_MESSAGE];
        loop {
            match recv(
                self.control.as_fd(),
                &mut buf,
                Deadline::after(Duration::from_millis(100)),
            ) {
                Ok(Packet::Message(len, _)) => match Notice::decode(&buf[..len]) {
                    Ok((_, Notice::Ready {})) => return Ok(()),
                    Ok((_, Notice::Failed { text })) => {
                        return Err(Refusal::failed("the keeper", text));
                    }
                    _ => return Err(Refusal::failed("the keeper", "it talks nonsense")),
                },
                Err(Errno::TIMEDOUT) if Instant::now() < end => progress.tick(),
                Err(Errno::TIMEDOUT) => {
                    return Err(Refusal::failed("the keeper", "it does not get ready"));
                }
                Ok(Packet::Closed) | Err(_) => {
                    return Err(Refusal::failed("the keeper", "it ended at once"));
                }
            }
        }
    }

    /// Sends it a message.
    ///
    /// # Errors
    /// It is gone, or hung: then it is killed, and its watcher replaces it.
    pub fn say(&self, message: &Control, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut buf = vec![0; MAX_MESSAGE];
        let len = message.encode(0, &mut buf).map_err(|_| Errno::MSGSIZE)?;
        let sent = send(
            self.control.as_fd(),
            &buf[..len],
            fds,
            Deadline::after(PATIENCE),
        );
        if sent == Err(Errno::TIMEDOUT) {
            tracing::error!(
                pid = self.pid(),
                "the keeper does not read its messages; replacing it"
            );
            // Its end closes the channel, which the watcher sees.
            let _ = rustix::net::shutdown(&*self.control, rustix::net::Shutdown::Both);
        }
        sent
    }

    /// Sends it a message that may be lost, without waiting.
    pub fn mention(&self, message: &Control) {
        let mut buf = [0; MAX_MESSAGE];
        if let Ok(len) = message.encode(0, &mut buf) {
            let _: Result<(), Errno> = send(self.control.as_fd(), &buf[..len], &[], Deadline::NOW);
        }
    }

    /// Process number.
    pub fn pid(&self) -> u32 {
        match &self.process {
            Process::Child(child) => child.id(),
            Process::Found(id, _) => id.pid,
        }
    }

    /// What tells it from other processes.
    pub fn id(&self) -> Option<ProcessId> {
        match &self.process {
            Process::Child(child) => ProcessId::of(child.id()),
            Process::Found(id, _) => Some(*id),
        }
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.process {
            Process::Child(child) => !matches!(child.try_wait(), Ok(None)),
            Process::Found(_, pidfd) => has_ended(pidfd.as_fd()),
        }
    }

    /// The daemon's end of the channel.
    pub fn control(&self) -> Arc<OwnedFd> {
        self.control.clone()
    }

    /// Tells it to end, and sees to it.
    pub fn dismiss(self) {
        let told = self.say(&Control::Exit {}, &[]);
        let reap = move || {
            let mut keeper = self;
            for _ in 0..100 {
                if told.is_err() || keeper.has_ended() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            keeper.kill();
        };
        // Without a thread the process stays unreaped until the daemon ends; it ends itself all the same.
        let _ = thread::Builder::new()
            .name("reap".into())
            .stack_size(64 << 10)
            .spawn(reap);
    }

    fn kill(self) {
        match self.process {
            Process::Child(mut child) => {
                let _: io::Result<()> = child.kill();
                if let Err(e) = child.wait() {
                    tracing::warn!("waiting for a keeper: {e}");
                }
            }
            Process::Found(_, pidfd) => {
                let _: rustix::io::Result<()> = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
    }
}

/// The process inherits the network namespace of the thread that makes it, and unless it becomes another one, its user.
fn spawn(ns: &NetNs, channel: OwnedFd, user: Option<(u32, u32)>) -> io::Result<Child> {
    let log = tracing::level_filters::LevelFilter::current()
        .to_string()
        .to_lowercase();
    ns.run(|| {
        // The file that this daemon runs from, even when another one has its name by now.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("flyoverd-keeper")
            .args(["--keeper", "--log", &log])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(channel))
            .stdout(Stdio::null())
            .process_group(0);
        if let Some((uid, gid)) = user {
            command.gid(gid).uid(uid);
        }
        command.spawn()
    })?
}

/// Follows what a stack's keepers say, and replaces them, in a thread of its own, for as long as the stack lives.
pub fn watch_keeper(daemon: Arc<Daemon>, stack: Arc<Stack>, net: Arc<Net>, control: Arc<OwnedFd>) {
    let name = format!("keeper-{}", stack.id);
    let follow = move || {
        let mut control = control;
        let mut deaths: Vec<Instant> = Vec::new();
        loop {
            follow_keeper(&daemon, &stack, &net, &control);
            deaths.retain(|at| at.elapsed() < DEATHS_WITHIN);
            deaths.push(Instant::now());
            let often = deaths.len() > MAX_DEATHS;
            if often {
                // Whatever kills them shall not keep a processor busy.
                thread::sleep(RESPITE);
            }
            match replace(&daemon, &stack, often) {
                Some(next) => control = next,
                None => return,
            }
        }
    };
    if let Err(e) = thread::Builder::new()
        .name(name)
        .stack_size(256 << 10)
        .spawn(follow)
    {
        tracing::error!("no thread to watch a keeper: {e}");
    }
}

/// Handles notices until the keeper's channel ends.
fn follow_keeper(daemon: &Daemon, stack: &Arc<Stack>, net: &Net, control: &OwnedFd) {
    let mut buf = vec![0; MAX_MESSAGE];
    loop {
        let len = match recv(control.as_fd(), &mut buf, Deadline::NEVER) {
            Ok(Packet::Message(len, _)) => len,
            Ok(Packet::Closed) | Err(_) => return,
        };
        match Notice::decode(&buf[..len]) {
            Ok((_, Notice::Idle { epoch })) => stack.end_if_idle(daemon, epoch),
            Ok((_, Notice::Resolve { ifindex, ip })) => net.cplane().resolve(ifindex, ip),
            Ok((_, Notice::DelFilter { id })) => drop(net.flows().remove(stack.id, id)),
            Ok((_, Notice::LeaseOver { lease })) => stack.lease_over(lease),
            Ok((_, Notice::Narrow { id, to })) => {
                let to: Vec<_> = to.iter().map(|c| (c.local, c.remote)).collect();
                net.flows().narrow(stack.id, id, &to);
            }
            Ok((_, Notice::ListFilters { after })) => {
                let ids = net.flows().ids_after(stack.id, after, MAX_FILTER_IDS);
                stack.mention(&Control::Filters {
                    ids: List::new(ids),
                });
            }
            Ok((_, Notice::Failed { text })) => tracing::error!(stack = stack.id, "keeper: {text}"),
            Ok((_, Notice::ChannelEnded { owner })) => stack.lost(daemon, owner, None),
            Ok((_, Notice::Ready {} | Notice::Offer { .. } | Notice::Channel { .. })) => {}
            Err(e) => tracing::error!(stack = stack.id, "notice of the keeper: {e}"),
        }
    }
}

/// The keeper is gone: starts another one with the same memory and descriptors, if the stack lives. One whose keepers
/// die `often` ends when no process uses it.
fn replace(daemon: &Daemon, stack: &Arc<Stack>, often: bool) -> Option<Arc<OwnedFd>> {
    let mut life = stack.life();
    let Life::Live(live) = &mut *life else {
        return None;
    };
    if let Some(old) = live.keeper.take() {
        tracing::warn!(stack = stack.id, pid = old.pid(), "the keeper died");
        old.kill();
    }
    if often && live.owners.is_empty() {
        stack.end(daemon, &mut life);
        return None;
    }
    for _ in 0..STARTS {
        match KeeperProcess::start(stack, live, Start::next(live), &mut Progress::none()) {
            Ok(keeper) => {
                let control = keeper.control();
                live.keeper = Some(keeper);
                stack.note(daemon, live);
                return Some(control);
            }
            Err(e) => tracing::error!(stack = stack.id, "no new keeper: {e}"),
        }
    }
    tracing::error!(
        stack = stack.id,
        "the stack goes on without a keeper, and ends with its last process"
    );
    if live.owners.is_empty() {
        stack.end(daemon, &mut life);
    }
    None
}
