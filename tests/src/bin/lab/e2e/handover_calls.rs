//! Calls on connections that go to the kernel and back as fast as the commands run: each answers as if nothing moved.

use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab, SERVER, Side};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;

use super::handover::{Tally, move_all};
use super::on_pair;

const PORT: u16 = 7930;
/// For each group.
const SECONDS: u32 = 2;
const LIMIT: Duration = Duration::from_secs(30);
/// What `moving_calls.py` calls, each group in a process of its own: slow calls would hide the others.
const GROUPS: [&str; 6] = [
    "sendfile",
    "sendmmsg,recvmmsg",
    "send,write,peek,inq",
    "poll,select,info,error,name,connect",
    "option,flags,blocking",
    "limit",
];

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("handover.calls", Side::Server, calls).only_flyover());
}

fn calls(lab: &Lab) -> Result<()> {
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for (port, calls) in (PORT..).zip(GROUPS) {
        failed.extend(one(lab, port, calls, &mut tally)?);
    }
    tally.print("calls");
    ensure!(failed.is_empty(), "{failed:?}");
    let moves = tally.went().min(tally.came());
    ensure!(moves >= GROUPS.len() as u64, "too few moves: {moves}");
    Ok(())
}

/// Makes these calls while their connection moves. What they answered wrong, if anything.
fn one(lab: &Lab, port: u16, calls: &str, tally: &mut Tally) -> Result<Option<String>> {
    let mut server = lab
        .python(Host::Server, "moving_calls.py")
        .args(&format!("serve {port} {SECONDS} {calls}"))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, port, &mut server)?;
    let peer = lab
        .python(Host::Client, "moving_calls.py")
        .args(&format!("peer {SERVER} {port}"))
        .spawn()?;
    while !server.has_ended()? {
        for command in ["handover", "takeover"] {
            tally.count(command, move_all(lab, command)?);
        }
    }
    let told = server.finish(LIMIT)?;
    eprintln!("    {}", told.stdout.trim());
    let wrong = told.stderr.lines().next().map(str::to_owned);
    let ended = told.success().and_then(|_| peer.finish(LIMIT)?.success());
    match (ended, wrong) {
        (Ok(_), None) => Ok(None),
        (Err(_), Some(wrong)) => Ok(Some(wrong)),
        (ended, _) => Ok(ended.err().map(|e| format!("{calls}: {e}"))),
    }
}
