//! A client without manners, and what the daemon shows of what it made of it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use flyover_core::LAYOUT_HASH;
use flyover_proto::{
    Deadline, MAX_MESSAGE, Packet, Reply, Request, StackName, VERSION, recv, send,
};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};

use crate::world::Daemon;

/// A connection without the client's manners.
pub struct Raw(pub OwnedFd);

impl Raw {
    pub fn new(daemon: &Daemon) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let sock = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&sock, &SocketAddrUnix::new(&daemon.path).unwrap()).unwrap();
        sockopt::set_socket_send_buffer_size(&sock, 1 << 20).unwrap();
        Self(sock)
    }

    pub fn greeted(daemon: &Daemon) -> Self {
        let raw = Self::new(daemon);
        raw.say(&Request::Hello {
            version: VERSION,
            layout_hash: LAYOUT_HASH,
        });
        assert!(matches!(raw.hear(), Some(Reply::Welcome { .. })));
        raw
    }

    pub fn say(&self, request: &Request) {
        let mut buf = vec![0; MAX_MESSAGE];
        let len = request.encode(1, &mut buf).unwrap();
        self.bytes(&buf[..len]);
    }

    /// One message of these bytes.
    pub fn bytes(&self, bytes: &[u8]) {
        let _ = send(
            self.0.as_fd(),
            bytes,
            &[],
            Deadline::after(Duration::from_secs(1)),
        );
    }

    /// The next reply.
    pub fn hear(&self) -> Option<Reply> {
        let mut buf = vec![0; MAX_MESSAGE];
        match recv(
            self.0.as_fd(),
            &mut buf,
            Deadline::after(Duration::from_secs(8)),
        )
        .ok()?
        {
            Packet::Message(len, _) => Some(Reply::decode(&buf[..len]).unwrap().1),
            Packet::Closed => None,
        }
    }

    /// Has the daemon ended the connection, soon?
    pub fn is_closed(&self) -> bool {
        let mut buf = vec![0; MAX_MESSAGE];
        loop {
            match recv(
                self.0.as_fd(),
                &mut buf,
                Deadline::after(Duration::from_secs(8)),
            ) {
                Ok(Packet::Message(..)) => {}
                Ok(Packet::Closed) => return true,
                Err(e) => return e == rustix::io::Errno::PIPE,
            }
        }
    }
}

/// An honest client is served, and soon.
pub fn works(daemon: &Daemon) {
    let start = Instant::now();
    let (_c, _, fds) = daemon.attach(StackName::Default);
    assert_eq!(fds.nics.len(), 2);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "took {:?}",
        start.elapsed()
    );
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// A number of the daemon's own row of `ps`: `refused`, `broken`, `connections`.
pub fn count(daemon: &Daemon, name: &str) -> u64 {
    daemon.ps()["daemon"][name].as_u64().unwrap()
}
