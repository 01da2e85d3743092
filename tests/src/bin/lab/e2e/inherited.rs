//! Connections and listeners that come from another process: inetd and socket activation, shells whose standard streams
//! are connections, Python's multiprocessing.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::{Cmd, Proc};
use flyover_e2e::lab::{Host, Lab, SERVER, Side, ensure_equal, wait_until};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::{self, Proto};
use flyover_e2e::runner::{Case, scripts};
use flyover_e2e::servers::{nginx, www};

use super::on_pair;

const LIMIT: Duration = Duration::from_secs(30);

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("inherited.inetd", Side::Server, inetd));
    cases.push(on_pair("inherited.listener", Side::Server, listener));
    cases.push(on_pair("inherited.plain-listener", Side::Server, plain_listener).only_flyover());
    cases.push(on_pair("inherited.plain-inetd", Side::Server, plain_inetd).only_flyover());
    cases.push(on_pair("inherited.held", Side::Server, held).only_flyover());
    cases.push(on_pair("inherited.translated", Side::Server, translated).only_flyover());
    cases.push(on_pair("inherited.streams", Side::Client, shells));
    cases.push(on_pair("python.passed", Side::Server, passed));
}

/// A program for each connection, which is its standard input and output; the parent clears the environment.
fn inetd(lab: &Lab) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "systemd-socket-activate")
        .args("--accept --inetd --listen 0.0.0.0:7700 /bin/cat")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7700, &mut server)?;
    let (file, copy) = (lab.directory().join("file"), lab.directory().join("copy"));
    write_file(&file, 300_000, 3)?;
    let watch = lab.watch_kernel()?;
    for _ in 0..5 {
        let echoed = lab
            .cmd(Host::Client, "socat")
            .args("-t 10 -")
            .arg(format!("TCP:{SERVER}:7700"))
            .input(&file)
            .run(LIMIT)?
            .bytes()?;
        fs::write(&copy, echoed)?;
        ensure_equal("hash of the echo", sha256(&copy)?, sha256(&file)?)?;
    }
    watch.ensure_tcp_bypassed()?;
    server.ensure_running()
}

fn load(lab: &Lab, port: u16, connections: u32) -> Result<()> {
    loading(lab, port, connections, 0.5).run(LIMIT)?;
    Ok(())
}

/// Connections that last long enough to be looked at.
fn spawn_load(lab: &Lab, port: u16) -> Result<Proc> {
    loading(lab, port, 3, 3.0).spawn()
}

fn loading(lab: &Lab, port: u16, connections: u32, seconds: f64) -> Cmd<'_> {
    let words =
        format!("load {SERVER}:{port} --connections {connections} --seconds {seconds} --max 50000");
    lab.workload(Host::Client, "echo").args(&words)
}

/// The listener is made by one program and used by the next, which the first connection starts.
fn listener(lab: &Lab) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "systemd-socket-activate")
        .args("--listen 0.0.0.0:7701 /usr/bin/python3")
        .arg(scripts().join("activated_echo.py"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7701, &mut server)?;
    let watch = lab.watch_kernel()?;
    load(lab, 7701, 10)?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, 7701)?;
    watch.ensure_tcp_bypassed()?;
    server.ensure_running()
}

/// The listener is made by a program without Flyover, the program that uses it is started under it: it stays with the
/// kernel, whose owner waits for connections there when the program has gone (docs/differences.md). Connections that last
/// come into the stack.
fn plain_listener(lab: &Lab) -> Result<()> {
    let mut server = activate(lab, "--listen 0.0.0.0:7702", |server| {
        server
            .args("run -- /usr/bin/python3")
            .arg(scripts().join("activated_echo.py"))
    })?;
    wait_for_kernel(lab, 7702, &mut server)?;
    let before = procfs::Snmp::read(&lab.server)?;
    load(lab, 7702, 10)?;
    let accepted = procfs::Snmp::read(&lab.server)?.since(&before, "Tcp.PassiveOpens");
    ensure_equal("connections that the kernel accepted", accepted, 10)?;
    ensure_equal("of them taken over", lab.counter(Host::Server, TAKEN)?, 10)?;
    server.ensure_running()
}

/// `systemd-socket-activate` without Flyover, for a program that `program` adds.
fn activate<'l>(
    lab: &'l Lab,
    words: &str,
    program: impl FnOnce(Cmd<'l>) -> Cmd<'l>,
) -> Result<Proc> {
    let flyover: OsString = lab.bin().join("flyover").into();
    let activator = lab
        .plain(Host::Server, "systemd-socket-activate")
        .arg(format!(
            "--setenv=FLYOVER_SOCKET={}",
            lab.socket().display()
        ))
        .args(words)
        .arg(flyover);
    program(activator).spawn()
}

/// A program without Flyover accepts, and starts one under it for each connection.
fn plain_inetd(lab: &Lab) -> Result<()> {
    let mut server = activate(lab, "--accept --inetd --listen 0.0.0.0:7703", |server| {
        server.args("run -- /bin/cat")
    })?;
    wait_for_kernel(lab, 7703, &mut server)?;
    let client = spawn_load(lab, 7703)?;
    // In a container flyoverd does not see who else holds a connection, and leaves it where it is.
    let sees_all = fs::read_link("/proc/self/ns/pid")?.as_os_str() == "pid:[4026531836]";
    if sees_all {
        lab.wait_accelerated_listener(Host::Server, Proto::Tcp, 7703)?;
        wait_until(LIMIT, || {
            let taken = lab.counter(Host::Server, TAKEN)?;
            Ok((taken == 3).then_some(()))
        })?;
    } else {
        wait_for_reason(lab, 7703, "adopted")?;
    }
    client.finish(LIMIT)?.success()?;
    server.ensure_running()
}

/// The same, but that program keeps the connections open: what it holds stays where it can use it.
fn held(lab: &Lab) -> Result<()> {
    let mut server = lab
        .plain(Host::Server, "/usr/bin/python3")
        .env("FLYOVER_SOCKET", lab.socket())
        .arg(scripts().join("holding_inetd.py"))
        .args("7704")
        .arg(lab.bin().join("flyover"))
        .args("run -- /bin/cat")
        .spawn()?;
    wait_for_kernel(lab, 7704, &mut server)?;
    load(lab, 7704, 1)?;
    let client = loading(lab, 7704, 1, 2.0).spawn()?;
    wait_for_reason(lab, 7704, "adopted")?;
    client.finish(LIMIT)?.success()?;
    ensure_equal("taken over", lab.counter(Host::Server, TAKEN)?, 0)?;
    server.ensure_running()
}

/// Another port is translated to that of the program: the packets of such connections do not look, where a V-NIC takes them,
/// as the program's socket does.
fn translated(lab: &Lab) -> Result<()> {
    let rules = lab.directory().join("nat");
    fs::write(
        &rules,
        "table ip nat {\n chain pre {\n type nat hook prerouting priority -100;\n \
         tcp dport 7706 redirect to :7705\n }\n}\n",
    )?;
    lab.plain(Host::Server, "nft")
        .args("-f")
        .arg(rules)
        .run(LIMIT)?;
    let mut server = lab
        .python(Host::Server, "selectors_echo.py")
        .args("epoll 7705")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7705, &mut server)?;
    load(lab, 7705, 2)?;
    let client = spawn_load(lab, 7706)?;
    wait_for_reason(lab, 7705, "kernel-accept")?;
    client.finish(LIMIT)?.success()?;
    ensure_equal("taken over", lab.counter(Host::Server, TAKEN)?, 0)?;
    server.ensure_running()
}

/// A counter of the stack.
const TAKEN: &str = "takeovers_of_kernel";

fn wait_for_reason(lab: &Lab, port: u16, reason: &str) -> Result<()> {
    wait_until(LIMIT, || {
        let all = lab.ss(Host::Server)?;
        let found = all.iter().any(|l| l.has_port(port) && l.reason == reason);
        Ok(found.then_some(()))
    })
    .with_context(|| format!("no socket of port {port} is with the kernel as {reason}"))
}

fn wait_for_kernel(lab: &Lab, port: u16, server: &mut Proc) -> Result<()> {
    wait_until(LIMIT, || {
        server.ensure_running()?;
        Ok(procfs::listening_ports(&lab.server, Proto::Tcp)?
            .contains(&port)
            .then_some(()))
    })
}

/// A shell fed by curl; connections that bash opens and hands to programs as their streams.
fn shells(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let big = www(lab).join("big");
    write_file(&big, 5_000_000, 4)?;
    let sum = sha256(&big)?;
    let lines: String = (1..=500).map(|n| format!("echo line {n}\n")).collect();
    fs::write(www(lab).join("script"), lines)?;
    let watch = lab.watch_kernel()?;
    let run = |what: &str, shell: &str, text: &str| -> Result<String> {
        let ran = lab.cmd(Host::Client, shell).arg("-c").arg(text).run(LIMIT);
        Ok(ran.with_context(|| what.to_owned())?.stdout)
    };
    let get = |file: &str| format!("printf 'GET /{file} HTTP/1.0\\r\\n\\r\\n' >&3");
    let body = "sed -u '1,/^\\r$/d'";
    let connect = format!("exec 3<>/dev/tcp/{SERVER}/80");

    let printed = run(
        "curl | sh",
        "sh",
        &format!("curl -sSf http://{SERVER}/script | sh"),
    )?;
    ensure_equal("lines that sh printed", printed.lines().count(), 500)?;
    let printed = run(
        "descriptor 3",
        "bash",
        &format!("{connect}; {}; {body} <&3 | sha256sum", get("big")),
    )?;
    ensure!(printed.starts_with(&sum), "sha256sum printed {printed:?}");
    // The connection is the standard input of a shell, which reads no byte too many and leaves the rest to others.
    let skip = "while IFS= read -r line && [ ${#line} -gt 1 ]; do :; done";
    let printed = run(
        "standard input",
        "bash",
        &format!("{connect}; {}; exec 0<&3; {skip}; exec sh", get("script")),
    )?;
    ensure_equal("lines of the script", printed.lines().count(), 500)?;
    let printed = run(
        "sub-shells",
        "bash",
        &format!(
            "{connect}; {}; (({skip}; head -c 1000000) <&3; (exec cat) <&3) | sha256sum",
            get("big")
        ),
    )?;
    ensure!(printed.starts_with(&sum), "sha256sum printed {printed:?}");
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?.success().map(|_| ())
}

/// Connections as arguments of new processes, and in messages to running ones.
fn passed(lab: &Lab) -> Result<()> {
    let watch = lab.watch_kernel()?;
    let ways = [
        ("fork", 7710),
        ("spawn", 7711),
        ("forkserver", 7712),
        ("pipe", 7713),
    ];
    for (way, port) in ways {
        let mut server = lab
            .python(Host::Server, "passed_connections.py")
            .args(&format!("{way} {port}"))
            .spawn()?;
        lab.wait_for_port(Proto::Tcp, port, &mut server)?;
        load(lab, port, 4).with_context(|| way.to_owned())?;
        lab.ensure_accelerated(Host::Server, Proto::Tcp, port)?;
        server.ensure_running()?;
    }
    watch.ensure_tcp_bypassed()
}
