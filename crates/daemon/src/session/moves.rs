//! Connections that go to the kernel and come from it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use flyover_proto::{Connection, FdBag, Moved, RefusedCode, Reply, TcpImage};
use rustix::net::sockopt::socket_cookie;

use super::{Answer, Progress, Session};
use crate::handover;
use crate::handover::holders;
use crate::handover::takeover::{self, Taken, Wanted};
use crate::refusal::Refusal;
use crate::stacks::Member;

/// A connection that was taken from the kernel and is perhaps not in the stack yet.
pub(super) struct Unnoted {
    claim: Wanted,
    taken: Taken,
    sock: OwnedFd,
}

impl Unnoted {
    pub(super) fn undo(self, member: &Member) -> Option<Moved> {
        let connection = self.claim.flow;
        let pass = takeover::undo(&member.net, &self.claim, self.taken, self.sock.as_fd())?;
        Some(Moved { connection, pass })
    }
}

/// Sockets of one client that are known to have no other holder. They leave with the takeover.
const MOST_SOLE: usize = 1024;

/// The kernel's name of the socket.
fn cookie(sock: BorrowedFd<'_>) -> Result<u64, Refusal> {
    socket_cookie(sock).map_err(|e| Refusal::failed("asking for its cookie", e))
}

impl Session {
    /// The socket that a request is about.
    fn socket(&self, fds: &mut FdBag, request: &str) -> Result<OwnedFd, Refusal> {
        self.daemon.power.needed()?;
        fds.pop()
            .ok_or_else(|| Refusal::bad(format!("no socket to {request}")))
    }

    pub(super) fn hand_over(
        &mut self,
        seq: u32,
        image: &TcpImage,
        mut fds: FdBag,
    ) -> Result<(), Answer> {
        let sock = self.socket(&mut fds, "hand over to")?;
        let member = self.member()?;
        let most = self.daemon.opts.stack_filters as usize;
        let stack = member.stack.id;
        let id = handover::perform(&member.net, stack, most, image, sock.as_fd(), fds.pop())
            .inspect_err(|e| tracing::info!(pid = self.peer.pid, "no handover: {e}"))?;
        self.moved = Some(Moved {
            connection: Connection {
                local: image.local,
                remote: image.remote,
            },
            pass: id,
        });
        Ok(self.reply(seq, &Reply::FilterAdded { id }, &[])?)
    }

    pub(super) fn watch(
        &mut self,
        seq: u32,
        flow: Connection,
        sole: bool,
        mut fds: FdBag,
    ) -> Result<(), Answer> {
        let sock = self.socket(&mut fds, "watch")?;
        let wanted = self.wanted(flow, 0, false)?;
        let id = takeover::watch(&self.member()?.net, &wanted, sock.as_fd())?;
        self.unsure = sole.then_some(sock);
        Ok(self.reply(seq, &Reply::FilterAdded { id }, &[])?)
    }

    /// After an answer, since it takes milliseconds for which no client waits. Who holds the socket later on had to get
    /// it from a process of the stack, whose library gives it to the kernel before.
    pub(super) fn look_for_holders(&mut self, seq: u32) {
        let Some(sock) = self.unsure.take() else {
            return;
        };
        let found = self.member().and_then(|member| {
            let mut progress = Progress::to(self.sock.as_fd(), seq);
            holders::only(&member.processes(&mut progress), sock.as_fd())?;
            cookie(sock.as_fd())
        });
        match found {
            Ok(cookie) if self.sole.len() < MOST_SOLE => self.sole.push(cookie),
            Ok(_) => {}
            Err(e) => tracing::info!(pid = self.peer.pid, "not to be taken over: {e}"),
        }
    }

    /// Where it stands among the sockets that have no other holder.
    fn known_sole(&self, sock: BorrowedFd<'_>) -> Option<usize> {
        let cookie = cookie(sock).ok()?;
        self.sole.iter().position(|known| *known == cookie)
    }

    pub(super) fn take_over(
        &mut self,
        seq: u32,
        claim: Wanted,
        sole: bool,
        mut fds: FdBag,
    ) -> Result<(), Answer> {
        let sock = self.socket(&mut fds, "take over")?;
        let known = self.known_sole(sock.as_fd());
        if sole && known.is_none() {
            self.unsure = Some(sock);
            let text = "another process may hold the socket: that is looked into for the next try";
            return Err(Refusal::new(RefusedCode::Failed, text).into());
        }
        let taken = takeover::perform(&self.member()?.net, &claim, sock.as_fd())
            .inspect_err(|e| tracing::info!(pid = self.peer.pid, "no takeover: {e}"))?;
        // Not before: a try that came to nothing is made again.
        known.map(|at| self.sole.swap_remove(at));
        let reply = Reply::TakenOver {
            image: taken.image,
            id: taken.filter,
        };
        let file: Vec<_> = taken.data.iter().map(AsFd::as_fd).collect();
        let told = self.reply(seq, &reply, &file);
        self.taken = Some(Unnoted { claim, taken, sock });
        Ok(told?)
    }

    pub(super) fn wanted(
        &self,
        flow: Connection,
        pass: u32,
        seen: bool,
    ) -> Result<Wanted, Refusal> {
        Ok(Wanted {
            stack: self.member()?.stack.id,
            most: self.daemon.opts.stack_filters as usize,
            flow,
            pass,
            seen,
        })
    }
}
