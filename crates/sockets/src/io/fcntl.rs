//! `fcntl(2)`: the status flags. All other commands are the kernel's alone.

use flyover_core::TcpState;

use crate::policy::Reason;
use crate::process::{Answer, Fd, Sockets};

impl Sockets {
    /// The kernel has `fd`, and another thread's call may make it an endpoint at any moment.
    pub(crate) fn may_change(&self, fd: i32, looked: &Fd) -> bool {
        matches!(looked, Fd::Fresh(_))
            || matches!(looked, Fd::Kernel) && (self.may_come_back(fd) || self.is_young_entry(fd))
    }

    /// `F_GETFL` and `F_SETFL`.
    pub fn fcntl(&self, fd: i32, cmd: i32, arg: usize) -> Answer {
        if cmd == libc::F_SETFL && arg as i32 & libc::O_ASYNC != 0 {
            // Only the kernel can send SIGIO, and only for what it receives itself.
            let _: bool = self.give_to_kernel(fd, Reason::Option);
        }
        let looked = self.look(fd);
        let (Fd::Tcp(ep) | Fd::Udp(ep)) = looked else {
            if cmd != libc::F_SETFL || !self.may_change(fd, &looked) {
                return Answer::Kernel;
            }
            return match self.os.fcntl(fd, cmd, arg) {
                Err(e) => Answer::Error(e),
                // If it is an endpoint by now, that may have looked before.
                Ok(_) => match self.look_after_move(fd) {
                    Fd::Tcp(_) | Fd::Udp(_) => self.fcntl(fd, cmd, arg),
                    _ => Answer::Value(0),
                },
            };
        };
        let nonblock = libc::O_NONBLOCK;
        match cmd {
            libc::F_GETFL => {
                let status = match self.os.fcntl(fd, cmd, 0) {
                    Ok(s) => s & !nonblock,
                    Err(e) => return Answer::Error(e),
                };
                let ours = if ep.nonblocking() { nonblock } else { 0 };
                Answer::Value((status | ours) as usize)
            }
            libc::F_SETFL => {
                self.await_move(&ep);
                let on = arg as i32 & nonblock != 0;
                let listens = ep.shared().tcp_state() == TcpState::Listen;
                // A listener's kernel half stays non-blocking.
                let kernels = if listens {
                    arg | nonblock as usize
                } else {
                    arg
                };
                if let Err(e) = self.os.fcntl(fd, cmd, kernels) {
                    return Answer::Error(e);
                }
                ep.shared().put_flag(flyover_core::sock::flag::NONBLOCK, on);
                Answer::Value(0)
            }
            _ => Answer::Kernel,
        }
    }
}
