//! A daemon without privilege. Its user is root here, as in a container: what counts is what it can do.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;

use flyover_proto::{Client, ClientError, Connection, RefusedCode, StackName, TcpImage, VnicPref};
use flyover_wire::Endpoint;

use super::damage::{image, spec};
use crate::world::{Daemon, Space, eventually, wish};

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> RefusedCode {
    match result {
        Err(ClientError::Refused(code, _)) => code,
        other => panic!("not refused: {other:?}"),
    }
}

/// Stacks without V-NICs, whatever is asked for; what they cost before anybody uses them.
pub fn stacks_without_v_nics() {
    let space = Space::new();
    let daemon = Daemon::unprivileged(&[]);
    for vnic in [VnicPref::Auto, VnicPref::Packet, VnicPref::Xdp] {
        let (mut client, a, fds) = daemon.attach_as(StackName::Private, vnic);
        assert!(a.local_only);
        assert!(a.nics.is_empty() && fds.nics.is_empty());
        assert!(client.nics().unwrap().1.is_empty());
        let row = daemon.row(a.stack_id).unwrap();
        assert_eq!(row["vnics"].as_array().unwrap().len(), 0);
        let why = row["problems"][0]["why"].as_str().unwrap();
        assert!(why.contains("ordinary user's"), "{why}");
        let used = rustix::fs::fstat(&fds.stack).unwrap().st_blocks * 512;
        assert!(used < 256 << 10, "{used} bytes of an idle stack");
    }
    assert_eq!(daemon.ps()["daemon"]["local_only"], true);
    assert_eq!(space.programs(), 0);
}

/// What takes privilege is refused under a name of its own, and the client can go on.
pub fn what_takes_privilege_is_refused() {
    let _space = Space::new();
    let daemon = Daemon::unprivileged(&[]);
    let (mut client, _a, _fds) = daemon.attach(StackName::Default);
    let listener = TcpListener::bind("10.9.0.1:0").unwrap();
    let local: SocketAddr = listener.local_addr().unwrap();
    let stream = TcpStream::connect(local).unwrap();
    let image: TcpImage = image(local);
    let flow = Connection {
        local: Endpoint::from(stream.local_addr().unwrap()),
        remote: Endpoint::from(local),
    };
    let filter = client.add_filter(spec(local), listener.as_fd());
    let handover = client.handover(image, stream.as_fd(), None);
    let takeover = client.takeover(flow, 0, (false, false), stream.as_fd());
    assert_eq!(refused(filter), RefusedCode::Unprivileged);
    assert_eq!(refused(handover), RefusedCode::Unprivileged);
    assert_eq!(refused(takeover), RefusedCode::Unprivileged);
    let watched = client.watch(flow, true, stream.as_fd());
    assert_eq!(refused(watched), RefusedCode::Unprivileged);
    // No answer, and no harm.
    client.del_filter(7).unwrap();
    client.narrow(7, [flow]).unwrap();
    client.resolve(1, flow.remote.ip);
    assert!(client.nics().is_ok());
    let check: serde_json::Value = serde_json::from_str(&client.check().unwrap()).unwrap();
    assert_eq!(check["local_only"], true);
    assert!(
        check["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .all(|i| i["vnic"].is_null())
    );
}

/// Other network namespaces have daemons of their own.
pub fn one_namespace_only() {
    let home = Space::new();
    let daemon = Daemon::unprivileged(&[]);
    let (_client, _a, fds) = daemon.attach(StackName::Default);
    let elsewhere = Space::new();
    let mut client = daemon.client();
    let attach = wish(StackName::Default, VnicPref::Auto);
    assert_eq!(refused(client.attach(attach)), RefusedCode::Unprivileged);
    let heir = wish(StackName::Inherited, VnicPref::Auto);
    let inherited = client.attach_inherited(heir, fds.stack.as_fd());
    assert_eq!(refused(inherited), RefusedCode::Unprivileged);
    drop(elsewhere);
    home.enter();
    assert!(
        daemon
            .client()
            .attach(wish(StackName::Default, VnicPref::Auto))
            .is_ok()
    );
}

/// The socket is its user's alone, whatever the options say; and who gets at it all the same is told to go.
pub fn one_user_only() {
    let _space = Space::new();
    let daemon = Daemon::unprivileged(&["--mode", "666"]);
    let path = &daemon.path;
    let mode = || std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    // As if somebody had opened it.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
    let name = path.to_str().unwrap();
    let said = crate::world::try_hello_as(65_533, name);
    assert!(said.contains("another user's"), "{said}");
    assert!(daemon.client().ps().is_ok());
}

/// A killed keeper is replaced, by the same means.
pub fn its_keepers_are_replaced() {
    let _space = Space::new();
    let daemon = Daemon::unprivileged(&[]);
    let (_client, a, _fds) = daemon.attach(StackName::Default);
    let keeper = || daemon.row(a.stack_id).unwrap()["keeper_pid"].as_u64();
    let first = keeper().unwrap();
    crate::world::sh(&format!("kill -9 {first}"));
    eventually("another keeper", || keeper().filter(|pid| *pid != first));
    let (_other, b, _fds) = daemon.attach(StackName::Default);
    assert_eq!(a.stack_id, b.stack_id);
}

/// A process that stays keeps the daemon from ending, also without its connection; its end is the end.
pub fn who_stays_is_a_client_until_its_end() {
    let mut daemon = Daemon::unprivileged(&["--idle-exit-s", "1"]);
    let mut stayer = crate::world::stayer(&daemon);
    // Longer than it takes an idle daemon.
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(daemon.child.try_wait().unwrap().is_none());
    stayer.kill().unwrap();
    stayer.wait().unwrap();
    eventually("the end of the daemon", || daemon.child.try_wait().unwrap());
    assert!(!daemon.path.exists());
    assert!(matches!(
        Client::connect(daemon.path.as_os_str().as_encoded_bytes(), 0),
        Err(ClientError::Absent(_))
    ));
}
