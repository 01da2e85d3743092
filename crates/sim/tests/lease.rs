//! Connections from local ports that the stack is lent: which port, when one is used again, when the lease ends.
#![allow(missing_docs)]

use flyover_core::sock::SockRef;
use flyover_core::{Error, Instant, Kind, LEASED, TcpState};
use flyover_sim::{Net, NetConfig};
use flyover_wire::Endpoint;

const MS: u64 = 1_000_000;
const PORTS: [u16; 3] = [50_001, 50_002, 50_003];

fn server(net: &Net<'_>) -> Endpoint {
    Endpoint {
        ip: net.hosts[1].ip(),
        port: 80,
    }
}

fn listen(net: &mut Net<'_>) -> SockRef {
    let server = server(net);
    net.hosts[1].locked(|l| {
        let s = l.sock_alloc(Kind::Tcp, !server.ip.is_v4(), 0).unwrap();
        l.tcp_listen(s.id, server, false, 16).unwrap();
        s
    })
}

fn connect_of(net: &mut Net<'_>, lease: u64) -> Result<(SockRef, u16), Error> {
    let (ip, server) = (net.hosts[0].ip(), server(net));
    net.hosts[0].locked(|l| {
        let s = l.sock_alloc(Kind::Tcp, !ip.is_v4(), 0).unwrap();
        let port = l.tcp_connect_leased(s.id, lease, (ip, &PORTS), server);
        if port.is_err() {
            l.free_unused(s.id);
        }
        Ok((s, port?))
    })
}

fn connect(net: &mut Net<'_>) -> Result<(SockRef, u16), Error> {
    connect_of(net, 0)
}

/// The connection of the client's `c`, established, ends; who closes first has the TIME_WAIT.
fn close(net: &mut Net<'_>, lis: SockRef, c: SockRef, client_first: bool) {
    net.run_for(5 * MS);
    let s = net.hosts[1].locked(|l| l.tcp_accept(lis.id)).unwrap();
    let mut ends = [(0, c), (1, s)];
    if !client_first {
        ends.reverse();
    }
    for (host, sock) in ends {
        net.hosts[host].locked(|l| l.close(sock.id));
        net.run_for(5 * MS);
    }
}

fn on_the_net(test: impl FnOnce(&mut Net<'_>, SockRef)) {
    let config = NetConfig::clean(3);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let lis = listen(&mut net);
    test(&mut net, lis);
}

#[test]
fn ports_take_turns_and_no_connection_takes_anothers() {
    on_the_net(|net, lis| {
        let made: Vec<_> = (0..3).map(|_| connect(net).unwrap()).collect();
        let mut ports: Vec<u16> = made.iter().map(|(_, port)| *port).collect();
        assert_eq!(connect(net).unwrap_err(), Error::AddressInUse);
        ports.sort_unstable();
        assert_eq!(ports, PORTS);
        // The server closes first: the port is free again at once, and the next in turn is another one.
        close(net, lis, made[0].0, false);
        assert_eq!(connect(net).unwrap().1, made[0].1);
        net.run_for(10 * MS);
        for (s, _) in &made[1..] {
            let s = net.hosts[0].stack.sock(s.id);
            assert_eq!(s.tcp_state(), TcpState::Established);
            assert_eq!(s.filter.get(), LEASED);
        }
    });
}

#[test]
fn a_port_is_not_used_again_before_all_others() {
    on_the_net(|net, lis| {
        let mut last = Vec::new();
        for _ in 0..9 {
            let (c, port) = connect(net).unwrap();
            assert!(
                !last.iter().rev().take(2).any(|p| *p == port),
                "{last:?} {port}"
            );
            last.push(port);
            close(net, lis, c, false);
        }
    });
}

#[test]
fn time_wait_gives_its_port_up_after_a_second() {
    on_the_net(|net, lis| {
        for _ in 0..3 {
            let (c, _) = connect(net).unwrap();
            close(net, lis, c, true);
        }
        assert_eq!(connect(net).unwrap_err(), Error::AddressInUse);
        net.run_for(1_000 * MS);
        let (c, _) = connect(net).unwrap();
        net.run_for(5 * MS);
        let state = net.hosts[0].stack.sock(c.id).tcp_state();
        assert_eq!(state, TcpState::Established);
    });
}

#[test]
fn a_port_whose_connection_went_to_the_kernel_is_spent() {
    on_the_net(|net, _| {
        let (c, port) = connect(net).unwrap();
        net.run_for(5 * MS);
        let before = net.hosts[0].locked(|l| {
            l.handover_begin(c.id).unwrap();
            l.handover_done(c.id, 99, 1)
        });
        assert_eq!(before, 0, "the daemon has nothing to remove for it");
        // Its mark is gone, the kernel's TIME_WAIT is not.
        net.hosts[0].locked(|l| l.close(c.id));
        for _ in 0..2 {
            assert_ne!(connect(net).unwrap().1, port);
        }
        assert_eq!(connect(net).unwrap_err(), Error::AddressInUse);
    });
}

#[test]
fn a_lease_ends_when_nobody_uses_it_and_its_list_with_it() {
    on_the_net(|net, lis| {
        let end = |net: &mut Net<'_>| {
            let now = Instant(net.now);
            net.hosts[0].locked(|l| l.end_idle_lease(now))
        };
        assert_eq!(end(net), None, "there is none");
        let (c, _) = connect(net).unwrap();
        assert!(net.hosts[0].stack.lease_used().is_some());
        assert_eq!(end(net), None, "a connection has its port");
        close(net, lis, c, false);
        assert_eq!(end(net), Some(1));
        assert!(net.hosts[0].stack.lease_used().is_none());
        assert_eq!(connect(net).unwrap_err(), Error::AddressInUse);
        connect_of(net, 1).unwrap();
    });
}
