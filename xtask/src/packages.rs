//! The Debian packages that the build and the tests need.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::steps;

/// What packages are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// The demonstration and the benchmarks of the local path.
    Local,
    /// Those between hosts, and the storms.
    Hosts,
    /// The tests.
    Tests,
}

/// A program (looked for in `PATH`) or a file that must exist, and the package that brings it: what every command needs.
const NEEDED: &[(&str, &str)] = &[
    // To build: the BPF program and the linker.
    ("clang", "clang"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("/usr/include/linux/bpf.h", "linux-libc-dev"),
    ("gcc", "gcc"),
    ("/usr/include/stdio.h", "libc6-dev"),
    // To make networks, and to become an ordinary user.
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    // The programs that Flyover serves, and their clients.
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("curl", "curl"),
    ("memcached", "memcached"),
    ("/usr/bin/python3", "python3"),
];

/// What is needed between hosts.
const NEEDED_BY_HOSTS: &[(&str, &str)] = &[
    ("ping", "iputils-ping"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("sockperf", "sockperf"),
    ("openssl", "openssl"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
];

/// What the local path needs, and the tests, of which some are about it.
const NEEDED_BY_LOCAL: &[(&str, &str)] =
    &[("/usr/lib/postgresql", "postgresql"), ("node", "nodejs")];

/// What only the tests need.
const NEEDED_BY_TESTS: &[(&str, &str)] = &[
    ("/usr/lib32/libc.so", "gcc-multilib"),
    ("/usr/include/liburing.h", "liburing-dev"),
    ("wget", "wget"),
    ("rsync", "rsync"),
    ("socat", "socat"),
    ("ssh", "openssh-client"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("haproxy", "haproxy"),
    ("/usr/sbin/apache2", "apache2"),
    ("ab", "apache2-utils"),
    ("/usr/sbin/chronyd", "chrony"),
    ("javac", "default-jdk-headless"),
    ("go", "golang-go"),
    ("/usr/bin/gunicorn", "gunicorn"),
    ("systemd-socket-activate", "systemd"),
    ("uwsgi-core", "uwsgi-core"),
    ("nft", "nftables"),
    (
        "/usr/lib/uwsgi/plugins/python3_plugin.so",
        "uwsgi-plugin-python3",
    ),
    ("/usr/lib/python3/dist-packages/uvloop", "python3-uvloop"),
];

/// Installs what is missing; says what that is where this is not root's.
pub fn install_missing(what: For) -> Result<()> {
    let lists: &[&[(&str, &str)]] = match what {
        For::Local => &[NEEDED, NEEDED_BY_LOCAL],
        For::Hosts => &[NEEDED, NEEDED_BY_HOSTS],
        For::Tests => &[NEEDED, NEEDED_BY_HOSTS, NEEDED_BY_LOCAL, NEEDED_BY_TESTS],
    };
    let missing: Vec<&str> = lists
        .iter()
        .flat_map(|list| list.iter())
        .filter(|(thing, _)| !exists(thing))
        .map(|&(_, package)| package)
        .collect();
    install(&missing)?;
    if what == For::Tests {
        install_python_suite()
    } else {
        Ok(())
    }
}

/// CPython's own tests, which come in a package for each version: that of the system's Python.
fn install_python_suite() -> Result<()> {
    let python = std::fs::read_link("/usr/bin/python3").context("which Python is python3?")?;
    let python = python.display();
    if exists(&format!("/usr/lib/{python}/test/test_socket.py")) {
        return Ok(());
    }
    install(&[&format!("lib{python}-testsuite")])
}

/// Package scripts are kept from starting services: `policy-rc.d` says no while apt runs, and is as before afterwards,
/// also when apt is interrupted.
fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "these packages are missing; root installs them with\n  apt-get install -y {}",
            missing.join(" ")
        );
    }
    if !exists("apt-get") {
        bail!(
            "these packages are missing and there is no apt-get: {}",
            missing.join(" ")
        );
    }
    let script = "set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\\nexit 101\\n' > $policy
    chmod 755 $policy
fi
apt-get -q update
apt-get -q install -y --no-install-recommends \"$@\"
";
    let mut command = Command::new("sh");
    command.args(["-c", script, "install"]).args(missing);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    steps::run(&format!("installing {}", missing.join(" ")), &mut command)
}

/// Whether this process is root's: `/proc/self` belongs to its user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn exists(thing: &str) -> bool {
    if thing.starts_with('/') {
        return Path::new(thing).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|directory| directory.join(thing).is_file())
}
