//! Connections per second: connect, one byte each way, close. The server closes first, so that
//! TIME_WAIT stays with it and the client's ports are free again at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use flyover_e2e::stats::Latencies;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
pub enum Role {
    /// Serve one byte a connection.
    Server { address: SocketAddr },
    /// Measure.
    Client {
        address: SocketAddr,
        /// Threads, each with one connection at a time.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// How long.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.role {
        Role::Server { address } => serve(address),
        Role::Client {
            address,
            threads,
            seconds,
        } => measure(address, threads, seconds),
    }
}

fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).context("listening")?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() {
            let _ = stream.write_all(&byte);
        }
    }
}

fn measure(address: SocketAddr, threads: usize, seconds: f64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let begun = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            std::thread::spawn(move || -> Result<Latencies> {
                let mut latencies = Latencies::default();
                while Instant::now() < until {
                    let started = Instant::now();
                    one_connection(address, latencies.count() as u8)?;
                    latencies.push(started.elapsed().as_nanos() as u64);
                }
                Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Latencies::default();
    for worker in workers {
        match worker.join() {
            Ok(result) => latencies.append(result?),
            Err(_) => anyhow::bail!("a thread panicked"),
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let mut report = latencies.to_json();
    report["connections_per_second"] = (latencies.count() as f64 / elapsed).into();
    println!("{report}");
    Ok(())
}

fn one_connection(address: SocketAddr, byte: u8) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("connecting")?;
    stream.write_all(&[byte])?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer == [byte], "wrong answer {answer:?}");
    Ok(())
}
