//! A client of memcached that sets and gets values of random length and content, and compares each.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flyover_e2e::pattern::Random;
use flyover_e2e::stats::Latencies;

use crate::start;

#[derive(clap::Args)]
pub struct Args {
    address: SocketAddr,
    /// Connections, each on a thread of its own.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Longest value.
    #[arg(long, default_value_t = 1024)]
    max: u64,
}

/// Of ten requests nine are gets.
const GETS: u32 = 9;

pub fn run(args: Args) -> Result<()> {
    let Args { address, max, .. } = args;
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    let report = start::on_threads(args.connections, move |number| {
        load(address, number, until, max)
    })?;
    println!("{report}");
    Ok(())
}

fn load(address: SocketAddr, number: usize, until: Instant, max: u64) -> Result<(Latencies, u64)> {
    let stream = TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(16 << 10, stream);
    let mut random = Random::new(number as u64);
    let (mut latencies, mut bytes) = (Latencies::default(), 0);
    let (mut value, mut request, mut answer) = (Vec::new(), Vec::new(), Vec::new());
    while Instant::now() < until {
        value.resize(1 + random.below(max) as usize, 0);
        random.fill(&mut value);
        request.clear();
        write!(request, "set key-{number} 0 0 {}\r\n", value.len())?;
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n");
        answer.resize(b"STORED\r\n".len(), 0);
        ask(&mut stream, &request, &mut answer, &mut latencies)?;
        ensure!(answer == b"STORED\r\n", "set: answered {answer:?}");

        let mut wanted = format!("VALUE key-{number} 0 {}\r\n", value.len()).into_bytes();
        wanted.extend_from_slice(&value);
        wanted.extend_from_slice(b"\r\nEND\r\n");
        answer.resize(wanted.len(), 0);
        let get = format!("get key-{number}\r\n").into_bytes();
        for _ in 0..GETS {
            ask(&mut stream, &get, &mut answer, &mut latencies)?;
            ensure!(answer == wanted, "a value of {} bytes changed", value.len());
            bytes += value.len() as u64;
        }
    }
    ensure!(stream.buffer().is_empty(), "more came than was asked for");
    Ok((latencies, bytes))
}

/// One request; its answer has the length of `answer`, or is an error, which is a line.
fn ask(
    stream: &mut BufReader<TcpStream>,
    request: &[u8],
    answer: &mut [u8],
    latencies: &mut Latencies,
) -> Result<()> {
    let sent = Instant::now();
    stream.get_mut().write_all(request)?;
    let first = stream.fill_buf()?;
    // Shorter than what is waited for.
    let failures: [&[u8]; 3] = [b"END", b"ERROR", b"SERVER_ERROR"];
    ensure!(
        !failures.iter().any(|failure| first.starts_with(failure)),
        "answered {:?}",
        String::from_utf8_lossy(first)
    );
    stream.read_exact(answer)?;
    latencies.push(sent.elapsed().as_nanos() as u64);
    Ok(())
}
