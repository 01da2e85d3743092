//! Sockets that the program gives to an `io_uring(7)`: the kernel works on the kernel socket behind the descriptor, so
//! the kernel has to have the connection.

use core::sync::atomic::Ordering;

use flyover_core::TcpState;

use crate::entry::Entry;
use crate::errno::Errno;
use crate::io::options::WITHDRAWN;
use crate::policy::Reason;
use crate::process::{Ep, Fd, Sockets};

/// A connection that is being opened cannot move: so often its end is waited for, 1 ms each.
const OPENING: u32 = 1000;
const STEP_NS: u64 = 1_000_000;

impl Sockets {
    /// A request of a ring names `fd`, or a ring is to keep it. Of a set of ours, whose members the kernel cannot wait
    /// for, the members move.
    pub fn give_to_ring(&self, fd: i32) {
        match self.look(fd) {
            Fd::Epoll(_) => self.give_all_to_rings(),
            Fd::Tcp(ep) | Fd::Udp(ep) if is_withdrawn(&ep) => {}
            Fd::Tcp(ep) => {
                self.await_opening(&ep);
                let _: bool = self.give_to_kernel(fd, Reason::Ring);
            }
            Fd::Udp(_) => {
                let _: bool = self.let_go_for(fd, Reason::Ring);
            }
            Fd::Fresh(_) | Fd::Kernel => {
                let _: bool = self.give_to_kernel(fd, Reason::Ring);
            }
        }
    }

    /// What a ring asks for cannot be read: every socket that it could be about moves.
    pub fn give_all_to_rings(&self) {
        let mut fds = Vec::new();
        self.table.for_each(self.table.len(), |fd, e| {
            if !matches!(e, Entry::Epoll(_)) {
                fds.push(fd);
            }
        });
        for fd in fds {
            self.give_to_ring(fd);
        }
    }

    fn await_opening(&self, ep: &Ep) {
        for _ in 0..OPENING {
            if ep.shared().tcp_state() != TcpState::SynSent {
                return;
            }
            let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(STEP_NS));
            let _: u32 = ep.att.locked(|l| l.poll(64));
        }
    }
}

/// A listener or datagram socket that the kernel serves already, although it keeps its place in the stack.
fn is_withdrawn(ep: &Ep) -> bool {
    ep.shared().sopts.load(Ordering::Relaxed) & WITHDRAWN != 0
}
