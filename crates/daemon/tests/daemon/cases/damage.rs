//! Messages that are cut or changed at every byte, descriptors of every wrong kind, and keepers that are lied to: each
//! is refused and counted, others are undisturbed, and nothing is left open.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread::sleep;
use std::time::Duration;

use flyover_core::LAYOUT_HASH;
use flyover_proto::{
    Connection, Deadline, FilterSpec, KeeperMsg, List, MAX_FDS, MAX_MESSAGE, Reply, Request,
    StackName, TcpImage, VERSION, VnicPref, send,
};
use flyover_wire::{Endpoint, Ip};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::raw::{Raw, count, descriptors, works};
use crate::world::{Daemon, Space, eventually, wish};

fn endpoint(addr: SocketAddr) -> Endpoint {
    Endpoint {
        ip: Ip::from(addr.ip()),
        port: addr.port(),
    }
}

pub fn spec(local: SocketAddr) -> FilterSpec {
    FilterSpec {
        proto: 6,
        local: endpoint(local),
        remote: None,
        dual: false,
    }
}

fn connection(local: SocketAddr) -> Connection {
    Connection {
        local: endpoint(local),
        remote: endpoint(SocketAddr::from(([10, 9, 0, 77], 7))),
    }
}

/// A connection from this port that exists nowhere.
pub fn image(local: SocketAddr) -> TcpImage {
    let Connection { local, remote } = connection(local);
    TcpImage {
        local,
        remote,
        ifindex: 0,
        snd_una: 1,
        unacked: 2,
        queued: 3,
        rcv_nxt: 4,
        unread: 5,
        snd_wnd: 6,
        snd_wl1: 7,
        max_wnd: 8,
        rcv_wnd: 9,
        mss: 1460,
        peer_scale: Some(7),
        own_scale: Some(7),
        sack: true,
        timestamp: Some(10),
        fin_in: false,
        fin_out: false,
        fin_acked: false,
    }
}

/// One request of each kind, as bytes.
fn requests(local: SocketAddr) -> Vec<Vec<u8>> {
    let all = [
        Request::Hello {
            version: VERSION,
            layout_hash: LAYOUT_HASH,
        },
        Request::Attach {
            attach: wish(StackName::Private, VnicPref::Auto),
        },
        Request::Nics {},
        Request::AddFilter { spec: spec(local) },
        Request::DelFilter { id: 1 },
        Request::Resolve {
            ifindex: 1,
            ip: Ip::v4([10, 9, 0, 77]),
        },
        Request::Ps {},
        Request::StackFd { stack_id: 1 },
        Request::Check {},
        Request::Narrow {
            id: 1,
            to: List::new([connection(local)]),
        },
        Request::Handover {
            image: image(local),
        },
    ];
    let mut buf = vec![0; MAX_MESSAGE];
    let mut bytes = |request: &Request| {
        let len = request.encode(1, &mut buf).unwrap();
        buf[..len].to_vec()
    };
    all.iter().map(&mut bytes).collect()
}

/// Descriptors that prove nothing. Sockets that are bound are bound to other ports.
fn gifts() -> Vec<(&'static str, OwnedFd)> {
    let cloexec = SocketFlags::CLOEXEC;
    let socket = |family, kind| socket_with(family, kind, cloexec, None).unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        cloexec,
        Some(SOCK_DIAG),
    );
    let path = OFlags::PATH | OFlags::CLOEXEC;
    vec![
        ("file", File::open("/etc/passwd").unwrap().into()),
        ("device", File::open("/dev/zero").unwrap().into()),
        ("directory", File::open("/").unwrap().into()),
        ("path", open("/", path, Mode::empty()).unwrap()),
        ("pipe, reading", read),
        ("pipe, writing", write),
        ("memory", memfd_create("gift", MemfdFlags::CLOEXEC).unwrap()),
        (
            "epoll set",
            epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
        ),
        ("event", eventfd(0, EventfdFlags::CLOEXEC).unwrap()),
        (
            "process",
            pidfd_open(getpid(), PidfdFlags::empty()).unwrap(),
        ),
        ("namespace", File::open("/proc/self/ns/net").unwrap().into()),
        ("Unix stream", UnixStream::pair().unwrap().0.into()),
        ("Unix datagrams", UnixDatagram::unbound().unwrap().into()),
        ("netlink", netlink.unwrap()),
        ("packets", socket(AddressFamily::PACKET, SocketType::RAW)),
        ("not bound", socket(AddressFamily::INET, SocketType::STREAM)),
        ("UDP", UdpSocket::bind("10.9.0.1:0").unwrap().into()),
        (
            "another port",
            TcpListener::bind("10.9.0.1:0").unwrap().into(),
        ),
        ("a connection", connected.into()),
    ]
}

pub fn messages_are_cut_at_every_byte() {
    let _space = Space::new();
    let daemon = Daemon::start();
    works(&daemon);
    let local = SocketAddr::from(([10, 9, 0, 1], 7));
    eventually("the end of the first stack", || {
        daemon.ps()["stacks"].as_array()?.is_empty().then_some(())
    });
    let (before, broken) = (descriptors(daemon.child.id()), count(&daemon, "broken"));
    let mut cuts = 0;
    for whole in requests(local) {
        for len in 1..whole.len() {
            // Half a message ends the session; nothing of it is done.
            let raw = Raw::greeted(&daemon);
            raw.bytes(&whole[..len]);
            assert!(raw.is_closed(), "{len} bytes of {whole:?}");
            cuts += 1;
            // The client that goes away right after it.
            Raw::greeted(&daemon).bytes(&whole[..len]);
            Raw::new(&daemon).bytes(&whole[..len]);
        }
    }
    assert!(count(&daemon, "broken") >= broken + cuts);
    works(&daemon);
    settled(&daemon, before);
}

/// Nobody is connected, no stack is left, and the daemon holds no more descriptors than before.
fn settled(daemon: &Daemon, before: usize) {
    eventually("the end of all sessions and stacks", || {
        let ps = daemon.ps();
        let alone = ps["daemon"]["connections"].as_u64()? <= 1;
        (alone && ps["stacks"].as_array()?.is_empty()).then_some(())
    });
    eventually("all descriptors closed", || {
        (descriptors(daemon.child.id()) <= before).then_some(())
    });
}

pub fn messages_are_changed_at_every_byte() {
    let _space = Space::new();
    let daemon = Daemon::start();
    // An honest client, which nothing of this may concern.
    let (mut honest, attached, _fds) = daemon.attach(StackName::Default);
    let listener = TcpListener::bind("10.9.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    honest.add_filter(spec(local), listener.as_fd()).unwrap();
    let before = descriptors(daemon.child.id());
    for whole in requests(local) {
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let raw = Raw::greeted(&daemon);
            raw.bytes(&bytes);
            // Whatever it is now: an answer, a no, the end, or silence where there is no answer.
            raw.say(&Request::Ps {});
            let told = raw.hear();
            assert!(told.is_some() || raw.is_closed(), "byte {at} of {whole:?}");
        }
    }
    let row = daemon.row(attached.stack_id).unwrap();
    assert_eq!(row["filters"].as_array().unwrap().len(), 1);
    eventually("the others' end", || {
        let ps = daemon.ps();
        let alone = ps["daemon"]["connections"].as_u64()? <= 2;
        (alone && ps["stacks"].as_array()?.len() == 1).then_some(())
    });
    eventually("all descriptors closed", || {
        (descriptors(daemon.child.id()) <= before).then_some(())
    });
}

pub fn descriptors_of_every_wrong_kind() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (mut honest, attached, _fds) = daemon.attach(StackName::Default);
    let listener = TcpListener::bind("10.9.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    honest.add_filter(spec(local), listener.as_fd()).unwrap();
    // The liar has a stack of its own, and a flow.
    let liar = Raw::greeted(&daemon);
    liar.say(&Request::Attach {
        attach: wish(StackName::Private, VnicPref::Auto),
    });
    assert!(matches!(liar.hear(), Some(Reply::Attached { .. })));
    let (before, refused) = (descriptors(daemon.child.id()), count(&daemon, "refused"));
    let mut buf = vec![0; MAX_MESSAGE];
    let mut refuses = |what: &str, request: &Request, fds: &[BorrowedFd<'_>]| {
        let len = request.encode(1, &mut buf).unwrap();
        send(liar.0.as_fd(), &buf[..len], fds, Deadline::NEVER).unwrap();
        let reply = liar.hear();
        assert!(
            matches!(reply, Some(Reply::Refused { .. })),
            "{what}: {reply:?}"
        );
    };
    let add = Request::AddFilter { spec: spec(local) };
    let handover = Request::Handover {
        image: image(local),
    };
    let flow = connection(local);
    let watch = Request::Watch { flow, sole: true };
    let takeover = Request::Takeover {
        flow,
        pass: 0,
        seen: true,
        sole: true,
    };
    let inherit = Request::Attach {
        attach: wish(StackName::Inherited, VnicPref::Auto),
    };
    let mut asked = 0;
    for (what, gift) in gifts() {
        for request in [&add, &handover, &watch, &takeover, &inherit] {
            refuses(what, request, &[gift.as_fd()]);
            refuses(what, request, &[gift.as_fd(); MAX_FDS]);
            asked += 2;
        }
        // The data of a connection that the liar does not have, on a socket that would do.
        let fresh = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        refuses(what, &handover, &[gift.as_fd(), fresh.unwrap().as_fd()]);
        asked += 1;
    }
    for request in [&add, &handover, &watch, &takeover, &inherit] {
        refuses("nothing", request, &[]);
        // The right socket, but the flow is the honest one's.
        refuses("another's", request, &[listener.as_fd()]);
        asked += 2;
    }
    // What has no answer does nothing to others' filters.
    for id in 0..20 {
        liar.say(&Request::DelFilter { id });
        liar.say(&Request::Narrow {
            id,
            to: List::new([connection(local)]),
        });
    }
    liar.say(&Request::StackFd {
        stack_id: attached.stack_id + 1000,
    });
    assert!(matches!(liar.hear(), Some(Reply::Refused { .. })));
    assert!(count(&daemon, "refused") > refused + asked);
    let row = daemon.row(attached.stack_id).unwrap();
    let filters = row["filters"].as_array().unwrap();
    assert_eq!(filters.len(), 1);
    assert_eq!(filters[0]["remote"], serde_json::Value::Null);
    eventually("all descriptors closed", || {
        (descriptors(daemon.child.id()) <= before).then_some(())
    });
}

/// Processes of one stack trust one another, but the keeper survives what they send.
pub fn keepers_are_lied_to() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (_client, attached, fds) = daemon.attach(StackName::Default);
    let row = || daemon.row(attached.stack_id).unwrap();
    let keeper = row()["keeper_pid"].as_u64().unwrap();
    let channel = fds.keeper.as_fd();
    // What the daemon gave it comes a moment later.
    let before = eventually("a keeper that has everything", || {
        let count = descriptors(keeper as u32);
        sleep(Duration::from_millis(300));
        (descriptors(keeper as u32) == count).then_some(count)
    });
    let tell = |bytes: &[u8], fds: &[BorrowedFd<'_>]| {
        let patience = Deadline::after(Duration::from_secs(5));
        send(channel, bytes, fds, patience).unwrap();
    };
    let mut buf = vec![0; MAX_MESSAGE];
    for sock in [0, 1, 77, u32::MAX] {
        let generation = sock;
        let messages = [
            KeeperMsg::RegOs {
                sock,
                generation,
                listen: true,
            },
            KeeperMsg::Park { sock, generation },
            KeeperMsg::Unpark { sock, generation },
            KeeperMsg::Poke {},
        ];
        for message in messages {
            let len = message.encode(0, &mut buf).unwrap();
            (0..len)
                .filter(|&n| n > 0)
                .for_each(|n| tell(&buf[..n], &[]));
            for at in 0..len {
                buf[at] ^= 0xff;
                tell(&buf[..len], &[]);
                buf[at] ^= 0xff;
            }
            for (_, gift) in gifts() {
                tell(&buf[..len], &[gift.as_fd()]);
                tell(&buf[..len], &[gift.as_fd(); MAX_FDS]);
            }
            for _ in 0..2000 {
                tell(&buf[..len], &[]);
            }
        }
    }
    tell(&vec![7; MAX_MESSAGE], &[]);
    assert_eq!(row()["keeper_pid"].as_u64(), Some(keeper));
    eventually("all descriptors closed", || {
        (descriptors(keeper as u32) <= before).then_some(())
    });
    works(&daemon);
}
