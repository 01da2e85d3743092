//! The floor of the local path: two processes that spin on a bare byte ring in shared memory, one ring each way. A message is
//! copied in and copied out, and one counter is published each time; there are no sockets, no locks and no sleeping. What is
//! sent and how it is verified and timed is the code of `pingpong` and `stream`.

use std::fs::OpenOptions;
use std::hint::spin_loop;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use flyover_shm::{Arena, Idx, Map, Region, Shared64, SharedCell, sealed_memfd, shm_struct};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::stream::{self, Channel};
use crate::{pingpong, start};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
pub enum Role {
    /// Round trips.
    Pingpong {
        #[command(flatten)]
        span: pingpong::Span,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// One way, as fast as it goes.
    Stream {
        #[command(flatten)]
        flow: stream::Flow,
        #[command(flatten)]
        check: stream::Check,
    },
    /// The other process of `pingpong`: sends everything back.
    #[command(hide = true)]
    Answer { memory: PathBuf, size: usize },
    /// The other process of `stream`.
    #[command(hide = true)]
    Receive {
        memory: PathBuf,
        #[command(flatten)]
        check: stream::Check,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.role {
        Role::Pingpong { span, size } => {
            let (mut ring, other) = beside("answer", &[size.to_string()])?;
            pingpong::measure(span, size, |request, answer| {
                pingpong::ask(&mut ring, request, answer)
            })?;
            ring.end_writing()?;
            finish(other)
        }
        Role::Stream { flow, check } => {
            let (ring, other) = beside("receive", &check.words())?;
            stream::send(ring, flow)?;
            finish(other)
        }
        Role::Answer { memory, size } => {
            be_other()?;
            pingpong::answer(&mut Ring::open(&memory, Direction::Back)?, size)
        }
        Role::Receive { memory, check } => {
            be_other()?;
            stream::receive(Ring::open(&memory, Direction::Back)?, check)
        }
    }
}

/// Makes the memory, starts the other process on it, and stays on the first processor.
fn beside(role: &str, words: &[String]) -> Result<(Ring, Child)> {
    start::pin(0);
    let memory = sealed_memfd("ring", TOTAL).context("making shared memory")?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let ring = Ring::open(Path::new(&path), Direction::There)?;
    let mut other = Command::new(std::env::current_exe()?)
        .args(["ring", role, &path])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("starting the other process")?;
    // It opens the memory by our descriptor, which has to be open so long.
    while ring.counter(Direction::Back, OPENED).load(Acquire) == 0 {
        ensure!(other.try_wait()?.is_none(), "the other process has ended");
        std::thread::yield_now();
    }
    Ok((ring, other))
}

/// The other process spins for as long as the first one lives, not longer.
fn be_other() -> Result<()> {
    start::pin(1);
    set_parent_process_death_signal(Some(Signal::KILL)).context("following the first process")
}

fn finish(mut other: Child) -> Result<()> {
    let status = other.wait()?;
    ensure!(status.success(), "the other process: {status}");
    Ok(())
}

shm_struct! {
    /// A counter, two cache lines from the next one: processors prefetch lines in pairs.
    pub struct Counter {
        /// Its value.
        value: Shared64,
        /// Nothing.
        pad: [SharedCell<u64>; 15],
    }
}

/// Bytes of one ring; both fit the second-level cache.
const RING: u64 = 256 << 10;
/// The counters come first.
const DATA: u64 = 4096;
const TOTAL: u64 = DATA + 2 * RING;

/// Which of the two rings: the first process writes to `There`, the second one to `Back`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

impl Direction {
    fn other(self) -> Self {
        match self {
            Self::There => Self::Back,
            Self::Back => Self::There,
        }
    }
}

/// Counters of a direction: bytes written, bytes read, whether the writer has ended, whether he is there.
const WRITTEN: u32 = 0;
const READ: u32 = 1;
const ENDED: u32 = 2;
const OPENED: u32 = 3;

/// One process's end of both rings.
struct Ring {
    memory: Region<'static>,
    counters: Arena<'static, Counter>,
    /// The ring that this end writes to.
    out: Direction,
    written: u64,
    read: u64,
    /// What the other end had read and written when it was looked at last: its lines are touched only when this end
    /// cannot go on.
    seen_read: u64,
    seen_written: u64,
}

impl Ring {
    fn open(path: &Path, out: Direction) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let memory = Map::rw(&file, TOTAL as usize)
            .context("mapping the ring")?
            .leak();
        let counters = Arena::new(memory, 0, 8).map_err(|_| io::Error::other("no room"))?;
        let ring = Self {
            memory,
            counters,
            out,
            written: 0,
            read: 0,
            seen_read: 0,
            seen_written: 0,
        };
        ring.counter(out, OPENED).store(1, Release);
        Ok(ring)
    }

    fn counter(&self, direction: Direction, which: u32) -> &Shared64 {
        &self
            .counters
            .at(Idx::new(direction as u32 * 4 + which))
            .value
    }

    /// The pieces of memory of `len` bytes from byte `at` of a ring's stream on: the end of the ring, and its beginning.
    fn pieces(direction: Direction, at: u64, len: usize) -> [(usize, usize); 2] {
        let base = DATA + direction as u64 * RING;
        let offset = at % RING;
        let first = len.min((RING - offset) as usize);
        [
            ((base + offset) as usize, first),
            (base as usize, len - first),
        ]
    }
}

impl Write for Ring {
    /// Spins until there is room.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.written - self.seen_read == RING {
            self.seen_read = self.counter(self.out, READ).load(Acquire);
            spin_loop();
        }
        let room = RING - (self.written - self.seen_read);
        let len = bytes.len().min(room as usize);
        let mut rest = &bytes[..len];
        for (offset, len) in Self::pieces(self.out, self.written, len) {
            let (piece, later) = rest.split_at(len);
            self.memory.bytes(offset, len).copy_in(piece);
            rest = later;
        }
        self.written += len as u64;
        self.counter(self.out, WRITTEN).store(self.written, Release);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Ring {
    /// Spins until there is something, or the writer has ended.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.out.other();
        while self.read == self.seen_written {
            self.seen_written = self.counter(from, WRITTEN).load(Acquire);
            if self.read != self.seen_written {
                break;
            }
            if self.counter(from, ENDED).load(Acquire) != 0 {
                // What was written before the end is seen now.
                self.seen_written = self.counter(from, WRITTEN).load(Acquire);
                if self.read == self.seen_written {
                    return Ok(0);
                }
            }
            spin_loop();
        }
        let len = into.len().min((self.seen_written - self.read) as usize);
        let mut rest = &mut into[..len];
        for (offset, len) in Self::pieces(from, self.read, len) {
            let (piece, later) = rest.split_at_mut(len);
            self.memory.bytes(offset, len).copy_out(piece);
            rest = later;
        }
        self.read += len as u64;
        self.counter(from, READ).store(self.read, Release);
        Ok(len)
    }
}

impl Channel for Ring {
    fn end_writing(&mut self) -> io::Result<()> {
        self.counter(self.out, ENDED).store(1, Release);
        Ok(())
    }
}
