//! Runs cargo and the built programs, and says what is going on and how long it took.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// The top of the source tree.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo puts what it builds: this program is in `<target>/<profile>/`.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding xtask's own path")?;
    let target = program.parent().and_then(Path::parent);
    Ok(target
        .context("xtask is not in a target directory")?
        .to_owned())
}

fn cargo_command() -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target()?);
    Ok(command)
}

/// Runs a command to its end; a status other than 0 is an error.
pub fn run(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {name}");
    let begun = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{name}: {status}");
    eprintln!("==> {name}: done in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// `cargo` with the words of a line.
fn cargo(name: &str, line: &str) -> Result<()> {
    run(name, cargo_command()?.args(line.split_whitespace()))
}

/// The one release build of the library, the programs and the test programs.
pub fn build() -> Result<()> {
    cargo("building", "build --release --workspace")
}

/// The build whose critical sections are stretched, in a directory of its own; returns its test runner.
pub fn build_stretched() -> Result<PathBuf> {
    let target = target()?.join("stretched");
    for line in [
        "build --release --package flyover-preload --package flyover-daemon \
         --features flyover-preload/stretch,flyover-daemon/stretch",
        "build --release --package flyover-cli --package flyover-e2e",
    ] {
        let mut command = cargo_command()?;
        command
            .args(line.split_whitespace())
            .env("CARGO_TARGET_DIR", &target);
        run("building with stretched critical sections", &mut command)?;
    }
    Ok(target.join("release/lab"))
}

/// The benchmark of raw frames.
pub fn raw_floor() -> Result<()> {
    let line = "build --release --package flyover-vnic --features bpf --example raw_floor";
    cargo("building the raw frame benchmark", line)
}

/// All crates but the simulation, which is worth optimising. The library is that of [`build`].
pub fn unit_tests() -> Result<()> {
    let mut command = cargo_command()?;
    command
        .args(["test", "--workspace", "--exclude", "flyover-sim"])
        .arg("--no-fail-fast")
        .env("ABI_TEST_LIBRARY", target()?.join("release/libflyover.so"))
        .env("CARGO_INCREMENTAL", "0");
    run("unit tests", &mut command)
}

/// The simulation with its full number of seeds.
pub fn simulation() -> Result<()> {
    cargo(
        "simulation",
        "test --release --package flyover-sim --no-fail-fast",
    )
}

/// The model checks of the lock, the deferred work and the seqlock. `--cfg loom` changes every
/// crate, so they have a target directory of their own.
pub fn loom() -> Result<()> {
    let mut command = cargo_command()?;
    command
        .args([
            "test",
            "--release",
            "--package",
            "flyover-shm",
            "--test",
            "loom_*",
        ])
        .env("CARGO_TARGET_DIR", target()?.join("loom"))
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    run("loom tests", &mut command)
}

/// Formatting and clippy.
pub fn lint() -> Result<()> {
    cargo("formatting", "fmt --all --check")?;
    cargo("clippy", "clippy --workspace --all-targets -- -D warnings")
}

/// Replaces this process by the runner of the `tests` package, which then gets Ctrl-C itself and
/// cleans up.
pub fn become_lab(command: &str, arguments: &[String]) -> Result<()> {
    become_program(&target()?.join("release/lab"), command, arguments)
}

/// The same with the runner of another build.
pub fn become_program(program: &Path, command: &str, arguments: &[String]) -> Result<()> {
    eprintln!("==> {command}");
    let error = Command::new(program)
        .arg(command)
        .args(arguments)
        .current_dir(root())
        .exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
