//! What the daemon and the processes tell the keeper.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use flyover_core::sock::flag;
use flyover_core::{IcmpError, SockRef, Unfinished};
use flyover_proto::{Control, Deadline, FdBag, KeeperMsg, Notice, Packet, recv};
use flyover_shm::Idx;
use flyover_wire::{FlowKey, Seq};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::{CHANNELS, Duty, add};
use crate::keeper::served::monotonic;
use crate::keeper::sockets::watch;

/// Messages taken from one channel before the others have their turn.
const TURN: usize = 64;
/// Turns that a process which is gone still gets: its channel ends, and so do they, unless it has sent very much.
const LAST_TURNS: usize = 16;
/// ICMP errors that wait for the stack lock.
const MAX_ICMP: usize = 128;

impl Duty {
    /// Messages of the daemon.
    pub(super) fn control(&mut self) {
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
                        "the daemon is gone; the stack goes on, until another one calls or its processes and sockets are gone"
                    );
                    // By name: the channel that the keeper was started with stays open as its standard input.
                    if let Some(control) = self.control.take() {
                        let _: Result<(), Errno> = epoll::delete(&self.epoll, &control);
                    }
                    self.await_call();
                    let left = |owner: &u16| !self.channels.contains_key(owner);
                    let gone: Vec<u16> = self.attached.iter().copied().filter(left).collect();
                    for owner in gone {
                        self.owner_gone(owner, Unfinished::Unknown);
                    }
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
                self.unclaimed.remove(&owner);
                self.unclaimed
                    .extend(fds.pop().map(|theirs| (owner, theirs)));
            }
            Control::OwnerGone {
                owner,
                epoch,
                moved,
            } => {
                self.epoch = epoch;
                let unfinished = moved.map_or(Unfinished::Stay, |m| Unfinished::Moved {
                    local: m.connection.local,
                    remote: m.connection.remote,
                    filter: m.pass,
                });
                self.owner_gone(owner, unfinished);
            }
            Control::OwnerLost { owner, epoch } => {
                self.epoch = epoch;
                self.owner_gone(owner, Unfinished::Unknown);
            }
            Control::Adopted { cplane_len, dims } => self.adopted(cplane_len, &dims, fds.pop()),
            Control::Census { sockets } => self.hear_census(sockets, fds.pop()),
            Control::Serving {} => self.served.stack().note_daemon(),
            Control::Hold { lease } => self.lent.hold(lease, &mut fds),
            Control::Exit {} => self.done = true,
            Control::Filters { ids } => self.hear_filters(&ids),
            Control::Icmp {
                proto,
                local,
                remote,
                seq,
                mtu,
                errno,
            } => {
                let flow = FlowKey {
                    proto,
                    local,
                    remote,
                };
                let what = match mtu {
                    0 => IcmpError::Unreachable(errno),
                    mtu => IcmpError::FragNeeded(mtu),
                };
                // Whatever is lost here, the network repeats it.
                if self.pending.icmp.len() < MAX_ICMP {
                    self.pending.icmp.push((flow, seq.map(Seq), what));
                }
            }
        }
    }

    /// What is not open has ended, as if it had been reported.
    fn hear_census(&mut self, sockets: u64, list: Option<OwnedFd>) {
        let mut doubtful = std::mem::take(&mut self.doubtful);
        let file = list.map(std::fs::File::from);
        let read = |at: u64| {
            let mut cookie = [0; 8];
            let got = file.as_ref()?.read_exact_at(&mut cookie, at * 8);
            got.ok().map(|()| u64::from_ne_bytes(cookie))
        };
        for at in 0..sockets {
            let Some(cookie) = read(at) else {
                tracing::error!("a census that cannot be read");
                return;
            };
            doubtful.remove(&cookie);
        }
        (self.uninformed, self.deaths.lost) = (false, false);
        self.pending.cookies.extend(doubtful);
    }

    pub(super) fn owner_gone(&mut self, owner: u16, unfinished: Unfinished) {
        // Its last words: a listener may live on in a program that it executed, or with its children.
        for _ in 0..LAST_TURNS {
            if !self.channels.contains_key(&owner) {
                break;
            }
            let _poked: bool = self.channel(owner);
        }
        self.attached.remove(&owner);
        self.channels.remove(&owner);
        self.unclaimed.remove(&owner);
        self.dead.insert(owner);
        self.pending.gone.insert(owner, unfinished);
        self.look_due = true;
        self.look_for_closed();
        self.parked.sweep(self.served.stack());
        self.told_idle = false;
    }

    /// A process ended, or became another program. The other ends of its pairs are to hear at once that it has closed them: who
    /// waits for the process expects that. The kernel walks over all its connections: in at most a tenth of the time.
    pub(super) fn look_for_closed(&mut self) {
        let start = monotonic();
        if !self.look_due || start < self.next_look {
            return;
        }
        self.look_due = false;
        let stack = self.served.stack();
        let mut families = [(false, AddressFamily::INET6), (false, AddressFamily::INET)];
        for sock in stack.each_sock().map(|s| stack.sock(s.id)) {
            if sock.has(flag::PAIRED) {
                families[usize::from(sock.local().ip.is_v4())].0 = true;
            }
        }
        for (_, family) in families.into_iter().filter(|(used, _)| *used) {
            self.deaths.ask_for_closed(family);
            let cookies = &mut self.pending.cookies;
            self.deaths.drain(|cookie| cookies.extend([cookie]));
            self.next_walk = 0;
        }
        let end = monotonic();
        self.next_look = end.saturating_add(end.saturating_sub(start).saturating_mul(9));
    }

    /// Messages of a process; true when there was a poke.
    pub(super) fn channel(&mut self, owner: u16) -> bool {
        let mut poked = false;
        for _ in 0..TURN {
            let Some(channel) = self.channels.get(&owner) else {
                return poked;
            };
            match recv(channel.as_fd(), &mut self.buf, Deadline::NOW) {
                Ok(Packet::Message(len, mut fds)) => {
                    self.unclaimed.remove(&owner);
                    match KeeperMsg::decode(&self.buf[..len]) {
                        Ok((_, KeeperMsg::Poke {})) => poked = true,
                        Ok((_, message)) => self.serve(message, &mut fds),
                        Err(e) => tracing::debug!(owner, "message of a process: {e}"),
                    }
                }
                Err(Errno::TIMEDOUT) => return poked,
                Ok(Packet::Closed) | Err(_) => {
                    self.channels.remove(&owner);
                    self.look_due = true;
                    self.look_for_closed();
                    // A daemon watches the process itself, unless it only knows it from an earlier one.
                    if self.control.is_none() {
                        self.owner_gone(owner, Unfinished::Unknown);
                    } else {
                        self.outbox.push_back(Notice::ChannelEnded { owner });
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
}
