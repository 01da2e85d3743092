//! One of the two labs that a case runs in: the program's host, the peer's host, the peer.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{CLIENT, CLIENT6, Host, Lab, SERVER, SERVER6, Setup, Side, wait_until};
use flyover_e2e::procfs::Snmp;
use flyover_e2e::wiring;

use super::program::Mode;

/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// How a case went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What it printed, and how it ended: this is compared.
    pub text: String,
    /// What it wrote to standard error: for the person who reads a failure.
    pub stderr: String,
    /// TCP connections that the kernel of its host opened or accepted meanwhile.
    pub kernel_tcp: u64,
    /// Connections that the kernel of its host accepted meanwhile.
    pub accepted: u64,
    /// Datagrams that the kernel of its host delivered meanwhile.
    pub kernel_udp: u64,
    /// Connections of its host that were paired meanwhile.
    pub pairs: u64,
}

/// The program runs on the client, the peer on the server, or, for the modes of the local path, beside the program.
pub struct Hosts {
    lab: Lab,
    // Before the lab goes, so that its namespaces are empty.
    peers: Vec<Peer>,
    /// What the stack had counted at the end of the last case.
    pairs: AtomicU64,
}

struct Peer {
    /// [`Mode::local_after`] of the cases that it is for.
    after: Option<u32>,
    socket: PathBuf,
    _running: Proc,
}

impl Peer {
    fn start(lab: &Lab, setup: &Setup, program: &Path, after: Option<u32>) -> Result<Self> {
        let name = after.map_or("peer.sock".to_owned(), |after| format!("peer-{after}.sock"));
        let socket = setup.directory.join(name);
        let command = match after {
            None => lab.plain(Host::Server, program),
            Some(after) => lab
                .cmd(Host::Client, program)
                .env(LOCAL_AFTER, after.to_string()),
        };
        let mut running = command.arg(socket.as_os_str()).spawn()?;
        wait_until(Duration::from_secs(5), || {
            running.ensure_running()?;
            Ok(socket.exists().then_some(()))
        })
        .context("waiting for the peer")?;
        Ok(Self {
            after,
            socket,
            _running: running,
        })
    }
}

/// The variable of `--local-after`.
const LOCAL_AFTER: &str = "FLYOVER_LOCAL_AFTER";

impl Hosts {
    pub fn new(setup: &Setup, side: Side, peer: &Path, modes: &[Mode]) -> Result<Self> {
        fs::create_dir_all(&setup.directory)?;
        let lab = wiring::pair(setup, side)?;
        let mut places: Vec<Option<u32>> = modes.iter().map(|mode| mode.local_after()).collect();
        places.sort_unstable();
        places.dedup();
        let peers = places
            .into_iter()
            .map(|after| Peer::start(&lab, setup, peer, after));
        let peers = peers.collect::<Result<_>>()?;
        // Neighbours that are resolved already: no case is about that.
        for address in [SERVER.to_string(), SERVER6.to_string()] {
            lab.client.tool(&format!("ping -c 1 -W 2 {address}"))?;
        }
        Ok(Self {
            lab,
            peers,
            pairs: AtomicU64::new(0),
        })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Runs one case to its end.
    pub fn run(&self, words: &[PathBuf], case: &str, mode: Mode) -> Result<Outcome> {
        self.run_with(words, case, mode, &[])
    }

    /// The same with more variables in the environment.
    pub fn run_with(
        &self,
        words: &[PathBuf],
        case: &str,
        mode: Mode,
        variables: &[(&str, &Path)],
    ) -> Result<Outcome> {
        let before = Snmp::read(&self.lab.client)?;
        let (first, rest) = words.split_first().context("no program")?;
        let mut command = match (self.lab.side, mode) {
            (Side::Client, Mode::Xdp) => {
                let flyover = self.lab.bin().join("flyover").into_os_string();
                let wrapper = ["run", "--vnic", "xdp", "--"].map(Into::into);
                let wrapper = std::iter::once(flyover).chain(wrapper).collect();
                self.lab.wrapped(Host::Client, wrapper, first)
            }
            _ => self.lab.cmd(Host::Client, first),
        };
        let (own, other): (IpAddr, IpAddr) = match mode {
            Mode::V6 => (CLIENT6.into(), SERVER6.into()),
            Mode::V4 | Mode::Xdp => (CLIENT.into(), SERVER.into()),
            Mode::Lo4 | Mode::Late4 => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
            Mode::Lo6 | Mode::Late6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
            Mode::Own4 => (CLIENT.into(), CLIENT.into()),
        };
        let after = mode.local_after();
        let peer = self.peers.iter().find(|peer| peer.after == after);
        let peer = peer.context("no peer for this mode")?;
        if let Some(after) = after {
            command = command.env(LOCAL_AFTER, after.to_string());
        }
        for word in rest {
            command = command.arg(word);
        }
        for (name, value) in variables {
            command = command.env(*name, value.as_os_str());
        }
        let mut running = command
            .arg(case)
            .env("DIFF_PEER", &peer.socket)
            .env("DIFF_FAMILY", if mode.is_v6() { "6" } else { "4" })
            .env("DIFF_MY_ADDR", own.to_string())
            .env("DIFF_PEER_ADDR", other.to_string())
            .spawn()?;
        let until = Instant::now() + LIMIT;
        while !running.has_ended()? && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let outcome = if running.has_ended()? {
            let output = running.finish(LIMIT)?;
            output.forget();
            let end = match (output.status.code(), output.status.signal()) {
                (Some(0), _) => String::new(),
                (Some(code), _) => format!("(exit status {code})\n"),
                (_, signal) => format!("(killed by signal {})\n", signal.unwrap_or(0)),
            };
            Outcome {
                text: output.stdout + &end,
                stderr: output.stderr,
                ..Outcome::default()
            }
        } else {
            Outcome {
                text: running.stdout() + "(hangs)\n",
                stderr: running.stderr(),
                ..Outcome::default()
            }
        };
        let after = Snmp::read(&self.lab.client)?;
        Ok(Outcome {
            kernel_tcp: after.since(&before, "Tcp.ActiveOpens")
                + after.since(&before, "Tcp.PassiveOpens"),
            accepted: after.since(&before, "Tcp.PassiveOpens"),
            kernel_udp: after.since(&before, "Udp.InDatagrams"),
            pairs: match mode.local_after() {
                Some(_) if self.lab.daemon().is_some() => self.new_pairs()?,
                _ => 0,
            },
            ..outcome
        })
    }

    /// Connections of the client that were paired since the last question.
    fn new_pairs(&self) -> Result<u64> {
        let counted = self.lab.counter(Host::Client, "local_pairs")?;
        let before = self.pairs.swap(counted, Ordering::Relaxed);
        Ok(counted.saturating_sub(before))
    }

    /// Ends the peer and the lab; what is left behind is an error.
    pub fn finish(mut self) -> Result<()> {
        self.peers.clear();
        self.lab.finish()
    }
}
