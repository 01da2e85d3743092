//! The client against daemons that are absent, silent, dead, lying or well.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flyover_proto::{
    Attach, Attached, Client, ClientError, Deadline, FD_FLOOR, FilterSpec, List, MAX_MESSAGE,
    NicDesc, Packet, RefusedCode, Reply, Request, StackName, Text, VnicPref, recv, send,
};
use flyover_wire::{Endpoint, Ip, Mac};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
};

const QUICK: Duration = Duration::from_millis(200);

fn listener(name: &str) -> (OwnedFd, Vec<u8>) {
    let name = format!("flyover-test-{}-{name}", std::process::id());
    let sock = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    bind(
        &sock,
        &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap(),
    )
    .unwrap();
    listen(&sock, 0).unwrap();
    (sock, format!("@{name}").into_bytes())
}

/// Serves one connection: `answer` gives the replies to each request.
fn serve(
    listener: OwnedFd,
    mut answer: impl FnMut(Request, usize) -> Vec<(Reply, Vec<OwnedFd>)> + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let sock = accept(&listener).unwrap();
        let mut buf = vec![0; MAX_MESSAGE];
        while let Ok(Packet::Message(len, fds)) = recv(sock.as_fd(), &mut buf, Deadline::NEVER) {
            let (seq, request) = Request::decode(&buf[..len]).unwrap();
            for (reply, fds) in answer(request, fds.len()) {
                let len = reply.encode(seq, &mut buf).unwrap();
                let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
                send(sock.as_fd(), &buf[..len], &fds, Deadline::NEVER).unwrap();
            }
        }
    })
}

fn welcome() -> Vec<(Reply, Vec<OwnedFd>)> {
    vec![(
        Reply::Welcome {
            pid: 1,
            layout_hash: 0,
        },
        vec![],
    )]
}

fn memfd() -> OwnedFd {
    memfd_create("t", MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn nobody_listens() {
    let e = Client::connect(b"/nonexistent/flyoverd.sock", 0).unwrap_err();
    assert!(matches!(e, ClientError::Absent(_)), "{e}");
    let long = vec![b'x'; 300];
    assert!(matches!(
        Client::connect(&long, 0),
        Err(ClientError::Absent(_))
    ));
}

#[test]
fn a_hung_daemon_costs_the_timeout_only() {
    // Nobody accepts: the first connection waits in the queue, later ones find the queue full.
    let (_listener, path) = listener("hung");
    let start = Instant::now();
    for _ in 0..3 {
        let e = Client::connect_within(&path, 0, QUICK).unwrap_err();
        assert!(
            matches!(e, ClientError::Timeout | ClientError::Absent(_)),
            "{e}"
        );
    }
    assert!(start.elapsed() < QUICK * 6);
}

#[test]
fn a_daemon_that_dies_is_absent_from_then_on() {
    let (l, path) = listener("dies");
    let t = thread::spawn(move || {
        let sock = accept(&l).unwrap();
        let mut buf = [0; 100];
        let _ = recv(sock.as_fd(), &mut buf, Deadline::NEVER);
    });
    let e = Client::connect_within(&path, 0, QUICK).unwrap_err();
    assert!(matches!(e, ClientError::Absent(_)), "{e}");
    t.join().unwrap();
}

#[test]
fn silence_in_the_middle_ends_the_connection() {
    let (l, path) = listener("silent");
    let t = serve(l, |r, _| {
        if matches!(r, Request::Hello { .. }) {
            welcome()
        } else {
            vec![]
        }
    });
    let mut c = Client::connect_within(&path, 0, QUICK).unwrap();
    assert!(matches!(c.ps(), Err(ClientError::Timeout)));
    assert!(matches!(c.ps(), Err(ClientError::Absent(_))));
    assert!(c.as_fd().is_none());
    t.join().unwrap();
}

#[test]
fn signs_of_life_extend_the_wait() {
    let (l, path) = listener("working");
    let t = serve(l, |r, _| {
        if matches!(r, Request::Hello { .. }) {
            return welcome();
        }
        thread::sleep(QUICK / 2);
        vec![
            (Reply::Working {}, vec![]),
            (Reply::FilterAdded { id: 7 }, vec![]),
        ]
    });
    let mut c = Client::connect_within(&path, 0, QUICK).unwrap();
    let spec = FilterSpec {
        proto: 6,
        local: Endpoint {
            ip: Ip::v4([1, 2, 3, 4]),
            port: 5,
        },
        remote: None,
        dual: false,
    };
    assert_eq!(c.add_filter(spec, memfd().as_fd()).unwrap(), 7);
    drop(c);
    t.join().unwrap();
}

#[test]
fn refusals_keep_the_connection() {
    let (l, path) = listener("refuse");
    let t = serve(l, |r, _| match r {
        Request::Hello { .. } => welcome(),
        Request::Ps {} => vec![
            (
                Reply::Text {
                    more: true,
                    text: Text::new("[1,"),
                },
                vec![],
            ),
            (
                Reply::Text {
                    more: false,
                    text: Text::new("2]"),
                },
                vec![],
            ),
        ],
        _ => vec![(
            Reply::Refused {
                code: RefusedCode::Denied,
                text: Text::new("not yours"),
            },
            vec![],
        )],
    });
    let mut c = Client::connect_within(&path, 0, QUICK).unwrap();
    assert!(matches!(
        c.stack_fd(3),
        Err(ClientError::Refused(RefusedCode::Denied, _))
    ));
    assert_eq!(c.ps().unwrap(), "[1,2]");
    drop(c);
    t.join().unwrap();
}

fn attached(nics: usize) -> Attached {
    let nic = |i: usize| NicDesc {
        slot: i as u16,
        kind: if i.is_multiple_of(2) {
            NicDesc::PACKET
        } else {
            NicDesc::XDP
        },
        ifindex: 1,
        queue: 0,
        mtu: 1500,
        mac: Mac([0; 6]),
        geometry: List::default(),
    };
    Attached {
        stack_id: 9,
        owner: 1,
        stack_len: 4096,
        opts: List::default(),
        cplane_len: 4096,
        dims: List::default(),
        nic_gen: 1,
        nics: List::new((0..nics).map(nic)),
        local_only: false,
        shared: false,
    }
}

fn wish() -> Attach {
    Attach {
        stack: StackName::Default,
        opts: List::default(),
        interfaces: List::default(),
        vnic: VnicPref::Auto,
    }
}

#[test]
fn descriptors_arrive_closed_on_exec_and_out_of_the_way() {
    let (l, path) = listener("fds");
    let t = serve(l, |r, _| match r {
        Request::Attach { .. } => {
            vec![(
                Reply::Attached {
                    attached: attached(4),
                },
                (0..4 + 6).map(|_| memfd()).collect(),
            )]
        }
        _ => welcome(),
    });
    let mut c = Client::connect_within(&path, 0, QUICK).unwrap();
    let (a, fds) = c.attach(wish()).unwrap();
    assert_eq!((a.stack_id, fds.nics.len()), (9, 4));
    assert!(fds.nics[0].umem.is_none() && fds.nics[1].umem.is_some());
    for fd in [
        fds.stack.as_fd(),
        fds.cplane.as_fd(),
        fds.keeper.as_fd(),
        fds.nics[3].sock.as_fd(),
        c.as_fd().unwrap(),
    ] {
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
        assert!(fd.as_raw_fd() >= FD_FLOOR.min(200), "{fd:?}");
    }
    drop(c);
    t.join().unwrap();
}

#[test]
fn missing_descriptors_and_wrong_answers_are_errors() {
    for (name, fds, hello_again) in [("few", 4, false), ("none", 0, false), ("wrong", 0, true)] {
        let (l, path) = listener(name);
        let t = serve(l, move |r, _| match r {
            Request::Attach { .. } if !hello_again => {
                vec![(
                    Reply::Attached {
                        attached: attached(4),
                    },
                    (0..fds).map(|_| memfd()).collect(),
                )]
            }
            _ => welcome(),
        });
        let mut c = Client::connect_within(&path, 0, QUICK).unwrap();
        assert!(
            matches!(c.attach(wish()), Err(ClientError::Protocol(_))),
            "{name}"
        );
        assert!(c.as_fd().is_none());
        t.join().unwrap();
    }
}
