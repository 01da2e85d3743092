//! Servers of many processes: all on one stack, and more than it takes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::echo;
use flyover_e2e::lab::{Host, Lab, SERVER, Side, ensure_equal, wait_until};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;

use super::{on_pair, with_options};

const PORT: u16 = 7980;
const WORKERS: usize = 200;
/// Two hundred interpreters start and attach on a machine with other work.
const LIMIT: Duration = Duration::from_secs(40);

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("prefork.processes", Side::Server, processes));
    let few = &["--stack", "private", "--max-owners", "8"];
    cases.push(with_options("prefork.full", Side::Client, few, full).only_flyover());
}

fn wait_for(program: &mut Proc, word: &str) -> Result<()> {
    wait_until(LIMIT, || {
        program.ensure_running()?;
        Ok(program.stdout().contains(word).then_some(()))
    })
    .with_context(|| format!("waiting for {word:?}"))
}

/// Two hundred processes inherit a listener and a connection, and use both; all are attached at the same time.
fn processes(lab: &Lab) -> Result<()> {
    let mut serving = lab
        .python(Host::Server, "many_processes.py")
        .args(&format!("serve {PORT} {WORKERS}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut serving)?;
    let watch = lab.watch_kernel()?;
    let mut client = lab
        .python(Host::Client, "many_clients.py")
        .args(&format!("{SERVER} {PORT} {WORKERS}"))
        .piped()
        .spawn()?;
    wait_for(&mut client, "all")?;
    if !lab.is_plain() {
        let lines = lab.ss(Host::Server)?;
        let ours = |line: &&_| -> bool {
            let line: &flyover_e2e::sockets::SocketLine = line;
            line.is_accelerated() && line.state == "ESTAB"
        };
        ensure_equal(
            "accelerated connections",
            lines.iter().filter(ours).count(),
            WORKERS + 1,
        )?;
        watch.ensure_tcp_bypassed()?;
    }
    client.finish(LIMIT)?.success()?;
    let served = serving.finish(LIMIT)?.success()?;
    ensure!(
        served.stdout.contains("failed 0"),
        "workers failed: {}",
        served.stdout
    );
    Ok(())
}

/// A stack for seven processes, and twenty that connect: the sockets of the others are the kernel's, and all work.
fn full(lab: &Lab) -> Result<()> {
    let _echo = echo::serve(lab, PORT)?;
    let mut dialling = lab
        .python(Host::Client, "many_processes.py")
        .args(&format!("dial {SERVER} {PORT} 20"))
        .piped()
        .spawn()?;
    wait_for(&mut dialling, "ready 20")?;
    let lines = lab.ss(Host::Client)?;
    let accelerated = lines.iter().filter(|line| line.is_accelerated()).count();
    ensure_equal("accelerated connections", accelerated, 7)?;
    let dialled = dialling.finish(LIMIT)?.success()?;
    ensure!(
        dialled.stdout.contains("failed 0"),
        "workers failed: {}",
        dialled.stdout
    );
    Ok(())
}
