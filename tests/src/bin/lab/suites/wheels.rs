//! Tests that Python packages carry (`lab suites wheels`; needs the network).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::lab::{Host, Lab};
use flyover_e2e::runner::Case;

use super::{Results, both, case, compare, written};

/// Its name, what has to be installed, how its tests are run (`run_packages.py`), and which.
struct Wheel(
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static [&'static str],
);

const WHEELS: &[Wheel] = &[
    Wheel(
        "tornado",
        &["tornado==6.6.1"],
        "unittest",
        &[
            "tornado.test.http1connection_test",
            "tornado.test.httpclient_test",
            "tornado.test.httpserver_test",
            "tornado.test.ioloop_test",
            "tornado.test.iostream_test",
            "tornado.test.netutil_test",
            "tornado.test.process_test",
            "tornado.test.simple_httpclient_test",
            "tornado.test.tcpclient_test",
            "tornado.test.tcpserver_test",
            "tornado.test.web_test",
            "tornado.test.websocket_test",
        ],
    ),
    Wheel(
        "trio",
        &["trio==0.35.0", "pytest", "trustme", "pyOpenSSL"],
        "pytest",
        &[
            "trio._tests",
            "trio._core._tests",
            "-p",
            "trio._tests.pytest_plugin",
            "--skip-optional-imports",
            "--ignore-glob=*test_exports*",
            "--ignore-glob=*tools*",
        ],
    ),
    Wheel(
        "twisted",
        &["twisted[tls]==26.10.0"],
        "trial",
        &[
            "twisted.internet.test",
            "twisted.test.test_tcp",
            "twisted.test.test_tcp_internals",
            "twisted.test.test_udp",
            "twisted.test.test_unix",
            "twisted.test.test_process",
            "twisted.test.test_sslverify",
            "twisted.test.test_ssl",
            "twisted.names.test",
            "twisted.web.test",
        ],
    ),
];

/// What installing may take, or one run.
const LIMIT: Duration = Duration::from_secs(400);

pub fn cases(cases: &mut Vec<Case>) {
    for wheel in WHEELS {
        let name = format!("wheels.{}", wheel.0);
        cases.push(case(&name, LIMIT * 4, |lab| run(lab, wheel)));
    }
}

fn run(lab: &Lab, wheel: &Wheel) -> Result<()> {
    let installed = lab.directory().join("installed");
    install(&installed, wheel.1)?;
    let results = |host| results(lab, host, &installed, wheel);
    let [plain, flyover] = both(results)?;
    compare(&plain, &flyover, || results(Host::Client))
}

/// Outside the hosts of the lab, which reach nothing; and outside the system's packages.
fn install(directory: &Path, packages: &[&str]) -> Result<()> {
    let python = || Command::new("/usr/bin/python3");
    if !python()
        .args(["-m", "pip", "--version"])
        .output()?
        .status
        .success()
    {
        let pip = Command::new("apt-get")
            .args(["install", "-y", "-q", "python3-pip"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()?;
        ensure!(
            pip.status.success(),
            "python3-pip: {}",
            String::from_utf8_lossy(&pip.stderr)
        );
    }
    let done = python()
        .args(["-m", "pip", "install", "-q", "--target"])
        .arg(directory)
        .args(packages)
        .output()?;
    ensure!(
        done.status.success(),
        "pip: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

fn results(lab: &Lab, host: Host, installed: &Path, wheel: &Wheel) -> Result<Results> {
    let own = lab.directory().join(format!("{host:?}"));
    fs::create_dir_all(&own)?;
    let output = own.join("results");
    let _ = fs::remove_file(&output);
    let mut command = lab
        .python(host, "run_packages.py")
        .arg(&output)
        .arg(wheel.2)
        .env("PYTHONPATH", installed)
        .env("TMPDIR", &own)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    for name in wheel.3 {
        command = command.arg(*name);
    }
    // Whatever the end: the tests' own results count.
    let _ended = command.output(LIMIT);
    written(&output)
}
