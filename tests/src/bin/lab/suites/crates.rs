//! Tests of tokio, polling and async-io as their packages carry them (`lab suites crates`; needs the network).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::lab::{Host, Lab};
use flyover_e2e::runner::Case;

use super::{Results, both, case, compare};

/// A package (tests that need another of the same authors in step with it are left out), its version, the features and the test programs that use sockets, signals or children.
struct Package(
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const PACKAGES: &[Package] = &[
    Package(
        "tokio",
        "=1.54.1",
        "full",
        &[
            "io_async_fd",
            "net_bind_resource",
            "net_quickack",
            "process_kill_on_drop",
            "process_smoke",
            "rt_common",
            "signal_ctrl_c",
            "signal_multi_rt",
            "signal_notify_both",
            "signal_realtime",
            "signal_twice",
            "signal_usr1",
            "tcp_accept",
            "tcp_connect",
            "tcp_echo",
            "tcp_into_split",
            "tcp_into_std",
            "tcp_peek",
            "tcp_shutdown",
            "tcp_socket",
            "tcp_split",
            "tcp_stream",
            "udp",
            "uds_stream",
        ],
    ),
    Package(
        "polling",
        "=3.11.0",
        "",
        &[
            "concurrent_modification",
            "io",
            "many_connections",
            "notify",
            "precision",
        ],
    ),
    Package("async-io", "=2.6.0", "", &["async", "block_on"]),
];

/// What building one package may take.
const BUILD: Duration = Duration::from_secs(900);
/// What one program may take.
const LIMIT: Duration = Duration::from_secs(100);

pub fn cases(cases: &mut Vec<Case>) {
    for package in PACKAGES {
        let name = format!("crates.{}", package.0);
        cases.push(case(&name, BUILD * 2, |lab| run(lab, package)));
    }
}

fn run(lab: &Lab, package: &Package) -> Result<()> {
    let programs = build(lab.directory(), package)?;
    ensure!(!programs.is_empty(), "nothing was built");
    for program in &programs {
        let results = |host| results(lab, host, program);
        let [plain, flyover] = both(results)?;
        compare(&plain, &flyover, || results(Host::Client))
            .with_context(|| program.display().to_string())?;
    }
    Ok(())
}

fn cargo(directory: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(directory);
    command
}

/// Fetches the package as a dependency of an empty one, copies it, and builds its tests; their paths.
fn build(
    directory: &Path,
    Package(name, version, features, tests): &Package,
) -> Result<Vec<PathBuf>> {
    let empty = directory.join("empty");
    fs::create_dir_all(&empty)?;
    fs::write(empty.join("lib.rs"), "")?;
    fs::write(
        empty.join("Cargo.toml"),
        format!(
            "[package]\nname = \"empty\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\npath = \"lib.rs\"\n\
             [dependencies]\n{name} = \"{version}\"\n[workspace]\n"
        ),
    )?;
    let output = cargo(&empty)
        .args(["vendor", "--versioned-dirs", "--quiet", "vendor"])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let source = empty
        .join("vendor")
        .join(format!("{name}-{}", version.trim_start_matches('=')));
    // Outside the vendored sources, whose checksums Cargo would ask for.
    let copy = directory.join(name);
    fs::rename(&source, &copy).context("the package was not fetched")?;
    let mut command = cargo(&copy);
    command.args(["test", "--no-run", "--message-format", "json"]);
    command.args(["--features", features]);
    for test in *tests {
        command.args(["--test", test]);
    }
    let output = command
        .env("CARGO_TARGET_DIR", directory.join("target"))
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let path = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    };
    Ok(text.lines().filter_map(path).collect())
}

fn results(lab: &Lab, host: Host, program: &Path) -> Result<Results> {
    let own = lab.directory().join(format!("{host:?}"));
    fs::create_dir_all(&own)?;
    let mut running = lab
        .cmd(host, program)
        .args("--test-threads 2")
        .env("TMPDIR", &own)
        .spawn()?;
    let until = std::time::Instant::now() + LIMIT;
    while !running.has_ended()? && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = running.stdout();
    Ok(text.lines().filter_map(read).collect())
}

/// `test NAME ... ok`, as Rust's harness prints it.
fn read(line: &str) -> Option<(String, String)> {
    let (name, how) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.to_owned(), how.to_owned()))
}
