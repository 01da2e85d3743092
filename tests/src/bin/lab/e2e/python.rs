//! Python: `http.server` with curl, an asyncio echo server with an asyncio client.

use std::time::Duration;

use anyhow::{Context as _, Result};
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;

use super::{each_side, on_pair};

const LIMIT: Duration = Duration::from_secs(30);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "python.http", http);
    each_side(cases, "python.asyncio", asyncio);
    cases.push(on_pair("python.selectors", Side::Server, selectors));
}

fn http(lab: &Lab) -> Result<()> {
    let file = lab.directory().join("file");
    write_file(&file, 10_000_000, 4)?;
    let mut server = lab
        .cmd(Host::Server, "/usr/bin/python3")
        .args("-u -m http.server 8000 --directory")
        .arg(lab.directory())
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 8000, &mut server)?;
    let watch = lab.watch_kernel()?;
    let copy = lab.directory().join("copy");
    for _ in 0..5 {
        lab.cmd(Host::Client, "curl")
            .args("-s -S -f -o")
            .arg(&copy)
            .arg(format!("http://{SERVER}:8000/file"))
            .run(LIMIT)?;
        ensure_equal("hash of the download", sha256(&copy)?, sha256(&file)?)?;
    }
    lab.python(Host::Client, "http_fetch.py")
        .arg(format!("http://{SERVER}:8000/file"))
        .arg(sha256(&file)?)
        .run(LIMIT)?;
    watch.ensure_tcp_bypassed()?;
    drop(server);
    Ok(())
}

fn asyncio(lab: &Lab) -> Result<()> {
    let mut server = lab
        .python(Host::Server, "asyncio_echo.py")
        .args("7007")
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, 7007, &mut server)?;
    let watch = lab.watch_kernel()?;
    for address in [SERVER.to_string(), SERVER6.to_string()] {
        lab.python(Host::Client, "asyncio_client.py")
            .args(&format!("{address} 7007"))
            .run(LIMIT)?;
    }
    lab.workload(Host::Client, "echo")
        .args(&format!(
            "load {SERVER}:7007 --connections 20 --seconds 2 --max 100000"
        ))
        .run(LIMIT)?;
    watch.ensure_tcp_bypassed()?;
    server.stop(LIMIT)?;
    Ok(())
}

/// The same server on select, poll and epoll.
fn selectors(lab: &Lab) -> Result<()> {
    let watch = lab.watch_kernel()?;
    for (port, kind) in [(7011, "select"), (7012, "poll"), (7013, "epoll")] {
        let mut server = lab
            .python(Host::Server, "selectors_echo.py")
            .args(&format!("{kind} {port}"))
            .spawn()?;
        lab.wait_for_port(Proto::Tcp, port, &mut server)?;
        lab.workload(Host::Client, "echo")
            .args(&format!(
                "load {SERVER}:{port} --connections 20 --seconds 1 --max 100000"
            ))
            .run(LIMIT)
            .context(kind)?;
        server.stop(LIMIT)?;
    }
    watch.ensure_tcp_bypassed()
}
