//! `flyover handover` and `flyover takeover` under load: connections move to the kernel in mid-stream and back, every
//! byte arrives, no request fails.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flyover_e2e::daemon::SOCKET_VARIABLE;
use flyover_e2e::lab::{Host, Lab, SERVER, SERVER6, Side, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{nginx, www};
use flyover_e2e::tools::wrk;
use serde_json::Value;

use super::on_pair;

const LIMIT: Duration = Duration::from_secs(40);
/// Long enough for several rounds at the rate of [`RATE`].
const BYTES: usize = 60_000_000;
const RATE: &str = "30M";
/// Transfers at most.
const ROUNDS: u32 = 4;
/// Between two moves.
const TURN: Duration = Duration::from_millis(300);

pub fn cases(cases: &mut Vec<Case>) {
    for side in [Side::Server, Side::Client] {
        cases.push(on_pair("handover.download", side, download).only_flyover());
        cases.push(on_pair("handover.upload", side, upload).only_flyover());
    }
    cases.push(on_pair("handover.requests", Side::Server, requests).only_flyover());
}

/// What one `flyover handover` or `takeover` did.
#[derive(Default)]
pub struct Moved {
    /// Connections, and how long each stood still, microseconds.
    pauses: Vec<f64>,
    /// Sockets that stayed, and why.
    stayed: Vec<String>,
}

impl Moved {
    /// Connections that moved.
    pub fn connections(&self) -> usize {
        self.pauses.len()
    }
}

/// Moves everything: `handover` to the kernel, `takeover` back.
pub fn move_all(lab: &Lab, command: &str) -> Result<Moved> {
    let output = lab
        .plain(Host::Server, lab.bin().join("flyover"))
        .args(&format!("{command} --all --json"))
        .env(SOCKET_VARIABLE, lab.socket())
        .output(LIMIT)?;
    let rows: Vec<Value> = serde_json::from_str(&output.stdout)
        .with_context(|| format!("{command}: {} {}", output.stdout, output.stderr))?;
    output.forget();
    let mut moved = Moved::default();
    for row in rows {
        match row["result"].as_str().unwrap_or_default() {
            "moved" | "taken" => moved.pauses.extend(row["pause_us"].as_f64()),
            "stays" | "kernel" if row["why"].is_string() => {
                moved.stayed.push(format!("{}: {}", command, row["why"]))
            }
            "unreachable" => bail!("the stack let the helper not in"),
            _ => {}
        }
    }
    Ok(moved)
}

/// Connections that went to the kernel, and that came back.
#[derive(Default)]
pub struct Tally {
    out: Vec<f64>,
    back: Vec<f64>,
    stayed: Vec<String>,
}

impl Tally {
    fn median(pauses: &mut [f64]) -> f64 {
        pauses.sort_by(f64::total_cmp);
        pauses.get(pauses.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Connections that went to the kernel.
    pub fn went(&self) -> u64 {
        self.out.len() as u64
    }

    /// Connections that came back.
    pub fn came(&self) -> u64 {
        self.back.len() as u64
    }

    /// Counts what one command moved.
    pub fn count(&mut self, command: &str, moved: Moved) {
        match command {
            "handover" => self.out.extend(moved.pauses),
            _ => self.back.extend(moved.pauses),
        }
        self.stayed.extend(moved.stayed);
    }

    /// Says so.
    pub fn print(&mut self, what: &str) {
        eprintln!(
            "    {what}: {} connections to the kernel, median pause {:.0} us, longest {:.0}; {} back, median {:.0}, \
             longest {:.0}; {} stayed {:?}",
            self.out.len(),
            Self::median(&mut self.out),
            self.out.last().copied().unwrap_or_default(),
            self.back.len(),
            Self::median(&mut self.back),
            self.back.last().copied().unwrap_or_default(),
            self.stayed.len(),
            self.stayed.first()
        );
    }
}

/// Transfers while connections go to the kernel and back again and again, once more until `least` have moved each way: on
/// a busy machine a transfer may be over before the commands have begun.
fn meanwhile(lab: &Lab, least: u64, work: impl Fn() -> Result<()> + Sync) -> Result<Tally> {
    let enough = AtomicBool::new(false);
    let again = || (0..ROUNDS).try_for_each(|_| if enough.load(SeqCst) { Ok(()) } else { work() });
    let tally = thread::scope(|scope| {
        let work = scope.spawn(again);
        let mut tally = Tally::default();
        // The transfer is under way, and then it goes on.
        while !work.is_finished() {
            for command in ["handover", "takeover"] {
                thread::sleep(TURN);
                tally.count(command, move_all(lab, command)?);
            }
            enough.store(tally.went().min(tally.came()) >= least, SeqCst);
        }
        match work.join() {
            Ok(done) => done.map(|()| tally),
            Err(_) => bail!("the transfer panicked"),
        }
    })?;
    let moved = (tally.went(), tally.came());
    ensure!(moved.0 >= least, "connections handed over: {}", moved.0);
    ensure!(moved.1 >= least, "connections that came back: {}", moved.1);
    Ok(tally)
}

fn download(lab: &Lab) -> Result<()> {
    let file = lab.directory().join("file");
    write_file(&file, BYTES, 3)?;
    let wanted = sha256(&file)?;
    for address in [SERVER.to_string(), format!("[{SERVER6}]")] {
        let server = nginx(lab)?;
        std::fs::copy(&file, www(lab).join("file"))?;
        let copy = lab.directory().join("copy");
        let mut tally = meanwhile(lab, 1, || {
            lab.cmd(Host::Client, "curl")
                .args(&format!("-g -s -S -f --limit-rate {RATE} -o"))
                .arg(&copy)
                .arg(format!("http://{address}/file"))
                .run(LIMIT)
                .map(|_| ())
        })
        .with_context(|| address.clone())?;
        tally.print(&address);
        ensure_equal("hash of the download", sha256(&copy)?, wanted.clone())?;
        server.stop(LIMIT)?;
    }
    Ok(())
}

fn upload(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let file = lab.directory().join("file");
    write_file(&file, BYTES, 4)?;
    let mut tally = meanwhile(lab, 1, || {
        lab.cmd(Host::Client, "curl")
            .args(&format!("-s -S -f --limit-rate {RATE} -T"))
            .arg(&file)
            .arg(format!("http://{SERVER}/upload/file"))
            .run(LIMIT)
            .map(|_| ())
    })?;
    tally.print("upload");
    let arrived = www(lab).join("upload/file");
    ensure_equal("hash of the upload", sha256(&arrived)?, sha256(&file)?)?;
    drop(server);
    Ok(())
}

/// Kept-alive connections and new ones: wrk sees no failed request.
fn requests(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let url = format!("http://{SERVER}/");
    let mut tally = meanwhile(lab, 50, || wrk(lab, 50, 3, &url, "").map(|_| ()))?;
    tally.print("requests");
    // The listener takes new connections from the V-NIC again.
    wrk(lab, 20, 1, &url, "Connection: close")?;
    drop(server);
    Ok(())
}
