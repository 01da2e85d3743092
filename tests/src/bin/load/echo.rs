//! Echo: a server, a load generator that verifies every byte, and a connection that does one echo
//! for each line on standard input.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use flyover_e2e::pattern::Random;
use flyover_e2e::stats::Latencies;

use crate::start;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
pub enum Role {
    /// Echo TCP and UDP on this address.
    Serve { address: SocketAddr },
    /// Many connections, messages of random length and content.
    Load {
        address: SocketAddr,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Longest message.
        #[arg(long, default_value_t = 16_384)]
        max: u64,
        #[arg(long)]
        udp: bool,
        /// Count reset connections and open new ones instead of failing.
        #[arg(long)]
        resets: bool,
    },
    /// One connection; for each number on standard input, one echo of so many bytes.
    Interactive { address: SocketAddr },
}

pub fn run(args: Args) -> Result<()> {
    match args.role {
        Role::Serve { address } => serve(address),
        Role::Load {
            address,
            connections,
            seconds,
            max,
            udp,
            resets,
        } => load(address, connections, seconds, max, (udp, resets)),
        Role::Interactive { address } => interactive(address),
    }
}

fn serve(address: SocketAddr) -> Result<()> {
    let datagrams = UdpSocket::bind(address).context("binding")?;
    let listener = TcpListener::bind(address).context("listening")?;
    std::thread::spawn(move || -> Result<()> {
        let mut message = vec![0; 65_536];
        loop {
            let (len, from) = datagrams.recv_from(&mut message)?;
            datagrams.send_to(&message[..len], from)?;
        }
    });
    loop {
        let (mut stream, _) = listener.accept()?;
        std::thread::spawn(move || -> Result<()> {
            stream.set_nodelay(true)?;
            let mut buffer = vec![0; 65_536];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    len => stream.write_all(&buffer[..len])?,
                }
            }
        });
    }
}

/// Long messages must be read while they are written, or both ends block with full buffers.
fn echo(stream: &mut TcpStream, message: &[u8], answer: &mut Vec<u8>) -> Result<()> {
    answer.resize(message.len(), 0);
    if message.len() <= 32_768 {
        stream.write_all(message)?;
        stream.read_exact(answer)?;
    } else {
        let mut writer = stream.try_clone()?;
        std::thread::scope(|scope| -> Result<()> {
            let writing = scope.spawn(move || writer.write_all(message));
            stream.read_exact(answer)?;
            match writing.join() {
                Ok(result) => Ok(result?),
                Err(_) => bail!("the writing thread panicked"),
            }
        })?;
    }
    ensure!(
        answer.as_slice() == message,
        "{} bytes came back changed",
        message.len()
    );
    Ok(())
}

fn load(
    address: SocketAddr,
    connections: usize,
    seconds: f64,
    max: u64,
    (udp, resets): (bool, bool),
) -> Result<()> {
    let allowed = resets.then(AtomicU64::default).map(Arc::new);
    let counted = allowed.clone();
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut report = start::on_threads(connections, move |number| {
        let random = Random::new(number as u64);
        if udp {
            load_udp(address, until, max, random)
        } else {
            load_tcp(address, until, max, random, allowed.as_deref())
        }
    })?;
    if let Some(resets) = counted {
        report["resets"] = resets.load(Relaxed).into();
    }
    println!("{report}");
    Ok(())
}

fn load_tcp(
    address: SocketAddr,
    until: Instant,
    max: u64,
    mut random: Random,
    resets: Option<&AtomicU64>,
) -> Result<(Latencies, u64)> {
    let mut stream = TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true)?;
    let (mut latencies, mut bytes) = (Latencies::default(), 0);
    let (mut message, mut answer) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        message.resize(1 + random.below(max) as usize, 0);
        random.fill(&mut message);
        let started = Instant::now();
        match (echo(&mut stream, &message, &mut answer), resets) {
            (Ok(()), _) => {}
            (Err(e), Some(resets)) if is_reset(&e) => {
                resets.fetch_add(1, Relaxed);
                stream = TcpStream::connect(address).context("connecting again")?;
                stream.set_nodelay(true)?;
                continue;
            }
            (Err(e), _) => return Err(e),
        }
        latencies.push(started.elapsed().as_nanos() as u64);
        bytes += message.len() as u64;
    }
    Ok((latencies, bytes))
}

/// The connection was reset, in whichever of the two directions that showed first.
fn is_reset(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    matches!(kind, Some(ConnectionReset | BrokenPipe))
}

fn load_udp(
    address: SocketAddr,
    until: Instant,
    max: u64,
    mut random: Random,
) -> Result<(Latencies, u64)> {
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let (mut latencies, mut bytes) = (Latencies::default(), 0);
    let (mut message, mut answer) = (Vec::new(), vec![0; 65_536]);
    while Instant::now() < until {
        message.resize(1 + random.below(max.min(60_000)) as usize, 0);
        random.fill(&mut message);
        let started = Instant::now();
        socket.send(&message)?;
        let len = socket.recv(&mut answer).context("waiting for a datagram")?;
        ensure!(
            answer[..len] == message,
            "a datagram of {} bytes came back changed",
            message.len()
        );
        latencies.push(started.elapsed().as_nanos() as u64);
        bytes += message.len() as u64;
    }
    Ok((latencies, bytes))
}

/// Prints `ok` when connected and after each echo, or what went wrong.
fn interactive(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true)?;
    println!("ok");
    let mut random = Random::new(3);
    let (mut message, mut answer) = (Vec::new(), Vec::new());
    for line in std::io::stdin().lock().lines() {
        message.resize(line?.trim().parse()?, 0);
        random.fill(&mut message);
        match echo(&mut stream, &message, &mut answer) {
            Ok(()) => println!("ok"),
            Err(error) => println!("{error:#}"),
        }
    }
    Ok(())
}
