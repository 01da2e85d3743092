//! One bulk stream. The receiver compares every byte with the pattern that the sender sends, and
//! tells the sender at the end; both report. Either may listen or connect.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as Group, Subcommand};
use flyover_e2e::pattern::{PATTERN_RUN, Pattern};
use flyover_e2e::procfs;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
pub enum Role {
    /// Send until the bytes or the seconds are used up.
    Send {
        #[command(flatten)]
        end: End,
        /// Bytes of one write.
        #[arg(long, default_value_t = 65_536)]
        write: usize,
        /// Bytes in all.
        #[arg(long)]
        bytes: Option<u64>,
        /// Seconds in all.
        #[arg(long)]
        seconds: Option<f64>,
    },
    /// Receive and verify until the end of the stream.
    Receive {
        #[command(flatten)]
        end: End,
        /// Only count the bytes.
        #[arg(long)]
        no_verify: bool,
    },
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
    match args.role {
        Role::Send {
            end,
            write,
            bytes,
            seconds,
        } => {
            ensure!(
                (1..=PATTERN_RUN).contains(&write),
                "--write: 1 to {PATTERN_RUN}"
            );
            send(
                open(&end)?,
                write,
                bytes.unwrap_or(u64::MAX),
                seconds.unwrap_or(f64::MAX),
            )
        }
        Role::Receive { end, no_verify } => receive(open(&end)?, !no_verify),
    }
}

fn open(end: &End) -> Result<TcpStream> {
    match (end.listen, end.connect) {
        (Some(address), _) => {
            let listener = TcpListener::bind(address).context("listening")?;
            Ok(listener.accept()?.0)
        }
        (None, Some(address)) => TcpStream::connect(address).context("connecting"),
        (None, None) => bail!("neither --listen nor --connect"),
    }
}

fn send(mut stream: TcpStream, write: usize, bytes: u64, seconds: f64) -> Result<()> {
    let pattern = Pattern::new(SEED);
    let begun = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        // The clock is read once for many small writes.
        if sent % (1 << 16) < write as u64 && begun.elapsed().as_secs_f64() >= seconds {
            break;
        }
        let len = (write as u64).min(bytes - sent) as usize;
        match stream.write(pattern.at(sent, len)) {
            Ok(len) => sent += len as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(format!("after {sent} bytes")),
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let mut received = [0; 8];
    stream
        .read_exact(&mut received)
        .context("waiting for the receiver's count")?;
    let received = u64::from_be_bytes(received);
    ensure!(
        received == sent,
        "sent {sent} bytes, {received} arrived right"
    );
    report(sent, begun.elapsed(), None);
    Ok(())
}

fn receive(mut stream: TcpStream, verify: bool) -> Result<()> {
    let pattern = Pattern::new(SEED);
    let mut buffer = vec![0; PATTERN_RUN];
    let (begun, mut last) = (Instant::now(), Instant::now());
    let mut stall = Duration::ZERO;
    let mut received = 0;
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context(format!("after {received} bytes")),
        };
        stall = stall.max(last.elapsed());
        last = Instant::now();
        if verify && buffer[..len] != *pattern.at(received, len) {
            let wrong = buffer
                .iter()
                .zip(pattern.at(received, len))
                .position(|(a, b)| a != b);
            bail!("byte {} is wrong", received + wrong.unwrap_or(0) as u64);
        }
        received += len as u64;
    }
    stall = stall.max(last.elapsed());
    stream.write_all(&received.to_be_bytes())?;
    report(received, begun.elapsed(), Some(stall));
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
