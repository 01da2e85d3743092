//! What the kill storm runs: a sink that judges every stream, and a victim that is killed while it sends.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use flyover_e2e::pattern::{Pattern, Random};

/// Longest single write of a victim.
const LONGEST: u64 = 40_000;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
pub enum Role {
    /// For each connection: reads a number, verifies the stream with that seed, prints `number bytes end`.
    Sink { address: SocketAddr },
    /// Sends a stream, and notes in a file how many bytes `send` took, until it is killed.
    Victim {
        sink: SocketAddr,
        /// An echo server, to which further connections come and go.
        echo: SocketAddr,
        number: u64,
        note: PathBuf,
    },
    /// For each line on standard input: closes the connection that it has, opens another one, does an echo, and prints its
    /// local port.
    Caller { echo: SocketAddr },
    /// Sends a stream of so many bytes, and exits at once.
    Leave {
        sink: SocketAddr,
        number: u64,
        bytes: u64,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.role {
        Role::Sink { address } => sink(address),
        Role::Victim {
            sink,
            echo,
            number,
            note,
        } => victim(sink, echo, number, &note),
        Role::Caller { echo } => caller(echo),
        Role::Leave {
            sink,
            number,
            bytes,
        } => leave(sink, number, bytes),
    }
}

fn sink(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).context("listening")?;
    loop {
        let (stream, _) = listener.accept()?;
        std::thread::spawn(move || {
            // A connection whose number never came has nothing to report.
            let _ = judge(stream);
        });
    }
}

fn judge(mut stream: TcpStream) -> Result<()> {
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    let number = u64::from_le_bytes(number);
    let pattern = Pattern::new(number);
    let mut buffer = vec![0; 65_536];
    let mut bytes = 0u64;
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break "eof".to_owned(),
            Ok(n) if buffer[..n] != *pattern.at(bytes, n) => break "damaged".to_owned(),
            Ok(n) => bytes += n as u64,
            Err(e) => break format!("{:?}", e.kind()),
        }
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{number} {bytes} {end}")?;
    out.flush()?;
    Ok(())
}

fn victim(sink: SocketAddr, echo: SocketAddr, number: u64, note: &PathBuf) -> Result<()> {
    let note = OpenOptions::new()
        .write(true)
        .open(note)
        .context("the note")?;
    for i in 0..2 {
        std::thread::spawn(move || -> Result<()> {
            let mut random = Random::new(number * 2 + i);
            loop {
                come_and_go(echo, &mut random)?;
            }
        });
    }
    stream(sink, number, &note)
}

fn caller(echo: SocketAddr) -> Result<()> {
    let mut held = None;
    for _ in std::io::stdin().lock().lines() {
        drop(held.take());
        let mut stream = TcpStream::connect(echo).context("connecting")?;
        let mut answer = [0; 5];
        stream.write_all(b"hello")?;
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"hello", "a wrong echo");
        println!("{}", stream.local_addr()?.port());
        held = Some(stream);
    }
    Ok(())
}

fn leave(sink: SocketAddr, number: u64, bytes: u64) -> Result<()> {
    let mut stream = TcpStream::connect(sink).context("connecting to the sink")?;
    stream.write_all(&number.to_le_bytes())?;
    let pattern = Pattern::new(number);
    let mut done = 0u64;
    while done < bytes {
        let len = LONGEST.min(bytes - done) as usize;
        done += stream.write(pattern.at(done, len))? as u64;
    }
    // The socket is not even closed.
    std::process::exit(0);
}

fn stream(sink: SocketAddr, number: u64, note: &File) -> Result<()> {
    let mut stream = TcpStream::connect(sink).context("connecting to the sink")?;
    stream.write_all(&number.to_le_bytes())?;
    let pattern = Pattern::new(number);
    let mut random = Random::new(number);
    let mut taken = 0u64;
    loop {
        let len = 1 + random.below(LONGEST) as usize;
        taken += stream.write(pattern.at(taken, len))? as u64;
        note.write_all_at(&taken.to_le_bytes(), 0)?;
    }
}

/// A short connection: some echoes, then one of the ways to end.
fn come_and_go(echo: SocketAddr, random: &mut Random) -> Result<()> {
    let mut stream = TcpStream::connect(echo)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut sent = vec![0; 1 + random.below(20_000) as usize];
    let mut got = vec![0; sent.len()];
    for _ in 0..1 + random.below(8) {
        random.fill(&mut sent);
        stream.write_all(&sent)?;
        stream.read_exact(&mut got)?;
        ensure!(sent == got, "a wrong echo");
    }
    if random.below(2) == 0 {
        stream.shutdown(Shutdown::Write)?;
        let n = stream.read(&mut got)?;
        ensure!(n == 0, "{n} bytes after the last echo");
    }
    Ok(())
}
