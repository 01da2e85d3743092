//! Clients that did not wait for an answer. The daemon was stopped, or the whole machine; what it does now, the client does
//! not know of, and its kernel socket may be connected by now.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{End, Session};
use crate::stacks::Member;

impl Session {
    /// The client has not waited for the answer to its last request.
    pub(super) fn note_gave_up(&mut self) {
        self.gave_up = true;
        if let (Some(id), Some(member)) = (self.added.take(), &self.member) {
            tracing::debug!(
                pid = self.peer.pid,
                id,
                "a filter that nobody waited for goes"
            );
            member.net.flows().remove(member.stack.id, id);
        }
    }

    /// A client sends nothing before it has its answer, unless it gives up.
    pub(super) fn is_given_up(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::from_borrowed_fd(self.sock.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
    }

    /// The process lives and has only ended its connection, after it had given up: it keeps its place in the stack, for when
    /// it comes back.
    pub(super) fn await_end(&self, member: &Member) {
        member.part();
        if self.wait(false, None) == Err(End::Gone) {
            member
                .stack
                .lost(&self.daemon, member.owner, self.peer.id());
        }
    }
}
