//! A wire with faults: forwards Ethernet frames between two interfaces of its namespace, and loses,
//! reorders and duplicates some of them. The decisions follow a seed. One thread, two packet sockets.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, IntoRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flyover_e2e::pattern::Random;
use pnet_datalink::{Channel, Config, NetworkInterface};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with, sockopt};

#[derive(clap::Args)]
pub struct Args {
    left: String,
    right: String,
    /// Percent of the frames that vanish.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Percent of the frames that are held back until a few later ones have passed.
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// Percent of the frames that come twice.
    #[arg(long, default_value_t = 0.0)]
    duplicate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A held frame goes on after this many later ones, or after [`HOLD`].
const OVERTAKEN_BY: u64 = 8;
const HOLD: Duration = Duration::from_millis(5);
/// Room for bursts: a frame lost here would not be one that the seed chose.
const SOCKET_BUFFER: usize = 32 << 20;
/// Frames taken from one side before the other gets its turn.
const BATCH: usize = 64;

pub fn run(args: &Args) -> Result<()> {
    let left = open(&args.left)?;
    let right = open(&args.right)?;
    let mut rightwards = Direction::new(args.seed);
    let mut leftwards = Direction::new(args.seed ^ 0xffff);
    println!("forwarding {} <-> {}", args.left, args.right);
    let mut frame = vec![0; 1 << 17];
    loop {
        wait(
            &left,
            &right,
            rightwards.held.is_empty() && leftwards.held.is_empty(),
        )?;
        rightwards.forward(&left, &right, args, &mut frame)?;
        leftwards.forward(&right, &left, args, &mut frame)?;
    }
}

fn wait(left: &OwnedFd, right: &OwnedFd, nothing_held: bool) -> Result<()> {
    let mut fds = [left, right].map(|fd| PollFd::new(fd, PollFlags::IN));
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    match poll(&mut fds, if nothing_held { None } else { Some(&pause) }) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("waiting for frames"),
    }
}

/// A packet socket for all protocols, bound to the interface.
fn open(name: &str) -> Result<OwnedFd> {
    let every = u16::to_be(0x0003); // ETH_P_ALL
    let protocol = Protocol::from_raw(std::num::NonZeroU32::new(every.into()).context("0")?);
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(protocol),
    )?;
    sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER)?;
    // The channel is made only to bind the socket, and closes the duplicate when it is dropped.
    let duplicate = fcntl_dupfd_cloexec(&socket, 0)?.into_raw_fd();
    let config = Config {
        socket_fd: Some(duplicate),
        ..Config::default()
    };
    let Channel::Ethernet(sender, receiver) = pnet_datalink::channel(&interface(name)?, config)
        .with_context(|| format!("binding to {name}"))?
    else {
        bail!("no Ethernet channel on {name}");
    };
    drop((sender, receiver));
    // What came from other interfaces before the bind is not for this wire.
    while recv(&socket, &mut [0u8; 64][..], RecvFlags::TRUNC).is_ok() {}
    Ok(socket)
}

fn interface(name: &str) -> Result<NetworkInterface> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let index = rustix::net::netdevice::name_to_index(socket.as_fd(), name)
        .with_context(|| format!("no interface {name}"))?;
    Ok(NetworkInterface {
        name: name.to_owned(),
        description: String::new(),
        index,
        mac: None,
        ips: Vec::new(),
        flags: 0,
    })
}

/// One direction of the wire.
struct Direction {
    random: Random,
    passed: u64,
    held: VecDeque<Held>,
}

struct Held {
    frame: Vec<u8>,
    after: u64,
    until: Instant,
}

impl Direction {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            passed: 0,
            held: VecDeque::new(),
        }
    }

    fn forward(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        args: &Args,
        buffer: &mut [u8],
    ) -> Result<()> {
        for _ in 0..BATCH {
            let len = match recv(from, &mut *buffer, RecvFlags::empty()) {
                Ok((len, _)) => len,
                Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => break,
                Err(error) => return Err(error).context("receiving a frame"),
            };
            let frame = &buffer[..len];
            self.passed += 1;
            if self.random.percent(args.loss) {
                continue;
            }
            if self.random.percent(args.reorder) {
                let after = self.passed + 1 + self.random.below(OVERTAKEN_BY);
                self.held.push_back(Held {
                    frame: frame.to_vec(),
                    after,
                    until: Instant::now() + HOLD,
                });
                continue;
            }
            put(to, frame)?;
            if self.random.percent(args.duplicate) {
                put(to, frame)?;
            }
            self.release(to)?;
        }
        self.release(to)
    }

    fn release(&mut self, to: &OwnedFd) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let (passed, now) = (self.passed, Instant::now());
        for held in std::mem::take(&mut self.held) {
            if held.after <= passed || held.until <= now {
                put(to, &held.frame)?;
            } else {
                self.held.push_back(held);
            }
        }
        Ok(())
    }
}

/// A full queue of the device is a loss like any other.
fn put(to: &OwnedFd, frame: &[u8]) -> Result<()> {
    match send(to, frame, SendFlags::empty()) {
        Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::NETDOWN | Errno::INTR) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending {} bytes", frame.len())),
    }
}
