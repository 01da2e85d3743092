//! One bulk stream. The receiver compares every byte with the pattern that the sender sends, and
//! tells the sender at the end; both report. Either may listen or connect.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as Group, Subcommand};
use flyover_e2e::pattern::{PATTERN_RUN, Pattern};
use flyover_e2e::procfs;

use crate::start;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
    /// Non-blocking calls in a loop instead of blocking ones, each side on a processor of its own.
    #[arg(long, global = true)]
    spin: bool,
    /// Stay on this processor.
    #[arg(long, global = true)]
    cpu: Option<usize>,
}

#[derive(Subcommand)]
pub enum Role {
    /// Send until the bytes or the seconds are used up.
    Send {
        #[command(flatten)]
        end: End,
        #[command(flatten)]
        flow: Flow,
    },
    /// Receive and verify until the end of the stream.
    Receive {
        #[command(flatten)]
        end: End,
        #[command(flatten)]
        check: Check,
    },
}

/// What is sent.
#[derive(Clone, Copy, Group)]
pub struct Flow {
    /// Bytes of one write.
    #[arg(long, default_value_t = 65_536)]
    write: usize,
    /// Bytes in all.
    #[arg(long, default_value_t = u64::MAX)]
    bytes: u64,
    /// Seconds in all.
    #[arg(long, default_value_t = f64::MAX)]
    seconds: f64,
    /// Send this long, then print `ready` and wait for a line: `more` does so once more; what is sent after `go` counts.
    #[arg(long)]
    gate_after: Option<f64>,
}

/// How it is received.
#[derive(Clone, Copy, Group)]
pub struct Check {
    /// Bytes of one read.
    #[arg(long, default_value_t = PATTERN_RUN)]
    read: usize,
    /// Only count the bytes.
    #[arg(long)]
    no_verify: bool,
    /// Compare the first and the last 64 bytes that each read gave, and count: cheap beside the fastest stream.
    #[arg(long)]
    verify_ends: bool,
}

impl Check {
    /// As words of a command line.
    pub fn words(self) -> Vec<String> {
        let mut words = vec![format!("--read={}", self.read)];
        words.extend(self.no_verify.then(|| "--no-verify".to_owned()));
        words.extend(self.verify_ends.then(|| "--verify-ends".to_owned()));
        words
    }
}

#[derive(Group)]
#[group(required = true, multiple = false)]
pub struct End {
    /// Wait for one connection here.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Connect to this address.
    #[arg(long)]
    connect: Option<SocketAddr>,
}

const SEED: u64 = 0x5eed;

pub fn run(args: Args) -> Result<()> {
    let own = usize::from(matches!(args.role, Role::Receive { .. }));
    if let Some(cpu) = args.cpu.or(args.spin.then_some(own)) {
        start::pin(cpu);
    }
    match args.role {
        Role::Send { end, flow } => send(open(&end, args.spin)?, flow),
        Role::Receive { end, check } => receive(open(&end, args.spin)?, check),
    }
}

/// A stream whose sending direction can be ended alone.
pub trait Channel: Read + Write {
    /// Sends FIN.
    fn end_writing(&mut self) -> std::io::Result<()>;
}

impl Channel for TcpStream {
    fn end_writing(&mut self) -> std::io::Result<()> {
        // The counts at the end are read with blocking calls.
        self.set_nonblocking(false)?;
        self.shutdown(Shutdown::Write)
    }
}

fn open(end: &End, spin: bool) -> Result<TcpStream> {
    let stream = match (end.listen, end.connect) {
        (Some(address), _) => {
            let listener = TcpListener::bind(address).context("listening")?;
            listener.accept()?.0
        }
        (None, Some(address)) => TcpStream::connect(address).context("connecting")?,
        (None, None) => bail!("neither --listen nor --connect"),
    };
    stream.set_nonblocking(spin)?;
    Ok(stream)
}

/// Comes again at once: no room or nothing to read for a socket that spins, or a signal.
fn is_for_now(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// Sends the pattern from byte `sent` on until the bytes or the seconds are used up; returns where that was.
fn pump(
    stream: &mut impl Channel,
    (mut sent, bytes): (u64, u64),
    write: usize,
    seconds: f64,
) -> Result<u64> {
    let pattern = Pattern::new(SEED);
    let begun = Instant::now();
    while sent < bytes {
        // The clock is read once for many small writes.
        if sent % (1 << 16) < write as u64 && begun.elapsed().as_secs_f64() >= seconds {
            break;
        }
        let len = (write as u64).min(bytes - sent) as usize;
        match stream.write(pattern.at(sent, len)) {
            Ok(len) => sent += len as u64,
            Err(error) if is_for_now(&error) => {}
            Err(error) => return Err(error).context(format!("after {sent} bytes")),
        }
    }
    Ok(sent)
}

pub fn send(mut stream: impl Channel, flow: Flow) -> Result<()> {
    let write = flow.write;
    ensure!(
        (1..=PATTERN_RUN).contains(&write),
        "--write: 1 to {PATTERN_RUN}"
    );
    let mut first = 0;
    if let Some(seconds) = flow.gate_after {
        start::gate(|| {
            first = pump(&mut stream, (first, u64::MAX), write, seconds)?;
            Ok(())
        })?;
    }
    let begun = Instant::now();
    let end = first.saturating_add(flow.bytes);
    let sent = pump(&mut stream, (first, end), write, flow.seconds)?;
    stream.end_writing()?;
    let mut received = [0; 8];
    stream
        .read_exact(&mut received)
        .context("waiting for the receiver's count")?;
    let received = u64::from_be_bytes(received);
    ensure!(
        received == sent,
        "sent {sent} bytes, {received} arrived right"
    );
    report(sent - first, begun.elapsed(), None);
    Ok(())
}

pub fn receive(mut stream: impl Channel, check: Check) -> Result<()> {
    ensure!(
        (1..=PATTERN_RUN).contains(&check.read),
        "--read: 1 to {PATTERN_RUN}"
    );
    let pattern = Pattern::new(SEED);
    let mut buffer = vec![0; check.read];
    let (begun, mut last) = (Instant::now(), Instant::now());
    let mut stall = Duration::ZERO;
    let mut received = 0;
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if is_for_now(&error) => continue,
            Err(error) => return Err(error).context(format!("after {received} bytes")),
        };
        // A clock for each message would be a good part of what it costs.
        if !check.verify_ends {
            stall = stall.max(last.elapsed());
            last = Instant::now();
        }
        verify(check, &pattern, received, &buffer[..len])?;
        received += len as u64;
    }
    stall = stall.max(last.elapsed());
    stream.write_all(&received.to_be_bytes())?;
    report(
        received,
        begun.elapsed(),
        (!check.verify_ends).then_some(stall),
    );
    Ok(())
}

/// Compares what came with the pattern, as far as `check` wants.
fn verify(check: Check, pattern: &Pattern, at: u64, got: &[u8]) -> Result<()> {
    const END: usize = 64;
    let len = got.len();
    let parts = match (check.no_verify, check.verify_ends && len > 2 * END) {
        (true, _) => return Ok(()),
        (false, false) => [0..len, len..len],
        (false, true) => [0..END, len - END..len],
    };
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let wanted = pattern.at(at + part.start as u64, part.len());
        let got = &got[part.clone()];
        if got != wanted {
            let wrong = got.iter().zip(wanted).position(|(a, b)| a != b);
            bail!(
                "byte {} is wrong",
                at + (part.start + wrong.unwrap_or(0)) as u64
            );
        }
    }
    Ok(())
}

fn report(bytes: u64, elapsed: Duration, stall: Option<Duration>) {
    let seconds = elapsed.as_secs_f64();
    let mut report = serde_json::json!({
        "bytes": bytes,
        "seconds": seconds,
        "gbit_per_second": bytes as f64 * 8.0 / seconds / 1e9,
        "cpu_seconds": procfs::cpu_time(&[std::process::id()]).as_secs_f64(),
    });
    if let Some(stall) = stall {
        report["longest_stall_ms"] = (stall.as_secs_f64() * 1e3).into();
    }
    println!("{report}");
}
