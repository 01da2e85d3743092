//! memcached with two threads, checked by a Python client that compares every value.

use std::time::Duration;

use anyhow::Result;
use flyover_e2e::lab::{Host, Lab, SERVER};
use flyover_e2e::runner::Case;
use flyover_e2e::servers::{MEMCACHED_PORT as PORT, memcached};

use super::each_side;

const LIMIT: Duration = Duration::from_secs(30);

pub fn cases(cases: &mut Vec<Case>) {
    each_side(cases, "memcached.values", values);
}

fn values(lab: &Lab) -> Result<()> {
    let server = memcached(lab)?;
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
