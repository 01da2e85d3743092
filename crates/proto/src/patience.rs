//! A daemon that is silent for too long: stopped, or the whole machine was. The client goes on without its answer, and says
//! so, because the daemon will read the request when it wakes up: what it does then would be against whoever has the
//! addresses by that time. The connection is kept where that is enough; what the daemon answers to it is thrown away.

use std::os::fd::{AsFd as _, BorrowedFd};

use flyover_wire::Ip;

use crate::channel::{Deadline, send};
use crate::fds::FdBag;
use crate::{Client, ClientError, FilterSpec, HEADER, Reply, Request};

impl Client {
    /// Steers flows to the stack; `proof` is the kernel socket that holds the port. Returns the filter's number.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn add_filter(
        &mut self,
        spec: FilterSpec,
        proof: BorrowedFd<'_>,
    ) -> Result<u32, ClientError> {
        match self.ask_lightly(&Request::AddFilter { spec }, &[proof])? {
            (Reply::FilterAdded { id }, _) => Ok(id),
            _ => Err(self.broken("no filter")),
        }
    }

    /// The local ports of `ip` that the stack is lent, more than the `have` that the caller knows if it can be.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn lend(&mut self, ip: Ip, have: u32, lease: u64) -> Result<Vec<u16>, ClientError> {
        match self.ask_lightly(&Request::Lend { ip, have, lease }, &[])? {
            (Reply::Lent { ports }, _) => Ok(ports.into_vec()),
            _ => Err(self.broken("no ports")),
        }
    }

    /// As [`Self::ask`], for what is undone by [`Request::GaveUp`], or harms nobody: silence does not end the connection.
    pub(crate) fn ask_lightly(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, FdBag), ClientError> {
        self.goes_on = true;
        let answer = self.ask(request, fds);
        self.goes_on = false;
        answer
    }

    /// Says something that has no reply; silence does not end the connection.
    pub(crate) fn tell_lightly(&mut self, request: &Request) -> Result<(), ClientError> {
        self.goes_on = true;
        let told = self.tell(request, &[], Deadline::after(self.silence));
        self.goes_on = false;
        told.map(|_| ())
    }

    /// The daemon was silent for too long. True when the connection is still good.
    pub(crate) fn give_up(&mut self) -> bool {
        let Some(sock) = &self.sock else { return false };
        let mut buf = [0; HEADER];
        let Ok(len) = (Request::GaveUp {}).encode(0, &mut buf) else {
            return false;
        };
        // No room: then the last request was not sent either, or the daemon sees the end of the connection.
        let told = send(sock.as_fd(), &buf[..len], &[], Deadline::NOW).is_ok();
        self.late |= told;
        told && self.goes_on
    }
}
