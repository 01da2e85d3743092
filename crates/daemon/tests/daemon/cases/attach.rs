//! Getting a stack.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use flyover_config::StackOpts;
use flyover_core::Stack;
use flyover_cplane::{Dims, Reader};
use flyover_proto::{Client, ClientError, List, NicDesc, RefusedCode, StackName, Text, VnicPref};
use flyover_shm::host::{Map, sealed_memfd};
use flyover_vnic::{PacketGeometry, PacketNic, XdpGeometry, XdpNic};
use rustix::fs::{SealFlags, fcntl_get_seals};

use crate::world::{Daemon, Space, eventually, sh, wish};

fn named(name: &str) -> StackName {
    StackName::Named(Text::new(name))
}

pub fn one_stack_per_user_and_name() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (_c1, a, _) = daemon.attach(StackName::Default);
    let (_c2, b, _) = daemon.attach(StackName::Default);
    assert_eq!((a.stack_id, a.owner, b.owner), (b.stack_id, 1, 2));
    let (_c3, c, _) = daemon.attach(named("x"));
    let (_c4, d, _) = daemon.attach(named("x"));
    let (_c5, e, _) = daemon.attach(StackName::Private);
    let (_c6, f, _) = daemon.attach(StackName::Private);
    assert_eq!(c.stack_id, d.stack_id);
    let mut ids = vec![a.stack_id, c.stack_id, e.stack_id, f.stack_id];
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "four different stacks");
    // Another namespace is another world, the same name or not.
    let other = Space::new();
    let (_c7, g, _) = daemon.attach(named("x"));
    assert_ne!(g.stack_id, c.stack_id);
    drop(other);
}

pub fn the_memory_is_sealed_and_ready() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (mut client, a, fds) = daemon.attach(StackName::Default);
    let seals = fcntl_get_seals(&fds.stack).unwrap();
    assert!(
        seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL),
        "{seals:?}"
    );
    let opts = StackOpts::from_words(&a.opts).unwrap();
    let map = Map::rw(&fds.stack, a.stack_len as usize).unwrap();
    let stack = Stack::new(map.region(), &opts).unwrap();
    assert!(stack.is_ready());
    eventually("the generation of V-NICs", || {
        (stack.nic_gen() == a.nic_gen).then_some(())
    });
    let dims = Dims::from_words(&a.dims).unwrap();
    let cplane = Map::ro(&fds.cplane, a.cplane_len as usize).unwrap();
    let reader = Reader::new(cplane.region(), &dims).unwrap();
    assert!(reader.is_local("10.9.0.1".parse::<std::net::IpAddr>().unwrap().into()));
    // Both ends of the cable are interfaces of this namespace.
    let kinds: Vec<u8> = a.nics.iter().map(|nic| nic.kind).collect();
    assert_eq!(kinds, [NicDesc::PACKET; 2]);
    let geometry = PacketGeometry::from_words(&a.nics[0].geometry).unwrap();
    let sock = fds.nics[0].sock.try_clone().unwrap();
    PacketNic::attach(sock, geometry, stack.nic_state(0).unwrap()).unwrap();
    // The same descriptors once more.
    let (nic_gen, nics, again) = client.nics().unwrap();
    assert_eq!((nic_gen, nics.len(), again.len()), (a.nic_gen, 2, 2));
    assert!(matches!(
        client.attach(wish(StackName::Default, VnicPref::Auto)),
        Err(ClientError::Refused(..))
    ));
    // For tools.
    let (fd, len, words) = daemon.client().stack_fd(a.stack_id).unwrap();
    assert_eq!((len, &words[..]), (a.stack_len, &a.opts[..]));
    assert_eq!(
        rustix::fs::fstat(&fd).unwrap().st_ino,
        rustix::fs::fstat(&fds.stack).unwrap().st_ino
    );
}

pub fn xdp_when_asked() {
    let space = Space::new();
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let mut attach = wish(StackName::Private, VnicPref::Xdp);
    attach.interfaces = List::new([Text::new("v0")]);
    let (a, fds) = client.attach(attach).unwrap();
    assert_eq!(a.nics.len(), 1);
    assert_eq!(a.nics[0].kind, NicDesc::XDP, "{}", daemon.ps());
    let geometry = XdpGeometry::from_words(&a.nics[0].geometry).unwrap();
    let opts = StackOpts::from_words(&a.opts).unwrap();
    let map = Map::rw(&fds.stack, a.stack_len as usize).unwrap();
    let stack = Stack::new(map.region(), &opts).unwrap();
    let umem = fds.nics[0].umem.as_ref().unwrap();
    let sock = fds.nics[0].sock.try_clone().unwrap();
    XdpNic::attach(sock, umem.as_fd(), geometry, stack.nic_state(0).unwrap()).unwrap();
    assert_eq!(space.programs(), 1);
    // A second stack finds the queue taken, and gets a packet socket.
    let mut other = daemon.client();
    let mut attach = wish(StackName::Private, VnicPref::Xdp);
    attach.interfaces = List::new([Text::new("v0")]);
    let (b, _) = other.attach(attach).unwrap();
    assert_eq!(b.nics[0].kind, NicDesc::PACKET);
}

pub fn an_unprivileged_user_gets_an_own_keeper() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (_c, root, _) = daemon.attach(StackName::Default);
    let helper = daemon.helper(65534);
    assert_ne!(root.stack_id, helper.stack);
    let row = daemon.row(helper.stack).unwrap();
    assert_eq!(row["uid"], 65534);
    let status = sh(&format!("cat /proc/{}/status", row["keeper_pid"]));
    let line = |name: &str| {
        status
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .to_owned()
    };
    assert_eq!(line("Uid:").split_whitespace().nth(1), Some("65534"));
    for row in [&row, &daemon.row(root.stack_id).unwrap()] {
        let status = sh(&format!("cat /proc/{}/status", row["keeper_pid"]));
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            let line = status.lines().find(|l| l.starts_with(set)).unwrap();
            assert!(line.ends_with("\t0000000000000000"), "{line}");
        }
        assert!(status.contains("NoNewPrivs:\t1"));
    }
    // A user sees and gets only what is its own; root gets everything.
    assert!(daemon.client().stack_fd(helper.stack).is_ok());
}

pub fn versions_and_layouts_must_agree() {
    let daemon = Daemon::start();
    let path = daemon.path.as_os_str().as_encoded_bytes();
    let error = Client::connect(path, 0x1234).unwrap_err();
    assert!(
        matches!(error, ClientError::Refused(RefusedCode::Layout, _)),
        "{error}"
    );
    let mut tool = Client::connect(path, 0).unwrap();
    assert!(tool.ps().is_ok());
    let error = tool
        .attach(wish(StackName::Default, VnicPref::Auto))
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Refused(RefusedCode::Layout, _)),
        "{error}"
    );
}

pub fn quotas() {
    let _space = Space::new();
    let daemon = Daemon::with(&["--user-stacks", "1"]);
    let _first = daemon.helper(65534);
    let mut client = daemon.client();
    let mut opts = StackOpts {
        max_owners: 2,
        ..StackOpts::default()
    };
    let mut attach = wish(StackName::Private, VnicPref::Auto);
    attach.stack = named("small");
    attach.opts = List::new(opts.to_words());
    client.attach(attach.clone()).unwrap();
    let error = daemon.client().attach(attach.clone()).unwrap_err();
    assert!(
        matches!(error, ClientError::Refused(RefusedCode::Quota, _)),
        "one process only: {error}"
    );
    opts.rto_min_ms = opts.rto_max_ms + 1;
    attach.opts = List::new(opts.to_words());
    attach.stack = StackName::Private;
    let error = daemon.client().attach(attach).unwrap_err();
    assert!(
        matches!(error, ClientError::Refused(RefusedCode::Bad, _)),
        "{error}"
    );
}

pub fn reports() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (mut client, a, _) = daemon.attach(named("shown"));
    let row = daemon.row(a.stack_id).unwrap();
    assert_eq!(
        (row["name"].as_str(), row["memory_bytes"].as_u64()),
        (Some("shown"), Some(a.stack_len))
    );
    assert_eq!(row["processes"][0]["pid"], std::process::id());
    assert_eq!(row["vnics"][0]["interface"], "v1", "{row}");
    let check: serde_json::Value = serde_json::from_str(&client.check().unwrap()).unwrap();
    let of = |name: &str| {
        check["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .find(|i| i["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (of("v0")["vnic"].as_str(), of("lo")["vnic"].as_str()),
        (Some("packet"), None)
    );
}

/// Whoever holds a stack's memory for writing, a child of `fork` for instance, may join it; nobody else.
pub fn the_memory_is_the_proof() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (_c1, a, fds) = daemon.attach(StackName::Private);
    let join = |memory: &OwnedFd| {
        let mut client = daemon.client();
        let attach = wish(StackName::Inherited, VnicPref::Auto);
        let result = client.attach_inherited(attach, memory.as_fd());
        result.map(|(attached, fds)| (client, attached, fds))
    };
    let (_c2, b, _f2) = join(&fds.stack).unwrap();
    assert_eq!((b.stack_id, b.owner), (a.stack_id, 2));
    let path = format!("/proc/self/fd/{}", fds.stack.as_raw_fd());
    let read_only = OwnedFd::from(std::fs::File::open(path).unwrap());
    assert!(matches!(
        join(&read_only),
        Err(ClientError::Refused(RefusedCode::Denied, _))
    ));
    let other = sealed_memfd("other", 4096).unwrap();
    assert!(matches!(
        join(&other),
        Err(ClientError::Refused(RefusedCode::NotFound, _))
    ));
    let mut client = daemon.client();
    let without = client.attach(wish(StackName::Inherited, VnicPref::Auto));
    assert!(matches!(
        without,
        Err(ClientError::Refused(RefusedCode::Bad, _))
    ));
    let _elsewhere = Space::new();
    assert!(matches!(
        join(&fds.stack),
        Err(ClientError::Refused(RefusedCode::Denied, _))
    ));
}
