//! Data and options: what `read`, `write`, `recvmsg`, `setsockopt` and the like do on an accelerated socket.

mod away;
pub mod cmsg;
pub mod fcntl;
mod gather;
pub mod getsockopt;
pub mod ioctl;
pub mod many;
pub mod options;
pub mod recv;
pub mod send;
pub mod sendfile;
pub mod sockopt;
pub mod udp;

use core::sync::atomic::Ordering;

use flyover_core::SHUT_WR;

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

    /// A receive into memory that is not there: an error only if there is something to receive. `n` is the length that
    /// the call named; `None`: the kernel's business.
    pub fn fault_recv(&self, fd: i32, n: usize, flags: i32) -> Option<Result<usize, Errno>> {
        let mut byte = [0u8; 1];
        match self.look(fd) {
            // Linux throws these bytes away, or counts them, without a look at the buffer.
            Fd::Tcp(ep) if flags & (libc::MSG_TRUNC | libc::MSG_OOB) == libc::MSG_TRUNC => {
                Some(self.tcp_recv_some(&ep, &mut [], n, flags))
            }
            Fd::Tcp(ep) => {
                let peek = (flags | libc::MSG_PEEK) & !libc::MSG_WAITALL;
                Some(match self.tcp_recv(&ep, &mut [&mut byte], peek) {
                    Ok(0) => Ok(0),
                    Ok(_) => Err(Errno::EFAULT),
                    e => e,
                })
            }
            // The datagram is lost, as in Linux.
            Fd::Udp(ep) => {
                let got = self.udp_recv(&ep, fd, &mut [&mut byte], &mut [], flags)?;
                Some(match got {
                    Ok(m) if m.n == 0 => Ok(0),
                    Ok(_) => Err(Errno::EFAULT),
                    Err(e) => Err(e),
                })
            }
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => None,
        }
    }

    /// True when more waits than `room` bytes: a read whose memory ends there fails.
    pub fn is_beyond(&self, fd: i32, room: usize) -> bool {
        match self.look(fd) {
            Fd::Tcp(ep) => ep.shared().rq_available() as usize > room,
            Fd::Udp(ep) => ep.att.stack.udp_next_len(ep.sock.id) as usize > room,
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => false,
        }
    }

    /// A send from memory that is not there: what the state of the socket says comes first. `addressed`: the call names
    /// a destination.
    pub fn fault_send(&self, fd: i32, flags: i32, addressed: bool) -> Answer {
        match self.look(fd) {
            Fd::Tcp(ep) => match self.tcp_send(&ep, &[], flags) {
                Ok(_) => Answer::Error(Errno::EFAULT),
                Err(e) => Answer::Error(e),
            },
            Fd::Udp(ep) if !addressed && ep.shared().remote().port == 0 => {
                Answer::Error(Errno::EDESTADDRREQ)
            }
            Fd::Udp(ep) if ep.shared().shut.load(Ordering::Relaxed) & SHUT_WR != 0 => {
                Answer::Error(Errno::EPIPE)
            }
            Fd::Udp(_) => Answer::Error(Errno::EFAULT),
            Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => Answer::Kernel,
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
