//! nginx (a master and two workers of another user) with wrk and curl: keep-alive, close, 100 MB
//! down and up, a reload under load.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::Proc;
use flyover_e2e::lab::{Host, Lab, SERVER, Side, ensure_equal};
use flyover_e2e::pattern::{sha256, write_file};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{nginx, www};
use flyover_e2e::tools::wrk;
use rustix::process::Signal;

use super::{each_side, on_pair, with_options};

const LIMIT: Duration = Duration::from_secs(30);
const BIG: usize = 100_000_000;

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "nginx.curl", requests);
    each_side(cases, "nginx.wrk", load);
    cases.push(on_pair("nginx.wrk", Side::Both, load).only_flyover());
    each_side(cases, "nginx.100mb", transfers);
    let xdp = &["--vnic", "xdp"];
    cases.push(with_options("nginx.100mb.xdp", Side::Server, xdp, transfers).only_flyover());
    cases.push(on_pair("nginx.reload", Side::Server, reload));
}

fn stop(server: Proc) -> Result<()> {
    server.stop(LIMIT)?.success().map(|_| ())
}

/// Requests of one connection, and a connection for each request.
fn requests(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let watch = lab.watch_kernel()?;
    let urls = format!("http://{SERVER}/ ").repeat(5);
    let report = "%{http_code} %{size_download} %{num_connects}\\n";
    for (header, connects) in [("Connection: keep-alive", 1), ("Connection: close", 5)] {
        let output = lab
            .cmd(Host::Client, "curl")
            .args("-s -o /dev/null -o /dev/null -o /dev/null -o /dev/null -o /dev/null")
            .arg("-H")
            .arg(header)
            .arg("-w")
            .arg(report)
            .args(&urls)
            .run(LIMIT)?
            .stdout;
        let mut opened = 0;
        for line in output.lines() {
            let rest = line
                .strip_prefix("200 1024 ")
                .with_context(|| format!("{line:?}"))?;
            opened += rest.trim().parse::<u32>()?;
        }
        ensure_equal("responses", output.lines().count(), 5)?;
        ensure_equal(header, opened, connects)?;
    }
    let missing = lab
        .cmd(Host::Client, "curl")
        .args("-s -o /dev/null -w %{http_code}");
    let code = missing
        .arg(format!("http://{SERVER}/missing"))
        .run(LIMIT)?
        .stdout;
    ensure_equal("status of a missing file", code.as_str(), "404")?;
    let v6 = lab
        .cmd(Host::Client, "curl")
        .args("-s -o /dev/null -w %{http_code}");
    let code = v6
        .arg(format!("http://[{}]/", flyover_e2e::lab::SERVER6))
        .run(LIMIT)?
        .stdout;
    ensure_equal("status over IPv6", code.as_str(), "200")?;
    watch.ensure_tcp_bypassed()?;
    stop(server)
}

fn load(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let watch = lab.watch_kernel()?;
    let url = format!("http://{SERVER}/");
    wrk(lab, 50, 2, &url, "")?;
    lab.ensure_accelerated(Host::Server, Proto::Tcp, 80)?;
    wrk(lab, 20, 2, &url, "Connection: close")?;
    watch.ensure_tcp_bypassed()?;
    stop(server)
}

/// 100 MB down and up, compared by hash.
fn transfers(lab: &Lab) -> Result<()> {
    let server = nginx(lab)?;
    let watch = lab.watch_kernel()?;
    let file = www(lab).join("big");
    write_file(&file, BIG, 2)?;
    let sum = sha256(&file)?;
    let copy = lab.directory().join("copy");
    lab.cmd(Host::Client, "curl")
        .args("-s -S -f -o")
        .arg(&copy)
        .arg(format!("http://{SERVER}/big"))
        .run(LIMIT)?;
    ensure_equal("hash of the download", sha256(&copy)?, sum.clone())?;
    lab.cmd(Host::Client, "curl")
        .args("-s -S -f -T")
        .arg(&file)
        .arg(format!("http://{SERVER}/upload/big"))
        .run(LIMIT)?;
    ensure_equal(
        "hash of the upload",
        sha256(&www(lab).join("upload/big"))?,
        sum,
    )?;
    watch.ensure_tcp_bypassed()?;
    stop(server)
}

/// SIGHUP makes new workers with the same listeners; no request fails.
fn reload(lab: &Lab) -> Result<()> {
    let mut server = nginx(lab)?;
    let loads = lab
        .cmd(Host::Client, "wrk")
        .args("-t1 -c10 -d4s -H")
        .arg("Connection: close")
        .arg(format!("http://{SERVER}/"))
        .spawn()?;
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        server.signal(Signal::HUP);
    }
    let report = loads.finish(LIMIT)?.success()?.stdout;
    ensure!(
        !report.contains("Non-2xx") && !report.contains("Requests/sec:      0"),
        "requests failed during a reload\n{report}"
    );
    server.ensure_running()?;
    let output = lab
        .cmd(Host::Client, "curl")
        .args("-s -f")
        .arg(format!("http://{SERVER}/"));
    ensure_equal(
        "bytes after the reloads",
        output.run(LIMIT)?.stdout.len(),
        1024,
    )?;
    stop(server)
}
