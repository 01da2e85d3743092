//! Both kinds of V-NIC over veth: 64-byte frames there and back, from privileged and other threads.

mod net;

use std::time::Instant;

use flyover_vnic::host::bpf::XdpAttach;
use flyover_vnic::host::{PacketConfig, XdpMode};
use flyover_vnic::{Csum, PacketNic, RxMeta, Vnic, VnicKind, XdpNic};
use net::{
    End, Net, Nic, State, at, await_frame, inside, is_root, one_at_a_time, receive, udp_flow,
};

const ROUNDS: u32 = 2000;
/// Ethernet, IPv4, UDP headers and this make 64 bytes.
const PAYLOAD: usize = 22;

/// Sends `ROUNDS` frames from a to b and back. One thread plays both ends: a veth delivers in the sender's
/// context, so no time is spent waiting.
fn ping_pong(a: &mut Nic<'_>, b: &mut Nic<'_>) {
    let (pa, pb) = (at(1, 5001), at(2, 5002));
    let start = Instant::now();
    for n in 0..ROUNDS {
        let mut payload = [n as u8; PAYLOAD];
        net::send_udp(a.vnic(), (pa, pb), &mut payload);
        let fd = b.fd();
        let (meta, bytes) = await_frame(b.vnic(), &fd).expect("nothing arrived at b");
        assert_eq!((meta.frame_len, bytes.len()), (64, 64));
        assert_eq!(bytes[42..], payload);
        verify_checksum(&meta.csum, &bytes);
        net::send_udp(b.vnic(), (pb, pa), &mut payload);
        let fd = a.fd();
        let (_, bytes) = await_frame(a.vnic(), &fd).expect("nothing came back to a");
        assert_eq!(bytes[42..], payload);
    }
    let each = start.elapsed() / ROUNDS;
    eprintln!(
        "{:?} <-> {:?}: {each:?} per round trip",
        a.caps().kind,
        b.caps().kind
    );
    assert!(receive(a.vnic()).is_none() && receive(b.vnic()).is_none());
}

/// What the V-NIC says about the checksum is true.
fn verify_checksum(says: &Csum, bytes: &[u8]) {
    use flyover_wire::checksum::{is_valid, pseudo_sum, sum};
    let parsed = flyover_wire::frame::parse(bytes, bytes.len()).unwrap();
    let l4 = usize::from(parsed.l4_off);
    let pseudo = pseudo_sum(parsed.src, parsed.dst, 17, (bytes.len() - l4) as u32);
    let field = u16::from_be_bytes([bytes[l4 + 6], bytes[l4 + 7]]);
    let valid = is_valid(sum(&bytes[l4..], pseudo.into()));
    match says {
        Csum::Good => assert!(valid),
        Csum::Partial => assert_eq!(field, pseudo),
        Csum::Unknown => assert!(valid || field == pseudo),
    }
}

#[test]
fn packet_to_packet() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, sa, sb) = (Net::new(), State::new(), State::new());
    let config = PacketConfig::default();
    let mut a = inside(&net.a, || End::packet(&sa, &[udp_flow(1, 5001)], &config));
    let mut b = inside(&net.b, || End::packet(&sb, &[udp_flow(2, 5002)], &config));
    assert_eq!(a.nic.caps().kind, VnicKind::Packet);
    assert!(a.nic.caps().tso_max >= 60_000);
    ping_pong(&mut a.nic, &mut b.nic);
    assert_eq!(sa.get().count.rx_frames.get(), u64::from(ROUNDS));
}

#[test]
fn xdp_native_to_packet() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, sa, sb) = (Net::new(), State::new(), State::new());
    let mut a = inside(&net.a, || {
        End::xdp(&sa, &[udp_flow(1, 5001)], XdpAttach::Auto)
    });
    let config = PacketConfig::default();
    let mut b = inside(&net.b, || End::packet(&sb, &[udp_flow(2, 5002)], &config));
    ping_pong(&mut a.nic, &mut b.nic);
    inside(&net.a, || {
        let (mode, _) = flyover_vnic::host::interface(net::v0())
            .unwrap()
            .xdp
            .unwrap();
        assert_eq!(mode, XdpMode::Native);
    });
}

#[test]
fn xdp_to_xdp_native_and_generic() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    for mode in [XdpAttach::Native, XdpAttach::Generic] {
        let (net, sa, sb) = (Net::new(), State::new(), State::new());
        let mut a = inside(&net.a, || End::xdp(&sa, &[udp_flow(1, 5001)], mode));
        let mut b = inside(&net.b, || End::xdp(&sb, &[udp_flow(2, 5002)], mode));
        eprintln!("{mode:?}");
        ping_pong(&mut a.nic, &mut b.nic);
    }
}

/// Frames longer than 2048 bytes; and where the driver refuses XDP (veth above 3.5 KB), generic mode is used.
#[test]
fn xdp_with_larger_frames() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    for (mtu, mode) in [(3000, XdpMode::Native), (3800, XdpMode::Generic)] {
        let (net, sa, sb) = (Net::new(), State::new(), State::new());
        for ns in [&net.a, &net.b] {
            net::sh(&format!("ip -n {ns} link set v0 mtu {mtu}"));
        }
        let end = |state, end, port| End::xdp(state, &[udp_flow(end, port)], XdpAttach::Auto);
        let mut a = inside(&net.a, || end(&sa, 1, 5001));
        let mut b = inside(&net.b, || end(&sb, 2, 5002));
        let (_, attached) = inside(&net.b, || {
            let interface = flyover_vnic::host::interface(net::v0()).unwrap();
            (interface.mtu, interface.xdp.unwrap().0)
        });
        assert_eq!(attached, mode);
        for len in [1, 1500, mtu - 28] {
            let mut payload = vec![7; len];
            net::send_udp(a.nic.vnic(), (at(1, 5001), at(2, 5002)), &mut payload);
            let fd = b.nic.fd();
            let (_, bytes) = await_frame(b.nic.vnic(), &fd).expect("nothing arrived at b");
            assert_eq!(bytes[42..], payload);
        }
    }
}

/// Gives up all privilege, for the calling thread only.
fn become_nobody() {
    let nobody = 65534 as libc::c_long;
    // SAFETY: system calls without pointers. The C library's wrappers would change all threads.
    unsafe {
        assert_eq!(
            libc::syscall(libc::SYS_setresgid, nobody, nobody, nobody),
            0
        );
        assert_eq!(
            libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody),
            0
        );
    }
}

/// Two processes, neither privileged, use one V-NIC in turn.
#[test]
fn unprivileged_processes_share_a_vnic() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, sa, sb) = (Net::new(), State::new(), State::new());
    let config = PacketConfig::default();
    let mut peer = inside(&net.a, || End::packet(&sa, &[udp_flow(1, 5001)], &config));
    let (mut maps, packet) = inside(&net.b, || {
        let mut maps = flyover_vnic::host::bpf::FlowMaps::load().unwrap();
        maps.insert(&udp_flow(2, 5002), 1).unwrap();
        let packet = net::packet_socket(&mut maps, 1, &config);
        (maps, packet)
    });
    inside(&net.a, || {
        become_nobody();
        let attach = || {
            let fd = packet.0.try_clone().unwrap();
            PacketNic::attach(fd, packet.1, sb.get()).unwrap()
        };
        share(&mut peer.nic, &mut attach(), &mut attach());
    });
    drop(packet);

    let (link, socket) = inside(&net.b, || {
        let link = maps.attach_xdp(net::v0(), XdpAttach::Auto).unwrap();
        (link, net::xdp_socket(&mut maps, 1, &Default::default()))
    });
    let sb = State::new();
    inside(&net.a, || {
        become_nobody();
        let attach = || {
            let fd = socket.xsk.try_clone().unwrap();
            let umem = std::os::fd::AsFd::as_fd(&socket.umem);
            XdpNic::attach(fd, umem, socket.geometry, sb.get()).unwrap()
        };
        let (mut first, mut second) = (attach(), attach());
        assert!(receive(&mut first).is_none());
        share(&mut peer.nic, &mut first, &mut second);
    });
    drop(link);
}

/// A frame that was sent. The kernel delivers it in a softirq: usually before the sender's call returns, but later
/// when ksoftirqd has the turn.
fn soon(nic: &mut dyn Vnic) -> Option<(RxMeta, Vec<u8>)> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
    loop {
        let frame = receive(nic);
        if frame.is_some() || std::time::Instant::now() > end {
            return frame;
        }
        std::thread::yield_now();
    }
}

fn share<V: Vnic>(peer: &mut Nic<'_>, first: &mut V, second: &mut V) {
    let (pa, pb) = (at(1, 5001), at(2, 5002));
    for n in 0..5000u32 {
        let mut payload = n.to_be_bytes();
        net::send_udp(peer.vnic(), (pa, pb), &mut payload);
        let turn = if n % 3 == 0 {
            &mut *first
        } else {
            &mut *second
        };
        let (_, bytes) = soon(turn).expect("nothing arrived");
        assert_eq!(bytes[42..46], payload);
        net::send_udp(turn, (pb, pa), &mut payload);
        let (_, bytes) = soon(peer.vnic()).expect("nothing came back");
        assert_eq!(bytes[42..46], payload);
    }
}
