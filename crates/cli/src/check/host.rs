//! Facts of the machine: kernel, privileges, limits, and the parts of Flyover.

use std::fs;
use std::path::Path;

use flyover_config::{ProcessOpts, vars};
use rustix::process::{Resource, geteuid, getrlimit};
use serde::Serialize;

use crate::daemon::DaemonError;
use crate::{daemon, places};

/// A finding: a fact, and what to do when it is in the way.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) what: &'static str,
    /// What it is.
    pub(super) value: String,
    /// How it matters.
    pub(super) weight: Weight,
    /// What to do; empty when all is well.
    pub(super) advice: String,
}

/// How a finding matters.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Weight {
    /// As it should be.
    Good,
    /// Works, worse than it could.
    Note,
    /// Nothing can be accelerated like this.
    Bad,
}

/// Version of a kernel, as far as features depend on it.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Kernel(pub(super) u32, pub(super) u32);

impl Kernel {
    /// BPF programs on tcx hooks, which the packet kind of V-NIC needs.
    pub(super) const TCX: Self = Self(6, 6);

    /// From the text of uname(2): "6.18.44-foo".
    pub(super) fn parse(release: &str) -> Self {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|n| n.parse().ok());
        let mut next = || numbers.next().flatten().unwrap_or(0);
        Self(next(), next())
    }
}

/// The machine.
#[derive(Serialize)]
pub(super) struct Host {
    /// Kernel version.
    #[serde(skip)]
    pub(super) kernel: Kernel,
    /// All that was found.
    pub(super) findings: Vec<Finding>,
    /// V-NICs: from the daemon that there is or that a `flyover run` starts.
    #[serde(skip)]
    pub(super) vnics: Source,
}

/// What daemon programs of this user get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Root's.
    System,
    /// Their user's own, without V-NICs.
    User,
    /// None.
    Nobody,
}

impl Host {
    /// Whether programs of this user can reach one another through shared memory: with a daemon of whatever kind, and the
    /// library.
    pub(super) fn local_works(&self) -> bool {
        self.vnics != Source::Nobody && places::library().is_some()
    }

    /// Whether nothing is in the way of acceleration.
    pub(super) fn usable(&self) -> bool {
        self.findings.iter().all(|f| f.weight != Weight::Bad)
    }
}

fn good(what: &'static str, value: impl Into<String>) -> Finding {
    Finding {
        what,
        value: value.into(),
        weight: Weight::Good,
        advice: String::new(),
    }
}

fn note(what: &'static str, value: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        what,
        value: value.into(),
        weight: Weight::Note,
        advice: advice.into(),
    }
}

fn bad(what: &'static str, value: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        what,
        value: value.into(),
        weight: Weight::Bad,
        advice: advice.into(),
    }
}

/// Looks around.
pub(super) fn look() -> Host {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let kernel = Kernel::parse(&release);
    let (daemon, vnics) = daemon_finding();
    let status = read("/proc/self/status");
    let findings = vec![
        kernel_finding(kernel, release),
        btf(),
        jit(read("/proc/sys/net/core/bpf_jit_enable").as_deref()),
        daemon,
        library_finding(),
        privileges(status.as_deref().unwrap_or(""), daemon::is_privileged()),
        files(getrlimit(Resource::Nofile).current),
        memlock(getrlimit(Resource::Memlock).current),
    ];
    Host {
        kernel,
        findings,
        vnics,
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn kernel_finding(kernel: Kernel, release: String) -> Finding {
    if kernel < Kernel::TCX {
        bad(
            "kernel",
            release,
            "Flyover needs Linux 6.6 or later (BPF programs on tcx hooks)",
        )
    } else {
        good("kernel", release)
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        good("kernel types (BTF)", "present")
    } else {
        note(
            "kernel types (BTF)",
            "absent",
            "nothing needs them yet; bpftool shows less",
        )
    }
}

/// `value`: that of the sysctl; `None` when it does not exist.
fn jit(value: Option<&str>) -> Finding {
    match value {
        Some("1" | "2") => good("BPF compiler (JIT)", "on"),
        // CONFIG_BPF_JIT_ALWAYS_ON shows 1; a kernel without the compiler has no such file.
        Some(_) => note(
            "BPF compiler (JIT)",
            "off",
            "filters run interpreted: sysctl -w net.core.bpf_jit_enable=1",
        ),
        None => note(
            "BPF compiler (JIT)",
            "unknown",
            "net.core.bpf_jit_enable cannot be read",
        ),
    }
}

/// How to get V-NICs.
pub(super) const ASK_ROOT: &str =
    "V-NICs take a flyoverd of root: `systemctl start flyoverd`, or `sudo flyover daemon start`";

fn daemon_finding() -> (Finding, Source) {
    let options: ProcessOpts = match vars::from_env() {
        Ok(options) => options,
        Err(error) => {
            let finding = bad("flyoverd", "unknown", error.to_string());
            return (finding, Source::Nobody);
        }
    };
    let socket = options.socket.as_str();
    let not_installed = || {
        bad(
            "flyoverd",
            "not installed",
            "put flyoverd beside this program",
        )
    };
    match daemon::connect(socket) {
        Ok(_) if daemon::user::is_own(socket) => own_daemon(ASK_ROOT.to_owned()),
        Ok(_) => (
            good("flyoverd", format!("answers on {socket}")),
            Source::System,
        ),
        Err(DaemonError::NotRunning) if daemon::is_privileged() => match places::daemon() {
            Some(_) => {
                let how = "not running; the first `flyover run` of root starts it";
                (good("flyoverd", how), Source::System)
            }
            None => (not_installed(), Source::Nobody),
        },
        Err(DaemonError::NotRunning) if daemon::is_usual(socket) => own_daemon(ASK_ROOT.to_owned()),
        Err(error) if daemon::is_usual(socket) && !daemon::is_privileged() => {
            own_daemon(format!("V-NICs take root's flyoverd: {error}"))
        }
        Err(error) => {
            let finding = bad("flyoverd", "not usable", error.to_string());
            (finding, Source::Nobody)
        }
    }
}

/// The daemon of this user, which runs or will run. `advice`: how to get another one.
fn own_daemon(advice: String) -> (Finding, Source) {
    let value = match (daemon::user::find(), places::daemon()) {
        (Ok(Some(found)), _) => format!("this user's own, answers on {}", found.socket),
        (Ok(None), None) => {
            let advice = "put flyoverd beside this program";
            return (bad("flyoverd", "not installed", advice), Source::Nobody);
        }
        (Ok(None), Some(_)) => match daemon::user::place() {
            Ok(place) => format!(
                "not running; `flyover run` starts this user's own in {}",
                place.display()
            ),
            Err(error) => {
                let finding = bad("flyoverd", "not usable", error.to_string());
                return (finding, Source::Nobody);
            }
        },
        (Err(error), _) => {
            let finding = bad("flyoverd", "not usable", error.to_string());
            return (finding, Source::Nobody);
        }
    };
    (note("flyoverd", value, advice), Source::User)
}

fn library_finding() -> Finding {
    match places::library() {
        Some(path) => good("libflyover.so", path.display().to_string()),
        None => bad(
            "libflyover.so",
            "not found",
            "install it beside this program or in ../lib/flyover",
        ),
    }
}

const NONE: &str = "no capabilities";
/// Bit numbers of linux/capability.h.
const CAPABILITIES: [(u32, &str); 3] = [(12, "NET_ADMIN"), (13, "NET_RAW"), (39, "BPF")];

/// `status`: proc_pid_status(5). Capabilities of a user namespace are shown there, too, and count for nothing outside it.
fn privileges(status: &str, enough: bool) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let held: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    let user = if geteuid().is_root() {
        "root"
    } else {
        "not root"
    };
    let held = if held.is_empty() {
        NONE.to_owned()
    } else {
        held.join(", ")
    };
    let in_vain = if enough || held == NONE {
        ""
    } else {
        "; not enough for V-NICs, as in a container or a user namespace"
    };
    // Only the daemon needs any.
    good("privileges", format!("{user}, {held}{in_vain}"))
}

fn files(limit: Option<u64>) -> Finding {
    /// Descriptors of Flyover sit from 700 on, out of the program's way.
    const ENOUGH: u64 = 1024;
    match limit {
        None => good("open files", "unlimited"),
        Some(n) if n >= ENOUGH => good("open files", n.to_string()),
        Some(n) => note(
            "open files",
            n.to_string(),
            format!("accelerated sockets count as files: ulimit -n {ENOUGH}, or more"),
        ),
    }
}

fn memlock(limit: Option<u64>) -> Finding {
    match limit {
        None => good("locked memory", "unlimited"),
        // The daemon locks what the kernel needs locked; programs need nothing.
        Some(n) => good(
            "locked memory",
            format!("{} KiB (only flyoverd needs more)", n >> 10),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        assert_eq!(Kernel::parse("6.18.44-fc-v657"), Kernel(6, 18));
        assert_eq!(Kernel::parse("5.4"), Kernel(5, 4));
        assert_eq!(Kernel::parse("6.6.0"), Kernel::TCX);
        assert_eq!(Kernel::parse("weird"), Kernel(0, 0));
        assert!(Kernel::parse("6.10.1") > Kernel::TCX && Kernel::parse("5.19") < Kernel::TCX);
        assert_eq!(
            kernel_finding(Kernel(5, 15), "5.15".into()).weight,
            Weight::Bad
        );
    }

    #[test]
    fn findings() {
        assert_eq!(jit(Some("1")).weight, Weight::Good);
        assert_eq!(jit(Some("0")).weight, Weight::Note);
        assert_eq!(files(Some(256)).weight, Weight::Note);
        assert_eq!(files(None).value, "unlimited");
        let all = privileges("Name:\tx\nCapEff:\t000001ffffffffff\n", true).value;
        assert!(all.ends_with(", NET_ADMIN, NET_RAW, BPF"), "{all}");
        let in_vain = privileges("CapEff:\t000001ffffffffff", false).value;
        assert!(in_vain.contains("not enough"), "{in_vain}");
        assert!(
            privileges("CapEff:\t0000000000000000", false)
                .value
                .ends_with("no capabilities")
        );
    }
}
