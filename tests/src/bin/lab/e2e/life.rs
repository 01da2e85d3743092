//! Life and death: a stopped or killed program, a killed daemon, no daemon, no privilege.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::daemon::{SOCKET_VARIABLE, answers};
use flyover_e2e::echo::{self, Probe};
use flyover_e2e::lab::{Host, Lab, SERVER, Setup, Side, ensure_equal, server, wait_until};
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::Case;
use flyover_e2e::servers::nginx;
use flyover_e2e::wiring;
use rustix::process::Signal;

use super::{on_pair, with_options};

const PORT: u16 = 7900;
const SOON: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(20);

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("life.stopped-program", Side::Server, stopped));
    cases.push(on_pair("life.killed-program", Side::Server, killed_program));
    cases.push(on_pair(
        "life.data-sent-then-exit",
        Side::Server,
        exit_after_send,
    ));
    cases.push(on_pair("life.out-of-memory", Side::Server, out_of_memory));
    cases.push(on_pair("life.kill-everything", Side::Server, kill_everything).only_flyover());
    let xdp = &["--vnic", "xdp"];
    let case = with_options(
        "life.kill-everything.xdp",
        Side::Server,
        xdp,
        kill_everything,
    );
    cases.push(case.only_flyover());
    cases.push(Case::new("life.daemon-killed.server", daemon_killed).only_flyover());
    cases.push(on_pair("life.keeper-and-daemon-killed", Side::Server, both_killed).only_flyover());
    cases.push(Case::new("life.daemon-absent.neither", daemon_absent).only_flyover());
    cases.push(Case::new("life.daemon-started-by-run.server", autostart).only_flyover());
    cases.push(on_pair("life.unprivileged", Side::Server, unprivileged).only_flyover());
    cases.push(on_pair("life.restart", Side::Server, restart));
    let small = &["--stack", "private", "--max-sockets", "64"];
    cases.push(with_options("life.table-full", Side::Client, small, table_full).only_flyover());
}

/// A plain client connects to a stopped server and sends: the keeper answers. The data waits.
fn stopped(lab: &Lab) -> Result<()> {
    let serving = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe.echo(1_000, SOON)?;
    serving.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(300));

    let mut second = Probe::connect(lab, server(PORT)).context("connecting to a stopped server")?;
    probe.ask(20_000)?;
    second.ask(10_000)?;
    wait_until(SOON, || Ok((unacknowledged(lab)? == 0).then_some(())))
        .context("waiting for the acknowledgement of what a stopped server was sent")?;
    ensure!(!probe.has_answer(), "a stopped server answered");

    serving.signal(Signal::CONT);
    probe.answer(SOON).context("after SIGCONT")?;
    second
        .answer(SOON)
        .context("after SIGCONT, second connection")
}

/// Bytes that the client's kernel has not seen acknowledged, over all connections to the port.
fn unacknowledged(lab: &Lab) -> Result<u64> {
    let text = lab.client.tool(&format!("ss -tnH dst {SERVER}:{PORT}"))?;
    // State, Recv-Q, Send-Q, local, peer.
    let queues = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    Ok(queues.sum())
}

/// kill -9 of the program: its peers are told, the port is free again.
fn killed_program(lab: &Lab) -> Result<()> {
    let serving = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe.echo(1_000, SOON)?;
    serving.signal(Signal::KILL);
    serving.finish(SOON)?;
    probe.ask(1_000)?;
    let answer = probe.answer(SOON);
    let text = answer
        .err()
        .map_or_else(String::new, |error| format!("{error:#}"));
    ensure!(
        !text.is_empty() && !text.contains("did not happen"),
        "the peer was not told: {text}"
    );
    let _again = echo::serve(lab, PORT).context("starting again on the same port")?;
    Probe::connect(lab, server(PORT))?.echo(1_000, SOON)
}

/// A program that writes and exits at once: the keeper delivers what is queued.
fn exit_after_send(lab: &Lab) -> Result<()> {
    for round in 0..5 {
        let port = PORT + round;
        let mut sending = lab
            .python(Host::Server, "send_and_exit.py")
            .args(&port.to_string())
            .spawn()?;
        lab.wait_for_port(Proto::Tcp, port, &mut sending)?;
        receives_all(lab, port)?;
        sending.finish(LIMIT)?.success()?;
    }
    Ok(())
}

/// A late reader gets the 200 kB of `send_and_exit.py`, and then the end of the stream.
fn receives_all(lab: &Lab, port: u16) -> Result<()> {
    let received = lab
        .plain(Host::Client, "/usr/bin/python3")
        .arg("-c")
        .arg(format!(
            "import socket,time\ns=socket.create_connection(('{SERVER}',{port}))\n\
             time.sleep(.3)\nn=0\nwhile d:=s.recv(65536): n+=len(d)\nprint(n)"
        ))
        .run(LIMIT)?
        .stdout;
    ensure_equal("bytes", received.trim(), "200000")
}

/// A program that writes, and that the kernel kills for want of memory, while the peer does not read: what is queued is
/// delivered.
fn out_of_memory(lab: &Lab) -> Result<()> {
    let group = MemoryGroup::new(64 << 20)?;
    let mut sending = lab
        .python(Host::Server, "send_and_exit.py")
        .args(&format!("{PORT} {}", group.0.display()))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut sending)?;
    receives_all(lab, PORT)?;
    let end = sending.finish(LIMIT)?;
    ensure!(
        end.status.signal() == Some(Signal::KILL.as_raw()),
        "the program ended by {}, not for want of memory",
        end.status
    );
    Ok(())
}

/// A control group whose processes are killed when they use more memory.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(most: u64) -> Result<Self> {
        let name = format!("flye2e-{}", std::process::id());
        let (first, second) = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup");
        let (root, limit) = match Path::new(first).join("cgroup.procs").exists() {
            true => (first, "memory.limit_in_bytes"),
            false => (second, "memory.max"),
        };
        let group = Self(Path::new(root).join(name));
        std::fs::create_dir(&group.0).context("making a control group for memory")?;
        std::fs::write(group.0.join(limit), most.to_string())
            .with_context(|| format!("{limit}: no control of memory here"))?;
        Ok(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that is just ending still counts for a moment.
        let _: Result<()> = wait_until(SOON, || Ok(std::fs::remove_dir(&self.0).ok()));
    }
}

/// kill -9 of everything that belongs to Flyover leaves every interface with a working network.
fn kill_everything(lab: &Lab) -> Result<()> {
    let web = nginx(lab)?;
    let fetch = |what: &str| -> Result<()> {
        let curl = lab
            .plain(Host::Client, "curl")
            .args("-s -f -m 5 -o /dev/null");
        curl.arg(format!("http://{SERVER}/"))
            .run(LIMIT)
            .with_context(|| what.to_owned())?;
        Ok(())
    };
    fetch("before")?;
    let mut victims = web.tree();
    victims.extend(lab.daemon().map(|daemon| daemon.tree()).unwrap_or_default());
    victims.extend(procfs::using_directory(lab.directory()));
    victims.sort_unstable();
    victims.dedup();
    for &pid in &victims {
        cleanup::signal(pid, Signal::KILL);
    }
    cleanup::kill_all(&victims);
    drop(web);

    // The kernel frees the sockets and programs a moment after the processes.
    std::thread::sleep(Duration::from_millis(200));
    for address in [SERVER.to_string(), flyover_e2e::lab::SERVER6.to_string()] {
        lab.plain(Host::Client, "ping")
            .args(&format!("-c 3 -i 0.1 -W 2 {address}"))
            .run(LIMIT)?;
    }
    let link = lab.server.tool("ip -d link show eth0")?;
    ensure!(
        !link.contains("xdp"),
        "an XDP program is still attached: {link}"
    );
    // A plain program serves the port that was accelerated.
    let mut plain = lab
        .plain(Host::Server, "/usr/bin/python3")
        .args("-m http.server 80 --directory www")
        .spawn()?;
    wait_until(SOON, || {
        plain.ensure_running()?;
        Ok(procfs::listening_ports(&lab.server, Proto::Tcp)?
            .contains(&80)
            .then_some(()))
    })?;
    fetch("from a plain server on the same port")
}

/// The daemon alone is killed: open connections go on, new ones work.
fn daemon_killed(setup: &Setup) -> Result<()> {
    let lab = wiring::pair(setup, Side::Server)?;
    {
        let mut serving = echo::serve(&lab, PORT)?;
        let mut probe = Probe::connect(&lab, server(PORT))?;
        probe.echo(10_000, SOON)?;
        if let Some(daemon) = lab.daemon() {
            daemon.kill()?;
        }
        for _ in 0..5 {
            probe
                .echo(100_000, SOON)
                .context("on the open connection")?;
            std::thread::sleep(Duration::from_millis(200));
        }
        Probe::connect(&lab, server(PORT))?
            .echo(1_000, SOON)
            .context("on a new connection")?;
        serving.ensure_running()?;
        let text = lab
            .cmd(Host::Server, "/bin/echo")
            .env(SOCKET_VARIABLE, lab.directory().join("nobody-listens-here"))
            .args("still works");
        ensure!(
            text.run(SOON)?.stdout.contains("still works"),
            "a new program did not run"
        );
    }
    drop(lab);
    Ok(())
}

/// The library without a daemon: everything works on the kernel's path.
fn daemon_absent(setup: &Setup) -> Result<()> {
    let lab = wiring::pair(setup, Side::Neither)?;
    let library = lab.bin().join("libflyover.so");
    let preloaded = |host: Host, program: OsString| {
        lab.plain(host, program)
            .env("LD_PRELOAD", &library)
            .env(SOCKET_VARIABLE, lab.directory().join("nobody-listens-here"))
    };
    let echo = lab.bin().join("load").into_os_string();
    let mut serving = preloaded(Host::Server, echo.clone())
        .args(&format!("echo serve [::]:{PORT}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut serving)?;
    preloaded(Host::Client, echo)
        .args(&format!(
            "echo load {} --connections 5 --seconds 1",
            server(PORT)
        ))
        .run(LIMIT)?;
    drop(serving);
    lab.finish()
}

/// The daemon is killed, then the keeper: the processes of the stack do its work themselves, until the next daemon takes the
/// stack over from them.
fn both_killed(lab: &Lab) -> Result<()> {
    let mut serving = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe.echo(10_000, SOON)?;
    let dying = echo::serve(lab, PORT + 2)?;
    let mut widow = Probe::connect(lab, server(PORT + 2))?;
    widow.echo(10_000, SOON)?;
    let daemon = lab.daemon().context("no daemon")?;
    let keepers = procfs::descendants(daemon.pid());
    ensure!(!keepers.is_empty(), "no keeper");
    daemon.kill()?;
    let others = |probe: &mut Probe, when: &str| -> Result<()> {
        for _ in 0..3 {
            probe.echo(100_000, SOON).with_context(|| when.to_owned())?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Probe::connect(lab, server(PORT))?
            .echo(1_000, SOON)
            .with_context(|| format!("{when}, a new connection"))
    };
    for keeper in &keepers {
        cleanup::signal(*keeper, Signal::KILL);
    }
    wait_until(LIMIT, || {
        cleanup::reap_orphans();
        Ok((!keepers.iter().any(|pid| procfs::is_running(*pid))).then_some(()))
    })?;
    let watch = lab.watch_kernel()?;
    others(&mut probe, "without daemon and keeper")?;
    watch.ensure_tcp_bypassed()?;
    // Nobody hears of its end.
    dying.signal(Signal::KILL);
    drop(dying);
    daemon.succeed()?;
    let second = echo::serve(lab, PORT + 1)?;
    let mut fresh = Probe::connect(lab, server(PORT + 1))?;
    fresh.echo(10_000, SOON).context("with the next daemon")?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, PORT + 1)?;
    others(&mut probe, "with the next daemon")?;
    watch.ensure_tcp_bypassed()?;
    let stacks = super::daemon::stacks(lab)?;
    ensure!(stacks.len() == 1, "not one stack: {stacks:?}");
    // What ended meanwhile is found.
    widow.ask(10)?;
    let ended = widow
        .answer(LIMIT)
        .err()
        .context("who was killed answers")?;
    ensure!(
        !format!("{ended:#}").contains("did not happen"),
        "a connection of who was killed stays open"
    );
    for what in ["handover", "takeover"] {
        let mover = lab
            .plain(Host::Server, lab.bin().join("flyover"))
            .args(&format!("{what} --all"));
        mover.run(LIMIT)?.success()?;
        probe.echo(100_000, SOON).context(what)?;
    }
    // The new keeper is one: it says what a killed process leaves.
    second.signal(Signal::KILL);
    fresh.ask(10)?;
    let ended = fresh.answer(SOON).err().context("who was killed answers")?;
    ensure!(
        !format!("{ended:#}").contains("did not happen"),
        "the new keeper does not end connections of who was killed"
    );
    serving.ensure_running()
}

/// Without a daemon the first `flyover run` of root starts one; the program is accelerated.
fn autostart(setup: &Setup) -> Result<()> {
    let lab = wiring::pair(setup, Side::Neither)?;
    let socket = lab.directory().join("started.sock");
    let wrapper = vec![
        lab.bin().join("flyover").into_os_string(),
        "run".into(),
        "--".into(),
    ];
    let echo = lab.bin().join("load");
    let mut serving = lab
        .wrapped(Host::Server, wrapper, echo)
        .env(SOCKET_VARIABLE, &socket)
        .args(&format!("echo serve [::]:{PORT}"))
        .spawn()?;
    wait_until(LIMIT, || {
        serving.ensure_running()?;
        Ok(procfs::listening_ports(&lab.server, Proto::Tcp)?
            .contains(&PORT)
            .then_some(()))
    })?;
    ensure!(
        answers(&socket),
        "no daemon answers on {}",
        socket.display()
    );
    let before = procfs::Snmp::read(&lab.server)?;
    std::thread::sleep(Duration::from_millis(200));
    Probe::connect(&lab, server(PORT))?.echo(10_000, SOON)?;
    let opened = procfs::Snmp::read(&lab.server)?.since(&before, "Tcp.PassiveOpens");
    ensure!(opened == 0, "the kernel accepted the connection");
    drop(serving);
    cleanup::kill_all(&procfs::using_directory(lab.directory()));
    lab.finish()
}

/// Without privilege the program runs on the kernel's path, and one line says what is missing.
fn unprivileged(lab: &Lab) -> Result<()> {
    let flyover = lab.bin().join("flyover").into_os_string();
    let wrapper: Vec<OsString> = "setpriv --reuid 65534 --regid 65534 --clear-groups"
        .split(' ')
        .map(Into::into)
        .collect();
    let wrapper = wrapper
        .into_iter()
        .chain([flyover, "run".into(), "--".into()])
        .collect();
    let output = lab
        .wrapped(Host::Server, wrapper, "/bin/echo")
        .env(SOCKET_VARIABLE, "/nonexistent/flyoverd.sock")
        .args("it runs")
        .run(SOON)?;
    ensure!(
        output.stdout.contains("it runs"),
        "the program did not run: {}",
        output.stdout
    );
    ensure_equal(
        "lines of explanation",
        output.stderr.trim().lines().count(),
        1,
    )?;
    Ok(())
}

/// Stop and start ten times, with connections open: the port can be bound again each time.
fn restart(lab: &Lab) -> Result<()> {
    for round in 0..10 {
        let serving = echo::serve(lab, PORT).with_context(|| format!("start {round}"))?;
        let mut probe = Probe::connect(lab, server(PORT))?;
        probe
            .echo(10_000, SOON)
            .with_context(|| format!("round {round}"))?;
        serving.signal(if round % 2 == 0 {
            Signal::TERM
        } else {
            Signal::KILL
        });
        serving.finish(SOON)?;
    }
    Ok(())
}

/// More connections than the stack has sockets: the rest is the kernel's, and all work.
fn table_full(lab: &Lab) -> Result<()> {
    let address = server(PORT);
    let mut holding = lab
        .workload(Host::Server, "hold")
        .args(&format!("server {address}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut holding)?;
    let mut opening = lab
        .workload(Host::Client, "hold")
        .args(&format!("client {address} --connections 200"))
        .piped()
        .spawn()?;
    wait_until(LIMIT, || {
        opening.ensure_running()?;
        Ok(opening.stdout().contains("ready").then_some(()))
    })?;
    let lines = lab.ss(Host::Client)?;
    let accelerated = lines.iter().filter(|line| line.is_accelerated()).count();
    ensure!(
        (1..=64).contains(&accelerated),
        "{accelerated} accelerated sockets of 64"
    );
    opening.finish(LIMIT)?.success()?;
    Ok(())
}
