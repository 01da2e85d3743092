//! `flyover handover` under load: connections move to the kernel in mid-stream, every byte arrives, no request fails.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::daemon::SOCKET_VARIABLE;
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{nginx, www};
use flyover_e2e::tools::wrk;

use super::on_pair;

const LIMIT: Duration = Duration::from_secs(40);
/// Long enough for several rounds at the rate of [`RATE`].
const BYTES: usize = 60_000_000;
const RATE: &str = "30M";

pub fn cases(cases: &mut Vec<Case>) {
    for side in [Side::Server, Side::Client] {
        cases.push(on_pair("handover.download", side, download).only_flyover());
        cases.push(on_pair("handover.upload", side, upload).only_flyover());
    }
    cases.push(on_pair("handover.requests", Side::Server, requests).only_flyover());
}

/// Hands everything over; how many connections moved.
fn hand_over(lab: &Lab) -> Result<usize> {
    let output = lab
        .plain(Host::Server, lab.bin().join("flyover"))
        .args("handover --all --json")
        .env(SOCKET_VARIABLE, lab.socket())
        .run(LIMIT)?;
    ensure!(
        !output.stdout.contains("unreachable"),
        "the stack let the helper not in: {}",
        output.stdout
    );
    Ok(output.stdout.matches("\"moved\"").count())
}

/// Transfers while connections are handed over again and again; at least one must have moved.
fn meanwhile(lab: &Lab, work: impl FnOnce() -> Result<()> + Send) -> Result<usize> {
    let moved = thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut moved = 0;
        // The transfer is under way, and then it goes on.
        while !work.is_finished() {
            thread::sleep(Duration::from_millis(300));
            moved += hand_over(lab)?;
        }
        match work.join() {
            Ok(done) => done.map(|()| moved),
            Err(_) => anyhow::bail!("the transfer panicked"),
        }
    })?;
    ensure!(moved > 0, "no connection was handed over");
    Ok(moved)
}

fn download(lab: &Lab) -> Result<()> {
    let file = lab.directory().join("file");
    write_file(&file, BYTES, 3)?;
    let wanted = sha256(&file)?;
    for address in [SERVER.to_string(), format!("[{SERVER6}]")] {
        // A new one each time: the listeners of the first have become the kernel's.
        let server = nginx(lab)?;
        std::fs::copy(&file, www(lab).join("file"))?;
        let copy = lab.directory().join("copy");
        meanwhile(lab, || {
            lab.cmd(Host::Client, "curl")
                .args(&format!("-g -s -S -f --limit-rate {RATE} -o"))
                .arg(&copy)
                .arg(format!("http://{address}/file"))
                .run(LIMIT)
                .map(|_| ())
        })
        .with_context(|| address.clone())?;
        ensure_equal("hash of the download", sha256(&copy)?, wanted.clone())?;
        server.stop(LIMIT)?;
    }
    Ok(())
}

fn upload(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let file = lab.directory().join("file");
    write_file(&file, BYTES, 4)?;
    meanwhile(lab, || {
        lab.cmd(Host::Client, "curl")
            .args(&format!("-s -S -f --limit-rate {RATE} -T"))
            .arg(&file)
            .arg(format!("http://{SERVER}/upload/file"))
            .run(LIMIT)
            .map(|_| ())
    })?;
    let arrived = www(lab).join("upload/file");
    ensure_equal("hash of the upload", sha256(&arrived)?, sha256(&file)?)?;
    drop(server);
    Ok(())
}

/// Kept-alive connections and new ones: wrk sees no failed request.
fn requests(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let url = format!("http://{SERVER}/");
    let moved = meanwhile(lab, || wrk(lab, 50, 3, &url, "").map(|_| ()))?;
    ensure!(
        moved >= 50,
        "only {moved} of 50 connections were handed over"
    );
    // The listener's new connections are the kernel's.
    wrk(lab, 20, 1, &url, "Connection: close")?;
    drop(server);
    Ok(())
}
