//! `SO_LINGER` with a time: the close of the last descriptor waits until the peer has everything.

use core::sync::atomic::Ordering;

use flyover_core::sock::{Sock, flag};
use flyover_core::{SockRef, TcpState};

use crate::enter;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::os::EpollEvent;
use crate::process::{Ep, Fd, Sockets};
use crate::wait::Deadline;

/// The kernel has the connection, or is to get it.
const MOVES: u32 = flag::HANDED_OVER | flag::HANDING_OVER;
/// How long a lingering close sleeps before it looks for the first time, and at most, ns.
const SHORTEST_NAP: u64 = 50_000;
const LONGEST_NAP: u64 = 1_000_000;

/// How long the close of this connection may take, ns; `None`: it does not wait.
pub(crate) fn linger_span(ep: &Ep) -> Option<u64> {
    let s = ep.shared();
    let seconds = s.has(flag::LINGER).then(|| s.linger.get())?;
    (seconds != 0).then(|| u64::from(seconds).saturating_mul(1_000_000_000))
}

/// A close that waits, or of which the peer is to hear at once, if the descriptor is the last one in all
/// processes, which only the kernel knows.
pub(crate) struct Doubt {
    ep: Ep,
    /// The other end of a pair.
    other: Option<SockRef>,
    /// Longest wait, ns.
    span: Option<u64>,
    /// An epoll set with the kernel socket in it, and nothing else.
    set: i32,
}

impl Sockets {
    /// For a descriptor of which other processes may have copies: puts the kernel socket into an epoll set, from which
    /// it vanishes when its last descriptor is closed (epoll(7)). The keeper hears of a last close, too, but later than the
    /// kernel would tell the peer: what the program sends elsewhere after its `close` must not overtake it.
    pub(crate) fn doubtful_close(&self, fd: i32) -> Option<Doubt> {
        if !matches!(self.table.load(fd), Entry::Tcp(_))
            || self.is_sole_holder(fd)
            || self.is_copied(fd)
        {
            return None;
        }
        let Fd::Tcp(ep) = self.look(fd) else {
            return None;
        };
        let span = linger_span(&ep);
        let paired = ep.shared().has(flag::PAIRED);
        let open = matches!(
            ep.shared().tcp_state(),
            TcpState::Established | TcpState::CloseWait
        );
        if span.is_none() && !paired && !open {
            return None;
        }
        let set = self.os.epoll_create(libc::EPOLL_CLOEXEC).ok()?;
        // A kernel socket that is not connected hangs up; one that is can be written to: it stands beside a pair, or the
        // connection goes to it just now.
        let shows = EpollEvent {
            events: (libc::EPOLLOUT | libc::EPOLLIN) as u32,
            data: 0,
        };
        if let Err(_e) = self.os.epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, Some(shows)) {
            let _: Result<(), Errno> = self.os.close(set);
            return None;
        }
        let other = ep.att.stack.local_peer(ep.sock.id);
        Some(Doubt {
            ep,
            other,
            span,
            set,
        })
    }

    /// The descriptor is closed. The kernel socket reports something for as long as it exists, unless the connection was
    /// moved into it meanwhile, by another holder, and its buffer is full.
    pub(crate) fn close_if_last(&self, doubt: &Doubt) {
        let ep = &doubt.ep;
        let mut event = [EpollEvent::default()];
        let exists = self.os.epoll_collect(doubt.set, &mut event) != Ok(0);
        let _: Result<(), Errno> = self.os.close(doubt.set);
        if exists {
            return;
        }
        let _: bool = ep.att.poll(64);
        ep.att.locked(|l| {
            // The keeper may have been faster. Of the kernel's connections it hears.
            let ours = |s: &Sock| s.flags.load(Ordering::Relaxed) & MOVES == 0;
            if ep.att.stack.get(ep.sock).is_some_and(ours) {
                l.close(ep.sock.id);
            }
        });
        if let Some(span) = doubt.span {
            self.linger(ep, doubt.other, Deadline::after(self.os.now(), span));
        }
    }

    /// Waits until the peer (`other`: in this stack) has everything and our FIN, the deadline has come, or a handler is to run (Linux's
    /// `sk_stream_wait_close`). The closed socket hangs up all the time, so there is no event to sleep for. No
    /// cancellation point: the descriptor has to go first.
    pub(crate) fn linger(&self, ep: &Ep, other: Option<SockRef>, deadline: Deadline) {
        let is_done = || {
            if let Some(other) = other {
                let stack = ep.att.stack;
                return stack.get(other).is_none() || stack.local_has_taken(other.id);
            }
            let state = ep.shared().tcp_state();
            ep.att.stack.get(ep.sock).is_none()
                || !matches!(
                    state,
                    TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck
                )
        };
        if ep.att.spin(self.settings.spin, deadline, is_done) {
            return;
        }
        let mut nap = SHORTEST_NAP;
        while !is_done() && !deadline.is_past(self.os.now()) && !enter::has_signal() {
            let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(nap));
            let _: bool = ep.att.poll(64);
            nap = nap.saturating_mul(2).min(LONGEST_NAP);
        }
    }
}
