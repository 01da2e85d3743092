//! Connections within a host, as the fake kernel has them: two queues without end.

use std::collections::VecDeque;
use std::io::IoSliceMut;

use flyover_wire::Endpoint;

use super::{FakeOs, File, Inet, Table};
use crate::errno::Errno;

/// One end.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// The other end's file.
    other: usize,
    /// What came and nobody has read.
    bytes: VecDeque<u8>,
    /// The other end sends no more.
    ended: bool,
    /// There is no room to send.
    full: bool,
}

impl Stream {
    pub(super) fn ready(&self) -> i16 {
        let end = if self.ended { libc::POLLRDHUP } else { 0 };
        let some = self.ended || !self.bytes.is_empty();
        let room = i16::from(!self.full) * libc::POLLOUT;
        room | end | (i16::from(some) * libc::POLLIN)
    }
}

fn inet(t: &mut Table, file: usize) -> Option<&mut Inet> {
    match t.files.get_mut(file)?.as_mut()? {
        File::Inet(s) => Some(s),
        _ => None,
    }
}

impl Table {
    pub(super) fn file_of(&self, fd: i32) -> Result<usize, Errno> {
        self.fds.get(&fd).map(|(i, _)| *i).ok_or(Errno::EBADF)
    }

    fn stream(&mut self, fd: i32) -> Result<&mut Stream, Errno> {
        let file = self.file_of(fd)?;
        let s = inet(self, file).ok_or(Errno::ENOTSOCK)?;
        s.stream.as_mut().ok_or(Errno::ENOTCONN)
    }

    /// The other end of `file` sends no more.
    pub(super) fn end_stream(&mut self, file: usize) {
        let other = inet(self, file).and_then(|s| s.stream.as_ref().map(|s| s.other));
        if let Some(s) = other.and_then(|other| inet(self, other)?.stream.as_mut()) {
            s.ended = true;
        }
    }
}

impl FakeOs {
    /// The stream socket `fd`, whose own end is `local`, is connected to the listener at `remote`.
    pub(super) fn open_stream(
        &self,
        fd: i32,
        local: Endpoint,
        remote: Endpoint,
    ) -> Result<(), Errno> {
        let mut t = self.table();
        let near = t.file_of(fd)?;
        let listens = |f: &Option<File>| matches!(f, Some(File::Inet(s)) if s.listening && s.local.port == remote.port);
        let listener = t.files.iter().position(listens);
        let listener = listener.ok_or(Errno::ECONNREFUSED)?;
        let far = t.files.len();
        let end = |other| Stream {
            other,
            bytes: VecDeque::new(),
            ended: false,
            full: false,
        };
        let s = inet(&mut t, near).ok_or(Errno::ENOTSOCK)?;
        (s.local, s.remote, s.stream) = (local, Some(remote), Some(end(far)));
        let mut accepted = s.clone();
        (accepted.local, accepted.remote) = (remote, Some(local));
        accepted.stream = Some(end(near));
        accepted.cookie = self.new_cookie();
        t.files.push(Some(File::Inet(accepted)));
        inet(&mut t, listener)
            .ok_or(Errno::ECONNREFUSED)?
            .backlog
            .push_back(far);
        Ok(())
    }

    /// What waits at the stream `fd`; reads it.
    pub fn drain_stream(&self, fd: i32) -> Vec<u8> {
        let mut t = self.table();
        t.stream(fd)
            .map_or_else(|_| Vec::new(), |s| s.bytes.drain(..).collect())
    }

    /// The kernel got the connection of the unconnected socket `fd`, to another host.
    pub fn connect_abroad(&self, fd: i32, local: Endpoint, remote: Endpoint) {
        let mut t = self.table();
        let nobody = t.files.len();
        t.files.push(None);
        let file = t.file_of(fd).unwrap_or(nobody);
        if let Some(s) = inet(&mut t, file) {
            (s.local, s.remote) = (local, Some(remote));
            s.stream = Some(Stream {
                other: nobody,
                bytes: VecDeque::new(),
                ended: false,
                full: false,
            });
        }
    }

    /// There is no room to send on the stream `fd`.
    pub fn fill_stream(&self, fd: i32) {
        if let Ok(s) = self.table().stream(fd) {
            s.full = true;
        }
    }

    pub(super) fn is_stream(&self, fd: i32) -> bool {
        self.table().stream(fd).is_ok()
    }

    pub(super) fn send_stream(&self, fd: i32, bytes: &[u8]) -> Result<usize, Errno> {
        let mut t = self.table();
        let other = t.stream(fd)?.other;
        let to = inet(&mut t, other).and_then(|s| s.stream.as_mut());
        to.ok_or(Errno::EPIPE)?.bytes.extend(bytes);
        Ok(bytes.len())
    }

    pub(super) fn recv_stream(
        &self,
        fd: i32,
        into: &mut [IoSliceMut<'_>],
        peek: bool,
    ) -> Result<usize, Errno> {
        let mut t = self.table();
        let s = t.stream(fd)?;
        if s.bytes.is_empty() && !s.ended {
            return Err(Errno::EAGAIN);
        }
        let room = into.iter_mut().flat_map(|b| b.iter_mut());
        let n = room.zip(&s.bytes).map(|(to, from)| *to = *from).count();
        if !peek {
            drop(s.bytes.drain(..n));
        }
        Ok(n)
    }
}
