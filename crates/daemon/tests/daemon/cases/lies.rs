//! Clients that do not behave.

use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use flyover_core::LAYOUT_HASH;
use flyover_proto::{
    Client, ClientError, Deadline, MAX_MESSAGE, Packet, Reply, Request, StackName, VERSION,
    VnicPref, recv, send,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};

use crate::world::{Daemon, Space, eventually, wish};

/// A connection without the client's manners.
struct Raw(OwnedFd);

impl Raw {
    fn new(daemon: &Daemon) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let sock = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&sock, &SocketAddrUnix::new(&daemon.path).unwrap()).unwrap();
        sockopt::set_socket_send_buffer_size(&sock, 1 << 20).unwrap();
        Self(sock)
    }

    fn greeted(daemon: &Daemon) -> Self {
        let raw = Self::new(daemon);
        raw.say(&Request::Hello {
            version: VERSION,
            layout_hash: LAYOUT_HASH,
        });
        assert!(matches!(raw.hear(), Some(Reply::Welcome { .. })));
        raw
    }

    fn say(&self, request: &Request) {
        let mut buf = vec![0; MAX_MESSAGE];
        let len = request.encode(1, &mut buf).unwrap();
        self.bytes(&buf[..len]);
    }

    fn bytes(&self, bytes: &[u8]) {
        let _ = send(
            self.0.as_fd(),
            bytes,
            &[],
            Deadline::after(Duration::from_secs(1)),
        );
    }

    fn hear(&self) -> Option<Reply> {
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

    fn is_closed(&self) -> bool {
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

fn works(daemon: &Daemon) {
    let start = Instant::now();
    let (_c, _, fds) = daemon.attach(StackName::Default);
    assert_eq!(fds.nics.len(), 2);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "took {:?}",
        start.elapsed()
    );
}

pub fn nonsense_ends_only_its_own_session() {
    let _space = Space::new();
    let daemon = Daemon::start();
    // A version of the future; no hello; half a message; too long a message; an unknown tag; random bytes.
    let raw = Raw::new(&daemon);
    raw.say(&Request::Hello {
        version: VERSION + 1,
        layout_hash: 0,
    });
    assert!(matches!(raw.hear(), Some(Reply::Refused { .. })));
    let raw = Raw::new(&daemon);
    raw.say(&Request::Ps {});
    assert!(raw.is_closed());
    let mut whole = vec![0; MAX_MESSAGE];
    let attach = Request::Attach {
        attach: wish(StackName::Default, VnicPref::Auto),
    };
    let len = attach.encode(1, &mut whole).unwrap();
    for bytes in [
        &whole[..len / 2],
        &[0; MAX_MESSAGE + 1],
        &[1, 0, 0, 0, 200],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let raw = Raw::greeted(&daemon);
        raw.bytes(bytes);
        assert!(raw.is_closed());
    }
    // Requests out of order.
    let raw = Raw::greeted(&daemon);
    raw.say(&Request::Nics {});
    assert!(matches!(raw.hear(), Some(Reply::Refused { .. })));
    raw.say(&Request::StackFd { stack_id: 12345 });
    assert!(matches!(raw.hear(), Some(Reply::Refused { .. })));
    // Descriptors that nobody asked for are closed, not kept.
    let count = || {
        std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id()))
            .unwrap()
            .count()
    };
    let before = count();
    let memfd = memfd_create("gift", MemfdFlags::CLOEXEC).unwrap();
    for _ in 0..50 {
        let mut buf = [0; 64];
        let len = Request::DelFilter { id: 1 }.encode(1, &mut buf).unwrap();
        send(
            raw.0.as_fd(),
            &buf[..len],
            &[memfd.as_fd(); 50],
            Deadline::NEVER,
        )
        .unwrap();
    }
    raw.say(&Request::Nics {});
    assert!(raw.hear().is_some());
    assert!(
        count() <= before + 2,
        "{} descriptors before, {} now",
        before,
        count()
    );
    works(&daemon);
}

pub fn floods_stall_nobody() {
    let _space = Space::new();
    let daemon = Daemon::start();
    works(&daemon);
    // One asks without end and never reads; one only sends removals; a crowd connects and says nothing.
    let deaf = Raw::greeted(&daemon);
    let noisy = Raw::greeted(&daemon);
    let crowd: Vec<Raw> = (0..200).map(|_| Raw::new(&daemon)).collect();
    let until = Instant::now() + Duration::from_secs(2);
    let flood = |raw: Raw, request: Request| {
        move || {
            let mut buf = [0; 64];
            let len = request.encode(1, &mut buf).unwrap();
            while Instant::now() < until {
                let _ = send(
                    raw.0.as_fd(),
                    &buf[..len],
                    &[],
                    Deadline::after(Duration::from_millis(10)),
                );
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(flood(deaf, Request::Ps {}));
        scope.spawn(flood(noisy, Request::DelFilter { id: 7 }));
        while Instant::now() < until {
            works(&daemon);
            sleep(Duration::from_millis(50));
        }
    });
    drop(crowd);
    eventually("the end of the crowd", || {
        (daemon.ps()["daemon"]["connections"].as_u64()? <= 2).then_some(())
    });
}

pub fn clients_that_vanish() {
    let _space = Space::new();
    let daemon = Daemon::start();
    // In the middle of an attachment, again and again.
    for i in 0..20 {
        let raw = Raw::greeted(&daemon);
        let stack = if i % 2 == 0 {
            StackName::Private
        } else {
            StackName::Default
        };
        raw.say(&Request::Attach {
            attach: wish(stack, VnicPref::Auto),
        });
        sleep(Duration::from_millis(i));
        drop(raw);
    }
    works(&daemon);
    eventually("the end of all stacks", || {
        daemon.ps()["stacks"].as_array()?.is_empty().then_some(())
    });
    let daemon_fds = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id()))
        .unwrap()
        .count();
    assert!(daemon_fds < 40, "{daemon_fds} descriptors are left");
    // A client that is silent is not asked to leave; one that said no hello is.
    let silent = Client::connect(daemon.path.as_os_str().as_encoded_bytes(), LAYOUT_HASH).unwrap();
    let mute = Raw::new(&daemon);
    assert!(mute.is_closed());
    let mut silent = silent;
    assert!(!matches!(silent.ps(), Err(ClientError::Absent(_))));
}
