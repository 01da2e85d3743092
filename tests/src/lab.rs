//! What one test needs: namespaces wired together, a private daemon, a directory for its files.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cleanup;
use crate::cmd::{Cmd, Proc};
use crate::daemon::{Flyoverd, RUNTIME_VARIABLE, SOCKET_VARIABLE, ensure_ended};
use crate::local;
use crate::netns::Netns;
use crate::procfs::{self, Proto};

/// Address of the server, IPv4.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Address of the client, IPv4.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Address of the server, IPv6.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// Address of the client, IPv6.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// Which of the two hosts run their programs under Flyover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Both use the kernel's stack.
    Neither,
    /// Only the server.
    Server,
    /// Only the client.
    Client,
    /// Both.
    Both,
}

impl Side {
    /// As it appears in names and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neither => "kernel",
            Self::Server => "server",
            Self::Client => "client",
            Self::Both => "both",
        }
    }

    /// Does this host run under Flyover?
    pub fn includes(self, host: Host) -> bool {
        match self {
            Self::Neither => false,
            Self::Server => host == Host::Server,
            Self::Client => host == Host::Client,
            Self::Both => true,
        }
    }
}

/// One of the two end hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The one that listens.
    Server,
    /// The one that connects.
    Client,
}

impl Host {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// What stays the same for all labs of a run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where `flyover`, `flyoverd`, `libflyover.so` and the workload programs are.
    pub bin: PathBuf,
    /// Scripts that the tests run (`tests/programs`).
    pub programs: PathBuf,
    /// Directory of this lab.
    pub directory: PathBuf,
    /// Replace Flyover by nothing: every program uses the kernel. Shows that a test is right.
    pub plain: bool,
    /// Options of `flyover run` for every accelerated program.
    pub options: Vec<String>,
    /// Options of `flyoverd`.
    pub daemon_options: Vec<String>,
}

/// Two hosts and what is between them, made by the functions of [`crate::wiring`]; or one host that is both
/// ([`Lab::within_host`]).
#[derive(Debug)]
pub struct Lab {
    /// Where servers run; its interface is `eth0`.
    pub server: Netns,
    /// Where clients run; its interface is `eth0`.
    pub client: Netns,
    /// Whatever is between them.
    pub others: Vec<Netns>,
    /// Which hosts are accelerated.
    pub side: Side,
    setup: Setup,
    daemon: Option<Flyoverd>,
    /// Where the daemon of an ordinary user listens, in a lab within the host.
    own: Option<PathBuf>,
    commands: AtomicU32,
}

/// What ports of a lab within the host are away from the usual ones: an ordinary user has only those above 1023.
const SHIFT: u16 = 20_000;

impl Lab {
    /// Puts wired namespaces together with a daemon, which is started when a side needs it.
    pub fn new(
        setup: &Setup,
        side: Side,
        server: Netns,
        client: Netns,
        others: Vec<Netns>,
    ) -> Result<Self> {
        let side = if setup.plain { Side::Neither } else { side };
        let daemon = match side {
            Side::Neither => None,
            _ => Some(Flyoverd::start(
                &setup.bin,
                &setup.directory,
                &setup.daemon_options,
            )?),
        };
        let commands = AtomicU32::new(0);
        Ok(Self {
            server,
            client,
            others,
            side,
            setup: setup.clone(),
            daemon,
            own: None,
            commands,
        })
    }

    /// Server and client on this very host, for an ordinary user: programs talk over loopback, and nothing is started
    /// beforehand. The daemon of the first `flyover run` listens where no other run of this user looks.
    pub fn within_host(setup: &Setup, side: Side) -> Result<Self> {
        ensure!(
            std::env::var_os(SOCKET_VARIABLE).is_none(),
            "{SOCKET_VARIABLE} is set: unset it, this is about a daemon that nobody started"
        );
        let own = setup.directory.join("run");
        fs::DirBuilder::new().mode(0o700).create(&own)?;
        Ok(Self {
            server: Netns::here(),
            client: Netns::here(),
            others: Vec::new(),
            side: if setup.plain { Side::Neither } else { side },
            setup: setup.clone(),
            daemon: None,
            own: Some(own),
            commands: AtomicU32::new(0),
        })
    }

    /// Is it a lab within one host?
    pub fn is_within_host(&self) -> bool {
        self.own.is_some()
    }

    /// Where servers are reached, IPv4.
    pub fn address(&self) -> Ipv4Addr {
        if self.is_within_host() {
            Ipv4Addr::LOCALHOST
        } else {
            SERVER
        }
    }

    /// The port that a server takes here which usually takes this one.
    pub fn port(&self, usual: u16) -> u16 {
        if self.is_within_host() {
            usual + SHIFT
        } else {
            usual
        }
    }

    /// Both.
    pub fn at(&self, usual: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address()), self.port(usual))
    }

    /// The namespace of a host.
    pub fn netns(&self, host: Host) -> &Netns {
        match host {
            Host::Server => &self.server,
            Host::Client => &self.client,
        }
    }

    /// Directory for the files of this test, readable by everyone.
    pub fn directory(&self) -> &Path {
        &self.setup.directory
    }

    /// Where the built programs are.
    pub fn bin(&self) -> &Path {
        &self.setup.bin
    }

    /// Is this a run without Flyover?
    pub fn is_plain(&self) -> bool {
        self.setup.plain
    }

    /// Its process number.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Flyoverd::pid)
    }

    /// The daemon, when one was started.
    pub fn daemon(&self) -> Option<&Flyoverd> {
        self.daemon.as_ref()
    }

    /// The path of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        Flyoverd::socket(self.directory())
    }

    /// A program on this host: under Flyover when the host is accelerated.
    pub fn cmd(&self, host: Host, program: impl Into<OsString>) -> Cmd<'_> {
        if !self.side.includes(host) {
            return self.plain(host, program);
        }
        let mut wrapper = vec![
            self.setup.bin.join("flyover").into_os_string(),
            "run".into(),
        ];
        wrapper.extend(self.setup.options.iter().map(OsString::from));
        wrapper.push("--".into());
        self.wrapped(host, wrapper, program)
    }

    /// A program on this host that always uses the kernel.
    pub fn plain(&self, host: Host, program: impl Into<OsString>) -> Cmd<'_> {
        self.wrapped(host, Vec::new(), program)
    }

    /// A program behind these words (`flyover run` with its own options, `setpriv`, `nice`).
    pub fn wrapped(
        &self,
        host: Host,
        wrapper: Vec<OsString>,
        program: impl Into<OsString>,
    ) -> Cmd<'_> {
        let program = program.into();
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let short = Path::new(&program)
            .file_name()
            .unwrap_or(&program)
            .to_string_lossy();
        let log = self
            .directory()
            .join(format!("{number:02}-{}-{short}", host.name()));
        let (variable, place) = match &self.own {
            Some(own) => (RUNTIME_VARIABLE, own.clone()),
            None => (SOCKET_VARIABLE, self.socket()),
        };
        let cmd = Cmd::new(
            self.netns(host),
            wrapper,
            program.clone(),
            self.directory(),
            log,
        )
        .env(variable, place);
        match self.is_within_host() {
            true => cmd.env("PATH", local::path()),
            false => cmd,
        }
    }

    /// One of our own workload programs on this host, under Flyover when the host is accelerated.
    pub fn workload(&self, host: Host, name: &str) -> Cmd<'_> {
        self.cmd(host, self.setup.bin.join("load")).arg(name)
    }

    /// A script of `tests/programs` on this host, run by the system's Python.
    pub fn python(&self, host: Host, script: &str) -> Cmd<'_> {
        self.cmd(host, "/usr/bin/python3")
            .arg("-u")
            .arg(self.setup.programs.join(script))
    }

    /// Waits until a port of the server listens; fails early when the program ends.
    pub fn wait_for_port(&self, proto: Proto, port: u16, program: &mut Proc) -> Result<()> {
        self.wait_for_port_on(Host::Server, proto, port, program)
    }

    /// The same on either host. The port is looked up, not connected to, so that a server that
    /// serves one connection is not disturbed. A Flyover listener also listens in the kernel.
    pub fn wait_for_port_on(
        &self,
        host: Host,
        proto: Proto,
        port: u16,
        program: &mut Proc,
    ) -> Result<()> {
        wait_until(Duration::from_secs(15), || {
            program.ensure_running()?;
            Ok(procfs::listening_ports(self.netns(host), proto)?
                .contains(&port)
                .then_some(()))
        })
        .with_context(|| format!("waiting for {} port {port}", proto.name()))?;
        // Within the host a listener stays with the kernel.
        if self.side.includes(host) && !self.is_within_host() {
            self.wait_accelerated_listener(host, proto, port)?;
        }
        Ok(())
    }

    /// Ends the daemon and checks that nothing of Flyover is left.
    pub fn finish(mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            return daemon.stop();
        }
        if !self.is_within_host() {
            return Ok(());
        }
        if self.side != Side::Neither {
            // It may have ended by itself: then there is nothing to stop.
            self.plain(Host::Server, self.setup.bin.join("flyover"))
                .args("daemon stop")
                .output(Duration::from_secs(10))?;
        }
        // No other lab is there, so all that runs below the runner is of this one.
        let left = || procfs::descendants(std::process::id());
        let ended = ensure_ended(left);
        cleanup::kill_all(&left());
        ended
    }
}

/// A server address with this port, IPv4.
pub fn server(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(SERVER), port)
}

/// A server address with this port, IPv6.
pub fn server6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(SERVER6), port)
}

/// Asks again and again until there is an answer, an error, or the time is over.
pub fn wait_until<T>(
    limit: Duration,
    mut question: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if Instant::now() >= until {
            bail!("did not happen within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks two byte counts or sums with a message that shows both.
pub fn ensure_equal<T: PartialEq + std::fmt::Display>(what: &str, got: T, wanted: T) -> Result<()> {
    ensure!(got == wanted, "{what}: got {got}, wanted {wanted}");
    Ok(())
}
