//! What the user sees: `flyover ss`, `ps`, `check`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::echo::{self, Probe};
use flyover_e2e::lab::{Host, Lab, Side, server};
use flyover_e2e::runner::Case;

use super::on_pair;

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7600;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("visible.ss", Side::Server, listed).only_flyover());
    cases.push(on_pair("visible.ss", Side::Client, listed).only_flyover());
    cases.push(on_pair("visible.ps", Side::Server, processes).only_flyover());
    cases.push(on_pair("visible.check", Side::Server, check).only_flyover());
}

/// A connection appears with its state and path, one over loopback with the path `kernel`.
fn listed(lab: &Lab) -> Result<()> {
    let host = if lab.side.includes(Host::Server) {
        Host::Server
    } else {
        Host::Client
    };
    let _server = echo::serve(lab, PORT)?;
    let mut probe = Probe::connect(lab, server(PORT))?;
    probe.echo(1000, LIMIT)?;
    let lines = lab.ss(host)?;
    let established = |line: &&flyover_e2e::sockets::SocketLine| {
        line.has_port(PORT) && line.state.to_uppercase().starts_with("ESTAB")
    };
    let line = lines
        .iter()
        .find(established)
        .with_context(|| format!("not listed: {lines:?}"))?;
    ensure!(line.is_accelerated(), "{line:?}");
    if host == Host::Server {
        let listens = lines
            .iter()
            .any(|line| line.has_port(PORT) && line.state.to_uppercase().starts_with("LISTEN"));
        ensure!(listens, "the listener is not listed: {lines:?}");
        let inside = lab
            .plain(Host::Server, lab.bin().join("load"))
            .args(&format!("echo interactive 127.0.0.1:{PORT}"))
            .piped()
            .spawn()?;
        flyover_e2e::lab::wait_until(LIMIT, || Ok(inside.stdout().contains("ok").then_some(())))?;
    }
    let text = lab
        .plain(host, lab.bin().join("flyover"))
        .args("ss")
        .run(LIMIT)?
        .stdout;
    ensure!(
        text.contains(&PORT.to_string()),
        "flyover ss does not list the port\n{text}"
    );
    ensure!(
        text.contains("packet"),
        "flyover ss does not name the path\n{text}"
    );
    Ok(())
}

fn processes(lab: &Lab) -> Result<()> {
    let echoing = echo::serve(lab, PORT)?;
    let text = lab
        .plain(Host::Server, lab.bin().join("flyover"))
        .args("ps")
        .run(LIMIT)?
        .stdout;
    let pid = echoing.pid().to_string();
    ensure!(
        text.contains(&pid),
        "flyover ps does not list process {pid}\n{text}"
    );
    Ok(())
}

/// `check` names the interface and the kind of V-NIC, in text and in JSON.
fn check(lab: &Lab) -> Result<()> {
    let flyover = || lab.plain(Host::Server, lab.bin().join("flyover"));
    let text = flyover().args("check").run(LIMIT)?.stdout;
    ensure!(text.contains("eth0") && text.contains("packet"), "{text}");
    let text = flyover().args("check --json").run(LIMIT)?.stdout;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(value.to_string().contains("eth0"), "{value}");
    Ok(())
}
