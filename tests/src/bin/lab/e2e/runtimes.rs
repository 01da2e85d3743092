//! Languages that bring a run-time system of their own: Node.js, Java's channels, uvloop, gunicorn;
//! and programs that no library can be loaded into, which stay with the kernel: static ones, Go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::{Case, scripts};

use super::{each_side, on_pair};

const LIMIT: Duration = Duration::from_secs(40);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "node.http", |lab| node(lab, ""));
    cases.push(on_pair("node.cluster", Side::Server, |lab| node(lab, "2")));
    each_side(cases, "java.nio", java);
    each_side(cases, "python.uvloop", uvloop);
    cases.push(on_pair("python.gunicorn", Side::Server, gunicorn));
    cases.push(on_pair("static.echo", Side::Server, static_program));
    cases.push(on_pair("go.http", Side::Both, go));
}

fn fine(printed: &str) -> Result<()> {
    ensure!(printed.trim().ends_with("fine"), "it printed {printed:?}");
    Ok(())
}

fn node(lab: &Lab, workers: &str) -> Result<()> {
    let script = scripts().join("node_http.js");
    let mut server = lab
        .cmd(Host::Server, "node")
        .arg(&script)
        .args(&format!("server 7600 {workers}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7601, &mut server)?;
    let watch = lab.watch_kernel()?;
    for address in [SERVER.to_string(), SERVER6.to_string()] {
        let printed = lab
            .cmd(Host::Client, "node")
            .arg(&script)
            .args(&format!("client {address} 7600"))
            .run(LIMIT)?
            .stdout;
        fine(&printed)?;
    }
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?;
    Ok(())
}

fn java(lab: &Lab) -> Result<()> {
    lab.plain(Host::Server, "javac")
        .args("-d")
        .arg(lab.directory())
        .arg(scripts().join("NioEcho.java"))
        .run(LIMIT)?;
    let program = |host| {
        lab.cmd(host, "java")
            .args("-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp")
            .arg(lab.directory())
            .arg("NioEcho")
    };
    let mut server = program(Host::Server).args("server 7610").spawn()?;
    lab.wait_for_port(Proto::Tcp, 7610, &mut server)?;
    lab.wait_for_port(Proto::Udp, 7610, &mut server)?;
    let watch = lab.watch_kernel()?;
    for address in [SERVER.to_string(), SERVER6.to_string()] {
        let client = program(Host::Client).args(&format!("client {address} 7610"));
        fine(&client.run(LIMIT)?.stdout)?;
    }
    watch.ensure_tcp_bypassed()?;
    watch.ensure_udp_bypassed()?;
    // Java ends with 143 on SIGTERM.
    server.stop(LIMIT)?;
    Ok(())
}

/// asyncio on libuv.
fn uvloop(lab: &Lab) -> Result<()> {
    let mut server = lab
        .python(Host::Server, "asyncio_echo.py")
        .args("7620")
        .env("UVLOOP", "1")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7620, &mut server)?;
    let watch = lab.watch_kernel()?;
    for address in [SERVER.to_string(), SERVER6.to_string()] {
        lab.python(Host::Client, "asyncio_client.py")
            .args(&format!("{address} 7620"))
            .env("UVLOOP", "1")
            .run(LIMIT)?;
    }
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?;
    Ok(())
}

/// Workers that are forked, time each other, and are replaced after some requests.
fn gunicorn(lab: &Lab) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "/usr/bin/gunicorn")
        .args("--workers 3 --max-requests 40 --bind 0.0.0.0:7630 --log-level warning --chdir")
        .arg(scripts())
        .args("wsgi_app:application")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7630, &mut server)?;
    let watch = lab.watch_kernel()?;
    let file = lab.directory().join("file");
    write_file(&file, 3_000_000, 8)?;
    let sum = sha256(&file)?;
    let head = lab.directory().join("head");
    for round in 0..10 {
        let size = round * 100_000;
        let printed = lab
            .cmd(Host::Client, "curl")
            .args("-s -S -f -o /dev/null -w %{size_download} -D")
            .arg(&head)
            .arg("--data-binary")
            .arg(format!("@{}", file.display()))
            .arg(format!("http://{SERVER}:7630/?{size}"))
            .run(LIMIT)?
            .stdout;
        ensure_equal("bytes of the answer", printed, size.to_string())?;
        let head = std::fs::read_to_string(&head)?;
        ensure!(head.contains(&sum), "another hash\n{head}");
    }
    let printed = lab
        .cmd(Host::Client, "ab")
        .args(&format!("-q -n 300 -c 4 http://{SERVER}:7630/?100"))
        .run(LIMIT)?
        .stdout;
    ensure!(
        printed.contains("Failed requests:        0"),
        "requests failed\n{printed}"
    );
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?;
    Ok(())
}

/// Builds a program with these words; the last two are the output and the source.
fn build(lab: &Lab, words: &str, name: &str, source: &str) -> Result<PathBuf> {
    let (compiler, options) = words.split_once(' ').unwrap_or((words, ""));
    let program: PathBuf = lab.directory().join(name);
    lab.plain(Host::Server, compiler)
        .args(options)
        .arg(&program)
        .arg(scripts().join(source))
        .env("GOCACHE", lab.directory().join("go-cache"))
        .run(LIMIT)?;
    Ok(program)
}

fn static_program(lab: &Lab) -> Result<()> {
    let program = build(lab, "cc -static -O1 -o", "static_echo", "static_echo.c")?;
    let mut server = lab.cmd(Host::Server, &program).arg("7640").spawn()?;
    wait_for_kernel_port(lab, 7640, &mut server)?;
    let (file, copy) = (lab.directory().join("file"), lab.directory().join("copy"));
    write_file(&file, 1_000_000, 9)?;
    let watch = lab.watch_kernel()?;
    for _ in 0..3 {
        let echoed = lab
            .cmd(Host::Client, "socat")
            .args("-t 10 -")
            .arg(format!("TCP:{SERVER}:7640"))
            .input(&file)
            .run(LIMIT)?
            .bytes()?;
        std::fs::write(&copy, echoed)?;
        ensure_equal("hash of the echo", sha256(&copy)?, sha256(&file)?)?;
    }
    ensure!(
        watch.ensure_tcp_bypassed().is_err() || lab.is_plain(),
        "a static program was accelerated?"
    );
    drop(server);
    Ok(())
}

/// Looks for a listener that is only the kernel's.
fn wait_for_kernel_port(lab: &Lab, port: u16, program: &mut flyover_e2e::cmd::Proc) -> Result<()> {
    flyover_e2e::lab::wait_until(Duration::from_secs(15), || {
        program.ensure_running()?;
        let open = flyover_e2e::procfs::listening_ports(&lab.server, Proto::Tcp)?;
        Ok(open.contains(&port).then_some(()))
    })
}

fn go(lab: &Lab) -> Result<()> {
    ensure!(Path::new("/usr/bin/go").exists(), "no Go");
    let program = build(lab, "go build -o", "echo", "echo.go")?;
    let mut server = lab
        .cmd(Host::Server, &program)
        .args("server 7650")
        .spawn()?;
    wait_for_kernel_port(lab, 7650, &mut server)?;
    let client = lab
        .cmd(Host::Client, &program)
        .args(&format!("client http://{SERVER}:7650/"));
    fine(&client.run(LIMIT)?.stdout)?;
    drop(server);
    Ok(())
}
