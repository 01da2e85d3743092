//! Clients that do not behave.

use std::os::fd::AsFd as _;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use flyover_core::LAYOUT_HASH;
use flyover_proto::{
    Client, ClientError, Deadline, MAX_MESSAGE, Reply, Request, StackName, VERSION, VnicPref, send,
};
use rustix::fs::{MemfdFlags, memfd_create};

use super::raw::{Raw, descriptors, works};
use crate::world::{Daemon, Space, eventually, wish};

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
    let count = || descriptors(daemon.child.id());
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
    let daemon_fds = descriptors(daemon.child.id());
    assert!(daemon_fds < 40, "{daemon_fds} descriptors are left");
    // A client that is silent is not asked to leave; one that said no hello is.
    let silent = Client::connect(daemon.path.as_os_str().as_encoded_bytes(), LAYOUT_HASH).unwrap();
    let mute = Raw::new(&daemon);
    assert!(mute.is_closed());
    let mut silent = silent;
    assert!(!matches!(silent.ps(), Err(ClientError::Absent(_))));
}
