//! memcached with two threads, checked by a Python client that compares every value.

use std::time::Duration;

use anyhow::Result;
use flyover_e2e::lab::{Host, Lab, SERVER};
use flyover_e2e::procfs::Proto;
use flyover_e2e::runner::Case;

use super::each_side;

const PORT: u16 = 11211;
const LIMIT: Duration = Duration::from_secs(30);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "memcached.values", values);
}

fn values(lab: &Lab) -> Result<()> {
    let mut server = lab
        .cmd(Host::Server, "memcached")
        .args(&format!(
            "-u root -l 0.0.0.0 -p {PORT} -U {PORT} -m 128 -t 2"
        ))
        .spawn()?;
    lab.wait_for_port(Proto::Tcp, PORT, &mut server)?;
    let watch = lab.watch_kernel()?;
    lab.python(Host::Client, "memcached_check.py")
        .args(&format!("{SERVER} {PORT}"))
        .run(LIMIT)?;
    watch.ensure_tcp_bypassed()?;
    watch.ensure_udp_bypassed()?;
    server.signal(rustix::process::Signal::TERM);
    server.finish(LIMIT)?;
    Ok(())
}
