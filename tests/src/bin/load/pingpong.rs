//! Round trips of small messages over TCP or UDP, with blocking calls or spinning on non-blocking
//! ones. Every answer is compared with its request. The same program runs plain or under Flyover.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use flyover_e2e::pattern::Random;
use flyover_e2e::procfs;
use flyover_e2e::stats::Latencies;

use crate::start;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
    /// Use UDP instead of TCP.
    #[arg(long, global = true)]
    udp: bool,
    /// Non-blocking calls in a loop instead of blocking ones, each side on a processor of its own: two sides that spin
    /// on one processor measure the scheduler.
    #[arg(long, global = true)]
    spin: bool,
    /// Bytes of a message.
    #[arg(long, global = true, default_value_t = 64)]
    size: usize,
    /// Stay on this processor; without it, where the scheduler likes, or with --spin each side on one of its own.
    #[arg(long, global = true)]
    cpu: Option<usize>,
}

#[derive(Subcommand)]
pub enum Role {
    /// Send everything back.
    Server { address: SocketAddr },
    /// Measure.
    Client {
        address: SocketAddr,
        #[command(flatten)]
        span: Span,
    },
}

/// How much is measured.
#[derive(Clone, Copy, clap::Args)]
pub struct Span {
    /// Round trips that are measured, at most.
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// Seconds that are measured, at most.
    #[arg(long, default_value_t = f64::MAX)]
    seconds: f64,
    /// Round trips before that.
    #[arg(long, default_value_t = 1_000)]
    warmup: usize,
    /// After the warm-up print `ready` and wait for a line: `more` warms up once more, `go` starts.
    #[arg(long)]
    gate: bool,
}

pub fn run(args: Args) -> Result<()> {
    let own = usize::from(matches!(args.role, Role::Server { .. }));
    if let Some(cpu) = args.cpu.or(args.spin.then_some(own)) {
        start::pin(cpu);
    }
    match (&args.role, args.udp) {
        (Role::Server { address }, false) => serve_tcp(*address, args.spin, args.size),
        (Role::Server { address }, true) => serve_udp(*address, args.spin),
        (Role::Client { address, span }, false) => {
            let mut stream = TcpStream::connect(address).context("connecting")?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(args.spin)?;
            measure(*span, args.size, |request, answer| {
                ask(&mut stream, request, answer)
            })
        }
        (Role::Client { address, span }, true) => {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket.set_nonblocking(args.spin)?;
            if !args.spin {
                socket.set_read_timeout(Some(LOST_AFTER))?;
            }
            measure(*span, args.size, |request, answer| {
                ask_udp(&socket, request, answer)
            })
        }
    }
}

const LOST_AFTER: Duration = Duration::from_millis(200);

/// Sends a request over a stream and reads its answer.
pub fn ask(stream: &mut (impl Read + Write), request: &[u8], answer: &mut [u8]) -> Result<bool> {
    write_all(stream, request)?;
    ensure!(
        read_exact(stream, answer)?,
        "the server closed the connection"
    );
    Ok(true)
}

/// The warm-up takes at most this long, however slow the round trips are.
const WARM_AFTER: Duration = Duration::from_millis(500);

/// Prints percentiles of the round trips; `ask` says whether an answer came at all.
pub fn measure(
    span: Span,
    size: usize,
    mut ask: impl FnMut(&[u8], &mut [u8]) -> Result<bool>,
) -> Result<()> {
    let mut random = Random::new(0xf1);
    let (mut request, mut answer) = (vec![0; size], vec![0; size]);
    let mut latencies = Latencies::with_capacity(span.count);
    let mut lost = 0u64;
    // When the request was sent, and how long its answer took; `None`: it got lost.
    let mut exchange = || -> Result<(Instant, Option<Duration>)> {
        random.fill(&mut request);
        let sent = Instant::now();
        let answered = ask(&request, &mut answer)?;
        let elapsed = sent.elapsed();
        if !answered {
            lost += 1;
            ensure!(lost < 100, "too many datagrams were lost");
            return Ok((sent, None));
        }
        ensure!(answer == request, "a message came back changed");
        Ok((sent, Some(elapsed)))
    };
    let mut warm_up = || -> Result<()> {
        let warming = Instant::now();
        for _ in 0..span.warmup {
            if exchange()?.0.duration_since(warming) >= WARM_AFTER {
                break;
            }
        }
        Ok(())
    };
    if span.gate {
        start::gate(warm_up)?;
    } else {
        warm_up()?;
    }
    let (begun, cpu) = (Instant::now(), own_cpu());
    for _ in 0..span.count {
        let (sent, elapsed) = exchange()?;
        if let Some(elapsed) = elapsed {
            latencies.push(elapsed.as_nanos() as u64);
        }
        if sent.duration_since(begun).as_secs_f64() >= span.seconds {
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let count = latencies.count();
    let mut report = latencies.to_json();
    report["lost"] = lost.into();
    report["messages_per_second"] = (count as f64 / seconds).into();
    report["cpu_us_per_message"] =
        ((own_cpu() - cpu).as_secs_f64() * 1e6 / count.max(1) as f64).into();
    println!("{report}");
    Ok(())
}

fn own_cpu() -> Duration {
    procfs::cpu_time(&[std::process::id()])
}

fn ask_udp(socket: &UdpSocket, request: &[u8], answer: &mut [u8]) -> Result<bool> {
    let sent = Instant::now();
    socket.send(request)?;
    loop {
        match socket.recv(answer) {
            // An answer that was given up comes late: it is not the one that is waited for.
            Ok(_) if answer != request => {}
            Ok(len) => return Ok(len == request.len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => bail!(error),
        }
        if sent.elapsed() >= LOST_AFTER {
            return Ok(false);
        }
    }
}

fn serve_tcp(address: SocketAddr, spin: bool, size: usize) -> Result<()> {
    let listener = TcpListener::bind(address).context("listening")?;
    loop {
        let (mut stream, _) = listener.accept()?;
        std::thread::spawn(move || -> Result<()> {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(spin)?;
            answer(&mut stream, size)
        });
    }
}

/// Sends every message of `size` bytes back, until the end of the stream.
pub fn answer(stream: &mut (impl Read + Write), size: usize) -> Result<()> {
    let mut message = vec![0; size];
    while read_exact(stream, &mut message)? {
        write_all(stream, &message)?;
    }
    Ok(())
}

fn serve_udp(address: SocketAddr, spin: bool) -> Result<()> {
    let socket = UdpSocket::bind(address).context("binding")?;
    socket.set_nonblocking(spin)?;
    let mut message = [0; 65_536];
    loop {
        match socket.recv_from(&mut message) {
            Ok((len, from)) => {
                socket.send_to(&message[..len], from)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => bail!(error),
        }
    }
}

/// False at the end of the stream.
fn read_exact(stream: &mut impl Read, mut into: &mut [u8]) -> io::Result<bool> {
    while !into.is_empty() {
        match stream.read(into) {
            Ok(0) => return Ok(false),
            Ok(len) => into = &mut into[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn write_all(stream: &mut impl Write, mut from: &[u8]) -> io::Result<()> {
    while !from.is_empty() {
        match stream.write(from) {
            Ok(len) => from = &from[len..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
