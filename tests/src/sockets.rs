//! `flyover ss --json`, and the independent proof: what the kernel's own stack did not do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Host, Lab, Side, wait_until};
use crate::procfs::{Proto, Snmp};

/// One line of `flyover ss`.
#[derive(Clone, Debug)]
pub struct SocketLine {
    /// `tcp` or `udp`, in whatever spelling.
    pub proto: String,
    /// State as `ss` names it.
    pub state: String,
    /// Local address and port.
    pub local: String,
    /// Remote address and port.
    pub remote: String,
    /// `xdp`, `packet`, `shm` or `kernel`.
    pub path: String,
    /// Why, when the path is `kernel`.
    pub reason: String,
    /// `SO_COOKIE` of the kernel socket, hexadecimal.
    pub cookie: String,
}

impl SocketLine {
    /// Is it served by the user-level stack?
    pub fn is_accelerated(&self) -> bool {
        matches!(self.path.as_str(), "xdp" | "packet" | "shm")
    }

    fn ends_with_port(address: &str, port: u16) -> bool {
        address
            .rsplit_once(':')
            .is_some_and(|(_, found)| found == port.to_string())
    }

    /// Is its local or its remote port this one?
    pub fn has_port(&self, port: u16) -> bool {
        Self::ends_with_port(&self.local, port) || Self::ends_with_port(&self.remote, port)
    }

    fn from_json(object: &Value) -> Option<Self> {
        let text = |name: &str| {
            object
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        object.get("path")?;
        Some(Self {
            proto: text("proto"),
            state: text("state"),
            local: text("local"),
            remote: text("remote"),
            path: text("path"),
            reason: text("reason"),
            cookie: text("cookie"),
        })
    }
}

impl Lab {
    /// All sockets that Flyover knows in this lab, or nothing when it runs without Flyover.
    pub fn ss(&self, host: Host) -> Result<Vec<SocketLine>> {
        let has_own = self.is_within_host() && self.side != Side::Neither;
        if self.daemon().is_none() && !has_own {
            return Ok(Vec::new());
        }
        let flyover = self.bin().join("flyover");
        let listed = self
            .plain(host, flyover)
            .args("ss --json")
            .run(Duration::from_secs(10))?;
        listed.forget();
        let output = listed.stdout;
        let value: Value = serde_json::from_str(&output)
            .with_context(|| format!("flyover ss --json printed {output:?}"))?;
        let list = value.get("sockets").unwrap_or(&value);
        let list = list
            .as_array()
            .context("flyover ss --json: no list of sockets")?;
        Ok(list.iter().filter_map(SocketLine::from_json).collect())
    }

    /// A counter of the stack of this host; 0 when there is no stack.
    pub fn counter(&self, host: Host, name: &str) -> Result<u64> {
        let flyover = self.bin().join("flyover");
        let dumped = self
            .plain(host, flyover)
            .args("stackdump --json")
            .run(Duration::from_secs(10))?;
        dumped.forget();
        let value: Value = serde_json::from_str(&dumped.stdout)
            .with_context(|| format!("flyover stackdump --json printed {:?}", dumped.stdout))?;
        let of = |stack: &Value| stack["counters"][name].as_u64();
        Ok(value.as_array().into_iter().flatten().filter_map(of).sum())
    }

    /// Fails unless some socket with this port is on a path that is not the kernel's.
    pub fn ensure_accelerated(&self, host: Host, proto: Proto, port: u16) -> Result<()> {
        if !self.side.includes(host) {
            return Ok(());
        }
        let all = self.ss(host)?;
        let found = all.iter().any(|line| {
            line.is_accelerated()
                && line.has_port(port)
                && line.proto.to_lowercase().starts_with(proto.name())
        });
        ensure!(
            found,
            "no accelerated {} socket with port {port}: {all:?}",
            proto.name()
        );
        Ok(())
    }

    /// Waits until the listener (or the bound UDP socket) of this port is accelerated.
    pub fn wait_accelerated_listener(&self, host: Host, proto: Proto, port: u16) -> Result<()> {
        let mut last = None;
        let seen = wait_until(Duration::from_secs(5), || {
            last = self.ensure_accelerated(host, proto, port).err();
            Ok(last.is_none().then_some(()))
        });
        match (seen, last) {
            (Err(_), Some(error)) => Err(error),
            (seen, _) => seen,
        }
    }

    /// Starts watching what the kernel's own stack does on the accelerated hosts.
    pub fn watch_kernel(&self) -> Result<Watch<'_>> {
        Ok(Watch {
            lab: self,
            server: Snmp::read(&self.server)?,
            client: Snmp::read(&self.client)?,
        })
    }
}

/// Counters of both kernels at the start of something that should bypass one of them.
#[derive(Debug)]
pub struct Watch<'lab> {
    lab: &'lab Lab,
    server: Snmp,
    client: Snmp,
}

impl Watch<'_> {
    /// Fails when the kernel of an accelerated host opened or accepted a TCP connection, or when
    /// the kernel of a plain host did not: then nothing was tested.
    pub fn ensure_tcp_bypassed(&self) -> Result<()> {
        for (host, before, counter) in [
            (Host::Server, &self.server, "Tcp.PassiveOpens"),
            (Host::Client, &self.client, "Tcp.ActiveOpens"),
        ] {
            self.check(host, before, counter)?;
        }
        Ok(())
    }

    /// The same for datagrams, both ways.
    pub fn ensure_udp_bypassed(&self) -> Result<()> {
        for (host, before) in [(Host::Server, &self.server), (Host::Client, &self.client)] {
            self.check(host, before, "Udp.InDatagrams")?;
            self.check(host, before, "Udp.OutDatagrams")?;
        }
        Ok(())
    }

    /// The same for datagrams that arrive: those that leave may take the kernel's way.
    pub fn ensure_udp_received(&self) -> Result<()> {
        self.check(Host::Server, &self.server, "Udp.InDatagrams")?;
        self.check(Host::Client, &self.client, "Udp.InDatagrams")
    }

    fn check(&self, host: Host, before: &Snmp, counter: &str) -> Result<()> {
        // The first datagram to a neighbour that is not resolved goes through the kernel, which
        // resolves it: one for each family, or a few when they are sent at once.
        let allowed = if counter == "Udp.OutDatagrams" { 4 } else { 0 };
        let moved = Snmp::read(self.lab.netns(host))?.since(before, counter);
        if self.lab.side.includes(host) {
            ensure!(
                moved <= allowed,
                "the kernel of the accelerated {host:?} has {counter} +{moved}"
            );
        } else {
            ensure!(
                moved > 0,
                "the kernel of the plain {host:?} has {counter} +0"
            );
        }
        Ok(())
    }
}
