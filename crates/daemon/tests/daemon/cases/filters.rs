//! Which flows a client may have.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use flyover_proto::{Client, ClientError, FilterSpec, RefusedCode, StackName};
use flyover_wire::{Endpoint, Ip};

use crate::world::{Daemon, Space, eventually, sh};

fn spec(proto: u8, local: SocketAddr) -> FilterSpec {
    let local = Endpoint {
        ip: Ip::from(local.ip()),
        port: local.port(),
    };
    FilterSpec {
        proto,
        local,
        remote: None,
        dual: false,
    }
}

fn refused(result: Result<u32, ClientError>) -> RefusedCode {
    match result {
        Err(ClientError::Refused(code, _)) => code,
        other => panic!("not refused: {other:?}"),
    }
}

fn filters(daemon: &Daemon, stack: u32) -> usize {
    daemon.row(stack).unwrap()["filters"]
        .as_array()
        .unwrap()
        .len()
}

pub fn the_proof_counts() {
    let space = Space::new();
    let daemon = Daemon::start();
    let (mut client, a, _fds) = daemon.attach(StackName::Default);
    let l = TcpListener::bind("10.9.0.1:0").unwrap();
    let good = spec(6, l.local_addr().unwrap());
    let id = client.add_filter(good, l.as_fd()).unwrap();
    assert_eq!(filters(&daemon, a.stack_id), 1);
    // Foreign ports, foreign protocols, foreign addresses.
    let mut port = good;
    port.local.port ^= 1;
    let udp = UdpSocket::bind("10.9.0.1:0").unwrap();
    let mut any = good;
    any.local.ip = Ip::UNSPECIFIED_V4;
    assert_eq!(
        refused(client.add_filter(port, l.as_fd())),
        RefusedCode::Denied
    );
    assert_eq!(
        refused(client.add_filter(good, udp.as_fd())),
        RefusedCode::Denied
    );
    assert_eq!(
        refused(client.add_filter(any, l.as_fd())),
        RefusedCode::Denied
    );
    // Descriptors that prove nothing.
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(
        refused(client.add_filter(good, file.as_fd())),
        RefusedCode::Denied
    );
    // A socket of another namespace with the same port.
    let other = Space::new();
    let foreign = TcpListener::bind(SocketAddr::from(([10, 9, 0, 1], good.local.port))).unwrap();
    drop(other);
    space.enter();
    assert_eq!(
        refused(client.add_filter(good, foreign.as_fd())),
        RefusedCode::Denied
    );
    // An address that this host does not have, although the socket is bound to all.
    let l = TcpListener::bind("[::]:0").unwrap();
    let mut alien = spec(6, l.local_addr().unwrap());
    alien.local.ip = Ip::v4([10, 9, 0, 77]);
    assert_eq!(
        refused(client.add_filter(alien, l.as_fd())),
        RefusedCode::Bad
    );
    // A dual-stack listener, a UDP socket, a connection.
    let dual = FilterSpec {
        dual: true,
        ..spec(6, l.local_addr().unwrap())
    };
    client.add_filter(dual, l.as_fd()).unwrap();
    client
        .add_filter(spec(17, udp.local_addr().unwrap()), udp.as_fd())
        .unwrap();
    assert_eq!(filters(&daemon, a.stack_id), 3);
    client.del_filter(id).unwrap();
    client.del_filter(id).unwrap();
    client.del_filter(9999).unwrap();
    eventually("removal", || {
        (filters(&daemon, a.stack_id) == 2).then_some(())
    });
}

pub fn stacks_keep_to_their_own() {
    let _space = Space::new();
    let daemon = Daemon::with(&["--stack-filters", "16"]);
    let (mut one, a, _f1) = daemon.attach(StackName::Private);
    let (mut two, b, _f2) = daemon.attach(StackName::Private);
    let l = TcpListener::bind("10.9.0.1:0").unwrap();
    let mine = spec(6, l.local_addr().unwrap());
    let id = one.add_filter(mine, l.as_fd()).unwrap();
    assert_eq!(
        refused(two.add_filter(mine, l.as_fd())),
        RefusedCode::Conflict
    );
    two.del_filter(id).unwrap();
    assert!(two.ps().is_ok());
    assert_eq!(
        filters(&daemon, a.stack_id),
        1,
        "another stack's filter stays"
    );
    let keep: Vec<TcpListener> = (0..17)
        .map(|_| TcpListener::bind("10.9.0.1:0").unwrap())
        .collect();
    let add =
        |c: &mut Client, l: &TcpListener| c.add_filter(spec(6, l.local_addr().unwrap()), l.as_fd());
    for l in &keep[..16] {
        add(&mut two, l).unwrap();
    }
    assert_eq!(refused(add(&mut two, &keep[16])), RefusedCode::Quota);
    assert_eq!(filters(&daemon, b.stack_id), 16);
    // A stack that ends takes its filters along.
    drop(one);
    eventually("the end of the first stack", || {
        daemon.row(a.stack_id).is_none().then_some(())
    });
    let spare = two.ps().map(drop);
    assert!(spare.is_ok());
    let (mut three, _, _f3) = daemon.attach(StackName::Private);
    three.add_filter(mine, l.as_fd()).unwrap();
}

/// What is steered does not reach the kernel; what is not steered does. Packets come from another namespace.
pub fn addresses_are_followed() {
    let space = Space::new();
    let daemon = Daemon::start();
    let (mut client, _, _fds) = daemon.attach(StackName::Default);
    let peer = Space::new();
    space.enter();
    sh("ip link del v0");
    eventually("the end of v0", || {
        client.nics().unwrap().1.is_empty().then_some(())
    });
    let l = TcpListener::bind("[::]:0").unwrap();
    l.set_nonblocking(true).unwrap();
    let port = l.local_addr().unwrap().port();
    let id = client
        .add_filter(
            FilterSpec {
                dual: true,
                ..spec(6, l.local_addr().unwrap())
            },
            l.as_fd(),
        )
        .unwrap();
    let outside = peer.link_to(&space);
    sh("ip addr add 10.9.1.1/24 dev w0");
    eventually("a V-NIC for w0", || {
        (client.nics().unwrap().1.len() == 1).then_some(())
    });
    sleep(Duration::from_millis(500));
    // Nobody runs the stack's sockets here, so a steered SYN is reset by the keeper; the kernel never accepts.
    let connect = || outside.connect(SocketAddr::from(([10, 9, 1, 1], port)));
    assert!(connect().is_err(), "steered");
    assert!(l.accept().is_err());
    client.del_filter(id).unwrap();
    let stream: TcpStream = eventually("the kernel's listener", || connect().ok());
    assert!(l.accept().is_ok());
    drop(stream);
}
