//! CPython's own tests (Debian's `libpython3.11-testsuite`), a module at a time.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use flyover_e2e::lab::{Host, Lab};
use flyover_e2e::runner::Case;

use super::{Results, both, case, compare, written};

/// A module, whether it is quick, and tests that are not run.
struct Module(&'static str, bool, &'static [&'static str]);

const MODULES: &[Module] = &[
    // VSOCK has no namespaces: the two runs meet there.
    Module("test_socket", false, &["VSOCK"]),
    Module("test_select", true, &[]),
    Module("test_poll", false, &[]),
    Module("test_epoll", true, &[]),
    Module("test_selectors", false, &[]),
    Module("test_asyncore", true, &[]),
    Module("test_asynchat", true, &[]),
    Module("test_socketserver", true, &[]),
    Module("test_ftplib", false, &[]),
    Module("test_telnetlib", true, &[]),
    Module("test_poplib", false, &[]),
    Module("test_smtplib", true, &[]),
    Module("test_imaplib", false, &[]),
    Module("test_nntplib", true, &[]),
    Module("test_httplib", true, &[]),
    Module("test_httpservers", true, &[]),
    Module("test_urllib2_localnet", true, &[]),
    Module("test_xmlrpc", false, &[]),
    Module("test_wsgiref", true, &[]),
    Module("test_ssl", false, &[]),
    Module("test_signal", false, &[]),
    Module("test_threadsignals", false, &[]),
    Module("test_eintr", false, &[]),
    Module("test_fork1", false, &[]),
    Module("test_subprocess", false, &[]),
    Module("test_logging", false, &[]),
    Module("test_multiprocessing_fork", false, &[]),
    Module("test_multiprocessing_forkserver", false, &[]),
    Module("test_asyncio.test_base_events", true, &[]),
    Module("test_asyncio.test_buffered_proto", true, &[]),
    Module("test_asyncio.test_events", false, &[]),
    Module("test_asyncio.test_selector_events", true, &[]),
    Module("test_asyncio.test_sendfile", false, &[]),
    Module("test_asyncio.test_server", true, &[]),
    Module("test_asyncio.test_sock_lowlevel", false, &[]),
    Module("test_asyncio.test_ssl", false, &[]),
    Module("test_asyncio.test_sslproto", true, &[]),
    Module("test_asyncio.test_streams", true, &[]),
    Module("test_asyncio.test_subprocess", false, &[]),
    Module("test_asyncio.test_unix_events", true, &[]),
];

/// What one run of a module may take.
const LIMIT: Duration = Duration::from_secs(280);

pub fn cases(cases: &mut Vec<Case>, only_quick: bool) {
    for module in MODULES.iter().filter(|m| m.1 || !only_quick) {
        let name = module.0.replace("test_asyncio.test_", "asyncio.");
        let name = format!("python.{}", name.trim_start_matches("test_"));
        cases.push(case(&name, LIMIT * 2, |lab| run(lab, module)));
    }
}

fn run(lab: &Lab, module: &Module) -> Result<()> {
    let [plain, flyover] = both(|host| results(lab, host, module))?;
    compare(&plain, &flyover, || results(lab, Host::Client, module))
}

/// Runs the module; a run that does not end leaves what it has written.
fn results(lab: &Lab, host: Host, module: &Module) -> Result<Results> {
    let directory = lab.directory().join(format!("{host:?}"));
    fs::create_dir_all(&directory)?;
    let output = directory.join("results");
    let _ = fs::remove_file(&output);
    let mut command = lab
        .python(host, "run_unittests.py")
        .arg(&output)
        .arg(module.0)
        .env("TMPDIR", &directory)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    for skip in module.2 {
        command = command.arg(*skip);
    }
    // Whatever the end: the tests' own results count.
    let _ended = command.output(LIMIT);
    written(&output)
}
