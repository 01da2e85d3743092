//! Data and options: what `read`, `write`, `recvmsg`, `setsockopt` and the like do on an accelerated socket.

pub mod cmsg;
pub mod fcntl;
pub mod ioctl;
pub mod many;
pub mod options;
pub mod recv;
pub mod send;
pub mod sendfile;
pub mod sockopt;
pub mod udp;

use crate::errno::Errno;
use crate::process::{Answer, Fd, Sockets};

impl Sockets {
    /// The answer to a call with bad memory: ours on an accelerated socket, the kernel's on others.
    pub fn fault(&self, fd: i32, e: Errno) -> Answer {
        match self.fault_if_ours(fd, e) {
            Some(_) => Answer::Error(e),
            None => Answer::Kernel,
        }
    }

    /// As [`Sockets::fault`], `None` for the kernel.
    pub fn fault_if_ours(&self, fd: i32, e: Errno) -> Option<Result<usize, Errno>> {
        match self.look(fd) {
            Fd::Tcp(_) | Fd::Udp(_) => Some(Err(e)),
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => None,
        }
    }
}
