//! The C programs in `abi/` print what every call answers. Plain and under the library (without a daemon, so on the
//! kernel path) they must print the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A library that is built already and current.
const LIBRARY_ENV: &str = "ABI_TEST_LIBRARY";

/// The library as it is now. Cargo does not build a `cdylib` for its integration tests, so unless somebody did, the first
/// test does.
fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let given = || std::env::var_os(LIBRARY_ENV).map(PathBuf::from);
    BUILT
        .get_or_init(|| given().unwrap_or_else(build_library))
        .clone()
}

fn build_library() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    // target/PROFILE/deps/abi-HASH
    let profile = exe
        .parent()
        .and_then(Path::parent)
        .expect("profile directory");
    let target = profile.parent().expect("target directory");
    let mut cargo = Command::new(env!("CARGO"));
    let _ = cargo
        .args(["build", "--quiet", "-p", "flyover-preload", "--target-dir"])
        .arg(target);
    if !cfg!(debug_assertions) {
        let _ = cargo.arg("--release");
    }
    let status = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo");
    assert!(status.success(), "cannot build the library");
    profile.join("libflyover.so")
}

fn compile(source: &Path) -> PathBuf {
    let name = source.file_stem().expect("name");
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let status = Command::new("cc")
        .args(["-O1", "-Wall", "-D_GNU_SOURCE", "-pthread", "-o"])
        .arg(&out)
        .arg(source)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "cannot compile {}", source.display());
    out
}

/// Plain, or under the library. With `FLYOVER_TEST_RELAY` (see `abi/relay.py`) in the environment the connections can
/// be accelerated, and the daemon is that of `FLYOVER_SOCKET`; else there is no daemon.
fn run(program: &Path, preload: Option<&Path>) -> Output {
    let mut c = Command::new("timeout");
    let _ = c.arg("20").arg(program).env_remove("LD_PRELOAD");
    if std::env::var_os("FLYOVER_TEST_RELAY").is_none() {
        let _ = c.env("FLYOVER_SOCKET", "/nonexistent/flyoverd.sock");
    }
    if let Some(l) = preload {
        let _ = c.env("LD_PRELOAD", l);
    }
    c.output().expect("timeout(1)")
}

fn same(name: &str) {
    let program = compile(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/abi")
            .join(name),
    );
    let plain = run(&program, None);
    let ours = run(&program, Some(&library()));
    let text = |o: &Output| {
        format!(
            "{}{}",
            String::from_utf8_lossy(&o.stdout),
            String::from_utf8_lossy(&o.stderr)
        )
    };
    assert_eq!(
        text(&plain),
        text(&ours),
        "{name} prints something else under the library"
    );
    assert_eq!(
        plain.status.code(),
        ours.status.code(),
        "{name} ends differently"
    );
    assert!(plain.status.success(), "{name} fails: {}", text(&plain));
}

macro_rules! programs {
    ($($name:ident: $file:literal;)*) => {
        $(#[test]
        fn $name() {
            same($file);
        })*
    };
}

programs! {
    tcp_over_loopback: "tcp.c";
    udp_over_loopback: "udp.c";
    wrong_arguments: "wrong.c";
    readiness: "ready.c";
    descriptors: "fds.c";
    signals: "signals.c";
    processes: "procs.c";
    passed_descriptors: "passed.c";
    threads: "threads.c";
}

#[test]
fn a_foreign_call_stays_cheap() {
    let program = compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi/call_cost.c"));
    let ns = |preload: Option<&Path>| -> f64 {
        let o = run(&program, preload);
        String::from_utf8_lossy(&o.stdout)
            .trim()
            .parse()
            .expect("a number")
    };
    let lib = library();
    // Least of several: other work on the machine only ever adds.
    let (plain, ours) = (0..5).fold((f64::MAX, f64::MAX), |(p, o), _| {
        (p.min(ns(None)), o.min(ns(Some(&lib))))
    });
    println!("a read of a pipe: {plain:.1} ns, under the library {ours:.1} ns");
    let debug = cfg!(debug_assertions) && std::env::var_os(LIBRARY_ENV).is_none();
    let most = if debug { 200.0 } else { 20.0 };
    assert!(
        ours - plain < most,
        "the library adds {:.1} ns to a read of a pipe",
        ours - plain
    );
}

/// A second library would be searched for, mapped and relocated in every program that starts, and copied by its forks.
#[test]
fn the_library_needs_no_other_than_libc() {
    let out = Command::new("readelf")
        .args(["-dW"])
        .arg(library())
        .output()
        .expect("readelf");
    assert!(out.status.success(), "readelf: {out:?}");
    let text = String::from_utf8_lossy(&out.stdout);
    let needed: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("(NEEDED)"))
        .filter_map(|l| l.split(['[', ']']).nth(1))
        .collect();
    assert!(needed.contains(&"libc.so.6"), "{text}");
    // The dynamic linker itself is there in any case.
    let others = |n: &&&str| **n != "libc.so.6" && !n.starts_with("ld-linux");
    assert_eq!(needed.iter().find(others), None, "{text}");
}
