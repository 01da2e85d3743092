//! From a daemon that died to the next one. The next one calls, with a datagram to the socket that holds the stack's
//! number: there is nothing to look for, and nothing to do until then. What it calls with proves it: the stack's token,
//! which only root can read where the dead daemon noted it, and its user, which the kernel attests. Then it is offered
//! everything that a daemon has of a stack. It knows from the notes what that must be.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use flyover_proto::{Call, Deadline, List, MAX_MESSAGE, Notice, Token, send};
use rustix::cmsg_space;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{CALLS, CONTROL, Duty, MS, add};
use crate::keeper::served::monotonic;

/// Datagrams looked at in a row. Anybody in the namespace can send some.
const BATCH: usize = 16;
/// Pause after datagrams that were no calls, ns: they shall not keep the keeper busy.
const PAUSE: u64 = 20 * MS;
/// How long a caller may leave a part of the offer unread.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Estate {
    token: Token,
    /// The daemon's user.
    uid: u32,
    memory: OwnedFd,
    /// Keeps the flow programs attached; an ordinary user's daemon has none, and no successor.
    keepalive: Option<OwnedFd>,
    /// Keeps the stack's number taken, and hears calls.
    claim: OwnedFd,
    /// Calls are listened to again at this time.
    again: Option<u64>,
}

/// A datagram that came.
enum Heard {
    Call(OwnedFd),
    Noise,
}

impl Estate {
    pub(super) fn new(
        token: Token,
        uid: u32,
        memory: OwnedFd,
        keepalive: Option<OwnedFd>,
        claim: OwnedFd,
    ) -> Self {
        Self {
            token,
            uid,
            memory,
            keepalive,
            claim,
            again: None,
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<u64> {
        self.again
    }

    fn hear(&self) -> Result<Heard, Errno> {
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(
            &self.claim,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        )?;
        let (mut channel, mut uid) = (None, None);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(fds) => channel = fds.last(),
                RecvAncillaryMessage::ScmCredentials(cred) => uid = Some(cred.uid.as_raw()),
                _ => {}
            }
        }
        let call = Call::decode(bytes.get(..got.bytes).unwrap_or_default());
        let proven = matches!(call, Ok((_, Call::Adopt { token })) if token == self.token);
        Ok(match channel {
            Some(channel) if proven && uid == Some(self.uid) => Heard::Call(channel),
            _ => Heard::Noise,
        })
    }
}

impl Duty {
    /// The daemon is gone: listens to the next one.
    pub(super) fn await_call(&mut self) {
        if self.estate.keepalive.is_none() {
            return;
        }
        let events = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        let data = epoll::EventData::new_u64(CALLS);
        if let Err(e) = epoll::add(&self.epoll, &self.estate.claim, data, events) {
            tracing::error!("listening to the next daemon: {e}");
        }
    }

    /// Listens again, after a pause.
    pub(super) fn listen_again(&mut self) {
        if self.estate.again.is_none_or(|at| at > monotonic()) {
            return;
        }
        self.estate.again = None;
        if self.control.is_none() {
            let events = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
            let data = epoll::EventData::new_u64(CALLS);
            if let Err(e) = epoll::modify(&self.epoll, &self.estate.claim, data, events) {
                tracing::error!("listening to the next daemon: {e}");
            }
        }
    }

    pub(super) fn answer_calls(&mut self) {
        for _ in 0..BATCH {
            match self.estate.hear() {
                Ok(Heard::Call(channel)) => {
                    if self.answer(channel) {
                        return;
                    }
                }
                Ok(Heard::Noise) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.estate.again = Some(monotonic().saturating_add(PAUSE));
    }

    /// From here on the caller is the daemon, until it hangs up.
    fn answer(&mut self, channel: OwnedFd) -> bool {
        let offered = self.offer(channel.as_fd());
        let followed = offered.and_then(|()| add(self.epoll.as_fd(), channel.as_fd(), CONTROL));
        if let Err(e) = followed {
            tracing::error!("offering the stack to another daemon: {e}");
            return false;
        }
        if let Err(e) = epoll::delete(&self.epoll, &self.estate.claim) {
            tracing::error!("the calls of daemons: {e}");
        }
        self.control = Some(channel);
        true
    }

    fn offer(&self, to: BorrowedFd<'_>) -> Result<(), Errno> {
        let (nics, nic_fds) = self.served.nic_list();
        let estate = &self.estate;
        let mut fds = vec![
            estate.memory.as_fd(),
            self.deaths.as_fd(),
            estate.claim.as_fd(),
        ];
        fds.extend(estate.keepalive.as_ref().map(|fd| fd.as_fd()));
        fds.extend(nic_fds);
        let offer = Notice::Offer {
            stack_id: self.served.stack_id(),
            epoch: self.epoch,
            owners: u32::try_from(self.channels.len()).unwrap_or(u32::MAX),
            nic_gen: self.served.stack().nic_gen(),
            nics: List::new(nics),
            deaf: self.uninformed,
        };
        say(to, &offer, &fds)?;
        for (owner, channel) in &self.channels {
            let ends: Vec<BorrowedFd<'_>> = std::iter::once(channel)
                .chain(self.unclaimed.get(owner))
                .map(AsFd::as_fd)
                .collect();
            say(to, &Notice::Channel { owner: *owner }, &ends)?;
        }
        Ok(())
    }

    /// The caller knows the stack: it is the daemon.
    pub(super) fn adopted(&mut self, len: u64, dims: &[u64], tables: Option<OwnedFd>) {
        let replaced = tables
            .ok_or(std::io::ErrorKind::InvalidInput.into())
            .and_then(|tables| self.served.replace_tables(tables.as_fd(), len, dims));
        if let Err(e) = replaced {
            tracing::error!("the control plane of the new daemon: {e}");
        }
        self.told_idle = false;
        self.served.narrow_orphans();
        self.audit.order(monotonic());
        tracing::info!("another daemon has taken the stack over");
    }
}

fn say(to: BorrowedFd<'_>, notice: &Notice, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut buf = vec![0; MAX_MESSAGE];
    let len = notice.encode(0, &mut buf).map_err(|_| Errno::MSGSIZE)?;
    send(to, &buf[..len], fds, Deadline::after(PATIENCE))
}
