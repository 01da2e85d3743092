//! A program that is stopped or computes: the keeper answers in its place, and soon.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{Host, Lab, SERVER, Side, wait_until};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::stats::Sample;
use rustix::process::Signal;
use serde_json::Value;

use super::on_pair;

const PORT: u16 = 7800;
const LIMIT: Duration = Duration::from_secs(20);
/// What is asked of the keeper, ms.
const SOON_MS: f64 = 20.0;
/// What a test on a busy machine of two processors can ask of the slowest answer, ms. An acknowledgement may be delayed
/// (RFC 1122 section 4.2.3.2): by 40 ms, as the kernel's.
const AT_LAST_MS: f64 = 400.0;

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(on_pair("absent.stopped", Side::Server, stopped));
    cases.push(on_pair("absent.busy", Side::Server, busy));
    cases.push(on_pair("absent.retransmits", Side::Server, retransmits));
}

/// A server of one thread and its plain peer.
struct Pair {
    server: Proc,
    client: Proc,
    answers: usize,
}

impl Pair {
    fn new(lab: &Lab) -> Result<Self> {
        let mut server = lab
            .python(Host::Server, "watched_server.py")
            .arg(PORT.to_string())
            .spawn()?;
        lab.wait_for_port(Proto::Tcp, PORT, &mut server)?;
        let client = lab
            .python(Host::Client, "watching_client.py")
            .args(&format!("{SERVER} {PORT} eth0"))
            .piped()
            .spawn()?;
        let mut pair = Self {
            server,
            client,
            answers: 0,
        };
        pair.answer().context("connecting")?;
        Ok(pair)
    }

    fn order(&mut self, order: &str) -> Result<Value> {
        self.client.write_line(order)?;
        self.answer().with_context(|| order.to_owned())
    }

    fn answer(&mut self) -> Result<Value> {
        let (client, number) = (&mut self.client, self.answers);
        let line = wait_until(LIMIT, || {
            let line = client.stdout().lines().nth(number).map(str::to_owned);
            if line.is_none() {
                client.ensure_running()?;
            }
            Ok(line)
        })?;
        self.answers += 1;
        Ok(serde_json::from_str(&line)?)
    }

    /// How soon the peer's segments are answered while it does this; a machine that was busy with something else gets
    /// two more chances.
    fn ensure_answered(&mut self, lab: &Lab, order: &str, least: usize) -> Result<()> {
        let mut seen = String::new();
        for _ in 0..3 {
            let sample = numbers(&self.order(order)?);
            let count = sample.values().len();
            ensure!(count >= least, "{order}: {count} segments, not {least}");
            let (median, (_, slowest)) = sample.median().zip(sample.range()).context("no value")?;
            seen = format!("{order}: {count} answered in {median:.2} ms, at most {slowest:.2} ms");
            println!("\n    {seen}");
            if lab.is_plain() || (median <= SOON_MS && slowest <= AT_LAST_MS) {
                return Ok(());
            }
        }
        bail!("{seen}")
    }

    /// The program goes on: nothing was lost.
    fn finish(mut self, lab: &Lab) -> Result<()> {
        lab.ensure_accelerated(Host::Server, Proto::Tcp, PORT)?;
        let same = self.order("total")?;
        ensure!(same == true, "the numbers of bytes differ");
        self.server.ensure_running()
    }
}

fn numbers(list: &Value) -> Sample {
    let mut sample = Sample::default();
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_f64)
        .for_each(|number| sample.push(number));
    sample
}

fn stopped(lab: &Lab) -> Result<()> {
    let mut pair = Pair::new(lab)?;
    pair.server.signal(Signal::STOP);
    pair.ensure_answered(lab, "data 15", 15)?;
    pair.ensure_answered(lab, "keepalive", 2)?;
    pair.ensure_answered(lab, "window", 3)?;
    pair.server.signal(Signal::CONT);
    pair.finish(lab)
}

fn busy(lab: &Lab) -> Result<()> {
    let mut pair = Pair::new(lab)?;
    pair.order("busy 2")?;
    pair.ensure_answered(lab, "data 20", 20)?;
    pair.finish(lab)
}

/// A segment is lost, again and again; the program that sent it has been stopped since.
fn retransmits(lab: &Lab) -> Result<()> {
    let mut pair = Pair::new(lab)?;
    pair.client.write_line("retransmissions 2.5")?;
    pair.answer().context("waiting for the segment")?;
    pair.server.signal(Signal::STOP);
    let sample = numbers(&pair.answer()?);
    let gaps = sample.values();
    println!("\n    ms between retransmissions: {gaps:.0?}");
    ensure!(gaps.len() >= 2, "{} retransmissions", gaps.len());
    // A tail loss probe (RFC 8985) may come first; from then on each waits twice as long (RFC 6298).
    for two in gaps[1..].windows(2) {
        let ratio = two[1] / two[0];
        ensure!((1.5..3.0).contains(&ratio), "{gaps:.0?}");
    }
    pair.server.signal(Signal::CONT);
    pair.finish(lab)
}
