//! Ends: of processes, keepers, interfaces, the daemon.

use std::thread::sleep;
use std::time::Duration;

use flyover_config::StackOpts;
use flyover_core::Stack;
use flyover_proto::StackName;
use flyover_shm::host::Map;

use crate::world::{Daemon, Space, eventually, sh};

pub fn is_running(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
}

pub fn a_killed_process_is_noticed() {
    let space = Space::new();
    let daemon = Daemon::start();
    let mut helper = daemon.helper(65534);
    let second = daemon.helper(65534);
    assert_eq!(
        (helper.stack, helper.owner, second.owner),
        (second.stack, 1, 2)
    );
    helper.child.kill().unwrap();
    helper.child.wait().unwrap();
    let stack = helper.stack;
    eventually("one process left", || {
        (daemon.row(stack)?["processes"].as_array()?.len() == 1).then_some(())
    });
    let keeper = daemon.row(stack).unwrap()["keeper_pid"].as_u64().unwrap();
    drop(second);
    eventually("the end of the stack", || {
        daemon.row(stack).is_none().then_some(())
    });
    eventually("the end of the keeper", || {
        (!is_running(keeper)).then_some(())
    });
    eventually("clean interfaces", || (space.programs() == 0).then_some(()));
}

pub fn a_killed_keeper_is_replaced() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (_client, a, fds) = daemon.attach(StackName::Default);
    let keeper = || daemon.row(a.stack_id).unwrap()["keeper_pid"].as_u64();
    let opts = StackOpts::from_words(&a.opts).unwrap();
    let map = Map::rw(&fds.stack, a.stack_len as usize).unwrap();
    let stack = Stack::new(map.region(), &opts).unwrap();
    for signal in ["KILL", "TERM", "KILL"] {
        let old = keeper().unwrap();
        sh(&format!("kill -{signal} {old}"));
        eventually("another keeper", || keeper().filter(|pid| *pid != old));
    }
    // The memory was not initialised anew, and the new keeper serves it: it sleeps, and takes the lock from a process
    // that is gone.
    assert!(stack.is_ready());
    let mut helper = daemon.helper(0);
    assert_eq!(helper.stack, a.stack_id);
    let takeovers = || {
        stack
            .stats()
            .takeovers
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let before = takeovers();
    eventually("a free lock", || {
        stack.lock().try_lock(helper.owner as u16).then_some(())
    });
    helper.child.kill().unwrap();
    eventually("the lock", || stack.lock().owner().is_none().then_some(()));
    assert_eq!(takeovers(), before + 1);
    // However often they die, there is another one, after a while.
    for _ in 0..4 {
        let old = keeper().unwrap();
        sh(&format!("kill -9 {old}"));
        eventually("another keeper", || keeper().filter(|pid| *pid != old));
    }
    // Without a process the stack is given up instead.
    drop((_client, fds));
    if let Some(pid) = keeper() {
        sh(&format!("kill -9 {pid}"));
    }
    eventually("the end of the stack", || {
        daemon.row(a.stack_id).is_none().then_some(())
    });
}

pub fn v_nics_follow_the_interfaces() {
    let space = Space::new();
    let daemon = Daemon::start();
    let (mut client, a, fds) = daemon.attach(StackName::Default);
    let opts = StackOpts::from_words(&a.opts).unwrap();
    let map = Map::rw(&fds.stack, a.stack_len as usize).unwrap();
    let stack = Stack::new(map.region(), &opts).unwrap();
    sh("ip link add x0 type veth peer name x1");
    eventually("a new generation", || {
        (stack.nic_gen() != a.nic_gen).then_some(())
    });
    let (_, nics, fds) = eventually("four V-NICs", || {
        client.nics().ok().filter(|(_, n, _)| n.len() == 4)
    });
    assert_eq!(fds.len(), 4);
    let mut slots: Vec<u16> = nics.iter().map(|nic| nic.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3]);
    sh("ip link del x0");
    eventually("two V-NICs", || {
        client.nics().ok().filter(|(_, n, _)| n.len() == 2)
    });
    drop(space);
}

pub fn an_idle_stack_costs_nothing() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (_client, a, _fds) = daemon.attach(StackName::Default);
    let keeper = daemon.row(a.stack_id).unwrap()["keeper_pid"]
        .as_u64()
        .unwrap();
    // Neighbour discovery of the new interfaces settles first.
    sleep(Duration::from_secs(2));
    let switches = |pid: u64| -> u64 {
        let status = sh(&format!("cat /proc/{pid}/task/*/status"));
        let lines = status
            .lines()
            .filter_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        lines.map(|n| n.trim().parse::<u64>().unwrap()).sum()
    };
    let before = switches(keeper);
    sleep(Duration::from_secs(2));
    let woken = switches(keeper) - before;
    assert!(woken <= 4, "the keeper woke up {woken} times in 2 s");
}

pub fn a_killed_daemon_leaves_the_interfaces_clean() {
    let space = Space::new();
    let daemon = Daemon::start();
    let (client, a, fds) = daemon.attach(StackName::Default);
    let keeper = daemon.row(a.stack_id).unwrap()["keeper_pid"]
        .as_u64()
        .unwrap();
    assert!(space.programs() > 0);
    daemon.signal("KILL");
    sleep(Duration::from_millis(300));
    assert!(is_running(keeper), "the process still has its stack");
    assert!(space.programs() > 0, "its connections are not cut off");
    drop((client, fds));
    eventually("clean interfaces", || (space.programs() == 0).then_some(()));
    eventually("the end of the keeper", || {
        (!is_running(keeper)).then_some(())
    });
    assert!(daemon.path.exists());
    // The next daemon finds a name that nobody listens on.
    let mut next = Daemon::command(&daemon.path).spawn().unwrap();
    eventually("the next daemon", || {
        flyover_proto::Client::connect(daemon.path.as_os_str().as_encoded_bytes(), 0).ok()
    });
    next.kill().unwrap();
    next.wait().unwrap();
}

pub fn sigterm_ends_in_order() {
    let space = Space::new();
    let mut daemon = Daemon::start();
    let (client, a, fds) = daemon.attach(StackName::Default);
    let (other, b, other_fds) = daemon.attach(StackName::Private);
    let keeper = |id| daemon.row(id).unwrap()["keeper_pid"].as_u64().unwrap();
    let (used, unused) = (keeper(a.stack_id), keeper(b.stack_id));
    drop((other, other_fds));
    eventually("no process", || {
        daemon.row(b.stack_id)?["processes"]
            .as_array()?
            .is_empty()
            .then_some(())
    });
    daemon.signal("TERM");
    assert!(daemon.child.wait().unwrap().success());
    assert!(!daemon.path.exists());
    eventually("the end of the unused keeper", || {
        (!is_running(unused)).then_some(())
    });
    assert!(is_running(used), "the process goes on");
    drop((client, fds));
    eventually("the end of the used keeper", || {
        (!is_running(used)).then_some(())
    });
    assert_eq!(space.programs(), 0);
}

pub fn one_daemon_per_socket() {
    let daemon = Daemon::start();
    let out = Daemon::command(&daemon.path).output().unwrap();
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("another flyoverd"), "{said}");
    assert!(daemon.client().ps().is_ok());
}

/// Wake sockets have the stack's number in their names: in one namespace a number means one stack.
pub fn numbers_are_unique_in_a_namespace() {
    let _space = Space::new();
    let mut first = Daemon::start();
    let (client, a, fds) = first.attach(StackName::Default);
    let second = Daemon::start();
    let (_c, b, _f) = second.attach(StackName::Default);
    assert_ne!(a.stack_id, b.stack_id);
    // Also when the daemon of the older stack is gone.
    first.signal("KILL");
    first.child.wait().unwrap();
    let third = Daemon::start();
    let (_c, c, _f) = third.attach(StackName::Default);
    assert!(![a.stack_id, b.stack_id].contains(&c.stack_id));
    drop((client, fds));
    eventually("a free number", || {
        let (_c, d, _f) = third.attach(StackName::Private);
        (d.stack_id != c.stack_id).then_some(())
    });
}

/// The client's user need not be able to reach the daemon's program.
pub fn keepers_start_from_anywhere() {
    let _space = Space::new();
    let dir = std::env::temp_dir().join(format!("flyd-private-{}", std::process::id()));
    let program = dir.join("flyoverd");
    sh(&format!(
        "mkdir -m 700 {} && cp {} {}",
        dir.display(),
        env!("CARGO_BIN_EXE_flyoverd"),
        program.display()
    ));
    let daemon = Daemon::of(&program, &[]);
    // Replaced by a newer one meanwhile.
    std::fs::remove_dir_all(&dir).unwrap();
    let helper = daemon.helper(65534);
    assert!(
        daemon.row(helper.stack).unwrap()["keeper_pid"]
            .as_u64()
            .is_some()
    );
}
