//! One network namespace: create, configure, enter, delete; or the one that the runner is in.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cleanup;

/// Every namespace of this harness is called `flye2e-<pid of the runner>-<number>-<role>`, so that
/// a later run recognises what a killed one left.
pub const PREFIX: &str = "flye2e-";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A network namespace. One that was made is deleted, with every process in it, when the last handle goes.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Place>);

#[derive(Debug)]
enum Place {
    /// The runner's own.
    Here,
    /// One below `/run/netns`.
    Named { name: String, handle: File },
}

impl Netns {
    /// Makes a namespace with its loopback up, the `cubic` congestion control (the usual kernel
    /// default, and the baseline of the benchmarks), no duplicate address detection delay and a
    /// wide range of ephemeral ports.
    pub fn create(role: &str) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        cleanup::register_netns(&name);
        ip(&["netns", "add", &name])?;
        let path = format!("/run/netns/{name}");
        let handle = File::open(&path).with_context(|| format!("opening {path}"))?;
        let netns = Self(Arc::new(Place::Named { name, handle }));
        netns.ip("link set lo up")?;
        netns.use_cubic()?;
        netns.sysctl("net/ipv4/ip_local_port_range", "10000 65000")?;
        // Where the tests' own servers listen: a client's connection in TIME_WAIT must not hold such a port.
        netns.sysctl(
            "net/ipv4/ip_local_reserved_ports",
            "20000-20999,27000-28999",
        )?;
        Ok(netns)
    }

    /// The namespace that the runner is in, as it is.
    pub fn here() -> Self {
        Self(Arc::new(Place::Here))
    }

    /// A namespace may only use the algorithms that the host allows to everyone; the host's list is
    /// extended for the moment of choosing when `cubic` is not on it.
    fn use_cubic(&self) -> Result<()> {
        let choose = || self.sysctl("net/ipv4/tcp_congestion_control", "cubic");
        if choose().is_ok() {
            return Ok(());
        }
        let list = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
        let before = fs::read_to_string(list).with_context(|| format!("reading {list}"))?;
        fs::write(list, format!("{} cubic", before.trim()))
            .with_context(|| format!("allowing cubic in {list}"))?;
        let chosen = choose();
        fs::write(list, before.trim()).with_context(|| format!("restoring {list}"))?;
        chosen
    }

    /// The name below `/run/netns`; `.` is the runner's own.
    pub fn name(&self) -> &str {
        match &*self.0 {
            Place::Here => ".",
            Place::Named { name, .. } => name,
        }
    }

    /// Runs `work` on a thread that is inside the namespace: the sockets it makes and the children
    /// it starts belong there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        use std::os::fd::AsFd;
        let Place::Named { name, handle } = &*self.0 else {
            return Ok(work());
        };
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("entering namespace {name}"))?;
                Ok(work())
            });
            match inside.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread inside namespace {name} panicked"),
            }
        })
    }

    /// `ip` with these words, inside the namespace.
    pub fn ip(&self, words: &str) -> Result<()> {
        let mut args = match &*self.0 {
            Place::Here => Vec::new(),
            Place::Named { name, .. } => vec!["-n", name.as_str()],
        };
        args.extend(words.split_whitespace());
        ip(&args)
    }

    /// Any command with these words, inside the namespace; its output, or an error with it.
    pub fn tool(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        let program = words.next().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null());
        let output = self
            .enter(|| command.output())?
            .with_context(|| format!("running {program}"))?;
        if !output.status.success() {
            bail!(
                "{program} in {}: {}: {}",
                self.name(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The Ethernet address of an interface, as text.
    pub fn mac(&self, interface: &str) -> Result<String> {
        // Name, state, address, flags. (/sys shows the namespace it was mounted in, not ours.)
        let line = self.tool(&format!("ip -br link show {interface}"))?;
        let mac = line
            .split_whitespace()
            .nth(2)
            .context("no link-layer address")?;
        Ok(mac.to_owned())
    }

    /// Writes one network sysctl (`net/ipv4/…`) of the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        let path = format!("/proc/sys/{key}");
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("writing {value:?} to {path} in {}", self.name()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Named { name, .. } = self {
            cleanup::remove_netns(name);
        }
    }
}

/// Runs `ip` and turns a failure into an error with its words.
pub fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("running ip (package iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
