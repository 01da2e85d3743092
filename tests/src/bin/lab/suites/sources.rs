//! libuv's and libevent's own tests, built from Debian's source packages (`lab suites sources`; needs the network).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use flyover_e2e::lab::{Host, Lab};
use flyover_e2e::runner::{Case, scripts};

use super::{Results, both, case, compare};

/// What building or one run may take.
const LIMIT: Duration = Duration::from_secs(400);

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(case("sources", LIMIT * 6, run));
}

fn run(lab: &Lab) -> Result<()> {
    let built = lab.directory().join("built");
    fs::create_dir_all(&built)?;
    // Outside the hosts of the lab, which reach nothing.
    let done = std::process::Command::new("sh")
        .arg(scripts().join("build_suites.sh"))
        .arg(&built)
        .output()?;
    anyhow::ensure!(
        done.status.success(),
        "building: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    for (package, program, words) in [
        ("libuv1-", "run-tests", ""),
        ("libevent-", "test/regress", ""),
    ] {
        let directory = below(&built, package)?;
        let results = |host| results(lab, host, &directory, program, words);
        let [plain, flyover] = both(results)?;
        compare(&plain, &flyover, || results(Host::Client)).context(program)?;
    }
    Ok(())
}

fn below(directory: &Path, start: &str) -> Result<PathBuf> {
    fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_dir() && name.starts_with(start)
        })
        .with_context(|| format!("no {start}"))
}

/// Runs a program of tests in the directory of its sources.
fn results(lab: &Lab, host: Host, directory: &Path, program: &str, words: &str) -> Result<Results> {
    // Files that tests write, and their pipes' names, must not be those of the other host.
    let own = lab.directory().join(format!("{host:?}"));
    let copy = own.join(directory.file_name().unwrap_or_default());
    fs::create_dir_all(&own)?;
    if !copy.exists() {
        lab.plain(host, "cp")
            .arg("-r")
            .arg(directory)
            .arg(&copy)
            .run(LIMIT)?;
    }
    let mut running = lab
        .cmd(host, "sh")
        .arg("-c")
        .arg(format!("cd {} && exec ./{program} {words}", copy.display()))
        .env("UV_RUN_AS_ROOT", "1")
        .env("TMPDIR", &own)
        .spawn()?;
    let until = std::time::Instant::now() + LIMIT;
    while !running.has_ended()? && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = format!("{}\n{}", running.stdout(), running.stderr());
    Ok(text.lines().filter_map(read).collect())
}

/// A line of the Test Anything Protocol (libuv), or of tinytest (libevent).
fn read(line: &str) -> Option<(String, String)> {
    let result = |name: &str, how: &str| Some((name.to_owned(), how.to_owned()));
    if let Some(rest) = line.strip_prefix("ok ") {
        let name = rest.split_once(" - ")?.1;
        return match name.split_once(" # SKIP") {
            Some((name, _)) => result(name, "skipped"),
            None => result(name, "ok"),
        };
    }
    if let Some(rest) = line.strip_prefix("not ok ") {
        return result(rest.split_once(" - ")?.1, "failed");
    }
    let (name, how) = line.split_once(": ")?;
    if !name.contains('/') || name.contains(' ') {
        return None;
    }
    if how.ends_with("OK") {
        result(name, "ok")
    } else if how.contains("SKIPPED") || how.contains("DISABLED") {
        result(name, "skipped")
    } else {
        result(name, "failed")
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn lines_of_both_kinds() {
        let pair = |name: &str, how: &str| Some((name.to_owned(), how.to_owned()));
        assert_eq!(read("ok 3 - tcp_open"), pair("tcp_open", "ok"));
        assert_eq!(read("ok 4 - fs_x # SKIP no such"), pair("fs_x", "skipped"));
        assert_eq!(read("not ok 5 - udp"), pair("udp", "failed"));
        assert_eq!(read("http/basic: [forking] OK"), pair("http/basic", "ok"));
        assert_eq!(read("ssl/x: SKIPPED"), pair("ssl/x", "skipped"));
        assert_eq!(read("# a comment"), None);
    }
}
