//! A client beyond the death of its daemon: connects to the next one, on the same descriptor, in its old place.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{DupFlags, Errno, dup3};
use rustix::net::{Shutdown, shutdown};

use crate::channel::Deadline;
use crate::client::dial;
use crate::fds::move_high;
use crate::{Client, ClientError, KeeperLink, Reply, Request};

/// What a process that goes on with another daemon gets.
#[derive(Debug)]
pub struct Rejoined {
    /// Bytes of the control plane.
    pub cplane_len: u64,
    /// Its table sizes.
    pub dims: Vec<u64>,
    /// Its memory.
    pub cplane: OwnedFd,
    /// A new channel to the keeper, if the old one has ended.
    pub keeper: Option<OwnedFd>,
}

impl Client {
    /// False once the connection is finished or the daemon's end of it is closed.
    pub fn is_connected(&self) -> bool {
        let Some(sock) = &self.sock else { return false };
        let mut fds = [PollFd::new(sock, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        !matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
    }

    /// Connects anew, on the same descriptor, with another limit for silence while that lasts.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn reconnect(
        &mut self,
        path: &[u8],
        layout_hash: u64,
        silence: Duration,
    ) -> Result<(), ClientError> {
        let next = dial(path, Deadline::after(silence)).map_err(ClientError::Absent)?;
        self.finish();
        self.sock = Some(match self.finished.take() {
            Some(mut old) => match dup3(&next, &mut old, DupFlags::CLOEXEC) {
                Ok(()) => old,
                Err(e) => return Err(ClientError::Absent(e)),
            },
            None => move_high(next),
        });
        self.late = false;
        let usual = std::mem::replace(&mut self.silence, silence);
        let said = self.hello(layout_hash);
        self.silence = usual;
        said
    }

    /// Takes up the membership that a daemon which died gave to this process; `memory` is the stack's.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn rejoin(&mut self, owner: u16, memory: BorrowedFd<'_>) -> Result<Rejoined, ClientError> {
        let (reply, mut fds) = self.ask(&Request::Rejoin { owner }, &[memory])?;
        match (reply, fds.pop()) {
            (Reply::Rejoined { cplane_len, dims }, Some(cplane)) => Ok(Rejoined {
                cplane_len,
                dims: dims.into_vec(),
                cplane,
                keeper: fds.pop().map(|channel| KeeperLink::new(channel).claimed()),
            }),
            _ => Err(self.broken("no stack")),
        }
    }

    /// Ends the connection; its number stays taken, so that the program does not get it.
    pub fn finish(&mut self) {
        if let Some(sock) = self.sock.take() {
            let _: Result<(), Errno> = shutdown(&sock, Shutdown::Both);
            self.finished = Some(sock);
        }
    }
}
