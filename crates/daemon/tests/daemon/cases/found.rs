//! The daemon dies, and the next one takes over what it leaves.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixDatagram;
use std::thread::sleep;
use std::time::Duration;

use flyover_core::LAYOUT_HASH;
use flyover_proto::{
    Attached, AttachedFds, Call, Client, ClientError, FilterSpec, RefusedCode, StackName, TcpImage,
    Token, VnicPref,
};
use flyover_shm::host::sealed_memfd;
use flyover_wire::{Endpoint, Ip};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket, socketpair};
use serde_json::Value;

use super::life::is_running;
use crate::world::{Daemon, Space, eventually, sh};

/// A listener of the kernel, and the filter that it proves.
fn listener(client: &mut Client, port: u16) -> (TcpListener, u32) {
    let sock = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
    let id = client.add_filter(spec(port), sock.as_fd()).unwrap();
    (sock, id)
}

fn spec(port: u16) -> FilterSpec {
    FilterSpec {
        proto: 6,
        local: Endpoint {
            ip: Ip::UNSPECIFIED_V4,
            port,
        },
        remote: None,
        dual: false,
    }
}

fn rejoin(daemon: &Daemon, a: &Attached, fds: &AttachedFds) -> Result<Client, ClientError> {
    let mut client = daemon.client();
    client.rejoin(a.owner, fds.stack.as_fd())?;
    Ok(client)
}

fn keeper(daemon: &Daemon, stack: u32) -> Option<u64> {
    daemon.row(stack)?["keeper_pid"].as_u64()
}

/// What must be as before.
fn essence(mut row: Value) -> Value {
    if let Some(row) = row.as_object_mut() {
        row.remove("problems");
    }
    row
}

pub fn the_next_daemon_has_it_all() {
    for vnic in [VnicPref::Packet, VnicPref::Xdp] {
        let space = Space::new();
        let mut daemon = Daemon::start();
        let (mut client, a, fds) = daemon.attach_as(StackName::Default, vnic);
        let (_sock, id) = listener(&mut client, 7001);
        let mut helper = daemon.helper(0);
        let (_c, private, private_fds) = daemon.attach(StackName::Private);
        let before = essence(daemon.row(a.stack_id).unwrap());
        let programs = space.programs();
        daemon.die();
        assert_eq!(space.programs(), programs);
        daemon.succeed();
        assert_eq!(essence(daemon.row(a.stack_id).unwrap()), before);
        assert!(daemon.row(private.stack_id).is_some());
        assert_eq!(space.programs(), programs);
        // Who was attached still is, and nobody else can be it.
        let other = Attached {
            owner: helper.owner as u16,
            ..a.clone()
        };
        assert!(rejoin(&daemon, &other, &fds).is_err());
        let mut client = rejoin(&daemon, &a, &fds).unwrap();
        assert!(rejoin(&daemon, &a, &fds).is_err());
        // New requests work, and old filters are known.
        let (_second, _) = listener(&mut client, 7002);
        client.del_filter(id).unwrap();
        eventually("one filter", || {
            let row = daemon.row(a.stack_id)?;
            (row["filters"].as_array()?.len() == 1).then_some(())
        });
        // New programs come to the old stack, and its memory still is a proof.
        let third = daemon.helper(0);
        assert_eq!(third.stack, a.stack_id);
        assert!(![helper.owner, u32::from(a.owner)].contains(&third.owner));
        // One that never came back is watched all the same.
        helper.child.kill().unwrap();
        eventually("two processes", || {
            let row = daemon.row(a.stack_id)?;
            (row["processes"].as_array()?.len() == 2).then_some(())
        });
        let keeper = keeper(&daemon, a.stack_id).unwrap();
        drop((client, fds, third, private_fds, _c));
        eventually("the end of the stacks", || {
            let stacks = daemon.ps()["stacks"].as_array()?.len();
            (stacks == 0).then_some(())
        });
        eventually("the end of the keeper", || {
            (!is_running(keeper)).then_some(())
        });
        eventually("clean interfaces", || (space.programs() == 0).then_some(()));
        eventually("no notes", || (daemon.notes() == 0).then_some(()));
    }
}

pub fn what_ended_meanwhile_is_removed() {
    let space = Space::new();
    let mut daemon = Daemon::start();
    let (mut client, a, fds) = daemon.attach(StackName::Default);
    let (_sock, _) = listener(&mut client, 7001);
    let mut helper = daemon.helper(0);
    let other = daemon.helper(65534);
    assert_ne!(other.stack, a.stack_id);
    let gone = keeper(&daemon, other.stack).unwrap();
    daemon.die();
    helper.child.kill().unwrap();
    helper.child.wait().unwrap();
    let stack = other.stack;
    drop(other);
    eventually("the end of the other keeper", || {
        (!is_running(gone)).then_some(())
    });
    daemon.succeed();
    assert!(daemon.row(stack).is_none());
    assert!(!daemon.note(stack).exists());
    let row = daemon.row(a.stack_id).unwrap();
    assert_eq!(row["processes"].as_array().unwrap().len(), 1);
    // No socket of the stack has this filter: its process died before it made one.
    let _client = rejoin(&daemon, &a, &fds).unwrap();
    eventually("no filter", || {
        let row = daemon.row(a.stack_id)?;
        row["filters"].as_array()?.is_empty().then_some(())
    });
    assert!(space.programs() > 0);
}

pub fn another_build_leaves_it_alone() {
    let space = Space::new();
    let mut daemon = Daemon::start();
    let (client, a, fds) = daemon.attach(StackName::Default);
    let old = keeper(&daemon, a.stack_id).unwrap();
    daemon.die();
    let note = daemon.note(a.stack_id);
    let text = std::fs::read_to_string(&note).unwrap();
    let layout = format!("\"layout\":{LAYOUT_HASH}");
    assert!(text.contains(&layout));
    std::fs::write(&note, text.replace(&layout, "\"layout\":1")).unwrap();
    daemon.succeed();
    assert!(daemon.row(a.stack_id).is_none());
    assert!(is_running(old), "its connections go on");
    assert!(matches!(
        rejoin(&daemon, &a, &fds),
        Err(ClientError::Refused(RefusedCode::NotFound, _))
    ));
    let second = daemon.helper(0);
    assert_ne!(second.stack, a.stack_id);
    // The build before comes back.
    daemon.die();
    std::fs::write(&note, text).unwrap();
    daemon.succeed();
    assert!(daemon.row(a.stack_id).is_some() && daemon.row(second.stack).is_some());
    drop((client, fds, second));
    eventually("the end of the keeper", || (!is_running(old)).then_some(()));
    eventually("clean interfaces", || (space.programs() == 0).then_some(()));
}

/// The keeper is its user's: what it says must be what is noted.
pub fn a_keeper_can_offer_nothing_else() {
    let space = Space::new();
    let mut daemon = Daemon::start();
    let (_client, a, fds) = daemon.attach(StackName::Default);
    let old = keeper(&daemon, a.stack_id).unwrap();
    daemon.die();
    let note = daemon.note(a.stack_id);
    let text = std::fs::read_to_string(&note).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let wrong = [
        ("memory", "File", 1),
        ("deaths", "Socket", 0),
        ("claim", "Socket", 0),
    ];
    let mut lies: Vec<Value> = Vec::new();
    for (name, kind, place) in wrong {
        let mut lie = whole.clone();
        let ident = &mut lie[name][kind];
        let number = if ident.is_array() {
            &mut ident[place]
        } else {
            ident
        };
        *number = Value::from(number.as_u64().unwrap() + 1);
        lies.push(lie);
    }
    for name in ["flows", "device"] {
        let mut lie = whole.clone();
        lie["maps"][name] = Value::from(lie["maps"][name].as_u64().unwrap() + 1);
        lies.push(lie);
    }
    let mut lie = whole.clone();
    let sock = &mut lie["nics"][0]["fds"][0]["Socket"];
    *sock = Value::from(sock.as_u64().unwrap() + 1);
    lies.push(lie);
    let mut lie = whole.clone();
    lie["ns"]["cookie"] = Value::from(lie["ns"]["cookie"].as_u64().unwrap() + 1);
    lies.push(lie);
    for lie in lies {
        std::fs::write(&note, lie.to_string()).unwrap();
        daemon.succeed();
        assert!(daemon.row(a.stack_id).is_none(), "{lie}");
        assert!(is_running(old) && space.programs() > 0, "{lie}");
        daemon.die();
    }
    std::fs::write(&note, text).unwrap();
    daemon.succeed();
    assert!(rejoin(&daemon, &a, &fds).is_ok(), "the truth");
    daemon.die();
    // Another process has the keeper's number.
    let mut lie = whole;
    lie["keeper"]["start"] = Value::from(lie["keeper"]["start"].as_u64().unwrap() + 1);
    std::fs::write(&note, lie.to_string()).unwrap();
    daemon.succeed();
    // Who is not noted has the stack's number: nothing is taken from it, nor from the processes beside it.
    assert!(daemon.row(a.stack_id).is_none() && is_running(old));
}

pub fn only_a_daemon_can_call_a_keeper() {
    let _space = Space::new();
    let mut daemon = Daemon::start();
    let (_client, a, fds) = daemon.attach(StackName::Default);
    daemon.die();
    let name = format!("flyover-stack/{}", a.stack_id);
    let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let sock = UnixDatagram::unbound().unwrap();
    sock.connect_addr(&name).unwrap();
    let call = Call::Adopt {
        token: Token { a: 1, b: 2 },
    };
    let mut buf = [0; 64];
    let len = call.encode(0, &mut buf).unwrap();
    for bytes in [&buf[..len], &buf[..3], b""] {
        let cloexec = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, cloexec, None).unwrap();
        let soon = flyover_proto::Deadline::after(Duration::from_secs(1));
        flyover_proto::send(sock.as_fd(), bytes, &[theirs.as_fd()], soon).unwrap();
        drop(theirs);
        let mut answer = [0; 64];
        let got = flyover_proto::recv(ours.as_fd(), &mut answer, soon);
        assert!(matches!(got, Ok(flyover_proto::Packet::Closed)), "{got:?}");
    }
    // Noise does not keep the daemon out.
    sock.set_nonblocking(true).unwrap();
    while sock.send(b"noise").is_ok() {}
    daemon.succeed();
    assert!(rejoin(&daemon, &a, &fds).is_ok());
}

pub fn daemons_and_keepers_die_in_turn() {
    let space = Space::new();
    let mut daemon = Daemon::start();
    let (mut client, a, fds) = daemon.attach(StackName::Default);
    let (_sock, id) = listener(&mut client, 7001);
    for round in 0..4 {
        daemon.die();
        daemon.succeed();
        client = rejoin(&daemon, &a, &fds).unwrap();
        if round % 2 == 0 {
            let old = keeper(&daemon, a.stack_id).unwrap();
            sh(&format!("kill -9 {old}"));
            eventually("another keeper", || {
                keeper(&daemon, a.stack_id).filter(|pid| *pid != old)
            });
        } else {
            sleep(Duration::from_millis(50));
        }
    }
    client.del_filter(id).unwrap();
    drop((client, fds));
    eventually("the end of the stack", || {
        daemon.row(a.stack_id).is_none().then_some(())
    });
    eventually("clean interfaces", || (space.programs() == 0).then_some(()));
    eventually("no notes", || (daemon.notes() == 0).then_some(()));
}

/// Daemon and keeper are killed: the next daemon finds the stack in its processes.
pub fn a_stack_without_keeper_is_inherited() {
    for vnic in [VnicPref::Packet, VnicPref::Xdp] {
        let space = Space::new();
        let mut daemon = Daemon::start();
        let (mut client, a, fds) = daemon.attach_as(StackName::Default, vnic);
        let (sock, id) = listener(&mut client, 7001);
        let mut helper = daemon.helper(0);
        let before = daemon.row(a.stack_id).unwrap();
        let old = before["keeper_pid"].as_u64().unwrap();
        let programs = space.programs();
        daemon.die();
        sh(&format!("kill -9 {old}"));
        eventually("the end of the keeper", || (!is_running(old)).then_some(()));
        helper.child.kill().unwrap();
        helper.child.wait().unwrap();
        assert_eq!(space.programs(), programs);
        daemon.succeed();
        let row = eventually("the stack", || daemon.row(a.stack_id));
        assert_ne!(row["keeper_pid"].as_u64(), Some(old));
        for what in ["vnics", "filters", "name", "uid"] {
            assert_eq!(row[what], before[what], "{what}");
        }
        assert_eq!(row["processes"].as_array().unwrap().len(), 1);
        // In the old place, with a channel to the new keeper.
        let mut client = daemon.client();
        let back = client.rejoin(a.owner, fds.stack.as_fd()).unwrap();
        let channel = flyover_proto::KeeperLink::new(back.keeper.unwrap());
        assert!(fds.keeper.reg_os(1, 1, true, sock.as_fd()).is_err());
        channel.reg_os(1, 1, true, sock.as_fd()).unwrap();
        client.del_filter(id).unwrap();
        let third = daemon.helper(0);
        assert_eq!(third.stack, a.stack_id);
        drop((client, fds, channel, third));
        eventually("the end of the stack", || {
            daemon.row(a.stack_id).is_none().then_some(())
        });
        eventually("clean interfaces", || (space.programs() == 0).then_some(()));
        eventually("no notes", || (daemon.notes() == 0).then_some(()));
    }
}

/// A daemon takes a stack over from its processes and dies before they have connected to it. They live, and keep their places.
pub fn who_has_not_come_back_is_not_lost() {
    let _space = Space::new();
    let mut daemon = Daemon::start();
    let (client, a, fds) = daemon.attach(StackName::Default);
    let old = daemon.row(a.stack_id).unwrap()["keeper_pid"]
        .as_u64()
        .unwrap();
    daemon.die();
    sh(&format!("kill -9 {old}"));
    eventually("the end of the keeper", || (!is_running(old)).then_some(()));
    daemon.succeed();
    let row = eventually("the stack", || daemon.row(a.stack_id));
    let keeper = row["keeper_pid"].as_u64().unwrap();
    for _ in 0..2 {
        daemon.die();
        daemon.succeed();
        let row = eventually("the stack, again", || daemon.row(a.stack_id));
        assert_eq!(row["keeper_pid"].as_u64(), Some(keeper));
        assert_eq!(row["processes"].as_array().unwrap().len(), 1, "{row}");
    }
    let mut back = daemon.client();
    let rejoined = back.rejoin(a.owner, fds.stack.as_fd()).unwrap();
    let (listener, _) = listener(&mut back, 7001);
    let channel = flyover_proto::KeeperLink::new(rejoined.keeper.unwrap());
    channel.reg_os(1, 1, true, listener.as_fd()).unwrap();
    // Its own from here on: its end is noticed by the next daemon's keeper as ever.
    daemon.die();
    drop((client, back, fds, channel, listener));
    daemon.succeed();
    eventually("the end of the stack", || {
        daemon.row(a.stack_id).is_none().then_some(())
    });
}

/// Bytes that the kernel's connection with this local port has to send or to get acknowledged (proc_net(5)).
fn queued(port: u16) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(&format!("0100090A:{port:04X}")))?;
    let queues = line.split_whitespace().nth(4)?;
    u32::from_str_radix(queues.split(':').next()?, 16).ok()
}

/// The answer was lost with the daemon: whoever asks the next one gets it, and no byte is sent twice.
pub fn a_handover_is_finished_once() {
    let _space = Space::new();
    let mut daemon = Daemon::start();
    let (mut client, a, fds) = daemon.attach(StackName::Default);
    let sock = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&sock, &SocketAddr::from(([10, 9, 0, 1], 7003))).unwrap();
    let end = |last, port| Endpoint {
        ip: Ip::v4([10, 9, 0, last]),
        port,
    };
    let flow = FilterSpec {
        local: end(1, 7003),
        remote: Some(end(77, 80)),
        ..spec(7003)
    };
    client.add_filter(flow, sock.as_fd()).unwrap();
    let mut image = TcpImage {
        local: end(1, 7003),
        remote: end(77, 80),
        ifindex: 0,
        snd_una: 1000,
        unacked: 0,
        queued: 0,
        rcv_nxt: 5000,
        unread: 0,
        snd_wnd: 60_000,
        snd_wl1: 4999,
        max_wnd: 60_000,
        rcv_wnd: 60_000,
        mss: 1460,
        peer_scale: None,
        own_scale: None,
        sack: false,
        timestamp: None,
        fin_in: false,
        fin_out: false,
        fin_acked: false,
    };
    // The daemon before had not sent anything yet.
    let pass = client.handover(image, sock.as_fd(), None).unwrap();
    assert_eq!(queued(7003), Some(0));
    let bytes = sealed_memfd("bytes", 6).unwrap();
    rustix::io::pwrite(&bytes, b"unsent", 0).unwrap();
    image.queued = 6;
    for _ in 0..2 {
        daemon.die();
        daemon.succeed();
        client = rejoin(&daemon, &a, &fds).unwrap();
        let again = client.handover(image, sock.as_fd(), Some(bytes.as_fd()));
        assert_eq!(again.unwrap(), pass);
        assert_eq!(queued(7003), Some(6));
    }
    // Another socket is not that connection.
    let other = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert!(
        client
            .handover(image, other.as_fd(), Some(bytes.as_fd()))
            .is_err()
    );
    assert_eq!(queued(7003), Some(6));
}
