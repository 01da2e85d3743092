//! One of the two labs that a case runs in: the program's host, the peer's host, the peer.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
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
    /// Datagrams that the kernel of its host delivered meanwhile.
    pub kernel_udp: u64,
}

/// The program runs on the client, the peer on the server.
pub struct Hosts {
    lab: Lab,
    // Before the lab goes, so that its namespaces are empty.
    peer: Option<Proc>,
    socket: PathBuf,
}

impl Hosts {
    pub fn new(setup: &Setup, side: Side, peer: &Path) -> Result<Self> {
        fs::create_dir_all(&setup.directory)?;
        let lab = wiring::pair(setup, side)?;
        let socket = setup.directory.join("peer.sock");
        let mut started = lab
            .plain(Host::Server, peer)
            .arg(socket.as_os_str())
            .spawn()?;
        wait_until(Duration::from_secs(5), || {
            started.ensure_running()?;
            Ok(socket.exists().then_some(()))
        })
        .context("waiting for the peer")?;
        // Neighbours that are resolved already: no case is about that.
        for address in [SERVER.to_string(), SERVER6.to_string()] {
            lab.client.tool(&format!("ping -c 1 -W 2 {address}"))?;
        }
        Ok(Self {
            lab,
            peer: Some(started),
            socket,
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
        let (family, own, other) = match mode {
            Mode::V6 => ("6", CLIENT6.to_string(), SERVER6.to_string()),
            _ => ("4", CLIENT.to_string(), SERVER.to_string()),
        };
        for word in rest {
            command = command.arg(word);
        }
        for (name, value) in variables {
            command = command.env(*name, value.as_os_str());
        }
        let mut running = command
            .arg(case)
            .env("DIFF_PEER", &self.socket)
            .env("DIFF_FAMILY", family)
            .env("DIFF_MY_ADDR", own)
            .env("DIFF_PEER_ADDR", other)
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
            kernel_udp: after.since(&before, "Udp.InDatagrams"),
            ..outcome
        })
    }

    /// Ends the peer and the lab; what is left behind is an error.
    pub fn finish(mut self) -> Result<()> {
        drop(self.peer.take());
        self.lab.finish()
    }
}
