//! One client: a thread that reads its requests and answers them. Whatever the client does wrong concerns this thread
//! only; it cannot stall others, since every wait here ends with the client, the daemon, or a time-out.

mod moves;
mod patience;
mod progress;
mod shown;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use flyover_core::LAYOUT_HASH;
use flyover_proto::{
    Deadline, FdBag, FilterSpec, List, MAX_MESSAGE, MAX_TEXT, Moved, Packet, RefusedCode, Reply,
    Request, StackName, Text, VERSION, recv, send,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::daemon::{Daemon, Ticket};
use crate::filters::check_proof;
use crate::peer::{Peer, has_ended};
use crate::rate::TokenBucket;
use crate::refusal::Refusal;
use crate::stacks::Member;
use crate::{check, ps};

use moves::Unnoted;
pub use progress::Progress;

/// How long a client may leave an answer unread.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a client may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// Requests per second in the long run, and at once. A client beyond it waits.
const RATE: u32 = 50_000;
const BURST: u32 = 5_000;

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The process ended, closed its connection, or does not keep to the protocol.
    Gone,
    /// The daemon ends; the process goes on with its stack.
    Stopping,
}

/// One client.
pub struct Session {
    daemon: Arc<Daemon>,
    sock: OwnedFd,
    peer: Peer,
    greeted: bool,
    /// The client has this daemon's stack layout.
    same_layout: bool,
    /// The process counts as a client until it ends, whatever becomes of the connection.
    stays: bool,
    member: Option<Member>,
    /// What the last request gave to the kernel. Whoever asks for something else has noted it in the stack.
    moved: Option<Moved>,
    /// Cookies of sockets that nobody outside the stack holds.
    sole: Vec<u64>,
    /// A socket of which that is to be found out.
    unsure: Option<OwnedFd>,
    /// What it took from the kernel, likewise.
    taken: Option<Unnoted>,
    /// The filter that the last request added.
    added: Option<u32>,
    /// The client did not wait for the answer to its last request.
    gave_up: bool,
    bucket: TokenBucket,
    buf: Box<[u8]>,
    _ticket: Ticket,
}

impl Session {
    /// A session with a client that has just connected.
    pub fn new(daemon: Arc<Daemon>, sock: OwnedFd, peer: Peer, ticket: Ticket) -> Self {
        Self {
            daemon,
            sock,
            peer,
            greeted: false,
            same_layout: false,
            stays: false,
            member: None,
            moved: None,
            sole: Vec::new(),
            unsure: None,
            taken: None,
            added: None,
            gave_up: false,
            bucket: TokenBucket::new(RATE, BURST, Instant::now()),
            buf: vec![0; MAX_MESSAGE].into_boxed_slice(),
            _ticket: ticket,
        }
    }

    /// Serves until the client is gone or the daemon ends.
    pub fn run(mut self) {
        let start = Instant::now();
        let end = loop {
            let hello = (!self.greeted).then(|| HELLO.saturating_sub(start.elapsed()));
            match self.wait(true, hello) {
                Ok(true) => {}
                Ok(false) => break self.broken("no hello in time"),
                Err(end) => break end,
            }
            if let Err(end) = self.turn() {
                break end;
            }
        };
        if let (End::Gone, Some(member)) = (end, &self.member) {
            // Nobody has noted in the stack what was taken from the kernel: the kernel gets it back.
            let back = self.taken.take().and_then(|t| t.undo(member));
            if self.gave_up && !has_ended(self.peer.pidfd.as_fd()) {
                self.await_end(member);
            } else {
                member.leave(&self.daemon, back.or(self.moved));
            }
        }
        if self.stays && end == End::Gone {
            // Returns at once when it was the process that ended.
            let _: Result<bool, End> = self.wait(false, None);
        }
    }

    /// Waits for a request (if `request`), at most `limit`; false when the time is over.
    fn wait(&self, request: bool, limit: Option<Duration>) -> Result<bool, End> {
        let limit = limit.map(|t| Timespec {
            tv_sec: t.as_secs() as i64,
            tv_nsec: t.subsec_nanos().into(),
        });
        // The connection may be held by a child too: the process itself is watched as well.
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.daemon.stop_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.peer.pidfd.as_fd(), PollFlags::IN),
        ];
        if request {
            fds.push(PollFd::from_borrowed_fd(self.sock.as_fd(), PollFlags::IN));
        }
        loop {
            match poll(&mut fds, limit.as_ref()) {
                Ok(0) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(_) => return Err(End::Gone),
                Ok(_) if !fds[0].revents().is_empty() => return Err(End::Stopping),
                // What a process sent last is still done, a filter's removal for instance.
                Ok(_)
                    if fds
                        .get(2)
                        .is_some_and(|fd| fd.revents().contains(PollFlags::IN)) =>
                {
                    return Ok(true);
                }
                Ok(_) => return Err(End::Gone),
            }
        }
    }

    /// One request.
    fn turn(&mut self) -> Result<(), End> {
        while let Err(pause) = self.bucket.take(Instant::now()) {
            self.wait(false, Some(pause))?;
        }
        let (len, fds) = match recv(self.sock.as_fd(), &mut self.buf, Deadline::NOW) {
            Ok(Packet::Message(len, fds)) => (len, fds),
            Err(Errno::TIMEDOUT) => return Ok(()),
            Ok(Packet::Closed) | Err(_) => return Err(End::Gone),
        };
        let (seq, request) = Request::decode(&self.buf[..len])
            .map_err(|e| self.broken(&format!("a message that cannot be read: {e}")))?;
        if !self.greeted && !matches!(request, Request::Hello { .. }) {
            return Err(self.broken("no hello"));
        }
        let answered = match self.answer(seq, request, fds) {
            Ok(()) => Ok(()),
            Err(Answer::Refused(refusal)) => {
                let _: u64 = self.daemon.denials.refused.fetch_add(1, Relaxed);
                tracing::debug!(
                    pid = self.peer.pid,
                    uid = self.peer.uid,
                    "refused: {refusal}"
                );
                self.reply(seq, &refusal.reply(), &[])
            }
            Err(Answer::End(end)) => Err(end),
        };
        self.look_for_holders(seq);
        answered
    }

    /// The client does not keep to the protocol.
    fn broken(&self, what: &str) -> End {
        let _: u64 = self.daemon.denials.broken.fetch_add(1, Relaxed);
        tracing::debug!(pid = self.peer.pid, "{what}");
        End::Gone
    }

    fn answer(&mut self, seq: u32, request: Request, mut fds: FdBag) -> Result<(), Answer> {
        if matches!(request, Request::GaveUp {}) {
            self.note_gave_up();
            return Ok(());
        }
        self.moved = None;
        self.taken = None;
        self.added = None;
        self.gave_up = false;
        match request {
            Request::Hello {
                version,
                layout_hash,
            } => self.hello(seq, version, layout_hash),
            Request::Attach { attach } => {
                if self.member.is_some() {
                    return Err(Refusal::bad("attached already").into());
                }
                if !self.same_layout {
                    return Err(Refusal::new(
                        RefusedCode::Layout,
                        "the library is of another build",
                    )
                    .into());
                }
                let mut progress = Progress::to(self.sock.as_fd(), seq);
                let (member, grant) = if attach.stack == StackName::Inherited {
                    let memory = fds
                        .pop()
                        .ok_or_else(|| Refusal::bad("no memory as proof"))?;
                    Member::attach_inherited(
                        &self.daemon,
                        &self.peer,
                        memory.as_fd(),
                        &mut progress,
                    )?
                } else {
                    Member::attach(&self.daemon, &self.peer, &attach, &mut progress)?
                };
                // From here on the member leaves again, however the session ends.
                self.member = Some(member);
                let reply = Reply::Attached {
                    attached: grant.attached.clone(),
                };
                Ok(self.reply(seq, &reply, &grant.fds())?)
            }
            Request::Rejoin { owner } => self.rejoin(seq, owner, fds.pop()),
            Request::Nics {} => self.nics(seq),
            Request::AddFilter { spec } => {
                self.daemon.power.needed()?;
                let proof = fds
                    .pop()
                    .ok_or_else(|| Refusal::bad("no socket as proof"))?;
                if self.is_given_up() {
                    return Ok(());
                }
                let id = self.add_filter(spec, proof.as_fd())?;
                self.added = Some(id);
                Ok(self.reply(seq, &Reply::FilterAdded { id }, &[])?)
            }
            Request::DelFilter { id } => {
                if let Some(member) = &self.member {
                    member.net.flows().remove(member.stack.id, id);
                }
                Ok(())
            }
            Request::Narrow { id, to } => {
                if let Some(member) = &self.member {
                    let to: Vec<_> = to.iter().map(|c| (c.local, c.remote)).collect();
                    member.net.flows().narrow(member.stack.id, id, &to);
                }
                Ok(())
            }
            Request::Handover { image } => self.hand_over(seq, &image, fds),
            Request::Watch { flow, sole } => self.watch(seq, flow, sole, fds),
            Request::Takeover {
                flow,
                pass,
                seen,
                sole,
            } => {
                let claim = self.wanted(flow, pass, seen)?;
                self.take_over(seq, claim, sole, fds)
            }
            Request::Borrow { inode } => {
                let own = fds.pop().ok_or_else(|| Refusal::bad("no connection"))?;
                let mut progress = Progress::to(self.sock.as_fd(), seq);
                let end = self
                    .member()?
                    .other_end(own.as_fd(), inode, &mut progress)?;
                Ok(self.reply(seq, &Reply::Borrowed {}, &[end.as_fd()])?)
            }
            Request::Lend { ip, have, lease } => {
                self.daemon.power.needed()?;
                let mut progress = Progress::to(self.sock.as_fd(), seq);
                let wish = (ip, have as usize, lease);
                let ports = self.member()?.lend(&self.daemon, wish, &mut progress)?;
                let ports = List::new(ports);
                Ok(self.reply(seq, &Reply::Lent { ports }, &[])?)
            }
            Request::Resolve { ifindex, ip } => {
                if let Some(member) = &self.member {
                    member.net.cplane().resolve(ifindex, ip);
                }
                Ok(())
            }
            Request::GaveUp {} => Ok(()),
            Request::Stay {} => {
                self.stays = true;
                Ok(())
            }
            Request::Ps {} => Ok(self.text(seq, &ps::json(&self.daemon, &self.peer))?),
            Request::Check {} => {
                let json = check::json(&self.daemon, &self.peer)?;
                Ok(self.text(seq, &json)?)
            }
            Request::StackFd { stack_id } => self.stack_fd(seq, stack_id),
        }
    }

    fn hello(&mut self, seq: u32, version: u32, layout_hash: u64) -> Result<(), Answer> {
        if version != VERSION {
            let text = format!(
                "the daemon speaks version {VERSION} of the protocol, not {version}: restart flyoverd"
            );
            return Err(Refusal::new(RefusedCode::Version, text).into());
        }
        if layout_hash != 0 && layout_hash != LAYOUT_HASH {
            let text = "the library and the daemon are of different builds: restart flyoverd";
            return Err(Refusal::new(RefusedCode::Layout, text).into());
        }
        if !self.daemon.power.serves(self.peer.uid) {
            let text = "this flyoverd is another user's";
            return Err(Refusal::new(RefusedCode::Denied, text).into());
        }
        self.greeted = true;
        self.same_layout = layout_hash == LAYOUT_HASH;
        let welcome = Reply::Welcome {
            pid: std::process::id(),
            layout_hash: LAYOUT_HASH,
        };
        Ok(self.reply(seq, &welcome, &[])?)
    }

    /// A process that a daemon before this one attached.
    fn rejoin(&mut self, seq: u32, owner: u16, memory: Option<OwnedFd>) -> Result<(), Answer> {
        if self.member.is_some() || !self.same_layout {
            return Err(Refusal::bad("attached already, or of another build").into());
        }
        let memory = memory.ok_or_else(|| Refusal::bad("no memory as proof"))?;
        let mut progress = Progress::to(self.sock.as_fd(), seq);
        let (daemon, peer) = (&self.daemon, &self.peer);
        let (member, channel) = Member::rejoin(daemon, peer, owner, memory.as_fd(), &mut progress)?;
        let net = member.net.clone();
        self.member = Some(member);
        let reply = Reply::Rejoined {
            cplane_len: net.cplane().len(),
            dims: List::new(net.cplane().dims().to_words()),
        };
        let mut fds = vec![net.cplane().memfd()];
        fds.extend(channel.as_ref().map(|fd| fd.as_fd()));
        Ok(self.reply(seq, &reply, &fds)?)
    }

    fn member(&self) -> Result<&Member, Refusal> {
        self.member
            .as_ref()
            .ok_or_else(|| Refusal::bad("not attached"))
    }

    fn add_filter(&self, spec: FilterSpec, proof: BorrowedFd<'_>) -> Result<u32, Refusal> {
        let member = self.member()?;
        check_proof(&spec, proof, member.net.cookie())?;
        member.net.flows().add(
            member.stack.id,
            spec,
            self.daemon.opts.stack_filters as usize,
        )
    }

    /// A text in as many pieces as it needs.
    fn text(&self, seq: u32, text: &str) -> Result<(), End> {
        let mut rest = text;
        loop {
            let piece = Text::<MAX_TEXT>::new(rest);
            rest = &rest[piece.as_str().len()..];
            self.reply(
                seq,
                &Reply::Text {
                    more: !rest.is_empty(),
                    text: piece,
                },
                &[],
            )?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn reply(&self, seq: u32, reply: &Reply, fds: &[BorrowedFd<'_>]) -> Result<(), End> {
        let mut buf = vec![0; MAX_MESSAGE];
        let len = reply.encode(seq, &mut buf).map_err(|e| {
            tracing::error!("an answer does not fit: {e}");
            End::Gone
        })?;
        send(
            self.sock.as_fd(),
            &buf[..len],
            fds,
            Deadline::after(PATIENCE),
        )
        .map_err(|_| End::Gone)
    }
}

/// Why there is no answer.
enum Answer {
    Refused(Refusal),
    End(End),
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<End> for Answer {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}
